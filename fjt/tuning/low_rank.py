"""Methods inside the dense layers: LoRA, DoRA, VeRA and IA3.

Defaults: LoRA's rank 8 on query and value is that of its paper's RoBERTa runs on GLUE; alpha 16 and dropout 0.1 are
those of PEFT's example of sequence classification, and DoRA has the same.  VeRA's rank 256 is its paper's for
RoBERTa-large and its start 0.1 is PEFT's; IA3's sites are its paper's.  Learning rates are measured here
(`fjt.experiment.recipes`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.prng import Array
from fjt.core.tree import Tree
from fjt.models import layers
from fjt.models.family import EncoderConfig
from fjt.models.layers import Hooks, Site, drop_at, product, wide
from fjt.tuning import low_rank_forms as forms
from fjt.tuning.low_rank_forms import IA3_INPUTS, site_ranks
from fjt.tuning.method import (
    ORDER,
    SITES,
    Cost,
    Key,
    Method,
    Options,
    Product,
    Values,
    add_gate,
    base_module,
    check_sites,
    gate,
    is_gate,
    layer_place,
    layer_sites,
    leaf_at,
    leaf_key,
    places,
    sites_of,
    split_layer,
    widths,
)

Vector = Float[Array, "*place D"]  # inputs or outputs of a dense layer
Kernel = Float[np.ndarray, "D F"]
Bias = Float[np.ndarray, " F"]


WIDEST = 4  # VeRA's rank is at most this multiple of the encoder's width
FEATURES = 1 << 20  # distance between the dropout features of two sites


def _check_lora(method: str) -> Callable[[EncoderConfig, Options], None]:
    def check(config: EncoderConfig, options: Options) -> None:
        check_sites(options["sites"], sites_of(config), method)
        if options.get("gating") and (outside := set(options["sites"]) - set(layer_sites(config))):
            raise UserError(
                f"config.tune.gating: the {min(outside)} reads one vector per example, and has no tokens to gate."
            )
        sites, ranks = options["sites"], options["ranks"]
        if ranks and len(ranks) != len(sites):
            raise UserError(
                f"config.tune.ranks={ranks} should be {len(sites)} ranks, for the sites {', '.join(sites)}."
            )
        given = f"config.tune.ranks={ranks}" if ranks else f"config.tune.rank={options['rank']}"
        if not all(type(rank) is int and rank >= 1 for rank in site_ranks(options).values()):
            raise UserError(f"{given} should be whole numbers of at least 1.")
        most = options["max_rank"]
        for site, rank in site_ranks(options).items():
            widest = min(widths(config, site))
            if max(rank, most) > widest:
                raise UserError(
                    f"{given} (config.tune.max_rank={most}) should be between 1 and {widest}, the width of {site}."
                )
            if most and rank > most:
                raise UserError(f"{given} should be between 1 and config.tune.max_rank={most}.")

    return check


def _init_a(key: Key, name: str, width: int, rank: int) -> Float[Array, "D r"]:
    """A uniform in +-1/sqrt(D), as PEFT draws it; each column by its own number, so that a rank is a prefix of a
    higher rank."""
    bound = 1.0 / math.sqrt(width)
    keys = jax.vmap(lambda column: jax.random.fold_in(leaf_key(key, name), column))(jnp.arange(rank))
    return jax.vmap(lambda k: jax.random.uniform(k, (width,), minval=-bound, maxval=bound), out_axes=1)(keys)


def _add_lora(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    del base
    ranks, leaves = site_ranks(options), {}
    for site, path in places(config, options["sites"]):
        (width, out), rank = widths(config, site), options["max_rank"] or ranks[site]
        leaves[f"{path}/a"] = _init_a(key, f"lora/{path}/a", width, rank)
        leaves[f"{path}/b"] = jnp.zeros((rank, out), jnp.float32)
        if options.get("gating"):
            leaves[f"{path}/gate"] = add_gate(key, f"lora/{path}/gate", width)
    return tree.unflatten(leaves)


def _idle_lora(leaves: Tree, options: Options) -> int:
    """Number of values in the columns of A and the rows of B above the rank, under options["max_rank"]."""
    ranks, flat = site_ranks(options), tree.flatten(leaves)
    return sum(
        (leaf.shape[1] - ranks[name.split("/")[-2]]) * (leaf.shape[0] + flat[f"{name[:-1]}b"].shape[1])
        for name, leaf in flat.items()
        if name.endswith("/a")
    )


def _add_dora(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    leaves, kernels = tree.flatten(_add_lora(key, base, config, options)), tree.flatten(base)
    for _, path in places(config, options["sites"]):
        leaves[f"{path}/magnitude"] = column_norm(jnp.asarray(kernels[f"{base_module(path)}/kernel"]))
    return tree.unflatten(leaves)


def column_norm(kernel: Float[Array, "D F"]) -> Float[Array, " F"]:
    """The norm of each output's weights."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(wide(kernel.dtype))), axis=0))


