"""What trains under each method, and what follows from it."""

import dataclasses

import jax
import numpy as np
import pytest
import small

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.tuning import partition
from fjt.tuning.budget import solve_budget

LAYERS = 4
DEEP = dataclasses.replace(small.CONFIG, layers=LAYERS)
PARAMS = jax.eval_shape(small.Model(DEEP, 2).init, np.zeros(2, np.uint32))
NAMES = set(tree.flatten(PARAMS))
HEAD = {"head/classifier/kernel", "head/classifier/bias"}
POOLER = {"head/pooler/kernel", "head/pooler/bias"}


def under(*prefixes):
    return {name for name in NAMES if name.startswith(prefixes)}


def trains(method, missing=(), **options):
    return partition.trainable_names(PARAMS, DEEP, small.tune(method, **options), missing)


def test_full_trains_everything():
    assert trains("full") == NAMES
    assert trains("full", train_pooler=False) == NAMES - POOLER


def test_head_trains_the_head_alone():
    assert trains("head") == HEAD
    assert trains("head", train_pooler=True) == HEAD | POOLER


def test_top_k_trains_the_highest_layers_pooler_and_head():
    assert trains("top_k", layers=2) == under("encoder/layer_2/", "encoder/layer_3/") | POOLER | HEAD
    assert len(under("encoder/layer_3/")) == 16
    assert trains("top_k", layers=1, train_pooler=False) == under("encoder/layer_3/") | HEAD
    assert trains("top_k", layers=0) == POOLER | HEAD
    assert trains("top_k", layers=LAYERS) == NAMES - under("encoder/embeddings/")
    with pytest.raises(UserError, match=r"config\.tune\.layers=5: the encoder has 4 layers"):
        trains("top_k", layers=5)


def test_top_k_of_ten_layers_and_more():
    """Layers count as numbers: 2 is below 10."""
    deeper = dataclasses.replace(small.CONFIG, layers=12)
    deep = jax.eval_shape(small.Model(deeper, 2).init, np.zeros(2, np.uint32))
    found = partition.trainable_names(deep, deeper, small.tune("top_k", layers=11), ())
    assert {name.split("/")[1] for name in found if "/layer_" in name} == {f"layer_{i}" for i in range(1, 12)}
    found = partition.trainable_names(deep, deeper, small.tune("top_k", layers=2), ())
    assert {name.split("/")[1] for name in found if "/layer_" in name} == {"layer_10", "layer_11"}


def test_pattern():
    found = trains("pattern", train=("layer_[01]/query", "norm/scale$"))
    norms = {name for name in NAMES if name.endswith("norm/scale")}
    assert len(norms) == 1 + 2 * LAYERS
    assert found == under("encoder/layer_0/query", "encoder/layer_1/query") | norms | HEAD
    assert trains("pattern", train=("pooler",)) == POOLER | HEAD
    assert trains("pattern", train=("layer_3/", "pooler"), train_pooler=False) == under("encoder/layer_3/") | HEAD
    assert trains("pattern", train=("layer_3/",), train_pooler=True) == under("encoder/layer_3/") | POOLER | HEAD


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("encoder.layer.0.attention.self.query.weight", "encoder/layer_0/query/kernel"),
        ("bert.encoder.layer.3.output.dense.bias", "encoder/layer_3/output/bias"),
        ("^bert.encoder.layer.2.", "encoder/layer_2/"),
        ("bert.*", "encoder/embeddings/"),
        (r"bert\.pooler\.dense", "head/pooler/bias"),
        ("roberta.encoder.layer.1.intermediate.dense.weight", "encoder/layer_1/intermediate/kernel"),
        ("base_model.model.bert.embeddings.word_embeddings.weight", "encoder/embeddings/"),
        ("encoder.layer.1.output.LayerNorm.gamma", "encoder/layer_1/output_norm/scale"),
        (r"attention\.self\.(query|value)\.", "encoder/layer_0/query/bias"),
    ],
)
def test_a_pattern_in_pytorch_s_names_gets_fjt_s(pattern, name):
    with pytest.raises(
        UserError, match=r"config\.tune\.train: the pattern .* written in PyTorch's names; here .* called"
    ) as refused:
        trains("pattern", train=("layer_0/", pattern))
    assert name in str(refused.value)
    with pytest.raises(UserError, match=r"config\.optim\.multipliers: the pattern"):
        partition.check_patterns([pattern], NAMES, "bert", "optim.multipliers")


