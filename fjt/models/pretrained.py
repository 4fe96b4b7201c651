"""Hugging Face checkpoints, read: config.json, safetensors in one or several files, old and new tensor names."""

import dataclasses
import json
import os
import re

import numpy as np
import safetensors
import safetensors.numpy

from fjt.core import network, tree
from fjt.core.errors import UserError, suggest
from fjt.models.encoder import EncoderConfig
from fjt.models.layers import ACTIVATIONS

# fjt's names against PyTorch's, below the family's prefix. `{i}` is a layer.
MODULES = {
    "bert": {
        "encoder/embeddings/word": "embeddings.word_embeddings",
        "encoder/embeddings/position": "embeddings.position_embeddings",
        "encoder/embeddings/type": "embeddings.token_type_embeddings",
        "encoder/embeddings/norm": "embeddings.LayerNorm",
        "encoder/layer_{i}/query": "encoder.layer.{i}.attention.self.query",
        "encoder/layer_{i}/key": "encoder.layer.{i}.attention.self.key",
        "encoder/layer_{i}/value": "encoder.layer.{i}.attention.self.value",
        "encoder/layer_{i}/attention_output": "encoder.layer.{i}.attention.output.dense",
        "encoder/layer_{i}/attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
        "encoder/layer_{i}/intermediate": "encoder.layer.{i}.intermediate.dense",
        "encoder/layer_{i}/output": "encoder.layer.{i}.output.dense",
        "encoder/layer_{i}/output_norm": "encoder.layer.{i}.output.LayerNorm",
        "encoder/pooler": "pooler.dense",
    },
}
HEAD_MODULES = {"bert": {"head/classifier": "classifier"}}
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
SCRATCH_STDDEV = 0.02


def torch_name(name, family):
    """The PyTorch name of a base parameter, the family's prefix included for the encoder's."""
    module, leaf = name.rsplit("/", 1)
    layer = re.search(r"layer_(\d+)/", module)
    pattern = re.sub(r"layer_\d+/", "layer_{i}/", module)
    if pattern in HEAD_MODULES[family]:
        return f"{HEAD_MODULES[family][pattern]}.{LEAVES[leaf]}"
    target = MODULES[family][pattern].format(i=layer.group(1) if layer else "")
    return f"{family}.{target}.{LEAVES[leaf]}"


