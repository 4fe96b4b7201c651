"""Reading of Hugging Face weights: safetensors in one or several files, old and new tensor names."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.tree import Tree
from fjt.models.config_entries import QUANTIZED
from fjt.models.config_json import read_config
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig, Family
from fjt.models.kept_head import compare_classes
from fjt.models.torch_names import Tensor, from_torch, torch_name

LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# Classes of PyTorch whose classifiers have tensors of the same names: "BertFor..." of each kind of head.
ALIKE = {"sequence": "ForSequenceClassification", "token": "ForTokenClassification", "choice": "ForMultipleChoice"}


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
                for name in handle.keys():
                    modern = _modern_name(name, owner)
                    if modern in tensors:
                        raise UserError(f"{file}: {name} is a second tensor {modern}. Remove the wrong one.")
                    tensors[modern], files[modern] = handle.get_tensor(name), file
        except FileNotFoundError:
            raise UserError(f"{file} is in the index but does not exist; download it again.") from None
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"{file} ({os.path.getsize(file):,} bytes) cannot be read as safetensors: {error}. It may be cut off "
                "or damaged; download it again."
            ) from None
    _check_layers(tensors, config, path)
    return Checkpoint(config, raw, tensors, files, tree.sha256(tensors))


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


def take(checkpoint: Checkpoint, abstract: Tree, path: str, keep_head: str = "") -> Loaded:
    """The parameters {encoder, head} of a checkpoint, in float32.

    Args:
        checkpoint: the checkpoint.
        abstract: shapes of the model's parameters.
        path: of the checkpoint, for messages.
        keep_head: name of the family's head that is the checkpoint's; "" for a new one.

    Raises:
        UserError: a tensor has another shape, a parameter of the encoder is missing, the encoder has others, or there
            is no head of this family to keep.
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
    unused = sorted(n for n in set(checkpoint.tensors) - used if not n.endswith(BUFFERS))
    _check_unused(unused, owner, path)
    if keep_head:
        _check_kept(checkpoint, keep_head, missing, path)
    return Loaded(tree.unflatten(params), tuple(missing), tuple(unused))


def _check_kept(checkpoint: Checkpoint, head: str, missing: Sequence[str], path: str) -> None:
    """Raises UserError where a checkpoint's classifier is absent, or reads other vectors than the family's heads."""
    family, owner = checkpoint.config.family, find_family(checkpoint.config.family)
    if any(owner.is_new(name) for name in missing):
        raise UserError(f"config.model.keep_head: the weights of {path} have no classifier; leave the option out.")
    suffixes = tuple(suffix for name, suffix in ALIKE.items() if name != head)
    others = [str(name) for name in checkpoint.hf_config.get("architectures") or () if str(name).endswith(suffixes)]
    lost = [torch_name(name, family) for name in missing if name.startswith("head/")]
    if others or lost:
        fault = f"has architectures={others}" if others else f"lacks {lost[0]}"
        raise UserError(
            f"config.model.keep_head: {path} {fault}, so its classifier is not that of a "
            f"{owner.heads[head].architecture}. Leave the option out for a new classifier."
        )


def untrained_pooler(checkpoint: Checkpoint, head: str) -> int:
    """The number of parameters of a pooler that has probably never been trained, because its bias is zero; or 0.

    Args:
        checkpoint: the checkpoint.
        head: name of the family's head, which may have no pooler.
    """
    family, size = checkpoint.config.family, 0
    spec = find_family(family).heads[head]
    for module in () if spec.tied else spec.pretrained:
        names = (torch_name(f"head/{module}/{leaf}", family) for leaf in ("bias", "kernel"))
        bias, kernel = map(checkpoint.tensors.get, names)
        if bias is not None and kernel is not None and not bias.any():
            size += bias.size + kernel.size
    return size


def _check_unused(unused: Sequence[str], owner: Family, path: str) -> None:
    """Raises UserError for a tensor within the encoder that has no parameter: the model computes more than fjt does."""
    inside = tuple({f"{owner.prefix}.{module.split('.')[0]}." for module in owner.modules.values()})
    if found := [name for name in unused if name.startswith(inside)]:
        raise UserError(
            f"The weights of {path} have {len(found)} tensors in the encoder that a {owner.name} does not have, for "
            f"example {', '.join(found[:3])}: config.json does not describe this model, and fjt would ignore "
            "these tensors. Merge adapters into the weights, or use another model."
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
