"""Single tokens whose presence gives a label or a score away, such as a leftover tag of the source."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float

from fjt.experiment.findings import Finding, Subject, grade
from fjt.experiment.label_findings import names_of, scores_of

FEWEST = 10  # rows that a token is in, at least
SURE = 0.95  # lower end of the 95 % interval of P(label | token) from which a token gives its label away
LIFT = 1.5  # P(label | token) / P(label), at least
COVERED, WARNING, SERIOUS = 0.02, 0.1, 0.5  # share of a label's rows that such a token is in
CORRELATED = (0.5, 0.8)  # of a token with a score: a warning, serious
STRONGEST = 10  # tokens in the list


def strongest(subject: Subject) -> list[dict[str, Any]]:
    """The tokens that say most about a label or score by their presence: {token, label, rows, correlation, ...}.

    They are those of the highest Pearson correlation of presence and label (phi), or, of scores, of its absolute
    value.  Of labels also P(label | token), its lift over P(label), and the share of the label's rows with the token.
    [] where labels are not of whole texts.

    Args:
        subject: the data.
    """
    found = _measure(subject)
    if not found:
        return []
    correlation, counts, more = found
    ranked = np.where(counts[:, None] >= FEWEST, correlation if more else np.abs(correlation), -1.0)
    chosen = np.argsort(-ranked, axis=None, kind="stable")[:STRONGEST]
    places = [divmod(int(place), correlation.shape[1]) for place in chosen if ranked.flat[place] > 0]
    return [_row(subject, found, token, label) for token, label in places]


_Measured = tuple[Float[np.ndarray, "V C"], Float[np.ndarray, " V"], dict[str, Float[np.ndarray, "V C"]]]


def _measure(subject: Subject) -> _Measured | None:
    """(correlations of tokens with labels, numbers of rows with each token, other measures), None without labels."""
    problem, split, examples = subject.problem, subject.splits["train"], subject.tokens["train"]
    if subject.windows or problem.choices or not subject.is_labelled("train"):
        return None
    row = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
    pairs = np.unique(row * np.int64(1 + examples.token_ids.max()) + examples.token_ids)
    row, token = np.divmod(pairs, np.int64(1 + examples.token_ids.max()))
    present = scipy.sparse.csr_array((np.ones(len(row)), (token, row)), shape=(1 + token.max(), len(examples)))
    classes = len(subject.task.label_names)
    scores = split.label.dtype.kind == "f"
    values = scores_of(subject, "train")
    if not scores and split.label.ndim == 1:
        values = np.eye(classes)[split.label]
    counts, size = np.asarray(present.sum(axis=1)), len(values)
    both, mean = present @ values, values.mean(axis=0)
    spread = np.sqrt(np.outer(counts * (size - counts), values.var(axis=0)))
    # 0 for a token in every row, or a label of none: the products of rounded numbers would be divided by 0.
    correlation = np.divide(both - np.outer(counts, mean), spread, out=np.zeros_like(spread), where=spread > 0)
    if scores:
        return correlation, counts, {}
    precision = both / np.maximum(counts, 1)[:, None]
    of_label = both / np.maximum(size * mean, 1)
    more = {"precision": precision, "lift": of_label * size / np.maximum(counts, 1)[:, None], "coverage": of_label}
    return correlation, counts, more


def _row(subject: Subject, found: _Measured, token: int, label: int) -> dict[str, Any]:
    correlation, counts, more = found
    names = names_of(subject, correlation.shape[1]) if subject.task.label_names else ("score",)
    return {
        "token": subject.tokenizer.convert_ids_to_tokens(token),
        "label": names[label],
        "rows": int(counts[token]),
        "correlation": float(correlation[token, label]),
    } | {name: float(values[token, label]) for name, values in more.items()}


def find(subject: Subject) -> Iterator[Finding]:
    """Yields a Finding of the tokens that give labels away, if there are any."""
    found = _measure(subject)
    if not found:
        return
    correlation, counts, more = found
    if more:
        strength = np.where(_sure(counts, more) & (more["lift"] >= LIFT), more["coverage"], 0.0)
        least, limits = COVERED, (WARNING, SERIOUS)
    else:
        strength = np.where(counts[:, None] >= FEWEST, np.abs(correlation), 0.0)
        least, limits = CORRELATED[0], CORRELATED
    order = np.argsort(-strength, axis=None, kind="stable")[: np.count_nonzero(strength >= least)]
    if not len(order):
        return
    rows = [_row(subject, found, *divmod(int(place), correlation.shape[1])) for place in order[:STRONGEST]]
    share = float(strength.flat[order[0]])
    yield Finding(
        finding="token that gives the label away",
        severity=grade(share, *limits),
        split="train",
        count=len(order),
        share=share,
        examples=tuple(rows),
        action="If the token is no part of the task, such as a tag of the source, remove it from the texts: a model "
        "learns it first.",
    )


def _sure(counts: Float[np.ndarray, " V"], more: dict[str, Float[np.ndarray, "V C"]]) -> np.ndarray:
    """Whether the lower end of Wilson's 95 % interval of P(label | token) reaches SURE (Wilson 1927)."""
    z, n, p = 1.96, np.maximum(counts, 1)[:, None], more["precision"]
    low = (p + z**2 / (2 * n) - z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))) / (1 + z**2 / n)
    return low >= SURE