def to_torch(name, leaf):
    """A base parameter as PyTorch stores it: kernels [in, out] become weights [out, in]."""
    return np.ascontiguousarray(leaf.T) if name.endswith("/kernel") else np.asarray(leaf)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a directory holds.

    config: EncoderConfig; hf_config: config.json as it stands; tensors: {PyTorch name with prefix: array};
    sha256: over the tensors.
    """

    config: EncoderConfig
    hf_config: dict
    tensors: dict
    sha256: str


def read_config(path):
    """(EncoderConfig, config.json as a dict) of a directory.  Raises UserError for what fjt cannot run."""
    file = os.path.join(path, "config.json")
    try:
        with open(file, encoding="utf-8") as handle:
            raw = json.load(handle)
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist: config.model.path should name a Hugging Face model directory."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no JSON: {error}.") from None
    return parse_config(raw, file), raw


def parse_config(raw, file):
    """EncoderConfig of a config.json given as a dict; file: its name, for messages.  Raises UserError."""
    family = raw.get("model_type")
    if family not in MODULES:
        raise UserError(f"{file}: model_type {family!r} is not supported.{suggest(family, MODULES)}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"{file}: position_embedding_type {raw['position_embedding_type']!r} is not supported, only absolute."
        )
    if raw.get("is_decoder"):
        raise UserError(f"{file}: is_decoder is true; fjt fine-tunes encoders.")
    hidden = raw.get("hidden_dropout_prob", 0.1)
    classifier = raw.get("classifier_dropout")
    try:
        config = EncoderConfig(
            family=family,
            layers=raw["num_hidden_layers"],
            width=raw["hidden_size"],
            heads=raw["num_attention_heads"],
            inner=raw["intermediate_size"],
            vocab=raw["vocab_size"],
            positions=raw["max_position_embeddings"],
            types=raw.get("type_vocab_size", 2),
            epsilon=raw.get("layer_norm_eps", 1e-12),
            activation=raw.get("hidden_act", "gelu"),
            stddev=raw.get("initializer_range", SCRATCH_STDDEV),
            dropout_hidden=hidden,
            dropout_attention=raw.get("attention_probs_dropout_prob", 0.1),
            dropout_classifier=hidden if classifier is None else classifier,
        )
    except KeyError as error:
        raise UserError(f"{file} lacks {error}.") from None
    if config.activation not in ACTIVATIONS:
        hint = suggest(config.activation, ACTIVATIONS)
        raise UserError(f"{file}: hidden_act {config.activation!r} is not known here.{hint}")
    if config.width % config.heads:
        raise UserError(f"{file}: hidden_size {config.width} is no multiple of num_attention_heads {config.heads}.")
    return config


def read_checkpoint(path):
    """The Checkpoint of a Hugging Face directory.  Raises UserError for missing or broken files."""
    config, raw = read_config(path)
    tensors = {}
    for file in _weight_files(path):
        try:
            with safetensors.safe_open(file, framework="np") as handle:
                tensors |= {name: handle.get_tensor(name) for name in handle.keys()}
        except FileNotFoundError:
            raise UserError(f"{file} is named by the index and does not exist.") from None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{file} ({os.path.getsize(file):,} bytes) cannot be read as safetensors: {error}. It may be cut off "
                "or damaged; fetch it again."
            ) from None
    tensors = {_modern_name(name, config.family): tensor for name, tensor in tensors.items()}
    return Checkpoint(config, raw, tensors, tree.sha256(tensors))


def _weight_files(path):
    whole, index = os.path.join(path, "model.safetensors"), os.path.join(path, "model.safetensors.index.json")
    if os.path.exists(whole):
        return [whole]
    if os.path.exists(index):
        try:
            with open(index, encoding="utf-8") as handle:
                return [os.path.join(path, name) for name in sorted(set(json.load(handle)["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is no index of safetensors files ({error!r}); fetch it again.") from None
    other = [
        name
        for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")
        if os.path.exists(os.path.join(path, name))
    ]
    hint = (
        f" It holds {other[0]}: save the model again with PyTorch's save_pretrained, which writes safetensors."
        if other
        else ""
    )
    raise UserError(f"{path} holds no model.safetensors (nor its index).{hint}")


def _modern_name(name, family):
    for old, new in LEGACY.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    bare = ("embeddings.", "encoder.", "pooler.")
    return f"{family}.{name}" if name.startswith(bare) else name


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Base parameters taken from a checkpoint.  missing: names that it lacks, to be initialised and trained;
    unused: its PyTorch tensors that no parameter took; untrained_pooler: its pooler looks never trained."""

    params: dict
    missing: tuple
    unused: tuple
    untrained_pooler: bool


def take(checkpoint, abstract, path, keep_head=False):
    """Loaded: the parameters {encoder, head} of a checkpoint, in float32.

    abstract: tree of the model's parameters as shapes.  The head is new unless keep_head.
    Raises UserError for a tensor of another shape, and when more than pooler and head is missing.
    """
    family = checkpoint.config.family
    params, missing, wrong, used = {}, [], [], set()
    for name, leaf in tree.flatten(abstract).items():
        source = torch_name(name, family)
        if source not in checkpoint.tensors or (name.startswith("head/") and not keep_head):
            missing.append(name)
            continue
        used.add(source)
        array = checkpoint.tensors[source]
        array = array.T if name.endswith("/kernel") else array
        if array.shape != leaf.shape:
            wrong.append(f"{source} has shape {checkpoint.tensors[source].shape}, {name} needs {leaf.shape}")
        else:
            params[name] = np.ascontiguousarray(array).astype(np.float32)
    if wrong:
        raise UserError(f"The weights of {path} do not fit its config.json: {'; '.join(wrong[:4])}.")
    lost = [name for name in missing if not name.startswith(("head/", "encoder/pooler/"))]
    if lost:
        raise UserError(
            f"The weights of {path} lack {len(lost)} of the encoder's tensors, for example "
            f"{', '.join(torch_name(name, family) for name in lost[:3])}. It holds "
            f"{len(checkpoint.tensors)}, for example {', '.join(sorted(checkpoint.tensors)[:3])}."
        )
    if keep_head and any(name.startswith("head/") for name in missing):
        raise UserError(f"config.model.keep_head: the weights of {path} hold no classifier to keep.")
    unused = sorted(n for n in set(checkpoint.tensors) - used if not n.endswith(BUFFERS))
    bias = params.get("encoder/pooler/bias")
    return Loaded(tree.unflatten(params), tuple(missing), tuple(unused), bias is not None and not bias.any())


