"""Small models and made-up examples that the tests share, and a loop over the pure step."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from fjt.core import seeds, tree
from fjt.core.options import OptimConfig, TuneConfig
from fjt.data import batches, masking, packing
from fjt.models.encoder import EncoderConfig, Model
from fjt.tasks.kinds import find_problem
from fjt.training.hyper import Hyper
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import partition

CONFIG = EncoderConfig(
    family="bert", layers=2, width=32, heads=4, inner=64, vocab=100, positions=64, types=2, epsilon=1e-12,
    activation="gelu", stddev=0.2, dropout_hidden=0.1, dropout_attention=0.1, dropout_classifier=0.1,
)  # fmt: skip
CONFIG_JSON = {  # the same model
    "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
    "intermediate_size": 64, "vocab_size": 100, "max_position_embeddings": 64, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12, "hidden_act": "gelu", "initializer_range": 0.2, "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}  # fmt: skip

ADAMW = OptimConfig(
    name="adamw", learning_rate=1e-3, multipliers=(), weight_decay=0.01, schedule="constant", warmup_fraction=0.0,
    final_fraction=0.0, power=1.0, cycles=1, clip_norm=1.0, b1=0.9, b2=0.999, eps=1e-8, momentum=0.9,
)  # fmt: skip


def tiers(cases, *first, slow=()):
    """The cases of a test, for parametrize: the default suite runs the first ones, CI also those that are not slow."""
    assert all(case in cases for case in (*first, *slow)), "renamed?"
    marks = [() if case in first else pytest.mark.slow if case in slow else pytest.mark.thorough for case in cases]
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]


def tune(*method, **options):
    """TuneConfig of methods with the options given, the others open."""
    return TuneConfig(method, **options)


def double(cls, **values):
    """Stands in for an instance of a class: one that has these attributes alone."""
    made = object.__new__(cls)
    vars(made).update(values)
    return made


def whole(logits, batch):
    """All logits, as `Problem.reduce` gives them by default."""
    return logits


@functools.cache
def base():
    return jax.tree.map(np.asarray, jax.jit(Model(CONFIG, 2).init)(seeds.make_key(0, "init")))


def make_examples(num=100, longest=24, seed=0, vocab=100, kind="classification", classes=2):
    """Examples of random tokens with lengths 3..longest and second segments."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, num)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    types = np.concatenate([(np.arange(n) >= n // 2).astype(np.int8) for n in lengths])
    token_ids = rng.integers(5, vocab, offsets[-1]).astype(np.int32)
    if kind == "classification":
        label = rng.integers(0, classes, num).astype(np.int32)
    else:
        label = rng.normal(size=num).astype(np.float32)
    return batches.Examples(token_ids, types, offsets, label, 0)


def labelled(label):
    """Examples of one token each with these labels."""
    count = len(label)
    return batches.Examples(np.full(count, 5, np.int32), np.zeros(count, np.int8), np.arange(count + 1), label, 0)


def make_words(num=100, longest=24, seed=0, vocab=100):
    """Examples of words of one or two tokens: each has a slot at its first token, and one of three tags.

    One example in eight has no tags.
    """
    rng, examples = np.random.default_rng(seed + 1), make_examples(num, longest, seed, vocab)
    first = [np.flatnonzero(np.r_[True, rng.random(n - 2) < 0.7]) + 1 for n in examples.lengths]  # after [CLS]
    offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in first])])
    label = rng.integers(0, 3, offsets[-1]).astype(np.int32)
    label[np.repeat(np.arange(num) % 8 == 5, np.diff(offsets))] = -1
    slot_token = np.concatenate(first).astype(np.int32)
    return dataclasses.replace(examples, label=label, slot_token=slot_token, slot_offsets=offsets)


def make_windows(num=100, longest=24, seed=0, vocab=100):
    """Examples with a slot at every token, one of which starts an answer and a later one ends it.

    One example in eight has no label.
    """
    rng, examples = np.random.default_rng(seed + 2), make_examples(num, longest, seed, vocab)
    label, counts = np.zeros(len(examples.token_ids), np.int32), examples.lengths
    places = examples.offsets[:-1, None] + np.sort(rng.integers(0, counts[:, None], (num, 2)), axis=1)
    for bit, at in zip((1, 2), places[np.arange(num) % 8 != 5].T, strict=True):
        label[at] |= bit
    slot_token = np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
    return dataclasses.replace(examples, label=label, slot_token=slot_token, slot_offsets=examples.offsets)


