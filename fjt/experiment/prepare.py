"""From settings to a run: what is trained on what, prepared and checked before anything is compiled."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from fjt.core import console, tree
from fjt.core.errors import UserError, suggest
from fjt.core.options import ExperimentConfig, Settings
from fjt.core.settings import fingerprint, resolve_seeds
from fjt.data import batches, packing, tokenizer_files
from fjt.data.glue import Split, Task
from fjt.experiment import features, recipes
from fjt.experiment.hyper_parameters import build_hyper
from fjt.experiment.inputs import Inputs
from fjt.experiment.layout import Layout, plan_layout, to_train
from fjt.experiment.parameters import Parameters, build_parameters
from fjt.experiment.prepared import Experiment, Stage, draw, rates_of
from fjt.interop import adapter as adapters
from fjt.interop import formats
from fjt.models.config_json import unread_keys
from fjt.models.encoder import Model, abstract_params
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.pretrained import Checkpoint
from fjt.tasks import own_metrics
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem
from fjt.training import placement, schedules
from fjt.tuning import partition, phases
from fjt.tuning.budget import solve_budget


def prepare(
    settings: Settings,
    *,
    given: Mapping[str, str] | None = None,
    view: console.View = console,
    inputs: Inputs | None = None,
    shapes: Sequence[packing.Shape] = (),
) -> Experiment:
    """The Experiment of Settings.

    Args:
        settings: perhaps with open values.
        given: {key: origin} of the options that were given.
        view: where warnings and progress are shown.
        inputs: the data and the base model; by default they are read.
        shapes: the shapes that batches take; by default they are planned for this run.

    Raises:
        UserError: for everything that can be known to be wrong before a step is taken.
    """
    inputs = inputs or Inputs(settings, view)
    settings, origins, adapter = resolve(settings, inputs, view)
    experiment = settings.experiment
    sharding = share(settings, inputs.base[1])
    task, splits = inputs.data
    task, problem = _complete(experiment, task), find_problem(task.kind)
    tokenizer, config, _, _ = inputs.base
    examples = _read_examples(experiment, inputs, problem)
    splits = {name: problem.label_rows(split, examples[name]) for name, split in splits.items()}
    _try_metrics(experiment, task, splits)
    model = build_model(experiment, config, task)
    parameters = build_parameters(experiment, inputs, model, adapter, view)
    trained, rows = to_train(experiment, problem, examples["train"]), len(examples["train"])
    layout = plan_layout(experiment, problem, trained, model, rows=rows, mesh=sharding.mesh, shapes=shapes)
    stages, rates = _plan_stages(settings, task, model, parameters, layout, examples, view)
    _check_features(experiment, stages, config)
    labelled = bool(problem.is_labelled(splits["dev"].label).any())
    evaluations = _evaluations(experiment, rows, stages, labelled)
    schedules.check_plateau(experiment, len(evaluations), labelled)
    contents = _contents(inputs, task, adapter)
    return Experiment(
        settings=settings,
        origins={**(given or {}), **origins},
        task=task,
        splits=splits,
        texts=inputs.examples,
        examples=examples,
        trained=trained,
        tokenizer=tokenizer,
        model=model,
        params=parameters.tree,
        trainable=parameters.trainable,
        stages=stages,
        missing=parameters.missing,
        unused=parameters.unused,
        schedule=layout.schedule,
        plan=layout.plan,
        steps=layout.steps,
        evaluations=evaluations,
        rates=rates,
        average_rates=schedules.average_rates(experiment.train, layout.steps),
        label=trained.label,
        hyper=build_hyper(experiment, task, trained.label, parameters, config),
        sharding=sharding,
        contents=contents,
        fingerprint=fingerprint(experiment, contents),
        adopted=frozenset(adapter.others() if adapter else ()),
        teachers=inputs.teachers,
    )


def _check_features(experiment: ExperimentConfig, stages: Sequence[Stage], config: EncoderConfig) -> None:
    """Raises UserError for options about vectors of the encoder that do not fit the layers which train."""
    if experiment.train.smote and any(stage.model.start < config.layers for stage in stages):
        raise UserError(
            f"config.train.smote={experiment.train.smote} makes features, not texts: it needs config.tune.method=head, "
            "and in runs of fewer than two epochs config.cache.hidden=True."
        )
    lowest = partition.lowest_layer(stages[-1].trainable, config.layers)
    if experiment.distill.hidden is not None and lowest >= config.layers:
        raise UserError(
            f"config.distill.hidden={experiment.distill.hidden}: no layer of the encoder trains, so its vectors stay "
            "as they are. Leave the option out."
        )


def share(settings: Settings, config: EncoderConfig, devices: Sequence[Any] = ()) -> placement.Layout:
    """Where the parameters of a run are on its devices, by default those of this machine.

    Raises UserError for a mesh that is not there or does not fit the model.
    """
    given, family = settings.execution.mesh, find_family(config.family)
    if config.heads % given.model:
        raise UserError(
            f"config.mesh.model={given.model} does not divide the {config.heads} attention heads of the model. Valid: "
            f"{', '.join(str(n) for n in range(1, config.heads + 1) if config.heads % n == 0)}."
        )
    return placement.Layout(placement.make_mesh(given.data, given.model, devices), family.sharding, given.shard_params)


def _contents(inputs: Inputs, task: Task, adapter: adapters.Adapter | None) -> dict[str, str]:
    """{name: sha256} of data, weights, tokenizer, the user's own metrics and the adapter."""
    started = {"adapter": tree.sha256(tree.unflatten(adapter.trained))} if adapter else {}
    return inputs.sha256 | own_metrics.contents(task) | started