def check_labels(hf_config, label_names, path):
    """Raises UserError when a classifier that is to be kept has other labels, or another order of them."""
    named = hf_config.get("id2label") or {}
    compare_labels([str(named[key]) for key in sorted(named, key=int)], label_names, path)


def compare_labels(theirs, label_names, path):
    """Raises UserError when the labels of the classifier at `path`, by id, are known and not those of the task."""
    if not theirs or theirs[0].startswith("LABEL_") or not label_names:
        return  # without names of its own only the count can be compared, and it is
    if [name.lower() for name in theirs] != [name.lower() for name in label_names]:
        raise UserError(
            f"config.model.keep_head: the classifier of {path} has the labels {', '.join(theirs)}, in this order; the "
            f"task has {', '.join(label_names)}. Only a classifier of the same labels can be kept."
        )


def scratch_config(scratch, vocab, max_length):
    """config.json of a BERT with random weights in the shape of `settings.Scratch`."""
    raw = {
        "architectures": ["BertForSequenceClassification"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": scratch.width,
        "initializer_range": SCRATCH_STDDEV,
        "intermediate_size": scratch.inner,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": max_length,
        "model_type": "bert",
        "num_attention_heads": scratch.heads,
        "num_hidden_layers": scratch.layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": vocab,
    }
    return raw


HUB_SECONDS = 5  # until the hub must have answered
HUB_FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
)


def resolve(path, revision):
    """The local directory of `model.path`: a directory, an fjt run (its export), or a hub name, fetched once.

    Raises network.Unreachable within seconds when the hub does not answer and no copy from before is here.
    """
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        raise UserError(f"config.model.path={path} is a file; give the directory that holds it.")
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "config.json")) and not os.path.exists(os.path.join(path, "train.jsonl")):
            return path
        if os.path.exists(os.path.join(path, "DONE")):
            for export in (os.path.join(path, "export"), os.path.join(path, "export", "merged")):
                if os.path.exists(os.path.join(export, "config.json")):
                    return export
            raise UserError(
                f"config.model.path={path} is a run whose method cannot be merged into a model, so no other run can "
                "start from it."
            )
        if os.path.exists(os.path.join(path, "train.jsonl")):
            raise UserError(f"config.model.path={path} is an fjt run that is not finished; run it to its end first.")
        raise UserError(f"config.model.path={path} holds no config.json: not a model directory.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"config.model.path={path}: no such directory.")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    import huggingface_hub

    reason = None
    try:
        try:
            network.within(HUB_SECONDS, lambda: huggingface_hub.HfApi().model_info(path, revision=revision, timeout=3))
        except Exception as error:  # no network, or no such model: a copy from before serves all the same
            reason = error
            return huggingface_hub.snapshot_download(
                path, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True
            )
        return huggingface_hub.snapshot_download(
            path, revision=revision, allow_patterns=list(HUB_FILES), etag_timeout=5
        )
    except Exception as error:
        raise network.Unreachable(
            f"config.model.path={path} is no directory here, and revision {revision} of it could not be had from the "
            f"model hub ({type(reason or error).__name__}). Give a local directory with config.json, model.safetensors "
            "and tokenizer files by --config.model.path=DIR."
        ) from None
