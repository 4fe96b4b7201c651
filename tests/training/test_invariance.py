"""Layout must not matter: rows, row length, accumulation and devices give the same losses, with dropout on.

Float32: the first 20 losses within 2e-6 relative. Float64: 60 losses within 1e-12, which proves the first to be
rounding. Each check is also given mutants of the code, which it must reject.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import fjt.training.step
from fjt.core import seeds
from fjt.core.options import ExperimentConfig, TrainConfig
from fjt.data import augmentation, batches, packing
from fjt.data.glue import Split
from fjt.experiment.layout import make_schedule
from fjt.models import blocks, encoder, heads, layers
from fjt.tasks import segments
from fjt.tasks.classification import CLASSIFICATION
from fjt.training import placement
from fjt.training.optim import make_optimizer
from fjt.training.schedules import average_rates
from fjt.training.step import init_state, train_step

BATCH = 32
EXAMPLES = {name: kind.make_examples(150, 24) for name, kind in small.KINDS.items()}  # the fifth batch is short

REFERENCE = small.Layout(row_length=64, batch_size=BATCH)
LAYOUTS = {
    "one_a_row": small.Layout(one_a_row=True, batch_size=BATCH),
    "row_length": small.Layout(row_length=40, batch_size=BATCH),
    "accumulation": small.Layout(groups=4, accumulation=4, row_length=64, batch_size=BATCH),
    "devices": small.Layout(groups=4, row_length=64, batch_size=BATCH),
    "devices_and_accumulation": small.Layout(groups=4, accumulation=2, row_length=64, batch_size=BATCH),
    "all at once": small.Layout(groups=4, accumulation=2, one_a_row=True, batch_size=BATCH),
}
TOLERANCE = {np.float32: (20, 2e-6), np.float64: (60, 1e-12)}
CASES = [(name, np.float64, "classification") for name in LAYOUTS]
CASES += [(name, np.float32, "classification") for name in ("one_a_row", "devices_and_accumulation")]
CASES += [("all at once", np.float64, kind) for kind in small.KINDS if kind != "classification"]
FIRST = [case for case in CASES if case[1] is np.float64]


def hyper(dtype, kind):
    """Dropout everywhere, smoothing, and weights that differ by class, so that parts of a batch weigh unequally."""
    made = small.make_hyper(dtype=dtype, smoothing=0.1)
    return dataclasses.replace(
        made, class_weights=np.array([1.0, 1.7, 0.6, 1.3, 0.4][: small.KINDS[kind].weights], dtype)
    )


@functools.cache
def initial(kind):
    with jax.enable_x64(False):
        params = jax.jit(small.KINDS[kind].make_model(small.CONFIG).init)(seeds.make_key(0, "init"))
    return jax.tree.map(np.asarray, params)


def train(*arguments, **options):
    """f64[steps]: the losses of a run, see `run`."""
    return run(*arguments, **options)[0]


def run(
    layout,
    dtype,
    steps,
    update=True,
    kind="classification",
    teacher=None,
    optim=small.ADAMW,
    examples=None,
    schedule=None,
    averages=None,
    **changes,
):
    """(losses f64[steps], last TrainState) of a run. One shape for all batches, so one compilation.

    teacher: {name in a batch: values of the slots that are learned}.  examples: others than those of the kind.
    schedule: the Schedule of their batches.  averages: the average_rate of each step.  changes: other hyper-parameters.

    Without update the weights stay as they were drawn: XLA then drops the backward pass, and compiles soon.
    """
    model = small.KINDS[kind].make_model(small.CONFIG, dtype=np.dtype(dtype).name)
    examples = EXAMPLES[kind] if examples is None else examples
    if averages is not None:
        changes |= {"average_rate": averages[0]}
    made = dataclasses.replace(hyper(dtype, kind), **{name: dtype(value) for name, value in changes.items()})
    optimizer = make_optimizer(optim)
    state = init_state(jax.tree.map(lambda x: jnp.asarray(x, dtype), initial(kind)), made, optimizer)
    put = jnp.asarray
    if layout.groups > layout.accumulation:
        device_mesh = placement.make_mesh(layout.groups // layout.accumulation)
        state = jax.device_put(state, placement.replicated(device_mesh))
        put = functools.partial(jax.device_put, device=placement.by_group(device_mesh))
    step = functools.partial(
        train_step,
        model=model,
        loss=small.KINDS[kind].loss if teacher is None else CLASSIFICATION.distilled_loss,
        divergence=CLASSIFICATION.divergence,
        optimizer=optimizer,
        accumulation=layout.accumulation,
    )
    if update:
        compiled = jax.jit(step, donate_argnums=0)
    else:
        loss_of = jax.jit(lambda *arguments: step(*arguments)[1]["loss"])

        def compiled(state, *others):
            loss = loss_of(state, *others)
            return dataclasses.replace(state, step=state.step + jnp.uint32(1)), {"loss": loss}

    schedule = batches.Schedule(len(examples), layout.batch_size, 0) if schedule is None else schedule
    indices = schedule.batches(0, steps)
    (shape,) = packing.plan(
        batches.lengths_of(examples, indices),
        slots=batches.slots_of(examples, indices),
        groups=layout.groups,
        row_length=layout.row_length,
        one_a_row=layout.one_a_row,
        most_shapes=1,
        width=32,
    ).shapes
    seen, taught = [], {} if teacher is None else {"by_slot": teacher}  # mutants of build do not know it
    for k in range(steps):
        batch, _ = batches.build(examples, indices[k], shape, layout.one_a_row, **taught)
        batch["weight"] = batch["weight"].astype(dtype)
        if averages is not None:
            made = dataclasses.replace(made, average_rate=dtype(averages[k]))
        state, metrics = compiled(state, {}, jax.tree.map(put, batch), made)
        seen.append(metrics["loss"])
    return np.asarray(jax.device_get(seen), np.float64), jax.device_get(state)


@functools.cache
def sound(dtype, name="reference", update=True, kind="classification"):
    """The losses of a layout by the code as it is."""
    with jax.enable_x64(dtype is np.float64):
        return train(LAYOUTS.get(name, REFERENCE), dtype, TOLERANCE[dtype][0] if update else 2, update, kind)


def check(found, reference, dtype):
    """Whether losses are those of the reference."""
    steps, tolerance = TOLERANCE[dtype]
    assert len(found) <= steps and np.isfinite(reference).all()
    np.testing.assert_allclose(found, reference[: len(found)], rtol=tolerance, atol=0)


@pytest.mark.parametrize(("name", "dtype", "kind"), small.tiers(CASES, *FIRST))
def test_layout_does_not_matter(name, dtype, kind):
    check(sound(dtype, name, kind=kind), sound(dtype, kind=kind), dtype)


REGULARIZED = dict(focal=1.5, r_drop=2.0, l1=1e-3, average_rate=0.1)
TAUGHT = dict(soft_weight=0.4, temperature=3.0, hidden_weight=2.0)


def test_layout_does_not_matter_to_focal_loss_r_drop_l1_pulls_to_the_start_averages_and_teachers():
    optim = dataclasses.replace(small.ADAMW, decay_toward="start", weight_decay=0.1)
    rng = np.random.default_rng(0)
    teacher = {"teacher": rng.normal(size=(150, 2)), "teacher_vectors": rng.normal(size=(150, small.CONFIG.width))}
    with jax.enable_x64(True):
        (losses, state), (others, other) = (
            run(layout, np.float64, 8, teacher=teacher, optim=optim, **REGULARIZED, **TAUGHT)
            for layout in (LAYOUTS["all at once"], REFERENCE)
        )
        np.testing.assert_allclose(losses, others, rtol=1e-12)
        for leaves in zip(*map(jax.tree.leaves, (state.result, other.result)), strict=True):
            np.testing.assert_allclose(*leaves, rtol=1e-9, atol=1e-10)  # biases of keys have no gradient but rounding
    apart = jax.tree.map(lambda one, two: float(np.abs(one - two).max()), state.result, state.trainable)
    assert max(jax.tree.leaves(apart)) > 1e-4, "the average over steps is what is compared"
    assert abs(losses[0] / sound(np.float64)[0] - 1) > 0.01


def test_layout_does_not_matter_to_mixup():
    with jax.enable_x64(True):
        losses = [train(layout, np.float64, 6, mixup=1.0) for layout in (LAYOUTS["devices"], REFERENCE)]
        np.testing.assert_allclose(*losses, rtol=1e-12)
    assert abs(losses[0][0] / sound(np.float64)[0] - 1) > 0.01


def test_layout_does_not_matter_to_the_mean_of_the_last_steps():
    """train.swa: the average over steps begins after step 3 of 6, and is not the last step's weights."""
    averages = average_rates(TrainConfig(swa=0.5), 6)
    with jax.enable_x64(True):
        (losses, state), (others, other) = (
            run(layout, np.float64, 6, averages=averages) for layout in (LAYOUTS["accumulation"], REFERENCE)
        )
    np.testing.assert_allclose(losses, others, rtol=1e-12)
    for leaves in zip(*map(jax.tree.leaves, (state.result, other.result)), strict=True):
        np.testing.assert_allclose(*leaves, rtol=1e-9, atol=1e-10)
    apart = jax.tree.map(lambda one, two: float(np.abs(one - two).max()), state.result, state.trainable)
    assert max(jax.tree.leaves(apart)) > 1e-4, "the average over steps is what is compared"
    np.testing.assert_allclose(losses, sound(np.float64)[:6], rtol=1e-12)  # training does not read the average


