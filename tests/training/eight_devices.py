"""The losses of runs in many layouts of eight devices, and what their programs send around.

A process of its own, because JAX's simulated devices are counted when it starts: `test_layouts.py` starts it, and reads
the file that it writes:
{"losses": {"METHOD/DTYPE/LAYOUT": [...]}, "sent": {"METHOD/LAYOUT": {kind of collective: bytes}}, "bytes": {METHOD:
[those that train, all]}}.  As `eight_devices.py FILE restarts` it saves runs in some layouts and resumes them in
others: {"SAVED to RESUMED": {"bits": whether all leaves are equal, "losses": [...], "undisturbed": [...]}}.
"""

import collections
import dataclasses
import functools
import json
import math
import pathlib
import re
import sys
import tempfile

import jax
import numpy as np
import small

from fjt.core import seeds, tree
from fjt.data import batches, packing
from fjt.models import blocks
from fjt.models.encoder import Model
from fjt.training import checkpoint, placement
from fjt.training.optim import make_optimizer
from fjt.training.step import WHOLE, init_state, train_step
from fjt.tuning import partition

CONFIG = dataclasses.replace(small.CONFIG, layers=1)  # compilation takes most of the time
STEPS = {np.float32: 20, np.float64: 60}
# (devices that share a batch, devices that share a layer, whether parameters are spread); the first is the reference.
LAYOUTS = {"1x1": (1, 1, False)}
LAYOUTS |= {
    f"{data}x{model}{'-spread' if spread else ''}": (data, model, spread)
    for data, model in ((8, 1), (4, 2), (2, 4))
    for spread in (False, True)
}
SENT = ("1x1", "8x1", "8x1-spread", "2x4")  # layouts that run in float32, too, and whose programs are read
SAVED = {"1x1": (1, 1, False), "8x1": (8, 1, False), "2x2": (2, 2, False), "8x1-spread": (8, 1, True)}
RESUMED = {"1x1": (1, 1, False), "4x1": (4, 1, False), "8x1": (8, 1, False), "2x2": (2, 2, False)}
METHODS = {"full": small.tune("full"), "lora": small.tune("lora")}
BYTES = {"f32": 4, "f64": 8, "s32": 4, "u32": 4, "pred": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@functools.cache
def prepare(method):
    """(Model, parameters, names that train) of a method."""
    tune = METHODS[method]
    methods = partition.find_methods(tune)
    base = jax.tree.map(np.asarray, jax.jit(Model(CONFIG, 2).init)(seeds.make_key(0, "init")))
    added = partition.add_leaves(methods, seeds.make_key(1, "init"), base, CONFIG)
    rng = np.random.default_rng(0)
    added = jax.tree.map(lambda x: np.float32(x + 0.1 * rng.normal(size=x.shape)), added)
    params = base | ({"adapters": added} if added else {})
    chosen = partition.trainable_names(params, CONFIG, tune, ())
    lowest = partition.lowest_layer(chosen, CONFIG.layers)
    return Model(CONFIG, 2, adapt=partition.make_adapt(methods), noisy_from=lowest), params, chosen, methods


def program(method, dtype, name, constrained=True, rules=blocks.SHARDING):
    """(the compiled step, its state, frozen parameters, hyper, put, examples, indices, shape) of a layout."""
    data, model_axis, spread = (LAYOUTS | SAVED | RESUMED)[name]
    mesh = placement.make_mesh(data, model_axis)
    layout = placement.Layout(mesh, rules, spread)
    model, params, chosen, methods = prepare(method)
    model = dataclasses.replace(model, dtype=np.dtype(dtype).name)
    cast = functools.partial(jax.tree.map, lambda x: np.asarray(x, dtype) if np.asarray(x).dtype == np.float32 else x)
    hyper = dataclasses.replace(small.make_hyper(dtype=dtype, rate=1e-3), methods=partition.traced_values(methods))
    trainable, frozen = tree.split(cast(params), chosen)
    optimizer, examples = make_optimizer(small.ADAMW), small.make_examples(150)
    indices = batches.Schedule(len(examples), 32, 0).batches(0, 2 * STEPS[dtype])
    lengths = batches.lengths_of(examples, indices)
    (shape,) = packing.plan(lengths, groups=data, row_length=64, most_shapes=1, width=32).shapes
    state, frozen = layout.put(init_state(trainable, hyper, optimizer)), layout.put(frozen)
    whole = placement.replicated(mesh)
    step = jax.jit(
        functools.partial(
            train_step,
            model=model,
            loss=small.KINDS["classification"].loss,
            optimizer=optimizer,
            layout=WHOLE if layout.is_whole or not constrained else layout,
        ),
        donate_argnums=0,
        out_shardings=(layout.shardings(state), whole),
    )

    def put(k):
        batch, _ = batches.build(examples, indices[k], shape)
        return placement.put_batch(cast(batch), mesh)

    return step.lower(state, frozen, put(0), hyper).compile(), state, frozen, hyper, put


def run(method, dtype, name):
    """(losses of a run, what its step sends)."""
    with jax.enable_x64(dtype is np.float64):
        step, state, frozen, hyper, put = program(method, dtype, name)
        seen = []
        for k in range(STEPS[dtype]):
            state, measured = step(state, frozen, put(k), hyper)
            seen.append(float(measured["loss"]))
    return seen, sent(step.as_text())


def sent(text):
    """{kind of collective: bytes of its results} of a compiled program's text."""
    found = collections.Counter()
    for line in text.splitlines():
        match = re.search(r"= (.*?) (" + "|".join(KINDS) + r")(?:-start)?\(", line)
        if match:
            sizes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            found[match[2]] += sum(
                BYTES[kind] * math.prod(map(int, filter(None, shape.split(",")))) for kind, shape in sizes
            )
    return dict(found)


def restarts():
    """{"SAVED to RESUMED": what is equal}."""
    steps, record, programs = STEPS[np.float32], {}, {}
    for name in SAVED | RESUMED:
        programs[name] = program("full", np.float32, name)

    def go_on(name, state, first):
        step, _, frozen, hyper, put = programs[name]
        seen = []
        for k in range(first, first + steps):
            state, measured = step(state, frozen, put(k), hyper)
            seen.append(float(measured["loss"]))
        return state, seen

    for saved in SAVED:
        state, _ = go_on(saved, programs[saved][1], 0)
        wanted = placement.fetch(state)
        with tempfile.TemporaryDirectory() as folder:
            with checkpoint.Checkpoints(folder, 1) as checkpoints:
                checkpoints.save(steps, state, [checkpoint.HostState()])
                checkpoints.wait()
            _, undisturbed = go_on(saved, state, steps)
            for resumed, (data, model, spread) in ({saved: SAVED[saved]} | RESUMED).items():
                layout = placement.Layout(placement.make_mesh(data, model), blocks.SHARDING, spread)
                with checkpoint.Checkpoints(folder, 1) as checkpoints:
                    _, restored, _ = checkpoints.restore(lambda *_, layout=layout, wanted=wanted: layout.shapes(wanted))
                equal = jax.tree.map(lambda a, b: np.array_equal(a, b), placement.fetch(restored), wanted)
                _, losses = go_on(resumed, restored, steps)
                bits = all(jax.tree.leaves(equal))
                record[f"{saved} to {resumed}"] = {"bits": bits, "losses": losses, "undisturbed": undisturbed}
    return record


def main(output, part=""):
    if part == "restarts":
        pathlib.Path(output).write_text(json.dumps(restarts()))
        return
    record = {"losses": {}, "sent": {}, "bytes": {}}
    for method in METHODS:
        _, params, chosen, _ = prepare(method)
        flat = tree.flatten(params)
        record["bytes"][method] = [sum(flat[name].nbytes for name in names) for names in (chosen, flat)]
        for name in LAYOUTS:
            seen, _ = run(method, np.float64, name)
            record["losses"][f"{method}/float64/{name}"] = seen
            if method == "full" and name in SENT:
                seen, record["sent"][f"{method}/{name}"] = run(method, np.float32, name)
                record["losses"][f"{method}/float32/{name}"] = seen
    record["sent"]["lora/8x1"] = sent(program("lora", np.float32, "8x1")[0].as_text())
    record["sent"]["full/8x1-spread/free"] = sent(program("full", np.float32, "8x1-spread", False)[0].as_text())
    wrong = tuple(
        (pattern, axes[::-1]) if "output" in pattern else (pattern, axes) for pattern, axes in blocks.SHARDING
    )
    record["sent"]["full/2x4/wrong"] = sent(program("full", np.float32, "2x4", rules=wrong)[0].as_text())
    pathlib.Path(output).write_text(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
