"""The plan of a study: its runs, their bundles, the compiled programs and the estimated time."""

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int8

from fjt.core import console, memory, records, tree
from fjt.core.errors import UserError, suggest
from fjt.core.options import ExperimentConfig, Settings, flatten
from fjt.core.settings import fingerprint, to_dict
from fjt.data import batches
from fjt.data.packing import Shape
from fjt.experiment import arguments, features, programs, run_records, summary
from fjt.experiment.inputs import Inputs, inputs_key
from fjt.experiment.layout import make_schedule, plan_shapes, row_grid, to_train
from fjt.experiment.prepare import Experiment, prepare, resolve
from fjt.experiment.prepared import draw
from fjt.experiment.recipes import total_steps
from fjt.models import pretrained
from fjt.study import plans
from fjt.study.spec import Run, StudyConfig, program_key, settings_of
from fjt.tasks import own_metrics
from fjt.tasks.kinds import find_problem
from fjt.training import placement
from fjt.tuning import partition, phases

Member = tuple[Run, Settings, ExperimentConfig]  # a run, its settings, and their experiment part, resolved


POOLER = ("tune.train_pooler", True)
MEMORY_SHARE = 0.9  # share of a device's memory that the program of a bundle may need


class Shared:
    """The parts that runs of a process share: data and base models, each read once, and compiled programs.

    Attributes:
        view: the output.
        compiled: {key: program}, for `fjt.experiment.programs`.
    """

    def __init__(self, view: console.View = console) -> None:
        self.view, self.compiled, self._inputs = view, {}, {}

    def inputs(self, settings: Settings) -> Inputs:
        """The Inputs of Settings; equal ones are read once."""
        key = inputs_key(settings.experiment)
        if key not in self._inputs:
            self._inputs[key] = Inputs(settings, self.view)
        return self._inputs[key]


def make_plan(
    folder: str,
    study: StudyConfig,
    base: Mapping[str, Any],
    runs: Sequence[Run],
    shared: Shared,
    command: str = "",
) -> tuple[dict[str, Run], list[plans.Bundle], dict[str, Any]]:
    """(runs, bundles, plan) as `plans.load` returns them, after plan.json was created or extended by new runs.

    Entries of an existing plan.json stay unchanged: new runs form new bundles.

    Args:
        folder: the study's folder.
        study: config.study.
        base: the config of the runs.
        runs: of the config.
        shared: parts that the runs share.
        command: the command line, for the report.

    Raises:
        UserError: the folder belongs to another study or to other contents, or two runs are the same experiment.
    """
    plan = plans.load(folder)[2]
    if plan:
        plans.check_config(folder, plan, base)
    known = plan.get("runs", {})
    runs = _train_poolers(runs, base, shared, known)
    new = [run for run in runs if run.name not in known]
    for run in runs:
        if run.name in known and plans.to_run(run.name, known[run.name]) != plans.to_run(run.name, plans.to_row(run)):
            raise UserError(f"{folder} has a run {run.name} with other values; use another --workdir.")
    prints = dict(plan.get("fingerprints", {}))
    options = {key: value for key, value in vars(study).items() if key not in ("products", "without")}
    left = [run for run in runs if run.name not in known or not run_records.ended(os.path.join(folder, run.name))]
    contents = read_contents(folder, base, left, shared, plan.get("contents", {}), study.metric)
    made, size = make_bundles(study, base, new, shared, plan, prints) if new else ((), plan.get("bytes", 0))
    plan = {
        "command": command,
        "config": plan.get("config") or base,
        "study": options,
        "declared": plans.declared(folder, plan, options),
        "planned_seeds": plans.planned_seeds(folder, plan, runs),
        "active": [run.name for run in runs],
        "runs": known | {run.name: plans.to_row(run) for run in new},
        "groups": [*plan.get("groups", []), *(dataclasses.asdict(g) | {"shapes": _lists(g)} for g in made)],
        "bytes": size,
        "fingerprints": prints,
        "contents": contents,
    }
    records.write_json(os.path.join(folder, "plan.json"), plan)
    return plans.load(folder)


