"""A run's export, read back by fjt's own reader before it is announced: its tokens and logits are the run's own."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.data import batches
from fjt.data.batches import Examples
from fjt.data.glue import Split
from fjt.experiment import predictor
from fjt.experiment.predictor import Predictor
from fjt.experiment.prepared import Experiment
from fjt.interop import adapter, formats, peft
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.problem import Problem
from fjt.tuning import partition

TEXTS = ("A", "an ordinary sentence, with a comma.", "Three (3) more words: why?", "the end " * 20)
NO_LABELS = np.full(len(TEXTS), -1, np.int32)
ROWS = 8  # of dev, the longest one among them
# Largest difference of two logits, as a share of the largest logit, or of 1: programs of other shapes, and merged
# kernels, round otherwise.
TOLERANCE = {"float32": 1e-2, "bfloat16": 1e-1}

Logits = Float[np.ndarray, "M C"]
# Parameters as numpy arrays -> logits of dev by the run's compiled program, NaN where they are not computed.
Evaluate = Callable[[tree.Tree], Logits]


def check(
    experiment: Experiment, directory: str, params: tree.Tree, logits: Logits, evaluate: Evaluate | None = None
) -> None:
    """Raises UserError for exports that do not compute what the run computed.

    Args:
        experiment: the run.
        directory: its `export/`.
        params: all its parameters, numpy arrays.
        logits: of dev.
        evaluate: serves exports that have the run's own model and parameters; the others, or all without it, are
            evaluated by a program of their own.

    Raises:
        UserError: an export differs.
    """
    rows = _choose(experiment.examples["dev"])
    for folder, found in _read(experiment, directory):
        _check_model(experiment, folder, found)
        examples = _check_tokens(experiment, folder, found, rows)
        if evaluate and _same(found.params, params) and _same_options(experiment, found):
            computed = evaluate(found.params)
            done = np.isfinite(computed).all(axis=1)  # the same bits as the run's parameters give no other NaN
            computed, expected = computed[done], logits[done]
        else:
            computed, expected = (
                found.logits(examples),
                logits[_slots(experiment.examples["dev"], rows)],
            )
        compared = experiment.problem.comparable
        _check_logits(folder, compared(computed), compared(expected), experiment.model.dtype)


def _choose(examples: Examples) -> Int[np.ndarray, " n"]:
    """Rows of a split: the longest one and the first ones."""
    lengths = np.diff(examples.offsets[examples.row_offsets])
    return np.unique([int(np.argmax(lengths)), *range(min(ROWS - 1, len(lengths)))])


def _slots(examples: Examples, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The slots of rows."""
    bounds = examples.row_slots
    return np.concatenate([np.arange(int(bounds[row]), int(bounds[row + 1])) for row in rows])


def _read(experiment: Experiment, directory: str) -> Iterator[tuple[str, Predictor]]:
    """Yields (folder, Predictor) of each export, of an adapter over the run's own base model."""
    options, task = dataclasses.asdict(experiment.settings.experiment.model), experiment.task
    for folder in (directory, os.path.join(directory, "merged")):
        if os.path.exists(os.path.join(folder, "config.json")):
            with _reading(folder):
                found = predictor.read(folder, task, options)
            yield folder, found
    folder = os.path.join(directory, "adapter")
    if os.path.exists(os.path.join(folder, adapter.CONFIG)):
        base = {name: experiment.params[name] for name in ("encoder", "head")}
        config, readers = experiment.model.config, [adapter.read]
        if os.path.exists(os.path.join(folder, peft.CONFIG)):  # PEFT's or AdapterHub's files, next to fjt's own
            readers.append(functools.partial(formats.read_other, config=config))
        for read in readers:
            with _reading(folder):
                found = predictor.read_over(folder, read(folder), base, config, task, options)
            yield folder, found


@contextlib.contextmanager
def _reading(folder: str) -> Iterator[None]:
    """A context in which an export that fjt's own reader refuses is another model than the run's."""
    try:
        yield
    except UserError as error:
        raise _differs(folder, f"it cannot be read ({error})") from None


