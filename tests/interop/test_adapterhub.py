"""AdapterHub's directories, as `adapters` wrote them (tests/golden/make_adapterhub.py), read and written."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from fjt.core import seeds, tree
from fjt.core.errors import UserError
from fjt.data import batches, packing
from fjt.interop import adapter as adapters
from fjt.interop import adapterhub, formats
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.tuning import bottleneck_forms, partition

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "adapterhub"
ROBERTA = GOLDEN.with_name("adapterhub_roberta")
FACTS = {folder: json.loads((folder / "facts.json").read_text()) for folder in (GOLDEN, ROBERTA)}
CASES = [folder / case for folder, facts in FACTS.items() for case in sorted(facts["logits"])]
SEVERAL = {"mam": {"prefix", "parallel"}, "unipelt": {"prefix", "lora", "pfeiffer"}}
every = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")


def methods_of(case):
    return SEVERAL.get(case.name, {case.name.split("_")[0]})


def base(folder=GOLDEN):
    """(Model, base parameters) of the tiny BERT or RoBERTa."""
    checkpoint = pretrained.read_checkpoint(str(folder / "base"))
    model = Model(checkpoint.config, 2)
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    return model, pretrained.take(checkpoint, abstract, "base", keep_head="sequence").params


def logits(adapter, folder=GOLDEN):
    """f32[4, 2] of the golden texts, packed, with an Adapter in its place."""
    (model, params), facts = base(folder), FACTS[folder]
    model = dataclasses.replace(model, adapt=partition.make_adapt(adapter.methods))
    params = tree.unflatten(tree.flatten(params) | adapter.trained)
    ids = [np.array(row[:n], np.int32) for row, n in zip(facts["input_ids"], facts["lengths"], strict=True)]
    flat = np.concatenate(ids)
    examples = batches.Examples(
        flat, np.zeros(len(flat), np.int8), np.concatenate([[0], np.cumsum(facts["lengths"])]), np.zeros(4, np.int32), 0
    )
    indices = np.arange(4)
    shape = packing.plan(batches.lengths_of(examples, indices[None]), width=32).shapes[0]
    batch, places = batches.build(examples, indices, shape)
    found = model.apply(params, batch, partition.traced_values(adapter.methods))
    return np.asarray(found).reshape(-1, 2)[places.slots[0]]


@every
def test_read_gives_the_same_logits(case):
    adapter = formats.read(case, base(case.parent)[0].config)
    assert set(adapter.methods) == methods_of(case)
    np.testing.assert_allclose(logits(adapter, case.parent), FACTS[case.parent]["logits"][case.name], atol=1e-5)


@every
def test_the_bare_model_gives_others(case):
    """The golden adapters matter, so agreement is agreement about them."""
    adapter = formats.read(case, base(case.parent)[0].config)
    own = dataclasses.replace(adapter, methods={}, trained={n: x for n, x in adapter.others().items()})
    assert np.abs(logits(own, case.parent) - FACTS[case.parent]["logits"][case.name]).max() > 1e-2


def parts_of(folder):
    """{architecture: config} of an adapter, one of the parts of a union."""
    whole = json.loads((folder / adapterhub.CONFIG).read_text())["config"]
    return {part.get("architecture"): part for part in whole.get("configs", [whole])}


@every
def test_written_is_what_was_read(case, tmp_path):
    """The same tensors under the same keys but for the adapter's name, and a config that reads the same."""
    config = base(case.parent)[0].config
    adapter = formats.read(case, config)
    adapterhub.write(tmp_path, adapter, config, ("no", "yes"))
    for file in (adapterhub.WEIGHTS, adapterhub.HEAD_WEIGHTS):
        found, expected = (safetensors.numpy.load_file(folder / file) for folder in (tmp_path, case))
        assert {key.replace(".fjt.", f".{case.name}."): x.tobytes() for key, x in found.items()} == {
            key: np.ascontiguousarray(x).tobytes() for key, x in expected.items()
        }
    theirs, ours = parts_of(case), parts_of(tmp_path)
    free = {"init_weights", "bottleneck_size"}
    assert set(ours) == set(theirs)
    for kind, own in ours.items():
        assert {k: v for k, v in own.items() if theirs[kind].get(k, v) != v and k not in free} == {}
    assert json.loads((tmp_path / adapterhub.HEAD_CONFIG).read_text())["label2id"] == {"no": 0, "yes": 1}
    about = [json.loads((folder / adapterhub.CONFIG).read_text()) for folder in (tmp_path, case)]
    assert about[0]["model_type"] == about[1]["model_type"] and about[0]["model_class"] == about[1]["model_class"]