def _train_poolers(
    runs: Sequence[Run], base: Mapping[str, Any], shared: Shared, known: Mapping[str, plans.Row]
) -> list[Run]:
    """The runs of a study: all train a pooler that was never trained, unless config.tune.train_pooler is given.

    Some methods train the pooler by themselves and others leave it frozen; above noise they would not be comparable.
    Of the known runs their rows in plan.json tell: the base model of a study that has ended need not be there.
    """
    made, sizes = [], {}
    for run in runs:
        if run.name in known:
            trains = POOLER in plans.to_run(run.name, known[run.name]).values and POOLER not in run.values
        else:
            settings = settings_of(run, base, [(key, values[0]) for key, values in run.open])
            options, inputs = settings.experiment, shared.inputs(settings)
            checkpoint, head = inputs.base[3], find_problem(inputs.data[0].kind).head
            decided = options.tune.train_pooler is not None or options.model.adapter  # which brings its own pooler
            size = pretrained.untrained_pooler(checkpoint, head) if checkpoint and not decided else 0
            trains = size > 0
            sizes |= {options.model.path: size} if trains else {}
        made.append(dataclasses.replace(run, values=(*run.values, POOLER)) if trains else run)
    for path, size in sizes.items():
        shared.view.warn(
            f"the pooler of {path} looks untrained (its bias is zero), so it trains in every run of the study: "
            f"{size:,} parameters; --config.tune.train_pooler=False freezes it in every run"
        )
    return made


def read_contents(
    folder: str, base: Mapping[str, Any], runs: Sequence[Run], shared: Shared, known: Mapping[str, Any], metric: str
) -> dict[str, Any]:
    """{`plans.data_key`: {name: sha256}} of all that runs read: the known ones, and those of the runs that are left.

    Args:
        folder: the study.
        base: the config of its runs.
        runs: those that are left.
        shared: parts that the runs share.
        known: the contents of plan.json.
        metric: config.study.metric.

    Raises:
        UserError: a run would read other contents than the known ones, or lacks the metric.
    """
    found = dict(known)
    for name, run in {plans.data_key(run.phase, run.cell): run for run in runs}.items():
        settings = settings_of(run, base, [(key, values[0]) for key, values in run.open])
        inputs = shared.inputs(settings)
        task = own_metrics.add(inputs.data[0], settings.experiment.eval.metrics)
        if metric not in ("", *task.metrics):
            hint = suggest(metric, task.metrics)
            raise UserError(f"config.study.metric={metric!r} is not a metric of the task {task.name}.{hint}")
        now = inputs.sha256 | own_metrics.contents(task) | phases.contents(settings.experiment.tune)
        plans.check_contents(folder, run, found.setdefault(name, now), now, flatten(to_dict(settings)))
    return found


def _lists(bundle: plans.Bundle) -> list[tuple[int, ...]]:
    return [dataclasses.astuple(shape) for shape in bundle.shapes]


