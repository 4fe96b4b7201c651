"""Runs on a rebalanced training set: classes drawn by shares, and synthetic examples of cached features."""

import json
import re
import signal

import pytest
from process import SignalInStep, finish, outcome, start, tiny

SHARES = dict(train__class_shares=("balanced",), tune__method="lora", optim__learning_rate=1e-2)
SMOTE = dict(train__smote="smote", tune__method="head", cache__hidden=True, optim__learning_rate=1e-2)
AUGMENT = SHARES | dict(data__augment=(("delete", 0.2), ("noise", 0.1)), data__folds=3, data__fold=1)


@pytest.fixture(scope="module")
def skewed(tables, tmp_path_factory):
    """The tables with a third of the training rows of one label left out."""
    folder = tmp_path_factory.mktemp("skewed")
    for name in ("dev", "test"):
        (folder / f"{name}.csv").write_bytes((tables / f"{name}.csv").read_bytes())
    header, *rows = (tables / "train.csv").read_text().splitlines()
    rare = [row for row in rows if row.endswith(",unacceptable")][::3]
    (folder / "train.csv").write_text("\n".join([header, *(r for r in rows if r.endswith(",acceptable")), *rare, ""]))
    return folder


EVERY = AUGMENT | SMOTE | dict(train__class_shares=(2, 1), train__swa=0.95)  # the mean begins before the stop
SLOWER = [pytest.param(options, marks=pytest.mark.slow) for options in (SMOTE, SHARES, AUGMENT)]


@pytest.mark.parametrize("options", [EVERY, *SLOWER], ids=["every", "smote", "shares", "augment"])
def test_a_stopped_run_goes_on_to_the_same_bits(options, skewed, finished, cache, launch, tmp_path):
    options = options | dict(model__path=finished[0] / "export", cache__dir=tmp_path / "cache")
    done = launch(*tiny(skewed, **options), "--workdir", tmp_path / "whole")
    assert done.code == 0, done.text
    arguments = [*tiny(skewed, **options), "--workdir", tmp_path / "run"]
    process = start(arguments, tmp_path / "output", cache=cache, events=SignalInStep(4, signal.SIGTERM))
    assert finish(process, tmp_path / "output").code == 143
    done = launch(*arguments)
    assert done.code == 0 and "resuming after step 5" in done.text, done.text
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    made = json.loads((tmp_path / "run" / "result.json").read_text()).get("synthetic_examples")
    assert bool(made) == ("train__smote" in options) == ("synthetic training examples" in done.text)
    told = re.search(r"(\d+) train.*\n(?:.*\n)?.*changed copies in train by config.data.augment: (\d+)", done.text)
    assert bool(told) == ("data__augment" in options) and (not told or int(told[1]) == 2 * int(told[2]))
    if made:
        (common, rare) = re.search(r"classes: acceptable (\d+), unacceptable (\d+)", done.text).groups()
        assert made == {"unacceptable": int(common) - int(rare)}  # the classes are equally frequent then
        assert f"by config.train.smote: unacceptable {made['unacceptable']}" in done.text


def test_synthetic_features_need_cached_ones(skewed, finished, launch, tmp_path):
    options = SMOTE | dict(tune__method="lora", cache__hidden=None, model__path=finished[0] / "export")
    done = launch(*tiny(skewed, **options), "--workdir", tmp_path / "run")
    assert done.code == 2 and "needs config.tune.method=head" in done.text, done.text


@pytest.mark.thorough
def test_a_study_and_a_plan_of_synthetic_features(skewed, finished, launch, tmp_path):
    options = SMOTE | dict(model__path=finished[0] / "export", cache__dir=tmp_path / "cache")
    done = launch(*tiny(skewed, **options), "--workdir", tmp_path / "run", "--plan")
    assert done.code == 0 and "computed tokens are real" in done.text, done.text