def make_choices(num=100, longest=24, seed=0, vocab=100):
    """Examples of two to four parts, with a slot at the first token of each, one of which is the right choice."""
    rng = np.random.default_rng(seed + 3)
    counts = rng.integers(2, 5, num)
    parts, slot_offsets = make_examples(counts.sum(), longest // 4, seed, vocab), np.concatenate([[0], counts.cumsum()])
    offsets = parts.offsets[slot_offsets]
    number = np.arange(counts.sum()) - np.repeat(slot_offsets[:-1], counts)
    right = number == np.repeat(rng.integers(0, counts), counts)
    return dataclasses.replace(
        parts,
        offsets=offsets,
        label=np.stack([right, number], axis=-1).astype(np.int32),
        slot_token=(parts.offsets[:-1] - np.repeat(offsets[:-1], counts)).astype(np.int32),
        slot_offsets=slot_offsets,
        row_offsets=np.arange(num + 1),
        part_offsets=parts.offsets,
    )


def make_masked(num=100, longest=24, seed=0, vocab=100):
    """Examples of which every third token or so is masked, as in the first epoch."""
    examples = make_examples(num, longest, seed, vocab)
    slot_token = np.concatenate([np.arange(1, n - 1, dtype=np.int32) for n in examples.lengths])
    slot_offsets = np.concatenate([[0], np.cumsum(examples.lengths - 2)])
    every = dataclasses.replace(examples, label=slot_token.copy(), slot_token=slot_token, slot_offsets=slot_offsets)
    return masking.draw(every, masking.Masking(4, np.arange(5, vocab, dtype=np.int32), 0.3), seeds.make_key(0, "m"), 0)


SEVERAL = "topic:classification:2:accuracy+grade:regression:1:pearson"


def make_several(num=100, longest=24, seed=0, vocab=100):
    """Examples of two tasks, two of three of the first one."""
    examples, rng = make_examples(num, longest, seed, vocab), np.random.default_rng(seed + 4)
    number = (np.arange(num) >= 2 * num // 3).astype(np.float32)
    label = np.where(number, rng.normal(size=num).astype(np.float32), examples.label)
    return dataclasses.replace(examples, label=np.stack([number, label], axis=-1).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of problem, for the tests of a step.

    Attributes:
        name: of its Problem.
        classes: number of its outputs.
        make_examples: (number, length of the longest) -> Examples with their slots and labels.
        tasks: number of tasks, where their weights follow those of the outputs.
    """

    name: str
    classes: int
    make_examples: Any
    tasks: int = 0

    @property
    def weights(self):
        return self.classes + self.tasks

    @property
    def loss(self):
        return find_problem(self.name).loss

    def make_model(self, config, **facts):
        problem = find_problem(self.name)
        return Model(config, self.classes, one_slot=problem.one_slot, head=problem.head, **facts)


KINDS = {  # the tests of layout, lanes and resume have a case for each
    "classification": Kind("classification", 2, make_examples),
    "tagging": Kind("tagging", 3, make_words),
    "question_answering": Kind("question_answering", 2, make_windows),
    "multiple_choice": Kind("multiple_choice", 1, make_choices),
    "masked_lm": Kind("masked_lm", 0, make_masked),
    "several": Kind(SEVERAL, 3, make_several, 2),
}


def make_hyper(rate=1e-3, dropout=0.1, clip=1.0, decay=0.01, smoothing=0.0, classes=2, seed=0, dtype=np.float32):
    """Hyper with one dropout rate for all sites."""
    values = dict(
        learning_rate=rate,
        weight_decay=decay,
        clip_norm=clip,
        dropout_hidden=dropout,
        dropout_attention=dropout,
        dropout_classifier=dropout,
        label_smoothing=smoothing,
    )
    values = {name: dtype(value) for name, value in values.items()}
    return Hyper(**values, class_weights=np.ones(classes, dtype), dropout_key=seeds.make_key(seed, "dropout"))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How batches are laid out: what must not matter."""

    groups: int = 1
    accumulation: int = 1
    row_length: int = 0
    one_a_row: bool = False
    batch_size: int = 16


def train(
    layout,
    steps,
    *,
    model=None,
    examples=None,
    hyper=None,
    optim=ADAMW,
    seed=0,
    chosen=None,
    mesh=None,
    params=None,
    dtype=np.float32,
    loss="classification",
    rates=None,
    step=train_step,
    hidden=None,
    most_shapes=3,
):
    """(losses f64[steps], final TrainState, frozen) of a run of the pure step; hidden: as `batches.build` takes it."""
    examples = make_examples() if examples is None else examples
    model = Model(CONFIG, 2, dtype=np.dtype(dtype).name) if model is None else model
    hyper = make_hyper(dtype=dtype) if hyper is None else hyper
    if params is None:
        params = jax.jit(model.init)(seeds.make_key(seed, "init"))
    params = jax.tree.map(lambda x: np.asarray(x, dtype), params)
    trainable, frozen = tree.split(params, set(tree.flatten(params)) if chosen is None else chosen)
    frozen = partition.split_below(frozen, model.start, model.config.layers)[1]
    schedule = batches.Schedule(len(examples), layout.batch_size, seed)
    indices = schedule.batches(0, steps)
    plan = packing.plan(
        batches.lengths_of(examples, indices),
        groups=layout.groups,
        row_length=layout.row_length,
        one_a_row=layout.one_a_row,
        width=model.config.width,
        most_shapes=most_shapes,
    )
    shapes = plan.shapes
    if model.start == model.config.layers:
        shapes = [packing.Shape(layout.groups, 0, 0, -(-layout.batch_size // layout.groups))] * len(shapes)
    optimizer = make_optimizer(optim)
    compiled = jax.jit(
        functools.partial(
            step, model=model, loss=find_problem(loss).loss, optimizer=optimizer, accumulation=layout.accumulation
        ),
    )
    state = init_state(trainable, hyper, optimizer)
    put = (lambda x: x) if mesh is None else mesh
    seen = []
    for k in range(steps):
        batch, _ = batches.build(examples, indices[k], shapes[plan.shape_of[k]], layout.one_a_row, hidden)
        batch["weight"] = batch["weight"].astype(dtype)
        if rates is not None:
            hyper = dataclasses.replace(hyper, learning_rate=dtype(rates[k]))
        state, metrics = compiled(state, frozen, put(batch), hyper)
        seen.append(float(metrics["loss"]))
    return np.array(seen), state, frozen
