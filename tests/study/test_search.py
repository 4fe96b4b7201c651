"""A search in this process: equal trials run once, lanes are the runs alone, mistakes come before the first trial."""

import json

import numpy as np
import pytest

from configs import quickstart, search
from fjt.core import console
from fjt.core.errors import UserError
from fjt.study import planner, space
from fjt.study.search import Search, _score
from fjt.study.search import search as run_search
from fjt.study.trials import Plan


@pytest.fixture(scope="module")
def shared():
    return planner.Shared(console.Silent())


def config_of(cache, axes):
    config = search.get_config(quickstart.get_config("sentiment"))
    config.data.limit, config.train.batch_size, config.train.steps, config.train.epochs = 96, 24, 6, None
    config.model.scratch.layers, config.model.scratch.width, config.model.scratch.inner = 1, 32, 64
    config.eval.every_epochs, config.mesh.data, config.cache.dir = 0, 1, str(cache)
    config.search.space = (axes,)
    return config


def run(folder, shared, axes, total, lanes=1, sampler="random", **options) -> Search:
    spaces, base = space.read(config_of(folder / "cache", axes))
    return run_search(str(folder), Plan(spaces, sampler, 0, total, lanes, False), base, shared, **options)


RATES = {"optim.learning_rate": (1e-3, 3e-3)}


@pytest.mark.slow
def test_a_trial_that_equals_another_is_not_run(tmp_path, shared):
    """Two rates and five trials: two runs, and the others have the outcome of one of them."""
    found = run(tmp_path, shared, RATES, 5, lanes=3)
    assert len(found.trials) == 5 and sorted(path.name for path in (tmp_path / "trials").iterdir()) == [
        f"{trial.number:04d}" for trial in found.trials if "same_as" not in trial.user_attrs
    ]
    assert sum("same_as" in trial.user_attrs for trial in found.trials) == 3
    for trial in found.trials:
        if "same_as" in trial.user_attrs:
            first = found.trials[trial.user_attrs["same_as"]]
            assert trial.params == first.params and trial.state == first.state and trial.value == first.value


@pytest.mark.thorough
def test_a_grid_ends_with_its_points(tmp_path, shared):
    found = run(tmp_path, shared, RATES, 20, sampler="grid")
    assert sorted(values["optim.learning_rate"] for values in found.values) == [1e-3, 3e-3]


@pytest.mark.thorough
def test_lanes_of_one_program_are_the_runs_alone(tmp_path, shared):
    rows = {}
    for mode in ("loop", "vmap"):
        found = run(tmp_path / mode, shared, {"optim.learning_rate": ("log", 1e-4, 1e-2)}, 4, lanes=4, mode=mode)
        for number in range(4):
            lines = (tmp_path / mode / f"trials/{number:04d}/train.jsonl").read_text().splitlines()
            rows[mode, number] = [json.loads(line)["loss"] for line in lines]
        assert len(found.trials) == 4 and not any(trial.state.name == "RUNNING" for trial in found.trials)
    result = json.loads((tmp_path / "vmap/trials/0000/result.json").read_text())
    assert result["lanes"] == 4 and "lanes" not in json.loads((tmp_path / "loop/trials/0000/result.json").read_text())
    for number in range(4):
        np.testing.assert_allclose(rows["vmap", number], rows["loop", number], rtol=2e-6)


def test_a_method_that_does_not_fit_the_model_is_refused_before_the_first_trial(tmp_path, shared):
    with pytest.raises(UserError, match="every weight is random and trains; lora"):
        run(tmp_path, shared, {"tune.method": ["full", "lora"]}, 4)
    assert not (tmp_path / "trials").exists()


def test_the_score_is_that_of_the_selected_step():
    result = {"metrics": {"f1": 0.5}, "best": {"metrics": {"f1": 0.7, "loss": 0.3}}}
    assert _score(result, "f1") == 0.5 and _score(result, "loss") == 0.3
    with pytest.raises(UserError, match="dev has no labels"):
        _score({"metrics": {}, "best": {"metrics": None}}, "f1")
