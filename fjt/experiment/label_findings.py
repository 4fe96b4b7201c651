"""Findings in labels: rare ones, and other shares of them in other splits."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from fjt.core.ragged import TEXT_KIND, Ragged
from fjt.experiment.findings import SERIOUS, WARNING, Finding, Subject, grade

FEW = 10  # training rows of a label below which it is rare
MOST = 0.9  # share of one label from which labels are imbalanced
SIGNIFICANT = 0.01  # p below which a difference between splits is not chance
SKEW = (0.1, 0.3)  # distances from which a difference is a warning, and serious


@dataclasses.dataclass(frozen=True)
class Skew:
    """How the labels of a split differ from those of train.

    Attributes:
        p: of the test, adjusted by Bonferroni where there are several labels or scores per row.
        distance: between 0 and 1, see `compare`.
        test: its name.
    """

    p: float
    distance: float
    test: str


def find(subject: Subject) -> Iterator[Finding]:
    """Yields the findings in the labels of a task."""
    yield from _rare(subject)
    for name, skew in skews(subject).items():
        if skew.p < SIGNIFICANT and skew.distance >= SKEW[0]:
            yield Finding(
                finding="other labels than in train",
                severity=grade(skew.distance, *SKEW),
                split=name,
                count=len(subject.splits[name]),
                share=skew.distance,
                examples=(dataclasses.asdict(skew),),
                action="Scores on this split say little about the others. Draw the splits anew from one pool: "
                "`--config.data.holdout`.",
            )


def describe(subject: Subject, name: str) -> dict[str, Any]:
    """The facts about the labels of a split: {label: count}, or the distribution of the scores; {} without labels."""
    label, task, problem = subject.splits[name].label, subject.task, subject.problem
    if problem.documents or not problem.is_labelled(label).any():
        return {}
    counts = counts_of(subject, name)
    if len(counts):
        return {"counts": dict(zip(names_of(subject, len(counts)), counts.tolist(), strict=True))}
    columns = scores_of(subject, name)
    names = task.label_names or ("score",) * columns.shape[1]
    quartiles = np.percentile(columns, (0, 25, 50, 75, 100), axis=0).T
    return {"quartiles": {name: row.tolist() for name, row in zip(names, quartiles, strict=False)}}


def counts_of(subject: Subject, name: str) -> Int[np.ndarray, " C"]:
    """The number of rows, or of words, of each label in a split; of length 0 for scores."""
    return subject.problem.count_labels(subject.splits[name].label, subject.task)


def names_of(subject: Subject, size: int) -> Sequence[str]:
    """The names of the labels that `counts_of` counts.  size: their number."""
    names = subject.task.label_names
    return names if len(names) == size else tuple(map(str, range(size)))


def scores_of(subject: Subject, name: str) -> Float[np.ndarray, "M C"]:
    """The scores of the labelled rows of a split, one column per target."""
    label = subject.splits[name].label
    known = np.asarray(label[subject.problem.is_labelled(label)], np.float64)
    return known.reshape(len(known), -1)


def skews(subject: Subject) -> dict[str, Skew]:
    """{name: Skew} of the splits other than train that have labels."""
    names = [name for name in subject.splits if name != "train" and describe(subject, name)]
    found = {name: compare(subject, name) for name in names}
    return {name: skew for name, skew in found.items() if skew}


def compare(subject: Subject, name: str) -> Skew | None:
    """The Skew of a split; None where there are no two labels to compare.

    Of one label per row or word: Pearson's chi-squared test of homogeneity, and the total variation distance, the
    share of rows that would need another label.  Of several labels per row: the same for each, the smallest p.  Of
    scores: the two-sample test of Kolmogorov and Smirnov, and its D.  Words of one text are not independent: p is then
    too small, and the distance tells more.
    """
    label = subject.splits[name].label
    one, other = counts_of(subject, "train"), counts_of(subject, name)
    if not len(one):
        if label.dtype.kind == TEXT_KIND:
            return None
        pairs = list(zip(scores_of(subject, "train").T, scores_of(subject, name).T, strict=True))
        tests: list[Any] = [scipy.stats.ks_2samp(*pair) for pair in pairs]
        best = min(tests, key=lambda test: test.pvalue)
        return Skew(min(1.0, float(best.pvalue) * len(tests)), float(best.statistic), "Kolmogorov-Smirnov")
    tables = [np.stack([one, other])]
    if not isinstance(label, Ragged) and label.ndim == 2:
        rows = [np.count_nonzero(subject.problem.is_labelled(subject.splits[s].label)) for s in ("train", name)]
        tables = [np.stack([pair, rows - pair], axis=-1) for pair in np.stack([one, other], axis=-1)]
    tables = [table[:, table.sum(axis=0) > 0] for table in tables]
    tables = [table for table in tables if table.shape[1] > 1 and table.sum(axis=1).all()]
    if not tables:
        return None
    tested = []
    for table in tables:
        shares = table / table.sum(axis=1, keepdims=True)
        test: Any = scipy.stats.chi2_contingency(table, correction=False)
        tested.append((float(test.pvalue), float(np.abs(shares[0] - shares[1]).sum() / 2)))
    p, distance = min(tested)
    return Skew(min(1.0, p * len(tables)), distance, "chi-squared")


def _rare(subject: Subject) -> Iterator[Finding]:
    counts = counts_of(subject, "train")
    if not len(counts):
        return
    names, total = names_of(subject, len(counts)), int(counts.sum())
    unit = "words" if subject.problem.words else "rows"
    elsewhere = sum(
        (counts_of(subject, name) for name in subject.splits if name != "train" and describe(subject, name)),
        np.zeros(len(counts), int),
    )
    # A tag that completes a scheme, such as I- behind B-, may be nowhere.
    there = counts + elsewhere > 0
    rare = [number for number in np.argsort(counts, kind="stable") if counts[number] < FEW and there[number]]
    if rare:
        never = any(counts[number] == 0 and elsewhere[number] > 0 for number in rare)
        examples = tuple({"label": names[number], f"training {unit}": int(counts[number])} for number in rare[:FEW])
        yield Finding(
            finding=f"label with fewer than {FEW} {unit}",
            severity=SERIOUS if never else WARNING,
            split="train",
            count=len(rare),
            share=len(rare) / len(counts),
            examples=examples,
            action="A model hardly learns them. Collect more rows, or join labels.",
        )
    largest = int(counts.argmax())
    one_each = not subject.problem.words and np.ndim(subject.splits["train"].label) == 1
    if one_each and len(counts) > 1 and counts[largest] >= MOST * total:
        yield Finding(
            finding=f"nearly all rows have the label {names[largest]}",
            severity=WARNING,
            split="train",
            count=int(counts[largest]),
            share=int(counts[largest]) / total,
            examples=(),
            action="Accuracy is high for a constant. Compare with it, read macro F1, and try "
            "`--config.loss.class_weights=balanced`.",
        )
