"""What the tuning runs choose, from records made by hand; what a run made again is said to be."""

import contextlib
import dataclasses
import json
import os

import configured
import made_study
import pytest

from fjt import reproduce
from fjt.core import console
from fjt.core.errors import UserError
from fjt.experiment import again, workdir
from fjt.study import choosing, planner, plans, worker
from fjt.study.spec import Run

ABOUT = made_study.RESULT | {"task": "t", "method": ["head"], "steps": 1, "planned_steps": 1, "epochs": 1.0}
OPEN = (("optim.learning_rate", (1e-4, 1e-3, 1e-2)),)


def chosen(folder, scores, metric, by=""):
    """What is chosen in a cell whose trials, one for each rate, have these scores by seed; None: the run failed."""
    ((key, values),) = OPEN
    runs = {"runs/t/head/seed=0": Run("runs/t/head/seed=0", "runs", "t/head", (("seed", 0),), OPEN)}
    for value, seeds in zip(values, scores, strict=True):
        for seed, score in enumerate(seeds, 1000):
            name = f"tuning/t/head/{key}={value}/seed={seed}"
            runs[name] = Run(name, "tuning", "t/head", ((key, value), ("seed", seed)))
            about = {"failed": "not finite"} if score is None else {"metrics": {metric: score, "f1": 0.0}}
            result = ABOUT | about
            (folder / name).mkdir(parents=True)
            (folder / name / "result.json").write_text(json.dumps(result))
    return choosing.choose(folder, runs, ["t/head"], by)["t/head"]


@pytest.mark.parametrize(
    ("scores", "metric", "value"),
    [
        ([(0.5, 0.6), (0.7, 0.8), (0.9, 0.4)], "accuracy", 1e-3),  # by the mean over seeds, not by the best
        ([(0.5, 0.6), (0.7, 0.6), (0.9, 0.8)], "accuracy", 1e-2),
        ([(0.9, 0.8), (0.7, 0.6), (0.5, 0.6)], "accuracy", 1e-4),
        ([(0.9, 0.8), (0.7, 0.6), (0.5, 0.6)], "mse", 1e-2),  # less is better
        ([(0.5, 0.5), (0.6, 0.5), (0.9, None)], "accuracy", 1e-3),  # a trial that failed once is behind
        ([(None, None), (None, None), (0.1, None)], "accuracy", 1e-2),
        ([(0.4, 0.4), (0.5, 0.5), (0.5, 0.5)], "accuracy", 1e-3),  # of equals the first
    ],
)
def test_the_trial_with_the_best_mean_is_chosen(tmp_path, scores, metric, value):
    assert chosen(tmp_path, scores, metric) == {"optim.learning_rate": value}


@pytest.mark.parametrize(
    ("trials", "value"),
    [
        # A trial that says one thing is behind one that does not, whatever its score; of such trials the better one.
        ([{"f1": 0.78}, {"f1": 0.81, "collapsed": True}, {"f1": 0.5}], 1e-4),
        ([{"f1": 0.78, "collapsed": True}, {"f1": 0.81, "collapsed": True}, {"failed": "not finite"}], 1e-3),
        # The task's selecting metric decides where a result names it, not the first one.
        ([{"f1": 0.80, "accuracy": 0.7}, {"f1": 0.79, "accuracy": 0.8}, {"f1": 0.81, "accuracy": 0.6}], 1e-3),
    ],
)
def test_what_cannot_win_and_what_selects(tmp_path, trials, value):
    ((key, values),) = OPEN
    runs = {"runs/t/head/seed=0": Run("runs/t/head/seed=0", "runs", "t/head", (("seed", 0),), OPEN)}
    for rate, facts in zip(values, trials, strict=True):
        name = f"tuning/t/head/{key}={rate}/seed=0"
        runs[name] = Run(name, "tuning", "t/head", ((key, rate), ("seed", 0)))
        metrics = {name: score for name, score in facts.items() if name in ("f1", "accuracy")}
        result = ABOUT | {"collapsed": False, "selection": list(metrics or ["f1"])[-1], "metrics": metrics}
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").write_text(json.dumps(result | facts))
    assert choosing.choose(tmp_path, runs, ["t/head"])["t/head"] == {key: value}


