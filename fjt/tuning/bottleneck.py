"""Bottleneck adapters after the sublayers: Houlsby's, Pfeiffer's, the parallel one, and Compacter.

Defaults of reduction, activation, scale and LayerNorm are those of AdapterHub's configs double_seq_bn, seq_bn, par_bn
and compacter (adapters 1.3).  Learning rates are measured here (`fjt.experiment.recipes`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fjt.core import tree
from fjt.core.errors import UserError, suggest
from fjt.core.prng import Array
from fjt.core.tree import Tree
from fjt.models.encoder import EncoderConfig
from fjt.models.layers import ACTIVATIONS, Hooks, product
from fjt.tuning.bottleneck_forms import hub_form
from fjt.tuning.method import (
    Cost,
    Key,
    Method,
    Options,
    Product,
    Values,
    add_gate,
    gate,
    is_gate,
    layer_place,
    leaf_key,
    split_layer,
)

STDDEV = 0.02  # of the down-projection, as AdapterHub draws it
PARTS = 4  # n of Compacter: number of Kronecker products whose sum is a kernel


def inner_width(config: EncoderConfig, options: Options) -> int:
    """The bottleneck's width: bottleneck_width if it is given, else the encoder's width over the reduction."""
    return options["bottleneck_width"] or int(config.width / options["reduction"] + 1e-6)


def _check(config: EncoderConfig, options: Options) -> None:
    if options["activation"] not in ACTIVATIONS:
        hint = suggest(options["activation"], ACTIVATIONS)
        raise UserError(f"config.tune.activation={options['activation']!r} is unknown.{hint}")
    width = inner_width(config, options)
    if not 1 <= width:
        raise UserError(
            f"config.tune.reduction={options['reduction']} leaves no bottleneck of the width {config.width}."
        )
    if width > config.width:
        given = "bottleneck_width" if options["bottleneck_width"] else "reduction"
        raise UserError(
            f"config.tune.{given}={options[given]:g} gives a bottleneck of {width}, above the encoder's width "
            f"{config.width}."
        )


def _add(name: str, places: Sequence[str]) -> Callable[[Any, Tree, EncoderConfig, Options], Tree]:
    def add(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
        del base
        width = inner_width(config, options)

        def adapter(path: str) -> Tree:
            down = STDDEV * jax.random.normal(leaf_key(key, path), (config.width, width))
            gated = {"gate": add_gate(key, f"{path}/gate", config.width)} if options["gating"] else {}
            return gated | {
                "down": {"kernel": down, "bias": jnp.zeros(width, jnp.float32)},
                "up": {"kernel": jnp.zeros((width, config.width)), "bias": jnp.zeros(config.width, jnp.float32)},
            }

        return {
            f"layer_{i}": {place: adapter(f"{name}/layer_{i}/{place}") for place in places}
            for i in range(config.layers)
        }

    return add


def _check_compacter(config: EncoderConfig, options: Options) -> None:
    _check(config, options)
    width = inner_width(config, options)
    for name, size in (("the encoder's width", config.width), ("the bottleneck", width)):
        if size % PARTS:
            raise UserError(
                f"config.tune.method=compacter: {name}, {size}, should be a multiple of {PARTS}; give "
                f"config.tune.reduction or config.tune.bottleneck_width."
            )


def _add_compacter(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """The rule f32[n, n, n] of all layers, and each kernel's factors left f32[n, D/n, 1] and right f32[n, 1, F/n]."""
    del base
    width = inner_width(config, options)

    def glorot(name: str, *shape: int) -> Float[Array, "..."]:
        bound = math.sqrt(6.0 / (shape[1] + shape[2]))
        return jax.random.uniform(leaf_key(key, f"compacter/{name}"), shape, minval=-bound, maxval=bound)

    def adapter(path: str) -> Tree:
        down = {
            "left": glorot(f"{path}/down/left", PARTS, config.width // PARTS, 1),
            "right": glorot(f"{path}/down/right", PARTS, 1, width // PARTS),
            "bias": jnp.zeros(width, jnp.float32),
        }
        up = {
            "left": glorot(f"{path}/up/left", PARTS, width // PARTS, 1),
            "right": jnp.zeros((PARTS, 1, config.width // PARTS), jnp.float32),
            "bias": jnp.zeros(config.width, jnp.float32),
        }
        return {"down": down, "up": up}

    layers = {
        f"layer_{i}": {place: adapter(f"layer_{i}/{place}") for place in ("attention_output", "output")}
        for i in range(config.layers)
    }
    rule = 0.01 * jax.random.normal(leaf_key(key, "compacter/rule"), (PARTS, PARTS, PARTS))
    return layers | {"rule": rule}


def _composed(leaves: Tree) -> Tree:
    """Compacter's leaves as kernels: the sum of rule_i x (left_i right_i) (Karimi Mahabadi et al. 2021, section 3)."""

    def kernel(dense: Tree) -> Tree:
        if "left" not in dense:
            return {name: kernel(inner) for name, inner in dense.items()}
        parts = jnp.einsum("iab,ixr,iry->axby", leaves["rule"], dense["left"], dense["right"])
        rows, columns = parts.shape[0] * parts.shape[1], parts.shape[2] * parts.shape[3]
        return {"kernel": parts.reshape(rows, columns), "bias": dense["bias"]}

    return kernel({name: layer for name, layer in leaves.items() if name != "rule"})


def _through(leaf: Tree, h: Float[Array, "*place D"], activation: str) -> Float[Array, "*place D"]:
    """up(activation(down(h)))."""

    def dense(x: Array, layer: Tree) -> Array:
        bias = layer["bias"].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return product(x, layer["kernel"].astype(x.dtype)) + bias

    return dense(ACTIVATIONS[activation](dense(h, leaf["down"])), leaf["up"])


def _block(
    made: Callable[[Tree], Tree] = lambda leaves: leaves, beside: bool = False
) -> Callable[[Tree, Values, Options], Hooks]:
    """A function that makes Hooks, which add scale * adapter(x), gated if it has a gate, to a sublayer's output h.

    Args:
        made: leaves -> leaves with kernels.
        beside: whether x is the sublayer's input; otherwise x is h, or with options["adapter_norm"] the output of the
            sublayer's LayerNorm.
    """

    def hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
        leaves = made(leaves)

        def block(name: str, layer: int, h: Array, residual: Array, norm: Callable[[Any], Any], tokens: Any) -> Array:
            leaf = leaves.get(f"layer_{layer}", {}).get(name)
            if leaf is None:
                return h
            scale = values["scale"].astype(h.dtype) if "scale" in values else 1.0
            x = residual if beside else norm(h + residual) if options.get("adapter_norm") else h
            if "gate" in leaf:
                scale = scale * gate(leaf["gate"], x, tokens)[..., None]
            return h + scale * _through(leaf, x, options["activation"])

        gated = any(is_gate(name) for name in tree.flatten(leaves))
        return Hooks(block=block, every_token=gated)

    return hooks


def _place(path: str, layers: int) -> tuple[int, float]:
    """After the sublayer's dense layer, and before its LayerNorm."""
    layer, order = layer_place(path, layers)
    return layer, order + 0.5 * (layer < layers)


def _products(path: str, shape: tuple[int, ...], config: EncoderConfig) -> list[Product]:
    """Both kernels of an adapter, counted at the bias of its down-projection, which has the bottleneck's width."""
    site, _, last = split_layer(path)[1].partition("/")
    if last != "down/bias":
        return []
    size = config.width * shape[0]
    return [Product(site, size, needs=False, trains=True), Product(site, size, needs=True, trains=True)]


_COST = Cost(_place, _products)
# Compacter's kernels in AdapterHub's config: shared rules of PARTS square matrices, kernels of rank 1.
_KRONECKER = {
    "phm_dim": PARTS, "phm_rank": 1, "phm_bias": True, "learn_phm": True, "shared_phm_rule": True,
    "shared_W_phm": False, "factorized_phm_rule": False, "factorized_phm_W": True,
}  # fmt: skip


def _facts(attention: bool, parallel: bool = False, kronecker: bool = False, **others: Any) -> dict[str, Any]:
    """The entries of AdapterHub's config that distinguish bottlenecks.  attention: whether one follows attention."""
    return {"mh_adapter": attention, "is_parallel": parallel, "phm_layer": kronecker} | others


_SIZE = {"reduction": 16.0, "bottleneck_width": 0}
_GATED = _SIZE | {"gating": False}

METHODS = {
    "houlsby": Method(
        "an adapter after attention and after the feed-forward layer (Houlsby et al. 2019)",
        _GATED | {"activation": "swish", "adapter_norm": False}, learning_rate=2e-4, check=_check, cost=_COST,
        size="bottleneck_width", add=_add("houlsby", ("attention_output", "output")), hooks=_block(),
        built_in=("activation", "adapter_norm"), adapterhub=hub_form(inner_width, _facts(True), norm=True),
    ),
    "pfeiffer": Method(
        "an adapter after the feed-forward layer, which reads what its LayerNorm would give (Pfeiffer et al. 2021)",
        _GATED | {"activation": "relu", "adapter_norm": True}, learning_rate=2e-4, check=_check, cost=_COST,
        size="bottleneck_width", add=_add("pfeiffer", ("output",)), hooks=_block(),
        built_in=("activation", "adapter_norm"), adapterhub=hub_form(inner_width, _facts(False), norm=True),
    ),
    "parallel": Method(
        "a scaled adapter beside the feed-forward layer (He et al. 2022)",
        _GATED | {"reduction": 2.0, "activation": "relu", "adapter_scale": 4.0}, learning_rate=1e-5, check=_check,
        cost=_COST,
        add=_add("parallel", ("output",)), hooks=_block(beside=True),
        built_in=("activation",),
        values=lambda options: {"scale": options["adapter_scale"]}, size="bottleneck_width",
        adapterhub=hub_form(inner_width, _facts(False, parallel=True, original_ln_before=False), scale=True),
    ),
    "compacter": Method(
        "Houlsby's adapters with kernels that are sums of Kronecker products (Karimi Mahabadi et al. 2021)",
        _SIZE | {"reduction": 32.0, "activation": "gelu"}, learning_rate=1e-3, check=_check_compacter, cost=_COST,
        add=_add_compacter, hooks=_block(_composed),
        built_in=("activation",), size="bottleneck_width", step=PARTS,
        adapterhub=hub_form(inner_width, _facts(True, kronecker=True, original_ln_before=False), _KRONECKER),
    ),
}  # fmt: skip
