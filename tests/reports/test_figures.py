"""Which cells and points a figure draws."""

from made_study import DIVERGED, MISSING, MadeStudy, predictions, records_of

from fjt.reports.cells import make_cells
from fjt.reports.figures import fewer, pareto


def test_of_many_cells_the_best_of_each_method_is_drawn(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for rank in range(1, 10):
        made.cell("choices", "lora", {0: predictions("choices", 0.5 + 0.04 * rank, rank)}, {"tune.rank": rank})
    cells = make_cells(records_of(made.finish(), tmp_path))
    assert fewer(cells, "accuracy") is cells
    made.cell("choices", "head", {0: DIVERGED, 1: MISSING})
    cells = make_cells(records_of(made.finish(), tmp_path))
    best = max(cells[:9], key=lambda cell: cell.scores("accuracy").mean())
    assert fewer(cells, "accuracy") == [best, cells[9]]


def test_the_front_is_what_nothing_beats_for_less():
    points = [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (4, 0.7), (5, 0.9)]
    assert pareto(points, 1) == [(1, 0.5), (3, 0.7), (5, 0.9)]
    assert pareto(points, -1) == [(1, 0.5), (2, 0.4)]