def _lora_values(options: Options) -> Values:
    """Rank and scale by site, f32[7] each in the order of SITES, and the dropout rate.

    The scale is alpha / r (Hu et al. 2022, section 4.1), or alpha / sqrt(r), rank-stabilised (Kalajdzievski 2023).
    """
    ranks = site_ranks(options)
    ranks = np.array([ranks.get(site, 1) for site in SITES], np.float32)
    scale = options["alpha"] / (np.sqrt(ranks) if options["rank_stabilized"] else ranks)
    return {"scale": scale, "dropout": options["dropout"], "rank": ranks}


def _low(leaf: Tree, values: Values, site: Site) -> tuple[Float[Array, "D r"], Float[Array, "r F"]]:
    """(A with 0 in its columns from the site's rank on, B times its scale) in the dtype of the computation."""
    number, dtype = SITES.index(site.name), site.kernel.dtype
    inside = jnp.arange(leaf["a"].shape[1]) < values["rank"][number]
    a = jnp.where(inside[None], leaf["a"], 0.0)
    return a.astype(dtype), (leaf["b"] * values["scale"][number]).astype(dtype)


def _update(leaf: Tree, values: Values, site: str) -> Kernel:
    """s A B up to the site's rank, in float64."""
    rank, scale = (values[name][SITES.index(site)] for name in ("rank", "scale"))
    a, b = leaf["a"][:, : int(rank)], leaf["b"][: int(rank)]
    return np.float64(scale) * (np.asarray(a, np.float64) @ np.asarray(b, np.float64))


def _products_lora(path: str, shape: tuple[int, ...], config: EncoderConfig) -> list[Product]:
    """The products with A and with B; a site's dropout reads the input, so only B always passes a gradient on."""
    del config
    site, _, last = split_layer(path)[1].partition("/")
    return [Product(site, shape[0] * shape[1], needs=last == "b", trains=True)] if last in ("a", "b") else []


def _merge_lora(kernel: Kernel, bias: Bias, leaf: Tree, values: Values, site: str) -> tuple[Kernel, Bias]:
    if "gate" in leaf:
        raise UserError("Gated LoRA cannot be merged into the base model: its update depends on the example.")
    return kernel + _update(leaf, values, site), bias


def _merge_dora(kernel: Kernel, bias: Bias, leaf: Tree, values: Values, site: str) -> tuple[Kernel, Bias]:
    moved = kernel + _update(leaf, values, site)
    return moved * (leaf["magnitude"] / np.sqrt(np.sum(np.square(moved), axis=0))), bias


def _merge_ia3(kernel: Kernel, bias: Bias, leaf: Tree, values: Values, site: str) -> tuple[Kernel, Bias]:
    if site in IA3_INPUTS:
        return leaf["scale"][:, None] * kernel, bias
    return kernel * leaf["scale"], bias * leaf["scale"]


def _with_dropout(site: Site, x: Vector, values: Values) -> Vector:
    number = SITES.index(site.name)
    return drop_at(x, site.noise, layers.METHODS, FEATURES * number, values["dropout"])


def _through(
    site: Site, x: Vector, a: Float[Array, "D r"], b: Float[Array, "r F"], values: Values
) -> Float[Array, "*place F"]:
    """(x A) B with dropout on x."""
    return product(product(_with_dropout(site, x, values), a), b)