def rebalanced():
    """(Examples, Schedule): a class of 140 examples has 75 places in an epoch, one of ten has 75 as well."""
    examples = EXAMPLES["classification"]
    examples = dataclasses.replace(examples, label=(np.arange(150) % 15 == 0).astype(np.int32))
    given = ExperimentConfig(train=TrainConfig(batch_size=BATCH, class_shares=("balanced",)))
    schedule = make_schedule(given, CLASSIFICATION, examples, 0)
    first = schedule.batches(0, 1)[0]
    assert len(set(first)) < BATCH, "a batch has an example several times"
    assert len(set(schedule.order(0))) < 140, "an epoch lacks some of the frequent ones"
    return examples, schedule


def augmented():
    """(Examples, None): 75 examples and a changed copy of each, whose words are the ids of tokens."""
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(map(str, rng.integers(5, 100, rng.integers(3, 25)))) for _ in range(75))
    train = Split(tuple(map(str, range(75))), texts, None, rng.integers(0, 2, 75).astype(np.int32))
    made = augmentation.augment(train, (("delete", 0.3), ("swap", 0.2), ("insert", 0.1)), 1, 0, {})
    assert any(len(one.split()) != len(two.split()) for one, two in zip(made.text[:75], made.text[75:], strict=True))
    ids = [np.array(text.split(), np.int32) for text in made.text]
    offsets, token_ids = np.cumsum([0, *map(len, ids)]), np.concatenate(ids)
    return batches.Examples(token_ids, np.zeros(len(token_ids), np.int8), offsets, made.label, 0), None


