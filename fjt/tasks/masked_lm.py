"""Masked language modelling: the tokens that masks hide in documents (Devlin et al. 2019)."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

from fjt.core.errors import UserError
from fjt.core.options import MaskConfig
from fjt.core.prng import Array
from fjt.core.ragged import Ragged
from fjt.data import masking
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import Cell
from fjt.data.masking import Masking
from fjt.tasks import jackknife
from fjt.tasks.problem import Logits, Predictions, Problem

BEST = 5  # tokens that are predicted for a slot, most probable first
TRUE, OTHER = range(2)  # columns of `reduce`
FIRST = 2  # the column of the first of the best tokens: ids, and behind them their log-probabilities

Read = Ragged  # f32[M, FIRST + 2 BEST] of the slots, a row per document
Fits = Ragged  # f32[M, 2]: log-probabilities of the true token, and of the best of the others
Tokens = Ragged  # i32[M], the true ids of the slots
Sums = Float[np.ndarray, "*N 2 1"]  # of each document: the sum of a value over its slots, and their number


def perplexity(predicted: Fits, label: Tokens) -> float:
    """The exponential of the mean of -log p(true token) over all slots."""
    del label
    return float(np.exp(-np.mean(predicted.values[:, TRUE], dtype=np.float64)))


def accuracy(predicted: Fits, label: Tokens) -> float:
    """The share of slots at which no token is as probable as the true one."""
    del label
    return float(np.mean(hits(predicted)))


def hits(predicted: Fits) -> Bool[np.ndarray, " M"]:
    """Whether the true token of each slot is the most probable one."""
    return np.asarray(predicted.values[:, TRUE] > predicted.values[:, OTHER])


def _share(sums: Sums) -> Float[np.ndarray, "*N"]:
    return np.asarray(sums[..., 0, 0] / np.maximum(sums[..., 1, 0], 1))


SCORES: dict[str, Callable[[Sums], Float[np.ndarray, "*N"]]] = {
    "perplexity": lambda sums: np.exp(-_share(sums)),
    "accuracy": _share,
}


class MaskedLM(Problem):
    """The tokens at the slots of documents.  Labels are their ids, a row per document, known once they are drawn.

    Of a slot, a run keeps the columns of `reduce`: the log-probabilities of the true token and of the best of the
    others, and the BEST most probable tokens.  Metrics compare the first two.
    """

    name = "masked_lm"
    unit = "document"
    one_slot = False
    documents = True
    head = "masked"
    metrics = {"accuracy": accuracy, "perplexity": perplexity}
    table_metrics = ("accuracy", "perplexity")
    lower_is_better = ("perplexity",)
    bounds = {"accuracy": (0, 1)}
    hub_task = "fill-mask"
    unnamed = "the tokens of the model"
    constant_name = "the frequencies of dev's tokens"

    # Data.

    def find_labels(self, cells: Sequence[Cell]) -> dict[str, str]:
        return {}

    def read_labels(self, cells: Sequence[Cell], codes: Sequence[str]) -> Tokens:
        return Ragged.of([()] * len(cells), np.int32)

    def is_labelled(self, label: Tokens) -> Bool[np.ndarray, " N"]:
        return label.lengths > 0

    def draw(
        self,
        examples: Examples,
        tokenizer: Any,
        options: MaskConfig,
        key: UInt32[np.ndarray, "2"],
        epoch: int = 0,
    ) -> Examples:
        """The examples with masks.  Raises UserError where the tokenizer has none, or the shares exceed one."""
        return masking.draw(examples, _masking(tokenizer, options), key, epoch)

    def label_rows(self, split: Split, examples: Examples) -> Split:
        return dataclasses.replace(split, label=_real(examples.label, examples))

    def pick_slots(self, examples: Examples, tokenizer: Any) -> Examples:
        """The examples with a slot at each mask of the texts."""
        places = np.flatnonzero(examples.token_ids == _mask_of(tokenizer))
        if not len(places):
            raise UserError(f"No text has a mask, {tokenizer.mask_token}, at which a token could be predicted.")
        owner = np.searchsorted(examples.offsets, places, side="right") - 1
        return dataclasses.replace(
            examples,
            label=np.zeros(len(places), np.int32),
            slot_token=(places - examples.offsets[owner]).astype(np.int32),
            slot_offsets=np.searchsorted(places, examples.offsets),
        )

    def name_labels(self, task: Task, tokenizer: Any) -> Task:
        tokens = {number: token for token, number in tokenizer.get_vocab().items()}
        return dataclasses.replace(task, label_names=tuple(tokens.get(i, "") for i in range(max(tokens) + 1)))

    def num_outputs(self, task: Task) -> int:
        return 0  # the head has an output for each row of the table of words

    def output_names(self, task: Task) -> tuple[str, ...]:
        return ()

    def by_row(self, logits: Logits, examples: Examples, split: Split, task: Task) -> Read:
        return _real(logits, examples)

    def describe_label(self, label: Int[np.ndarray, " n"], task: Task) -> str:
        return " ".join(_names(label, task))

    def count_labels(self, label: Tokens, task: Task) -> Int[np.ndarray, " C"]:
        return np.zeros(0, int)

    # Training.

    def loss(
        self, logits: Float[Array, "*slots C"], batch: dict[str, Array], hyper: Any
    ) -> tuple[Float[Array, "*slots"], Float[Array, "*slots"]]:
        del hyper
        label = batch["label"]
        weight = (label >= 0).astype(jnp.promote_types(logits.dtype, jnp.float32))
        return -_log_probability(logits, jnp.maximum(label, 0)) * weight, weight

    # Evaluation.

    def reduce(self, logits: Float[Array, "*slots C"], batch: dict[str, Array]) -> Float[Array, "*slots K"]:
        """(log p(true), log p(best other), ids and log-probabilities of the BEST tokens) of each slot."""
        logits = logits.astype(jnp.float32)
        # Without the barrier XLA merges the choice into its uses, and on a processor computes it ninety times as long.
        best, ids = jax.lax.optimization_barrier(jax.lax.top_k(logits, BEST))
        total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        label = jnp.maximum(batch["label"], 0)[..., None]
        true = jnp.take_along_axis(logits, label, axis=-1)
        other = jnp.where(ids[..., :1] == label, best[..., 1:2], best[..., :1])
        parts = (true - total, other - total, ids.astype(jnp.float32), best - total)
        return jnp.concatenate(parts, axis=-1)

    def comparable(self, logits: Float[np.ndarray, "M K"]) -> Float[np.ndarray, "M k"]:
        return logits[:, :FIRST]

    def decode(self, logits: Read, task: Task) -> Predictions:
        found = logits.values[:, FIRST:]
        names = [_names(row, task) for row in Ragged(found[:, 0].astype(np.int32), logits.offsets)]
        shares = Ragged(np.exp(found[:, BEST].astype(np.float64)), logits.offsets)
        return Predictions(Ragged(logits.values[:, :FIRST], logits.offsets), names, shares)

    def dev_loss(self, logits: Logits, examples: Examples, task: Task) -> float:
        return float(-np.mean(logits[examples.label >= 0, TRUE], dtype=np.float64))

    def scorer(self, metric: str, predicted: Fits, label: Tokens) -> Callable[[Int[np.ndarray, " m"]], float]:
        """As of other kinds, from sums of each document."""
        sums = _sums(metric, predicted)
        return lambda rows: float(SCORES[metric](sums[rows].sum(axis=0)))

    def pseudo_values(self, metric: str, predicted: Collection[Fits], label: Tokens) -> Float[np.ndarray, "n N"]:
        return jackknife.of_counts(np.stack([_sums(metric, one) for one in predicted]), SCORES[metric])

    def constant(self, label: Tokens) -> Fits:
        """The frequencies of the tokens that are to be predicted, whatever the text."""
        _, at, counts = np.unique(label.values, return_inverse=True, return_counts=True)
        first, second = counts.argmax(), np.sort(np.append(counts, 0))[-2]
        others = np.where(np.arange(len(counts)) == first, second, counts.max())
        with np.errstate(divide="ignore"):
            found = np.log(np.stack([counts, others], axis=1) / counts.sum()).astype(np.float32)
        found[first, OTHER] = min(found[first, OTHER], np.nextafter(found[first, TRUE], np.float32(-np.inf)))  # a tie
        return Ragged(found[at], label.offsets)

    def perfect(self, label: Tokens) -> Fits:
        found = np.log(np.array([0.99, 0.01], np.float32))
        return Ragged(np.broadcast_to(found, (len(label.values), 2)), label.offsets)

    def collapsed(self, predicted: Fits, label: Tokens) -> bool:
        """False: perplexity orders runs that predict one token everywhere as well, such as those at their start."""
        del predicted, label
        return False

    def details(self, logits: Read, predicted: Predictions, split: Split, task: Task) -> dict[str, list[Any]]:
        """{"candidates": for each mask of a text, its BEST tokens with their probabilities}."""
        return {"candidates": [[_candidates(slot, task) for slot in row[:, FIRST:]] for row in logits]}

    def columns(self, logits: Read, task: Task) -> Mapping[str, Sequence[Any] | np.ndarray]:
        predicted = self.decode(logits, task)
        assert isinstance(predicted.probabilities, Ragged), "as decode makes them"
        shares = predicted.probabilities
        return {"predicted": predicted.labels, "probability": Ragged(shares.values.round(6), shares.offsets).tolist()}

    def label_column(self, label: Tokens, task: Task) -> list[str]:
        return [self.describe_label(row, task) for row in label]


@functools.lru_cache(maxsize=4)  # asked for in each step, and a vocabulary is long
def _masking(tokenizer: Any, options: MaskConfig) -> Masking:
    """The Masking that options ask for."""
    given = {name: value for name, value in dataclasses.asdict(options).items() if value is not None}
    ordinary = np.setdiff1d([*tokenizer.get_vocab().values()], tokenizer.all_special_ids)
    found = Masking(_mask_of(tokenizer), ordinary.astype(np.int32), **given)
    if found.replaced + found.random > 1:
        raise UserError(
            f"config.mask.replaced={found.replaced:g} and config.mask.random={found.random:g} are shares of the same "
            "tokens, and more than 1 together. Give less."
        )
    return found


def _mask_of(tokenizer: Any) -> int:
    if tokenizer.mask_token_id is None:
        raise UserError("The model's tokenizer has no mask_token, so that no token can be masked. Use another model.")
    return int(tokenizer.mask_token_id)


def _real(values: np.ndarray, examples: Examples) -> Ragged:
    """The values of the slots that are in use, a row per document."""
    used = examples.label >= 0
    return Ragged(values[used], np.concatenate([[0], np.cumsum(used)])[examples.row_slots])


def _log_probability(logits: Float[Array, "*slots C"], ids: Int[Array, "*slots"]) -> Float[Array, "*slots"]:
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _names(ids: Int[np.ndarray, " n"], task: Task) -> list[Any]:
    """The tokens of ids, or the ids themselves where there are no names, such as those of a table's spare rows."""
    names = task.label_names
    return [(number < len(names) and names[number]) or f"[{number}]" for number in ids.tolist()]


def _candidates(slot: Float[np.ndarray, " n"], task: Task) -> list[list[Any]]:
    names = _names(slot[:BEST].astype(np.int32), task)
    return [[name, round(float(np.exp(share)), 6)] for name, share in zip(names, slot[BEST:], strict=True)]


def _sums(metric: str, predicted: Fits) -> Float[np.ndarray, "N 2 1"]:
    """Of each document, the sum of what a metric is the mean of, and the number of slots."""
    values = hits(predicted) if metric == "accuracy" else predicted.values[:, TRUE]
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.stack([np.diff(total[predicted.offsets]), predicted.lengths], axis=-1)[..., None]


MASKED_LM = MaskedLM()
