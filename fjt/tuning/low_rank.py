"""Methods inside the dense layers: LoRA, DoRA, VeRA and IA3.

Defaults: LoRA's rank 8 on query and value is that of its paper's RoBERTa runs on GLUE, alpha 16 and dropout 0.1 are
those of PEFT's example of sequence classification, and DoRA takes the same; VeRA's rank 256 and start 0.1 are PEFT's
and its paper's for RoBERTa-large; IA3's sites are its paper's.  Rates are measured here (`fjt.experiment.recipes`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.models import layers
from fjt.models.layers import Hooks, drop_at, product, wide
from fjt.tuning import low_rank_forms as forms
from fjt.tuning.low_rank_forms import IA3_INPUTS, site_ranks
from fjt.tuning.method import (
    ORDER,
    SITES,
    Cost,
    Method,
    Product,
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

WIDEST = 4  # VeRA's rank is at most so many times the encoder's width
FEATURES = 1 << 20  # between the dropout features of one site and the next one's


def _check_lora(method):
    def check(config, options):
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
            raise UserError(f"{given} should be whole numbers from 1 up.")
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


def _init_a(key, name, width, rank):
    """f32[D, r]: uniform in +-1/sqrt(D), as PEFT draws it; each column by its own number, so a rank is a prefix of a
    higher one."""
    bound = 1.0 / math.sqrt(width)
    keys = jax.vmap(lambda column: jax.random.fold_in(leaf_key(key, name), column))(jnp.arange(rank))
    return jax.vmap(lambda k: jax.random.uniform(k, (width,), minval=-bound, maxval=bound), out_axes=1)(keys)


def _add_lora(key, base, config, options):
    del base
    ranks, leaves = site_ranks(options), {}
    for site, path in places(config, options["sites"]):
        (width, out), rank = widths(config, site), options["max_rank"] or ranks[site]
        leaves[f"{path}/a"] = _init_a(key, f"lora/{path}/a", width, rank)
        leaves[f"{path}/b"] = jnp.zeros((rank, out), jnp.float32)
        if options.get("gating"):
            leaves[f"{path}/gate"] = add_gate(key, f"lora/{path}/gate", width)
    return tree.unflatten(leaves)


def _idle_lora(leaves, options):
    """Values of the columns of A and the rows of B above the rank, under options["max_rank"]."""
    ranks, flat = site_ranks(options), tree.flatten(leaves)
    return sum(
        (leaf.shape[1] - ranks[name.split("/")[-2]]) * (leaf.shape[0] + flat[f"{name[:-1]}b"].shape[1])
        for name, leaf in flat.items()
        if name.endswith("/a")
    )


def _add_dora(key, base, config, options):
    leaves, kernels = tree.flatten(_add_lora(key, base, config, options)), tree.flatten(base)
    for _, path in places(config, options["sites"]):
        leaves[f"{path}/magnitude"] = column_norm(jnp.asarray(kernels[f"{base_module(path)}/kernel"]))
    return tree.unflatten(leaves)


def column_norm(kernel):
    """f[F]: the norm of each output's weights.  kernel: f[D, F]."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel.astype(wide(kernel.dtype))), axis=0))


def _lora_values(options):
    """Rank and scale by site, f32[7] each in the order of SITES, and the rate of dropout.

    The scale is alpha / r (Hu et al. 2022, section 4.1), or alpha / sqrt(r), rank-stabilised (Kalajdzievski 2023).
    """
    ranks = site_ranks(options)
    ranks = np.float32([ranks.get(site, 1) for site in SITES])
    scale = options["alpha"] / (np.sqrt(ranks) if options["rank_stabilized"] else ranks)
    return {"scale": scale, "dropout": options["dropout"], "rank": ranks}


def _low(leaf, values, site):
    """(A with its columns from the site's rank on set to 0, B times its scale) in the dtype of the computation."""
    number, dtype = SITES.index(site.name), site.kernel.dtype
    inside = jnp.arange(leaf["a"].shape[1]) < values["rank"][number]
    a = jnp.where(inside[None], leaf["a"], 0.0)
    return a.astype(dtype), (leaf["b"] * values["scale"][number]).astype(dtype)


def _update(leaf, values, site):
    """f64[D, F]: s A B up to the site's rank."""
    rank, scale = (values[name][SITES.index(site)] for name in ("rank", "scale"))
    return np.float64(scale) * (np.float64(leaf["a"][:, : int(rank)]) @ np.float64(leaf["b"][: int(rank)]))


def _products_lora(path, shape, config):
    """The products with A and with B; a site's dropout reads the input, so only B always passes a gradient on."""
    del config
    site, _, last = split_layer(path)[1].partition("/")
    return [Product(site, shape[0] * shape[1], needs=last == "b", trains=True)] if last in ("a", "b") else []


def _merge_lora(kernel, bias, leaf, values, site):
    if "gate" in leaf:
        raise UserError("Gated LoRA cannot be merged into the base model: what it adds depends on the example.")
    return kernel + _update(leaf, values, site), bias


def _merge_dora(kernel, bias, leaf, values, site):
    moved = kernel + _update(leaf, values, site)
    return moved * (leaf["magnitude"] / np.sqrt(np.sum(np.square(moved), axis=0))), bias


def _merge_ia3(kernel, bias, leaf, values, site):
    if site in IA3_INPUTS:
        return leaf["scale"][:, None] * kernel, bias
    return kernel * leaf["scale"], bias * leaf["scale"]


def _thinned(site, x, values):
    number = SITES.index(site.name)
    return drop_at(x, site.noise, layers.METHODS, FEATURES * number, values["dropout"])


def _through(site, x, a, b, values):
    """(x A) B with dropout on x."""
    return product(product(_thinned(site, x, values), a), b)


