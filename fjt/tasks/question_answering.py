"""Extractive question answering: the span of a context that answers a question, or none (SQuAD 1.1 and 2.0).

A window of a context has a slot at every token, with two logits: that the answer starts there, and that it ends there.
The loss is the mean of two softmax cross-entropies over the tokens of a window; in a window without the answer both
are at its first token, as in PyTorch `transformers`' run_qa.
"""

import collections
import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from fjt.core.errors import UserError, read_rows
from fjt.core.options import EvalConfig
from fjt.core.prng import Array
from fjt.data import squad
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.tasks import segments, squad_scores
from fjt.tasks.problem import Logits, Predictions, Problem

log = logging.getLogger(__name__)

ANSWER, NO_ANSWER = "answer", "no answer"
START, END = 1, 2  # bits of a slot's label
N_BEST = 20  # answers that are kept per question
DIGITS = 6  # of scores that are kept

Labels = np.ndarray  # texts, as `fjt.data.squad` spells labels
Candidates = np.ndarray  # texts: JSON of [score of no answer, [score, start, end, text], ...], the best answers first


class QuestionAnswering(Problem):
    """The answer to a question in a context.  Labels and predictions are texts, see `fjt.data.squad`.

    label_names tells whether there are questions without an answer: it is (ANSWER,) or (ANSWER, NO_ANSWER).
    """

    name = "question_answering"
    decode_options = ("null_threshold", "answer_length")
    unit = "question"
    one_slot = False
    contexts = True
    head = "span"
    metrics = {"f1": squad_scores.f1, "exact_match": squad_scores.exact_match}
    scores = {"f1": squad_scores.f1_of, "exact_match": squad_scores.exact_of}
    table_metrics = ("f1", "exact_match")
    bounds = dict.fromkeys(table_metrics, (0, 1))
    hub_task = "question-answering"

    def num_outputs(self, task: Task) -> int:
        return 2

    def output_names(self, task: Task) -> tuple[str, ...]:
        return ("start", "end")

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        place_of: dict[str, str] = {}
        for cell in cells:
            answers, _ = self._read(cell)
            place_of.setdefault(ANSWER if answers else NO_ANSWER, cell.place)
        return {name: place_of[name] for name in (ANSWER, NO_ANSWER) if name in place_of}

    def _read(self, cell: Cell) -> tuple[list[squad.Answer] | None, int]:
        """(the answers, None where they may be missing; how many were moved)."""
        value, context = cell.value
        if value is None or not isinstance(context, str):  # another reader refuses such a context
            if cell.required and isinstance(context, str):
                raise cell.missing()
            return None, 0
        return squad.read_answers(value, context, cell.place)

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Labels:
        if tuple(codes) not in ((ANSWER,), (ANSWER, NO_ANSWER)):
            raise UserError(
                f"There are the labels {', '.join(codes) or 'none'}; there should be questions with an answer. "
                f"config.data.label_names, where it is given, is ({ANSWER!r},) or ({ANSWER!r}, {NO_ANSWER!r})."
            )
        found = read_rows(self._read, cells)
        moved = {cell.place: count for cell, (_, count) in zip(cells, found, strict=True) if count}
        if moved:
            log.warning(
                "%d answers in %d rows are not at their answer_start; the nearest place with the text of each is "
                "taken. The first one is in %s.",
                sum(moved.values()),
                len(moved),
                next(iter(moved)),
            )
        none = [cell.place for cell, (answers, _) in zip(cells, found, strict=True) if answers == []]
        if none and NO_ANSWER not in codes:
            log.warning(
                "%d questions have no answer, the first one in %s, but the run predicts one for every question: it has "
                "only the label 'answer'.",
                len(none),
                none[0],
            )
        return squad.labels_of(answers for answers, _ in found)

    def is_labelled(self, label: Labels) -> Bool[np.ndarray, " M"]:
        return np.asarray(label != squad.UNKNOWN)

    def targets(self, split: Split, examples: Examples, task: Task) -> Examples:
        """The examples with the bits START and END of each slot; all 0 in windows of unlabelled questions.

        A question with several answers is trained on the first one.
        """
        assert examples.slot_chars is not None, "examples of contexts have the places of their slots"
        label, bounds = np.zeros(len(examples.slot_token), np.int32), examples.slot_offsets
        for row, text in enumerate(split.label):
            if text == squad.UNKNOWN:
                continue
            for window in range(examples.row_offsets[row], examples.row_offsets[row + 1]):
                first, end = bounds[window], bounds[window + 1]
                _mark(label[first:end], examples.slot_chars[first:end], squad.answers_of(text))
        return dataclasses.replace(examples, label=label)

    def by_row(self, logits: Logits, examples: Examples, split: Split, task: Task) -> Candidates:
        """The best answers to each question, of all its windows, with the lowest score of no answer."""
        assert examples.slot_chars is not None, "examples of contexts have the places of their slots"
        bounds, found = examples.slot_offsets, []
        for row, context in enumerate(map(str, split.text_pair or ())):
            null, spans = np.inf, {}
            for window in range(examples.row_offsets[row], examples.row_offsets[row + 1]):
                chosen = slice(bounds[window], bounds[window + 1])
                scores = logits[chosen].astype(np.float64)
                null = min(null, round(float(scores[0].sum()), DIGITS))
                for score, *place in best_spans(scores, examples.slot_chars[chosen], task.answer_length):
                    spans[tuple(place)] = max(score, spans.get(tuple(place), -np.inf))
            best = sorted(spans.items(), key=lambda item: (-item[1], item[0]))[:N_BEST]
            answers = [[score, start, end, context[start:end]] for (start, end), score in best]
            found.append(json.dumps([null, *answers], ensure_ascii=False))
        return np.array(found, np.dtypes.StringDType())

    def describe_label(self, label: Any, task: Task) -> str:
        return " | ".join(dict.fromkeys(squad.texts_of(label))) or NO_ANSWER

    def count_labels(self, label: Labels, task: Task) -> Int[np.ndarray, " C"]:
        without = int(np.count_nonzero(label == squad.labels_of([[]])[0]))
        return np.array([len(label) - without, without])[: len(task.label_names)]

    def loss(
        self, logits: Float[Array, "G S C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "G S"], Float[Array, "G S"]]:
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        sums = segments.log_sums(logits, batch["slot_example"], batch["weight"] > 0)
        bits = (batch["label"][..., None] >> jnp.arange(2)[None, None]) & 1
        value = jnp.where(bits > 0, sums - logits, 0.0).sum(axis=-1) / 2
        return value, bits.sum(axis=-1).astype(logits.dtype) / 2

    def configured(self, task: Task, given: EvalConfig) -> Task:
        threshold = 0.0 if given.null_threshold is None else given.null_threshold
        return dataclasses.replace(super().configured(task, given), threshold=threshold)

    def chosen(self, task: Task, given: EvalConfig, scores: Candidates, label: Labels) -> Task:
        """The task with the threshold of no answer that has the best F1 on these questions (the official rule)."""
        labelled = self.is_labelled(label)
        if given.null_threshold is not None or NO_ANSWER not in task.label_names or not labelled.any():
            return task
        return dataclasses.replace(task, threshold=best_threshold(scores[labelled], label[labelled]))

    def decode(self, logits: Candidates, task: Task) -> Predictions:
        found = [_answer(row, task) for row in logits]
        values = squad.labels_of([[answer["text"]]] if answer["text"] else [] for answer in found)
        return Predictions(values, [answer["text"] for answer in found], None)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        sums = segments.log_sums_of_rows(logits, examples.slot_offsets)
        bits = (examples.label[:, None] & np.array([START, END])) > 0
        return float((sums - logits)[bits].mean())

    def pseudo_values(self, metric: str, predicted: Collection[Labels], label: Labels) -> Float[np.ndarray, "n M"]:
        return np.stack([squad_scores.each(self.scores[metric], run, label) for run in predicted])

    def scorer(self, metric: str, predicted: Labels, label: Labels) -> Callable[[Int[np.ndarray, " m"]], float]:
        values = squad_scores.each(self.scores[metric], predicted, label)
        return lambda rows: float(values[rows].mean())

    def right(self, predicted: Labels, label: Labels) -> Bool[np.ndarray, " N"]:
        return squad_scores.each(self.scores["exact_match"], predicted, label) == 1

    def constant(self, label: Labels) -> Labels:
        """The most frequent answer, among which no answer is one."""
        first = [squad.texts_of(text)[:1] for text in label]
        most = collections.Counter(map(tuple, first)).most_common(1)[0][0]
        return np.repeat(squad.labels_of([[[text] for text in most]]), len(label))

    def details(self, logits: Candidates, predicted: Predictions, split: Split, task: Task) -> dict[str, list[Any]]:
        """{"n_best": a list per question of {text, start, end, score, probability}, best first}.

        Start and end count characters of the context, and are None for no answer.  The probabilities are a softmax over
        the list.
        """
        return {"n_best": [_n_best(row, task) for row in logits]}

    def columns(self, logits: Candidates, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        found = [_answer(row, task) for row in logits]
        keys = {"predicted": "text", "probability": "probability", "start": "start", "end": "end"}
        return {name: [answer[key] for answer in found] for name, key in keys.items()}

    def label_column(self, label: Labels, task: Task) -> list[str]:
        return ["" if text in (squad.UNKNOWN, "[]") else self.describe_label(text, task) for text in label]

    def files(self, scores: Candidates, split: Split, task: Task) -> dict[str, str]:
        answers = {name: _answer(row, task)["text"] for name, row in zip(split.id, scores, strict=True)}
        return {".json": json.dumps(answers, ensure_ascii=False, indent=1) + "\n"}


def _mark(label: Int[np.ndarray, " n"], chars: Int[np.ndarray, "n 2"], answers: Sequence[Sequence[Any]]) -> None:
    """Sets the bits of the first answer in a window, or of no answer where the window does not hold it whole."""
    inside = np.flatnonzero(chars[:, 0] >= 0)
    if answers and len(inside):
        start = answers[0][1]
        end = start + len(answers[0][0])
        if chars[inside[0], 0] <= start and end <= chars[inside[-1], 1]:
            label[inside[np.searchsorted(chars[inside, 0], start, side="right") - 1]] |= START
            label[inside[np.searchsorted(chars[inside, 1], end)]] |= END
            return
    label[0] = START | END


def best_spans(
    logits: Float[np.ndarray, "n 2"], chars: Int[np.ndarray, "n 2"], longest: int
) -> list[tuple[float, int, int]]:
    """(score, first character, end) of the best spans of a window, at most N_BEST, in no order.

    Args:
        logits: of start and end of each token.
        chars: the place of each token in the context, see `fjt.data.contexts`.
        longest: the largest number of tokens of a span.
    """
    inside = np.flatnonzero(chars[:, 0] >= 0)
    if not len(inside):
        return []
    begin, end = chars[inside].T
    scores = logits[inside, :1] + _next(logits[inside, 1], longest, -np.inf)
    if (begin == end).any():  # a span of such tokens alone has no text
        scores = np.where(_next(end, longest, 0) > begin[:, None], scores, -np.inf)
    count = min(N_BEST, int(np.count_nonzero(scores > -np.inf)))
    top = np.argpartition(-scores, count - 1, axis=None)[:count]
    first, length = np.divmod(top, longest)
    places = zip(begin[first].tolist(), end[first + length].tolist(), strict=True)
    return [(round(score, DIGITS), *place) for score, place in zip(scores.ravel()[top].tolist(), places, strict=True)]


def _next(values: Shaped[np.ndarray, " n"], count: int, after: float) -> Shaped[np.ndarray, "n count"]:
    """Each value with those that follow it, `count` in all; after: what follows the last one."""
    padded = np.pad(values, (0, count - 1), constant_values=after)
    return np.lib.stride_tricks.sliding_window_view(padded, count)


def _n_best(row: str, task: Task) -> list[dict[str, Any]]:
    """The answers of a row of Candidates, best first, with probabilities among themselves; no answer is text ""."""
    null, *spans = json.loads(row)
    answers = [dict(zip(("score", "start", "end", "text"), span, strict=True)) for span in spans]
    if NO_ANSWER in task.label_names or not answers:
        answers.append({"score": null, "start": None, "end": None, "text": ""})
        answers.sort(key=lambda answer: -answer["score"])
    shares = scipy.special.softmax([answer["score"] for answer in answers])
    return [answer | {"probability": round(float(p), 6)} for answer, p in zip(answers, shares, strict=True)]


def _answer(row: str, task: Task) -> dict[str, Any]:
    """The predicted answer, one of `_n_best`."""
    answers = _n_best(row, task)
    null = next((answer for answer in answers if answer["start"] is None), None)
    best = next((answer for answer in answers if answer["start"] is not None), None)
    if best is None or (null and null["score"] - best["score"] > task.threshold):
        assert null is not None, "a question without a candidate has no answer"
        return null
    return best


def best_threshold(scores: Candidates, label: Labels) -> float:
    """The threshold of no answer with the best mean F1, the lowest of equal ones.

    Args:
        scores: of the questions.
        label: their answers, none missing.
    """
    apart, answered, silent = [], [], []
    for row, text in zip(scores, label, strict=True):
        null, *spans = json.loads(row)
        answers = squad.texts_of(text)
        apart.append(null - spans[0][0] if spans else np.inf)
        answered.append(squad_scores.best(squad_scores.f1_of, spans[0][3] if spans else "", answers))
        silent.append(squad_scores.best(squad_scores.f1_of, "", answers))
    order = np.argsort(apart, kind="stable")
    apart, gain = np.array(apart)[order], (np.array(answered) - silent)[order]
    total = np.concatenate([[0.0], np.cumsum(gain)])  # of the first questions answered, the others silent
    last = np.append(apart[1:] > apart[:-1], True)  # questions at equal distance are answered together
    total[1:][~last] = -np.inf
    best = int(np.argmax(total))
    return float(apart[best - 1]) if best else float(np.nextafter(apart[0], -np.inf))


QUESTION_ANSWERING = QuestionAnswering()
