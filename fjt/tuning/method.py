"""The declaration of a tuning method: the base parameters that it trains, the leaves it adds, and their hooks."""

import dataclasses
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray, UInt32

from fjt.core.errors import UserError, suggest
from fjt.core.prng import Array
from fjt.core.tree import Tree
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig, Site
from fjt.models.layers import Hooks, Tokens, product, segment_mean
from fjt.models.layers import Site as LayerSite
from fjt.tuning.forms import HubForm, PeftForm

Key = UInt32[Array, "2"]  # raw data of a JAX key
Options = dict[str, Any]  # {key of config.tune: value}
Values = dict[str, Any]  # {name: f32[] or f32[7]} that the step receives as data


# The dense layers that methods can enter, by names that are the same in all families; `Family.sites` says which of them
# a family has. Their order numbers them in what a program reads and in the addresses of dropout, so it never changes.
SITES = ("query", "key", "value", "attention_output", "intermediate", "output", "pooler")

# The places of a layer in the order of computation. A place below the lowest trainable one needs no gradient.
ORDER = {
    "key": 0, "value": 0, "query": 0, "attention": 1, "attention_output": 2, "attention_norm": 3, "intermediate": 4,
    "output": 6, "output_norm": 7,
}  # fmt: skip


Merge = Callable[[np.ndarray, np.ndarray, Tree, Values, str], tuple[np.ndarray, np.ndarray]]
Stages = tuple[tuple[int, Collection[str], float], ...]  # (first step, names that train, factor of the learning rate)


def choose_nothing(names: Sequence[str], layers: int, options: Options) -> set[str]:
    """No base parameter."""
    del names, layers, options
    return set()


