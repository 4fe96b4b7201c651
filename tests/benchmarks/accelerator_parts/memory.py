"""Planned bytes of a step against the largest number of bytes that the device had in use."""

import math

import jax

from fjt.core.errors import UserError
from fjt.core.settings import from_config, make_config
from fjt.data import batches, packing
from fjt.experiment import ahead
from fjt.experiment.programs import bytes_of
from tests.benchmarks.accelerator_parts import steps, texts
from tests.benchmarks.cost import examples_of


def run(options: dict, context: dict) -> dict:
    """The row of a case.  The peak is that of this process: nothing else may have been computed in it."""
    made, size = steps.make(options["shape"], options["method"], options["dtype"]), options["batch"]
    examples = examples_of(size, options["length"])
    examples.token_ids[:] %= made.model.config.vocab
    indices = examples.row_offsets[:-1]
    plan = packing.plan(batches.lengths_of(examples, indices[None]), one_a_row=True, most_shapes=1)
    batch = jax.device_put(batches.build(examples, indices, plan.shapes[0], True)[0])
    state, frozen = made.state(), jax.device_put(made.frozen)
    compiled = made.compile(batch, state, frozen)
    before = peak()
    for _ in range(3):
        state, metrics = compiled(state, frozen, batch, made.hyper)
    loss = float(metrics["loss"])
    measured, planned = peak(), bytes_of(compiled)
    row = {"planned_bytes": planned, "before_bytes": before, "measured_bytes": measured, "loss": loss}
    row["compiler_bytes"] = getattr(compiled.memory_analysis(), "peak_memory_in_bytes", None)
    row["ratio"] = None if measured is None else measured / planned
    row["word"] = "the device does not count its memory" if measured is None else ""
    if measured is not None and measured == before:
        row["word"] = "compilation, which tries kernels, used more than the steps"
    if not math.isfinite(loss):
        row |= {"status": "failed", "word": "the loss is not finite"}
    return row | ahead_bytes(options)


def peak() -> int | None:
    """The most bytes that this process had in use on its device; None where nobody counts."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def ahead_bytes(options: dict) -> dict:
    """{"ahead_bytes"}: the same step as `fjt.aot --topology local` plans it, in bytes."""
    config = make_config()
    config.tune.method, config.data.source = (options["method"],), "synthetic"
    config.task, config.model.dtype = "agreement", options["dtype"]
    name = "x".join(map(str, texts.SHAPES[options["shape"]][:4]))
    try:
        runs = ahead.Ahead(from_config(config), jax.devices()[:1], name, options["length"])
        mesh = ahead.MeshConfig(data=1)
        return {"ahead_bytes": int(runs.compile(ahead.Case(options["batch"], mesh)).needed)}
    except UserError as error:
        return {"ahead_bytes": None, "ahead_word": str(error)}
