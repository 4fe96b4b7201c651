"""What was trained of a run, by itself: fjt's own adapter directory, which holds any method and any combination."""

import dataclasses
import os

import numpy as np
import safetensors
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.errors import UserError, suggest
from fjt.models.families import find_family, rename
from fjt.models.pretrained import compare_labels
from fjt.tuning.partition import METHODS, complete

CONFIG, WEIGHTS = "fjt_adapter.json", "fjt_adapter.safetensors"
BASE = "fjt_base.json"  # beside another library's files: {base_sha256}, which they do not hold


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Trained leaves over a base model.

    methods: {name: options}; trained: {fjt name: f32 array}, new leaves (fixed ones too), head and base leaves alike.
    base: the name of the base model, and revision its commit or branch; base_sha256: of its weights, "" when unknown;
    label_names: by id, () for a regression and when unknown.
    """

    methods: dict
    trained: dict
    base: str
    revision: str
    base_sha256: str
    label_names: tuple = ()

    def leaves(self, method):
        """The nested new leaves of a method."""
        prefix = f"adapters/{method}/"
        return tree.unflatten({n.removeprefix(prefix): x for n, x in self.trained.items() if n.startswith(prefix)})

    def others(self):
        """{name: array} of trained base leaves, the head among them."""
        return {name: x for name, x in self.trained.items() if not name.startswith("adapters/")}


def write(directory, adapter):
    """Writes fjt's own files of an Adapter into a directory."""
    about = dataclasses.asdict(adapter)
    del about["trained"]
    records.write_json(os.path.join(directory, CONFIG), records.plain(about))
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in adapter.trained.items()}
    safetensors.numpy.save_file(tensors, os.path.join(directory, WEIGHTS), metadata={"format": "np"})


def read(directory):
    """The Adapter of fjt's own files.  Raises UserError for missing or broken ones."""
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


def adopt(tune, adapter):
    """(TuneConfig with what the adapter says, the options that it filled).

    Raises UserError for a method of the adapter's that is not among the run's, and for options that would change its
    leaves' shapes.
    """
    held = {}
    for name, options in adapter.methods.items():
        if name not in tune.method:
            raise UserError(
                f"config.model.adapter holds {name}, and config.tune.method={tune.method} does not train it: give "
                f"--config.tune.method={name}."
            )
        for option, value in options.items():
            held.setdefault(option, {})[name] = value
    filled = {}
    for option, by_method in held.items():
        given, values = getattr(tune, option), set(by_method.values())
        if given not in (None, ()):
            if values != {given} and option != "dropout":
                raise UserError(
                    f"config.tune.{option}={given!r} is not that of config.model.adapter, "
                    f"{' and '.join(map(repr, by_method.values()))}; leave it out."
                )
        elif len(values) == 1:
            (filled[option],) = values
        elif any(value != METHODS[name].options[option] for name, value in by_method.items()):
            raise UserError(
                f"config.model.adapter has several values of config.tune.{option}, {by_method}, which holds for all "
                "methods of a run."
            )  # when each has its own default, that is what an open option gives
    if "ranks" in held and tune.rank is not None and any(held["ranks"].values()):
        raise UserError(f"config.tune.rank={tune.rank}: config.model.adapter has ranks by site; leave it out.")
    return dataclasses.replace(tune, **filled), tuple(f"tune.{option}" for option in filled if filled[option] != ())


def check_head(adapter, label_names, path, family):
    """Raises UserError when an adapter has no head to keep, or one for other labels."""
    if not any(find_family(family).is_new(name) for name in adapter.trained):
        raise UserError(f"config.model.keep_head: the adapter {path} holds no head; leave it out for a new one.")
    compare_labels(adapter.label_names, label_names, path)


def put(adapter, params, keep_head, family):
    """The flat parameters {name: array} with an Adapter's in their places, its head only when that is kept.

    family: the name of the base model's.

    Raises UserError for a leaf without a place, or of another shape, and for one that is lacking.
    """
    flat, is_new = dict(params), find_family(family).is_new
    for name in flat:
        method = name.split("/")[1] if name.startswith("adapters/") else None
        if method in adapter.methods and name not in adapter.trained:
            raise UserError(f"config.model.adapter: it lacks {name}.")
    for name, leaf in adapter.trained.items():
        if is_new(name) and not keep_head:
            continue
        if name not in flat:
            raise UserError(f"config.model.adapter: its {name} has no place in this model.")
        if flat[name].shape != leaf.shape:
            hint = " Leave config.model.keep_head out for a new head." if is_new(name) else ""
            raise UserError(
                f"config.model.adapter: {name} has shape {leaf.shape}; this model needs {flat[name].shape}.{hint}"
            )
        flat[name] = leaf
    return flat


def read_tensors(path):
    """{name: array} of a safetensors file.  Raises UserError."""
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}. It may be cut off or damaged.") from None