@pytest.mark.parametrize(
    ("metric", "by", "value"), [("accuracy", "accuracy", 1e-2), ("accuracy", "f1", 1e-4), ("mse", "mse", 1e-4)]
)
def test_the_study_s_metric_chooses(tmp_path, metric, by, value):
    """f1 is 0.0 everywhere: of equals the first."""
    assert chosen(tmp_path, [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)], metric, by) == {"optim.learning_rate": value}


def test_the_time_left_is_by_what_the_plan_expects_and_whoever_ends_runs(tmp_path, monkeypatch):
    """Two runs of 99 seconds and two of 1: one of the former ends here, one of the latter elsewhere."""
    now, said = [0.0], []
    monkeypatch.setattr(console, "say", said.append)
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    bundles = [
        plans.Bundle("0", "runs", "loop", "", (), ("a", "b"), (), 198.0),
        plans.Bundle("1", "runs", "loop", "", (), ("c", "d"), (), 2.0),
    ]
    progress = worker.Progress(console.Silent(), str(tmp_path), bundles)
    for name in ("a", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "DONE").write_text("")
    now[0] = 300.0
    progress.end("a", "accuracy 0.5")
    assert said == ["2/4  a  accuracy 0.5  ETA 5:00"]


def test_a_shard_waits_for_its_groups_and_no_others(tmp_path, monkeypatch):
    """One of its two is held at first, by a process that then dies."""
    names, tried = ("runs/a", "runs/b", "runs/c"), []
    bundles = [plans.Bundle(str(i), "runs", "loop", "", (), (name,), (), 1.0) for i, name in enumerate(names)]

    def try_group(self, bundle):
        tried.append(bundle.id)
        if tried == ["0"]:
            return False
        (tmp_path / bundle.runs[0]).mkdir(parents=True)
        (tmp_path / bundle.runs[0] / "DONE").write_text("")
        return True

    monkeypatch.setattr(worker._Worker, "_try_bundle", try_group)
    monkeypatch.setattr(worker, "POLL", 0.0)
    runs = {name: Run(name, "runs", name[-1], ()) for name in names}
    assert not worker.work(str(tmp_path), {}, runs, bundles, planner.Shared(console.Silent()), own=bundles[::2])
    assert tried == ["0", "2", "0"]


def test_a_group_that_another_process_holds_is_waited_for_and_run_when_that_process_lets_go(tmp_path, monkeypatch):
    """Of its two runs, the other process has ended one."""
    bundle, told = plans.Bundle("0", "runs", "loop", "", (), ("runs/a", "runs/b"), (), 1.0), []
    runs = {name: Run(name, "runs", name[-1], ()) for name in bundle.runs}
    other = contextlib.ExitStack()
    other.enter_context(workdir.lock(tmp_path / "groups" / "0", wait=True))

    def end(name):
        told.append(name)
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "DONE").write_text("")

    def sleep(seconds):
        end("runs/a")
        told.append("released")
        other.close()

    monkeypatch.setattr(worker.time, "sleep", sleep)
    monkeypatch.setattr(worker, "_run_member", lambda member, *_: end(member.name))
    assert worker.work(str(tmp_path), {}, runs, [bundle], planner.Shared(console.Silent()))
    assert told == ["runs/a", "released", "runs/b"]


def test_a_run_that_somebody_trains_alone_keeps_no_other_waiting(tmp_path, monkeypatch):
    """The other member of its bundle, and the bundle after it, come first; who holds it is said."""
    bundles = [
        plans.Bundle("0", "runs", "loop", "", (), ("runs/a", "runs/b"), (), 1.0),
        plans.Bundle("1", "runs", "loop", "", (), ("runs/c",), (), 1.0),
    ]
    runs, told = {name: Run(name, "runs", name[-1], ()) for bundle in bundles for name in bundle.runs}, []
    other = contextlib.ExitStack()
    other.enter_context(workdir.lock(tmp_path / "runs" / "a"))

    def run(member, *_):
        with workdir.lock(member.workdir):
            told.append(member.name)
            (tmp_path / member.name / "DONE").write_text("")

    monkeypatch.setattr(worker.time, "sleep", lambda seconds: other.close())
    monkeypatch.setattr(worker.console, "say", told.append)
    monkeypatch.setattr(worker, "_run_member", run)
    assert worker.work(str(tmp_path), {}, runs, bundles, planner.Shared(console.Silent()))
    assert [*told[:2], told[3]] == ["runs/b", "runs/c", "runs/a"]
    assert (
        told[2].startswith("waiting for 1 bundles that other processes work on: ") and f"({os.getpid()} on" in told[2]
    )


