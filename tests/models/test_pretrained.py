"""Hugging Face directories as they come: prefixes, old names, several files, and each way of being broken."""

import json
import os
import resource

import jax
import numpy as np
import pytest
import safetensors.numpy
import small

from fjt.core import seeds, tree
from fjt.core.errors import UserError
from fjt.data import tokenization
from fjt.data.glue import TASKS
from fjt.data.synthetic import VOCAB
from fjt.interop import hf
from fjt.models import kept_head, pretrained, torch_names
from fjt.models.encoder import Model

MODEL = Model(small.CONFIG, 2)
ABSTRACT = jax.eval_shape(MODEL.init, seeds.make_key(0, "init"))


@pytest.fixture(scope="module")
def params():
    """Random values for every leaf, the pooler's bias among them, so that no two tensors are alike."""
    rng = np.random.default_rng(0)
    return tree.map_names(lambda name, leaf: rng.normal(size=leaf.shape).astype(np.float32), ABSTRACT)


def torch_tensors(params, head=True):
    tensors = {}
    for name, leaf in tree.flatten(params).items():
        if head or not name.startswith("head/"):
            tensors[torch_names.torch_name(name, "bert")] = torch_names.to_torch(name, leaf)
    return tensors


def write(folder, tensors, raw=small.CONFIG_JSON, file="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / file)
    return str(folder)


def take(path, keep_head="sequence"):
    return pretrained.take(pretrained.read_checkpoint(path), ABSTRACT, path, keep_head=keep_head)


@pytest.mark.parametrize("layers", [1, 3])
def test_weights_of_another_number_of_layers_are_refused(tmp_path, params, layers):
    path = write(tmp_path / "m", torch_tensors(params), small.CONFIG_JSON | {"num_hidden_layers": layers})
    with pytest.raises(UserError, match=rf"m/config\.json says .* {layers} layers, but its weights have 2"):
        pretrained.read_checkpoint(path)


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "bool"])
def test_weights_that_are_not_floats_are_refused(tmp_path, params, kind):
    tensors = torch_tensors(params)
    path = write(tmp_path / "m", tensors | {QUERY: tensors[QUERY].astype(kind)})
    with pytest.raises(UserError, match=rf"m/model\.safetensors: the tensor {QUERY} is of type {kind}.*without quant"):
        take(path)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "nan"), (-np.inf, "-inf"), (1e300, r"1e\+300, which is beyond float32")]
)
def test_weights_that_are_not_finite_are_refused_by_tensor_and_file(tmp_path, params, value, words):
    tensors = torch_tensors(params)
    broken = tensors[QUERY].astype(np.float64)
    broken[3, 5] = value
    path = write(tmp_path / "m", tensors | {QUERY: broken})
    with pytest.raises(UserError, match=rf"m/model\.safetensors: 1 of the 1,024 values of the tensor {QUERY}.*{words}"):
        take(path)


def test_a_classifier_that_is_not_kept_may_hold_anything(tmp_path, params):
    tensors = torch_tensors(params) | {"classifier.weight": np.full((2, 32), np.nan, np.float32)}
    path = write(tmp_path / "m", tensors)
    assert take(path, keep_head="").missing
    with pytest.raises(UserError, match=r"tensor classifier\.weight"):
        take(path)


def test_a_kept_classifier_of_other_labels_names_the_remedy(tmp_path, params):
    """The order is an option; for another number of classes both numbers are named."""
    found = {"id2label": {"0": "Down", "1": "up", "2": "flat"}}
    with pytest.raises(UserError, match=r"""--config\.data\.label_names="\('down','up','flat'\)\""""):
        kept_head.check_labels(found, ("up", "flat", "down"), "there")
    with pytest.raises(UserError, match="Only a classifier of the same labels"):
        kept_head.check_labels(found, ("up", "down"), "there")
    with pytest.raises(UserError, match=r"config\.json: id2label"):
        kept_head.check_labels({"id2label": {"1": "a", "2": "b"}}, ("a", "b"), "there")
    head = {"classifier.weight": np.zeros((5, 32), np.float32), "classifier.bias": np.zeros(5, np.float32)}
    with pytest.raises(UserError, match="has 5 classes, but the task has 2"):
        take(write(tmp_path / "m", torch_tensors(params) | head))