def _where_leaves_are(leaves: Tree, function: Callable[[Any, Site, Array, Array], Array]) -> Callable[..., Array]:
    """A `linear` hook: function(leaf, site, x, y) at the sites that have leaves, y elsewhere."""

    def linear(site: Site, x: Array, y: Array) -> Array:
        leaf = leaf_at(leaves, site)
        return y if leaf is None else function(leaf, site, x, y)

    return linear


def _lora_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """y + s (x A) B, dropout on x (Hu et al. 2022, equation 3); a gate replaces s (Mao et al. 2022, 3.2)."""
    del options

    def update(leaf: Tree, site: Site, x: Array, y: Array) -> Array:
        if "gate" not in leaf:
            return y + _through(site, x, *_low(leaf, values, site), values)
        plain = values | {"scale": jnp.ones_like(values["scale"])}
        return y + gate(leaf["gate"], x, site.tokens)[..., None] * _through(site, x, *_low(leaf, plain, site), values)

    gated = any(is_gate(name) for name in tree.flatten(leaves))
    return Hooks(linear=_where_leaves_are(leaves, update), every_token=gated)


def _dora_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """m (W + s A B) / |W + s A B| in place of W, the norm of each output not differentiated (Liu et al. 2024, 4.3)."""
    del options

    def turn(leaf: Tree, site: Site, x: Array, y: Array) -> Array:
        a, b = _low(leaf, values, site)
        norm = jax.lax.stop_gradient(column_norm(site.kernel + product(a, b)))
        ratio = (leaf["magnitude"] / norm).astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        bias = site.bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return ratio * (y - bias + _through(site, x, a, b, values)) + bias

    return Hooks(linear=_where_leaves_are(leaves, turn))


def _check_vera(config: EncoderConfig, options: Options) -> None:
    check_sites(options["sites"], sites_of(config), "vera")
    if options["rank"] > WIDEST * config.width:
        raise UserError(
            f"config.tune.rank={options['rank']} should be at most {WIDEST * config.width}, {WIDEST} times the "
            "encoder's width."
        )
    if not options["vera_start"]:
        raise UserError("config.tune.vera_start=0 would keep both scales at 0: each is the other's gradient.")