def test_a_bottleneck_of_every_width_is_that_of_its_reduction_factor():
    for width in (32, 128, 312, 768, 1024):
        for inner in range(1, width + 1):
            factor = bottleneck_forms._factor(width, inner)
            assert int(width // factor) == inner  # as AdapterHub computes it
            bottleneck_forms._check_factor(factor, width, inner)
            bottleneck_forms._check_factor(width / inner, width, inner)  # of fjt 0.1


def changed(tmp_path, case, **config):
    """A copy of a golden directory with another config."""
    folder = shutil.copytree(GOLDEN / case, tmp_path / case)
    about = json.loads((folder / adapterhub.CONFIG).read_text())
    about["config"] |= config
    (folder / adapterhub.CONFIG).write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("case", "config", "word"),
    [
        ("pfeiffer", {"phm_layer": True}, "no method here"),
        ("compacter", {"phm_dim": 2}, "phm_dim=2"),
        ("pfeiffer", {"residual_before_ln": False}, "residual_before_ln=False"),
        ("compacter", {"original_ln_before": True}, "no method here"),
        ("compacter", {"use_gating": True}, "use_gating"),
        ("lora", {"leave_out": [0]}, "leave_out"),
        ("lora", {"attn_matrices": ["q"]}, "its config leaves out value"),
        ("lora", {"selfattn_lora": False}, "its config leaves out (query|value)"),
        ("ia3", {"intermediate_lora": False}, "its config leaves out intermediate"),
        ("pfeiffer", {"reduction_factor": 3.0}, "reduction_factor=3.0 of 32 is not the width of its tensors"),
        ("lora", {"use_dora": True}, "DoRA"),
        ("prefix_projected", {"non_linearity": "relu"}, "non_linearity='relu'"),
    ],
)
def test_what_has_no_method_here_is_refused(tmp_path, case, config, word):
    with pytest.raises(UserError, match=word):
        formats.read(changed(tmp_path, case, **config), base()[0].config)


def test_the_scales_of_ia3_are_multiplied_by_alpha_and_belong_to_outputs(tmp_path):
    config = base()[0].config
    one = formats.read(GOLDEN / "ia3", config).leaves("ia3")
    two = formats.read(changed(tmp_path, "ia3", alpha=2), config).leaves("ia3")
    one, two = tree.flatten(one), tree.flatten(two)
    assert set(one) == set(two) and all(np.array_equal(2 * one[path], two[path]) for path in one)
    own = {"output_lora": True, "alpha": 1}
    tensor = {"bert.encoder.layer.0.output.dense.loras.x.lora_B": np.ones((32, 1), np.float32)}
    with pytest.raises(UserError, match="output_lora"):
        partition.METHODS["ia3"].adapterhub.read(own, tensor, config, adapterhub.encoder_module(config))


@pytest.mark.parametrize(
    ("case", "key", "value"),
    [
        ("pfeiffer", "inv_adapter", "nice"),
        ("pfeiffer", "leave_out", [1]),
        ("pfeiffer", "leave_out", "1"),
        ("pfeiffer", "scaling", "learned"),
        ("pfeiffer", "use_gating", "no"),
        ("pfeiffer", "mh_adapter", 1),
        ("pfeiffer", "stochastic_depth", 0.1),
        ("pfeiffer", "dropout", 0.1),
        ("pfeiffer", "non_linearity", None),
        ("pfeiffer", "reduction_factor", "16"),
        ("pfeiffer", "architecture", ["lora"]),
        ("compacter", "phm_dim", "4"),
        ("lora", "r", None),
        ("lora", "r", -1),
        ("lora", "alpha", "8"),
        ("lora", "alpha", [8]),
        ("lora", "dropout", 7),
        ("lora", "composition_mode", "multiply"),
        ("lora", "attn_matrices", "q"),
        ("prefix", "prefix_length", "3"),
        ("prefix", "prefix_length", 10**9),
        ("prefix", "flat", None),
        ("prefix", "dropout", 0.5),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused_with_file_and_key(tmp_path, case, key, value):
    with pytest.raises(UserError, match=rf"{case}/adapter_config\.json, config: {key}=") as caught:
        formats.read(changed(tmp_path, case, **{key: value}), base()[0].config)
    assert "cut off" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("config", None), ("config", "pfeiffer"), ("hidden_size", "32"), ("version", 1), ("name", [])]
)
def test_the_outer_keys_are_checked_as_well(tmp_path, key, value):
    folder = changed(tmp_path, "lora")
    about = json.loads((folder / adapterhub.CONFIG).read_text())
    (folder / adapterhub.CONFIG).write_text(json.dumps(about | {key: value}))
    with pytest.raises(UserError, match=rf"lora/adapter_config\.json: {key}="):
        formats.read(folder, base()[0].config)


def test_keys_outside_the_table_are_listed(tmp_path):
    folder = changed(tmp_path, "pfeiffer", new_in_adapters=1)
    found = formats.read(folder, base()[0].config).unread
    assert found.endswith("pfeiffer/adapter_config.json, config has keys that fjt does not read: new_in_adapters")
    assert all(formats.read(case, base(case.parent)[0].config).unread == "" for case in CASES)


@pytest.mark.parametrize(
    ("version", "alpha"), [("adapters.1.0.1", 4.0), ("adapters.0.2.2", 4.0), ("adapters.1.1.0", 8.0)]
)
def test_a_lora_of_a_release_that_did_not_scale_is_read_as_it_was_trained(tmp_path, version, alpha):
    folder = changed(tmp_path, "lora")
    about = json.loads((folder / adapterhub.CONFIG).read_text())
    assert (about["config"]["r"], about["config"]["alpha"]) == (4, 8)
    (folder / adapterhub.CONFIG).write_text(json.dumps(about | {"version": version}))
    assert formats.read(folder, base()[0].config).methods["lora"]["alpha"] == alpha


