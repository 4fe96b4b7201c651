"""AdapterHub directories, both ways: adapter_config.json, adapter.safetensors and the head beside them (adapters 1.3).

An adapter's name is part of its tensors' keys; reading takes any.
"""

import os
import re

import numpy as np
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.errors import UserError
from fjt.interop.adapter import Adapter, read_tensors, torch_module
from fjt.models.pretrained import LEAVES, to_torch
from fjt.tuning import low_rank
from fjt.tuning.bottleneck import PARTS, inner_width
from fjt.tuning.method import SITES, places

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", "model_head.safetensors"
VERSION = "adapters.1.3.0"
NAME = "fjt"  # of the adapter in its directory; a name of the reader's own is given when loading

# What a bottleneck's config says, by method; the other keys are the same for all.
BOTTLENECKS = {
    "houlsby": {"mh_adapter": True, "is_parallel": False, "phm_layer": False},
    "pfeiffer": {"mh_adapter": False, "is_parallel": False, "phm_layer": False},
    "parallel": {"mh_adapter": False, "is_parallel": True, "original_ln_before": False, "phm_layer": False},
    "compacter": {"mh_adapter": True, "is_parallel": False, "original_ln_before": False, "phm_layer": True},
}
# What Compacter's config says beside it: shared rules of PARTS square matrices, kernels of rank 1.
COMPACTER = {
    "phm_dim": PARTS, "phm_rank": 1, "phm_bias": True, "learn_phm": True, "shared_phm_rule": True,
    "shared_W_phm": False, "factorized_phm_rule": False, "factorized_phm_W": True,
}  # fmt: skip
PLAIN = {
    "output_adapter": True, "original_ln_after": True, "residual_before_ln": True, "adapter_residual_before_ln": False,
    "ln_before": False, "ln_after": False, "inv_adapter": None, "inv_adapter_reduction_factor": None,
    "cross_adapter": False, "leave_out": [], "dropout": 0.0,
}  # fmt: skip
ATTENTION = {"q": "query", "k": "key", "v": "value"}
DENSE = {"down": "adapter_down.0", "up": "adapter_up", "gate": "gate"}
LORA = {"lora_A": "a", "lora_B": "b", "gate.weight": "gate/kernel", "gate.bias": "gate/bias"}
PHM = {"left": "W_left", "right": "W_right", "bias": "b"}


def refusal(adapter, config):
    """Why AdapterHub cannot hold an Adapter, or None.  config: EncoderConfig."""
    for name, options in adapter.methods.items():
        if reason := _refused(name, options):
            return reason
    if sum(name in BOTTLENECKS for name in adapter.methods) > 1:
        return "fjt writes one bottleneck to an AdapterHub directory"
    if {"lora", "ia3"} <= set(adapter.methods):
        return "AdapterHub keeps lora and ia3 under one name"
    for path in adapter.others():
        if not path.startswith("head/"):
            return f"it has no place for {path}, which was trained"
    return None


def _refused(name, options):
    if name not in (*BOTTLENECKS, "lora", "ia3", "prefix"):
        return f"AdapterHub has no {name} in fjt's sense"
    if name == "lora" and options["rank_stabilized"]:
        return "AdapterHub has no rank-stabilised LoRA"
    if name == "lora" and len(set(options["ranks"])) > 1:
        return "AdapterHub's LoRA has one rank for all sites (config.tune.ranks)"
    allowed = {
        "lora": ("query", "key", "value", "intermediate", "output"),
        "ia3": ("query", "key", "value", "intermediate"),
    }
    for site in options.get("sites", ()):
        if site not in allowed[name]:
            return f"AdapterHub's {name} does not reach {site}"
    if name == "prefix" and options["shift_positions"]:
        return "AdapterHub lets text start at position 0 (config.tune.shift_positions)"
    return None


