"""The lines that a run prints: its plan before training, its result afterwards."""

import dataclasses
import os
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import console, tree
from fjt.data import labels
from fjt.experiment import features, recipes, run_records
from fjt.experiment.prepared import Experiment
from fjt.interop import exports
from fjt.training import optim
from fjt.tuning import cost, partition

MANY_CLASSES = 20  # a table at the end of a run lists at most this many
TENSOR_PARALLEL = 1e9  # parameters below which devices that share a layer cost more than they save
USUAL_SHARE = 0.5  # share of the matrix-product rate that a step reaches, for a rough estimate of its time

Leaves = dict[str, Any]  # {name: array} of all parameters


def show_start(experiment: Experiment, workdir: str) -> None:
    """Prints a few lines about the run that is about to start."""
    options = experiment.settings.experiment
    show_data(experiment)
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


def show_data(experiment: Experiment) -> None:
    """Prints the splits, the base model and the classes."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in experiment.splits.items())
    model, path = experiment.model.config, experiment.settings.experiment.model.path
    console.say(
        f"{experiment.task.name}: {sizes}; {path or 'random weights'} ({model.layers} layers, width {model.width})"
    )
    console.say(f"  {_classes(experiment)}")
    if (data := experiment.settings.experiment.data).augment:
        rows, copies = len(experiment.splits["train"]), data.augment_copies or 1
        console.say(f"  changed copies in train by config.data.augment: {rows * copies // (1 + copies):,}")
    if dropped := experiment.splits["train"].dropped:
        counts = ", ".join(f"{name} {count:,}" for name, count in dropped)
        console.say(f"  dropped from train by config.data.clean: {counts}")
    if made := experiment.synthetic:
        counts = ", ".join(f"{name} {count:,}" for name, count in made.items())
        console.say(f"  synthetic training examples by config.train.smote: {counts}")


def _classes(experiment: Experiment) -> str:
    """The labels of the training rows with their numbers of rows, the range of scores, or the number of masks."""
    task, label = experiment.task, experiment.splits["train"].label
    if experiment.problem.documents:
        examples = experiment.examples["train"]
        return f"{len(examples):,} blocks, {len(label.values):,} of {len(examples.token_ids):,} tokens are predicted"
    counts = experiment.problem.count_labels(label, task)
    if not len(counts):
        return f"scores: {np.nanmin(label):g} to {np.nanmax(label):g}"
    listed = labels.some([f"{name} {count:,}" for name, count in zip(task.label_names, counts, strict=True)])
    if len(counts) <= labels.LABELS_IN_MESSAGES:
        return f"{'rows' if experiment.problem.several else 'classes'}: {listed}"
    return f"{len(counts):,} classes of {counts.min():,} to {counts.max():,} training rows: {listed}"


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def show_parameters(experiment: Experiment) -> None:
    """Prints the trainable parameters by part of the model, and their cost compared with full tuning."""
    flat = tree.flatten(experiment.params)
    parts: dict[str, list[str]] = {}
    for name in flat:
        parts.setdefault("/".join(name.split("/")[:2]), []).append(name)
    decays = tree.flatten(optim.decay_mask(experiment.params))
    rows = [(part, *_part_row(experiment, flat, decays, names)) for part, names in parts.items()]
    rows = [*_fold_layers(rows), ("all", *_part_row(experiment, flat, decays, list(flat)))]
    lasting = set(tree.flatten(partition.lasting(experiment.params)))
    trained, total = _size(flat, experiment.trainable), _size(flat, lasting)
    columns = ("part", ">leaves", ">trained", ">frozen", ">x learning rate", ">decay")
    method = ", ".join(experiment.settings.experiment.tune.method)
    console.table(f"Trainable parameters ({method}: {trained / total:.2%})", columns, rows)
    if experiment.trainable != lasting:
        saved = experiment.trainable | {name for name in lasting if partition.is_fixed(name)}
        console.say(f"  of full tuning: {_against_full(experiment, flat, saved)}")


def _size(flat: Leaves, names: Iterable[str]) -> int:
    """Number of values in the named leaves."""
    return sum(flat[name].size for name in names)


def _part_row(experiment: Experiment, flat: Leaves, decays: dict[str, bool], names: list[str]) -> tuple[Any, ...]:
    """(leaves, trained, frozen, multiplier of the learning rate, weight decay) of a part, as printed.

    Args:
        experiment: the run.
        flat: all parameters.
        decays: {name: whether weight decay applies to the leaf}.
        names: the leaves of the part.
    """
    trained = [name for name in names if name in experiment.trainable]
    size, total = _size(flat, trained), _size(flat, names)
    factors = sorted({f"{experiment.hyper.multipliers.get(name, 1.0):.3g}" for name in trained}, key=float)
    weight_decay = experiment.settings.experiment.optim.weight_decay or 0.0
    decay = weight_decay * any(decays[name] for name in trained)
    return (
        len(names),
        f"{size:,}",
        f"{total - size:,}",
        " to ".join(factors[:: max(1, len(factors) - 1)]) or "-",
        f"{decay:g}" if trained else "-",
    )


def _against_full(experiment: Experiment, flat: Leaves, saved: Collection[str]) -> str:
    """Operations, optimizer state and saved weights of a run as shares of those of full tuning.

    Args:
        experiment: the run.
        flat: all parameters.
        saved: names of the leaves that the run saves.
    """
    base = {name for name in flat if not name.startswith("adapters/")}
    state, full_state = (_optimizer_bytes(experiment, flat, names) for names in (experiment.trainable, base))
    costs = [
        ("operations of a step", step_flops(experiment), _full_flops(experiment, base), 1e9, "GFLOP"),
        ("optimizer state", state, full_state, 2**20, "MiB"),
        ("weights to save", 4 * _size(flat, saved), 4 * _size(flat, base), 2**20, "MiB"),
    ]
    return "; ".join(
        f"{label} {cost / full:.2%} ({cost / unit:,.1f} of {full / unit:,.1f} {symbol})"
        for label, cost, full, unit, symbol in costs
    )


def _full_flops(experiment: Experiment, base: Collection[str]) -> float:
    """Operations of a mean step of full tuning, whose rows have no prompt: shorter by its share, as well filled."""
    length = partition.prompt_length(partition.find_methods(experiment.settings.experiment.tune))
    examples = experiment.examples["train"]
    text = 1.0 - length * len(examples) / examples.offsets[-1]
    return step_flops(experiment, base, text)


def _optimizer_bytes(experiment: Experiment, flat: Leaves, names: Iterable[str]) -> int:
    """Bytes of the optimizer state for the named leaves."""
    make_transform = optim.make_optimizer(experiment.settings.experiment.optim)
    hyper = dataclasses.replace(experiment.hyper, multipliers={})
    leaves = tree.unflatten({name: flat[name] for name in names})
    state = jax.eval_shape(lambda leaves: make_transform(hyper).init(leaves), leaves)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _fold_layers(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows with neighbouring layers of equal numbers combined into one row."""
    layers = {int(part.rsplit("_", 1)[1]): rest for part, *rest in rows if "/layer_" in part}
    folded = [row for row in rows if "/layer_" not in row[0]]
    lines, start = [], 0
    for i in range(1, len(layers) + 1):
        if i == len(layers) or layers[i] != layers[start]:
            name = f"encoder/layer_{start}" if i - start == 1 else f"encoder/layer_{start}..{i - 1} (each)"
            lines.append((name, *layers[start]))
            start = i
    return [*folded[:1], *lines, *folded[1:]]


