"""Named entities and other spans of words: tagging with B- and I- tags, scored by whole spans."""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fjt.core.errors import UserError
from fjt.core.ragged import Ragged
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.data.words import places as word_places
from fjt.tasks import spans
from fjt.tasks.classification import class_rows
from fjt.tasks.problem import Predictions
from fjt.tasks.tagging import Counts, Tagging, Tags, accuracy, count_hits, mean_f1, share

log = logging.getLogger(__name__)


def precision(predicted: Tags, label: Tags) -> float:
    """Share of the predicted spans that are true: the same words, the same type; 0.0 without any."""
    return float(np.count_nonzero(spans.hits(predicted, label)) / max(_number(predicted), 1))


def recall(predicted: Tags, label: Tags) -> float:
    """Share of the true spans that are predicted; 0.0 without any."""
    return float(np.count_nonzero(spans.hits(predicted, label)) / max(_number(label), 1))


def f1(predicted: Tags, label: Tags) -> float:
    """F1 of the spans of all types, as conlleval and seqeval have it; 0.0 without any."""
    return float(2 * np.count_nonzero(spans.hits(predicted, label)) / max(_number(predicted) + _number(label), 1))


def macro_f1(predicted: Tags, label: Tags) -> float:
    """Unweighted mean of F1 over the types that are predicted or true."""
    return float(mean_f1(spans.count(predicted, label, _size(predicted, label)).sum(axis=0)))


def _number(tags: Tags) -> int:
    return int(np.count_nonzero(tags.values % 2))


def _size(*tags: Tags) -> int:
    return 1 + max(int(one.values.max(initial=0)) for one in tags)


def _ratio(counts: Counts, *below: int) -> Float[np.ndarray, "*N"]:
    whole = counts.sum(axis=-1)
    return np.asarray(len(below) * whole[..., 0] / np.maximum(whole[..., list(below)].sum(axis=-1), 1))


