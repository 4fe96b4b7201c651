"""The families of encoders: names both ways, positions, and that every tuning method fits each of them."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
import roberta_files
import small
from outside_family import DISTILBERT

from fjt.core import seeds, tree
from fjt.core.errors import UserError
from fjt.data import batches, packing
from fjt.models import config_json, families, roberta, torch_names
from fjt.models.encoder import Model
from fjt.models.layers import Hooks, compose
from fjt.tasks.kinds import PROBLEMS
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import partition
from fjt.tuning.registry import METHODS

ROBERTA = config_json.parse_config(roberta_files.config(), "config.json")
OPTIONS = {"pattern": {"train": ("layer_1/",)}, "vera": {"rank": 8}, "compacter": {"reduction": 8.0}}
EXAMPLES = small.make_examples(num=16, longest=12)


def abstract(config):
    return jax.eval_shape(Model(config, 2).init, seeds.make_key(0, "init"))


@pytest.mark.parametrize("family", [*families.FAMILIES, DISTILBERT.name])
def test_each_parameter_has_a_tensor_of_its_own(family, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, DISTILBERT.name, DISTILBERT)
    names = list(tree.flatten(abstract(dataclasses.replace(ROBERTA, family=family, types=DISTILBERT.name != family))))
    tensors = {torch_names.torch_name(name, family) for name in names}
    assert len(tensors) == len(names) > 30
    head = {name for name in names if families.find_family(family).is_new(name)}
    assert {name.split("/")[0] for name in head} == {"head"}
    assert all(name.startswith(f"{families.find_family(family).prefix}.") for name in tensors) == (not head)


def test_positions_start_behind_the_padding():
    assert ROBERTA.first_position == 2 and ROBERTA.positions == 66 and ROBERTA.max_tokens == 64
    partition.check({}, ROBERTA, 64)
    with pytest.raises(UserError, match="max_length=65 is above the model's 64 positions"):
        partition.check({}, ROBERTA, 65)
    moved = config_json.parse_config(roberta_files.config() | {"pad_token_id": 4}, "config.json")
    assert moved.first_position == 5


def test_a_literal_padding_token_in_a_text_has_no_position():
    token_ids = np.int32([[[0, 1, 7, 1, 1, 2, 0, 7, 1, 2, 1, 1]]])  # two examples and two places of padding
    segments = np.int32([[[1] * 6 + [2] * 4 + [0] * 2]])
    positions = np.int32([[[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 0]]])
    batch = {"token_ids": token_ids, "segment_ids": segments, "position_ids": positions}
    made = roberta.Embeddings(ROBERTA, np.dtype("float32"))
    rows = made.rows(batch, Hooks(first_position=5))[0, 0, :10]
    assert rows.tolist() == [7, 1, 8, 1, 1, 9, 7, 8, 1, 9]  # as create_position_ids_from_input_ids of PyTorch has them
    embedded = compose(Hooks(embed=lambda words, batch: words), Hooks())
    assert made.rows(batch, embedded)[0, 0, :10].tolist() == [2, 3, 4, 5, 6, 7, 2, 3, 4, 5]
    assert made.rows(batch, compose(Hooks(), Hooks()))[0, 0, 1] == 1
    first = dataclasses.replace(ROBERTA, first_position=1)  # the padding has id 0, as places without a token have
    batch["token_ids"] = np.int32([[[3, 0, 7, 2, 3, 7, 7, 7, 0, 2, 0, 0]]])
    rows = roberta.Embeddings(first, np.dtype("float32")).rows(batch, Hooks())[0, 0, :10]
    assert rows.tolist() == [1, 0, 2, 3, 4, 5, 1, 2, 0, 3]


def batch_of(methods, config, examples=EXAMPLES):
    examples = batches.prepend(examples, partition.prompt_length(methods))
    rows = np.arange(len(examples))[None]
    lengths, slots = batches.lengths_of(examples, rows), batches.slots_of(examples, rows)
    (shape,) = packing.plan(lengths, slots=slots, most_shapes=1, width=config.width).shapes
    return batches.build(examples, rows[0], shape)[0]


LABELLED = {  # (examples, number of outputs)
    "classification": (EXAMPLES, 2),
    "regression": (dataclasses.replace(EXAMPLES, label=np.float32(EXAMPLES.label)), 1),
    "multi_label": (dataclasses.replace(EXAMPLES, label=np.eye(2, dtype=np.float32)[EXAMPLES.label]), 2),
    "multi_regression": (dataclasses.replace(EXAMPLES, label=np.eye(2, dtype=np.float32)[EXAMPLES.label]), 2),
    "tagging": (small.make_words(16, 12), 3),
    "entities": (small.make_words(16, 12), 3),
    "question_answering": (small.make_windows(16, 12), 2),
    "multiple_choice": (small.make_choices(16, 16), 1),
    "masked_lm": (small.make_masked(16, 12), 0),
}


@pytest.mark.parametrize("method", small.tiers(METHODS, "full", "top_k", "lora", "pfeiffer", "prefix"))
def test_every_method_trains_every_family_and_every_kind(method):
    """The step has a gradient for all that trains: the whole new head always, and no pooler where there is none."""
    assert set(LABELLED) == set(PROBLEMS)
    for family, kind in zip(itertools.cycle(families.FAMILIES), PROBLEMS):
        config = dataclasses.replace(ROBERTA, family=family, types=2)
        problem, (examples, outputs) = PROBLEMS[kind], LABELLED[kind]
        tune = small.tune(method, **OPTIONS.get(method, {}))
        methods = partition.find_methods(tune)
        partition.check(methods, config, 32)
        facts = {"one_slot": problem.one_slot, "head": problem.head}
        model = Model(config, outputs, adapt=partition.make_adapt(methods), **facts)
        base = jax.eval_shape(model.init, seeds.make_key(0, "init"))
        added = partition.abstract_leaves(methods, base, config)
        params = base | ({"adapters": added} if added else {})
        chosen = partition.trainable_names(params, config, tune, ())
        assert {name for name in tree.flatten(base) if families.find_family(family).is_new(name)} <= chosen
        trainable, frozen = tree.split(params, chosen)
        hyper = dataclasses.replace(small.make_hyper(classes=outputs), methods=partition.traced_values(methods))
        optimizer = make_optimizer(small.ADAMW)
        step = functools.partial(train_step, model=model, loss=problem.loss, optimizer=optimizer)
        state = jax.eval_shape(lambda leaves, h=hyper, o=optimizer: init_state(leaves, h, o), trainable)
        after, metrics = jax.eval_shape(step, state, frozen, batch_of(methods, config, examples), hyper)
        assert metrics["loss"].shape == () and jax.tree.structure(after) == jax.tree.structure(state)


def test_a_roberta_s_layout_changes_no_loss():
    """Packed rows and one example per row, with dropout before both dense layers of the head."""
    params = jax.tree.map(np.asarray, jax.jit(Model(ROBERTA, 2).init)(seeds.make_key(0, "init")))
    losses = {}
    for alone in (False, True):
        layout = small.Layout(batch_size=8, one_a_row=alone)
        losses[alone], _, _ = small.train(
            layout, 4, model=Model(ROBERTA, 2), examples=EXAMPLES, params=params, seed=1, rates=np.full(4, 1e-3),
            hyper=small.make_hyper(dropout=0.3), most_shapes=1,
        )  # fmt: skip
    quiet, _, _ = small.train(
        small.Layout(batch_size=8), 4, model=Model(ROBERTA, 2), examples=EXAMPLES, params=params, seed=1,
        rates=np.full(4, 1e-3), hyper=small.make_hyper(dropout=0.0), most_shapes=1,
    )  # fmt: skip
    np.testing.assert_allclose(losses[True], losses[False], rtol=2e-6)
    assert np.abs(np.subtract(losses[True], quiet)).max() > 1e-3


@pytest.mark.parametrize("train_pooler", [True, False])
def test_a_pooler_that_is_not_there(train_pooler):
    tune = small.tune("lora", train_pooler=train_pooler)
    with pytest.raises(UserError, match=rf"train_pooler={train_pooler}.*roberta has no pretrained pooler.*leave"):
        partition.trainable_names(abstract(ROBERTA), ROBERTA, tune, ())
    with pytest.raises(UserError, match="sites names 'pooler', which lora cannot tune"):
        partition.check(partition.find_methods(small.tune("lora", sites=("pooler",))), ROBERTA, 32)
    with pytest.raises(UserError, match="names 'dense', which lora cannot tune"):
        partition.check(partition.find_methods(small.tune("lora", sites=("dense",))), ROBERTA, 32)


def test_names_of_earlier_versions():
    assert families.rename("encoder/pooler/kernel") == "head/pooler/kernel"
    assert families.rename("encoder/layer_0/query/bias") == "encoder/layer_0/query/bias"
    assert families.rename("adapters/lora/pooler/a") == "adapters/lora/pooler/a"
