"""The runs that a run learns from: which are refused, and what is kept of their predictions."""

import dataclasses

import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.core.options import DataConfig, DistillConfig, ExperimentConfig, TrainConfig
from fjt.core.ragged import Ragged
from fjt.core.records import Damaged
from fjt.data.glue import TASKS, Split
from fjt.experiment import distillation, finished, labelled, run_records
from fjt.experiment.distillation import FILE, taught, with_predictions
from fjt.experiment.finished import Run
from fjt.experiment.prepared import Experiment
from fjt.experiment.teachers import find

TASK = TASKS["cola"]
DEV = Split(("0", "1", "2"), ("a", "b", "c"), None, np.array([1, 0, -1], np.int32))
TRAIN = Split(("0", "1", "2", "3"), ("d", "e", "f", "g"), None, np.array([1, 0, 1, 0], np.int32))
COST = {"model": "m", "method": ["full"], "metrics": {"mcc": 0.5}, "total_params": 7, "train_seconds": 2.0}
RESULT = COST | {"task": "cola", "params_sha256": "p", "export_sha256": {"model.safetensors": "m"}}


@pytest.fixture
def runs(monkeypatch):
    """{folder: [result.json, rows of dev]} of finished runs, which tests change."""
    made = {name: [RESULT, DEV] for name in ("a", "b")}

    def predictions(path, split):
        stored = {"id": np.array(made[path][1].id), "label": made[path][1].label}
        return stored | {"kind": np.array(TASK.kind), "label_names": np.array(TASK.label_names)}

    monkeypatch.setattr(run_records, "read_finished", lambda path: made[path][0])
    monkeypatch.setattr(run_records, "read_predictions", predictions)
    monkeypatch.setattr(run_records, "read_config", lambda path: {"fingerprint": f"of {path}"})
    return made


def found(*given, task=TASK, dev=DEV, **sections):
    return find(ExperimentConfig(distill=DistillConfig(runs=given), **sections), task, {"train": TRAIN, "dev": dev})


def test_the_teachers_of_a_run(runs):
    assert found() is None
    both = found("a", "b")
    assert list(both.runs) == ["a", "b"] and both.train is TRAIN
    assert both.sha256 != found("a").sha256 and both.sha256 == found("a", "b").sha256
    one, _ = both.describe()
    assert one == {"run": "a"} | COST


def test_other_weights_or_settings_of_a_teacher_are_another_experiment(runs, monkeypatch):
    before = found("a").sha256
    runs["a"][0] = RESULT | {"params_sha256": "q"}
    assert found("a").sha256 != before
    runs["a"][0] = RESULT
    monkeypatch.setattr(run_records, "read_config", lambda path: {"fingerprint": "another"})
    assert found("a").sha256 != before


def test_runs_that_cannot_teach_are_refused(runs):
    with pytest.raises(UserError, match="names a run twice"):
        found("a", "a")
    for field, value, what in (
        ("name", "sst2", "task"),
        ("kind", "multi_label", "kind"),
        ("label_names", TASK.label_names[::-1], "labels"),
    ):
        with pytest.raises(UserError, match=f"runs: a differs in its {what}"):
            found("a", task=dataclasses.replace(TASK, **{field: value}))
    for options in (dict(data=DataConfig(shuffle_labels=True)), dict(train=TrainConfig(smote="smote"))):
        with pytest.raises(UserError, match=r"distill\.runs cannot follow"):
            found("a", **options)


def test_a_teacher_without_a_model_is_refused(runs, tmp_path):
    runs["a"][0] = RESULT | {"export_sha256": {}}
    with pytest.raises(UserError, match="runs: a has left no model"):
        found("a")
    (tmp_path / "ensemble.json").touch()
    with pytest.raises(UserError, match=r"is an ensemble\. Give the runs"):
        found(str(tmp_path))


def test_a_teacher_that_may_have_trained_on_the_rows_of_dev_is_refused(runs):
    for dev in (DEV.take([0, 1]), DEV.take([1, 0, 2]), dataclasses.replace(DEV, label=np.array([1, 1, -1], np.int32))):
        runs["b"][1] = dev
        with pytest.raises(UserError, match=r"runs: b has other rows in dev"):
            found("a", "b")
    scores = dataclasses.replace(DEV, label=np.array([0.5, 1.5, np.nan], np.float32))
    runs["a"][1] = scores
    assert found("a", dev=scores)


LOGITS = {"a": np.float32([[0, 1], [2, 0], [1, 1], [0, 3]]), "b": np.float32([[4, 0], [0, 0], [1, 2], [0, 3]])}