def add_nothing(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """No leaf."""
    del key, base, config, options
    return {}


def no_values(options: Options) -> Values:
    """No traced value."""
    del options
    return {}


def no_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """Hooks that change nothing."""
    del leaves, values, options
    return Hooks()


def split_layer(path: str) -> tuple[int | None, str]:
    """(number of the layer with which a path begins, or None; the rest of the path).

    Args:
        path: a path below the encoder or below a method's leaves, such as `layer_0/query/kernel`.
    """
    first, _, rest = path.partition("/")
    number = first.removeprefix("layer_")
    return (int(number), rest) if number != first and number.isdigit() else (None, path)


def layer_place(path: str, layers: int) -> tuple[int, float]:
    """The place (layer, order in it) of a leaf at the site in its name; (layers, 0) for a leaf outside the layers.

    Args:
        path: the leaf's path below its method, such as `layer_0/query/a`.
        layers: number of layers of the encoder.
    """
    layer, rest = split_layer(path)
    return (layers, 0) if layer is None else (layer, ORDER[rest.split("/")[0]])


class Product(NamedTuple):
    """A matrix product that a new leaf adds.

    Attributes:
        site: its place; in the last layer, sites other than key and value see only the first tokens.
        size: number of entries of its kernel.
        needs: whether the gradient of its input is always needed.
        trains: whether its kernel trains.
    """

    site: str
    size: int
    needs: bool
    trains: bool


def no_products(path: str, shape: tuple[int, ...], config: EncoderConfig) -> list[Product]:
    """No matrix product."""
    del path, shape, config
    return []


@dataclasses.dataclass(frozen=True)
class Cost:
    """The part of a method in the law of a step's cost (`cost.py`).  Paths are those below the method.

    Attributes:
        place: (path, layers) -> (layer, order in it) where a new leaf acts; -1 is the layer of the embeddings.
        products: (path, shape, config) -> the products that a trained new leaf adds.
        keys: {path: shape} of the trained leaves -> number of keys that each query sees beyond its row's.
    """

    place: Callable[[str, int], tuple[int, float]] = layer_place
    products: Callable[[str, tuple[int, ...], EncoderConfig], list[Product]] = no_products
    keys: Callable[[dict[str, tuple[int, ...]]], int] = lambda shapes: 0


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to tune.

    Attributes:
        about: one line for `--list`.
        options: the `config.tune` keys that it reads, with their defaults.
        learning_rate: of its recipe.
        weight_decay: of its recipe.
        pooler: whether it trains the pretrained part of the head.
        choose: (names of the encoder, layers, options) -> the base names that train.
        add: (key, base parameters, config, options) -> a nested dict of new leaves.
        fixed: regular expression of the names of new leaves that never train.
        temporary: whether its new leaves act only in training.
        values: options -> {name: number or vector} that the step receives as data.
        hooks: (leaves, values, options) -> Hooks.
        built_in: the options that `hooks` reads, and that are therefore part of the program.
        check: raises UserError for options that do not fit the encoder: (config, options).
        multiplier: (name, layers, options) -> factor of a parameter's learning rate; None for 1.
        idle: (leaves, options) -> number of new values that other options alone use, such as a higher rank.
        merge: (kernel, bias, leaf, values, site) -> (kernel, bias) of an equivalent dense layer, in numpy; leaf has the
            site's new leaves and the fixed ones.  None if there is none.
        size: the option that config.tune.budget solves.
        step: the size is a multiple of this number.
        highest: (config, max_length) -> the largest size.
        cost: its part in the law of a step's cost.
        alone: whether it cannot be combined with another method.
        exclusive: the part of the model that only one method of a run may change; "" for none.
        chooses_all: whether `choose` also sees the names of the head.
        stages: (options, trainable, missing, layers, steps, steps_per_epoch) -> the stages of a run, as
            `partition.stages` returns them; None for one stage.
        prompt_length: options -> number of learned tokens before each example.
        shift: options -> position at which text starts, beyond the learned tokens.
        peft: its form in PEFT's directories, or None.
        adapterhub: its form in AdapterHub's directories, or None.
    """

    about: str
    options: Options
    learning_rate: float
    weight_decay: float = 0.0
    pooler: bool = False
    choose: Callable[[Sequence[str], int, Options], set[str]] = choose_nothing
    add: Callable[[Any, Tree, EncoderConfig, Options], Tree] = add_nothing
    fixed: str = ""
    temporary: bool = False
    values: Callable[[Options], Values] = no_values
    hooks: Callable[[Tree, Values, Options], Hooks] = no_hooks
    built_in: tuple[str, ...] = ()
    check: Callable[[EncoderConfig, Options], None] = lambda config, options: None
    multiplier: Callable[[str, int, Options], float] | None = None
    idle: Callable[[Tree, Options], int] = lambda leaves, options: 0
    merge: Merge | None = None
    size: str | None = None
    step: int = 1
    highest: Callable[[EncoderConfig, int], int] = lambda config, max_length: config.width
    cost: Cost = Cost()
    alone: bool = False
    exclusive: str = ""
    chooses_all: bool = False
    stages: Callable[[Options, Collection[str], Collection[str], int, int, int], Stages] | None = None
    prompt_length: Callable[[Options], int] = lambda options: 0
    shift: Callable[[Options], int] = lambda options: 0
    peft: PeftForm | None = None
    adapterhub: HubForm | None = None


def leaf_key(key: Key, name: str) -> PRNGKeyArray:
    """The JAX key of a new leaf.  It depends on the name alone, so that other leaves do not change it."""
    return jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(key)), zlib.crc32(name.encode()))


def add_gate(key: Key, name: str, width: int) -> dict[str, Float[Array, "..."]]:
    """{kernel f32[D, 1], bias f32[1]} of a gate, drawn as AdapterHub does except for the bias of 0."""
    return {"kernel": 0.02 * jax.random.normal(leaf_key(key, name), (width, 1)), "bias": jnp.zeros(1, jnp.float32)}


def is_gate(name: str) -> bool:
    """Whether a parameter is one of a gate, which reads every token of an example."""
    return "/gate/" in name


def gate(leaf: Tree, x: Float[Array, "G R L D"], tokens: Tokens | None) -> Float[Array, "G R L"]:
    """The gate of each token's example: the mean of sigmoid(x W + b) over its tokens (Mao et al. 2022, section 3.2).

    Args:
        leaf: of `add_gate`.
        x: the input of the gated part.
        tokens: addresses of the tokens.
    """
    assert tokens is not None, "the head has no tokens to gate"
    logits = product(x, leaf["kernel"].astype(x.dtype))[..., 0] + leaf["bias"].astype(x.dtype).reshape(1, 1, 1)
    return segment_mean(jax.nn.sigmoid(logits), tokens)


def check_sites(sites: Sequence[str], valid: Collection[str], method: str) -> None:
    """Checks that a method can enter the sites.

    Args:
        sites: config.tune.sites.
        valid: the sites that the method can enter.
        method: its name, for the message.

    Raises:
        UserError: there is no site, or one that the method cannot enter, or one twice.
    """
    if not sites:
        raise UserError(f"config.tune.sites is empty, so that the method {method} would tune nothing. Name a site.")
    for site in sites:
        if site not in valid:
            raise UserError(f"config.tune.sites names {site!r}, which {method} cannot tune.{suggest(site, valid)}")
    if len(set(sites)) < len(sites):
        raise UserError(f"config.tune.sites={sites} names a site twice.")


def sites_of(config: EncoderConfig) -> dict[str, Site]:
    """{name: Site} of the dense layers that methods can enter, in the order of SITES."""
    found = find_family(config.family).sites(config)
    return {name: found[name] for name in SITES if name in found}


def layer_sites(config: EncoderConfig) -> tuple[str, ...]:
    """The names of the sites that are in each layer."""
    return tuple(name for name, site in sites_of(config).items() if site.in_layers)


def widths(config: EncoderConfig, site: str) -> tuple[int, int]:
    """(input width, output width) of a site."""
    found = sites_of(config)[site]
    return found.inputs, found.outputs


def places(config: EncoderConfig, sites: Iterable[str]) -> list[tuple[str, str]]:
    """[(site, path below a method's leaves)] of the dense layers of sites."""
    shapes, found = sites_of(config), []
    for site in sites:
        parents = [f"layer_{i}/" for i in range(config.layers)] if shapes[site].in_layers else [""]
        found += [(site, f"{parent}{site}") for parent in parents]
    return found


def base_module(path: str) -> str:
    """The module of the base model at a place of `places`: `encoder/layer_0/query` of `layer_0/query`."""
    return f"head/{path}" if split_layer(path)[0] is None else f"encoder/{path}"


def leaf_at(leaves: Tree, site: LayerSite) -> Any:
    """The new leaves of a method at a site, or None."""
    if site.tokens is None:  # in the head
        return leaves.get(site.name)
    return leaves.get(f"layer_{site.layer}", {}).get(site.name)
