"""The options of a run as the arrays that its step reads, `fjt.training.hyper.Hyper`."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float32

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.options import DistillConfig, DropoutConfig, ExperimentConfig
from fjt.core.seeds import make_key
from fjt.data.glue import Task
from fjt.experiment.parameters import Parameters
from fjt.models.family import EncoderConfig
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem
from fjt.training.hyper import Hyper
from fjt.tuning import partition

Methods = dict[str, dict[str, Any]]  # {name: options}
SOFT = {"weight": 0.5, "temperature": 2.0}  # of config.distill, where it leaves them open


def build_hyper(
    experiment: ExperimentConfig, task: Task, labels: np.ndarray, parameters: Parameters, config: EncoderConfig
) -> Hyper:
    """The hyper-parameters of a run, see `make_hyper`, with the factors of its learning rate."""
    methods = partition.find_methods(experiment.tune)
    given = experiment.optim.multipliers
    patterns = [pair[0] for pair in given if isinstance(pair, tuple) and pair]
    partition.check_patterns(patterns, tree.flatten(parameters.tree), config.family, "optim.multipliers")
    factors = partition.multipliers(methods, given, parameters.trainable, config.layers)
    layers = _layer_dropout(experiment.model.dropout, config.layers)
    return dataclasses.replace(make_hyper(experiment, task, labels, methods), multipliers=factors, layer_dropout=layers)


def _layer_dropout(dropout: DropoutConfig, layers: int) -> Float32[np.ndarray, " layers"] | None:
    """The factors of dropout rates by layer, None for all 1."""
    given = dropout.layers
    if not given:
        return None
    numbers = all(isinstance(x, int | float) and x >= 0 for x in given)
    if len(given) != layers or not numbers or max(given) * max(dropout.hidden or 0, dropout.attention or 0) > 0.99:
        raise UserError(
            f"config.model.dropout.layers={given} should be {layers} numbers of at least 0, one per layer, whose "
            "products with the rates are at most 0.99."
        )
    return np.array(given, np.float32)


def make_hyper(experiment: ExperimentConfig, task: Task, labels: np.ndarray, methods: Methods) -> Hyper:
    """The hyper-parameters of a run except for its learning rate, which is 0.

    Args:
        experiment: options without open values.
        task: what is predicted.
        labels: [M, ...] of the training split, for balanced weights.
        methods: {name: options} of the tuning methods.

    Raises:
        UserError: class weights that do not fit the task.
    """
    optim, dropout, train = experiment.optim, experiment.model.dropout, experiment.train
    problem = find_problem(task.kind)
    problem.check_loss(experiment.loss, task)
    problem.check_distill(experiment.distill, task)
    soft = _soft(experiment.distill, problem)
    weights = problem.label_weights(experiment.loss, labels, task)
    assert experiment.seeds.dropout is not None, "seeds are resolved"
    if experiment.loss.r_drop and not any((dropout.hidden, dropout.attention, dropout.classifier)):
        raise UserError("config.loss.r_drop compares two dropout masks, and all rates of config.model.dropout are 0.")
    if experiment.loss.mixup is not None and train.batch_size == 1:
        raise UserError("config.loss.mixup mixes examples of one batch, and config.train.batch_size=1 has one alone.")
    if experiment.loss.mixup is not None and train.accumulation > 1:
        raise UserError(
            f"config.loss.mixup mixes examples of a whole batch, and config.train.accumulation={train.accumulation} "
            "computes it in parts. Leave one of them out."
        )
    if optim.decay_toward == "start" and not optim.weight_decay and optim.l1 is None:
        raise UserError(
            "config.optim.decay_toward=start pulls by config.optim.weight_decay, which is 0 here, or by .l1: give one."
        )
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
        l1=_given(optim.l1),
        average_rate=None if train.ema is None and train.swa is None else np.float32(0),
        focal=_given(experiment.loss.focal),
        r_drop=_given(experiment.loss.r_drop),
        mixup=_given(experiment.loss.mixup),
        soft_weight=soft.get("weight"),
        temperature=soft.get("temperature"),
        hidden_weight=_given(experiment.distill.hidden),
    )


def _soft(distill: DistillConfig, problem: Problem) -> dict[str, np.float32]:
    """{option of config.distill: its value} of the loss against teachers; {} without any."""
    given = {"weight": distill.weight, "temperature": distill.temperature}
    values = {name: default if given[name] is None else given[name] for name, default in SOFT.items()}
    return {name: np.float32(values[name]) for name in SOFT if distill.runs and name in problem.distill_options}


def _given(value: float | None) -> np.float32 | None:
    return None if value is None else np.float32(value)