def show_shapes(experiment: Experiment) -> None:
    """Prints the number of steps, the packed shapes and the layer at which steps start."""
    plan = experiment.plan
    shapes = ", ".join(f"{s.groups * s.rows} x {s.row_length}" for s in plan.shapes)
    console.say(
        f"  {experiment.steps:,} steps of {experiment.schedule.batch_size} examples; rows x tokens {shapes}; "
        f"{plan.efficiency:.1%} of the computed tokens are real; {experiment.mesh.size} "
        f"{experiment.mesh.devices.flat[0].platform} device{'s' if experiment.mesh.size > 1 else ''}"
    )
    for line in features.describe(experiment):
        console.say(f"  {line}")


def show_plan(experiment: Experiment) -> None:
    """Prints the data, the resolved config with origins, the trainable parameters, steps, shapes and costs."""
    show_data(experiment)
    rows = [
        (key, repr(value), origin) for key, value, origin in recipes.describe(experiment.settings, experiment.origins)
    ]
    console.table("Options", ("key", "value", "from"), rows)
    show_parameters(experiment)
    show_shapes(experiment)
    costs = planned(experiment)
    operations = costs["flops_per_step"]
    console.say(
        f"  about {operations / 1e9:,.1f} GFLOP per step, {operations * experiment.steps / 1e12:,.1f} TFLOP in all: "
        f"roughly {console.duration(costs['seconds'])} of training at {USUAL_SHARE:.0%} of this device's "
        f"{costs['flops_per_second'] / 1e9:,.0f} GFLOP/s in matrix products, measured just now"
    )
    weights, moments, activations = (num_bytes / 2**20 for num_bytes in costs["memory"].values())
    console.say(
        f"  memory: {weights:,.0f} MiB of weights, {moments:,.0f} MiB of gradients and optimizer state, about "
        f"{activations:,.0f} MiB of activations per device"
    )
    total, shared = tree.count(experiment.params), experiment.mesh.shape["model"]
    if shared > 1 and total < TENSOR_PARALLEL:
        console.say(
            f"  config.mesh.model={shared}: below {TENSOR_PARALLEL / 1e9:g} billion parameters ({total / 1e6:,.0f} "
            "million here) devices that share each layer cost more than they save; config.mesh.shard_params=True saves "
            "memory"
        )
    if len(experiment.stages) > 1:
        firsts = ", ".join(str(stage.first) for stage in experiment.stages)
        console.say(
            f"  {len(experiment.stages)} stages, one program each, from steps {firsts}; the costs are the last stage's"
        )
    console.say(f"  evaluations of dev after steps {_some([str(k) for k in experiment.evaluations])}")


