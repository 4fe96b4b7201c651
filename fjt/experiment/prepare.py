"""From settings to a run: what is trained on what, prepared and checked before anything is compiled."""

import dataclasses
import functools
import os
from typing import Any

import jax
import numpy as np

from fjt.core import console, tree
from fjt.core.errors import UserError
from fjt.core.options import Settings, fingerprint, resolve_seeds
from fjt.core.seeds import make_key
from fjt.data import batches, packing
from fjt.data.glue import Task
from fjt.experiment import features, recipes
from fjt.experiment.inputs import Inputs
from fjt.interop import adapter as adapters
from fjt.interop import formats
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.models.families import find_family
from fjt.tasks.kinds import find_problem
from fjt.training import placement
from fjt.training.hyper import Hyper
from fjt.training.optim import learning_rates
from fjt.tuning import partition
from fjt.tuning.budget import solve_budget


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps first to last - 1 of a run: the names that train and the Model that they train under.

    groups: the names that opened at each stage up to this one, for the optimizer's counts; () in a run of one stage.
    shapes: of its batches, in the order of the plan's.
    """

    first: int
    last: int
    trainable: frozenset
    model: Model
    groups: tuple
    shapes: tuple


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that is known before compilation.

    task, splits {name: Split}, examples {name: Examples}; model: Model; hf_config: config.json of the base model;
    params: parameters in float32; trainable: names that train, in the last stage at least; stages: the Stages;
    missing: names the checkpoint lacked; unused: its tensors without a place; schedule, plan: the batches and their
    shapes; rates: f32[steps]; hyper: Hyper, with the rate of no step yet; origins: of the options that were open or
    given; contents: sha256 of data, weights and tokenizer; fingerprint: of the experiment.
    """

    settings: Settings
    origins: dict
    task: Task
    splits: dict
    examples: dict
    tokenizer: Any
    model: Model
    hf_config: dict
    params: dict
    trainable: frozenset
    stages: tuple
    missing: tuple
    unused: tuple
    schedule: batches.Schedule
    plan: packing.Plan
    steps: int
    evaluations: tuple
    rates: np.ndarray
    hyper: Hyper
    mesh: jax.sharding.Mesh
    contents: dict
    fingerprint: str
    adopted: frozenset

    @property
    def problem(self):
        """The Problem of the task."""
        return find_problem(self.task.kind)


