"""Examples per second of many runs as lanes of one program, against the run alone."""

import functools

import jax
import jax.numpy as jnp

from fjt.data import batches, packing
from fjt.experiment.programs import bytes_of
from fjt.training.lanes import Lanes
from tests.benchmarks import lanes
from tests.benchmarks.accelerator_parts import steps
from tests.benchmarks.accelerator_parts.store import Skipped
from tests.benchmarks.cost import examples_of


class Maker(lanes.Maker):
    """Makes steps of a shape and a method; see `tests.benchmarks.lanes.Maker`."""

    def __init__(self, options: dict) -> None:
        made = steps.make(options["shape"], options["method"], options["dtype"])
        self.hyper, self.trainable, self.parts = made.hyper, made.trainable, made.parts
        self.frozen, self.optimizer = jax.device_put(made.frozen), made.parts["optimizer"]
        examples, count = examples_of(options["rows"], options["length"]), options["rows"]
        examples.token_ids[:] %= made.model.config.vocab
        lengths = batches.lengths_of(examples, examples.row_offsets[None, :-1])
        packed = packing.plan(lengths, one_a_row=True, most_shapes=1, width=made.model.config.width).shapes[0]
        self.batch, _ = batches.build(examples, examples.row_offsets[:count], packed, True)

    def arguments(self, count: int) -> tuple:
        """As of the class above, for thousands of lanes as well."""
        state, others = super().arguments(0)
        if not count:
            return state, others
        frozen, batch, hyper = others

        def repeat(part):
            return jax.tree.map(lambda x: jnp.array(jnp.broadcast_to(jnp.asarray(x), (count, *jnp.shape(x)))), part)

        return Lanes(repeat(state), {}, repeat(hyper), jnp.ones(count, bool)), (frozen, repeat(batch))


@functools.cache
def _maker(options: tuple) -> Maker:
    return Maker(dict(options))


def maker_of(options: dict) -> Maker:
    """The Maker of a case; cases of one method share it."""
    return _maker(tuple((name, options[name]) for name in ("shape", "method", "dtype", "rows", "length")))


def run(options: dict, context: dict) -> dict:
    """The row of a case.  0 lanes: the run alone."""
    rows, count = context["store"].read("lanes")["rows"], options["lanes"]
    for row in rows.values():
        given = row["options"]
        if row.get("too_large") and given["method"] == options["method"] and given.get("lanes", count) < count:
            raise Skipped(f"{given['lanes']} lanes do not fit into the memory of the device")
    make = maker_of(options)
    carried, others = make.arguments(count)
    compiled = make.compile(carried, others, count)
    held = {"state": carried}

    def call(k):
        held["state"], metrics = compiled(held["state"], *others)
        return metrics

    found = steps.summary(steps.seconds_per_call(call, options["steps"], 2 if context["tiny"] else 5))
    return found | {
        "examples_per_second": max(1, count) * options["rows"] / found["seconds"],
        "bytes": bytes_of(compiled),
    }