def test_a_pattern_that_matches_is_one_of_fjt_s_names():
    for pattern in ("classifier", "layer.0", "query", "(", 7, "no_such_thing.*", ""):
        partition.check_patterns([pattern], NAMES, "bert", "tune.train")


def test_a_pattern_must_match_something():
    with pytest.raises(UserError, match=r"config\.tune\.train.*'layer_7'.*matches no parameter.*encoder/"):
        trains("pattern", train=("layer_1", "layer_7"))
    with pytest.raises(UserError, match=r"config\.tune\.method=pattern needs config\.tune\.train"):
        trains("pattern")


def test_what_the_checkpoint_lacks_always_trains():
    assert trains("head", missing=tuple(POOLER)) == HEAD | POOLER
    assert trains("top_k", layers=1, train_pooler=False, missing=tuple(POOLER)) >= POOLER
    assert trains("pattern", train=("layer_0/",), train_pooler=False, missing=("head/pooler/bias",)) == (
        under("encoder/layer_0/") | HEAD | {"head/pooler/bias"}
    )


def test_unknown_methods_and_options_are_refused():
    with pytest.raises(UserError, match=r"'topk' is unknown\. Did you mean top_k"):
        partition.find_methods(small.tune("topk"))
    with pytest.raises(UserError, match=r"config\.tune\.layers is not read by the method full"):
        partition.find_methods(small.tune("full", layers=2))
    with pytest.raises(UserError, match=r"config\.tune\.train is not read by the method top_k"):
        partition.find_methods(small.tune("top_k", layers=2, train=("x",)))
    with pytest.raises(UserError, match="cannot be combined"):
        partition.find_methods(small.tune("full", "head"))
    with pytest.raises(UserError):
        partition.find_methods(small.tune())
    assert set(partition.METHODS) >= {"full", "head", "top_k", "pattern"}


def test_lowest_layer():
    assert partition.lowest_layer(trains("full"), LAYERS) == -1
    assert partition.lowest_layer(trains("head"), LAYERS) == LAYERS
    assert partition.lowest_layer(trains("head", train_pooler=True), LAYERS) == LAYERS
    assert partition.lowest_layer(trains("top_k", layers=3), LAYERS) == 1
    assert partition.lowest_layer(trains("pattern", train=("layer_2/", "layer_0/output/bias")), LAYERS) == 0
    assert partition.lowest_layer({"encoder/layer_11/query/bias"}, 12) == 11
    assert partition.lowest_layer({"encoder/embeddings/norm/bias", "encoder/layer_1/query/bias"}, 2) == -1


def test_multipliers_by_layer_and_by_pattern():
    methods = partition.find_methods(small.tune("llrd", layer_decay=0.5))
    trainable = trains("llrd")
    assert trainable == NAMES
    found = partition.multipliers(methods, (("head/classifier", 10), ("bias$", 0.0)), trainable, LAYERS)
    assert found["head/classifier/kernel"] == 10.0 and found["head/classifier/bias"] == 0.0
    assert found["head/pooler/kernel"] == 1.0
    assert [found[f"encoder/layer_{i}/query/kernel"] for i in range(4)] == [0.0625, 0.125, 0.25, 0.5]
    assert found["encoder/embeddings/word/embedding"] == 0.03125
    assert partition.multipliers(partition.find_methods(small.tune("full")), (), NAMES, LAYERS) == {}
    given = partition.multipliers(partition.find_methods(small.tune("full")), (("head/", 1.0),), NAMES, LAYERS)
    assert set(given) == NAMES and set(given.values()) == {1.0}  # one program with that of a factor of 2
    with pytest.raises(UserError, match=r"optim\.multipliers.*'haed/' matches no parameter"):
        partition.multipliers({}, (("haed/", 2.0),), NAMES, LAYERS)
    with pytest.raises(UserError, match=r"optim\.multipliers.*should be a pattern and a factor"):
        partition.multipliers({}, ("head/",), NAMES, LAYERS)


def test_layers_that_start_anew():
    assert partition.reinitialised(NAMES, DEEP, 0) == set()
    assert partition.reinitialised(NAMES, DEEP, 1) == under("encoder/layer_3/") | POOLER
    with pytest.raises(UserError, match=r"reinit_layers=5: the encoder has 4"):
        partition.reinitialised(NAMES, DEEP, 5)


