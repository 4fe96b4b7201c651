"""Reading of Hugging Face checkpoints: config.json, safetensors in one or several files, old and new tensor names."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from fjt.core import network, tree
from fjt.core.errors import UserError, suggest
from fjt.core.tree import Tree
from fjt.models.families import FAMILIES, find_family, hub_files
from fjt.models.family import EncoderConfig
from fjt.models.layers import ACTIVATIONS

Tensor = Shaped[np.ndarray, "..."]


LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")


def torch_name(name: str, family: str) -> str:
    """The PyTorch name of a base parameter, with the family's prefix for the encoder's parameters.

    Args:
        name: such as `encoder/layer_0/query/kernel`.
        family: name of the family.
    """
    module, leaf = name.rsplit("/", 1)
    return f"{find_family(family).torch_module(module)}.{LEAVES[leaf]}"


def to_torch(name: str, leaf: Any) -> Tensor:
    """A base parameter as PyTorch stores it: kernels [in, out] become weights [out, in]."""
    return np.ascontiguousarray(leaf.T) if name.endswith("/kernel") else np.asarray(leaf)


def from_torch(name: str, tensor: Tensor) -> Tensor:
    """The base parameter of a tensor as PyTorch stores it: the inverse of `to_torch`."""
    return np.ascontiguousarray(tensor.T if name.endswith("/kernel") else tensor)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The contents of a Hugging Face directory.

    Attributes:
        config: the EncoderConfig.
        hf_config: the contents of config.json.
        tensors: {PyTorch name with prefix: array}.
        sha256: over the tensors.
    """

    config: EncoderConfig
    hf_config: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str


def read_config(path: str) -> tuple[EncoderConfig, dict[str, Any]]:
    """(EncoderConfig, contents of config.json) of a directory.

    Args:
        path: the directory.

    Raises:
        UserError: there is no config.json, or fjt does not support the model.
    """
    file = os.path.join(path, "config.json")
    try:
        with open(file, encoding="utf-8") as handle:
            raw = json.load(handle)
    except FileNotFoundError:
        raise UserError(
            f"{file} does not exist: config.model.path should name a Hugging Face model directory."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON: {error}.") from None
    return parse_config(raw, file), raw


def parse_config(raw: dict[str, Any], file: str) -> EncoderConfig:
    """The EncoderConfig of the contents of a config.json.

    Args:
        raw: the contents.
        file: its name, for messages.

    Raises:
        UserError: fjt does not support the model.
    """
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
        raise UserError(f"{file}: hidden_act {config.activation!r} is not supported.{hint}")
    if config.width % config.heads:
        raise UserError(f"{file}: hidden_size {config.width} is not a multiple of num_attention_heads {config.heads}.")
    return config


def read_checkpoint(path: str) -> Checkpoint:
    """The Checkpoint of a Hugging Face directory.

    Args:
        path: the directory.

    Raises:
        UserError: a file is missing or broken.
    """
    config, raw = read_config(path)
    tensors = {}
    for file in _weight_files(path):
        try:
            with safetensors.safe_open(file, framework="np") as handle:
                tensors |= {name: handle.get_tensor(name) for name in handle.keys()}
        except FileNotFoundError:
            raise UserError(f"{file} is in the index but does not exist; download it again.") from None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{file} ({os.path.getsize(file):,} bytes) cannot be read as safetensors: {error}. It may be cut off "
                "or damaged; download it again."
            ) from None
    tensors = {_modern_name(name, config.family): tensor for name, tensor in tensors.items()}
    return Checkpoint(config, raw, tensors, tree.sha256(tensors))