def _complete(experiment: ExperimentConfig, task: Task) -> Task:
    """The task with the run's way to decode, and with the user's own metrics.

    Raises:
        UserError: such a metric cannot be found, or config.train.select names no metric.
    """
    given, problem = experiment.eval, find_problem(task.kind)
    for name, value in dataclasses.asdict(experiment.mask).items():
        if value is not None and not problem.documents:
            raise UserError(f"config.mask.{name}={value}: {task.kind} masks no tokens. Leave the option out.")
    _check_several(experiment, task, problem)
    task = own_metrics.add(problem.configured(task, given), given.metrics)
    select, valid = experiment.train.select, ("last", "best", *task.metrics, "loss")
    if select not in valid:
        raise UserError(f"config.train.select={select!r} is unknown.{suggest(select, valid)}")
    return task


def _check_several(experiment: ExperimentConfig, task: Task, problem: Problem) -> None:
    """Raises UserError for options of several tasks in a run of one, and for those that several do not have."""
    train, tasks = experiment.train, experiment.loss.task_weights
    for key, value in {
        "loss.task_weights": tasks,
        "train.task_shares": train.task_shares,
        "train.task_temperature": train.task_temperature,
    }.items():
        if value not in (None, ()) and not problem.several:
            raise UserError(f"config.{key}={value}: {task.name} is one task. Leave the option out.")
    if experiment.eval.metrics and problem.several:
        raise UserError("config.eval.metrics: the labels of several tasks are of no one kind. Leave the option out.")


def _try_metrics(experiment: ExperimentConfig, task: Task, splits: Mapping[str, Split]) -> None:
    """Calls the user's own metrics with predictions that are right, and with a constant.

    They are called for every split that is evaluated, because a metric may fail for the labels of one of them.

    Raises:
        UserError: a metric cannot be computed.
    """
    problem = find_problem(task.kind)
    for name in recipes.evaluated_splits(experiment, splits) if task.own_metrics else ():
        label = splits[name].label[problem.is_labelled(splits[name].label)]
        for metric in task.own_metrics if len(label) else ():
            try:
                metric(problem.perfect(label), label)
                metric(problem.constant(label), label)
            except UserError as error:
                raise UserError(f"{error} It was called with the labels of the {name} split.") from None


def _read_examples(experiment: ExperimentConfig, inputs: Inputs, problem: Problem) -> dict[str, batches.Examples]:
    """{name: tokens and slots} of each split, as `prepared.draw` returns them."""
    partition.check(partition.find_methods(experiment.tune), inputs.base[1], experiment.model.max_length)
    return {name: draw(experiment, problem, name, texts, inputs.base[0]) for name, texts in inputs.examples.items()}


def build_model(experiment: ExperimentConfig, config: EncoderConfig, task: Task) -> Model:
    """The Model of a task under the tuning methods, with dropout in every layer."""
    problem, methods = find_problem(task.kind), partition.find_methods(experiment.tune)
    assert experiment.model.dtype is not None, "the recipe has filled it"
    return Model(
        config,
        problem.num_outputs(task) or config.vocab,
        dtype=experiment.model.dtype,
        adapt=partition.make_adapt(methods),
        one_slot=problem.one_slot,
        head=problem.head,
    )


def _plan_stages(
    settings: Settings,
    task: Task,
    model: Model,
    parameters: Parameters,
    layout: Layout,
    examples: dict[str, batches.Examples],
    view: console.View,
) -> tuple[tuple[Stage, ...], Float32[np.ndarray, " steps"]]:
    """(the stages of a run, its learning rate in each step)."""
    experiment, steps, layers = settings.experiment, layout.steps, model.config.layers
    methods = partition.find_methods(experiment.tune)
    plans = partition.stages(
        methods, parameters.trainable, parameters.missing, layers, steps, layout.schedule.steps_per_epoch
    )
    if never := parameters.trainable - set(plans[-1][1]):
        view.warn(
            f"training ends before {len(never)} leaves open, {sorted(never)[0]} among them: they keep their values"
        )
    ends, opened = [*(first for first, _, _ in plans[1:]), steps], partition.opened(plans)
    stages: list[Stage] = []
    for number, ((first, names, factor), last) in enumerate(zip(plans, ends, strict=True), 1):
        stages.append(
            Stage(
                first=first,
                last=last,
                trainable=frozenset(names),
                model=quiet_below(experiment, model, names),
                groups=opened[:number],
                shapes=layout.plan.shapes,
                rate_factor=factor,
            )
        )
    problem = find_problem(task.kind)
    started = features.start_stages(settings, problem, model, examples, stages, layout.schedule, layout.groups)
    return started, rates_of(experiment.optim, steps, started)


