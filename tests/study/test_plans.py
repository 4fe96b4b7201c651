"""What plan.json keeps from the first result on, and what it takes from the config until then."""

import json
import shutil
import types

import made_study
import pytest

from fjt import sweep
from fjt.core import console, records
from fjt.core.errors import UserError
from fjt.core.options import PATHS
from fjt.study import bases, plans
from fjt.study.spec import Run


def seeds_of(count, cell="t/head"):
    return [Run(f"runs/{cell}/seed={i}", "runs", cell, (("seed", i),)) for i in range(count)]


def plan_of(runs, **entries):
    return {"runs": {run.name: plans.to_row(run) for run in runs}} | entries


def end(folder, run, **result):
    (folder / run.name).mkdir(parents=True)
    (folder / run.name / "result.json").write_text(json.dumps(result))


def test_the_seeds_are_those_of_the_config_until_a_reported_run_has_a_result(tmp_path):
    trial = Run("tuning/t/head/seed=1000", "tuning", "t/head", (("seed", 1000),))
    plan = plan_of([trial, *seeds_of(12)], planned_seeds={"t/head": 12})
    assert plans.planned_seeds(tmp_path, {}, seeds_of(12)) == {"t/head": 12}
    end(tmp_path, trial, failed=None)
    assert plans.planned_seeds(tmp_path, plan, [trial, *seeds_of(5)]) == {"t/head": 5}
    end(tmp_path, seeds_of(1)[0], failed="the loss of step 8 is nan")
    more = [*seeds_of(20), *seeds_of(7, "t/full")]
    assert plans.planned_seeds(tmp_path, plan, more) == {"t/head": 12, "t/full": 7}


def test_what_a_test_asks_is_that_of_the_config_until_a_reported_run_has_a_result(tmp_path):
    first = {"baseline": "full", "family": "study", "alpha": 0.05, "seeds": 5}
    second = first | {"alpha": 0.1, "family": "task", "seeds": 6}
    plan = plan_of(seeds_of(5), study=first, declared=plans.declared(tmp_path, {}, first))
    assert plans.declared(tmp_path, plan, second) == {"baseline": "full", "metric": "", "family": "task", "alpha": 0.1}
    end(tmp_path, seeds_of(1)[0], failed=None)
    found = plans.declared(tmp_path, plan, second)
    assert found == {"baseline": "full", "metric": "", "family": "study", "alpha": 0.05}
    assert plans.changed(first, found) == plans.changed(first, {k: v for k, v in found.items() if v}) == ""
    assert "config.study.metric was '' and is 'f1'" in plans.changed(first | {"metric": "f1"}, found)
    assert plans.changed(second, found).startswith(
        "config.study.family was 'study' and is 'task', config.study.alpha was 0.05 and is 0.1: the hypotheses"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data"}, "data, with config.data.files.train='a.csv'. Restore"),
        ({"weights", "tokenizer"}, "weights and tokenizer, with config.model.path='b'. Restore"),
        ({"data", "weights"}, "data and weights, with config.data.files.train='a.csv', config.model.path='b'. Restore"),
    ],
)
def test_other_contents_are_named_with_where_they_are(changed, message):
    before = dict.fromkeys(plans.SECTIONS, "x")
    now = before | dict.fromkeys(changed, "y")
    flat = dict.fromkeys(PATHS) | {"data.files.train": "a.csv", "model.path": "b"}
    plans.check_contents("runs", seeds_of(1)[0], before, before, flat)
    own = before | {"metric mine:cost": "z"}
    with pytest.raises(UserError, match=r"the same metric mine:cost, with config.eval.metrics=\('mine:cost',\)"):
        plans.check_contents("runs", seeds_of(1)[0], before, own, flat | {"eval.metrics": ("mine:cost",)})
    with pytest.raises(UserError) as refused:
        plans.check_contents("runs", seeds_of(1)[0], before, now, flat)
    assert f"runs/t/head/seed=0 would not read the same {message}" in str(refused.value)


def test_tuning_and_reported_runs_read_other_data():
    cells = ("mrpc/lora/tune.rank=4/data.limit=96", "mrpc/head/data.limit=96")
    assert {plans.data_key("runs", cell) for cell in cells} == {"runs/mrpc/data.limit=96"}
    assert plans.data_key("tuning", cells[0]) == "tuning/mrpc/data.limit=96"
    for axis in ("distill.runs=a", "tune.schedule_file=phases.txt"):
        assert plans.data_key("runs", f"mrpc/full/{axis}") == f"runs/mrpc/{axis}"


def whole_plan(**entries):
    """plan.json of two runs in one bundle; entries: what differs."""
    declared = {"baseline": "", "family": "task", "alpha": 0.05}
    bundle = {"id": "000-ab", "phase": "runs", "mode": "loop", "program": "", "shapes": [[1, 2, 3, 4, 5]]}
    bundle |= {"runs": [run.name for run in seeds_of(2)], "programs": [], "seconds": 1.0}
    plan = plan_of(seeds_of(2), config={}, study=declared, declared=declared, planned_seeds={"t/head": 2})
    return plan | {"active": bundle["runs"], "groups": [bundle]} | entries