@pytest.fixture
def asked(monkeypatch):
    """The names of the runs whose predictions were computed."""
    names = []
    monkeypatch.setattr(finished, "load_run", lambda path: Run(path, RESULT, {}, TASK, False))
    monkeypatch.setattr(labelled, "predict", lambda run, *_: names.append(run.path) or LOGITS[run.path])
    return names


EXAMPLES = small.labelled(TRAIN.label)


def test_predictions_are_computed_once_and_read_again(runs, asked, tmp_path):
    first = with_predictions(found("a"), EXAMPLES, 0, str(tmp_path))
    np.testing.assert_array_equal(first.predicted["teacher"], LOGITS["a"], strict=True)
    again = with_predictions(found("a"), EXAMPLES, 0, str(tmp_path))
    np.testing.assert_array_equal(again.predicted["teacher"], first.predicted["teacher"], strict=True)
    assert again.seconds == first.seconds > 0 and asked == ["a"]
    without = small.double(Experiment, teachers=None)
    assert taught(without, str(tmp_path)) is without


def test_several_teachers_give_the_mean_of_their_probabilities(runs, asked, tmp_path):
    shared = found("a", "b")
    made = with_predictions(shared, EXAMPLES, 0, str(tmp_path)).predicted["teacher"]
    shares = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in LOGITS.values()]
    np.testing.assert_allclose(np.exp(made), np.mean(shares, axis=0), rtol=1e-5)
    with_predictions(shared, EXAMPLES, 0, "")  # of another run of a study
    assert asked == ["a", "b"]


def test_a_damaged_file_is_named_with_what_to_do(runs, asked, tmp_path):
    with_predictions(found("a"), EXAMPLES, 0, str(tmp_path))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-50])
    with pytest.raises(Damaged, match=rf"{FILE} is damaged.*Remove it"):
        with_predictions(found("a"), EXAMPLES, 0, str(tmp_path))
    np.savez(tmp_path / FILE, teacher=LOGITS["a"][:3], seconds=1.0)
    with pytest.raises(Damaged, match="one row per slot"):
        with_predictions(found("a"), EXAMPLES, 0, str(tmp_path))


def test_words_have_the_predictions_of_words():
    """Rows of several windows as well; a row with other words is refused."""
    examples = small.make_words(num=6)
    counts = np.diff(examples.slot_offsets)
    values = np.arange(2 * counts.sum(), dtype=np.float64).reshape(-1, 2)
    rows = Ragged(values, examples.slot_offsets)
    np.testing.assert_array_equal(distillation._of_slots(rows, examples), values.astype(np.float32), strict=True)
    pairs = dataclasses.replace(examples, row_offsets=np.array([0, 2, 4, 6]))
    distillation._of_slots(Ragged(values, examples.slot_offsets[::2]), pairs)
    with pytest.raises(UserError, match="label other places"):
        distillation._of_slots(rows, pairs)


VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_vectors_are_kept_with_the_logits(runs, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(Run, "vectors", lambda run, split: VECTORS)
    monkeypatch.setattr(Run, "width", 3)
    for _ in range(2):
        made = with_predictions(found("a"), EXAMPLES, 3, str(tmp_path)).predicted
        np.testing.assert_array_equal(made["teacher"], LOGITS["a"], strict=True)
        np.testing.assert_array_equal(made["teacher_vectors"], VECTORS, strict=True)
    assert asked == ["a"]
    with pytest.raises(UserError, match=r"of a have 3 dimensions, those of this run 4"):
        with_predictions(found("a"), EXAMPLES, 4, "")
    assert asked == ["a"]  # before anything is predicted


def test_wider_vectors_keep_what_differs_most():
    """Of vectors in a plane, all of it: lengths and angles.  Otherwise as scikit-learn has it."""
    from sklearn.decomposition import TruncatedSVD

    rng = np.random.default_rng(0)
    plane = (rng.normal(size=(20, 2)) @ rng.normal(size=(2, 5))).astype(np.float32)
    made = distillation._reduce(plane, 2)
    np.testing.assert_allclose(made @ made.T, plane @ plane.T, rtol=1e-4, atol=1e-4)
    vectors = rng.normal(size=(30, 6)).astype(np.float32)
    expected = TruncatedSVD(3, algorithm="arpack", random_state=0).fit_transform(vectors.astype(np.float64))
    np.testing.assert_allclose(np.abs(distillation._reduce(vectors, 3)), np.abs(expected), rtol=1e-4, atol=1e-5)
