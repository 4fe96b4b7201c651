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

from fjt.core import declared, network, tree
from fjt.core.errors import UserError, suggest
from fjt.core.tree import Tree
from fjt.models.config_entries import ENTRIES, QUANTIZED
from fjt.models.families import FAMILIES, find_family, hub_files
from fjt.models.family import EncoderConfig, Family
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
        files: {PyTorch name with prefix: file that holds the tensor}.
        sha256: over the tensors.
    """

    config: EncoderConfig
    hf_config: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, str]
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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}.") from None
    return parse_config(raw, file), raw


def parse_config(raw: Any, file: str) -> EncoderConfig:
    """The EncoderConfig of the contents of a config.json.

    Args:
        raw: the contents.
        file: its name, for messages.

    Raises:
        UserError: fjt does not support the model.
    """
    declared.check(raw, {}, file)
    family = raw.get("model_type")
    if type(family) is not str or family not in FAMILIES:
        raise UserError(
            f"{file}: model_type {family!r} is not supported, only {', '.join(FAMILIES)}.{suggest(family, FAMILIES)}"
        )
    declared.check(raw, ENTRIES | FAMILIES[family].entries, file)
    try:
        config = FAMILIES[family].parse(raw)
    except KeyError as error:
        raise UserError(f"{file} lacks {error}.") from None
    if config.activation not in ACTIVATIONS:
        hint = suggest(config.activation, ACTIVATIONS)
        raise UserError(f"{file}: hidden_act {config.activation!r} is not supported.{hint}")
    if config.width % config.heads:
        raise UserError(f"{file}: hidden_size {config.width} is not a multiple of num_attention_heads {config.heads}.")
    if config.max_tokens < 3:
        raise UserError(
            f"{file}: max_position_embeddings {config.positions} is too small for a text: its first token is at "
            f"position {config.first_position}."
        )
    return config


def unread_keys(raw: dict[str, Any], place: str) -> str:
    """A sentence that lists the keys of a config.json that fjt does not read, "" without any.

    Args:
        raw: the contents of the config.json.
        place: its directory.
    """
    entries = ENTRIES | find_family(raw["model_type"]).entries
    return declared.undeclared(raw, entries, os.path.join(place, "config.json"))


def read_checkpoint(path: str) -> Checkpoint:
    """The Checkpoint of a Hugging Face directory.

    Args:
        path: the directory.

    Raises:
        UserError: a file is missing or broken.
    """
    config, raw = read_config(path)
    owner = find_family(config.family)
    tensors, files = {}, {}
    for file in _weight_files(path):
        try:
            with safetensors.safe_open(file, framework="np") as handle:
                found = {_modern_name(name, owner): handle.get_tensor(name) for name in handle.keys()}
                tensors |= found
                files |= dict.fromkeys(found, file)
        except FileNotFoundError:
            raise UserError(f"{file} is in the index but does not exist; download it again.") from None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{file} ({os.path.getsize(file):,} bytes) cannot be read as safetensors: {error}. It may be cut off "
                "or damaged; download it again."
            ) from None
    _check_layers(tensors, config, path)
    return Checkpoint(config, raw, tensors, files, tree.sha256(tensors))


def _check_layers(tensors: dict[str, Tensor], config: EncoderConfig, path: str) -> None:
    """Raises UserError where the weights have more or fewer layers than config.json says."""
    owner = find_family(config.family)
    starts = {f"{owner.prefix}.{module.split('{i}')[0]}" for module in owner.modules.values() if "{i}" in module}
    layers = {name.removeprefix(start).split(".")[0] for name in tensors for start in starts if name.startswith(start)}
    if layers and len(layers) != config.layers:
        raise UserError(
            f"{os.path.join(path, 'config.json')} says that the model has {config.layers} layers, but its weights have "
            f"{len(layers)}. Save the model again with as many layers as it should have."
        )


def as_float32(tensor: Tensor, name: str, file: str) -> Tensor:
    """The tensor in float32.

    Args:
        tensor: as read.
        name: its name in the file.
        file: the file, for messages.

    Raises:
        UserError: it does not hold floats, or holds NaN, infinity or a number beyond float32.
    """
    if tensor.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise UserError(f"{file}: the tensor {name} is of type {tensor.dtype.name}. {QUANTIZED}")
    with np.errstate(over="ignore"):
        single = tensor.astype(np.float32)
    wrong = ~np.isfinite(single)
    if wrong.any():
        first = np.asarray(tensor[wrong]).ravel()[0]
        kind = "is beyond float32" if np.isfinite(first) else "is not a number to compute with"
        raise UserError(
            f"{file}: {int(wrong.sum()):,} of the {tensor.size:,} values of the tensor {name} cannot be used, for "
            f"example {first}, which {kind}. The model that was saved is broken; use another one."
        )
    return single


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


def _modern_name(name: str, owner: Family) -> str:
    for old, new in LEGACY.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return owner.whole_name(name)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Base parameters from a checkpoint.

    Attributes:
        params: {encoder, head}.
        missing: names that the checkpoint lacks, which are initialised and trained.
        unused: its PyTorch tensors without a parameter.
    """

    params: Tree
    missing: tuple[str, ...]
    unused: tuple[str, ...]


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
            if owner.is_new(name):
                compare_classes(array.shape, leaf.shape, path)
            wrong.append(f"{source} has shape {checkpoint.tensors[source].shape}, {name} needs {leaf.shape}")
        else:
            params[name] = as_float32(array, source, checkpoint.files[source])
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
    return Loaded(tree.unflatten(params), tuple(missing), tuple(unused))