@pytest.mark.parametrize(
    ("tune", "option", "count"),
    [
        (small.tune("lora", budget=1500), "rank", lambda rank: 4 * 2 * 2 * 32 * rank),
        (small.tune("dora", budget=1500), "rank", lambda rank: 4 * 2 * (2 * 32 * rank + 32)),
        (small.tune("pfeiffer", budget=2000), "bottleneck_width", lambda width: 4 * (2 * 32 * width + width + 32)),
        (small.tune("prefix", budget=2000), "prefix_length", lambda length: 4 * 2 * 32 * length),
        (small.tune("vera", budget=700), "rank", lambda rank: 4 * 2 * (rank + 32)),
        (
            small.tune("lora", "pfeiffer", ranks=(1, 2), budget=3000),
            "bottleneck_width",
            lambda width: 4 * (2 * 32 * width + width + 32) + 4 * 2 * 32 * 3,
        ),
        (
            small.tune("compacter", budget=1100),
            "bottleneck_width",  # a multiple of 4
            lambda width: 64 + 4 * 2 * (96 + 3 * 4 * -(-width // 4)),
        ),
        (small.tune("prompt", "lora", budget=700, rank=1), "prompt_length", lambda length: 32 * length + 512),
    ],
)
def test_a_budget_gives_the_largest_size_that_fits(tune, option, count):
    config = dataclasses.replace(small.CONFIG, layers=LAYERS)
    solved, filled = solve_budget(tune, PARAMS, config, 24)
    size = getattr(solved, option)
    assert filled == (f"tune.{option}",) and count(size) <= tune.budget < count(size + 1)
    leaves = tree.flatten({"adapters": partition.abstract_leaves(partition.find_methods(solved), PARAMS, config)})
    assert sum(leaf.size for name, leaf in leaves.items() if not partition.is_fixed(name)) == count(size)


def test_budgets_that_nothing_meets():
    config = dataclasses.replace(small.CONFIG, layers=LAYERS)
    for tune, word in (
        (small.tune("lora", budget=100), r"budget=100 is less than the 512 parameters of lora.*rank=1"),
        (small.tune("lora", "prefix", budget=1000), "lora and prefix are open"),
        (small.tune("lora", budget=1000, rank=2), "none is open"),
        (small.tune("bitfit", budget=1000), "no size here"),
        (small.tune("lora", budget=16_384 + 512), "more than lora can use: .*highest config.tune.rank, 32, .* 16,384"),
        (small.tune("compacter", budget=100), r"parameters of compacter with config.tune.bottleneck_width=4"),
    ):
        with pytest.raises(UserError, match=word):
            solve_budget(tune, PARAMS, config, 24)
    assert solve_budget(small.tune("lora", budget=16_384 + 511), PARAMS, config, 24)[0].rank == 32  # no room for 33


def test_stages_open_from_the_head_down():
    def made(steps, steps_per_epoch=10, **options):
        methods = partition.find_methods(small.tune("gradual", **options))
        return partition.stages(
            methods, trains("gradual"), ("encoder/layer_0/query/bias",), LAYERS, steps, steps_per_epoch
        )

    lacked = {"encoder/layer_0/query/bias"}
    stages = made(60)
    assert [first for first, _, _ in stages] == [0, 10, 20, 30, 40, 50]
    assert stages[0][1] == HEAD | POOLER | lacked
    assert stages[1][1] == HEAD | POOLER | lacked | under("encoder/layer_3/")
    assert stages[4][1] == NAMES - under("encoder/embeddings/") and stages[5][1] == NAMES
    assert [factor for *_, factor in made(60, stage_rates=(1.0, 0.5))] == [1.0] + [0.5] * 5
    assert [first for first, _, _ in made(60, stage_epochs=2.5)] == [0, 25, 50]
    assert [first for first, _, _ in made(61, 7)] == [round(61 / 6 * stage) for stage in range(6)]
    assert made(3)[-1][1] == NAMES and len(made(3)) <= 3  # stages without a step fold into the next
    assert partition.stages(partition.find_methods(small.tune("full")), NAMES, (), LAYERS, 60, 10) == ((0, NAMES, 1.0),)
