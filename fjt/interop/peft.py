"""PEFT directories, both ways: adapter_config.json and adapter_model.safetensors (peft 0.21).

How each method is written is in its row (`fjt.tuning.forms.PeftForm`); here is what all methods share.
"""

import functools
import os
import re

import numpy as np
import safetensors.numpy

from fjt.core import declared, records
from fjt.core.errors import UserError
from fjt.interop import peft_entries
from fjt.interop.adapter import Adapter, read_tensors
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.torch_names import LEAVES, to_torch
from fjt.tuning import forms
from fjt.tuning.method import base_module, places, sites_of
from fjt.tuning.partition import METHODS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
TASK_TYPES = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS"}  # by head
LEARNED = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")  # which its classes for a task type alone put before texts
FORMS = {name: method.peft for name, method in METHODS.items() if method.peft}


def encoder_module(config: EncoderConfig) -> forms.Module:
    """The function from a place of a method, such as `layer_0/query`, to the PyTorch name of its module."""
    return functools.cache(lambda path: find_family(config.family).torch_module(base_module(path)))


def task_type(config: EncoderConfig, head: str) -> str | None:
    """PEFT's task type of a head, None where a model without one computes what the run does.

    PEFT 0.21's class for QUESTION_ANS does not hand token types to its base model.

    Args:
        config: the base model's.
        head: the name of the family's head.
    """
    return None if head == "span" and config.types > 1 else TASK_TYPES.get(head)


def refusal(adapter: Adapter, config: EncoderConfig, head: str = "sequence") -> str | None:
    """Why PEFT cannot hold an adapter, or None.

    Args:
        adapter: the methods and the trained leaves.
        config: the base model's.
        head: the name of the family's head.
    """
    if len(adapter.methods) > 1:
        return f"a PEFT directory holds one method, not {' and '.join(adapter.methods)}"
    ((name, options),) = adapter.methods.items()
    if name not in FORMS:
        return f"PEFT has no {name}"
    if options.get("gating"):
        return f"PEFT has no gated {name} (config.tune.gating)"
    if reason := FORMS[name].refuse(options):
        return reason
    if FORMS[name].type in LEARNED and task_type(config, head) is None:
        return f"PEFT computes {name} for its own task types alone, and has none that fits the run's head and model"
    for path in adapter.others():
        if path.startswith("head/") and find_family(config.family).heads[head].tied:
            return "it would save the table of words with the head, and no longer tie them"
        module = path.rsplit("/", 1)[0]
        if module.removeprefix("head/") in adapter.leaves(name):
            return f"it cannot hold the weights of {module} beside those of {name} for it"
        if not module.startswith("head/") and not FORMS[name].holds(module):
            return f"it has no place for {path}, which was trained"
    return None


def write(directory: str | os.PathLike, adapter: Adapter, config: EncoderConfig, head: str = "sequence") -> None:
    """Writes an adapter as PEFT's files.

    Args:
        directory: an existing one.
        adapter: the methods and the trained leaves.
        config: the base model's.
        head: the name of the family's head.

    Raises:
        UserError: PEFT cannot hold the adapter.
    """
    reason = refusal(adapter, config, head)
    if reason:
        raise UserError(f"No PEFT directory can be written: {reason}.")
    ((name, options),) = adapter.methods.items()
    form, family, modules = FORMS[name], find_family(config.family), set()
    tensors, about = form.write(adapter.leaves(name), options, config, encoder_module(config))
    for path, leaf in adapter.others().items():
        module, last = path.rsplit("/", 1)
        if form.holds(module):
            tensors[f"{forms.PEFT}{family.torch_module(module)}.{form.wrapped}.{LEAVES[last]}"] = leaf
        else:
            modules.add(family.saved_module(module))
            tensors[f"{form.root}{family.torch_module(module)}.{LEAVES[last]}"] = to_torch(path, leaf)
    about |= {
        "base_model_name_or_path": adapter.base,
        "revision": adapter.revision or None,
        "inference_mode": True,
        "modules_to_save": sorted(modules),
        "peft_type": form.type,
        "task_type": task_type(config, head),
    }
    records.write_json(os.path.join(directory, CONFIG), dict(sorted(about.items())))
    tensors = {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}
    safetensors.numpy.save_file(tensors, os.path.join(directory, WEIGHTS), metadata={"format": "pt"})


