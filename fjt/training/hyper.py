"""Hyper-parameters as data: what the step receives as traced arrays, so one compiled program serves a grid."""

import dataclasses

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """learning_rate (of this step), weight_decay, clip_norm (inf: none), the three dropout rates and
    label_smoothing: f32[].  class_weights: f32[C].  dropout_key: u32[2], of the run; the step folds its number in.
    methods: {tuning method: {name: f32[] or f32[7]}}.  multipliers: {trainable leaf: f32[]} of the rate; {}: all 1.
    """

    learning_rate: np.ndarray
    weight_decay: np.ndarray
    clip_norm: np.ndarray
    dropout_hidden: np.ndarray
    dropout_attention: np.ndarray
    dropout_classifier: np.ndarray
    label_smoothing: np.ndarray
    class_weights: np.ndarray
    dropout_key: np.ndarray
    methods: dict = dataclasses.field(default_factory=dict)
    multipliers: dict = dataclasses.field(default_factory=dict)