@pytest.mark.parametrize("make", [rebalanced, augmented])
def test_layout_does_not_matter_to_class_shares_and_augmentation(make):
    examples, schedule = make()
    with jax.enable_x64(True):
        losses = [
            train(layout, np.float64, 8, examples=examples, schedule=schedule)
            for layout in (LAYOUTS["devices"], REFERENCE)
        ]
    np.testing.assert_allclose(*losses, rtol=1e-12)
    assert abs(losses[0][0] / sound(np.float64)[0] - 1) > 0.01


def test_training_moves_and_dropout_acts():
    """The comparison is of losses that change, and that dropout changes."""
    reference = sound(np.float32)
    assert len(set(reference)) == len(reference) and reference[-3:].mean() < reference[:3].mean()
    assert abs(sound(np.float64)[0] / reference[0] - 1) < 1e-5


def test_a_run_without_updates_begins_as_one_with_them():
    """So that mutants can be compared at weights that stay."""
    check(sound(np.float32, update=False)[:1], sound(np.float32), np.float32)


# Mutants: each is rejected by the same check, at the layouts that it gets wrong.


def ignore_segments(monkeypatch):
    """Attention over the whole row."""

    def whole(tokens):
        return dataclasses.replace(tokens, segment=jnp.ones_like(tokens.segment))

    def attend(q, k, v, queries, keys, noise, gate):
        return layers.attend(q, k, v, whole(queries), whole(keys), noise)

    monkeypatch.setattr(blocks, "attend", attend)


def run_on_positions(monkeypatch):
    """Position embeddings that count along the row."""
    build = batches.build

    def counted(examples, indices, shape, one_a_row=False):
        batch, places = build(examples, indices, shape, one_a_row)
        columns = np.broadcast_to(np.arange(shape.row_length, dtype=np.int32), batch["position_ids"].shape)
        return batch | {"position_ids": columns}, places

    monkeypatch.setattr(batches, "build", counted)


def noise_of(monkeypatch, change):
    """Dropout addressed by change(tokens) in place of the tokens' own addresses, everywhere in the encoder."""
    monkeypatch.setattr(encoder, "token_keys", lambda key, tokens, num: layers.token_keys(key, change(tokens), num))


def noise_by_place(monkeypatch):
    """Dropout addressed by the place in the batch."""

    def by_place(tokens):
        place = jnp.arange(tokens.segment.size).reshape(tokens.segment.shape)
        return dataclasses.replace(tokens, example=jnp.zeros_like(tokens.example), position=place)

    noise_of(monkeypatch, by_place)


def noise_by_slot(monkeypatch):
    """Dropout addressed by an example's slot in its group."""
    noise_of(monkeypatch, lambda tokens: dataclasses.replace(tokens, example=tokens.segment))