def write(directory, adapter, config, label_names):
    """Writes an Adapter as AdapterHub's files.  Raises UserError where it cannot hold it."""
    reason = refusal(adapter, config)
    if reason:
        raise UserError(f"No AdapterHub directory can be written: {reason}.")
    tensors, parts = {}, []
    for name, options in adapter.methods.items():
        found, about = _tensors(name, options, adapter.leaves(name), config)
        tensors, parts = tensors | found, [*parts, about]
    about = parts[0] if len(parts) == 1 else {"architecture": "union", "configs": parts}
    common = {
        "model_type": config.family,
        "model_name": adapter.base,
        "model_class": "BertForSequenceClassification",
        "hidden_size": config.width,
        "version": VERSION,
    }
    records.write_json(os.path.join(directory, CONFIG), common | {"name": NAME, "config": about})
    _save(os.path.join(directory, WEIGHTS), tensors)
    head = {
        f"{torch_module(path.rsplit('/', 1)[0], config.family)}.{LEAVES[path.rsplit('/', 1)[1]]}": to_torch(path, leaf)
        for path, leaf in adapter.others().items()
    }
    _save(os.path.join(directory, HEAD_WEIGHTS), head)
    labels = {label: i for i, label in enumerate(label_names or ("score",))}
    records.write_json(
        os.path.join(directory, HEAD_CONFIG),
        common | {"name": None, "config": None, "num_labels": len(labels), "label2id": labels},
    )


def _save(path, tensors):
    tensors = {key: np.ascontiguousarray(x, np.float32) for key, x in tensors.items()}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def _tensors(name, options, leaves, config):
    """({key: tensor}, the "config" of adapter_config.json)."""
    tensors = {}
    if name in BOTTLENECKS:
        compact = name == "compacter"
        for path, leaf in tree.flatten(leaves).items():
            if path == "rule":
                tensors[f"{config.family}.shared_parameters.{NAME}.phm_rule"] = leaf
                continue
            layer, block, part, last = path.split("/")
            key = f"{_block(f'{layer}/{block}', config)}.adapters.{NAME}.{DENSE[part]}"
            tensors[f"{key}.{(PHM if compact else LEAVES)[last]}"] = leaf if compact else leaf.T
        return tensors, BOTTLENECKS[name] | PLAIN | (COMPACTER if compact else {}) | {
            "reduction_factor": config.width / inner_width(config, options),
            "non_linearity": options["activation"],
            "scaling": options.get("adapter_scale", 1.0),
            "init_weights": "bert",
            "use_gating": options.get("gating", False),
            "original_ln_before": options.get("adapter_norm", False),
        }
    if name in ("lora", "ia3"):
        rank = max(low_rank.site_ranks(options).values()) if name == "lora" else 1
        for path, leaf in tree.flatten(leaves).items():
            module, last = path.rsplit("/", 1)
            module = module.removesuffix("/gate")
            key = f"{torch_module(f'encoder/{module}', config.family)}.loras.{NAME}"
            if "gate" in path:
                tensors[f"{key}.gate.{LEAVES[last]}"] = leaf.T
            elif last == "a":
                tensors[f"{key}.lora_A"] = leaf[:, :rank].T
            else:
                tensors[f"{key}.lora_B"] = leaf[:rank].T if last == "b" else leaf[:, None]
        sites = options["sites"]
        return tensors, {
            "architecture": "lora",
            "attn_matrices": [key for key, site in ATTENTION.items() if site in sites],
            "selfattn_lora": any(site in sites for site in ATTENTION.values()),
            "intermediate_lora": "intermediate" in sites,
            "output_lora": "output" in sites,
            "leave_out": [],
            "r": rank,
            "alpha": options.get("alpha", 1),
            "dropout": options.get("dropout", 0.0),
            "use_gating": options.get("gating", False),
            "composition_mode": "add" if name == "lora" else "scale",
            "init_weights": name,
            "use_dora": False,
        }
    prefix = f"bert.prefix_tuning.prefix_tunings.{NAME}.self_prefix"
    for i in range(config.layers) if options["gating"] else ():
        for last, leaf in leaves[f"layer_{i}"]["gate"].items():
            module = torch_module(f"encoder/layer_{i}/query", config.family).removesuffix(".query")
            tensors[f"{module}.prefix_tuning.prefix_gates.{NAME}.{LEAVES[last]}"] = leaf.T
    if options["projection"]:
        tensors[f"{prefix}.wte.weight"] = leaves["embedding"]
        for part, index in (("down", 0), ("up", 2)):
            tensors[f"{prefix}.control_trans.{index}.weight"] = leaves[part]["kernel"].T
            tensors[f"{prefix}.control_trans.{index}.bias"] = leaves[part]["bias"]
    else:
        pairs = [leaves[f"layer_{i}"][kind] for i in range(config.layers) for kind in ("key", "value")]
        tensors[f"{prefix}.control_trans"] = np.stack([np.asarray(x) for x in pairs], axis=1).reshape(-1)
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


