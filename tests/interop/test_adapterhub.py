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
from fjt.interop import adapterhub, formats
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.tuning import partition

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
    return model, pretrained.take(checkpoint, abstract, "base", keep_head=True).params


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
        ("lora", {"use_dora": True}, "DoRA"),
        ("prefix_projected", {"non_linearity": "relu"}, "non_linearity='relu'"),
    ],
)
def test_what_has_no_method_here_is_refused(tmp_path, case, config, word):
    with pytest.raises(UserError, match=word):
        formats.read(changed(tmp_path, case, **config), base()[0].config)


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
