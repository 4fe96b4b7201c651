"""Bottleneck adapters in AdapterHub's directories; PEFT has none."""

import math
import re
from collections.abc import Callable
from typing import Any

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.torch_names import LEAVES
from fjt.tuning import hub_entries
from fjt.tuning.forms import HubForm, Module, Tensors, check_entries, no_place

DENSE = {"down": "adapter_down.0", "up": "adapter_up", "gate": "gate"}
PHM = {"left": "W_left", "right": "W_right", "bias": "b"}  # Compacter's leaves
# The entries that are the same for all.
PLAIN = {
    "output_adapter": True, "original_ln_after": True, "residual_before_ln": True, "adapter_residual_before_ln": False,
    "ln_before": False, "ln_after": False, "inv_adapter": None, "inv_adapter_reduction_factor": None,
    "cross_adapter": False, "leave_out": [], "dropout": 0.0,
}  # fmt: skip
FACTS = ("mh_adapter", "is_parallel", "original_ln_before", "phm_layer", "scaling")


def _block(module, path):
    """The PyTorch module that holds a sublayer's adapters: the parent of its dense layer."""
    return module(path).removesuffix(".dense")


def hub_form(
    inner_width: Callable, facts: dict, fixed: dict | None = None, norm: bool = False, scale: bool = False
) -> HubForm:
    """AdapterHub's form of a bottleneck adapter.

    Args:
        inner_width: inner_width(config, options) -> the bottleneck's width.
        facts: {entry: value} by which the config is told from those of the other bottlenecks.
        fixed: the entries of Compacter's kernels, where they are Kronecker products; None: they are plain.
        norm: whether the option adapter_norm is read, and scale: whether adapter_scale is.
    """
    names = LEAVES if fixed is None else PHM
    expected = PLAIN | (fixed or {})

    def accepts(own: dict) -> bool:
        return all(own.get(key, False) == value for key, value in facts.items()) and (
            scale or own.get("scaling", 1.0) == 1.0
        )

    def write(leaves: dict, options: dict, config: EncoderConfig, module: Module, name: str) -> tuple[Tensors, dict]:
        tensors = {}
        for path, leaf in tree.flatten(leaves).items():
            if path == "rule":
                prefix = find_family(config.family).prefix
                tensors[f"{prefix}.shared_parameters.{name}.phm_rule"] = leaf
                continue
            layer, block, part, last = path.split("/")
            key = f"{_block(module, f'{layer}/{block}')}.adapters.{name}.{DENSE[part]}"
            tensors[f"{key}.{names[last]}"] = leaf.T if fixed is None else leaf
        return tensors, facts | expected | {
            "reduction_factor": _factor(config.width, inner_width(config, options)),
            "non_linearity": options["activation"],
            "scaling": options.get("adapter_scale", 1.0),
            "init_weights": "bert",
            "use_gating": options.get("gating", False),
            "original_ln_before": options.get("adapter_norm", False),
        }

    def read(own: dict, tensors: Tensors, config: EncoderConfig, module: Module) -> tuple[dict, Tensors]:
        check_entries(own, expected)
        blocks = [f"layer_{i}/{place}" for i in range(config.layers) for place in ("attention_output", "output")]
        leaves = _leaves(tensors, {_block(module, block): block for block in blocks})
        width = next((len(leaf) for path, leaf in leaves.items() if path.endswith("down/bias")), 0)
        if not width or (fixed is not None) != ("rule" in leaves):
            raise UserError("its tensors are not a whole adapter.")
        _check_factor(own.get("reduction_factor"), config.width, width)
        options = {"reduction": config.width / width, "bottleneck_width": 0, "activation": own["non_linearity"]}
        options |= {"adapter_norm": bool(own.get("original_ln_before"))} if norm else {}
        return options | ({"adapter_scale": float(own["scaling"])} if scale else {}), leaves

    return HubForm(
        "bottleneck",
        r"\.(adapters|shared_parameters)\.",
        accepts,
        write,
        read,
        facts=FACTS,
        entries=hub_entries.BOTTLENECK,
    )


def _factor(width: int, inner: int) -> float:
    """The largest factor for which AdapterHub's `int(width // factor)` is the bottleneck's width."""
    factor = width / inner
    return factor if width // factor == inner else math.nextafter(factor, 0.0)


def _check_factor(factor: Any, width: int, inner: int) -> None:
    """Raises UserError where a reduction_factor gives no bottleneck of this width; one per layer is not compared."""
    if isinstance(factor, int | float) and inner not in (width // factor, round(width / factor)):
        raise UserError(f"reduction_factor={factor} of {width} is not the width of its tensors, {inner}.")


def _leaves(tensors, blocks):
    """{path: leaf} of an adapter's tensors.  blocks: {PyTorch module: path}."""
    leaves, parts = {}, {key: part for part, key in DENSE.items()}
    lasts = {"weight": "kernel", "bias": "bias"} | {key: last for last, key in PHM.items()}
    for key, tensor in tensors.items():
        if re.fullmatch(r".*\.shared_parameters\.[^.]+\.phm_rule", key):
            leaves["rule"] = tensor
            continue
        found = re.fullmatch(rf"(.*)\.adapters\.[^.]+\.({'|'.join(parts)})\.({'|'.join(lasts)})", key)
        if not found or found.group(1) not in blocks:
            raise no_place(key)
        block, part, last = found.groups()
        leaves[f"{blocks[block]}/{parts[part]}/{lasts[last]}"] = tensor.T if last == "weight" else tensor
    return leaves
