"""The layers and embeddings of Devlin et al. 2019, which several families share, and their names in PyTorch."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from fjt.core.declared import flag, ignored, number, optional, text, unset, whole
from fjt.core.prng import Array
from fjt.models.family import EncoderConfig, Site
from fjt.models.heads import Batch
from fjt.models.layers import (
    ACTIVATIONS,
    ATTENTION_OUTPUT,
    OUTPUT,
    Dense,
    Embedding,
    Hooks,
    LayerNorm,
    Noise,
    Tokens,
    attend,
    drop,
    noise_at,
    take_rows,
    take_tokens,
)

STDDEV = 0.02  # of new weights, if config.json has no value
WORDS = "embeddings/word/embedding"
MODULES = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "layer_{i}/query": "encoder.layer.{i}.attention.self.query",
    "layer_{i}/key": "encoder.layer.{i}.attention.self.key",
    "layer_{i}/value": "encoder.layer.{i}.attention.self.value",
    "layer_{i}/attention_output": "encoder.layer.{i}.attention.output.dense",
    "layer_{i}/attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "layer_{i}/intermediate": "encoder.layer.{i}.intermediate.dense",
    "layer_{i}/output": "encoder.layer.{i}.output.dense",
    "layer_{i}/output_norm": "encoder.layer.{i}.output.LayerNorm",
}

# Devices that share a layer have some of its heads and of its inner units each: only what is added to the stream of
# hidden states is summed over them (Shoeybi et al. 2019, Megatron-LM).
_COLUMNS, _ROWS = r"encoder/layer_\d+/(query|key|value|intermediate)", r"encoder/layer_\d+/(attention_output|output)"
SHARDING = (
    (f"{_COLUMNS}/kernel", (None, "model")),
    (f"{_COLUMNS}/bias", ("model",)),
    (f"{_ROWS}/kernel", ("model", None)),
)

RATE = number(0.0, 0.99)  # of dropout, as in fjt's own options
# The keys of a config.json with BERT's names that `parse` reads.
ENTRIES = {
    "num_hidden_layers": whole(1, 1000, needed=True),
    "hidden_size": whole(1, 2**16, needed=True),
    "num_attention_heads": whole(1, 2**16, needed=True),
    "intermediate_size": whole(1, 2**20, needed=True),
    "vocab_size": whole(1, 10**8, needed=True),
    "max_position_embeddings": whole(1, 10**7, needed=True),
    "type_vocab_size": whole(1, 10**4),
    "layer_norm_eps": number(0.0, 1.0),
    "hidden_act": text(),
    "initializer_range": number(0.0, 100.0),
    "hidden_dropout_prob": RATE,
    "attention_probs_dropout_prob": RATE,
    "classifier_dropout": optional(RATE),
    "pad_token_id": optional(whole(0, 10**8)),
    "add_cross_attention": unset("fjt fine-tunes encoders."),
    "pruned_heads": unset("fjt has no pruned heads."),
    "use_cache": flag(),
    "chunk_size_feed_forward": ignored(),
    "gradient_checkpointing": ignored(),
    "tie_word_embeddings": ignored(),
    "directionality": ignored(),  # these and the next ones are left in the configs of the first BERTs
    "pooler_fc_size": ignored(),
    "pooler_num_attention_heads": ignored(),
    "pooler_num_fc_layers": ignored(),
    "pooler_size_per_head": ignored(),
    "pooler_type": ignored(),
}


def sites(config: EncoderConfig) -> dict[str, Site]:
    """{name: Site} of the dense layers of a `PostNormLayer`."""
    width, inner = config.width, config.inner
    square = dict.fromkeys(("query", "key", "value", "attention_output"), Site(width, width))
    return square | {"intermediate": Site(width, inner), "output": Site(inner, width)}


def parse(raw: dict[str, Any], **others: Any) -> EncoderConfig:
    """EncoderConfig of a config.json whose entries have BERT's names.

    Args:
        raw: the config.json.
        others: fields that the family knows better; `family` among them.

    Raises:
        KeyError: an entry is missing.
    """
    hidden, classifier = raw.get("hidden_dropout_prob", 0.1), raw.get("classifier_dropout")
    fields = dict(
        layers=raw["num_hidden_layers"],
        width=raw["hidden_size"],
        heads=raw["num_attention_heads"],
        inner=raw["intermediate_size"],
        vocab=raw["vocab_size"],
        positions=raw["max_position_embeddings"],
        types=raw.get("type_vocab_size", 2),
        epsilon=raw.get("layer_norm_eps", 1e-12),
        activation=raw.get("hidden_act", "gelu"),
        stddev=raw.get("initializer_range", STDDEV),
        dropout_hidden=hidden,
        dropout_attention=raw.get("attention_probs_dropout_prob", 0.1),
        dropout_classifier=hidden if classifier is None else classifier,
    )
    return EncoderConfig(**(fields | others))


def describe(config: EncoderConfig) -> dict[str, Any]:
    """The entries of a config.json for an EncoderConfig, under BERT's names: the inverse of `parse`."""
    return {
        "model_type": config.family,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.types,
        "layer_norm_eps": config.epsilon,
        "hidden_act": config.activation,
        "initializer_range": config.stddev,
        "hidden_dropout_prob": config.dropout_hidden,
        "attention_probs_dropout_prob": config.dropout_attention,
        "classifier_dropout": config.dropout_classifier,
    }