def test_a_head_that_reads_other_vectors_is_not_kept(tmp_path, params):
    """A token classifier has the same tensors, with or without the pooler that it does not read."""
    tensors = torch_tensors(params)
    base = write(tmp_path / "m", tensors, small.CONFIG_JSON | {"architectures": ["BertModel"]})
    path = write(tmp_path / "n", tensors, small.CONFIG_JSON | {"architectures": ["BertForTokenClassification"]})
    assert "classifier" in take(base).params["head"]
    with pytest.raises(UserError, match=r"keep_head: .*n has architectures=\['BertForTokenClassification'\], so its"):
        take(path)
    assert not take(path, keep_head="").params["head"].get("classifier")
    bare = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    with pytest.raises(UserError, match=r"keep_head: .*o lacks bert\.pooler\.dense"):
        take(write(tmp_path / "o", bare))


def test_every_tensor_comes_back_under_its_name(tmp_path, params):
    loaded = take(write(tmp_path / "m", torch_tensors(params)))
    assert loaded.missing == () and loaded.unused == ()
    assert tree.sha256(loaded.params) == tree.sha256(params)


def test_names_are_pytorch_s():
    names = {torch_names.torch_name(name, "bert") for name in tree.flatten(ABSTRACT)}
    assert len(names) == 5 + 16 * 2 + 2 + 2
    assert {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.pooler.dense.weight",
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.encoder.layer.0.attention.output.LayerNorm.weight",
        "bert.encoder.layer.1.intermediate.dense.bias",
        "bert.encoder.layer.0.output.dense.weight",
        "classifier.weight",
    } <= names
    kernel = np.arange(6.0).reshape(2, 3)
    assert torch_names.to_torch("a/kernel", kernel).tolist() == kernel.T.tolist()
    assert torch_names.to_torch("a/embedding", kernel).tolist() == kernel.tolist()


def test_without_prefix_and_with_old_norm_names(tmp_path, params):
    tensors = torch_tensors(params)
    bare = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}

    def old_name(name):
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return old.replace("LayerNorm.bias", "LayerNorm.beta")

    old = {old_name(name): tensor for name, tensor in tensors.items()}
    assert len(set(old) - set(tensors)) == 10
    shas = set()
    for name, written in (("whole", tensors), ("bare", bare), ("old", old)):
        path = write(tmp_path / name, written)
        loaded = take(path)
        assert loaded.missing == () and loaded.unused == ()
        assert tree.sha256(loaded.params) == tree.sha256(params)
        shas.add(pretrained.read_checkpoint(path).sha256)
    assert len(shas) == 1  # the same contents, whatever their names were


def test_several_files_with_an_index(tmp_path, params):
    tensors = torch_tensors(params)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, part in files.items():
        path = write(tmp_path / "m", {name: tensors[name] for name in part}, file=file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    index_file = tmp_path / "m" / "model.safetensors.index.json"
    index_file.write_text(json.dumps(index))
    assert tree.sha256(take(path).params) == tree.sha256(params)
    assert pretrained.read_checkpoint(path).sha256 == pretrained.read_checkpoint(write(tmp_path / "o", tensors)).sha256
    os.remove(tmp_path / "m" / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors is in the index but does not exist"):
        take(path)
    for broken in ('{"weight_map": ', "{}"):
        index_file.write_text(broken)
        with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
            take(path)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_truncated_file(tmp_path, params, kept):
    path = write(tmp_path / "m", torch_tensors(params))
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"model\.safetensors \([\d,]+ bytes\) cannot be read.*download it again"):
        take(path)


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(small.CONFIG_JSON))
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        pretrained.read_checkpoint(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*save_pretrained"):
        pretrained.read_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bert.embeddings.word_embeddings.weight", (101, 32)),
        ("bert.encoder.layer.1.intermediate.dense.weight", (32, 64)),  # turned round
        ("bert.pooler.dense.bias", (1, 32)),
        ("classifier.weight", (2, 33)),
    ],
)
def test_a_wrong_shape(tmp_path, params, name, shape):
    path = write(tmp_path / "m", torch_tensors(params) | {name: np.zeros(shape, np.float32)})
    with pytest.raises(UserError) as caught:
        take(path)
    assert name in str(caught.value) and str(shape) in str(caught.value) and path in str(caught.value)


def test_a_square_kernel_is_turned_too(tmp_path, params):
    """query is 32 x 32: its shape would not give a forgotten transposition away."""
    tensors = torch_tensors(params)
    loaded = take(write(tmp_path / "m", tensors))
    query = tensors["bert.encoder.layer.0.attention.self.query.weight"]
    np.testing.assert_array_equal(loaded.params["encoder"]["layer_0"]["query"]["kernel"], query.T)