def prepare(settings, *, given=None, view: console.View = console, inputs=None, shapes=()):
    """The Experiment of Settings.

    given: {key: origin} of the options that were given; view: who is told, with say, warn and bar; inputs: Inputs of
    the same data and base model, read anew without; shapes: those that batches take, planned for this run without.
    Raises UserError for everything that can be known to be wrong.
    """
    inputs = inputs or Inputs(settings, view)
    settings, origins, adapter = resolve(settings, inputs, view)
    experiment = settings.experiment
    device_mesh = placement.make_mesh(settings.execution.mesh.data)
    task, splits = inputs.data
    tokenizer, config, hf_config, checkpoint = inputs.base
    methods = partition.find_methods(experiment.tune)
    partition.check(methods, config, experiment.model.max_length)
    length = partition.prompt_length(methods)
    examples = {name: batches.prepend(split, length) for name, split in inputs.examples.items()}
    rows = len(splits["train"])
    origins = (given or {}) | origins

    problem, family = find_problem(task.kind), find_family(config.family)
    model = Model(
        config,
        problem.num_outputs(task),
        dtype=experiment.model.dtype,
        adapt=partition.make_adapt(methods),
        one_slot=problem.one_slot,
        head=problem.head,
    )
    key = make_key(experiment.seeds.init, "init")
    abstract = _abstract(model)
    params, missing, unused = {}, tuple(tree.flatten(abstract)), ()
    if checkpoint:
        loaded = pretrained.take(checkpoint, abstract, inputs.path, experiment.model.keep_head and not adapter)
        again = partition.reinitialised(tree.flatten(abstract), config, experiment.model.reinit_layers)
        params = tree.split(loaded.params, again)[1]
        missing, unused = tuple(sorted({*loaded.missing, *again})), loaded.unused
        if experiment.model.keep_head and not adapter:
            pretrained.check_labels(hf_config, task.label_names, inputs.path)
    added = partition.abstract_leaves(methods, abstract, config)
    if added and not checkpoint:
        raise UserError(
            "config.model.path is empty, so every weight is random and trains; "
            f"{' and '.join(added)} tunes a model that was trained before."
        )
    whole = abstract | ({"adapters": added} if added else {})
    kept = {name for name in missing if adapter and experiment.model.keep_head and family.is_new(name)}
    trainable = frozenset(partition.trainable_names(whole, config, experiment.tune, tuple(sorted(set(missing) - kept))))
    pooler = {f"{module}/kernel" for module in family.pretrained_head()}
    if checkpoint and loaded.untrained_pooler and not pooler & {*trainable, *(adapter.trained if adapter else ())}:
        view.warn(
            "the checkpoint's pooler looks untrained (its bias is zero) and stays frozen; "
            "--config.tune.train_pooler trains it"
        )
    params = tree.merge(params, jax.tree.map(np.asarray, _init_missing(key, model=model, missing=frozenset(missing))))
    if added:
        params["adapters"] = jax.tree.map(
            np.asarray, _init_added(key, params, methods=_frozen_options(methods), config=config)
        )
    if adapter:
        if experiment.model.keep_head:
            adapters.check_head(adapter, task.label_names, experiment.model.adapter, config.family)
        params = tree.unflatten(adapters.put(adapter, tree.flatten(params), experiment.model.keep_head, config.family))

    train, steps = experiment.train, recipes.total_steps(experiment, rows)
    groups = device_mesh.size * train.accumulation
    recipes.check_groups(min(train.batch_size, rows), groups)
    schedule = batches.Schedule(rows, train.batch_size, experiment.seeds.data)
    indices = schedule.batches(0, max(steps, 1))
    lengths = batches.lengths_of(examples["train"], indices)
    slots = None if problem.one_slot else batches.slots_of(examples["train"], indices)
    if train.row_length and train.row_length < lengths.max():
        raise UserError(
            f"config.train.row_length={train.row_length} is less than the longest example, {lengths.max()} tokens."
        )
    if shapes and shapes[0].groups != groups:
        raise UserError(
            f"This was planned for {shapes[0].groups} groups a batch (devices x config.train.accumulation) and there "
            f"are {groups} here: take as many devices, by config.mesh.data."
        )
    if shapes:
        plan = packing.assign(lengths, shapes, one_a_row=not train.packing, slots=slots)
    else:
        plan = plan_shapes(lengths, experiment, groups, config.width, slots=slots)
    plans = partition.stages(methods, trainable, missing, config.layers, steps, schedule.steps_per_epoch)
    if never := trainable - plans[-1][1]:
        view.warn(
            f"training ends before {len(never)} leaves open, {sorted(never)[0]} among them: they keep their values"
        )
    rates = learning_rates(experiment.optim, steps)
    for (first, _, factor), last in zip(plans, _ends(plans, steps), strict=True):
        rates[first:last] *= factor
    stages = features.start_stages(
        settings,
        model,
        examples,
        _make_stages(plans, steps, model, plan.shapes, experiment.model.frozen_dropout),
        schedule,
        groups,
    )
    contents = inputs.sha256 | ({"adapter": tree.sha256(tree.unflatten(adapter.trained))} if adapter else {})
    hyper = dataclasses.replace(
        make_hyper(experiment, task, examples["train"].label, methods),
        multipliers=partition.multipliers(methods, experiment.optim.multipliers, trainable, config.layers),
    )
    return Experiment(
        settings,
        origins,
        task,
        splits,
        examples,
        tokenizer,
        model,
        hf_config,
        params,
        trainable,
        stages,
        missing,
        unused,
        schedule,
        plan,
        steps,
        recipes.evaluation_steps(experiment, rows),
        rates,
        hyper,
        device_mesh,
        contents,
        fingerprint(experiment, contents),
        frozenset(adapter.others() if adapter else ()),
    )


def resolve(settings, inputs, view: console.View = console):
    """(Settings without open options, {key: origin} of those that were filled, the Adapter to start from or None).

    inputs: Inputs, of which the base model and the number of training rows are read.  Raises UserError.
    """
    settings = resolve_seeds(settings)
    partition.find_methods(settings.experiment.tune)
    splits = inputs.data[1]
    _, config, _, checkpoint = inputs.base
    settings, adapter, adopted = _find_adapter(settings, config, checkpoint, view.warn)
    experiment = settings.experiment
    tune, solved = experiment.tune, ()
    if tune.budget:
        shapes = jax.eval_shape(Model(config, 1).init, make_key(0, "init"))
        tune, solved = solve_budget(tune, shapes, config, experiment.model.max_length)
    settings = dataclasses.replace(settings, experiment=dataclasses.replace(experiment, tune=tune))
    settings, origins = recipes.resolve(
        settings,
        rows=len(splits["train"]),
        config=config,
        scratch=checkpoint is None,
        platform=jax.default_backend(),
    )
    return settings, origins | dict.fromkeys(adopted, "the adapter") | dict.fromkeys(solved, "the budget"), adapter