def make_bundles(
    study: StudyConfig,
    base: Mapping[str, Any],
    runs: Sequence[Run],
    shared: Shared,
    plan: Mapping[str, Any],
    prints: dict[str, str],
) -> tuple[list[plans.Bundle], float]:
    """(Bundles of runs, bytes of a device that the largest bundle needs).

    Args:
        study: config.study.
        base: the config of the runs.
        runs: the runs.
        shared: parts that the runs share.
        plan: the contents of plan.json, {} without one.
        prints: {fingerprint and phase: name} of earlier runs, to which these runs are added.

    Raises:
        UserError: two runs are the same experiment.
    """
    found = {}
    with shared.view.bar("planning", len(runs)) as bar:
        for i, run in enumerate(runs, 1):
            settings = settings_of(run, base, [(key, values[0]) for key, values in run.open])
            inputs = shared.inputs(settings)
            resolved, _, _ = resolve(settings, inputs, console.Silent())
            print_ = fingerprint(resolved.experiment, inputs.sha256) + run.phase
            if not run.open and prints.setdefault(print_, run.name) != run.name:  # open values may still differ
                raise UserError(f"{prints[print_]} and {run.name} are the same experiment; remove one of them.")
            key = run.phase, program_key(resolved.experiment, inputs.sha256)
            found.setdefault(key, []).append((run, settings, resolved.experiment))
            bar.update(i)
    bundles, size, rate = [], plan.get("bytes", 0), {}
    alike = [(*key, open_, part) for key, members in found.items() for open_, part in _by_start(members, shared)]
    for phase, program, open_, members in sorted(alike, key=lambda item: item[0] == "runs"):
        _, settings, experiment = members[0]
        inputs, mode = shared.inputs(settings), _mode(study, settings, experiment, open_)
        shapes, taken = _shapes(settings, members, inputs, most=1 if mode == "vmap" else 3)
        first = prepare(settings, view=console.Silent(), inputs=inputs, shapes=shapes)
        members = sorted(members, key=lambda member: member[2].seeds.data or 0)  # parts of one batch where sizes permit
        if mode == "vmap":
            parts, taken_bytes = _fit_lanes(first, members, study.lanes, shared)
            keys = [programs.lanes_keys(first, len(part), one_batch(part)) for part in parts]
        else:
            parts, taken_bytes = _divide(members, study.lanes), sum(summary.memory(first))
            keys = [programs.program_keys(first, taken)] * len(parts)
        size = max(size, taken_bytes)
        dtype = first.model.dtype
        rate[dtype] = rate.get(dtype) or summary.product_rate(dtype)
        each = summary.step_flops(first) * first.steps / (summary.USUAL_SHARE * rate[dtype] * first.sharding.mesh.size)
        for part, own in zip(parts, keys, strict=True):
            names = tuple(run.name for run, _, _ in part)
            id_ = f"{len(plan.get('groups', [])) + len(bundles):03d}-{plans.word(names)}"
            words = tuple(sorted(map(word_of, own)))
            bundles.append(plans.Bundle(id_, phase, mode, program, shapes, names, words, each * len(part)))
    return bundles, size


def word_of(key: Hashable) -> str:
    """A short hash of a program's key, equal in every process."""
    return plans.word([repr(key)])


