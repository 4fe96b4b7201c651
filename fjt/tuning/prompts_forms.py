"""Prefixes and prompts in PEFT's and AdapterHub's directories."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core.errors import UserError
from fjt.core.tree import Tree
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.torch_names import LEAVES
from fjt.tuning import hub_entries
from fjt.tuning.forms import PROMPT, HubForm, Module, PeftForm, Tensors, no_place

ROOT = "base_model."  # PEFT wraps the base model of a learned context only once


def _peft_config(length: int, config: EncoderConfig) -> dict:
    """The entries of adapter_config.json that all learned contexts share.  length: tokens or keys."""
    return {
        "num_virtual_tokens": length,
        "token_dim": config.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
    }


def _flat(found: dict, config: EncoderConfig) -> Float[np.ndarray, "P C"]:
    """Rows of C = 2 N D numbers, one row per learned key: for each of N layers the key, then the value.

    Args:
        found: {layer_i: {key, value: f32[P, H, K]}}.
        config: the encoder's.
    """
    pairs = [np.asarray(found[f"layer_{i}"][kind]) for i in range(config.layers) for kind in ("key", "value")]
    length = len(pairs[0])
    return np.stack([x.reshape(length, -1) for x in pairs], axis=1).reshape(length, -1)


def _split(flat: np.ndarray, length: int, config: EncoderConfig) -> Tensors:
    """{layer_i/key, layer_i/value: f32[P, H, K]} of the numbers that `_flat` puts in one row per key."""
    split = flat.reshape(length, config.layers, 2, config.heads, -1)
    kinds = ("key", "value")
    return {f"layer_{i}/{kind}": split[:, i, k] for i in range(config.layers) for k, kind in enumerate(kinds)}


def _table(whole, about):
    """f32[P, ...], the tensor of a learned context."""
    if PROMPT not in whole:
        raise UserError(f"its tensors hold no {PROMPT}.")
    if about.get("num_virtual_tokens") not in (None, len(whole[PROMPT])):
        raise UserError(
            f"{PROMPT} has {len(whole[PROMPT])} rows, but its config says num_virtual_tokens="
            f"{about['num_virtual_tokens']}."
        )
    return whole[PROMPT]


def _refuse_peft_prefix(options):
    if not options["shift_positions"]:
        return "PEFT lets text start at position prefix_length (config.tune.shift_positions)"
    return None


def _read_peft_prefix(about, placed, whole, config):
    del placed
    flat = _table(whole, about)
    length, wanted = len(flat), 2 * config.layers * config.width
    if flat.shape[1] != wanted:
        raise UserError(
            f"{PROMPT} has shape {flat.shape}; {config.layers} layers of width {config.width} need "
            f"({length}, {wanted})."
        )
    return {"prefix_length": length, "projection": 0, "shift_positions": True}, _split(flat, length, config)


def _read_peft_prompt(about, placed, whole, config):
    """A saved P-tuning is its prompt: PEFT does not keep the MLP that made it."""
    del placed, config
    table = _table(whole, about)
    return {"prompt_length": len(table)}, {"embedding": table}


def peft_prefix(prefixes: Callable[[Tree, int], Tree]) -> PeftForm:
    """PEFT's form of a prefix.  prefixes: (leaves, heads) -> {layer_i: {key, value: f32[P, H, K]}}."""

    def write(leaves: dict, options: dict, config: EncoderConfig, module: Module) -> tuple[Tensors, dict]:
        del options, module
        flat = _flat(prefixes(leaves, config.heads), config)
        about = _peft_config(len(flat), config)
        return {PROMPT: flat}, about | {"encoder_hidden_size": config.width, "prefix_projection": False}

    return PeftForm(
        "PREFIX_TUNING",
        lambda about: about["peft_type"] == "PREFIX_TUNING",
        _read_peft_prefix,
        write,
        refuse=_refuse_peft_prefix,
        keys=(PROMPT,),
        root=ROOT,
    )


