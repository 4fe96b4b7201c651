"""Operations of a step: counted by XLA before compilation, and by the law of `fjt.tuning.cost`."""

import dataclasses
import functools

import jax
import numpy as np
import small

from fjt.core import seeds, tree
from fjt.models.encoder import EncoderConfig, Model
from fjt.tasks.classification import CLASSIFICATION
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import cost, partition

WIDE = EncoderConfig(
    family="bert", layers=4, width=256, heads=4, inner=1024, vocab=50, positions=64, types=2, epsilon=1e-12,
    activation="gelu", stddev=0.02, dropout_hidden=0.1, dropout_attention=0.1, dropout_classifier=0.1,
)  # fmt: skip
ROWS, ROW_LENGTH, SLOTS = 16, 64, 40
SLOTS_OF = ("slot_token", "slot_example", "slot_position")


def step_of(model):
    """The train step of a classification under AdamW."""
    optimizer = make_optimizer(small.ADAMW)
    return functools.partial(train_step, model=model, loss=CLASSIFICATION.loss, optimizer=optimizer)


def lowered_flops(chosen, step=None, model=None, params=None, methods=None, start=-1, config=WIDE):
    """Operations of a step, as XLA counts them before compilation; start: of the Model."""
    lowest = partition.lowest_layer(chosen, config.layers)
    model = dataclasses.replace(model or Model(config, 2), noisy_from=lowest, start=start)
    hyper, optimizer = dataclasses.replace(small.make_hyper(), methods=methods or {}), make_optimizer(small.ADAMW)
    params = params or jax.eval_shape(model.init, seeds.make_key(0, "init"))
    trainable, frozen = tree.split(params, chosen)
    frozen = partition.split_below(frozen, start, config.layers)[1]
    state = jax.eval_shape(lambda t: init_state(t, hyper, optimizer), trainable)
    tokens, slots = (1, ROWS, ROW_LENGTH), (1, SLOTS)
    batch = {
        name: jax.ShapeDtypeStruct(tokens, np.int32)
        for name in ("token_ids", "segment_ids", "position_ids", "type_ids")
    }
    batch |= {name: jax.ShapeDtypeStruct(slots, np.int32) for name in (*SLOTS_OF, "example", "label")}
    batch |= {"weight": jax.ShapeDtypeStruct(slots, np.float32)}
    if start >= 0:
        batch["hidden"] = jax.ShapeDtypeStruct(
            (*(slots if start == config.layers else tokens), config.width), np.float32
        )
    return jax.jit(step or step_of(model)).lower(state, frozen, batch, hyper).cost_analysis()["flops"]


def planned_flops(chosen, params=None, start=-1, config=WIDE):
    abstract = tree.flatten(params or jax.eval_shape(Model(config, 2).init, seeds.make_key(0, "init")))
    return cost.step_flops(
        config,
        {name: abstract[name].shape for name in chosen},
        tokens=ROWS * ROW_LENGTH,
        row_length=ROW_LENGTH,
        examples=SLOTS,
        classes=2,
        start=start,
    )
