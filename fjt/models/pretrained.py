"""Hugging Face checkpoints, read: config.json, safetensors in one or several files, old and new tensor names."""

import dataclasses
import json
import os

import numpy as np
import safetensors
import safetensors.numpy

from fjt.core import network, tree
from fjt.core.errors import UserError, suggest
from fjt.models.families import FAMILIES, find_family, hub_files
from fjt.models.family import EncoderConfig
from fjt.models.layers import ACTIVATIONS

LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def torch_name(name, family):
    """The PyTorch name of a base parameter, the family's prefix included for the encoder's.  family: its name."""
    module, leaf = name.rsplit("/", 1)
    return f"{find_family(family).torch_module(module)}.{LEAVES[leaf]}"


def to_torch(name, leaf):
    """A base parameter as PyTorch stores it: kernels [in, out] become weights [out, in]."""
    return np.ascontiguousarray(leaf.T) if name.endswith("/kernel") else np.asarray(leaf)


def from_torch(name, tensor):
    """A base parameter of a tensor as PyTorch stores it: the inverse of `to_torch`."""
    return np.ascontiguousarray(tensor.T if name.endswith("/kernel") else tensor)


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
    if family not in FAMILIES:
        raise UserError(
            f"{file}: model_type {family!r} is not supported, only {', '.join(FAMILIES)}.{suggest(family, FAMILIES)}"
        )
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"{file}: position_embedding_type {raw['position_embedding_type']!r} is not supported, only absolute."
        )
    if raw.get("is_decoder"):
        raise UserError(f"{file}: is_decoder is true; fjt fine-tunes encoders.")
    try:
        config = FAMILIES[family].parse(raw)
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
    owner = find_family(family)
    return f"{owner.prefix}.{name}" if name.split(".")[0] in owner.torch_parts() else name


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
    family, owner = checkpoint.config.family, find_family(checkpoint.config.family)
    params, missing, wrong, used = {}, [], [], set()
    for name, leaf in tree.flatten(abstract).items():
        source = torch_name(name, family)
        if source not in checkpoint.tensors or (owner.is_new(name) and not keep_head):
            missing.append(name)
            continue
        used.add(source)
        array = from_torch(name, checkpoint.tensors[source])
        if array.shape != leaf.shape:
            wrong.append(f"{source} has shape {checkpoint.tensors[source].shape}, {name} needs {leaf.shape}")
        else:
            params[name] = array.astype(np.float32)
    if wrong:
        raise UserError(f"The weights of {path} do not fit its config.json: {'; '.join(wrong[:4])}.")
    lost = [name for name in missing if not name.startswith("head/")]
    if lost:
        raise UserError(
            f"The weights of {path} lack {len(lost)} of the encoder's tensors, for example "
            f"{', '.join(torch_name(name, family) for name in lost[:3])}. It holds "
            f"{len(checkpoint.tensors)}, for example {', '.join(sorted(checkpoint.tensors)[:3])}."
        )
    if keep_head and any(owner.is_new(name) for name in missing):
        raise UserError(f"config.model.keep_head: the weights of {path} hold no classifier to keep.")
    unused = sorted(n for n in set(checkpoint.tensors) - used if not n.endswith(BUFFERS))
    biases = [params[f"{module}/bias"] for module in owner.pretrained_head() if f"{module}/bias" in params]
    untrained = any(not bias.any() for bias in biases)
    return Loaded(tree.unflatten(params), tuple(missing), tuple(unused), untrained)


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


HUB_SECONDS = 5  # until the hub must have answered


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
                path, revision=revision, allow_patterns=hub_files(), local_files_only=True
            )
        return huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=hub_files(), etag_timeout=5)
    except Exception as error:
        raise network.Unreachable(
            f"config.model.path={path} is no directory here, and revision {revision} of it could not be had from the "
            f"model hub ({type(reason or error).__name__}). Give a local directory with config.json, model.safetensors "
            "and tokenizer files by --config.model.path=DIR."
        ) from None