def peft_prompt(prompt_table: Callable[[Tree], Any], mlp: bool) -> PeftForm:
    """PEFT's form of a prompt; both kinds are read as a prompt without an MLP.

    Args:
        prompt_table: leaves -> the prompt f32[P, D].
        mlp: whether it is written as P-tuning.
    """

    def write(leaves: dict, options: dict, config: EncoderConfig, module: Module) -> tuple[Tensors, dict]:
        del module
        table = prompt_table(leaves)
        about = _peft_config(len(table), config)
        if mlp:
            about |= {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": options["projection"]}
        return {PROMPT: table}, about

    def accepts(about: dict) -> bool:
        return not mlp and about["peft_type"] in ("PROMPT_TUNING", "P_TUNING")

    kind = "P_TUNING" if mlp else "PROMPT_TUNING"
    return PeftForm(kind, accepts, _read_peft_prompt, write, keys=(PROMPT,), root=ROOT)


def _write_hub_prefix(leaves, options, config, module, name):
    owner = find_family(config.family).prefix
    prefix, tensors = f"{owner}.prefix_tuning.prefix_tunings.{name}.self_prefix", {}
    for i in range(config.layers) if options["gating"] else ():
        for last, leaf in leaves[f"layer_{i}"]["gate"].items():
            attention = module(f"layer_{i}/query").removesuffix(".query")
            tensors[f"{attention}.prefix_tuning.prefix_gates.{name}.{LEAVES[last]}"] = leaf.T
    if options["projection"]:
        tensors[f"{prefix}.wte.weight"] = leaves["embedding"]
        for part, index in (("down", 0), ("up", 2)):
            tensors[f"{prefix}.control_trans.{index}.weight"] = leaves[part]["kernel"].T
            tensors[f"{prefix}.control_trans.{index}.bias"] = leaves[part]["bias"]
    else:
        tensors[f"{prefix}.control_trans"] = _flat(leaves, config).reshape(-1)
    return tensors, {
        "architecture": "prefix_tuning",
        "encoder_prefix": True,
        "cross_prefix": True,
        "leave_out": [],
        "flat": not options["projection"],
        "prefix_length": options["prefix_length"],
        "use_gating": options["gating"],
        "bottleneck_size": options["projection"] or 512,
        "non_linearity": "tanh",
        "dropout": 0.0,
        "shared_gating": True,
    }


def _read_hub_prefix(own, tensors, config, module):
    del module
    length, leaves, shared = own["prefix_length"], {}, {}
    for key, tensor in tensors.items():
        if found := re.fullmatch(r".*\.layer\.(\d+)\..*\.prefix_gates\.[^.]+\.(weight|bias)", key):
            last = {"weight": "kernel", "bias": "bias"}[found.group(2)]
            leaves[f"layer_{found.group(1)}/gate/{last}"] = tensor.T
        elif found := re.fullmatch(r".*\.prefix_tunings\.[^.]+\.self_prefix\.(.*)", key):
            shared[found.group(1)] = tensor
        else:
            raise no_place(key)
    projection, wanted = 0, 2 * length * config.layers * config.width
    if own.get("flat"):
        flat = shared["control_trans"]
        if flat.size != wanted:
            raise UserError(
                f"a prefix of {length} in {config.layers} layers of width {config.width} has {wanted:,} numbers; "
                f"control_trans holds {flat.size:,}."
            )
        leaves |= _split(flat, length, config)
    else:
        if own.get("non_linearity", "tanh") != "tanh":
            raise UserError(f"non_linearity={own['non_linearity']!r} is not supported, only tanh.")
        leaves["embedding"] = shared["wte.weight"]
        for part, index in (("down", 0), ("up", 2)):
            leaves[f"{part}/kernel"] = shared[f"control_trans.{index}.weight"].T
            leaves[f"{part}/bias"] = shared[f"control_trans.{index}.bias"]
        projection = own["bottleneck_size"]
    return {"prefix_length": length, "projection": projection, "shift_positions": False}, leaves


def _refuse_hub_prefix(options):
    if options["shift_positions"]:
        return "AdapterHub lets text start at position 0 (config.tune.shift_positions)"
    return None


HUB_PREFIX = HubForm(
    "prefix_tuning",
    r"\.prefix_(tunings|gates)\.",
    lambda own: True,
    _write_hub_prefix,
    _read_hub_prefix,
    refuse=_refuse_hub_prefix,
    entries=hub_entries.PREFIX,
)