class PostNormLayer(nn.Module):
    """One transformer layer, LayerNorm after each sublayer (Vaswani et al. 2017; Devlin et al. 2019)."""

    config: EncoderConfig
    index: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "G R L D"],
        tokens: Tokens,
        first: Int[Array, "G S"] | None,
        noise: Noise | None,
        hooks: Hooks,
    ) -> Float[Array, "G rows tokens D"]:
        """The layer's output f[G, R, L, D], or f[G, S, 1, D] at the tokens `first` if they are given.

        The output of one token needs the keys and values of all tokens, but only its own query and feed-forward layer.

        Args:
            h: the layer's input.
            tokens: addresses of the tokens.
            first: row * L + column of the tokens at the slots.
            noise: dropout of the layer.
            hooks: of the tuning methods.
        """
        config = self.config

        def dense(site: str, x: Array, features: int) -> Array:
            made = Dense(features, site, self.index, config.stddev, self.dtype, name=site)
            return made(x, hooks, noise, tokens)

        head_shape = (config.heads, config.width // config.heads)
        k = dense("key", h, config.width)
        v = dense("value", h, config.width)
        k, v = hooks.key_value(self.index, k.reshape(*h.shape[:-1], *head_shape), v.reshape(*h.shape[:-1], *head_shape))
        keys, gate = tokens, hooks.key_gate(self.index, h, tokens)
        if first is not None:
            row = first // h.shape[2]
            h, tokens = take_tokens(h, first), Tokens(*(take_tokens(x, first) for x in tokens.arrays()))
            k, v = take_rows(k, row), take_rows(v, row)
            noise = noise and noise_at(noise, first)
            keys = Tokens(*(take_rows(x, row) for x in keys.arrays()))
        q = dense("query", h, config.width).reshape(*h.shape[:-1], *head_shape)
        a = attend(q, k, v, tokens, keys, noise, gate).reshape(h.shape)
        a = drop(dense("attention_output", a, config.width), noise, ATTENTION_OUTPUT)
        norm = LayerNorm(config.epsilon, self.dtype, name="attention_norm")
        h = norm(hooks.block("attention_output", self.index, a, h, norm, tokens) + h)
        f = ACTIVATIONS[config.activation](dense("intermediate", h, config.inner))
        f = drop(dense("output", f, config.width), noise, OUTPUT)
        norm = LayerNorm(config.epsilon, self.dtype, name="output_norm")
        return norm(hooks.block("output", self.index, f, h, norm, tokens) + h)


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, normalised."""

    config: EncoderConfig
    dtype: jnp.dtype

    def rows(self, batch: Batch, hooks: Hooks) -> Int[Array, "G R L"]:
        """The row of each token in the table of positions."""
        return batch["position_ids"] + self.config.first_position + hooks.first_position

    @nn.compact
    def __call__(self, batch: Batch, hooks: Hooks) -> Float[Array, "G R L D"]:
        config = self.config

        def table(rows: int, name: str) -> Embedding:
            return Embedding(rows, config.width, config.stddev, self.dtype, name=name)

        words = hooks.embed(table(config.vocab, "word")(batch["token_ids"]), batch)
        h = words + table(config.positions, "position")(self.rows(batch, hooks))
        if config.types:
            types = batch["type_ids"] if config.types > 1 else jnp.zeros_like(batch["type_ids"])
            h = h + table(config.types, "type")(types)
        return LayerNorm(config.epsilon, self.dtype, name="norm")(h)
