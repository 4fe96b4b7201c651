"""PEFT directories, both ways: adapter_config.json and adapter_model.safetensors (peft 0.21, BERT classifiers)."""

import os
import re

import numpy as np
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.errors import UserError
from fjt.interop.adapter import Adapter, read_tensors, torch_module
from fjt.models.pretrained import LEAVES, to_torch
from fjt.tuning import prompts
from fjt.tuning.low_rank import IA3_INPUTS, site_ranks
from fjt.tuning.method import SITES, places

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPES = {
    "lora": "LORA",
    "dora": "LORA",
    "vera": "VERA",
    "ia3": "IA3",
    "layernorm": "LN_TUNING",
    "prefix": "PREFIX_TUNING",
    "prompt": "PROMPT_TUNING",
    "p_tuning": "P_TUNING",
}
WHOLE_MODULES = {"head/classifier": "classifier", "encoder/pooler": "pooler"}  # in modules_to_save
LEARNED_CONTEXT = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
# A site's new leaves, whatever the method, and those that all sites share.
SITE_LEAVES = {
    "a": "lora_A.weight",
    "b": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
    "scale": "ia3_l",
    "inner": "vera_lambda_d",
    "outer": "vera_lambda_b",
}
VERA_SHARED = {"a": "base_model.vera_A", "b": "base_model.vera_B"}


def refusal(adapter, config):
    """Why PEFT cannot hold an Adapter, or None.  config: EncoderConfig."""
    if len(adapter.methods) > 1:
        return f"a PEFT directory holds one method, not {' and '.join(adapter.methods)}"
    ((name, options),) = adapter.methods.items()
    if name not in TYPES:
        return f"PEFT has no {name}"
    if options.get("gating"):
        return f"PEFT has no gated {name} (config.tune.gating)"
    if name == "prefix" and not options["shift_positions"]:
        return "PEFT lets text start at position prefix_length (config.tune.shift_positions)"
    if "encoder/pooler/kernel" in adapter.others() and "pooler" in adapter.leaves(name):
        return f"it cannot hold the pooler's own weights beside those of {name} for it"
    for path in adapter.others():
        module = path.rsplit("/", 1)[0]
        if module not in WHOLE_MODULES and not (name == "layernorm" and module.endswith("norm")):
            return f"it has no place for {path}, which was trained"
    return None


def write(directory, adapter, config):
    """Writes an Adapter as PEFT's files.  config: EncoderConfig.  Raises UserError where PEFT cannot hold it."""
    reason = refusal(adapter, config)
    if reason:
        raise UserError(f"No PEFT directory can be written: {reason}.")
    ((name, options),) = adapter.methods.items()
    family, kind = config.family, TYPES[name]
    tensors, about = _tensors(name, options, adapter, config)
    prefix = "base_model." if kind in LEARNED_CONTEXT else "base_model.model."
    modules = set()
    for path, leaf in adapter.others().items():
        module, last = path.rsplit("/", 1)
        if name == "layernorm" and module.endswith("norm"):
            tensors[f"base_model.model.{torch_module(module, family)}.ln_tuning_layers.{LEAVES[last]}"] = leaf
        else:
            modules.add(WHOLE_MODULES[module])
            tensors[f"{prefix}{torch_module(module, family)}.{LEAVES[last]}"] = to_torch(path, leaf)
    about |= {
        "base_model_name_or_path": adapter.base,
        "revision": adapter.revision or None,
        "inference_mode": True,
        "modules_to_save": sorted(modules),
        "peft_type": kind,
        "task_type": "SEQ_CLS",
    }
    records.write_json(os.path.join(directory, CONFIG), dict(sorted(about.items())))
    tensors = {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}
    safetensors.numpy.save_file(tensors, os.path.join(directory, WEIGHTS), metadata={"format": "pt"})


