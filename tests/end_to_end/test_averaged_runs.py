"""Runs with averages of weights, penalties, R-Drop and a teacher: stopped, resumed, exported."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest
from process import SignalInStep, finish, keeps_its_model, outcome, predicts_as_it_was, read_rows, start, tiny

OPTIONS = dict(
    loss__focal=1.5,
    loss__r_drop=2.0,
    loss__mixup=1.0,
    optim__l1=1e-3,
    optim__decay_toward="start",
    optim__weight_decay=0.1,
    train__ema=0.8,
    optim__plateau_patience=1,
    optim__plateau_factor=0.25,
    eval__every_epochs=None,
    eval__every_steps=2,
)


@pytest.fixture(scope="module")
def taught(tables, finished):
    """The arguments of the run, whose teacher is another one."""
    return tiny(tables, **OPTIONS, distill__runs=f"('{finished[0]}',)", distill__weight=0.7, distill__hidden=0.5)


@pytest.fixture(scope="module")
def whole(launch, taught, tmp_path_factory):
    """The work directory of the undisturbed run."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    done = launch(*taught, "--workdir", workdir)
    assert done.code == 0 and "predicting 96 training rows" in done.text and "learned from" in done.text, done.text
    return workdir


def test_a_stopped_run_goes_on_to_the_same_bits(whole, taught, cache, launch, tmp_path):
    arguments = [*taught, "--workdir", tmp_path / "run"]
    process = start(arguments, tmp_path / "output", cache=cache, events=SignalInStep(5, signal.SIGTERM))
    assert finish(process, tmp_path / "output").code == 143
    done = launch(*arguments)
    assert done.code == 0 and "resuming after step" in done.text, done.text
    assert outcome(tmp_path / "run") == outcome(whole) and "predicting" not in done.text
    rates, again = (
        [row["learning_rate"] for row in read_rows(one / "train.jsonl")] for one in (whole, tmp_path / "run")
    )
    assert rates == again and rates[4] < 0.25 * rates[3]  # no score is better than the first


def test_a_run_is_compared_with_its_teacher(whole, finished):
    result, teacher = (json.loads((folder / "result.json").read_text()) for folder in (whole, finished[0]))
    (row,) = result["teachers"]
    assert row["run"] == str(finished[0]) and result["teacher_seconds"] > 0
    assert {name: teacher[name] for name in ("metrics", "total_params")} == {
        name: row[name] for name in ("metrics", "total_params")
    }
    with np.load(whole / "teacher.npz") as arrays:
        assert arrays["teacher"].shape == (96, 2) and arrays["teacher_vectors"].shape == (96, 32)


def test_what_is_exported_is_what_was_evaluated(whole, tables):
    with open(tables / "dev.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    predicts_as_it_was(whole, texts)
    keeps_its_model(whole)


@pytest.mark.slow
def test_an_average_of_the_last_step_alone_is_that_step(launch, tables, tmp_path):
    """swa over a share that holds one step changes nothing; over all steps it does."""
    scores = {}
    for name, options in {"plain": {}, "one": {"train__swa": 0.01}, "all": {"train__swa": 1.0}}.items():
        done = launch(*tiny(tables, **options), "--workdir", tmp_path / name)
        assert done.code == 0, done.text
        with np.load(tmp_path / name / "predictions" / "dev.npz") as arrays:
            scores[name] = arrays["logits"]
    np.testing.assert_allclose(scores["one"], scores["plain"], atol=1e-6)
    assert np.abs(scores["all"] - scores["plain"]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train__ema": 0.9, "train__swa": 0.5}, "two averages"),
        ({"model__dropout__layers": "(0.1,0.2)"}, "should be 1 numbers"),
        ({"optim__decay_toward": "start", "optim__weight_decay": 0.0}, "give one"),
        ({"loss__class_weights": "('effective',)"}, "'effective', beta"),
        ({"loss__mixup": 1.0, "train__accumulation": 2}, "Leave one of them out"),
    ],
)
def test_options_that_contradict_each_other(launch, tables, tmp_path, options, words):
    done = launch(*tiny(tables, **options), "--workdir", tmp_path / "run")
    assert done.code == 2 and words in done.text, done.text


@pytest.mark.slow
def test_a_gradual_run_averages_from_where_leaves_open(launch, tables, whole, tmp_path):
    shutil.copytree(whole / "export", tmp_path / "base")
    options = dict(tune__method="gradual", model__path=tmp_path / "base", train__ema=0.9)
    done = launch(*tiny(tables, **options), "--workdir", tmp_path / "run")
    assert done.code == 0, done.text
    assert json.loads((tmp_path / "run" / "result.json").read_text())["failed"] is None
