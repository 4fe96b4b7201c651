"""One declaration per option: configs, help and checks agree with it, and mistakes are named."""

import dataclasses
import json
import math
import re
import typing

import ml_collections
import pytest
import small
from configured import build, config

from configs import base
from fjt import flags
from fjt.core import options, settings
from fjt.core.errors import UserError


def fields_of(cls, prefix=""):
    """{dotted key: type} of a settings dataclass."""
    found = {}
    for name, kind in typing.get_type_hints(cls).items():
        nested = dataclasses.is_dataclass(kind)
        found |= fields_of(kind, f"{prefix}{name}.") if nested else {prefix + name: kind}
    return found


FIELDS = fields_of(options.ExperimentConfig) | fields_of(options.ExecutionConfig)
CHOICES = {key: one.choices for key, one in options.OPTIONS.items() if one.choices}
RANGES = {key: (one.low, one.high) for key, one in options.OPTIONS.items() if one.low is not None}


def test_base_config_and_dataclasses_have_the_same_keys_values_and_types():
    made = base.get_config()
    flat = options.flatten(made)
    assert flat.keys() == FIELDS.keys()
    assert options.flatten(settings.to_dict(settings.from_config(made))) == flat
    for key, kind in FIELDS.items():
        *parents, last = key.split(".")
        node = made
        for parent in parents:
            node = node[parent]
        optional = kind not in (str, int, float, bool, tuple)
        assert (flat[key] is None) == optional, key
        assert node.get_type(last) is (typing.get_args(kind)[0] if optional else kind), key


def test_settings_without_a_config_are_the_defaults():
    assert options.Settings() == settings.from_config(base.get_config())


def test_help_shows_every_option_with_its_default_meaning_and_allowed_values():
    lines = flags.keys_help().splitlines()[3:]
    assert [line.split()[0] for line in lines[::2]] == list(options.OPTIONS)
    for key, default, about in zip(options.OPTIONS, lines[::2], lines[1::2], strict=True):
        one = options.OPTIONS[key]
        assert default.endswith(f" = None ({one.kind.__name__})" if one.default is None else f" = {one.default!r}")
        assert about.strip().startswith(one.doc) and one.allowed in about
        assert len(one.doc) > 15 and not one.doc.endswith("."), key
    assert "one of adamw, adam" in "\n".join(lines) and "between 0.0 and 0.99" in "\n".join(lines)


def test_config_json_reads_back():
    made = build(tune__method=("top_k",), tune__layers=1, optim__learning_rate=1e-3, loss__class_weights=(1, 2.5))
    assert settings.from_config(json.loads(json.dumps(settings.to_dict(made)))) == made
    assert settings.from_config(ml_collections.ConfigDict(settings.to_dict(made))) == made


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().experiment.optim.name = "sgd"


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_an_unknown_key_names_the_nearest(key):
    """Each key with a letter too many."""
    with pytest.raises(UserError) as caught:
        build(**{f"{key}x".replace(".", "__"): 1})
    message = str(caught.value)
    assert f"config.{key}x is not an option" in message and "Did you mean" in message
    suggested = message.split("Did you mean ")[1].rstrip("?").split(" or ")
    tables = {key.rsplit(".", depth)[0] for key in FIELDS for depth in (1, 2)}
    assert key in suggested and set(suggested) <= set(FIELDS) | tables


def test_an_unknown_table_names_the_nearest():
    with pytest.raises(UserError, match=r"config\.optm is not an option.*Did you mean.*\boptim\b"):
        settings.from_config(config() | {"optm": {"name": "adamw"}})


def test_a_missing_key_or_table_is_named():
    made = config()
    del made["optim"]["power"]
    with pytest.raises(UserError, match=r"config\.optim\.power is missing"):
        settings.from_config(made)
    for table in ("optim", "mesh"):
        made = config()
        del made[table]
        with pytest.raises(UserError, match=rf"config\.{table}\b.* is missing"):
            settings.from_config(made)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("train__batch_size", "32", "int"),
        ("train__batch_size", 32.0, "int"),
        ("train__batch_size", True, "int"),
        ("train__packing", 1, "bool"),
        ("optim__learning_rate", "1e-3", "float"),
        ("optim__clip_norm", True, "float"),
        ("tune__method", "lora", "tuple"),
        ("task", None, "str"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, kind):
    with pytest.raises(UserError) as caught:
        build(**{key: value})
    assert f"config.{key.replace('__', '.')}={value!r}" in str(caught.value) and kind in str(caught.value)