def _where_leaves_are(leaves, function):
    """A `linear` hook: function(leaf, site, x, y) at the sites that have leaves, y elsewhere."""

    def linear(site, x, y):
        leaf = leaf_at(leaves, site)
        return y if leaf is None else function(leaf, site, x, y)

    return linear


def _lora_hooks(leaves, values, options):
    """y + s (x A) B, dropout on x (Hu et al. 2022, equation 3); a gate takes the place of s (Mao et al. 2022, 3.2)."""
    del options

    def update(leaf, site, x, y):
        if "gate" not in leaf:
            return y + _through(site, x, *_low(leaf, values, site), values)
        plain = values | {"scale": jnp.ones_like(values["scale"])}
        return y + gate(leaf["gate"], x, site.tokens)[..., None] * _through(site, x, *_low(leaf, plain, site), values)

    gated = any(is_gate(name) for name in tree.flatten(leaves))
    return Hooks(linear=_where_leaves_are(leaves, update), every_token=gated)


def _dora_hooks(leaves, values, options):
    """m (W + s A B) / |W + s A B| in place of W, the norm of each output not differentiated (Liu et al. 2024, 4.3)."""
    del options

    def turn(leaf, site, x, y):
        a, b = _low(leaf, values, site)
        norm = jax.lax.stop_gradient(column_norm(site.kernel + product(a, b)))
        ratio = (leaf["magnitude"] / norm).astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        bias = site.bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return ratio * (y - bias + _through(site, x, a, b, values)) + bias

    return Hooks(linear=_where_leaves_are(leaves, turn))


def _check_vera(config, options):
    check_sites(options["sites"], sites_of(config), "vera")
    if options["rank"] > WIDEST * config.width:
        raise UserError(
            f"config.tune.rank={options['rank']} should be at most {WIDEST * config.width}, {WIDEST} times the "
            "encoder's width."
        )
    if not options["vera_start"]:
        raise UserError("config.tune.vera_start=0 would hold both scales at 0: each is the other's gradient.")


def _add_vera(key, base, config, options):
    """A f32[D, r] and B f32[r, F] of the widest site, drawn once, for all sites; d f32[r] and b f32[F] of each.

    Kaiming-uniform draws, as PEFT's.
    """
    del base
    rank, sites = options["rank"], [widths(config, site) for site in options["sites"]]

    def draw(name, shape, fan_in):
        bound = math.sqrt(6.0 / fan_in)
        return jax.random.uniform(leaf_key(key, f"vera/{name}"), shape, minval=-bound, maxval=bound)

    width, out = (max(side) for side in zip(*sites, strict=True))
    leaves = {"a": draw("a", (width, rank), width), "b": draw("b", (rank, out), rank)}
    for site, path in places(config, options["sites"]):
        leaves[f"{path}/inner"] = jnp.full(rank, options["vera_start"], jnp.float32)
        leaves[f"{path}/outer"] = jnp.zeros(widths(config, site)[1], jnp.float32)
    return tree.unflatten(leaves)


def _vera_hooks(leaves, values, options):
    """y + b * ((d * (x A)) B), A and B fixed, a smaller site's cut from them (Kopiczko et al. 2024, equation 2)."""
    del options

    def update(leaf, site, x, y):
        a, b = leaves["a"][: site.kernel.shape[0]], leaves["b"][:, : site.kernel.shape[1]]
        inner = scaled(product(_thinned(site, x, values), a.astype(x.dtype)), leaf["inner"])
        return y + scaled(product(inner, b.astype(x.dtype)), leaf["outer"])

    return Hooks(linear=_where_leaves_are(leaves, update))


def _products_vera(path, shape, config):
    """The products with the shared A and B, which never train, counted at a site's inner scale f32[r]."""
    site, _, last = split_layer(path)[1].partition("/")
    if last != "inner":
        return []
    width, out = widths(config, site)
    return [
        Product(site, width * shape[0], needs=False, trains=False),
        Product(site, shape[0] * out, needs=True, trains=False),
    ]


def _merge_vera(kernel, bias, leaf, values, site):
    a, b = leaf["a"][: kernel.shape[0]] * np.float64(leaf["inner"]), leaf["b"][:, : kernel.shape[1]]
    return kernel + a @ (b * np.float64(leaf["outer"])), bias


def scaled(x, scale):
    """x f[..., D] times scale f[D], feature by feature."""
    return x * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _add_ia3(key, base, config, options):
    del key, base
    leaves = {}
    for site, path in places(config, options["sites"]):
        width, out = widths(config, site)
        leaves[f"{path}/scale"] = jnp.ones(width if site in IA3_INPUTS else out, jnp.float32)
    return tree.unflatten(leaves)


def _place_ia3(path, layers):
    """Before the product whose input is scaled, and at the product whose output is."""
    layer, order = layer_place(path, layers)
    # An input is scaled just before its product: after the attention, or after the feed-forward activation.
    before = {"attention_output": ORDER["attention"], "output": ORDER["output"] - 1}
    return layer, before.get(split_layer(path)[1].split("/")[0], order)


def _ia3_hooks(leaves, values, options):
    """Keys, values and the inner activations scaled by feature (Liu et al. 2022, section 3.3)."""
    del values, options

    def enter(site, x):
        leaf = leaf_at(leaves, site)
        return x if leaf is None or site.name not in IA3_INPUTS else scaled(x, leaf["scale"])

    def linear(site, x, y):
        del x
        leaf = leaf_at(leaves, site)
        return y if leaf is None or site.name in IA3_INPUTS else scaled(y, leaf["scale"])

    return Hooks(enter=enter, linear=linear)


_PLACE = "kernels"  # of the dense layers: at most one method of a run updates them
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