def _tensors(name, options, adapter, config):
    """({key: tensor} of the new leaves, the method's part of adapter_config.json)."""
    leaves = adapter.leaves(name)
    if name in ("lora", "dora"):
        ranks, tensors = site_ranks(options), {}
        highest = max(ranks.values())
        for path, leaf in tree.flatten(leaves).items():
            module, last = path.rsplit("/", 1)
            rank = ranks[module.rsplit("/", 1)[-1]]
            used = {"a": np.s_[:, :rank], "b": np.s_[:rank], "magnitude": np.s_[:]}[last]
            tensors[f"{_key(module, config)}.{SITE_LEAVES[last]}"] = leaf[used].T
        return tensors, {
            "r": highest,
            "lora_alpha": options["alpha"],
            "lora_dropout": options["dropout"],
            "bias": "none",
            "rank_pattern": {_pattern([site], config): rank for site, rank in ranks.items() if rank != highest},
            "use_rslora": options["rank_stabilized"],
            "use_dora": name == "dora",
            "fan_in_fan_out": False,
            "target_modules": _pattern(options["sites"], config),
        }
    if name == "vera":
        tensors = {}
        for path, leaf in tree.flatten(leaves).items():
            module, _, last = path.rpartition("/")
            tensors[f"{_key(module, config)}.{SITE_LEAVES[last]}" if module else VERA_SHARED[last]] = leaf.T
        return tensors, {
            "r": options["rank"],
            "vera_dropout": options["dropout"],
            "d_initial": options["vera_start"],
            "save_projection": True,
            "projection_prng_key": 0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": _pattern(options["sites"], config),
        }
    if name == "ia3":
        tensors = {}
        for path, leaf in tree.flatten(leaves).items():
            module = path.rsplit("/", 1)[0]
            shape = (1, -1) if module.rsplit("/", 1)[-1] in IA3_INPUTS else (-1, 1)
            tensors[f"{_key(module, config)}.ia3_l"] = leaf.reshape(shape)
        inputs = [site for site in options["sites"] if site in IA3_INPUTS]
        return tensors, {
            "target_modules": _pattern(options["sites"], config),
            "feedforward_modules": _pattern(inputs, config) if inputs else [],
        }
    if name == "prefix":
        found = prompts.prefixes(leaves, config.heads)
        pairs = [found[f"layer_{i}"][kind] for i in range(config.layers) for kind in ("key", "value")]
        length = pairs[0].shape[0]
        flat = np.stack([np.asarray(x).reshape(length, -1) for x in pairs], axis=1).reshape(length, -1)
        return {"prompt_embeddings": flat}, {
            "num_virtual_tokens": length,
            "token_dim": config.width,
            "num_transformer_submodules": 1,
            "num_attention_heads": config.heads,
            "num_layers": config.layers,
            "encoder_hidden_size": config.width,
            "prefix_projection": False,
        }
    if name in ("prompt", "p_tuning"):
        table = prompts.prompt_table(leaves)
        about = {
            "num_virtual_tokens": len(table),
            "token_dim": config.width,
            "num_transformer_submodules": 1,
            "num_attention_heads": config.heads,
            "num_layers": config.layers,
        }
        if name == "p_tuning":  # a saved one is its prompt: the MLP that made it is not kept
            about |= {"encoder_reparameterization_type": "MLP", "encoder_hidden_size": options["projection"]}
        return {"prompt_embeddings": table}, about
    return {}, {"target_modules": r".*LayerNorm"}


def _key(path, config):
    return f"base_model.model.{torch_module(f'encoder/{path}', config.family)}"


def _pattern(sites, config):
    """A regular expression over the whole name of a module: a list's suffixes would let output.dense find two."""
    modules = {torch_module(f"encoder/{path}", config.family) for _, path in places(config, sites)}
    modules = sorted({re.sub(r"\d+", r"\\d+", re.escape(module)) for module in modules})
    return "|".join(modules)


def read(directory, config):
    """The Adapter of PEFT's files.  config: EncoderConfig of the base model.

    Raises UserError for a kind that fjt has no method for, and for tensors that do not fit.
    """
    about = records.read_json(os.path.join(directory, CONFIG))
    tensors = read_tensors(os.path.join(directory, WEIGHTS))
    kind = about.get("peft_type")
    if kind not in TYPES.values():
        raise UserError(
            f"{directory}: peft_type {kind!r} has no method here; {', '.join(sorted(set(TYPES.values())))}."
        )
    for option in ("alpha_pattern", "fan_in_fan_out", "lora_bias", "layers_to_transform"):
        if about.get(option):
            raise UserError(f"{directory}: {option}={about[option]!r} is not supported.")
    if about.get("bias", "none") != "none":
        raise UserError(f"{directory}: bias={about['bias']!r} is not supported; only 'none'.")
    names = {torch_module(f"encoder/{path}", config.family): path for _, path in places(config, SITES)}
    leaves, shared = ({key: leaf for leaf, key in found.items()} for found in (SITE_LEAVES, VERA_SHARED))
    method = {"LORA": "dora" if about.get("use_dora") else "lora"}.get(kind, kind.lower())
    trained, sites = {}, set()
    for key, tensor in tensors.items():
        if key == "prompt_embeddings":
            continue
        if key in shared:
            trained[f"adapters/{method}/{shared[key]}"] = tensor.T
            continue
        found = re.fullmatch(
            rf"base_model\.(?:model\.)?(.*?)\.({'|'.join(map(re.escape, leaves))}|ln_tuning_layers\.\w+|\w+)", key
        )
        if not found:
            raise UserError(f"{directory}: the tensor {key} has no place in this model.")
        module, last = found.groups()
        if module in names and last in leaves:
            path = names[module]
            site = path.rsplit("/", 1)[-1]
            sites.add(site)
            if last == "ia3_l" and tensor.shape[0 if site in IA3_INPUTS else 1] != 1:
                raise UserError(f"{directory}: {key} scales {site} at its other side, which is not supported.")
            value = tensor.T if last.startswith("lora_") else tensor
            trained[f"adapters/{method}/{path}/{leaves[last]}"] = value if leaves[last] in "ab" else value.reshape(-1)
        else:
            trained |= _base_leaf(directory, key, module, last, tensor, config)
    name, options = _options(directory, about, tensors, sites, trained, config)
    trained = {path: np.ascontiguousarray(x, np.float32) for path, x in trained.items()}
    return Adapter(
        {name: options}, trained, about.get("base_model_name_or_path") or "", about.get("revision") or "", ""
    )


