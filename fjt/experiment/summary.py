"""What a run says of itself: its plan before, its result after."""

import dataclasses
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import console, records, tree
from fjt.experiment import features, recipes
from fjt.interop import exports
from fjt.training import optim
from fjt.tuning import cost, partition

USUAL_SHARE = 0.5  # of the matrix-product rate that a step reaches; for a rough time only


def show_start(experiment, workdir):
    """Prints in a few lines what is about to run."""
    options = experiment.settings.experiment
    console.say(
        f"{experiment.task.name}: {', '.join(f'{len(s):,} {name}' for name, s in experiment.splits.items())}; "
        f"{options.model.path or 'random weights'} ({experiment.model.config.layers} layers, width "
        f"{experiment.model.config.width})"
    )
    for key, value, origin in recipes.describe(experiment.settings, experiment.origins):
        if origin:
            console.say(f"  {key} = {value}  ({origin})")
    show_parameters(experiment)
    if experiment.unused:
        console.say(f"  not used from the checkpoint: {_some(experiment.unused)}")
    if experiment.missing and options.model.path:
        console.say(f"  new, not in the checkpoint: {_some(experiment.missing)}")
    show_shapes(experiment)
    console.say(f"  writing to {workdir}")


def _some(names):
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def show_parameters(experiment):
    """Prints what trains, by part of the model, and what it costs beside full tuning."""
    flat, groups = tree.flatten(experiment.params), {}
    for name in flat:
        groups.setdefault("/".join(name.split("/")[:2]), []).append(name)
    decays = tree.flatten(optim.decay_mask(experiment.params))
    rows = [(part, *_group(experiment, flat, decays, names)) for part, names in groups.items()]
    rows = [*_fold_layers(rows), ("all", *_group(experiment, flat, decays, list(flat)))]
    lasting = set(tree.flatten(partition.lasting(experiment.params)))
    trained, total = (sum(flat[name].size for name in names) for names in (experiment.trainable, lasting))
    columns = ("part", ">leaves", ">trained", ">frozen", ">x rate", ">decay")
    method = ", ".join(experiment.settings.experiment.tune.method)
    console.table(f"What trains ({method}: {trained / total:.2%})", columns, rows)
    if experiment.trainable != lasting:
        kept = experiment.trainable | {name for name in lasting if partition.is_fixed(name)}
        console.say(f"  of full tuning: {_against_full(experiment, flat, kept)}")


def _group(experiment, flat, decays, names):
    """(leaves, trained, frozen, multiplier of the rate, decay) of a part, for people.  decays: {name: whether}."""
    trained = [name for name in names if name in experiment.trainable]
    size, total = (sum(flat[name].size for name in chosen) for chosen in (trained, names))
    factors = sorted({f"{experiment.hyper.multipliers.get(name, 1.0):.3g}" for name in trained}, key=float)
    decay = experiment.settings.experiment.optim.weight_decay * any(decays[name] for name in trained)
    return (
        len(names),
        f"{size:,}",
        f"{total - size:,}",
        " to ".join(factors[:: max(1, len(factors) - 1)]) or "-",
        f"{decay:g}" if trained else "-",
    )


def _against_full(experiment, flat, kept):
    """Operations, bytes of the optimizer's state and bytes of what is kept, over those of full tuning."""
    base = {name for name in flat if not name.startswith("adapters/")}
    state, full_state = (_optimizer_bytes(experiment, flat, names) for names in (experiment.trainable, base))
    own, whole = (4 * sum(flat[name].size for name in names) for names in (kept, base))
    costs = [
        ("operations of a step", step_flops(experiment), _full_flops(experiment, base), 1e9, "GFLOP"),
        ("optimizer state", state, full_state, 2**20, "MiB"),
        ("weights to keep", own, whole, 2**20, "MiB"),
    ]
    return "; ".join(
        f"{what} {own / full:.2%} ({own / unit:,.1f} of {full / unit:,.1f} {word})"
        for what, own, full, unit, word in costs
    )


def _full_flops(experiment, base):
    """Operations of a mean step of full tuning, whose rows have no prompt: as well filled, and shorter by its share."""
    length = partition.prompt_length(partition.find_methods(experiment.settings.experiment.tune))
    examples = experiment.examples["train"]
    text = 1.0 - length * len(examples) / examples.offsets[-1]
    return step_flops(experiment, base, text)


def _optimizer_bytes(experiment, flat, names):
    made = optim.make_optimizer(experiment.settings.experiment.optim)
    hyper = dataclasses.replace(experiment.hyper, multipliers={})
    state = jax.eval_shape(lambda leaves: made(hyper).init(leaves), tree.unflatten({n: flat[n] for n in names}))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _fold_layers(rows):
    """Layers next to each other that read the same, on one line."""
    layers = {int(part.rsplit("_", 1)[1]): rest for part, *rest in rows if "/layer_" in part}
    folded = [row for row in rows if "/layer_" not in row[0]]
    lines, start = [], 0
    for i in range(1, len(layers) + 1):
        if i == len(layers) or layers[i] != layers[start]:
            name = f"encoder/layer_{start}" if i - start == 1 else f"encoder/layer_{start}..{i - 1} (each)"
            lines.append((name, *layers[start]))
            start = i
    return [*folded[:1], *lines, *folded[1:]]


