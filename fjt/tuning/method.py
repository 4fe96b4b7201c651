"""What a tuning method is: which base parameters it trains, which leaves it adds, and how these enter the encoder."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjt.core.errors import UserError, suggest
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig, Site
from fjt.models.layers import Hooks, product, segment_mean
from fjt.tuning.forms import HubForm, PeftForm

# The dense layers that methods can enter, by names that are the same in all families; `Family.sites` says which of them
# a family has. Their order numbers them in what a program reads and in the addresses of dropout, so it never changes.
SITES = ("query", "key", "value", "attention_output", "intermediate", "output", "pooler")

# Where a token passes in a layer, in order. A place below the lowest trainable one needs no gradient.
ORDER = {
    "key": 0, "value": 0, "query": 0, "attention": 1, "attention_output": 2, "attention_norm": 3, "intermediate": 4,
    "output": 6, "output_norm": 7,
}  # fmt: skip


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


def split_layer(path: str) -> tuple[int | None, str]:
    """The number of the layer that a path begins with, None where it begins with no layer, and the rest of the path.

    Args:
        path: a path below the encoder or below a method's leaves, such as `layer_0/query/kernel`.
    """
    first, _, rest = path.partition("/")
    number = first.removeprefix("layer_")
    return (int(number), rest) if number != first and number.isdigit() else (None, path)


def layer_place(path: str, layers: int) -> tuple[int, float]:
    """The place (layer, order in it) of a leaf at the site after which it is named; (layers, 0) for one of no layer.

    Args:
        path: the leaf's path below its method, such as `layer_0/query/a`.
        layers: the number of layers of the encoder.
    """
    layer, rest = split_layer(path)
    return (layers, 0) if layer is None else (layer, ORDER[rest.split("/")[0]])


class Product(NamedTuple):
    """A matrix product that a new leaf adds.

    site: where it is; in the last layer, sites other than key and value see only the first tokens.
    size: the number of entries of its kernel.
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
    """The part of a method in the law of a step's cost (`cost.py`).

    place(path, layers) -> (layer, order in it): where a new leaf acts; -1 is the layer of the embeddings.
    products(path, shape, config) -> [Product] that a trained new leaf adds.
    keys(shapes) -> the number of keys that each query sees beyond its row's; shapes: {path: shape} of trained leaves.
    Paths are those below the method.
    """

    place: Callable[[str, int], tuple[int, float]] = layer_place
    products: Callable[[str, tuple[int, ...], EncoderConfig], list[Product]] = no_products
    keys: Callable[[dict[str, tuple[int, ...]]], int] = lambda shapes: 0


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to tune.

    about: a line for `--list`; options: the `config.tune` keys it reads, with their defaults.
    learning_rate, weight_decay: its recipe; pooler: whether it trains what is pretrained of the head.
    choose(names, layers, options) -> the base names that train, of the encoder's.
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
    cost: its part in the law of a step's cost.
    alone: whether no other method can be combined with it.
    exclusive: the part of the model that it changes, where only one method of a run may change it; "": several may.
    chooses_all: whether `choose` also sees the names of the head.
    stages(options, trainable, missing, layers, steps, steps_per_epoch) -> the stages of a run, as
    `partition.stages` returns them.  None: one stage.
    prompt_length(options) -> the number of learned tokens before each example.
    shift(options) -> the position at which text starts, beyond the learned tokens.
    peft, adapterhub: its form in the directories of these libraries.  None: they have none.
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
    cost: Cost = Cost()
    alone: bool = False
    exclusive: str = ""
    chooses_all: bool = False
    stages: Callable | None = None
    prompt_length: Callable[[dict], int] = lambda options: 0
    shift: Callable[[dict], int] = lambda options: 0
    peft: PeftForm | None = None
    adapterhub: HubForm | None = None


def leaf_key(key, name):
    """The JAX key of a new leaf: of its name alone, so that no other leaf moves it.  key: u32[2]."""
    return jax.random.fold_in(jax.random.wrap_key_data(key), zlib.crc32(name.encode()))


def add_gate(key, name, width):
    """{kernel f32[D, 1], bias f32[1]} of a gate, drawn as AdapterHub does but for the bias of 0."""
    return {"kernel": 0.02 * jax.random.normal(leaf_key(key, name), (width, 1)), "bias": jnp.zeros(1, jnp.float32)}


def is_gate(name: str) -> bool:
    """Whether a parameter is one of a gate, which reads every token of an example."""
    return "/gate/" in name


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


def sites_of(config: EncoderConfig) -> dict[str, Site]:
    """{name: Site} of the dense layers that methods can enter, in the order of SITES."""
    found = find_family(config.family).sites(config)
    return {name: found[name] for name in SITES if name in found}


def layer_sites(config: EncoderConfig) -> tuple[str, ...]:
    """The names of the sites that are in each layer."""
    return tuple(name for name, site in sites_of(config).items() if site.in_layers)


def widths(config, site):
    """(input width, output width) of a site."""
    found = sites_of(config)[site]
    return found.inputs, found.outputs


def places(config, sites):
    """[(site, path below a method's leaves)] of the dense layers that sites name."""
    shapes, found = sites_of(config), []
    for site in sites:
        parents = [f"layer_{i}/" for i in range(config.layers)] if shapes[site].in_layers else [""]
        found += [(site, f"{parent}{site}") for parent in parents]
    return found


def base_module(path: str) -> str:
    """The module of the base model at a place of `places`: `encoder/layer_0/query` of `layer_0/query`."""
    return f"head/{path}" if split_layer(path)[0] is None else f"encoder/{path}"


def leaf_at(leaves, site):
    """The new leaves of a Site of `layers.py` among a method's, or None."""
    if site.tokens is None:  # in the head
        return leaves.get(site.name)
    return leaves.get(f"layer_{site.layer}", {}).get(site.name)