@pytest.mark.parametrize("others", [True, False])
def test_what_a_group_left_that_was_killed_at_its_very_end_goes_with_the_study(tmp_path, others):
    """Its state is kept while runs of others are lacking: only the end of the study tells that nobody writes there."""
    names = ("runs/a", "runs/b")
    bundles = [plans.Bundle(str(i), "runs", "vmap", "", (), (name,), (), 1.0) for i, name in enumerate(names)]
    for name in names if others else names[:1]:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "DONE").write_text("")
    kept = tmp_path / "groups" / "0" / "checkpoints"
    (kept / "12").mkdir(parents=True)
    runs = {name: Run(name, "runs", name[-1], ()) for name in names}
    assert worker.work(str(tmp_path), {}, runs, bundles, planner.Shared(console.Silent()), own=bundles[::2]) == others
    assert kept.exists() != others


def record(sha256, accuracy):
    return {"params_sha256": sha256, "metrics": {"accuracy": accuracy}, "failed": None}


@pytest.mark.parametrize(
    ("now", "losses", "words", "code"),
    [
        (record("a", 0.5), [1.0, 0.5, 0.25], "the same bits", 0),
        (record("b", 0.5), [1.0, 0.5 + 5e-7, 0.25], "the same within tolerance: the first 20 losses within 1.0e-06", 0),
        (record("a", 0.5), [1.0, 0.5, 0.25 + 1e-6], "different, from step 3 on: its loss 0.25 then", 1),
        (
            record("b", 0.4),
            [1.0, 0.6, 0.25],
            "different, from step 2 on: its loss 0.5 then, 0.6 now; accuracy 0.5 then",
            1,
        ),
        (record("b", 0.5), [1.0, 0.5], "different, from step 3 on: its loss 0.25 then, none now", 1),
    ],
)
def test_what_a_run_made_again_is_said_to_be(now, losses, words, code):
    said, found = reproduce.compare(record("a", 0.5), now, [1.0, 0.5, 0.25], losses)
    assert said.startswith(words) and found == code


def test_losses_that_are_not_finite_are_compared_as_well():
    """Of a run that failed at the loss of a step, or that went on because the log has more than its result."""
    before, now = [1.0, None, 0.5], [1.0, None, 0.5 + 5e-7]
    said, code = reproduce.compare(record("a", 0.5), record("b", 0.5), before, now)
    assert said.startswith("the same within tolerance") and code == 0
    said, code = reproduce.compare(record("a", 0.5), record("b", 0.5), before, [1.0, 0.75, 0.5])
    assert said.startswith("different, from step 2 on: its loss not finite then, 0.75 now") and code == 1


NAN, INF = ({"failed": f"the loss of step 3 is {loss}, its gradient's norm nan"} for loss in ("nan", "inf"))


@pytest.mark.parametrize(
    ("before", "now", "losses", "words", "code"),
    [
        (NAN, NAN, [1.0, 0.5], "the same bits, up to where the loss of step 3 is nan", 0),
        (NAN, INF, [1.0, 0.5 + 5e-7], "the same within tolerance: the first 20 losses within 1.0e-06", 0),
        (NAN, NAN, [1.0, 0.6], "different, from step 2 on: its loss 0.5 then, 0.6 now", 1),
        (
            NAN,
            record("a", 0.5),
            [1.0, 0.5, 0.4],
            "different, from step 3 on: its loss none then, 0.4 now; the loss of step 3 is nan, its gradient's norm "
            "nan then, it finished now",
            1,
        ),
        (record("a", 0.5), NAN, [1.0, 0.5], "different, from step 3 on", 1),
        (NAN, NAN, [1.0, None], "different, from step 2 on: its loss 0.5 then, not finite now", 1),
    ],
)
def test_what_a_run_that_failed_is_said_to_be(before, now, losses, words, code):
    said, found = reproduce.compare(before, now, [1.0, 0.5], losses)
    assert said.startswith(words) and found == code