def show_shapes(experiment):
    """Prints steps, packed shapes and where steps start."""
    plan = experiment.plan
    shapes = ", ".join(f"{s.groups * s.rows} x {s.row_length}" for s in plan.shapes)
    console.say(
        f"  {experiment.steps:,} steps of {experiment.schedule.batch_size} examples; rows x tokens {shapes}; "
        f"{plan.efficiency:.1%} of the computed tokens are real; {experiment.mesh.size} "
        f"{experiment.mesh.devices.flat[0].platform} device{'s' if experiment.mesh.size > 1 else ''}"
    )
    for line in features.describe(experiment):
        console.say(f"  {line}")


def show_plan(experiment):
    """Prints the resolved config with origins, what trains, steps, shapes, cost."""
    rows = [
        (key, repr(value), origin) for key, value, origin in recipes.describe(experiment.settings, experiment.origins)
    ]
    console.table("Options", ("key", "value", "from"), rows)
    show_parameters(experiment)
    show_shapes(experiment)
    operations = step_flops(experiment)
    rate = product_rate(experiment.model.dtype)
    seconds = operations * experiment.steps / (USUAL_SHARE * rate * experiment.mesh.size)
    console.say(
        f"  about {operations / 1e9:,.1f} GFLOP a step, {operations * experiment.steps / 1e12:,.1f} TFLOP in all: "
        f"roughly {console.duration(seconds)} of training at {USUAL_SHARE:.0%} of this device's "
        f"{rate / 1e9:,.0f} GFLOP/s in matrix products, measured just now"
    )
    weights, moments, activations = (size / 2**20 for size in memory(experiment))
    console.say(
        f"  memory: {weights:,.0f} MiB of weights, {moments:,.0f} MiB of gradients and Adam's moments, about "
        f"{activations:,.0f} MiB of activations a device"
    )
    if len(experiment.stages) > 1:
        firsts = ", ".join(str(stage.first) for stage in experiment.stages)
        console.say(
            f"  {len(experiment.stages)} stages, each its own program, from steps {firsts}; the costs are the last's"
        )
    counts = ", ".join(f"{len(split):,} {name}" for name, split in experiment.splits.items())
    names, label = experiment.task.label_names, experiment.splits["train"].label
    labels = [f"{name} {np.sum(label == i):,}" for i, name in enumerate(names)]
    console.say(f"  {experiment.task.name}: {counts}; in train {_some(labels) if labels else 'scores'}")
    console.say(f"  evaluations of dev after steps {_some([str(k) for k in experiment.evaluations])}")


def product_rate(dtype):
    """Operations a second of a 1024 x 1024 matrix product on the first device: the best of five."""
    size = 1024
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    x = jnp.ones((size, size), dtype)
    product(x).block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def step_flops(experiment, names=None, share=1.0):
    """Operations of a mean step by `flops.step_flops`.

    names: what trains, from tokens on; by default the experiment's own, in its last stage; share: of the planned
    tokens, in rows as much shorter.
    """
    plan, params = experiment.plan, tree.flatten(experiment.params)
    return cost.step_flops(
        experiment.model.config,
        {name: params[name].shape for name in names or experiment.trainable},
        tokens=share * plan.computed_tokens / max(1, len(plan.shape_of)),
        row_length=share * plan.shapes[0].row_length,
        examples=float(np.mean([plan.shapes[i].examples * plan.shapes[i].groups for i in plan.shape_of])),
        classes=experiment.model.classes,
        start=experiment.stages[-1].model.start if names is None else -1,
    )


def memory(experiment):
    """Bytes a device of (weights, gradients and Adam's moments, activations); the last is a rough count."""
    trained = sum(int(np.prod(tree.flatten(experiment.params)[name].shape)) for name in experiment.trainable)
    tokens = max(shape.rows * shape.row_length for shape in experiment.plan.shapes)
    return 4 * tree.count(experiment.params), 12 * trained, _activation_bytes(experiment, tokens)


def _activation_bytes(experiment, tokens):
    """What the backward pass keeps."""
    config = experiment.model.config
    layers = config.layers - max(0, partition.lowest_layer(experiment.trainable, config.layers))
    size = 2 if experiment.model.dtype == "bfloat16" else 4
    row = experiment.plan.shapes[0].row_length
    return size * tokens * layers * (10 * config.width + 3 * config.inner + 3 * config.heads * row)


def show_result(workdir):
    """Prints the closing table of a finished run."""
    result = records.read_json(os.path.join(workdir, "result.json"))
    rows = [
        (split, name, f"{value:.4f}") for split, scores in result["splits"].items() for name, value in scores.items()
    ]
    console.table(
        f"{result['task']}, step {result['selected_step']} of {result['steps']}", ("split", "metric", ">score"), rows
    )
    rate = result["examples_per_second"]
    console.say(
        f"  {result['trainable_params']:,} of {result['total_params']:,} parameters trained in "
        f"{console.duration(result['train_seconds'])} ({rate or 0:.1f} examples/s) + "
        f"{console.duration(result['compile_seconds'])} compiling; {result['peak_memory_bytes'] / 2**30:.1f} GiB "
        f"({result['memory_kind']})"
    )
    for path, text in (
        ("predictions/dev.tsv", "every row with its prediction"),
        ("curve.png", "the learning curve"),
    ):
        if os.path.exists(os.path.join(workdir, path)):
            console.say(f"  {os.path.join(workdir, path)}: {text}")
    for path, text in exports.describe(os.path.join(workdir, "export")):
        console.say(f"  {path}: {text}")
