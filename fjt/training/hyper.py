"""Hyper-parameters as data: what the step receives as traced arrays, so one compiled program serves a grid."""

import dataclasses
from collections.abc import Mapping
from typing import no_type_check

import jax
import numpy as np
from jax.typing import ArrayLike


@no_type_check  # trees of shapes and of shardings are made of it as well
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """The hyper-parameters of a step.  Lanes have a leading axis J everywhere.

    Attributes:
        learning_rate: f32[], of this step.
        weight_decay: f32[].
        clip_norm: f32[], inf for no clipping.
        dropout_hidden: f32[], the rate.
        dropout_attention: f32[], the rate.
        dropout_classifier: f32[], the rate.
        label_smoothing: f32[].
        class_weights: f32[C], as `Problem.label_weights` returns them; for several tasks also the weight of each.
        dropout_key: u32[2], of the run; the step folds its number in.
        methods: {tuning method: {name: f32[] or f32[7]}}.
        multipliers: {trainable leaf: f32[]}, of the learning rate; {} if all are 1.
        layer_dropout: f32[layers], factors of the hidden and attention rates; None for all 1.
        l1: f32[], the strength; None for none, as below.
        average_rate: f32[], the share of this step's parameters in their average over steps.
        focal: f32[], the exponent.
        r_drop: f32[], the strength.
        mixup: f32[], the parameter of Beta(mixup, mixup).
        soft_weight: f32[], the share of the loss against teachers; None without teachers.
        temperature: f32[], of that loss; None where it has none.
        hidden_weight: f32[], the strength of the loss against a teacher's vectors; None for none.
    """

    learning_rate: ArrayLike
    weight_decay: ArrayLike
    clip_norm: ArrayLike
    dropout_hidden: ArrayLike
    dropout_attention: ArrayLike
    dropout_classifier: ArrayLike
    label_smoothing: ArrayLike
    class_weights: ArrayLike
    dropout_key: jax.Array | np.ndarray
    methods: Mapping[str, Mapping[str, ArrayLike]] = dataclasses.field(default_factory=dict)
    multipliers: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)
    layer_dropout: ArrayLike | None = None
    l1: ArrayLike | None = None
    average_rate: ArrayLike | None = None
    focal: ArrayLike | None = None
    r_drop: ArrayLike | None = None
    mixup: ArrayLike | None = None
    soft_weight: ArrayLike | None = None
    temperature: ArrayLike | None = None
    hidden_weight: ArrayLike | None = None
