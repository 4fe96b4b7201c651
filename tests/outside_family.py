"""A family of encoders from outside the package: DistilBERT (Sanh et al. 2019), as PyTorch `transformers` has it.

`register_distilbert()` makes it known; after that any directory whose `model_type` is distilbert trains, predicts and
is exported. Its layers are BERT's under other names; it has no types of tokens, and a head of two dense layers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjt.models import blocks, families
from fjt.models.family import EncoderConfig, Family, Head, Site
from fjt.models.heads import drop_slots
from fjt.models.layers import Dense, Hooks


class PreClassifierHead(nn.Module):
    """Logits f[G, S, C] of the vectors f[G, S, D] at the slots: a dense layer with ReLU, dropout, a dense layer."""

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h, batch, noise, hooks):
        def dense(features, name):
            return Dense(features, name, -1, self.config.stddev, self.dtype, name=name)

        h = jax.nn.relu(dense(self.config.width, "pre_classifier")(h, Hooks()))
        return dense(self.classes, "classifier")(drop_slots(h, batch, noise), Hooks())


def parse(raw):
    """EncoderConfig of a config.json, whose entries have names of their own."""
    return EncoderConfig(
        family="distilbert",
        layers=raw["n_layers"],
        width=raw["dim"],
        heads=raw["n_heads"],
        inner=raw["hidden_dim"],
        vocab=raw["vocab_size"],
        positions=raw["max_position_embeddings"],
        types=0,
        epsilon=1e-12,
        activation=raw.get("activation", "gelu"),
        stddev=raw.get("initializer_range", 0.02),
        dropout_hidden=raw.get("dropout", 0.1),
        dropout_attention=raw.get("attention_dropout", 0.1),
        dropout_classifier=raw.get("seq_classif_dropout", 0.2),
    )


def describe(config):
    """The entries of a config.json: the inverse of `parse`."""
    return {
        "model_type": config.family,
        "n_layers": config.layers,
        "dim": config.width,
        "n_heads": config.heads,
        "hidden_dim": config.inner,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.positions,
        "activation": config.activation,
        "initializer_range": config.stddev,
        "dropout": config.dropout_hidden,
        "attention_dropout": config.dropout_attention,
        "seq_classif_dropout": config.dropout_classifier,
    }


def sites(config):
    """{name: Site} of the layers and of the head's first dense layer."""
    return blocks.sites(config) | {"pre_classifier": Site(config.width, config.width, in_layers=False)}


LAYER = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
    "attention_output": "attention.out_lin", "attention_norm": "sa_layer_norm", "intermediate": "ffn.lin1",
    "output": "ffn.lin2", "output_norm": "output_layer_norm",
}  # fmt: skip
DISTILBERT = Family(
    name="distilbert",
    parse=parse,
    describe=describe,
    embeddings=blocks.Embeddings,
    block=blocks.PostNormLayer,
    sites=sites,
    prefix="distilbert",
    modules={name: module for name, module in blocks.MODULES.items() if name.startswith("embeddings/")}
    | {f"layer_{{i}}/{ours}": f"transformer.layer.{{i}}.{theirs}" for ours, theirs in LAYER.items()},
    heads={
        "sequence": Head(
            PreClassifierHead,
            {"pre_classifier": "pre_classifier", "classifier": "classifier"},
            "DistilBertForSequenceClassification",
        )
    },
    tokenizer=(("tokenizer.json",), ("vocab.txt",)),
)


def register_distilbert():
    """Makes the family known to fjt."""
    families.register(DISTILBERT)
