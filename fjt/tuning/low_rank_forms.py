"""LoRA, DoRA, VeRA and IA3 in PEFT's and AdapterHub's directories."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.models.encoder import EncoderConfig
from fjt.models.families import find_family
from fjt.models.torch_names import LEAVES
from fjt.tuning import hub_entries
from fjt.tuning.forms import PEFT, HubForm, Module, PeftForm, Tensors, no_place
from fjt.tuning.method import SITES, base_module, places, sites_of

# Sites whose input IA3 scales; it scales the output of the others.
IA3_INPUTS = ("output", "attention_output")
ATTENTION = {"q": "query", "k": "key", "v": "value"}  # AdapterHub's attn_matrices
HUB_LEAVES = {"lora_A": "a", "lora_B": "b", "gate.weight": "gate/kernel", "gate.bias": "gate/bias"}
VERA_SHARED = {"a": "base_model.vera_A", "b": "base_model.vera_B"}
VERA_SITE = {"inner": "vera_lambda_d", "outer": "vera_lambda_b"}
LORA_SITE = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
PEFT_DEFAULT = 8  # r and lora_alpha where an adapter_config.json has none


def site_ranks(options: dict) -> dict[str, int]:
    """{site: rank} of LoRA's options."""
    return dict(zip(options["sites"], options["ranks"] or (options["rank"],) * len(options["sites"]), strict=True))


def peft_pattern(sites: tuple[str, ...], config: EncoderConfig, module: Module) -> str:
    """A regular expression over the whole names of the modules at sites.

    PEFT compares a list of names with the ends of modules' names, by which `output.dense` would find two modules.
    """
    modules = {module(path) for _, path in places(config, sites)}
    return "|".join(sorted({re.sub(r"\d+", r"\\d+", re.escape(name)) for name in modules}))


def peft_sites(placed: dict[tuple[str, str], Any]) -> tuple[str, ...]:
    """The sites of tensors at modules, in the order of SITES.  placed: {(path, leaf): tensor}."""
    found = {path.rsplit("/", 1)[-1] for path, _ in placed}
    return tuple(site for site in SITES if site in found)


def _ends(leaves):
    """{end of a key: leaf}."""
    return {end: leaf for leaf, end in leaves.items()}


def _write_peft_lora(dora):
    def write(leaves: dict, options: dict, config: EncoderConfig, module: Module) -> tuple[Tensors, dict]:
        ranks, tensors = site_ranks(options), {}
        highest = max(ranks.values())
        for path, leaf in tree.flatten(leaves).items():
            place, last = path.rsplit("/", 1)
            rank = ranks[place.rsplit("/", 1)[-1]]
            used = {"a": np.s_[:, :rank], "b": np.s_[:rank], "magnitude": np.s_[:]}[last]
            tensors[f"{PEFT}{module(place)}.{LORA_SITE[last]}"] = leaf[used].T
        lower = {site: rank for site, rank in ranks.items() if rank != highest}
        return tensors, {
            "r": highest,
            "lora_alpha": options["alpha"],
            "lora_dropout": options["dropout"],
            "bias": "none",
            "rank_pattern": {peft_pattern((site,), config, module): rank for site, rank in lower.items()},
            "use_rslora": options["rank_stabilized"],
            "use_dora": dora,
            "fan_in_fan_out": False,
            "target_modules": peft_pattern(options["sites"], config, module),
        }

    return write


def _peft_rank(about: dict, module: str) -> int:
    """The rank of a module by PEFT's rule: the first pattern that matches the end of its name, or r."""
    patterns = (about.get("rank_pattern") or {}).items()
    found = (rank for pattern, rank in patterns if re.fullmatch(rf"(.*\.)?({pattern})", module))
    return next(found, about.get("r", PEFT_DEFAULT))


def _read_peft_lora(about, placed, whole, config):
    del whole
    found, trained = {}, {}
    for (path, last), tensor in placed.items():
        leaf = tensor.T if last in ("a", "b") else tensor.reshape(-1)
        trained[f"{path}/{last}"] = leaf
        if last == "a":
            module = find_family(config.family).torch_module(base_module(path))
            if leaf.shape[1] != (rank := _peft_rank(about, module)):
                raise UserError(
                    f"the tensors of {module} are of rank {leaf.shape[1]}, but its config says {rank} (r and "
                    "rank_pattern)."
                )
            found.setdefault(path.rsplit("/", 1)[-1], set()).add(leaf.shape[1])
    for site, several in found.items():
        if len(several) > 1:
            raise UserError(f"the layers of {site} have different ranks, {sorted(several)}; here a site has one.")
    sites = peft_sites(placed)
    ranks = [min(found[site]) for site in sites]
    return {
        "sites": sites,
        **({"rank": ranks[0], "ranks": ()} if len(set(ranks)) == 1 else {"ranks": tuple(ranks)}),
        "max_rank": 0,
        "alpha": float(about.get("lora_alpha", PEFT_DEFAULT)),
        "dropout": float(about.get("lora_dropout", 0.0)),
        "rank_stabilized": bool(about.get("use_rslora")),
    }, trained