def test_numbers_and_lists_are_converted():
    made = build(optim__clip_norm=2, tune__method=["top_k"], data__holdout=0)
    assert made.experiment.optim.clip_norm == 2.0 and isinstance(made.experiment.optim.clip_norm, float)
    assert made.experiment.tune.method == ("top_k",)


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_choices(key):
    for value in CHOICES[key]:
        build(optim__final_fraction=0.1, optim__learning_rate=1e-3, **{key.replace(".", "__"): value})
    wrong = CHOICES[key][0] + "x"
    with pytest.raises(UserError) as caught:
        build(**{key.replace(".", "__"): wrong})
    assert f"config.{key}={wrong!r}" in str(caught.value) and CHOICES[key][0] in str(caught.value)


@pytest.mark.parametrize("key", sorted(RANGES))
def test_ranges(key):
    low, high = RANGES[key]
    real = float in (FIELDS[key], *typing.get_args(FIELDS[key]))
    outside = [low - 1] + ([high + 1e-3] if high is not None else []) + ([math.nan] if real else [])
    for value in outside:
        with pytest.raises(UserError) as caught:
            build(**{key.replace(".", "__"): value})
        assert f"config.{key}={float(value) if real else value!r}" in str(caught.value)
    for value in (low, high):
        if value is not None:
            build(**{key.replace(".", "__"): value})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e39])
def test_a_number_that_float32_does_not_hold_is_refused(value):
    real = [key for key, kind in FIELDS.items() if float in (kind, *typing.get_args(kind))]
    assert "tune.alpha" in real and "optim.weight_decay" in real
    for key in real:
        with pytest.raises(UserError, match=rf"config\.{key}=.* should be finite"):
            build(**{key.replace(".", "__"): value})
    for key, whole in (("optim__multipliers", (("head/", value),)), ("loss__class_weights", (1.0, value))):
        with pytest.raises(UserError, match="should be finite"):
            build(**{key: whole})


def test_a_strength_without_a_default_names_a_published_value_to_start_from():
    keys = (
        *("loss.focal", "loss.r_drop", "loss.mixup", "loss.label_smoothing"),
        *("train.ema", "train.swa", "distill.temperature"),
    )
    for key in keys:
        assert re.search(r"; start with [0-9.]+.* \([A-Z]\w+ et al\. [0-9]{4}", options.OPTIONS[key].doc), key


def test_durations_are_given_once():
    with pytest.raises(UserError, match=r"config\.train\.epochs and config\.train\.steps are both set"):
        build(train__epochs=1, train__steps=5)
    with pytest.raises(UserError, match=r"config\.eval\.every_epochs and config\.eval\.every_steps are both set"):
        build(eval__every_epochs=1, eval__every_steps=5)


def test_seeds():
    for value in (-1, 2**32):
        for key in ("seed", "seeds__data"):
            with pytest.raises(UserError, match=rf"{value} should be between 0 and"):
                build(**{key: value})
    build(seed=2**32 - 1)
    seeds = settings.resolve_seeds(build(seed=7, seeds__data=0)).experiment.seeds
    assert (seeds.init, seeds.data, seeds.dropout, seeds.subset) == (7, 0, 7, 0)


CONTENTS = {"data": "d", "weights": "w", "tokenizer": "t"}

# Where things lie, and `seed`, which acts through the three seeds that it sets.
WITHOUT_EFFECT = {
    "data.synonyms", "tune.schedule_file",
    "data.source", "data.dir", "data.manual_dir", "data.files.train", "data.files.dev", "data.files.test",
    "data.tables", "model.path", "model.revision", "model.name", "model.adapter", "model.scratch.vocab", "seed",
    "distill.runs",
}  # fmt: skip