def untrained_pooler(checkpoint: Checkpoint) -> int:
    """The number of parameters of a pooler that has probably never been trained, because its bias is zero; or 0."""
    family, size = checkpoint.config.family, 0
    for module in find_family(family).pretrained_head():
        bias, kernel = (checkpoint.tensors.get(torch_name(f"{module}/{leaf}", family)) for leaf in ("bias", "kernel"))
        if bias is not None and kernel is not None and not bias.any():
            size += bias.size + kernel.size
    return size


def check_labels(hf_config: dict[str, Any], label_names: Sequence[str], path: str) -> None:
    """Raises UserError when a classifier to keep has other labels, or the labels in another order."""
    named = {int(key): str(name) for key, name in (hf_config.get("id2label") or {}).items()}
    if set(named) != set(range(len(named))):
        raise UserError(f"{os.path.join(path, 'config.json')}: id2label={named} should have the ids from 0 on.")
    compare_labels([named[i] for i in range(len(named))], label_names, path)


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
    lower = [name.lower() for name in theirs]
    if lower == [name.lower() for name in label_names]:
        return
    text = (
        f"config.model.keep_head: the classifier of {path} has the labels {', '.join(theirs)}, in this order; the "
        f"task has {', '.join(label_names)}."
    )
    ours = {name.lower(): name for name in label_names}
    if len(ours) == len(label_names) and sorted(ours) == sorted(lower):
        names = ",".join(repr(ours[name]) for name in lower)
        raise UserError(f'{text} Give the task the same order by --config.data.label_names="({names})".')
    raise UserError(f"{text} Only a classifier of the same labels can be kept.")


def compare_classes(theirs: tuple[int, ...], ours: tuple[int, ...], path: str) -> None:
    """Nothing unless the shapes of one leaf, in a classifier and in the model, differ in the number of classes alone.

    Args:
        theirs: the shape in the classifier, [..., classes].
        ours: the shape in the model.
        path: of the classifier, for the message.

    Raises:
        UserError: they do.
    """
    if theirs[:-1] == ours[:-1] and theirs[-1:] != ours[-1:]:
        raise UserError(
            f"config.model.keep_head: the classifier of {path} has {theirs[-1]} classes, but the task has {ours[-1]}. "
            "Leave the option out for a new classifier, or train on data with the same classes."
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
