"""Learned context: prefix tuning (keys and values that every token sees), prompt and P-tuning (tokens before text).

Defaults: 20 keys or tokens and P-tuning's inner width 128 are those of PEFT's examples of sequence classification; a
prefix without an MLP is the form that PEFT saves.  Learning rates are measured here (`fjt.experiment.recipes`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from fjt.core.errors import UserError
from fjt.core.prng import Array
from fjt.core.tree import Tree
from fjt.models.family import EncoderConfig
from fjt.models.layers import Hooks, Tokens, product
from fjt.tuning import prompts_forms as forms
from fjt.tuning.method import Cost, Key, Method, Options, Values, add_gate, gate, leaf_key, split_layer

STDDEV = 0.02


def _room(config: EncoderConfig, max_length: int) -> int:
    """The number of positions that a text of max_length tokens leaves free."""
    return config.max_tokens - max_length


def _add_prefix(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """Keys and values f32[P, H, K] of each layer, or the MLP that computes them (Li & Liang 2021, section 4.3)."""
    del base
    length, hidden = options["prefix_length"], options["projection"]

    def normal(name: str, *shape: int) -> Float[Array, "..."]:
        return STDDEV * jax.random.normal(leaf_key(key, f"prefix/{name}"), shape)

    layers = [f"layer_{i}" for i in range(config.layers)]
    gates = {
        layer: {"gate": add_gate(key, f"prefix/{layer}/gate", config.width)} if options["gating"] else {}
        for layer in layers
    }
    if not hidden:
        shape = length, config.heads, config.width // config.heads
        return {
            layer: gates[layer] | {name: normal(f"{layer}/{name}", *shape) for name in ("key", "value")}
            for layer in layers
        }
    out = 2 * config.layers * config.width
    return {layer: gated for layer, gated in gates.items() if gated} | {
        "embedding": normal("embedding", length, config.width),
        "down": {"kernel": normal("down", config.width, hidden), "bias": jnp.zeros(hidden, jnp.float32)},
        "up": {"kernel": normal("up", hidden, out), "bias": jnp.zeros(out, jnp.float32)},
    }


def prefixes(leaves: Tree, heads: int) -> Tree:
    """{layer_i: {key, value: f[P, H, K]}} of a prefix's leaves, computed by its MLP if it has one.

    Args:
        leaves: of the method `prefix`.
        heads: H of the encoder.
    """
    if "embedding" not in leaves:
        return leaves
    hidden = jnp.tanh(product(leaves["embedding"], leaves["down"]["kernel"]) + leaves["down"]["bias"][None])
    flat = product(hidden, leaves["up"]["kernel"]) + leaves["up"]["bias"][None]
    length, width = leaves["embedding"].shape
    split = flat.reshape(length, -1, 2, heads, width // heads)
    return {f"layer_{i}": {"key": split[:, i, 0], "value": split[:, i, 1]} for i in range(split.shape[1])}


def _shift(options: Options) -> int:
    """The position of the first token of text."""
    return options["prefix_length"] if options["shift_positions"] else 0


def _prefix_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """P keys and values before each row's own, once per row and seen by each segment (Li & Liang 2021)."""
    del values

    def key_value(layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        found = prefixes(leaves, k.shape[3])[f"layer_{layer}"]

        def before(x: Array, own: Array) -> Array:
            x = x.astype(own.dtype)[None, None]
            return jnp.concatenate([jnp.broadcast_to(x, (*own.shape[:2], *x.shape[2:])), own], axis=2)

        return before(found["key"], k), before(found["value"], v)

    def key_gate(layer: int, h: Array, tokens: Tokens) -> Array:
        return gate(leaves[f"layer_{layer}"]["gate"], h, tokens)

    gated = {"key_gate": key_gate, "every_token": True} if "gate" in leaves.get("layer_0", {}) else {}
    return Hooks(key_value=key_value, first_position=_shift(options), **gated)


def _place_prefix(path: str, layers: int) -> tuple[int, float]:
    """The layer of a key, a value or a gate; the lowest layer for the MLP that computes all of them."""
    del layers
    return split_layer(path)[0] or 0, 0


def _keys_prefix(shapes: dict[str, tuple[int, ...]]) -> int:
    """The number of learned keys, from the shape of one key leaf or of the MLP's embedding."""
    return next((shape[0] for path, shape in shapes.items() if path.rsplit("/", 1)[-1] in ("key", "embedding")), 0)


def _add_prompt(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """f32[P, D], drawn from the vectors of the vocabulary (Lester et al. 2021, section 3.2)."""
    table = jnp.asarray(base["encoder"]["embeddings"]["word"]["embedding"])
    rows = jax.random.randint(leaf_key(key, "prompt/embedding"), (options["prompt_length"],), 0, table.shape[0])
    return {"embedding": jnp.take(table, rows, axis=0)}


MLP = ("first", "second", "third")


def _add_p_tuning(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """Vectors f32[P, D] and the MLP that turns them into the prompt, drawn as PEFT does except for biases of 0."""
    del base
    hidden, width = options["projection"], config.width
    leaves: Tree = {
        "embedding": jax.random.normal(leaf_key(key, "p_tuning/embedding"), (options["prompt_length"], width))
    }
    for name, shape in zip(MLP, ((width, hidden), (hidden, hidden), (hidden, width)), strict=True):
        bound = max(1, shape[0]) ** -0.5
        kernel = jax.random.uniform(leaf_key(key, f"p_tuning/{name}"), shape, minval=-bound, maxval=bound)
        leaves[name] = {"kernel": kernel, "bias": jnp.zeros(shape[1], jnp.float32)}
    return leaves


def _check_p_tuning(config: EncoderConfig, options: Options) -> None:
    if not options["projection"]:
        raise UserError(
            "config.tune.projection=0 leaves p_tuning without its MLP; --config.tune.method=prompt has none."
        )


def prompt_table(leaves: Tree) -> Float[Array, "P D"]:
    """The prompt of the leaves of `prompt`, or of `p_tuning` (Liu et al. 2021, section 3; its MLP alone)."""
    x = leaves["embedding"]
    for name in MLP if "first" in leaves else ():
        x = product(x, leaves[name]["kernel"]) + leaves[name]["bias"][None]
        x = x if name == MLP[-1] else jax.nn.relu(x)
    return x


def _prompt_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """The first P tokens of each example are the prompt: their word embeddings are learned."""
    del values, options
    made = prompt_table(leaves)

    def embed(words: Array, batch: dict[str, Any]) -> Array:
        table = made.astype(words.dtype)
        position = batch["position_ids"]
        learned = jnp.take(table, jnp.minimum(position, table.shape[0] - 1), axis=0)
        return jnp.where((position < table.shape[0])[..., None], learned, words)

    return Hooks(embed=embed)


_PROMPT_COST = Cost(place=lambda path, layers: (-1, 0))  # with the embeddings
_PLACE = "tokens"  # before each example, which at most one method of a run may learn

METHODS = {
    "prefix": Method(
        "learned keys and values before each example's own (Li & Liang 2021)",
        {"prefix_length": 20, "projection": 0, "shift_positions": True, "gating": False}, learning_rate=4e-3,
        add=_add_prefix, hooks=_prefix_hooks, built_in=("prefix_length", "shift_positions"),
        size="prefix_length", highest=_room, cost=Cost(place=_place_prefix, keys=_keys_prefix),
        shift=_shift, peft=forms.peft_prefix(prefixes), adapterhub=forms.HUB_PREFIX,
    ),
    "prompt": Method(
        "learned tokens before each example (Lester et al. 2021)", {"prompt_length": 20}, learning_rate=2e-3,
        add=_add_prompt, hooks=_prompt_hooks, size="prompt_length", highest=_room,
        cost=_PROMPT_COST, exclusive=_PLACE, prompt_length=lambda options: options["prompt_length"],
        peft=forms.peft_prompt(prompt_table, mlp=False),
    ),
    "p_tuning": Method(
        "learned tokens before each example, made by an MLP (Liu et al. 2021)",
        {"prompt_length": 20, "projection": 128}, learning_rate=5e-4, check=_check_p_tuning,
        add=_add_p_tuning, hooks=_prompt_hooks, size="prompt_length", highest=_room,
        cost=_PROMPT_COST, exclusive=_PLACE, prompt_length=lambda options: options["prompt_length"],
        peft=forms.peft_prompt(prompt_table, mlp=True),
    ),
}  # fmt: skip