def _check_model(experiment: Experiment, folder: str, found: Predictor) -> None:
    theirs, ours = (dataclasses.asdict(config) for config in (found.model.config, experiment.model.config))
    for name, value in ours.items():
        if theirs[name] != value:
            raise _differs(folder, f"its {name} is {theirs[name]!r}, but the run computed with {value!r}")


def _check_tokens(experiment: Experiment, folder: str, found: Predictor, rows: Int[np.ndarray, " n"]) -> Examples:
    """The Examples of rows of dev by an export's tokenizer.  Raises UserError where the run has others."""
    split, wanted = experiment.splits["dev"], experiment.examples["dev"]
    chosen, bounds = split.take(rows), wanted.row_offsets
    texts = experiment.problem.targets(chosen, found.read(chosen), experiment.task)
    numbers = np.concatenate([np.arange(int(bounds[row]), int(bounds[row + 1])) for row in rows])
    taken = batches.take(wanted, numbers)
    if (len(texts), len(texts.part_offsets)) != (len(taken), len(taken.part_offsets)):
        raise _differs(folder, f"its tokenizer makes {len(texts)} examples of texts of which the run made {len(taken)}")
    made = experiment.draw("dev", dataclasses.replace(texts, numbers=taken.numbers), found.tokenizer)
    mine, theirs = made.offsets[made.row_offsets], wanted.offsets[wanted.row_offsets]
    for i, row in enumerate(rows):
        for name, what in (("token_ids", "tokens"), ("type_ids", "token types")):
            here = getattr(made, name)[mine[i] : mine[i + 1]].tolist()
            there = getattr(wanted, name)[theirs[row] : theirs[row + 1]].tolist()
            if here != there:
                raise _differs(
                    folder,
                    f"its tokenizer gives the {what} {here} to row {split.id[row]!r} of dev, the run had {there}",
                )
    return made


def _same(one: tree.Tree, other: tree.Tree) -> bool:
    """Whether two trees have the same leaves."""
    one, other = tree.flatten(one), tree.flatten(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _same_options(experiment: Experiment, found: Predictor) -> bool:
    """Whether the methods of an export have the run's options, which the run's program computes with."""
    methods = partition.find_methods(experiment.settings.experiment.tune)
    return all(methods.get(name) == partition.complete(name, options) for name, options in found.methods.items())


def check_conversion(
    name: str, read: Callable[[], Predictor], run: Predictor, pairs: bool, problem: Problem = CLASSIFICATION
) -> None:
    """Raises UserError for an export in another form that does not give the tokens and logits of the run's own.

    Args:
        name: of the new export, for messages.
        read: reads it.
        run: the Predictor of the run's own export.
        pairs: whether the run reads pairs.
        problem: says whether it reads lists of words, or choices.

    Raises:
        UserError: it gives others, or cannot be read.
    """
    with _reading(name):
        found = read()
    listed = tuple(tuple(text.split()) for text in TEXTS) if problem.words else None
    second, choices = TEXTS[::-1] if pairs else None, (TEXTS,) * len(TEXTS) if problem.choices else None
    split = Split(tuple(map(str, range(len(TEXTS)))), TEXTS, second, NO_LABELS, words=listed, choices=choices)
    made, wanted = (one.with_room(one.read(split)) for one in (found, run))
    for field in ("token_ids", "type_ids", "offsets"):
        if getattr(made, field).tolist() != getattr(wanted, field).tolist():
            raise _differs(name, "its tokenizer gives other tokens")
    logits, expected = problem.comparable(found.logits(made)), problem.comparable(run.logits(wanted))
    _check_logits(name, logits, expected, found.model.dtype)


def _check_logits(folder: str, found: Logits, expected: Logits, dtype: str) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    apart = np.abs(found - expected)
    if not (apart <= TOLERANCE[dtype] * scale).all():  # NaN is not
        place = np.unravel_index(int(np.argmax(apart)), apart.shape)
        raise _differs(folder, f"it gives the logit {found[place]:.6f} where the run computed {expected[place]:.6f}")


def _differs(folder: str, what: str) -> Exception:
    return UserError(
        f"The export {folder} does not give the run's predictions: {what}. This is a fault of fjt; please report it. "
        "The run's own predictions are written; a run that has not finished does so without an export by "
        "--config.output.export=False."
    )
