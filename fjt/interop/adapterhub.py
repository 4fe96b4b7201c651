"""AdapterHub directories, both ways: adapter_config.json, adapter.safetensors and the head beside them (adapters 1.3).

An adapter's name is part of its tensors' keys; reading takes any.  How each method is written is in its row
(`fjt.tuning.forms.HubForm`); here is what all methods share.
"""

import os
import re

import numpy as np
import safetensors.numpy

from fjt.core import declared, records
from fjt.core.errors import UserError
from fjt.interop import adapterhub_entries
from fjt.interop.adapter import Adapter, read_tensors
from fjt.interop.peft import encoder_module
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig, Family
from fjt.models.torch_names import from_torch, to_torch, torch_name
from fjt.tuning.partition import METHODS

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_WEIGHTS, PICKLED_HEAD = "head_config.json", "model_head.safetensors", "pytorch_model_head.bin"
VERSION = "adapters.1.3.0"
NAME = "fjt"  # of the adapter in its directory; a name of the reader's own is given when loading

FORMS = {name: method.adapterhub for name, method in METHODS.items() if method.adapterhub}


def refusal(adapter: Adapter, config: EncoderConfig) -> str | None:
    """Why AdapterHub cannot hold an adapter, or None.

    Args:
        adapter: the methods and the trained leaves.
        config: the base model's.
    """
    held, family = {}, find_family(config.family)
    for name, options in adapter.methods.items():
        if name not in FORMS:
            return f"AdapterHub has no {name} in fjt's sense"
        if reason := FORMS[name].refuse(options):
            return reason
        held.setdefault(FORMS[name].architecture, []).append(name)
    for architecture, names in held.items():
        if len(names) > 1:
            return f"AdapterHub keeps one {architecture} under one name, not {' and '.join(names)}"
    for path in adapter.others():
        if not family.is_new(path):
            return f"it has no place for {path}, which was trained"
    return None


def write(
    directory: str | os.PathLike,
    adapter: Adapter,
    config: EncoderConfig,
    label_names: tuple[str, ...] | None,
    head: str = "sequence",
) -> None:
    """Writes an adapter as AdapterHub's files.

    Args:
        directory: an existing one.
        adapter: the methods and the trained leaves.
        config: the base model's.
        label_names: by id; empty for a regression.
        head: the name of the family's head.

    Raises:
        UserError: AdapterHub cannot hold the adapter.
    """
    reason = refusal(adapter, config)
    if reason:
        raise UserError(f"No AdapterHub directory can be written: {reason}.")
    tensors, parts, module, family = {}, [], encoder_module(config), find_family(config.family)
    for name, options in adapter.methods.items():
        found, about = FORMS[name].write(adapter.leaves(name), options, config, module, NAME)
        tensors, parts = tensors | found, [*parts, about]
    about = parts[0] if len(parts) == 1 else {"architecture": "union", "configs": parts}
    common = {
        "model_type": config.family,
        "model_name": adapter.base,
        "model_class": family.heads[head].architecture,
        "hidden_size": config.width,
        "version": VERSION,
    }
    records.write_json(os.path.join(directory, CONFIG), common | {"name": NAME, "config": about})
    _save(os.path.join(directory, WEIGHTS), tensors)
    own = {torch_name(path, config.family): to_torch(path, leaf) for path, leaf in adapter.others().items()}
    if not own:
        return
    _save(os.path.join(directory, HEAD_WEIGHTS), own)
    labels = {label: i for i, label in enumerate(label_names or ("score",))}
    records.write_json(
        os.path.join(directory, HEAD_CONFIG),
        common | {"name": None, "config": None, "num_labels": len(labels), "label2id": labels},
    )