def other(value, kind):
    """A value of a field's type that differs from the given one."""
    if value is None:
        kind = typing.get_args(kind)[0]
        return {bool: True, int: 3, float: 0.25, str: "x"}[kind]
    if isinstance(value, bool):
        return not value
    return (*value, "x") if isinstance(value, tuple) else value + {int: 1, float: 0.25, str: "x"}[type(value)]


def replaced(node, key, change):
    name, _, rest = key.partition(".")
    value = replaced(getattr(node, name), rest, change) if rest else change(getattr(node, name))
    return dataclasses.replace(node, **{name: value})


@pytest.mark.parametrize("key", sorted(fields_of(options.ExperimentConfig)))
def test_fingerprint_changes_exactly_when_the_experiment_does(key):
    experiment = build().experiment
    changed = replaced(experiment, key, lambda value: other(value, FIELDS[key]))
    assert changed != experiment
    same = settings.fingerprint(changed, CONTENTS) == settings.fingerprint(experiment, CONTENTS)
    assert same == (key in WITHOUT_EFFECT)


def test_fingerprints_are_those_of_earlier_versions():
    """Or finished work directories would be refused."""
    assert settings.fingerprint(build().experiment, CONTENTS) == (
        "4b5b014696cfb32d23dbc3a0c086e053b173db2daf77bf6b4ad99ad5ca5e1228"
    )
    changes = dict(tune__method=("lora",), optim__learning_rate=5e-4, tune__rank=4, data__limit=100, seed=3)
    made = settings.resolve_seeds(build(tune__sites=("query", "value"), eval__test=False, data__dir="x", **changes))
    assert settings.fingerprint(made.experiment, CONTENTS) == (
        "8bdd7841e489e9714eef85095ad5fc7950b95e7adebed7dad200d551e85ec5a0"
    )


def test_fingerprint_is_stable_and_over_contents():
    experiment = build().experiment
    assert settings.fingerprint(experiment, CONTENTS) == settings.fingerprint(build().experiment, dict(CONTENTS))
    for name in CONTENTS:
        assert settings.fingerprint(experiment, CONTENTS | {name: "x"}) != settings.fingerprint(experiment, CONTENTS)
    read = settings.from_config(json.loads(json.dumps(settings.to_dict(build()))))
    assert settings.fingerprint(read.experiment, CONTENTS) == settings.fingerprint(experiment, CONTENTS)
    tune = small.double(options.TuneConfig, **vars(experiment.tune) | {"ranks": None})
    unset = replaced(experiment, "tune", lambda _: tune)  # as a config of a version without the option
    assert settings.fingerprint(unset, CONTENTS) == settings.fingerprint(experiment, CONTENTS)
    for changes in ({"mesh__data": 2}, {"checkpoint__keep": 3}, {"log__every_steps": 1}, {"cache__dir": "x"}):
        assert settings.fingerprint(build(**changes).experiment, CONTENTS) == settings.fingerprint(experiment, CONTENTS)


@pytest.mark.parametrize("name", ["sgd", "lamb", "optax:adagrad", "optax:adadelta"])
def test_an_optimizer_of_another_scale_needs_its_rate(name):
    with pytest.raises(UserError, match=rf"optim\.name={name}.*give --config\.optim\.learning_rate"):
        build(optim__name=name)
    assert build(optim__name=name, optim__learning_rate=0.1).experiment.optim.learning_rate == 0.1


NO_PATHS = {"data.source", "data.tables", "model.revision", "model.name", "distill.runs"}  # places all the same


@pytest.mark.parametrize("key", [key for key, one in options.OPTIONS.items() if one.path])
def test_a_path_has_its_home_expanded_and_is_no_address(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert options.OPTIONS[key].parse("~/a b") == "/home/me/a b"
    assert options.OPTIONS[key].parse("a/~b") == "a/~b"
    assert options.OPTIONS[key].parse("") == ""
    with pytest.raises(UserError, match=rf"config\.{key}=hdfs://a/b: fjt reads and writes files of this machine only"):
        options.OPTIONS[key].parse("hdfs://a/b")


def test_every_place_is_a_path_but_for_names():
    assert {key for key, one in options.OPTIONS.items() if one.path} == (set(options.PATHS) - NO_PATHS) | {"cache.dir"}