def _write_peft_vera(leaves, options, config, module):
    tensors = {}
    for path, leaf in tree.flatten(leaves).items():
        place, _, last = path.rpartition("/")
        tensors[f"{PEFT}{module(place)}.{VERA_SITE[last]}" if place else VERA_SHARED[last]] = leaf.T
    return tensors, {
        "r": options["rank"],
        "vera_dropout": options["dropout"],
        "d_initial": options["vera_start"],
        "save_projection": True,
        "projection_prng_key": 0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": peft_pattern(options["sites"], config, module),
    }


def _read_peft_vera(about, placed, whole, config):
    del config
    if set(whole) != set(VERA_SHARED.values()):
        raise UserError(
            "its random projections were not saved, and another generator drew them; save the adapter again with "
            "save_projection=True."
        )
    trained = {f"{path}/{last}": tensor.reshape(-1) for (path, last), tensor in placed.items()}
    return {
        "sites": peft_sites(placed),
        "rank": about["r"],
        "dropout": float(about.get("vera_dropout", 0.0)),
        "vera_start": float(about.get("d_initial", 0.1)),
    }, trained | {leaf: whole[key].T for leaf, key in VERA_SHARED.items()}


def _write_peft_ia3(leaves, options, config, module):
    tensors = {}
    for path, leaf in tree.flatten(leaves).items():
        place = path.rsplit("/", 1)[0]
        shape = (1, -1) if place.rsplit("/", 1)[-1] in IA3_INPUTS else (-1, 1)
        tensors[f"{PEFT}{module(place)}.ia3_l"] = leaf.reshape(shape)
    inputs = tuple(site for site in options["sites"] if site in IA3_INPUTS)
    return tensors, {
        "target_modules": peft_pattern(options["sites"], config, module),
        "feedforward_modules": peft_pattern(inputs, config, module) if inputs else [],
    }


def _read_peft_ia3(about, placed, whole, config):
    del about, whole, config
    trained = {}
    for (path, last), tensor in placed.items():
        site = path.rsplit("/", 1)[-1]
        if tensor.shape[0 if site in IA3_INPUTS else 1] != 1:
            raise UserError(f"ia3_l of {path} scales {site} at its other side, which is not supported.")
        trained[f"{path}/{last}"] = tensor.reshape(-1)
    return {"sites": peft_sites(placed)}, trained


def _refuse_sites(method: str, allowed: tuple[str, ...]) -> Callable[[dict], str | None]:
    """refuse(options) for sites that AdapterHub's form of a method does not reach."""

    def refuse(options: dict) -> str | None:
        others = [site for site in options.get("sites", ()) if site not in allowed]
        return f"AdapterHub's {method} does not reach {others[0]}" if others else None

    return refuse


_lora_sites = _refuse_sites("lora", ("query", "key", "value", "intermediate", "output"))


def _refuse_hub_lora(options):
    if options["rank_stabilized"]:
        return "AdapterHub has no rank-stabilised LoRA"
    if len(set(options["ranks"])) > 1:
        return "AdapterHub's LoRA has one rank for all sites (config.tune.ranks)"
    return _lora_sites(options)


def _hub_config(options: dict, rank: int, mode: str, start: str) -> dict:
    """The "config" of AdapterHub's LoRA, which IA3 is a kind of there.

    Args:
        options: the method's.
        rank: 1 for IA3.
        mode: `composition_mode`, add or scale.
        start: `init_weights`.
    """
    sites = options["sites"]
    return {
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
        "composition_mode": mode,
        "init_weights": start,
        "use_dora": False,
    }


def _write_hub_lora(leaves, options, config, module, name):
    del config
    rank, tensors = max(site_ranks(options).values()), {}
    for path, leaf in tree.flatten(leaves).items():
        place, last = path.rsplit("/", 1)
        key = f"{module(place.removesuffix('/gate'))}.loras.{name}"
        if place.endswith("/gate"):
            tensors[f"{key}.gate.{LEAVES[last]}"] = leaf.T
        elif last == "a":
            tensors[f"{key}.lora_A"] = leaf[:, :rank].T
        else:
            tensors[f"{key}.lora_B"] = leaf[:rank].T
    return tensors, _hub_config(options, rank, "add", "lora")