@pytest.mark.parametrize("content", [None, "x"], ids=["missing", "damaged"])
def test_an_environment_that_cannot_be_read_is_told_before_training_and_not_compared(
    tmp_path, monkeypatch, capsys, content
):
    class Prepared(Exception):
        pass

    def prepare(folder, *, keep):
        raise Prepared

    folder = tmp_path / "run"
    made_study.write_run(folder, "runs", "choices", "full", made_study.predictions("choices", 0.9, 0), {})
    monkeypatch.setattr(again, "prepare_again", prepare)
    environment = (folder / "env.json").read_text()
    (folder / "env.json").unlink() if content is None else (folder / "env.json").write_text(content)
    with pytest.raises(Prepared):
        reproduce.reproduce(str(folder), str(tmp_path / "again"))
    assert f"the environments will not be compared: {folder}/env.json is " in "".join(capsys.readouterr())
    (folder / "env.json").write_text(environment)
    reproduce.show_environment({}, str(folder))
    assert not capsys.readouterr().out
    reproduce.show_environment({"device": "another"}, str(folder))
    assert "  device: another then, a processor now\n" in capsys.readouterr().out


def test_a_config_without_the_shapes_of_its_batches_is_not_reproduced(tmp_path, monkeypatch):
    """The run has a config that fjt accepts otherwise."""
    made_study.write_run(tmp_path, "runs", "choices", "full", made_study.predictions("choices", 0.9, 0), {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"config": configured.config()}))
    with pytest.raises(UserError, match=r"config\.json is damaged \('shapes'\)\. Restore the file\."):
        reproduce.reproduce(str(tmp_path), str(tmp_path.parent / "again"))


def test_the_best_reported_run_of_each_task_is_found(tmp_path):
    scores = {"runs/a/head/seed=0": 0.5, "runs/a/full/seed=0": 0.75, "runs/a/full/seed=1": None, "tuning/a/x": 0.9}
    scores |= {"runs/b/head/seed=0": 0.25, "runs/b/full/seed=0": 0.125}
    for name, value in scores.items():
        task = name.split("/")[1]
        metric = "accuracy" if task == "a" else "mse"
        result = ABOUT | {"task": task, "metrics": {metric: value, "other": -(value or 0)}}
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").write_text(json.dumps(result if value else ABOUT | {"failed": "nan"}))
    runs = {name: Run(name, name.split("/")[0], name, ()) for name in scores}
    assert choosing.best_runs(tmp_path, runs) == {"a": "runs/a/full/seed=0", "b": "runs/b/full/seed=0"}
    assert choosing.best_runs(tmp_path, runs, "other") == {"a": "runs/a/head/seed=0", "b": "runs/b/full/seed=0"}


def test_a_damaged_run_is_moved_away_to_be_made_again(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(worker.console, "warn", warned.append)
    study = made_study.make_pairs(tmp_path, 3).finish()
    cell = study / "runs/choices/head"
    plan = json.loads((study / "plan.json").read_text())
    lanes = [f"runs/choices/head/seed={seed}" for seed in (1, 2)]
    bundles = {"damaged": lanes[:1], "whole": ["runs/choices/full/seed=0"], "held": lanes[1:]}
    made = [plans.Bundle(name, "runs", "vmap", "", (), tuple(runs), (), 1.0) for name, runs in bundles.items()]
    (study / "plan.json").write_text(json.dumps(plan | {"groups": [dataclasses.asdict(bundle) for bundle in made]}))
    for name in bundles:
        (study / "groups" / name / "checkpoints").mkdir(parents=True)
    worker.put_aside_damaged(str(study))
    assert not warned
    (cell / "seed=1" / "result.json").write_text("{")
    (cell / "seed=1-damaged-1").mkdir()  # of an earlier time
    (cell / "seed=2" / "predictions" / "dev.npz").unlink()
    with worker.lock(str(cell / "seed=2")):  # another process works on it
        worker.put_aside_damaged(str(study))
    assert sorted(os.listdir(cell)) == ["seed=0", "seed=1-damaged-1", "seed=1-damaged-2", "seed=2"]
    assert len(warned) == 1 and "seed=1/result.json is damaged" in warned[0]
    assert (cell / "seed=1-damaged-2" / "result.json").read_text() == "{"
    assert [name for name in bundles if (study / "groups" / name / "checkpoints").exists()] == ["whole", "held"]


def test_the_runs_of_a_cross_validation_by_one_pattern():
    names = [f"runs/t/head/data.folds=2/data.fold={fold}/seed={seed}" for seed in (0, 1) for fold in (0, 1)]
    runs = {name: Run(name, "runs", name[5:].rsplit("/", 1)[0], ()) for name in [*names, "runs/t/head/seed=0"]}
    assert choosing.fold_patterns(runs) == [f"runs/t/head/data.folds=2/data.fold=*/seed={seed}" for seed in (0, 1)]
