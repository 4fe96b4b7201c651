"""Examples a second of many LoRA runs as the lanes of one program, against one run alone, and how many a device holds.

For the shapes of MiniLM and of bert-base, with random weights. Each lane has its own batch of --rows examples of
--length tokens, one a row. Steps of the run alone and of each count of lanes are taken in turn; a count's speed-up is
its examples a second over those of the run alone, in the same round, the median of all rounds. Counts whose program
does not fit into the device's memory are named and not timed; with --search, the count is doubled until one does not.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import memory, seeds, tree
from fjt.data import batches, packing
from fjt.experiment.programs import bytes_of
from fjt.models.encoder import Model
from fjt.study.planner import MEMORY_SHARE
from fjt.tasks.classification import CLASSIFICATION
from fjt.training import lanes
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import partition
from tests import small
from tests.benchmarks import common
from tests.benchmarks.cost import SHAPES, config_of, examples_of

MOST = 4096  # lanes at which a search ends


def main(argv=None):
    args = parse(argv)
    record = common.settings("tests.benchmarks.lanes", args) | {
        "examples": args.rows,
        "memory_bytes": memory.device_bytes(),
        "rows": [],
    }
    for shape in args.shapes:
        record["rows"] += measure(shape, args)
    output = Path(args.output)
    common.write_json(output / "lanes.json", record)
    (output / "lanes.md").write_text(table(record))
    print((output / "lanes.md").read_text())


def measure(shape, args):
    """The rows of one shape, that of the run alone (0 lanes) first."""
    make = Maker(shape, args)
    limit = MEMORY_SHARE * memory.device_bytes()
    rows, steps = [], {}
    counts = iter([0, *args.lanes])
    while (count := next(counts, None)) is not None:
        step, taken = make(count)
        fits = taken is not None and taken <= limit
        rows.append({"shape": shape, "lanes": count, "bytes": taken, "fits": fits})
        if fits:
            steps[count] = step
        print(f"{shape} {count or 'no'} lanes: {'compiled' if fits else 'do not fit'}", flush=True)
    if args.search:
        rows[0]["largest"] = make.largest(limit)
    seconds = {count: [] for count in steps}
    for count in (count for _ in range(args.rounds + 1) for count in steps):
        start = time.perf_counter()
        steps[count]()
        seconds[count].append(time.perf_counter() - start)
    for row in rows:
        if row["fits"]:
            mine = seconds[row["lanes"]][1:]  # the first prepares kernels
            row["seconds"] = statistics.median(mine)
            ratios = [max(1, row["lanes"]) * one / each for one, each in zip(seconds[0][1:], mine, strict=True)]
            row["speedup"] = statistics.median(ratios)
    return rows


class Maker:
    """Makes steps of a shape: maker(lanes) -> (a function that takes one, bytes of its program; None: not compiled)."""

    def __init__(self, shape, args):
        config = config_of(shape)
        tune = small.tune("lora", rank=8)
        methods, key = partition.find_methods(tune), seeds.make_key(0, "init")
        params = jax.device_get(jax.jit(Model(config, 2).init)(key))
        params["adapters"] = jax.device_get(partition.add_leaves(methods, key, params, config))
        trained = frozenset(partition.trainable_names(params, config, tune, ()))
        model = Model(config, 2, dtype=args.dtype, noisy_from=0, adapt=partition.make_adapt(methods))
        values = partition.traced_values(methods)
        self.hyper = dataclasses.replace(small.make_hyper(rate=1e-4), methods=values)
        self.trainable, frozen = tree.split(params, trained)
        self.frozen = jax.device_put(frozen)
        self.optimizer = make_optimizer(small.ADAMW)
        self.parts = {"model": model, "loss": CLASSIFICATION.loss, "optimizer": self.optimizer}
        examples = examples_of(args.rows, args.length)
        lengths = batches.lengths_of(examples, np.arange(args.rows)[None])
        packed = packing.plan(lengths, one_a_row=True, most_shapes=1, width=config.width).shapes[0]
        self.batch, _ = batches.build(examples, np.arange(args.rows), packed, True)

    def arguments(self, count):
        """(what the step gives back anew, its other arguments), on the device."""
        state = init_state(jax.tree.map(jnp.asarray, self.trainable), self.hyper, self.optimizer)
        if not count:
            return state, (self.frozen, jax.device_put(self.batch), self.hyper)

        def repeat(part):
            return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * count), part)

        all_lanes = lanes.Lanes(repeat(state), {}, repeat(self.hyper), jnp.ones(count, bool))
        return all_lanes, (self.frozen, repeat(self.batch))

    def compile(self, carried, others, count):
        function = functools.partial(lanes.lanes_step, one_batch=False) if count else train_step
        return jax.jit(functools.partial(function, **self.parts), donate_argnums=0).lower(carried, *others).compile()

    def __call__(self, count):
        try:
            carried, others = self.arguments(count)
            compiled = self.compile(carried, others, count)
        except jax.errors.JaxRuntimeError:  # RESOURCE_EXHAUSTED
            return None, None
        held = {"state": carried}

        def take():
            held["state"], metrics = compiled(held["state"], *others)
            jax.block_until_ready((held["state"], metrics))

        return take, bytes_of(compiled)

    def largest(self, limit):
        """The most lanes, a power of two, whose program is at most so large; at most MOST."""
        count = 1
        while count < MOST:
            shapes = jax.eval_shape(lambda count=2 * count: self.arguments(count))
            try:
                taken = bytes_of(self.compile(*shapes, 2 * count))
            except jax.errors.JaxRuntimeError:
                return count
            if taken > limit:
                return count
            count *= 2
        return count


def table(record):
    """lanes.md."""
    lines = ["# LoRA runs as lanes of one program", ""]
    header = ["shape", "lanes", "ms a step", "examples/s of all", "over one run alone", "program, GiB"]
    cells, largest = [], []
    for row in record["rows"]:
        name = str(row["lanes"]) if row["lanes"] else "the run alone"
        if not row["fits"]:
            cells.append([row["shape"], name, "does not fit", "", "", ""])
            continue
        rate = max(1, row["lanes"]) * record["examples"] / row["seconds"]
        cells.append(
            [
                row["shape"],
                name,
                f"{1000 * row['seconds']:.1f}",
                f"{rate:,.0f}",
                f"{row['speedup']:.2f}",
                f"{row['bytes'] / 2**30:.2f}",
            ]
        )
        if "largest" in row:
            largest.append(f"- {row['shape']}: {row['largest']} lanes fit, by powers of two")
    lines += [common.markdown(header, cells), "", *largest, ""]
    return "\n".join([*lines, common.footer(record), ""])


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--rows", type=int, default=32, help="examples of a lane's batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of an example")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each count, taken in turn")
    parser.add_argument("--dtype", default="bfloat16" if jax.default_backend() != "cpu" else "float32")
    parser.add_argument("--search", action="store_true", help="find the largest count that fits")
    parser.add_argument("--output", default="results/lanes", help="where lanes.json and lanes.md are")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