def noise_by_device(monkeypatch):
    """Each device folds its own number into the address."""

    def by_device(tokens):
        group = jnp.arange(tokens.segment.shape[0]).reshape(-1, 1, 1)
        return dataclasses.replace(tokens, example=tokens.example + 2**20 * group)

    noise_of(monkeypatch, by_device)


def head_noise_by_number(monkeypatch, module, key):
    """The head's dropout addressed by the numbers 0, 1, ... in place of an array of the batch."""
    drop_slots = module.drop_slots

    def by_number(h, batch, noise):
        numbers = jnp.broadcast_to(jnp.arange(batch[key].shape[1])[None], batch[key].shape)
        return drop_slots(h, batch | {key: numbers}, noise)

    monkeypatch.setattr(module, "drop_slots", by_number)


def head_noise_by_slot(monkeypatch):
    """The classifier's dropout addressed by the example's number in the group."""
    head_noise_by_number(monkeypatch, heads, "example")


def word_noise_by_slot(monkeypatch):
    """The dropout of a word's vector addressed by its number in the group."""
    head_noise_by_number(monkeypatch, heads, "slot_position")


def tags_in_reverse(monkeypatch):
    """The tags of a batch in another order than its slots: that of its places."""
    build = batches.build

    def reversed_tags(*arguments):
        batch, places = build(*arguments)
        return batch | {"label": batch["label"][:, ::-1]}, places

    monkeypatch.setattr(batches, "build", reversed_tags)


def softmax_over_the_group(monkeypatch):
    """The starts and ends of all examples in a group compete."""
    sums = segments.log_sums
    monkeypatch.setattr(segments, "log_sums", lambda logits, owner, real: sums(logits, owner * 0, real))


def softmax_over_empty_places(monkeypatch):
    """Places of the batch without a slot compete with the slots of the first example."""
    sums = segments.log_sums
    monkeypatch.setattr(segments, "log_sums", lambda logits, owner, real: sums(logits, owner, real | True))


def mean_of_means(monkeypatch):
    """Each part's mean, averaged: parts with fewer examples, or lighter ones, count too much."""

    def means(function, batch, parts):
        accumulate = fjt.training.step.sound_accumulate

        def mean(part):
            (value, weight), grads = function(part)
            return (value / weight / parts, jnp.ones_like(weight) / parts), jax.tree.map(
                lambda g: g / weight / parts, grads
            )

        return accumulate(mean if parts > 1 else function, batch, parts)

    monkeypatch.setattr(fjt.training.step, "sound_accumulate", fjt.training.step._accumulate, raising=False)
    monkeypatch.setattr(fjt.training.step, "_accumulate", means)


def last_part(monkeypatch):
    """The last part alone decides."""
    accumulate = fjt.training.step._accumulate

    def last(function, batch, parts):
        if parts == 1:
            return accumulate(function, batch, parts)
        return accumulate(function, jax.tree.map(lambda x: x[-1:], batch), 1)

    monkeypatch.setattr(fjt.training.step, "_accumulate", last)


# (mutant, a layout that it gets wrong, whether it touches the reference too, which is one part on one device, kind)
MUTANTS = [
    (ignore_segments, "one_a_row", True, "classification"),
    (run_on_positions, "row_length", True, "classification"),
    (noise_by_place, "row_length", True, "classification"),
    (noise_by_slot, "accumulation", True, "classification"),
    (noise_by_device, "devices", False, "classification"),
    (head_noise_by_slot, "devices", True, "classification"),
    (mean_of_means, "accumulation", False, "classification"),
    (last_part, "accumulation", False, "classification"),
    (word_noise_by_slot, "devices", True, "tagging"),
    (tags_in_reverse, "accumulation", True, "tagging"),
    (mean_of_means, "accumulation", False, "tagging"),
    (softmax_over_the_group, "devices", True, "question_answering"),
    (softmax_over_the_group, "devices", True, "multiple_choice"),
    (softmax_over_empty_places, "devices", True, "question_answering"),
    (mean_of_means, "accumulation", False, "question_answering"),
    (mean_of_means, "accumulation", False, "masked_lm"),
]


@pytest.mark.parametrize(
    ("mutant", "name", "both", "kind"), MUTANTS, ids=[f"{mutant.__name__}-{kind}" for mutant, _, _, kind in MUTANTS]
)
def test_mutants_are_rejected(mutant, name, both, kind, monkeypatch):
    reference = sound(np.float32, update=False, kind=kind)
    mutant(monkeypatch)
    if both:
        reference = train(REFERENCE, np.float32, 2, update=False, kind=kind)
    found = train(LAYOUTS[name], np.float32, 2, update=False, kind=kind)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(found, reference, np.float32)
