"""fjt's own adapter directory: the trained parameters of a run, for any method and any combination of methods."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.errors import UserError, suggest
from fjt.core.options import TuneConfig
from fjt.core.tree import Tree
from fjt.models.families import find_family, rename
from fjt.models.kept_head import compare_classes, compare_labels
from fjt.models.pretrained import as_float32
from fjt.tuning.partition import METHODS, complete

CONFIG, WEIGHTS = "fjt_adapter.json", "fjt_adapter.safetensors"
RECORDED = ("methods", "base", "revision", "base_sha256", "label_names")  # the fields of an Adapter in CONFIG
BASE = "fjt_base.json"  # next to another library's files, which have no field for it: {base_sha256}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Trained leaves of a base model.

    Attributes:
        methods: {name: options}.
        trained: {fjt name: f32 array}: new leaves, also the fixed ones, and trained leaves of head and encoder.
        base: name of the base model.
        revision: its commit or branch.
        base_sha256: of its weights, "" if unknown.
        label_names: by id, () for a regression and if unknown.
        unread: a sentence about keys of its config that fjt does not read, "" without any; it is not written.
        unread_head: why its head was left out, "" where it has none or it was read; it is not written.
    """

    methods: dict[str, dict[str, Any]]
    trained: dict[str, np.ndarray]
    base: str
    revision: str
    base_sha256: str
    label_names: tuple[str, ...] = ()
    unread: str = ""
    unread_head: str = ""

    def leaves(self, method: str) -> Tree:
        """The nested new leaves of a method."""
        prefix = f"adapters/{method}/"
        return tree.unflatten({n.removeprefix(prefix): x for n, x in self.trained.items() if n.startswith(prefix)})

    def others(self) -> dict[str, np.ndarray]:
        """{name: array} of the trained base leaves, the head included."""
        return {name: x for name, x in self.trained.items() if not name.startswith("adapters/")}


def write(directory: str, adapter: Adapter) -> None:
    """Writes fjt's own files of an Adapter into a directory."""
    about = {name: getattr(adapter, name) for name in RECORDED}
    records.write_json(os.path.join(directory, CONFIG), records.plain(about))
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in adapter.trained.items()}
    safetensors.numpy.save_file(tensors, os.path.join(directory, WEIGHTS), metadata={"format": "np"})


def read(directory: str) -> Adapter:
    """The Adapter of a directory with fjt's own files.  Raises UserError if one is missing or broken."""
    about = records.read_json(os.path.join(directory, CONFIG))
    for name in about["methods"]:
        if name not in METHODS:
            raise UserError(f"{directory}: the method {name!r} is unknown.{suggest(name, METHODS)}")
    methods = {
        name: complete(name, {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
        for name, options in about["methods"].items()
    }
    tensors, labels = read_tensors(os.path.join(directory, WEIGHTS)), tuple(about.get("label_names", ()))
    trained = {rename(name): tensor for name, tensor in tensors.items()}
    return Adapter(**(about | {"methods": methods, "trained": trained, "label_names": labels}))


def adopt(tune: TuneConfig, adapter: Adapter) -> tuple[TuneConfig, tuple[str, ...]]:
    """(TuneConfig with the adapter's options, the options that were filled).

    Args:
        tune: the options.
        adapter: the adapter.

    Raises:
        UserError: the run does not train one of the adapter's methods, or an option would change its leaves' shapes.
    """
    held = {}
    for name, options in adapter.methods.items():
        if name not in tune.method:
            raise UserError(
                f"config.model.adapter has the method {name}, which config.tune.method={tune.method} does not train: "
                f"give --config.tune.method={name}."
            )
        for option, value in options.items():
            held.setdefault(option, {})[name] = value
    filled = {}
    for option, by_method in held.items():
        given, values = getattr(tune, option), set(by_method.values())
        if given not in (None, ()):
            if values != {given} and option != "dropout":
                raise UserError(
                    f"config.tune.{option}={given!r} differs from that of config.model.adapter, "
                    f"{' and '.join(map(repr, by_method.values()))}; leave it out."
                )
        elif len(values) == 1:
            (filled[option],) = values
        elif any(value != METHODS[name].options[option] for name, value in by_method.items()):
            raise UserError(
                f"config.model.adapter has several values of config.tune.{option}, {by_method}, but the option applies "
                "to all methods of a run."
            )  # if each method has its own default, the open option gives these values
    if "ranks" in held and tune.rank is not None and any(held["ranks"].values()):
        raise UserError(f"config.tune.rank={tune.rank}: config.model.adapter has ranks by site; leave it out.")
    return dataclasses.replace(tune, **filled), tuple(f"tune.{option}" for option in filled if filled[option] != ())


def check_head(adapter: Adapter, label_names: Sequence[str], path: str, family: str) -> None:
    """Nothing if an adapter has a head that can be kept.

    Args:
        adapter: the adapter.
        label_names: labels of the task, by id.
        path: of the adapter, for messages.
        family: name of the base model's family.

    Raises:
        UserError: the adapter has no head, or one for other labels.
    """
    if not any(find_family(family).is_new(name) for name in adapter.trained):
        reason = f" that can be kept: {adapter.unread_head}" if adapter.unread_head else ""
        raise UserError(
            f"config.model.keep_head: the adapter {path} has no head{reason}. Leave the option out for a new head."
        )
    compare_labels(adapter.label_names, label_names, path)


def put(adapter: Adapter, params: dict[str, Any], keep_head: bool, family: str) -> dict[str, Any]:
    """The flat parameters {name: array} with those of an Adapter in their places.

    Args:
        adapter: the adapter.
        params: {name: array}.
        keep_head: whether the adapter's head is used.
        family: name of the base model's family.

    Raises:
        UserError: a leaf has no place or another shape, or is missing.
    """
    flat, is_new = dict(params), find_family(family).is_new
    for name in flat:
        method = name.split("/")[1] if name.startswith("adapters/") else None
        if method in adapter.methods and name not in adapter.trained:
            raise UserError(f"config.model.adapter lacks {name}.")
    for name, leaf in adapter.trained.items():
        if not keep_head and (is_new(name) or (name.startswith("head/") and name not in flat)):
            continue
        if name not in flat:
            raise UserError(f"config.model.adapter has {name}, which this model does not have.")
        if flat[name].shape != leaf.shape:
            if is_new(name):
                compare_classes(leaf.shape, flat[name].shape, "config.model.adapter")
            hint = " Leave config.model.keep_head out for a new head." if is_new(name) else ""
            raise UserError(
                f"config.model.adapter: {name} has shape {leaf.shape}; this model needs {flat[name].shape}.{hint}"
            )
        flat[name] = leaf
    return flat


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """{name: f32 array} of a safetensors file.  Raises UserError if it cannot be read or holds no finite floats."""
    try:
        tensors = safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}. It may be cut off or damaged.") from None
    return {name: as_float32(tensor, name, path) for name, tensor in tensors.items()}