def planned(experiment: Experiment) -> dict[str, Any]:
    """Steps, shapes, shares of real tokens, operations, and estimates of time and memory of a run, as plain values.

    `real_tokens` has the share of real tokens among the computed ones as planned, and what it would be in batches of
    the same examples, one per row, padded to the longest of each batch or to config.model.max_length.  `memory` is in
    bytes per device; `seconds` are those of training at USUAL_SHARE of `flops_per_second`, measured just now.
    """
    plan, operations, rate = experiment.plan, step_flops(experiment), product_rate(experiment.model.dtype)
    lengths, chosen = experiment.trained.lengths, experiment.schedule.batches(0, len(plan.shape_of))
    batches = [lengths[rows[rows >= 0]] for rows in chosen]
    real = sum(int(batch.sum()) for batch in batches)
    longest = sum(len(batch) * int(batch.max()) for batch in batches)
    whole = sum(map(len, batches)) * max(int(lengths.max()), experiment.settings.experiment.model.max_length)
    weights, moments, activations = memory(experiment)
    return {
        "steps": experiment.steps,
        "batch_size": experiment.schedule.batch_size,
        "shapes": [[shape.groups * shape.rows, shape.row_length] for shape in plan.shapes],
        "real_tokens": {
            "planned": plan.efficiency,
            "longest_of_batch": real / longest if longest else 1.0,
            "max_length": real / whole if whole else 1.0,
        },
        "flops_per_step": operations,
        "flops_per_second": rate,
        "seconds": operations * experiment.steps / (USUAL_SHARE * rate * experiment.mesh.size),
        "memory": {"weights": weights, "gradients_and_moments": moments, "activations": activations},
    }


def product_rate(dtype: str) -> float:
    """Operations per second of a 1024 x 1024 matrix product on the first device: the best of five measurements."""
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


def step_flops(experiment: Experiment, names: Collection[str] | None = None, share: float = 1.0) -> float:
    """Operations of a mean step, by `cost.step_flops`.

    Args:
        experiment: the run.
        names: trainable leaves of a step that starts from tokens; by default those of the run's last stage, which may
            start from the feature cache.
        share: share of the planned tokens, in rows that are shorter by the same factor.
    """
    plan, params = experiment.plan, tree.flatten(experiment.params)
    return passes(experiment) * cost.step_flops(
        experiment.model.config,
        {name: params[name].shape for name in names or experiment.trainable},
        tokens=share * plan.computed_tokens / max(1, len(plan.shape_of)),
        row_length=share * plan.shapes[0].row_length,
        examples=float(np.mean([plan.shapes[i].examples * plan.shapes[i].groups for i in plan.shape_of])),
        classes=experiment.model.classes,
        start=experiment.stages[-1].model.start if names is None else -1,
        one_slot=experiment.model.one_slot,
        head=experiment.model.head,
    )


def passes(experiment: Experiment) -> int:
    """Passes of each example in a step: R-Drop takes two."""
    return 1 if experiment.settings.experiment.loss.r_drop is None else 2


def memory(experiment: Experiment) -> tuple[int, int, int]:
    """Bytes per device of (weights, gradients and the optimizer's state, activations), the last roughly estimated."""

    sharding, flat = experiment.sharding, tree.flatten(experiment.params)

    def held(name: str, leaf: Any, place: Any) -> int:
        return int(np.prod(place(name, leaf.shape).shard_shape(leaf.shape)))

    sizes = {name: held(name, leaf, sharding.stored) for name, leaf in flat.items()}
    # What is spread is gathered while a step uses it, and the gradients are whole until they are reduced.
    used = {name: held(name, leaf, sharding.in_use) for name, leaf in flat.items()} if sharding.spread else {}
    gathered = 4 * sum(used.values()) + 4 * sum(used.get(name, 0) for name in experiment.trainable)
    trained = sum(sizes[name] for name in experiment.trainable)
    tokens = max(shape.rows * shape.row_length for shape in experiment.plan.shapes)
    # Logits, their logarithms and their gradient, in float32: most of it where each slot has a whole vocabulary.
    logits = 3 * 4 * experiment.model.classes * max(shape.num_slots for shape in experiment.plan.shapes)
    state = _optimizer_bytes(experiment, flat, experiment.trainable) * trained
    state //= sum(leaf.size for name, leaf in flat.items() if name in experiment.trainable) or 1
    stored = passes(experiment) * (_activation_bytes(experiment, tokens) + logits)
    return 4 * sum(sizes.values()), 4 * trained + state, stored + gathered