def read(directory: str | os.PathLike, config: EncoderConfig) -> Adapter:
    """The adapter of PEFT's files.

    Args:
        directory: where the files are.
        config: the base model's.

    Raises:
        UserError: fjt has no method for the kind, or tensors do not fit.
    """
    path = os.path.join(directory, CONFIG)
    about = declared.read(path, {})
    entries = peft_entries.entries(about.get("peft_type"))
    declared.check(about, entries, path)
    _check_shape(about, config, path)
    if not os.path.exists(os.path.join(directory, WEIGHTS)) and os.path.exists(os.path.join(directory, PICKLED)):
        raise UserError(
            f"{directory} has {PICKLED}, which fjt does not read, and no {WEIGHTS}: load the adapter in peft and save "
            "it again with save_pretrained(DIR, safe_serialization=True)."
        )
    tensors = read_tensors(os.path.join(directory, WEIGHTS))
    name = next(name for name, form in FORMS.items() if form.accepts(about))
    form, family, placed, whole, trained = FORMS[name], find_family(config.family), {}, {}, {}
    targets = set()
    module_of = encoder_module(config)
    names = {module_of(path): path for _, path in places(config, sites_of(config))}
    ends = "|".join([*map(re.escape, form.leaves), *([rf"{form.wrapped}\.\w+"] if form.wrapped else []), r"\w+"])
    for key, tensor in tensors.items():
        if key in form.keys:
            whole[key] = tensor
            continue
        found = re.fullmatch(rf"base_model\.(?:model\.)?(.*?)\.({ends})", key)
        if not found:
            raise UserError(f"{directory}: {forms.no_place(key)}")
        module, last = family.whole_name(found.group(1)), found.group(2)
        if module in names and last in form.leaves:
            placed[names[module], form.leaves[last]] = tensor
            targets.add(found.group(1))
        else:
            trained |= _base_leaf(directory, key, module, last, tensor, config)
    _check_targets(about, targets, path)
    try:
        options, leaves = form.read(about, placed, whole, config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    trained |= {f"adapters/{name}/{path}": leaf for path, leaf in leaves.items()}
    trained = {path: np.ascontiguousarray(x, np.float32) for path, x in trained.items()}
    return Adapter(
        {name: options},
        trained,
        about.get("base_model_name_or_path") or "",
        about.get("revision") or "",
        "",
        unread=declared.undeclared(about, entries, path),
    )


def _check_targets(about, modules, path):
    """Raises UserError where the config leaves out a module that has tensors.  modules: PyTorch's names."""
    targets, excluded = about.get("target_modules"), about.get("exclude_modules")
    for module in sorted(modules):
        for key, wrong in (
            ("target_modules", bool(targets) and targets != "all-linear" and not _names(targets, module)),
            ("exclude_modules", bool(excluded) and _names(excluded, module)),
        ):
            if wrong:
                raise UserError(
                    f"{path}: {key}={about[key]!r:.200} leaves out {module}, for which {WEIGHTS} has tensors: peft "
                    "would not load them. Restore the config with which the adapter was trained."
                )


def _names(patterns, module):
    """Whether PEFT's names of modules, a regular expression or a list of ends of names, name one."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in patterns)


def _check_shape(about, config, path):
    """Raises UserError where the config of a learned context is of an encoder of another shape."""
    facts = {"token_dim": config.width, "num_layers": config.layers, "num_attention_heads": config.heads}
    for key, value in facts.items():
        if about.get(key) not in (None, value):
            raise UserError(f"{path}: {key}={about[key]} is of another encoder; this model's is {value}.")


def _base_leaf(directory, key, module, last, tensor, config):
    """{name: leaf} of a trained tensor of the base model."""
    family = find_family(config.family)
    paths = ["encoder/embeddings/norm", *(f"head/{part}" for head in family.heads.values() for part in head.modules)]
    paths += [f"encoder/layer_{i}/{norm}" for i in range(config.layers) for norm in ("attention_norm", "output_norm")]
    for path in paths:
        if family.torch_module(path) == module:
            last = last.rsplit(".", 1)[-1]
            leaf = "bias" if last == "bias" else "scale" if path.endswith("norm") else "kernel"
            return {f"{path}/{leaf}": tensor.T if leaf == "kernel" else tensor}
    raise UserError(f"{directory}: {forms.no_place(key)}")