def _save(path, tensors):
    tensors = {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def read(directory: str | os.PathLike, config: EncoderConfig) -> Adapter:
    """The adapter of AdapterHub's files, its head included where there is one.

    Args:
        directory: where the files are.
        config: the base model's.

    Raises:
        UserError: fjt has no method for the config, or tensors do not fit.
    """
    path = os.path.join(directory, CONFIG)
    about = declared.read(path, adapterhub_entries.OUTER)
    if not os.path.exists(os.path.join(directory, WEIGHTS)):
        raise UserError(f"{directory} holds no {WEIGHTS}; save the adapter again with use_safetensors=True.")
    family = find_family(config.family)
    tensors = {_whole_name(key, family): x for key, x in read_tensors(os.path.join(directory, WEIGHTS)).items()}
    if about.get("hidden_size") not in (None, config.width):
        raise UserError(
            f"{directory} was trained over an encoder of width {about['hidden_size']}; this model's is {config.width}."
        )
    methods, trained, unread = {}, {}, [declared.undeclared(about, adapterhub_entries.OUTER, path)]
    for own in _parts(about["config"], path):
        unread.append(_check_part(own, path))
        name, options, leaves = _read_part(directory, _as_trained(own, about.get("version") or ""), tensors, config)
        methods[name] = options
        trained |= {f"adapters/{name}/{path}": leaf for path, leaf in leaves.items()}
    if tensors:
        raise UserError(f"{directory}: the tensor {min(tensors)} has no place in this model.")
    head, reason, labels = _read_head(directory, config)
    trained = {path: np.ascontiguousarray(x, np.float32) for path, x in (trained | head).items()}
    return Adapter(
        methods,
        trained,
        about.get("model_name") or "",
        "",
        "",
        labels,
        unread="; ".join(filter(None, dict.fromkeys(unread))),
        unread_head=reason,
    )


def _whole_name(key: str, family: Family) -> str:
    """A tensor's key with the family's prefix, which the adapter of a bare encoder lacks."""
    shared = key.split(".")[0] in ("prefix_tuning", "shared_parameters")
    return f"{family.prefix}.{key}" if shared else family.whole_name(key)


def _parts(whole, path):
    """The configs that an adapter consists of: itself, or those of a union."""
    if whole.get("architecture") != "union":
        return [whole]
    declared.check(whole, adapterhub_entries.UNION, f"{path}, config")
    return whole["configs"]


def _architecture(own):
    """A config without an architecture is a bottleneck's, as in AdapterHub's releases before 1.0."""
    return own.get("architecture") or "bottleneck"


def _check_part(own, path):
    """A sentence about keys of a config that fjt does not read, or "".  Raises UserError for values that it refuses."""
    place = f"{path}, config"
    declared.check(own, adapterhub_entries.COMMON, place)
    form = next((form for form in FORMS.values() if form.architecture == _architecture(own)), None)
    if form is None:
        return ""  # _read_part refuses it
    entries = adapterhub_entries.COMMON | form.entries
    declared.check(own, entries, place)
    return declared.undeclared(own, entries, place)


def _as_trained(own, version):
    """The config of a LoRA with the alpha that it was trained with: releases before 1.1 scaled by 1 whatever it was.

    AdapterHub corrects such a config in the same way when it loads it (its pull request 770).
    """
    release = re.match(r"adapters\.(\d+)\.(\d+)", version)
    old = release is not None and (int(release.group(1)), int(release.group(2))) < (1, 1)
    return own | {"alpha": own["r"]} if old and {"alpha", "r"} <= own.keys() else own


def _read_head(directory, config):
    """({name: leaf}, why there is none, its labels by id) of the head beside an adapter.

    A head that is not one of the family's, such as those of AutoAdapterModel, is left: a run may have a new one.
    """
    file, labels = os.path.join(directory, HEAD_WEIGHTS), os.path.join(directory, HEAD_CONFIG)
    if not os.path.exists(file):
        pickled = os.path.exists(os.path.join(directory, PICKLED_HEAD))
        return {}, f"it has {PICKLED_HEAD}; save it again with use_safetensors=True" if pickled else "", ()
    family, found = find_family(config.family), read_tensors(file)
    for head in family.heads.values():
        modules = [f"head/{part}" for part in head.modules if part not in head.pretrained]
        names = [f"{module}/{leaf}" for module in modules for leaf in ("kernel", "bias")]
        places = {torch_name(name, config.family): name for name in names}
        if set(found) == set(places):
            about = declared.read(labels, adapterhub_entries.HEAD) if os.path.exists(labels) else {}
            ids: dict[str, int] = about.get("label2id") or {}
            leaves = {places[key]: from_torch(places[key], tensor) for key, tensor in found.items()}
            return leaves, "", tuple(sorted(ids, key=lambda name: ids[name]))
    classes = " or ".join(head.architecture for head in family.heads.values())
    return {}, f"{file} holds {', '.join(sorted(found))}, which is not the head of a {classes}", ()


def _read_part(directory, own, tensors, config):
    """(method, options, leaves) of one config; its tensors are taken out of those of the file."""
    kind = _architecture(own)
    forms = {name: form for name, form in FORMS.items() if form.architecture == kind}
    name = next((name for name, form in forms.items() if form.accepts(own)), None)
    if name is None:
        facts = {key: own.get(key) for form in forms.values() for key in form.facts}
        raise UserError(f"{directory}: no method here is a {kind}{f' with {facts}' if facts else ''}.")
    form = forms[name]
    part = {key: tensors.pop(key) for key in list(tensors) if re.search(form.pattern, key)}
    try:
        options, leaves = form.read(own, part, config, encoder_module(config))
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    if "gating" in METHODS[name].options:
        options["gating"] = bool(own.get("use_gating"))
    elif own.get("use_gating"):
        raise UserError(f"{directory}: use_gating is not supported for {name}.")
    return name, options, leaves