def _activation_bytes(experiment: Experiment, tokens: int) -> int:
    """Bytes of the activations that are stored for the backward pass of `tokens` tokens."""
    config = experiment.model.config
    layers = config.layers - max(0, partition.lowest_layer(experiment.trainable, config.layers))
    size = 2 if experiment.model.dtype == "bfloat16" else 4
    row = experiment.plan.shapes[0].row_length
    return size * tokens * layers * (10 * config.width + 3 * config.inner + 3 * config.heads * row)


def show_classes(result: dict[str, Any]) -> None:
    """Prints the scores of each class on dev, and a warning about classes that are never predicted."""
    rows = result.get("per_class") or []
    if not rows:
        return
    shown = rows if len(rows) <= MANY_CLASSES else sorted(rows, key=lambda row: (row["f1"], -row["support"]))
    cells = [
        (row["label"], *(f"{row[key]:.4f}" for key in ("precision", "recall", "f1")), row["support"], row["predicted"])
        for row in shown[:MANY_CLASSES]
    ]
    few = f": {MANY_CLASSES} of {len(rows):,}, lowest f1 first" if len(rows) > MANY_CLASSES else ""
    columns = ("class", ">precision", ">recall", ">f1", ">examples", ">predicted")
    console.table(f"Classes on {result['split']}{few}", columns, cells)
    never = [f"{row['label']} ({row['support']:,} examples)" for row in rows if row["support"] and not row["predicted"]]
    if never:
        console.warn(f"never predicted on {result['split']}: {_some(never)}")


def show_choice(result: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> None:
    """Prints how the last step compares with the best one, and the option that keeps the best, where they differ.

    Args:
        result: of result.json.
        evaluations: the rows of eval.jsonl.
    """
    best, metric = result["best"], result["best"].get("metric")
    last = next((row for row in reversed(evaluations) if row.get(metric) is not None), None)
    if last is None or best["step"] is None or best["metrics"].get(metric) in (None, last[metric]):
        return
    compared = (
        f"dev {metric} {best['metrics'][metric]:.4f} at step {best['step']}, the best, and {last[metric]:.4f} at step "
        f"{last['step']}, the last"
    )
    if result["selected_step"] == best["step"]:
        console.say(f"  {compared}; the best one is kept")
    else:
        console.say(f"  {compared}; the last one is kept: --config.train.select=best keeps the best")


def show_teachers(result: dict[str, Any]) -> None:
    """Prints the scores on dev and the cost of the runs that a run learned from, if there are any."""
    for teacher in result.get("teachers", ()):
        scores = ", ".join(f"{name} {value:.4f}" for name, value in teacher["metrics"].items())
        console.say(
            f"  learned from {teacher['run']}: dev {scores}; {teacher['total_params']:,} parameters, trained in "
            f"{console.duration(teacher['train_seconds'])}"
        )
    if "teacher_seconds" in result:
        console.say(f"  their predictions of the training rows took {console.duration(result['teacher_seconds'])}")


def show_result(workdir: str) -> None:
    """Prints the final table of a finished run."""
    result = run_records.read_result(workdir)
    rows = [
        (split, name, f"{value:.4f}") for split, scores in result["splits"].items() for name, value in scores.items()
    ]
    console.table(
        f"{result['task']}, step {result['selected_step']} of {result['steps']}", ("split", "metric", ">score"), rows
    )
    show_classes(result)
    show_choice(result, run_records.read_evaluations(workdir))
    rate = result["examples_per_second"]
    console.say(
        f"  {result['trainable_params']:,} of {result['total_params']:,} parameters trained in "
        f"{console.duration(result['train_seconds'])} ({rate or 0:.1f} examples/s) + "
        f"{console.duration(result['compile_seconds'])} compiling; {result['peak_memory_bytes'] / 2**30:.1f} GiB "
        f"({result['memory_kind']})"
    )
    show_teachers(result)
    for path, text in (
        ("predictions/dev.tsv", "every row with its prediction"),
        ("curve.png", "the learning curve"),
    ):
        if os.path.exists(os.path.join(workdir, path)):
            console.say(f"  {os.path.join(workdir, path)}: {text}")
    for path, text in exports.describe(os.path.join(workdir, "export")):
        console.say(f"  {path}: {text}")
