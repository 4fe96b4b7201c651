"""What a run says of its costs before it begins."""

import jax
import numpy as np
import pytest
import small

from fjt.core import seeds, tree
from fjt.core.options import ExperimentConfig, Settings
from fjt.data import batches, packing
from fjt.experiment import summary
from fjt.experiment.prepared import Experiment, Stage
from fjt.models.encoder import Model
from fjt.tuning import partition


def experiment_of(tune, count=16, length=24):
    """What summary reads of an Experiment: `count` texts of one length, each in a row of its own, one batch."""
    model, methods = Model(small.CONFIG, 2), partition.find_methods(tune)
    base = jax.jit(model.init)(seeds.make_key(0, "init"))
    added = partition.add_leaves(methods, seeds.make_key(0, "init"), base, small.CONFIG)
    params = jax.tree.map(np.asarray, base | ({"adapters": added} if added else {}))
    texts = batches.Examples(
        np.full(count * length, 7, np.int32),
        np.zeros(count * length, np.int8),
        np.arange(count + 1) * length,
        np.zeros(count, np.int32),
        0,
    )
    examples = batches.prepend(texts, partition.prompt_length(methods))
    plan = packing.plan(
        batches.lengths_of(examples, np.arange(count)[None]), one_a_row=True, most_shapes=1, width=small.CONFIG.width
    )
    return small.double(
        Experiment,
        settings=small.double(Settings, experiment=small.double(ExperimentConfig, tune=tune)),
        model=model,
        params=params,
        examples={"train": examples},
        plan=plan,
        trainable=partition.trainable_names(params, small.CONFIG, tune, ()),
        stages=(small.double(Stage, model=model),),
    )


@pytest.mark.parametrize("tune", [small.tune("lora"), small.tune("prompt", prompt_length=8)], ids=["lora", "prompt"])
def test_full_tuning_beside_a_method_has_no_prompt(tune):
    """The operations that full tuning of the same texts takes, not of texts with a prompt before them."""
    made, full = experiment_of(tune), experiment_of(small.tune("full"))
    base = {name for name in tree.flatten(made.params) if not name.startswith("adapters/")}
    assert base == full.trainable
    np.testing.assert_allclose(summary._full_flops(made, base), summary.step_flops(full), rtol=1e-6)