def _evaluations(experiment: ExperimentConfig, rows: int, stages: Sequence[Stage], labelled: bool) -> tuple[int, ...]:
    """The steps after which dev is evaluated; where the next stage starts from the best step, also each stage's last.

    Args:
        experiment: without open options.
        rows: number of training examples.
        stages: the stages of the run.
        labelled: whether any row of dev has a label.

    Raises:
        UserError: stages cannot end by their scores.
    """
    steps, patience = recipes.evaluation_steps(experiment, rows), experiment.tune.stage_patience
    if patience is None:
        return steps
    if not labelled:
        raise UserError(
            f"config.tune.stage_patience={patience} counts scores on dev, which has no labels here: leave it out, or "
            "keep training rows as dev by config.data.holdout."
        )
    if experiment.train.patience:
        raise UserError(
            f"config.tune.stage_patience={patience} ends each stage, the last one too: leave out config.train.patience"
            f"={experiment.train.patience}."
        )
    return tuple(sorted({*steps, *(stage.last for stage in stages)}))


def quiet_below(experiment: ExperimentConfig, model: Model, names: Collection[str]) -> Model:
    """The Model of a stage that trains these names: the layers below all of them have no dropout by default."""
    lowest = partition.lowest_layer(names, model.config.layers)
    return dataclasses.replace(model, noisy_from=-1 if experiment.model.frozen_dropout else lowest)


def resolve(
    settings: Settings, inputs: Inputs, view: console.View = console
) -> tuple[Settings, dict[str, str], adapters.Adapter | None]:
    """(settings without open values, {key: origin} of those that were filled, the adapter to start from or None).

    Args:
        settings: perhaps with open values.
        inputs: the base model and the number of training rows are read.
        view: where warnings are shown.

    Raises:
        UserError: the options do not fit the adapter or the budget.
    """
    settings = resolve_seeds(settings)
    partition.find_methods(settings.experiment.tune)
    rows = inputs.train_size  # errors of the data come before those of the model
    if settings.experiment.data.folds is not None:
        rows += inputs.size_of("dev")  # all folds take the recipe of the whole table
    _, config, hf_config, checkpoint = inputs.base
    if checkpoint:
        for unread in (unread_keys(hf_config, inputs.path), tokenizer_files.unread_keys(inputs.path)):
            if unread:
                view.warn(unread)
    settings, adapter, adopted = _find_adapter(settings, config, checkpoint, view)
    settings, origins = fill(
        settings, rows=rows, config=config, scratch=checkpoint is None, platform=jax.default_backend()
    )
    return settings, origins | dict.fromkeys(adopted, "the adapter"), adapter


def fill(
    settings: Settings, *, rows: int, config: EncoderConfig, scratch: bool, platform: str
) -> tuple[Settings, dict[str, str]]:
    """(settings without open values, {key: origin} of those that were filled).  See `recipes.resolve`."""
    experiment = settings.experiment
    tune, found = experiment.tune, {}
    if tune.schedule_file:
        found["tune.stages"] = "the schedule file"
        tune = phases.read_into(tune, tune.schedule_file)
    if tune.budget:
        shapes = abstract_params(Model(config, 1))
        tune, solved = solve_budget(tune, shapes, config, experiment.model.max_length)
        found |= dict.fromkeys(solved, "the budget")
    settings = dataclasses.replace(settings, experiment=dataclasses.replace(experiment, tune=tune))
    settings, origins = recipes.resolve(settings, rows=rows, config=config, scratch=scratch, platform=platform)
    return settings, origins | found


def _find_adapter(
    settings: Settings, config: EncoderConfig, checkpoint: Checkpoint | None, view: console.View
) -> tuple[Settings, adapters.Adapter | None, Collection[str]]:
    """(settings with the adapter's options, the adapter to start from or None, the options that it filled)."""
    experiment = settings.experiment
    if not experiment.model.adapter:
        return settings, None, ()
    if not checkpoint:
        raise UserError("config.model.adapter needs the model that it was trained over: give config.model.path.")
    adapter = formats.read(experiment.model.adapter, config)
    if adapter.unread:
        view.warn(adapter.unread)
    tune, filled = adapters.adopt(experiment.tune, adapter)
    name = os.path.basename(os.path.normpath(experiment.model.path))
    other = adapter.base_sha256 != checkpoint.sha256 if adapter.base_sha256 else os.path.basename(adapter.base) != name
    if other:
        view.warn(
            f"config.model.adapter was trained over {adapter.base or 'a model without a name'}, whose weights are not "
            f"known to be those of config.model.path={experiment.model.path}"
        )
    return dataclasses.replace(settings, experiment=dataclasses.replace(experiment, tune=tune)), adapter, filled
