"""Phases of a config and of a schedule file: when parameters open, and lines that are none."""

import pytest
import small

from fjt.core.errors import UserError
from fjt.tuning import partition, phases

NAMES = frozenset({"encoder/embeddings/word", *(f"encoder/layer_{i}/kernel" for i in range(12)), "head/kernel"})
FILE = """\
# The head first.
head/            epochs=1.5
layer_1[01]/ layer_9/   rate=0.5   # two halves
head/            rate=0.25
layer_[0-8]/     epochs=2
.*
"""


def test_a_file_opens_what_its_lines_name(tmp_path):
    """Of 100 steps of 10 an epoch 15 and 20 are given; three phases share the others."""
    (tmp_path / "phases.txt").write_text(FILE)
    tune = small.tune("gradual", schedule_file=str(tmp_path / "phases.txt"))
    tune = phases.read_into(tune, str(tmp_path / "phases.txt"))
    assert tune.stages[1] == (("layer_1[01]/", "layer_9/"), 0.0, 0.5) and tune.schedule_file is None
    methods = partition.find_methods(tune)
    lacked = {"encoder/layer_0/kernel"}
    stages = partition.stages(methods, NAMES, lacked, 12, 100, 10)
    assert [first for first, _, _ in stages] == [0, 15, 37, 58, 78]
    assert [factor for *_, factor in stages] == [1.0, 0.5, 0.25, 1.0, 1.0]
    top = {"head/kernel", "encoder/layer_0/kernel"}, {f"encoder/layer_{i}/kernel" for i in (9, 10, 11)}
    assert stages[0][1] == top[0]
    assert stages[1][1] == stages[2][1] == top[0] | top[1]
    assert stages[3][1] == NAMES - {"encoder/embeddings/word"} and stages[4][1] == NAMES
    assert [first for first, _, _ in partition.stages(methods, NAMES, (), 12, 30, 10)] == [0, 15]  # the run is short


def test_what_no_phase_names_stays_frozen_but_for_the_head():
    config, params = small.CONFIG, small.base()
    tune = small.tune("gradual", stages=((("layer_1/",), 1.0, 1.0), (("layer_0/query/",), 0.0, 1.0)))
    trains = partition.trainable_names(params, config, tune, ())
    assert {name.rsplit("/", 1)[0] for name in trains if "layer_0" in name} == {"encoder/layer_0/query"}
    assert not any("embeddings" in name for name in trains)
    first = partition.stages(partition.find_methods(tune), trains, (), 2, 20, 5)[0][1]
    assert {name for name in trains if name.startswith("head/")} < first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("head/\nlayer_1/ epoch=1", r"line 2: 'epoch=1' should be epochs=NUMBER or rate=NUMBER"),
        ("head/ rate=1 rate=2", r"line 1: 'rate=2' should be .* each once"),
        ("\n# none\nlayer_1/ epochs=two", r"line 3: 'epochs=two' should be a number"),
        ("head/\nlayer_(/", r"line 2: 'layer_\(/' is not a regular expression"),
        ("head/\nepochs=1", r"line 2: \(\) should be regular expressions"),
        ("head/ rate=-1", r"line 1: rate=-1.0 should be finite and at least 0"),
        ("head/ epochs=inf", r"line 1: epochs=inf should be finite"),
        ("# none", "has no phase"),
        (b"\xff", "cannot be read: it is not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, words):
    path = tmp_path / "phases.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words):
        phases.read(str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": ((("head/",), 1),)}, r"phase 1: \(\('head/',\), 1\) should be patterns, epochs and a factor"),
        ({"stages": (("head/", 1, 1.0),)}, r"phase 1: .* should be patterns"),
        ({"stages": ((("head/",), 1, 1.0),)}, r"last phase .* not 1 epochs"),
        ({"stages": ((("head/",), 0, 1.0),), "stage_rates": (0.5,)}, r"stage_rates=\(0.5,\): the phases"),
        ({"stages": ((("head/",), 0, 1.0),), "stage_epochs": 1.0}, r"stage_epochs=1.0: the phases"),
    ],
)
def test_phases_that_are_none(options, words):
    with pytest.raises(UserError, match=words):
        partition.check(partition.find_methods(small.tune("gradual", **options)), small.CONFIG, 24)


def test_a_pattern_of_nothing_and_one_in_pytorchs_names():
    for pattern, words in (
        ("layer_7/", "tune.stages: the pattern 'layer_7/' matches no"),
        (r"attention\.self\.", "PyTorch"),
    ):
        tune = small.tune("gradual", stages=(((pattern,), 0, 1.0),))
        with pytest.raises(UserError, match=words):
            partition.trainable_names(small.base(), small.CONFIG, tune, ())


def test_a_file_and_phases_are_given_once():
    with pytest.raises(UserError, match="are both given"):
        phases.read_into(small.tune("gradual", stages=((("head/",), 0, 1.0),)), "phases.txt")
    with pytest.raises(UserError, match=r"phases.txt cannot be read: No such file"):
        phases.read("phases.txt")