@pytest.mark.parametrize("case", ["pfeiffer", "compacter", "lora_gated", "prefix_gated"])
def test_keys_without_the_family_s_prefix_are_read_as_those_with_it(tmp_path, case):
    folder, config = changed(tmp_path, case), base()[0].config
    expected = formats.read(folder, config).trained
    tensors = safetensors.numpy.load_file(folder / adapterhub.WEIGHTS)
    bare = {key.removeprefix("bert."): tensor for key, tensor in tensors.items()}
    assert set(bare).isdisjoint(tensors)
    safetensors.numpy.save_file(bare, folder / adapterhub.WEIGHTS)
    found = formats.read(folder, config).trained
    assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in expected.items()}


def test_a_head_without_a_place_is_left_unless_it_is_to_be_kept(tmp_path):
    """AutoAdapterModel's heads have other layers; without `keep_head` a run has a new head anyway."""
    folder, config = changed(tmp_path, "pfeiffer"), base()[0].config
    (folder / adapterhub.HEAD_CONFIG).write_text('{"config": {"head_type": "classification", "label2id": {"a": 0}}}')
    safetensors.numpy.save_file({"heads.x.1.weight": np.eye(3, dtype=np.float32)}, folder / adapterhub.HEAD_WEIGHTS)
    found = formats.read(folder, config)
    assert not found.others() and found.label_names == ()
    with pytest.raises(UserError, match=r"heads\.x\.1\.weight, which is not the head of a BertForSequ.*for a new head"):
        adapters.check_head(found, ("a", "b"), str(folder), "bert")
    (folder / adapterhub.HEAD_WEIGHTS).rename(folder / adapterhub.PICKLED_HEAD)
    with pytest.raises(UserError, match=r"pytorch_model_head\.bin; save it again with use_safetensors=True"):
        adapters.check_head(formats.read(folder, config), ("a", "b"), str(folder), "bert")


@pytest.mark.parametrize("ids", [{"a": 1, "b": 1}, {"a": 0, "b": 2}, {"a": 0, "b": "1"}, ["a", "b"]])
def test_the_ids_of_a_head_s_labels_count_from_0(tmp_path, ids):
    folder, config = changed(tmp_path, "pfeiffer"), base()[0].config
    (folder / adapterhub.HEAD_CONFIG).write_text(json.dumps({"label2id": ids}))
    with pytest.raises(UserError, match=r"head_config.json: label2id=.* should be a table of labels and their ids, fr"):
        formats.read(folder, config)
    (folder / adapterhub.HEAD_CONFIG).write_text('{"label2id": {"b": 1, "a": 0}}')
    assert formats.read(folder, config).label_names == ("a", "b")


def test_a_head_of_another_number_of_classes_names_both(tmp_path):
    found = formats.read(GOLDEN / "lora", base()[0].config)
    params = {name: np.zeros((*x.shape[:-1], 5), np.float32) for name, x in found.others().items()}
    alone = dataclasses.replace(found, methods={}, trained=found.others())
    with pytest.raises(UserError, match="has 2 classes, but the task has 5"):
        adapters.put(alone, params, keep_head=True, family="bert")


def test_broken_directories(tmp_path):
    config = base()[0].config
    folder = changed(tmp_path, "pfeiffer")
    (folder / adapterhub.WEIGHTS).write_bytes((folder / adapterhub.WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="cut off"):
        formats.read(folder, config)
    (folder / adapterhub.WEIGHTS).unlink()
    with pytest.raises(UserError, match="use_safetensors=True"):
        formats.read(folder, config)
    (folder / adapterhub.CONFIG).write_text("{}")
    with pytest.raises(UserError, match="neither PEFT's"):
        formats.read(folder, config)


def test_what_the_format_has_no_place_for():
    config = base()[0].config
    adapter = formats.read(GOLDEN / "lora", config)
    options = adapter.methods["lora"]

    def refused(methods=None, **trained):
        return adapterhub.refusal(
            dataclasses.replace(adapter, methods=methods or adapter.methods, trained=adapter.trained | trained), config
        )

    assert refused() is None
    assert "rank-stabilised" in refused({"lora": options | {"rank_stabilized": True}})
    assert "attention_output" in refused({"lora": options | {"sites": ("attention_output",)}})
    assert "no bitfit" in refused({"lora": options, "bitfit": {}})
    assert "one bottleneck" in refused({"pfeiffer": {}, "houlsby": {}})
    assert "under one name" in refused({"lora": options, "ia3": {}})
    assert "no dora" in refused({"dora": options})
    assert "position 0" in refused({"prefix": {"shift_positions": True, "projection": 0, "prefix_length": 3}})
    assert "head/pooler/bias" in refused(**{"head/pooler/bias": np.zeros(32)})
