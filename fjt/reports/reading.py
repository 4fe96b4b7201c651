"""How to read a report: the meaning of the words and numbers that it has."""

from collections.abc import Sequence

from fjt.reports.cells import Cell, classes_of
from fjt.reports.comparisons import Comparison
from fjt.reports.inference import most_failures
from fjt.reports.pages import Items
from fjt.tasks.kinds import bounds_of


def items(cells: Sequence[Cell], comparisons: Sequence[Comparison]) -> Items:
    """What the words and numbers of a report mean, those that it has."""
    bounded = any(bounds_of(metric) for cell in cells for metric in cell.metrics)
    several = any(cell.dev and cell.problem.several for cell in cells)
    has_scores = any(cell.truth.dtype.kind == "f" and not (cell.dev and _only_classes(cell)) for cell in cells)
    texts = [
        "**Points** are hundredths of a score. "
        * bounded
        + "**finished/started** counts runs. Mean, sd, best and worst are over finished and diverged runs; a diverged "
        "run counts as predicting a constant.",
        "**95 %: new seeds, new examples** covers the mean score of other seeds on other examples of the same sources. "
        "**95 %: new seeds, this dev set** covers the mean score of other seeds on the same examples. Both are about "
        "runs that neither collapse nor diverge, and are not adjusted for the number of comparisons.",
        "**Collapsed** runs give (nearly) the same answer to every example"
        + " of one of their tasks" * several
        + ": at most a tenth as many of their "
        "predictions differ from the most frequent one as labels do"
        + "; the middle nine tenths of predicted scores span at most 1 % of the labels' range" * has_scores
        + ". The row *always ...* has the score of such an answer.",
    ]
    tested = [one for one in comparisons if isinstance(one.p, float)]
    if comparisons:
        texts += [
            "**Differences** are paired by seed." + (_tests(tested) if tested else ""),
            "**Probability of improvement** is the share of pairs of runs, one of each method, in which the method has "
            "the better score; a tie counts as half.",
            "**Seeds to see 1 point** is the number of seeds with which a paired t test at 5 % finds a difference of 1 "
            "point with 80 % power. **This dev set resolves** is the least difference that such a test finds with any "
            "number of seeds, given the number of dev examples.",
        ]
    chosen = " Chosen values are chosen on held-out training rows." * any(cell.open for cell in cells)
    texts.append(f"**Looks at dev** is the number of times that a reported run was scored on dev.{chosen}")
    return Items(tuple(texts))


def _only_classes(cell: Cell) -> bool:
    """Whether all outputs of several tasks are classes."""
    return cell.problem.several and len(classes_of(cell).names) == cell.problem.num_outputs(cell.facts)


def _tests(tested: Sequence[Comparison]) -> str:
    """The sentences about the tests of a report."""
    fewest = min(one.n for one in tested)
    texts = [
        " **p, adjusted: new seeds, this dev set** is exact: it flips the signs of the differences of all seeds. Its "
        "null: a seed is as likely to put the method ahead as to put it behind by the same amount.",
        "**p, adjusted: new seeds, new examples** is Student's t of the interval for new seeds and new examples."
        if any(isinstance(one.p_examples, float) for one in tested)
        else "",
        "A p is adjusted by Holm's method, and not shown where a run collapsed or diverged. It is about runs that do "
        f"not fail: a method without a failure in {fewest} runs may still fail in up to {most_failures(fewest):.0%} of "
        "runs (one-sided 95 %).",
    ]
    return " ".join(text for text in texts if text)
