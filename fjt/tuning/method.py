"""What a tuning method is: which base parameters it trains, which leaves it adds, and how these enter the encoder."""

import dataclasses
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjt.core.errors import UserError, suggest
from fjt.models.layers import Hooks, product, segment_mean

# The dense layers of an encoder, by names that no family changes; all but the pooler are in each of its layers.
SITES = ("query", "key", "value", "attention_output", "intermediate", "output", "pooler")


def choose_nothing(names, layers, options):
    """No base parameter."""
    del names, layers, options
    return set()


def add_nothing(key, base, config, options):
    """No leaf."""
    del key, base, config, options
    return {}


def no_values(options):
    """No traced value."""
    del options
    return {}


def no_hooks(leaves, values, options):
    """Nothing enters the encoder."""
    del leaves, values, options
    return Hooks()


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to tune.

    about: a line for `--list`; options: the `config.tune` keys it reads, with their defaults.
    learning_rate, weight_decay: its recipe; pooler: whether it trains the pretrained pooler.
    choose(names, layers, options) -> the base names that train, of the encoder's without its pooler.
    add(key, base, config, options) -> a nested dict of new leaves; base: the base parameters.
    fixed: a regular expression of the names of those new leaves that never train; the others do.
    temporary: whether its new leaves act in training alone.
    values(options) -> {name: number or vector} of what the step receives as data.
    hooks(leaves, values, options) -> Hooks.  built_in: the options that it reads, so that they are part of the program.
    check(config, options): raises UserError for options that do not fit the encoder.
    multiplier(name, layers, options) -> of the rate, for a parameter's name; None: 1 for all.
    size: the option that config.tune.budget solves, a multiple of step; highest(config, max_length): as far as it goes.
    idle(leaves, options) -> how many of its new values are there for other options alone, such as a higher rank.
    merge(kernel, bias, leaf, values, site) -> (kernel, bias) of a plain dense layer that does the same, in numpy;
    leaf: the site's new leaves and the fixed ones.  None: there is none.
    """

    about: str
    options: dict
    learning_rate: float
    weight_decay: float = 0.0
    pooler: bool = False
    choose: Callable = choose_nothing
    add: Callable = add_nothing
    fixed: str = ""
    temporary: bool = False
    values: Callable = no_values
    hooks: Callable = no_hooks
    built_in: tuple = ()
    check: Callable = lambda config, options: None
    multiplier: Callable | None = None
    idle: Callable = lambda leaves, options: 0
    merge: Callable | None = None
    size: str | None = None
    step: int = 1
    highest: Callable = lambda config, max_length: config.width


def leaf_key(key, name):
    """The JAX key of a new leaf: of its name alone, so that no other leaf moves it.  key: u32[2]."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), zlib.crc32(name.encode()))


def add_gate(key, name, width):
    """{kernel f32[D, 1], bias f32[1]} of a gate, drawn as AdapterHub does but for the bias of 0."""
    return {"kernel": 0.02 * jax.random.normal(leaf_key(key, name), (width, 1)), "bias": jnp.zeros(1, jnp.float32)}


def gate(leaf, x, tokens):
    """f[G, R, L]: the gate of each token's example, sigmoid(x W + b) in the mean over its tokens (Mao et al. 2022,
    section 3.2).  leaf: of `add_gate`; x: f[G, R, L, D], what the gated part reads."""
    logits = product(x, leaf["kernel"].astype(x.dtype))[..., 0] + leaf["bias"].astype(x.dtype).reshape(1, 1, 1)
    return segment_mean(jax.nn.sigmoid(logits), tokens)


def check_sites(sites, valid, method):
    """Raises UserError for no site at all and for one that a method cannot enter."""
    if not sites:
        raise UserError(f"config.tune.sites is empty: the method {method} would tune nothing.")
    for site in sites:
        if site not in valid:
            raise UserError(f"config.tune.sites names {site!r}, which {method} cannot tune.{suggest(site, valid)}")
    if len(set(sites)) < len(sites):
        raise UserError(f"config.tune.sites={sites} names a site twice.")


def widths(config, site):
    """(input width, output width) of a site."""
    return (config.inner if site == "output" else config.width), (
        config.inner if site == "intermediate" else config.width
    )


def places(config, sites):
    """[(site, path below the encoder)] of the dense layers that sites name."""
    found = []
    for site in sites:
        if site == "pooler":
            found.append((site, "pooler"))
        else:
            found += [(site, f"layer_{i}/{site}") for i in range(config.layers)]
    return found


def leaf_at(leaves, site):
    """The new leaves of a Site among a method's, or None."""
    if site.name == "pooler":
        return leaves.get("pooler")
    return leaves.get(f"layer_{site.layer}", {}).get(site.name)