def _block(path, config):
    """The PyTorch module that holds a sublayer's adapters: the parent of its dense layer."""
    return torch_module(f"encoder/{path}", config.family).removesuffix(".dense")


def read(directory, config):
    """The Adapter of AdapterHub's files, its head included where there is one.  config: EncoderConfig.

    Raises UserError for what fjt has no method for, and for tensors that do not fit.
    """
    about = records.read_json(os.path.join(directory, CONFIG))
    if not os.path.exists(os.path.join(directory, WEIGHTS)):
        raise UserError(f"{directory} holds no {WEIGHTS}; save the adapter again with use_safetensors=True.")
    tensors = read_tensors(os.path.join(directory, WEIGHTS))
    if about.get("hidden_size", config.width) != config.width:
        raise UserError(
            f"{directory} was trained over an encoder of width {about['hidden_size']}; this model's is {config.width}."
        )
    whole, methods, trained = about["config"], {}, {}
    for own in whole["configs"] if whole.get("architecture") == "union" else [whole]:
        name, options, leaves = _read_part(directory, own, tensors, config)
        methods[name] = options
        trained |= {f"adapters/{name}/{path}": leaf for path, leaf in leaves.items()}
    if tensors:
        raise UserError(f"{directory}: the tensor {min(tensors)} has no place in this model.")
    head = os.path.join(directory, HEAD_WEIGHTS)
    if os.path.exists(head):
        module = torch_module("head/classifier", config.family)
        found = read_tensors(head)
        if set(found) != {f"{module}.weight", f"{module}.bias"}:
            raise UserError(f"{head} holds {', '.join(sorted(found))}; only {module}.weight and .bias have a place.")
        trained |= {
            "head/classifier/kernel": found[f"{module}.weight"].T,
            "head/classifier/bias": found[f"{module}.bias"],
        }
    trained = {path: np.ascontiguousarray(x, np.float32) for path, x in trained.items()}
    labels, config_path = (), os.path.join(directory, HEAD_CONFIG)
    if os.path.exists(config_path):
        ids = records.read_json(config_path).get("label2id") or {}
        labels = tuple(sorted(ids, key=ids.get))
    return Adapter(methods, trained, about.get("model_name") or "", "", "", labels)


def _read_part(directory, own, tensors, config):
    """(method, options, leaves) of one config; its tensors are taken out of those of the file."""
    if own.get("leave_out"):
        raise UserError(f"{directory}: leave_out is not supported.")
    kind = own.get("architecture") or "bottleneck"
    pattern, read_part = PARTS_OF.get(kind, PARTS_OF["bottleneck"])
    part = {key: tensors.pop(key) for key in list(tensors) if re.search(pattern, key)}
    name, options, leaves = read_part(directory, own, part, config)
    if name not in ("ia3", "compacter"):
        options["gating"] = bool(own.get("use_gating"))
    elif own.get("use_gating"):
        raise UserError(f"{directory}: use_gating is not supported for {name}.")
    return name, options, leaves


def _read_bottleneck(directory, own, tensors, config):
    for key, value in (PLAIN | (COMPACTER if own.get("phm_layer") else {})).items():
        if own.get(key, value) != value:
            raise UserError(f"{directory}: {key}={own[key]!r} is not supported, only {value!r}.")
    name = next((n for n, facts in BOTTLENECKS.items() if all(own.get(k, False) == v for k, v in facts.items())), None)
    if name is None or (name != "parallel" and own.get("scaling", 1.0) != 1.0):
        facts = {key: own.get(key) for key in (*BOTTLENECKS["parallel"], "scaling")}
        raise UserError(f"{directory}: no method here puts its bottleneck as {facts} does.")
    modules = {
        _block(f"layer_{i}/{place}", config): f"layer_{i}/{place}"
        for i in range(config.layers)
        for place in ("attention_output", "output")
    }
    leaves = {}
    parts = {key: part for part, key in DENSE.items()}
    lasts = {"weight": "kernel", "bias": "bias"} | {key: last for last, key in PHM.items()}
    for key, tensor in tensors.items():
        if re.fullmatch(r".*\.shared_parameters\.[^.]+\.phm_rule", key):
            leaves["rule"] = tensor
            continue
        found = re.fullmatch(rf"(.*)\.adapters\.[^.]+\.({'|'.join(parts)})\.({'|'.join(lasts)})", key)
        if not found or found.group(1) not in modules:
            raise UserError(f"{directory}: the tensor {key} has no place in this model.")
        module, part, last = found.groups()
        leaves[f"{modules[module]}/{parts[part]}/{lasts[last]}"] = tensor.T if last == "weight" else tensor
    width = next((len(leaf) for path, leaf in leaves.items() if path.endswith("down/bias")), 0)
    if not width or (name == "compacter") != ("rule" in leaves):
        raise UserError(f"{directory}: {WEIGHTS} holds no whole adapter.")
    options = {"reduction": config.width / width, "bottleneck_width": 0, "activation": own["non_linearity"]}
    if name in ("houlsby", "pfeiffer"):
        options["adapter_norm"] = bool(own.get("original_ln_before"))
    return name, options | ({"adapter_scale": float(own["scaling"])} if name == "parallel" else {}), leaves