def changed_plan(path, value):
    """A plan in which the entry at a path of keys is another."""
    plan = json.loads(json.dumps(whole_plan()))
    *keys, last = path
    node = plan
    for key in keys:
        node = node[key]
    node[last] = value
    return plan


FIRST = "runs/t/head/seed=0"


@pytest.mark.parametrize(
    "plan",
    [
        *(changed_plan(("groups", 0, "id"), id_) for id_ in ("..", ".", "", "a/b", "/tmp", "a\n", "a\0b", 7, None)),
        *(
            whole_plan(runs={name: plans.to_row(seeds_of(1)[0]) | {"name": name}}, active=[name], groups=[])
            for name in ("/tmp/x", "runs/../../x", "../runs/x", "runs//x", "runs/./x", "tuning/x", "runs/a b", "runs/~")
        ),
        changed_plan(("runs", FIRST, "name"), "runs/t/head/seed=1"),
        changed_plan(("runs", FIRST, "values"), [["seed"]]),
        changed_plan(("runs", FIRST, "values"), 3),
        changed_plan(("groups", 0, "runs"), ["runs/t/head/seed=7"]),
        changed_plan(("groups", 0, "shapes"), [[1, 2]]),
        changed_plan(("active",), [["a"]]),
        changed_plan(("active",), ["runs/t/head/seed=7"]),
        changed_plan(("groups",), ["x"]),
        changed_plan(("declared",), {}),
        {key: value for key, value in whole_plan().items() if key != "study"},
        [],
        "plan",
    ],
)
def test_a_plan_with_another_form_or_with_names_that_lead_elsewhere_is_refused(tmp_path, plan):
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(records.Damaged, match=r"plan\.json is damaged \(.*\)\. Restore"):
        plans.load(str(tmp_path))


def test_a_sound_plan_is_read(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(whole_plan()))
    runs, (bundle,), _ = plans.load(str(tmp_path))
    assert list(runs) == list(bundle.runs) == [run.name for run in seeds_of(2)]


def test_the_results_of_a_study_are_those_of_its_present_runs(tmp_path, monkeypatch):
    """Neither of runs that were moved aside, nor of those that the config no longer asks for, nor of tuning runs."""
    made = made_study.MadeStudy(tmp_path)
    made.trials("choices", "full", "optim.learning_rate", {1e-3: {1000: 0.9}})
    for seed in range(3):
        made.cell("choices", "full", {seed: made_study.predictions("choices", 0.9, seed)})
    cell = made.finish(active=made.active[:-1]) / "runs/choices/full"
    shutil.copytree(cell / "seed=0", cell / "seed=0-damaged-1")
    (cell / "seed=0-damaged-1" / "result.json").write_text("{")
    monkeypatch.setattr(sweep, "execute", lambda *arguments, **options: None)
    assert [row["workdir"] for row in sweep.sweep("quickstart_sweep", tmp_path)] == [
        str(cell / f"seed={seed}") for seed in range(2)
    ]


def test_a_base_that_was_killed_at_its_very_end_keeps_no_checkpoints(tmp_path, monkeypatch):
    folder = tmp_path / "bases" / "0123"
    made_study.write_run(folder, "runs", "choices", "full", made_study.predictions("choices", 0.9, 0), {})
    about = json.loads((folder / "config.json").read_text())
    about["config"]["output"] = {"checkpoints": False}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "checkpoints" / "12").mkdir(parents=True)
    monkeypatch.setattr(bases, "prepare", lambda *_, **__: types.SimpleNamespace(fingerprint="0123"))
    base = {"cache": {"dir": str(tmp_path)}, "mesh": {"data": 0}}
    assert bases.train("quickstart", sweep.encoder_settings("quickstart", base)) == str(folder / "export")
    assert not (folder / "checkpoints").exists()


def test_the_time_of_a_plan_is_that_of_what_is_left_and_more_than_its_training(tmp_path, monkeypatch):
    said, runs = [], {run.name: run for run in seeds_of(40)}
    monkeypatch.setattr(console, "say", said.append)
    bundles = [
        plans.Bundle("0", "runs", "loop", "", (), tuple(list(runs)[:30]), ("a", "b"), 15.0),
        plans.Bundle("1", "runs", "loop", "", (), tuple(list(runs)[30:]), ("b", "c"), 90.0),
    ]
    end(tmp_path, next(iter(runs.values())), failed="the loss of step 8 is nan", task="t", method=["head"], steps=7)
    sweep.show_plan(str(tmp_path), runs, bundles, {"bytes": 2**30})
    assert len(said) == 1 and said[0].startswith(
        "40 runs, 39 of them left -> 3 programs in 2 bundles of up to 30 runs; about 2:24, if training reaches half"
    )


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [(None, (), True), ([], (), True), (None, 0.0, False), (None, False, False), ((), ("a",), False), (0, 0, True)],
)
def test_options_of_a_later_version_are_unset_in_an_earlier_plan(before, now, same):
    old, new = {"loss": {} if before is None else {"made": before}}, {"loss": {"made": now}}
    if same:
        plans.check_config("study", {"config": old}, new)
    else:
        with pytest.raises(UserError, match=r"config\.loss\.made: .* there, .* now"):
            plans.check_config("study", {"config": old}, new)
