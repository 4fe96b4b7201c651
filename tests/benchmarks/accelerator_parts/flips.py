"""How many predictions of a trained model change with padding, packing, batch size, lanes, precision and type."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fjt.data import batches, packing
from fjt.models.encoder import Model
from fjt.training.step import eval_step
from tests import small

CONFIG = dataclasses.replace(small.CONFIG, layers=4, width=128, heads=4, inner=512, stddev=0.05)
LONGEST = 48
CLOSE = 1e-4  # largest difference of logits that a layout may make in float32
LAYOUTS = ("padded to 64", "packed", "batch 8", "as a lane")  # with products in full float32 precision: checked


def examples_of(count, seed):
    """Texts whose label says whether more than half of their tokens are in the upper half of the vocabulary."""
    made = small.make_examples(count, LONGEST, seed)
    upper = np.add.reduceat((made.token_ids >= 52).astype(np.float64), made.offsets[:-1]) / made.lengths
    return dataclasses.replace(made, label=(upper > 0.5).astype(np.int32))


def logits_of(model, params, examples, *, size, row_length=LONGEST, one_a_row=True, lane=False):
    """f32[N, C]: the logits of all examples, in order."""
    indices = batches.chunk(examples.lengths, size)
    lengths = batches.lengths_of(examples, indices)
    (shape,) = packing.plan(lengths, row_length=row_length, one_a_row=one_a_row, most_shapes=1).shapes
    function = functools.partial(eval_step, model=model, reduce=small.whole)
    if lane:
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.01 * leaf]), params)
        alone = function
        function = lambda params, batch: jax.vmap(alone, in_axes=(0, None))(params, batch)[0]  # noqa: E731
    compiled, found = jax.jit(function), np.zeros((len(examples), 2), np.float32)
    for one in indices:
        batch, places = batches.build(examples, one, shape, one_a_row)
        logits = compiled(params, {name: x for name, x in batch.items() if name not in ("label", "weight")})
        found[places.slots[1]] = np.asarray(logits, np.float32).reshape(-1, 2)[places.slots[0]]
    return found


def run(options: dict, context: dict) -> dict:
    """The row of the case: flips and the largest difference of a logit, per variant."""
    model = Model(dataclasses.replace(small.CONFIG, layers=1) if context["tiny"] else CONFIG, 2)
    layout = small.Layout(row_length=64, batch_size=32)
    train = examples_of(options["train"], 0)
    seen, state, _ = small.train(layout, options["steps"], model=model, examples=train, most_shapes=1)
    dev, params = examples_of(options["dev"], 1), state.trainable
    with jax.default_matmul_precision("highest"):
        reference = logits_of(model, params, dev, size=32)
        variants = {
            "padded to 64": logits_of(model, params, dev, size=32, row_length=64),
            "packed": logits_of(model, params, dev, size=32, row_length=96, one_a_row=False),
            "batch 8": logits_of(model, params, dev, size=8),
            "as a lane": logits_of(model, params, dev, size=32, lane=True),
        }
    half = dataclasses.replace(model, dtype="bfloat16")
    variants["float32, default precision"] = logits_of(model, params, dev, size=32)
    variants["bfloat16"] = logits_of(half, params, dev, size=32)
    variants["bfloat16, packed"] = logits_of(half, params, dev, size=32, row_length=96, one_a_row=False)
    found = {}
    for name, logits in variants.items():
        flipped = int(np.sum(logits.argmax(axis=1) != reference.argmax(axis=1)))
        found[name] = {"flips": flipped, "logit": float(np.abs(logits - reference).max())}
    accuracy = float(np.mean(reference.argmax(axis=1) == dev.label))
    sound = np.isfinite(reference).all() and all(found[name]["logit"] <= CLOSE for name in LAYOUTS)
    return {
        "status": "passed" if sound else "failed",
        "word": "" if sound else f"a layout changes a logit by more than {CLOSE}",
        "variants": found,
        "examples": len(dev),
        "accuracy": accuracy,
        "losses": [float(seen[0]), float(seen[-1])],
    }