def test_the_head_is_new_unless_kept(tmp_path, params):
    path = write(tmp_path / "m", torch_tensors(params))
    loaded = take(path, keep_head="")
    assert set(loaded.missing) == {"head/classifier/kernel", "head/classifier/bias"}
    assert set(loaded.params["head"]) == {"pooler"}
    assert set(loaded.unused) == {"classifier.weight", "classifier.bias"}
    path = write(tmp_path / "n", torch_tensors(params, head=False))
    assert take(path, keep_head="").unused == ()
    with pytest.raises(UserError, match=r"config\.model\.keep_head.*no classifier"):
        take(path)


def test_missing_pooler_and_unused_tensors(tmp_path, params):
    tensors = {name: tensor for name, tensor in torch_tensors(params).items() if "pooler" not in name}
    extra = {
        "cls.predictions.bias": np.zeros(3, np.float32),
        "bert.embeddings.position_ids": np.arange(64)[None],  # a buffer that old versions saved: no news
    }
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    loaded = take(write(tmp_path / "m", tensors | extra), keep_head="")
    assert {name for name in loaded.missing if "pooler" in name} == {"head/pooler/kernel", "head/pooler/bias"}
    assert loaded.unused == ("cls.predictions.bias",)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.1.crossattention.self.query.weight",
        "encoder.layer.0.output.adapters.a.adapter_down.0.weight",
        "encoder.layer.0.attention.self.query.lora_A.default.weight",
        "embeddings.projection.weight",
        "encoder.final_norm.weight",
    ],
)
def test_an_encoder_of_more_parts_is_refused(tmp_path, params, name):
    tensors = torch_tensors(params) | {f"bert.{name}": np.ones((2, 2), np.float32)}
    bare = {key.removeprefix("bert."): tensor for key, tensor in tensors.items()}
    for folder, written in (("whole", tensors), ("bare", bare)):
        with pytest.raises(UserError, match=rf"have 1 tensors in the encoder that a bert does not have.*bert\.{name}"):
            take(write(tmp_path / folder, written))


@pytest.mark.parametrize("other", ["embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"])
def test_a_tensor_under_two_names_is_refused(tmp_path, params, other):
    path = write(tmp_path / "m", torch_tensors(params) | {other: np.zeros(32, np.float32)})
    with pytest.raises(UserError, match=r"m/model\.safetensors: .* is a second tensor bert\.embeddings\.LayerNorm\.w"):
        take(path)


def test_a_missing_encoder_tensor(tmp_path, params):
    tensors = torch_tensors(params)
    del tensors["bert.encoder.layer.1.attention.self.key.bias"]
    with pytest.raises(UserError, match=r"lack 1 of the encoder's tensors.*layer\.1\.attention\.self\.key\.bias"):
        take(write(tmp_path / "m", tensors))


def test_a_pooler_that_was_never_trained(tmp_path, params):
    def untrained(name, tensors, head="sequence"):
        return pretrained.untrained_pooler(pretrained.read_checkpoint(write(tmp_path / name, tensors)), head)

    tensors = torch_tensors(params)
    assert untrained("trained", tensors) == 0
    assert untrained("none", {name: tensor for name, tensor in tensors.items() if "pooler" not in name}) == 0
    zero = tensors | {"bert.pooler.dense.bias": np.zeros(32, np.float32)}
    assert untrained("zero", zero) == 32 * 32 + 32 and untrained("unread", zero, "token") == 0


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_precisions_are_read_as_float32(tmp_path, params, dtype):
    import ml_dtypes

    wanted = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    loaded = take(write(tmp_path / "m", {name: x.astype(wanted) for name, x in torch_tensors(params).items()}))
    for name, leaf in tree.flatten(loaded.params).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, tree.flatten(params)[name].astype(wanted).astype(np.float32))


def test_contents_are_hashed(tmp_path, params):
    tensors = torch_tensors(params)
    first = pretrained.read_checkpoint(write(tmp_path / "m", tensors)).sha256
    tensors["classifier.bias"] = tensors["classifier.bias"] + np.float32(1e-6)
    assert pretrained.read_checkpoint(write(tmp_path / "m", tensors)).sha256 != first


def test_an_export_that_finds_no_room_is_a_user_s_matter(tmp_path, params):
    """The disk's end, as a limit on the size of files; nothing stands under the export's own name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match=r"export cannot be written.*make room"):
            hf.export(
                str(tmp_path / "export"), params, small.CONFIG, TASKS["sst2"], tokenization.load_tokenizer(VOCAB), 32
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "export").exists()
