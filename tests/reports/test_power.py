"""What is said beforehand of seeds that will be too few is what the report would say in the end."""

import itertools

import pytest
from made_study import STUDY, cells_of, make_pairs

from fjt.reports import inference, power
from fjt.reports.comparisons import make_comparisons
from fjt.study.spec import Run


def planned(count, methods=("full", "head", "lora"), tasks=("choices", "marks")):
    """Runs of a plan."""
    for task, method, seed in itertools.product(tasks, methods, range(count)):
        cell = f"{task}/{method}"
        yield Run(f"runs/{cell}/seed={seed}", "runs", cell, (("task", task), ("tune.method", method), ("seed", seed)))


@pytest.mark.parametrize(
    ("count", "study", "warnings"),
    [
        (4, {"baseline": ""}, ["4 seeds of choices/full: a 95 % interval needs at least 5."]),
        (5, {"baseline": ""}, []),
        (6, {"family": "study"}, ["6 seeds in a family of 4 tests: no p is low enough for config.study.alpha=0.05 with "
                                  "fewer than 8."]),
        (6, {"family": "task"}, [f"{task}: 6 seeds in a family of 2 tests: " for task in ("choices", "marks")]),
        (7, {"family": "task"}, []),
        (4, {"family": "study"}, ["4 seeds of choices/full", "4 seeds in a family of 4 tests"]),
    ],
)  # fmt: skip
def test_a_plan_of_too_few_seeds_is_warned_of(count, study, warnings):
    found = power.too_few(STUDY | study, planned(count))
    assert len(found) == len(warnings)
    assert all(text.startswith(start) for text, start in zip(found, warnings, strict=True))


def test_the_seeds_that_are_warned_of_are_those_that_the_tests_need(tmp_path):
    needed = inference.seeds_of_tests(1, 0.05)
    for count in (needed - 1, needed):
        found, cells = cells_of(make_pairs(tmp_path / str(count), count, seeds=count).finish(), tmp_path)
        (one,) = make_comparisons(list(cells.values()), found.facts)[0]
        few = power.too_few(STUDY, planned(count, ("full", "head"), ("choices",)))
        assert isinstance(one.p, str) == bool(few) == (count < needed)
