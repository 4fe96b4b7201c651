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
