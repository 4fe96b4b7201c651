"""Losses of the same steps in several layouts: one example per row, packed, accumulated, as a lane."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fjt.models.encoder import Model
from fjt.training import lanes
from fjt.training.step import train_step
from tests import small
from tests.benchmarks.accelerator_parts import steps
from tests.benchmarks.accelerator_parts.store import Skipped


def as_lane(state, frozen, batch, hyper, **parts):
    """`train_step` as the first of two lanes; the second one has another learning rate and other dropout bits."""
    other = dataclasses.replace(hyper, learning_rate=2 * hyper.learning_rate, dropout_key=hyper.dropout_key + 1)
    both = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), hyper, other)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    start = lanes.Lanes(twice, {}, both, jnp.ones(2, bool))
    after, metrics = lanes.lanes_step(start, frozen, batch, one_batch=True, **parts)
    return lanes.take(after.state, 0), lanes.take(metrics, 0)


def layouts(size: int, row_length: int) -> dict:
    """{name: (Layout, step)}; the first is the reference."""
    whole = small.Layout(one_a_row=True, batch_size=size)
    packed = dataclasses.replace(whole, one_a_row=False, row_length=row_length)
    return {
        "one example per row": (whole, train_step),
        "packed": (packed, train_step),
        "packed, accumulation 4": (dataclasses.replace(packed, groups=4, accumulation=4), train_step),
        "packed, as a lane": (packed, as_lane),
    }


def losses(options: dict) -> dict[str, np.ndarray]:
    """{layout: f64[steps]}."""
    config, dtype = steps.config_of(options["shape"]), np.dtype(options["dtype"])
    small_model = options["shape"] in ("small", "smallest")
    longest = 24 if small_model else 128
    examples = small.make_examples(150 if small_model else 5 * options["batch"], longest, vocab=config.vocab)
    model = Model(config, 2, dtype=dtype.name)
    params = steps.draw_params(Model(config, 2))
    hyper = small.make_hyper(rate=1e-3 if small_model else 2e-5, dtype=dtype.type)
    found = {}
    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        for name, (layout, step) in layouts(options["batch"], 2 * longest + 16).items():
            given = dict(model=model, examples=examples, hyper=hyper, params=params, dtype=dtype.type, most_shapes=1)
            found[name], _, _ = small.train(layout, options["steps"], step=step, **given)
    return found


def run(options: dict, context: dict) -> dict:
    """The row of a case: the largest relative difference of any step's loss from the reference."""
    if options["dtype"] == "float64" and jax.default_backend() == "tpu":
        raise Skipped("a TPU computes float64 in parts of lower precision")
    found = losses(options)
    reference = found.pop("one example per row")
    differences = {name: float(np.max(np.abs(seen / reference - 1))) for name, seen in found.items()}
    moved = len(set(reference)) == len(reference) and bool(np.isfinite(reference).all())
    passed = moved and max(differences.values()) <= options["tolerance"]
    return {
        "status": "passed" if passed else "failed",
        "word": "" if moved else "the losses do not change from step to step",
        "differences": differences,
        "losses": [float(reference[0]), float(reference[-1])],
    }