@functools.cache
def _abstract(model):
    """The shapes of a Model's parameters."""
    return jax.eval_shape(model.init, make_key(0, "init"))


# Compiled once for all runs of a process that differ in nothing but the key.
@functools.partial(jax.jit, static_argnames=("model", "missing"))
def _init_missing(key, *, model, missing):
    return tree.split(model.init(key), missing)[0]


@functools.partial(jax.jit, static_argnames=("methods", "config"))
def _init_added(key, params, *, methods, config):
    return partition.add_leaves({name: dict(options) for name, options in methods}, key, params, config)


def _frozen_options(methods):
    return tuple((name, tuple(options.items())) for name, options in methods.items())


def plan_shapes(lengths, experiment, groups, width, most=3, slots=None):
    """The packing.Plan of batches i32[K, B] of lengths as ExperimentConfig asks.

    width: of the encoder; most: shapes; slots: as of `packing.plan`.
    """
    train = experiment.train
    return packing.plan(
        lengths,
        slots=slots,
        groups=groups,
        row_length=train.row_length,
        grid=row_grid(),
        most_shapes=most,
        one_a_row=not train.packing,
        width=width,
    )


def _ends(plans, steps):
    return [*(first for first, _, _ in plans[1:]), steps]


def _make_stages(plans, steps, model, shapes, frozen_dropout):
    """Stages of `partition.stages`.  Layers below the lowest that trains have no dropout unless frozen_dropout."""
    stages, opened = [], ()
    for (first, names, _), last in zip(plans, _ends(plans, steps), strict=True):
        noisy_from = -1 if frozen_dropout else partition.lowest_layer(names, model.config.layers)
        opened = (*opened, names - frozenset().union(*opened))
        groups = opened if len(plans) > 1 else ()
        stages.append(Stage(first, last, names, dataclasses.replace(model, noisy_from=noisy_from), groups, shapes))
    return tuple(stages)


def row_grid():
    """Row lengths are multiples of this: 128 on a TPU, whose tiles are that wide."""
    return 128 if jax.default_backend() == "tpu" else 8


def _find_adapter(settings, config, checkpoint, warn):
    """(settings with the adapter's options, the Adapter to start from or None, the options that it filled)."""
    experiment = settings.experiment
    if not experiment.model.adapter:
        return settings, None, ()
    if not checkpoint:
        raise UserError("config.model.adapter needs the model that it was trained over: give config.model.path.")
    adapter = formats.read(experiment.model.adapter, config)
    tune, filled = adapters.adopt(experiment.tune, adapter)
    name = os.path.basename(os.path.normpath(experiment.model.path))
    other = adapter.base_sha256 != checkpoint.sha256 if adapter.base_sha256 else os.path.basename(adapter.base) != name
    if other:
        warn(
            f"config.model.adapter was trained over {adapter.base or 'a model without a name'}, whose weights are not "
            f"known to be those of config.model.path={experiment.model.path}"
        )
    return dataclasses.replace(settings, experiment=dataclasses.replace(experiment, tune=tune)), adapter, filled


def make_hyper(experiment, task, labels, methods):
    """Hyper of an experiment's settings with the rate of no step yet.

    labels: [M, ...] of train, for balanced weights; methods: {name: options}.
    Raises UserError for weights that do not fit.
    """
    optim, dropout = experiment.optim, experiment.model.dropout
    weights = find_problem(task.kind).label_weights(experiment.loss, labels, task)
    return Hyper(
        learning_rate=np.float32(0),
        weight_decay=np.float32(optim.weight_decay),
        clip_norm=np.float32(optim.clip_norm or np.inf),
        dropout_hidden=np.float32(dropout.hidden),
        dropout_attention=np.float32(dropout.attention),
        dropout_classifier=np.float32(dropout.classifier),
        label_smoothing=np.float32(experiment.loss.label_smoothing),
        class_weights=np.float32(weights),
        dropout_key=make_key(experiment.seeds.dropout, "dropout"),
        methods=partition.traced_values(methods),
    )