def _by_start(members: Sequence[Member], shared: Shared) -> list[tuple[bool, Sequence[Member]]]:
    """[(whether the starting layer of their steps is undecided, members)].

    Runs above frozen layers are divided by whether they are long enough for a feature cache: this decides the layer
    from which their steps start, and so their programs.  members: of one program, apart from that.
    """
    _, settings, experiment = members[0]
    inputs, found = shared.inputs(settings), {}
    rows = inputs.train_size
    enough = features.EPOCHS * -(-rows // experiment.train.batch_size)
    for member in members:
        long = {total_steps(each, rows) >= enough for each in _durations(member[0], member[2])}
        found.setdefault(frozenset(long), []).append(member)
    if len(found) == 1 and len(*found) == 1:
        return [(False, members)]
    first = prepare(settings, view=console.Silent(), inputs=inputs)
    if partition.lowest_layer(first.stages[0].trainable, first.model.config.layers) < 1:
        return [(False, members)]
    return [(len(long) > 1, part) for long, part in found.items()]


def _mode(study: StudyConfig, settings: Settings, experiment: ExperimentConfig, open_: bool) -> str:
    """ "loop" or "vmap" for a bundle.

    Gradual unfreezing changes its program during the run, and runs whose starting layer is undecided may need
    different programs: both are executed one after another.  So are runs whose parameters are spread over devices.
    """
    if settings.execution.mesh.model > 1 or settings.execution.mesh.shard_params:
        return "loop"
    if partition.has_stages(experiment.tune.method) or open_:
        return "loop"
    return study.mode or ("loop" if jax.default_backend() == "cpu" else "vmap")


def _divide(members: Sequence[Member], most: int) -> list[Sequence[Member]]:
    """The members in as few parts of at most `most` as possible, of sizes that differ by at most one."""
    parts = -(-len(members) // most)
    ends = [len(members) * i // parts for i in range(parts + 1)]
    return [members[start:end] for start, end in itertools.pairwise(ends)]


def one_batch(members: Sequence[Member]) -> bool:
    """Whether all members train on the same examples in each step."""
    return len({experiment.seeds.data for _, _, experiment in members}) == 1


def _fit_lanes(
    experiment: Experiment, members: Sequence[Member], most: int, shared: Shared
) -> tuple[list[Sequence[Member]], float]:
    """(members in parts that fit into the device's memory as lanes, bytes that the largest part needs).

    Raises UserError when one lane alone does not fit.
    """
    (stage,), total = experiment.stages, memory.device_bytes()
    # The best parameters of each lane need memory besides the program, twice while they are updated.
    best = any(member.train.select != "last" for _, _, member in members)
    beside = 2 * best * sum(leaf.nbytes for leaf in jax.tree.leaves(tree.split(experiment.params, stage.trainable)[0]))
    eval_shape = arguments.pack_evaluated(experiment, stage)["dev"].shape
    while True:
        parts, taken = _divide(members, most), 0
        try:
            for part in {(len(part), one_batch(part)) for part in parts}:
                made = programs.compile_lanes(experiment, stage, *part, eval_shape, shared.compiled, console.Silent())
                taken = max(taken, programs.bytes_of(*made.train.values(), made.eval) + part[0] * beside)
        except jax.errors.JaxRuntimeError as error:  # a TPU's compiler raises for a program that does not fit
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            taken = math.inf
        if taken <= MEMORY_SHARE * total:
            return parts, taken
        if most == 1:
            raise UserError(
                f"{members[0][0].name}: one run alone does not fit into {total / 2**30:.1f} GiB. Use a smaller "
                "config.train.batch_size or a larger config.train.accumulation."
            )
        most = (max(len(part) for part in parts) + 1) // 2


def _shapes(
    settings: Settings, members: Sequence[Member], inputs: Inputs, most: int
) -> tuple[tuple[Shape, ...], list[Int8[np.ndarray, " steps"]]]:
    """(at most `most` shapes for the batches of all members, the shape of each batch per schedule)."""
    rows, steps = inputs.train_size, {}
    for run, _, experiment in members:
        each = max(total_steps(open_, rows) for open_ in _durations(run, experiment))
        steps.setdefault(experiment.seeds.data, set()).add(max(each, 1))
    experiment = members[0][2]
    problem = find_problem(inputs.data[0].kind)
    examples = draw(experiment, problem, "train", inputs.examples["train"], inputs.base[0])
    examples = to_train(experiment, problem, examples)
    seeds, schedule_of = sorted(steps), functools.partial(make_schedule, experiment, problem, examples, rows=rows)
    indices = np.concatenate([schedule_of(seed).batches(0, max(steps[seed])) for seed in seeds])
    lengths, one_slot = batches.lengths_of(examples, indices), problem.one_slot
    slots = None if one_slot else batches.slots_of(examples, indices)
    given = settings.execution.mesh
    mesh = placement.make_mesh(given.data, given.model)
    groups, grid = placement.num_shards(mesh) * experiment.train.accumulation, row_grid(placement.platform(mesh))
    plan = plan_shapes(lengths, experiment, groups, grid, inputs.base[1].width, most, slots)
    taken = np.split(plan.shape_of, np.cumsum([max(steps[seed]) for seed in seeds])[:-1])
    return plan.shapes, [shape_of[:k] for seed, shape_of in zip(seeds, taken, strict=True) for k in steps[seed]]


def _durations(run: Run, experiment: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """The experiment, and its variants with each value of epochs or steps that is open."""
    yield experiment
    for key, values in run.open:
        for value in values if key in ("train.epochs", "train.steps") else ():
            unit = key.split(".")[1]
            train = dataclasses.replace(experiment.train, epochs=None, steps=None)
            yield dataclasses.replace(experiment, train=dataclasses.replace(train, **{unit: value}))