def _add_vera(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """A f32[D, r] and B f32[r, F] of the widest site, drawn once for all sites; d f32[r] and b f32[F] of each site.

    Kaiming-uniform draws, as PEFT's.
    """
    del base
    rank, sites = options["rank"], [widths(config, site) for site in options["sites"]]

    def draw(name: str, shape: tuple[int, int], fan_in: int) -> Float[Array, "rows columns"]:
        bound = math.sqrt(6.0 / fan_in)
        return jax.random.uniform(leaf_key(key, f"vera/{name}"), shape, minval=-bound, maxval=bound)

    width, out = (max(side) for side in zip(*sites, strict=True))
    leaves = {"a": draw("a", (width, rank), width), "b": draw("b", (rank, out), rank)}
    for site, path in places(config, options["sites"]):
        leaves[f"{path}/inner"] = jnp.full(rank, options["vera_start"], jnp.float32)
        leaves[f"{path}/outer"] = jnp.zeros(widths(config, site)[1], jnp.float32)
    return tree.unflatten(leaves)


def _vera_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """y + b * ((d * (x A)) B), A and B fixed and cut to the site's widths (Kopiczko et al. 2024, equation 2)."""
    del options

    def update(leaf: Tree, site: Site, x: Array, y: Array) -> Array:
        a, b = leaves["a"][: site.kernel.shape[0]], leaves["b"][:, : site.kernel.shape[1]]
        inner = scaled(product(_with_dropout(site, x, values), a.astype(x.dtype)), leaf["inner"])
        return y + scaled(product(inner, b.astype(x.dtype)), leaf["outer"])

    return Hooks(linear=_where_leaves_are(leaves, update))


def _products_vera(path: str, shape: tuple[int, ...], config: EncoderConfig) -> list[Product]:
    """The products with the shared A and B, which never train, counted at a site's inner scale f32[r]."""
    site, _, last = split_layer(path)[1].partition("/")
    if last != "inner":
        return []
    width, out = widths(config, site)
    return [
        Product(site, width * shape[0], needs=False, trains=False),
        Product(site, shape[0] * out, needs=True, trains=False),
    ]


def _merge_vera(kernel: Kernel, bias: Bias, leaf: Tree, values: Values, site: str) -> tuple[Kernel, Bias]:
    a, b = leaf["a"][: kernel.shape[0]] * np.float64(leaf["inner"]), leaf["b"][:, : kernel.shape[1]]
    return kernel + a @ (b * np.float64(leaf["outer"])), bias


def scaled(x: Vector, scale: Float[Array, " D"]) -> Vector:
    """x times scale, feature by feature."""
    return x * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _add_ia3(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    del key, base
    leaves = {}
    for site, path in places(config, options["sites"]):
        width, out = widths(config, site)
        leaves[f"{path}/scale"] = jnp.ones(width if site in IA3_INPUTS else out, jnp.float32)
    return tree.unflatten(leaves)


def _place_ia3(path: str, layers: int) -> tuple[int, float]:
    """Before the product whose input is scaled, and at the product whose output is scaled."""
    layer, order = layer_place(path, layers)
    # An input is scaled just before its product: after the attention, or after the feed-forward activation.
    before = {"attention_output": ORDER["attention"], "output": ORDER["output"] - 1}
    return layer, before.get(split_layer(path)[1].split("/")[0], order)


def _ia3_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """Keys, values and the inner activations scaled by feature (Liu et al. 2022, section 3.3)."""
    del values, options

    def enter(site: Site, x: Array) -> Array:
        leaf = leaf_at(leaves, site)
        return x if leaf is None or site.name not in IA3_INPUTS else scaled(x, leaf["scale"])

    def linear(site: Site, x: Array, y: Array) -> Array:
        del x
        leaf = leaf_at(leaves, site)
        return y if leaf is None or site.name in IA3_INPUTS else scaled(y, leaf["scale"])

    return Hooks(enter=enter, linear=linear)


_PLACE = "kernels"  # of the dense layers, which at most one method of a run may update
_LORA = {
    "sites": ("query", "value"), "rank": 8, "ranks": (), "max_rank": 0, "alpha": 16.0, "dropout": 0.1,
    "rank_stabilized": False,
}  # fmt: skip

METHODS = {
    "lora": Method(
        "low-rank updates of dense layers, W + s A B (Hu et al. 2022)", _LORA | {"gating": False}, learning_rate=5e-4,
        add=_add_lora, values=_lora_values, hooks=_lora_hooks, check=_check_lora("lora"), idle=_idle_lora,
        merge=_merge_lora, size="rank", cost=Cost(products=_products_lora), exclusive=_PLACE,
        peft=forms.PEFT_LORA, adapterhub=forms.HUB_LORA,
    ),
    "dora": Method(
        "low-rank updates of the direction of dense layers, their magnitude apart (Liu et al. 2024)", _LORA,
        learning_rate=5e-4, add=_add_dora, values=_lora_values, hooks=_dora_hooks, check=_check_lora("dora"),
        idle=_idle_lora, merge=_merge_dora, size="rank", cost=Cost(products=_products_lora),
        exclusive=_PLACE, peft=forms.PEFT_DORA,
    ),
    "vera": Method(
        "scales of one fixed random low-rank update that all dense layers share (Kopiczko et al. 2024)",
        {"sites": ("query", "value"), "rank": 256, "dropout": 0.0, "vera_start": 0.1}, learning_rate=4e-3,
        add=_add_vera, fixed="[ab]", values=lambda options: {"dropout": options["dropout"]}, hooks=_vera_hooks,
        check=_check_vera, merge=_merge_vera, size="rank", highest=lambda config, max_length: WIDEST * config.width,
        cost=Cost(products=_products_vera), exclusive=_PLACE, peft=forms.PEFT_VERA,
    ),
    "ia3": Method(
        "keys, values and inner activations scaled by feature (Liu et al. 2022)",
        {"sites": ("key", "value", "output")}, learning_rate=5e-3, add=_add_ia3, hooks=_ia3_hooks,
        check=lambda config, options: check_sites(options["sites"], sites_of(config), "ia3"), merge=_merge_ia3,
        cost=Cost(place=_place_ia3), peft=forms.PEFT_IA3, adapterhub=forms.HUB_IA3,
    ),
}  # fmt: skip
