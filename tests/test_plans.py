"""What plan.json keeps from the first result on, and what it takes from the config until then."""

import json

from fjt import plans
from fjt.study import Run


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
    assert plans.planned_seeds(tmp_path, plan_of(seeds_of(9)), more) == {"t/head": 9, "t/full": 7}
