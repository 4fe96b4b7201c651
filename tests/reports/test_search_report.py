"""The report of a search: the best trial, edges, uses of dev, and importances, from trials made by hand."""

import json

import pytest
from optuna.trial import TrialState, create_trial

from configs import quickstart, search
from fjt.reports import search_figures, search_report
from fjt.study import space
from fjt.study.proposals import propose
from fjt.study.search import Search, find_best
from fjt.study.trials import Plan

AXES = {
    "optim.learning_rate": ("log", 1e-5, 1e-1),
    "optim.warmup_fraction": ("float", 0.0, 0.5),
    "tune.rank": [2, 4, 8],
}


def made(rows, axes=AXES, metric="accuracy", lower=False):
    """A Search with trials of ((values), score, how it ended)."""
    config = search.get_config(quickstart.get_config())
    config.search.space = ({"tune.method": ["lora"]} | axes,)
    spaces, base = space.read(config)
    trials = []
    for number, (values, score, ended) in enumerate(rows):
        _, distributions = propose("random", 0, spaces, number, [], False)
        parameters = {"tune.method": "lora"} | {
            key: str(value) if key == "tune.rank" else value for key, value in zip(axes, values, strict=True)
        }
        trial = create_trial(
            state=TrialState.PRUNED if score is None else TrialState.COMPLETE,
            value=score,
            params=parameters,
            distributions=distributions,
            user_attrs={"ended": ended, "evaluations": 3, "dev_rows": 100},
        )
        trial.number = number
        trials.append(trial)
    plan = Plan(spaces, "random", 0, len(trials), 1, False)
    return Search(metric, lower, plan, base, trials, [space.values_of(trial.params, spaces) for trial in trials])


ROWS = [
    ((1e-3, 0.1, 2), 0.8, "finished"),
    ((9e-2, 0.0, 8), 0.9, "finished"),
    ((1e-2, 0.2, 4), None, "collapsed"),
    ((2e-3, 0.3, 4), 0.7, "finished"),
    ((3e-3, 0.4, 4), 0.9, "finished"),
]


def test_the_best_trial_is_the_first_of_equals():
    assert find_best(made(ROWS).trials, lower=False).number == 1
    assert find_best(made(ROWS).trials, lower=True).number == 3
    assert find_best(made(ROWS[2:3]).trials, lower=False) is None


def test_values_at_an_edge_are_named_unless_the_option_ends_there():
    """Rank 8 and a rate near 0.1 are at the ends of their axes; a warm-up of 0 is the lowest that there is."""
    found = made(ROWS)
    texts = search_report.edges(found, found.trials[1])
    assert len(texts) == 2 and texts[0].startswith(
        "optim.learning_rate=0.09 is at the high end of its axis, 1e-05 to 0.1"
    )
    assert texts[1].startswith("tune.rank=8 is at the high end")
    assert not search_report.edges(found, found.trials[2])
    assert search_report.edges(found, found.trials[0])[0].startswith("tune.rank=2 is at the low end")


def test_flags_to_copy():
    values = {
        "tune.method": ("lora", "bitfit"),
        "optim.learning_rate": 1e-3,
        "tune.sites": ("query",),
        "train.epochs": 3,
    }
    assert search_report.flags_of(values) == (
        "--config.tune.method=lora,bitfit --config.optim.learning_rate=0.001 --config.tune.sites=query "
        "--config.train.epochs=3"
    )


def test_the_record_counts_the_uses_of_dev():
    found = made(ROWS)
    record = search_report.record(found, found.trials[1])
    assert record["dev"] == {
        "held_out_training_rows": False,
        "rows": 100,
        "scores_compared": 4,
        "evaluations": 15,
    }
    assert record["best"]["trial"] == 1 and record["trials"][2]["score"] is None
    json.dumps(record, allow_nan=False)


def test_importances_name_the_option_that_matters():
    rows = [((10.0**-i, 0.1 * (j % 5), (2, 4, 8)[j % 3]), i / 5, "finished") for i in range(1, 5) for j in range(5)]
    found = search_figures.importances(made(rows))
    assert max(found, key=found.get) == "optim.learning_rate" and found["optim.learning_rate"] > 0.8
    assert search_figures.importances(made(rows)) == found, "the forest has a seed"
    assert search_figures.importances(made(rows[:3])) == {}
    assert search_figures.importances(made([(values, 0.5, ended) for values, _, ended in rows])) == {}


@pytest.mark.parametrize("rows", [ROWS, ROWS[2:3], ROWS[:1]])
def test_a_report_is_written_and_is_the_same_again(tmp_path, capsys, rows):
    found = made(rows)
    command = f"python -m fjt.search {tmp_path}/x.py --workdir {tmp_path} --config.data.dir={tmp_path}"
    search_report.write(found, str(tmp_path), command)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    search_report.write(found, str(tmp_path), command)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == files
    text = capsys.readouterr().out
    if find_best(found.trials, lower=False) is None:
        assert "no trial has a score" in text and not (tmp_path / "report/figures/history.svg").exists()
    else:
        assert "and so optimistic" in text and (tmp_path / "report/figures/history.png").exists()
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert "`python -m fjt.search x.py --workdir DIR --config.data.dir=" in (tmp_path / "report/report.md").read_text()
    assert "| 0 |" in (tmp_path / "report/report.md").read_text()