def _write_hub_ia3(leaves, options, config, module, name):
    del config
    found = {path.rsplit("/", 1)[0]: leaf for path, leaf in tree.flatten(leaves).items()}
    tensors = {f"{module(place)}.loras.{name}.lora_B": leaf[:, None] for place, leaf in found.items()}
    return tensors, _hub_config(options, 1, "scale", "ia3")


def _hub_sites(own: dict) -> set[str]:
    """The sites that the config of AdapterHub's LoRA names; a key that is left out has AdapterHub's default."""
    attention = own.get("attn_matrices", ["q", "v"]) if own.get("selfattn_lora", True) else []
    others = {site for site in ("intermediate", "output") if own.get(f"{site}_lora", False)}
    return others | {ATTENTION.get(key, "") for key in attention}


def _hub_tensors(own: dict, tensors: Tensors, config: EncoderConfig, module: Module) -> dict:
    """{(path, leaf's name in HUB_LEAVES): tensor} of AdapterHub's LoRA.  Raises UserError."""
    if own.get("use_dora") or own.get("vera_d") or own.get("vera_b"):
        raise UserError("AdapterHub's DoRA and VeRA are not supported.")
    modules, placed = {module(path): path for _, path in places(config, sites_of(config))}, {}
    sites = _hub_sites(own)
    for key, tensor in tensors.items():
        found = re.fullmatch(r"(.*)\.loras\.[^.]+\.(lora_[AB]|gate\.weight|gate\.bias)", key)
        if not found or found.group(1) not in modules:
            raise no_place(key)
        if (site := modules[found.group(1)].rsplit("/", 1)[-1]) not in sites:
            raise UserError(f"it has the tensor {key}, but its config leaves out {site}: AdapterHub would not load it.")
        placed[modules[found.group(1)], HUB_LEAVES[found.group(2)]] = tensor
    return placed


def _read_hub_lora(own, tensors, config, module):
    placed = _hub_tensors(own, tensors, config, module)
    return {
        "sites": peft_sites(placed),
        "rank": own["r"],
        "ranks": (),
        "max_rank": 0,
        "alpha": float(own["alpha"]),
        "dropout": float(own.get("dropout", 0.0)),
        "rank_stabilized": False,
    }, {f"{path}/{leaf}": tensor.T for (path, leaf), tensor in placed.items()}


def _read_hub_ia3(own, tensors, config, module):
    placed = _hub_tensors(own, tensors, config, module)
    sites = peft_sites(placed)
    if "output" in sites:
        raise UserError("its output_lora scales the output of layers whose input IA3 scales here: another method.")
    alpha = np.float32(own["alpha"])  # AdapterHub multiplies every scale by it, while LoRA divides it by r
    names = {"b": "scale"}  # a scale is AdapterHub's lora_B of rank 1
    leaves = {f"{path}/{names.get(leaf, leaf)}": alpha * x.reshape(-1) for (path, leaf), x in placed.items()}
    return {"sites": sites}, leaves


def _is_scale(own):
    return own.get("composition_mode") == "scale"


PEFT_LORA = PeftForm(
    "LORA",
    lambda about: about["peft_type"] == "LORA" and not about.get("use_dora"),
    _read_peft_lora,
    _write_peft_lora(False),
    leaves=_ends(LORA_SITE),
)
PEFT_DORA = PeftForm(
    "LORA",
    lambda about: about["peft_type"] == "LORA" and bool(about.get("use_dora")),
    _read_peft_lora,
    _write_peft_lora(True),
    leaves=_ends(LORA_SITE),
)
PEFT_VERA = PeftForm(
    "VERA",
    lambda about: about["peft_type"] == "VERA",
    _read_peft_vera,
    _write_peft_vera,
    leaves=_ends(VERA_SITE),
    keys=tuple(VERA_SHARED.values()),
)
PEFT_IA3 = PeftForm(
    "IA3", lambda about: about["peft_type"] == "IA3", _read_peft_ia3, _write_peft_ia3, leaves={"ia3_l": "scale"}
)
_KEYS = r"\.loras\."
HUB_LORA = HubForm(
    "lora",
    _KEYS,
    lambda own: not _is_scale(own),
    _write_hub_lora,
    _read_hub_lora,
    refuse=_refuse_hub_lora,
    entries=hub_entries.LORA,
)
HUB_IA3 = HubForm(
    "lora",
    _KEYS,
    _is_scale,
    _write_hub_ia3,
    _read_hub_ia3,
    refuse=_refuse_sites("ia3", ("query", "key", "value", "intermediate")),
    entries=hub_entries.LORA,
)