def _weight_files(path: str) -> list[str]:
    whole, index = os.path.join(path, "model.safetensors"), os.path.join(path, "model.safetensors.index.json")
    if os.path.exists(whole):
        return [whole]
    if os.path.exists(index):
        try:
            with open(index, encoding="utf-8") as handle:
                return [os.path.join(path, name) for name in sorted(set(json.load(handle)["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is not an index of safetensors files ({error!r}); download it again.") from None
    other = [
        name
        for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")
        if os.path.exists(os.path.join(path, name))
    ]
    hint = (
        f" It has {other[0]}: save the model again with PyTorch's save_pretrained, which writes safetensors."
        if other
        else ""
    )
    raise UserError(f"{path} has no model.safetensors and no index of one.{hint}")


def _modern_name(name: str, family: str) -> str:
    for old, new in LEGACY.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    owner = find_family(family)
    return f"{owner.prefix}.{name}" if name.split(".")[0] in owner.torch_parts() else name


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Base parameters from a checkpoint.

    Attributes:
        params: {encoder, head}.
        missing: names that the checkpoint lacks, which are initialised and trained.
        unused: its PyTorch tensors without a parameter.
        untrained_pooler: whether its pooler has probably never been trained.
    """

    params: Tree
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    untrained_pooler: bool


def take(checkpoint: Checkpoint, abstract: Tree, path: str, keep_head: bool = False) -> Loaded:
    """The parameters {encoder, head} of a checkpoint, in float32.

    Args:
        checkpoint: the checkpoint.
        abstract: shapes of the model's parameters.
        path: of the checkpoint, for messages.
        keep_head: whether the head is the checkpoint's; otherwise it is new.

    Raises:
        UserError: a tensor has another shape, or a parameter of the encoder is missing.
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
            f"{', '.join(torch_name(name, family) for name in lost[:3])}. It has "
            f"{len(checkpoint.tensors)}, for example {', '.join(sorted(checkpoint.tensors)[:3])}."
        )
    if keep_head and any(owner.is_new(name) for name in missing):
        raise UserError(f"config.model.keep_head: the weights of {path} have no classifier; leave the option out.")
    unused = sorted(n for n in set(checkpoint.tensors) - used if not n.endswith(BUFFERS))
    biases = [params[f"{module}/bias"] for module in owner.pretrained_head() if f"{module}/bias" in params]
    untrained = any(not bias.any() for bias in biases)
    return Loaded(tree.unflatten(params), tuple(missing), tuple(unused), untrained)


def check_labels(hf_config: dict[str, Any], label_names: Sequence[str], path: str) -> None:
    """Raises UserError when a classifier to keep has other labels, or the labels in another order."""
    named = hf_config.get("id2label") or {}
    compare_labels([str(named[key]) for key in sorted(named, key=int)], label_names, path)


def compare_labels(theirs: Sequence[str], label_names: Sequence[str], path: str) -> None:
    """Nothing if the labels of a classifier are unknown or equal to those of the task.

    Args:
        theirs: labels of the classifier, by id.
        label_names: labels of the task, by id.
        path: of the classifier, for the message.

    Raises:
        UserError: they differ.
    """
    if not theirs or theirs[0].startswith("LABEL_") or not label_names:
        return  # without label names only the number of labels can be compared, by the shapes of the weights
    if [name.lower() for name in theirs] != [name.lower() for name in label_names]:
        raise UserError(
            f"config.model.keep_head: the classifier of {path} has the labels {', '.join(theirs)}, in this order; the "
            f"task has {', '.join(label_names)}. Only a classifier of the same labels can be kept."
        )


HUB_SECONDS = 5  # time limit for the hub's answer


def resolve(path: str, revision: str) -> str:
    """The local directory of `model.path`: a directory, an fjt run (its export), or a hub name, downloaded once.

    Args:
        path: config.model.path.
        revision: branch, tag or commit of a hub name.

    Raises:
        UserError: the path is not a model.
        network.Unreachable: the hub does not answer within seconds, and there is no earlier download.
    """
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        raise UserError(f"config.model.path={path} is a file; give its directory.")
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "config.json")) and not os.path.exists(os.path.join(path, "train.jsonl")):
            return path
        if os.path.exists(os.path.join(path, "DONE")):
            for export in (os.path.join(path, "export"), os.path.join(path, "export", "merged")):
                if os.path.exists(os.path.join(export, "config.json")):
                    return export
            raise UserError(
                f"config.model.path={path} is a run whose method cannot be merged into a model, so that no other run "
                "can start from it. Give config.model.adapter instead."
            )
        if os.path.exists(os.path.join(path, "train.jsonl")):
            raise UserError(f"config.model.path={path} is an fjt run that has not finished; finish it first.")
        raise UserError(f"config.model.path={path} has no config.json, so it is not a model directory.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"config.model.path={path}: the directory does not exist.")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    import huggingface_hub

    reason = None
    try:
        try:
            network.within(HUB_SECONDS, lambda: huggingface_hub.HfApi().model_info(path, revision=revision, timeout=3))
        except Exception as error:  # no network, or no such model: an earlier download is used
            reason = error
            return huggingface_hub.snapshot_download(
                path, revision=revision, allow_patterns=hub_files(), local_files_only=True
            )
        return huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=hub_files(), etag_timeout=5)
    except Exception as error:
        raise network.Unreachable(
            f"config.model.path={path} is not a directory here, and its revision {revision} could not be downloaded "
            f"from the model hub ({type(reason or error).__name__}). Give a local directory with config.json, "
            "model.safetensors and tokenizer files by --config.model.path=DIR."
        ) from None