def _read_lora(directory, own, tensors, config):
    if own.get("use_dora") or own.get("vera_d") or own.get("vera_b"):
        raise UserError(f"{directory}: AdapterHub's DoRA and VeRA are not supported.")
    name = "ia3" if own.get("composition_mode") == "scale" else "lora"
    modules = {torch_module(f"encoder/{path}", config.family): (site, path) for site, path in places(config, SITES)}
    leaves, sites = {}, set()
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.*)\.loras\.[^.]+\.(lora_[AB]|gate\.weight|gate\.bias)", key)
        if not found or found.group(1) not in modules:
            raise UserError(f"{directory}: the tensor {key} has no place in this model.")
        site, path = modules[found.group(1)]
        sites.add(site)
        leaf = LORA[found.group(2)] if name == "lora" or found.group(2) != "lora_B" else "scale"
        leaves[f"{path}/{leaf}"] = tensor.reshape(-1) if leaf == "scale" else tensor.T
    options = {"sites": tuple(site for site in SITES if site in sites)}
    if name == "lora":
        options |= {
            "rank": own["r"],
            "ranks": (),
            "max_rank": 0,
            "alpha": float(own["alpha"]),
            "dropout": float(own.get("dropout", 0.0)),
            "rank_stabilized": False,
        }
    return name, options, leaves


def _read_prefix(directory, own, tensors, config):
    length, leaves = own["prefix_length"], {}
    for key, tensor in tensors.items():
        if found := re.fullmatch(r".*\.layer\.(\d+)\..*\.prefix_gates\.[^.]+\.(weight|bias)", key):
            last = {"weight": "kernel", "bias": "bias"}[found.group(2)]
            leaves[f"layer_{found.group(1)}/gate/{last}"] = tensor.T
    shared = {
        found.group(1): tensor
        for key, tensor in tensors.items()
        if (found := re.fullmatch(r".*\.prefix_tunings\.[^.]+\.self_prefix\.(.*)", key))
    }
    if own.get("flat"):
        flat = shared["control_trans"]
        if flat.size != 2 * length * config.layers * config.width:
            raise UserError(
                f"{directory}: a prefix of {length} in {config.layers} layers of width {config.width} has "
                f"{2 * length * config.layers * config.width:,} numbers; control_trans holds {flat.size:,}."
            )
        flat = flat.reshape(length, config.layers, 2, config.heads, -1)
        for i in range(config.layers):
            leaves[f"layer_{i}/key"], leaves[f"layer_{i}/value"] = flat[:, i, 0], flat[:, i, 1]
        projection = 0
    else:
        if own.get("non_linearity", "tanh") != "tanh":
            raise UserError(f"{directory}: non_linearity={own['non_linearity']!r} is not supported, only tanh.")
        leaves["embedding"] = shared["wte.weight"]
        for part, index in (("down", 0), ("up", 2)):
            leaves[f"{part}/kernel"] = shared[f"control_trans.{index}.weight"].T
            leaves[f"{part}/bias"] = shared[f"control_trans.{index}.bias"]
        projection = own["bottleneck_size"]
    return "prefix", {"prefix_length": length, "projection": projection, "shift_positions": False}, leaves


# Where the tensors of an architecture are, and who reads them.
PARTS_OF = {
    "bottleneck": (r"\.(adapters|shared_parameters)\.", _read_bottleneck),
    "lora": (r"\.loras\.", _read_lora),
    "prefix_tuning": (r"\.prefix_(tunings|gates)\.", _read_prefix),
}