class Entities(Tagging):
    """Spans of words with a type.  Tags may be IOB1, BIO, BIOES or BILOU; the model predicts BIO, or BIOES for such.

    Labels are the ids of `fjt.tasks.spans`, which do not depend on the scheme.  A predicted I- that goes on with
    nothing begins a span.
    """

    name = "entities"
    decode_options = ("constrained",)
    schemes = spans.SCHEMES
    metrics = {
        "entity_f1": f1,
        "entity_precision": precision,
        "entity_recall": recall,
        "entity_macro_f1": macro_f1,
        "token_accuracy": accuracy,
    }
    counts = {
        "entity_f1": (spans.count, lambda counts: _ratio(counts, 1, 2)),
        "entity_precision": (spans.count, lambda counts: _ratio(counts, 1)),
        "entity_recall": (spans.count, lambda counts: _ratio(counts, 2)),
        "entity_macro_f1": (spans.count, mean_f1),
        "token_accuracy": (count_hits, share),
    }
    table_metrics = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
    bounds = dict.fromkeys(metrics, (0, 1))

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        place_of: dict[str, str] = {}
        scheme = "bio"
        for cell in cells:
            for prefix, kind in self._parse(cell):
                place_of.setdefault(kind, cell.place)
                scheme = "bioes" if prefix in ("E", "S") else scheme
        types = sorted(place_of.keys() - {""})
        names = spans.names_of(types, scheme) if types else ()
        return {name: place_of[name[2:]] if name.startswith("B-") else "" for name in names}

    def _parse(self, cell: Cell) -> list[spans.Tag]:
        tags = self._tags(cell) or ()
        return [spans.parse(tag, f"{cell.place}, word {at}") for at, tag in enumerate(tags, 1)]

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Tags:
        if not codes:
            raise UserError(
                "No tag of the training file begins an entity, so there is nothing to learn. Check "
                "config.data.columns.label."
            )
        if missing := set(spans.names_of(_types(tuple(codes)), _scheme(codes))) - set(codes):
            raise UserError(
                f"config.data.label_names lacks {min(missing)}. It should hold O, and of each type "
                f"{' '.join(f'{prefix}-' for prefix in spans.PREFIXES[_scheme(codes)])}."
            )
        found = super().read_labels(cells, codes)
        _warn_of_repairs(cells, [self._parse(cell) for cell in cells])
        return found

    def _read(self, cell: Cell, ids: Mapping[str, int]) -> list[int]:
        types = _types(tuple(ids))
        for at, (_, kind) in enumerate(tags := self._parse(cell), 1):
            if kind and kind not in types:
                raise UserError(
                    f"{cell.place}, word {at}: the type {kind!r} is not among those of the training data or of "
                    f"config.data.label_names: {', '.join(types)}. Correct the tag."
                )
        if not tags and cell.required:
            raise cell.missing()
        return spans.to_ids(spans.read(tags)[0], len(tags), types).tolist()

    def tag_ids(self, label: Tags, task: Task) -> Int[np.ndarray, " M"]:
        names, types = task.label_names, _types(task.label_names)
        ids = {name: number for number, name in enumerate(names)}
        rows = [label[row] for row in range(len(label))]
        written = [spans.write(spans.from_ids(row, types), len(row), _scheme(names)) for row in rows]
        return np.array([ids[tag] for tags in written for tag in tags], np.int32)

    def continued(self, ids: Int[np.ndarray, " m"], task: Task) -> Int[np.ndarray, " m"]:
        """As Hugging Face's script has them: I- behind B-, all others the same."""
        number = {name: at for at, name in enumerate(task.label_names)}
        after = [number[f"I-{name[2:]}" if name.startswith("B-") else name] for name in task.label_names]
        return np.where(ids < 0, ids, np.array(after, np.int32)[ids])

    def choose(self, logits: Ragged, task: Task) -> Int[np.ndarray, " M"]:
        if not task.constrained:
            return super().choose(logits, task)
        tags = [spans.parse(name, "") for name in task.label_names]
        return Ragged.of((spans.best_path(row.astype(np.float64), tags) for row in logits), np.int64).values

    def decode(self, logits: Ragged, task: Task) -> Predictions:
        found, types = super().decode(logits, task), _types(task.label_names)
        parsed = [spans.read([spans.parse(tag, "") for tag in row])[0] for row in found.labels]
        lengths = logits.lengths.tolist()
        ids = [spans.to_ids(row, count, types) for row, count in zip(parsed, lengths, strict=True)]
        names = [spans.write(row, count, "bio") for row, count in zip(parsed, lengths, strict=True)]
        return Predictions(Ragged.of(ids, np.int32), names, found.probabilities)

    def details(self, logits: Ragged, predicted: Predictions, split: Split, task: Task) -> dict[str, list[Any]]:
        """{"entities": a list per row of {type, text, start, end, score}}.

        Start and end count characters; the score is the mean, over the entity's words, of the probability of its type.
        """
        assert split.words is not None and isinstance(predicted.probabilities, Ragged), "a split of this kind has words"
        rows = zip(predicted.values, predicted.probabilities, split.text, split.words, strict=True)
        return {"entities": [_entities(ids, shares, text, words, task) for ids, shares, text, words in rows]}

    def describe_label(self, label: Int[np.ndarray, " n"], task: Task) -> str:
        types = _types(task.label_names)
        return " ".join(spans.write(spans.from_ids(label, types), len(label), "bio"))

    def per_class(self, predicted: Tags, label: Tags, task: Task) -> list[dict[str, Any]]:
        types = _types(task.label_names)
        counts = spans.count(predicted, label, len(types)).sum(axis=0)
        return class_rows(types, *counts)

    def constant(self, label: Tags) -> Tags:
        return Ragged(np.zeros_like(label.values), label.offsets)


def _entities(
    ids: Int[np.ndarray, " n"], shares: Float[np.ndarray, "n C"], text: str, words: Sequence[str], task: Task
) -> list[dict[str, Any]]:
    """The entities of one row of `Entities.details`."""
    found, places = [], []
    for first, end, kind in spans.from_ids(ids, _types(task.label_names)):
        places = places or word_places(text, words)
        start, stop = places[first][0], places[end - 1][1]
        of_kind = [name[2:] == kind for name in task.label_names]
        score = float(shares[first:end, of_kind].sum(axis=1).mean())
        found.append({"type": kind, "text": text[start:stop], "start": start, "end": stop, "score": round(score, 6)})
    return found


def _warn_of_repairs(cells: Sequence[Cell], rows: Sequence[list[spans.Tag]]) -> None:
    """Says how many tags of a file go on with nothing.  In IOB1 that is how spans begin."""
    repairs = {cell.place: count for cell, tags in zip(cells, rows, strict=True) if (count := spans.read(tags)[1])}
    if repairs and not all(map(spans.is_iob1, rows)):
        log.warning(
            "%d tags I- or E- in %d sentences go on with no entity of their type; each begins one, as in conlleval. "
            "The first one is in %s.",
            sum(repairs.values()),
            len(repairs),
            next(iter(repairs)),
        )


def _scheme(names: Sequence[str]) -> str:
    """The scheme of a set of tags."""
    return "bioes" if any(name.startswith(("E-", "S-", "L-", "U-")) for name in names) else "bio"


@functools.lru_cache(maxsize=8)  # asked for each sentence
def _types(names: tuple[str, ...]) -> list[str]:
    """The types of tags, in the order in which they are listed."""
    return list(
        dict.fromkeys(kind for _, kind in (spans.parse(name, "config.data.label_names") for name in names) if kind)
    )


ENTITIES = Entities()