def _base_leaf(directory, key, module, last, tensor, config):
    """{name: leaf} of a trained tensor of the base model."""
    paths = ["head/classifier", "encoder/pooler", "encoder/embeddings/norm"]
    paths += [f"encoder/layer_{i}/{norm}" for i in range(config.layers) for norm in ("attention_norm", "output_norm")]
    for path in paths:
        if torch_module(path, config.family) == module:
            last = last.rsplit(".", 1)[-1]
            leaf = "bias" if last == "bias" else "scale" if path.endswith("norm") else "kernel"
            return {f"{path}/{leaf}": tensor.T if leaf == "kernel" else tensor}
    raise UserError(f"{directory}: the tensor {key} has no place in this model.")


def _options(directory, about, tensors, sites, trained, config):
    """(method, options) of adapter_config.json; adds the leaves of learned context to `trained`."""
    kind = about["peft_type"]
    if kind == "LORA":
        sites = tuple(site for site in SITES if site in sites)
        found = {}
        for path, leaf in trained.items():
            if path.endswith("/a"):
                found.setdefault(path.split("/")[-2], set()).add(leaf.shape[1])
        for site, several in found.items():
            if len(several) > 1:
                raise UserError(
                    f"{directory}: the layers of {site} have different ranks, {sorted(several)}; here a site has one."
                )
        ranks = [min(found[site]) for site in sites]
        same = len(set(ranks)) == 1
        return "dora" if about.get("use_dora") else "lora", {
            "sites": sites,
            **({"rank": ranks[0], "ranks": ()} if same else {"ranks": tuple(ranks)}),
            "max_rank": 0,
            "alpha": float(about["lora_alpha"]),
            "dropout": float(about.get("lora_dropout", 0.0)),
            "rank_stabilized": bool(about.get("use_rslora")),
        }
    if kind == "VERA":
        if "adapters/vera/a" not in trained or "adapters/vera/b" not in trained:
            raise UserError(
                f"{directory}: its random projections were not saved, and another generator drew them; save the "
                "adapter again with save_projection=True."
            )
        return "vera", {
            "sites": tuple(site for site in SITES if site in sites),
            "rank": about["r"],
            "dropout": float(about.get("vera_dropout", 0.0)),
            "vera_start": float(about.get("d_initial", 0.1)),
        }
    if kind == "IA3":
        return "ia3", {"sites": tuple(site for site in SITES if site in sites)}
    if kind == "LN_TUNING":
        return "layernorm", {}
    flat = tensors.get("prompt_embeddings")
    if flat is None:
        raise UserError(f"{directory}: {WEIGHTS} holds no prompt_embeddings.")
    length = len(flat)
    if kind in ("PROMPT_TUNING", "P_TUNING"):
        trained["adapters/prompt/embedding"] = flat
        return "prompt", {"prompt_length": length}
    if flat.shape[1] != 2 * config.layers * config.width:
        raise UserError(
            f"{directory}: prompt_embeddings has shape {flat.shape}; {config.layers} layers of width {config.width} "
            f"need ({length}, {2 * config.layers * config.width})."
        )
    split = flat.reshape(length, config.layers, 2, config.heads, -1)
    for i in range(config.layers):
        trained[f"adapters/prefix/layer_{i}/key"], trained[f"adapters/prefix/layer_{i}/value"] = (
            split[:, i, 0],
            split[:, i, 1],
        )
    return "prefix", {"prefix_length": length, "projection": 0, "shift_positions": True}
