"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020) as PyTorch `transformers` has them.

The layers are BERT's. Positions start behind the id of padding, one type of token is enough, and the head is new:
dropout and a dense layer with tanh before the last one, without a pretrained pooler.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int

from fjt.core import prng
from fjt.core.declared import whole
from fjt.core.prng import Array
from fjt.models import blocks
from fjt.models.family import EncoderConfig, Family, Head, Site
from fjt.models.heads import Batch, HeadNoise, MaskedHead, PoolerHead, SpanHead, TokenHead, drop_slots
from fjt.models.layers import Dense, Hooks


class DenseHead(nn.Module):
    """Logits of the vectors at the slots: twice dropout and a dense layer, tanh between them."""

    classes: int
    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, h: Float[Array, "G S D"], batch: Batch, noise: HeadNoise, hooks: Hooks) -> Float[Array, "G S C"]:
        def dense(features: int, name: str) -> Dense:
            return Dense(features, name, -1, self.config.stddev, self.dtype, name=name)

        h = jnp.tanh(dense(self.config.width, "dense")(drop_slots(h, batch, noise), Hooks()))
        again = noise and (prng.fold(noise[0], 1), noise[1])
        return dense(self.classes, "out_proj")(drop_slots(h, batch, again), Hooks())


class Embeddings(blocks.Embeddings):
    """BERT's embeddings, but a padding token within a text, such as a literal `<pad>`, has the padding's position."""

    def rows(self, batch: Batch, hooks: Hooks) -> Int[Array, "G R L"]:
        """The row of each token in the table of positions: PyTorch's `create_position_ids_from_input_ids`."""
        rows = super().rows(batch, hooks)
        if hooks.embed is not Hooks.embed:  # PyTorch has word embeddings then and no ids, and counts every token
            return rows
        pad = self.config.first_position - 1
        is_pad = (batch["token_ids"] == pad) & (batch["segment_ids"] > 0)
        count = jnp.cumsum(is_pad, axis=-1, dtype=rows.dtype)
        begin = jnp.arange(rows.shape[-1], dtype=rows.dtype)[None, None] - batch["position_ids"]
        before = jnp.take_along_axis(count - is_pad, begin, axis=-1)  # in the row, before the example
        return jnp.where(is_pad, pad, rows - (count - before))


def parse(raw: dict[str, Any]) -> EncoderConfig:
    """EncoderConfig of a config.json: the first token is at position pad_token_id + 1."""
    family = raw["model_type"]
    return blocks.parse({"type_vocab_size": 1} | raw, family=family, first_position=raw.get("pad_token_id", 1) + 1)


def describe(config: EncoderConfig) -> dict[str, Any]:
    """The entries of a config.json for an EncoderConfig: the inverse of `parse`."""
    return blocks.describe(config) | {"pad_token_id": config.first_position - 1}


def sites(config: EncoderConfig) -> dict[str, Site]:
    """{name: Site} of the layers and of the head's first dense layer."""
    return blocks.sites(config) | {"dense": Site(config.width, config.width, in_layers=False)}


ROBERTA = Family(
    name="roberta",
    parse=parse,
    describe=describe,
    embeddings=Embeddings,
    block=blocks.PostNormLayer,
    sites=sites,
    prefix="roberta",
    modules=blocks.MODULES,
    heads={
        "sequence": Head(
            DenseHead,
            {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
            "RobertaForSequenceClassification",
        ),
        "token": Head(TokenHead, {"classifier": "classifier"}, "RobertaForTokenClassification"),
        "choice": Head(
            PoolerHead,
            {"pooler": "roberta.pooler.dense", "classifier": "classifier"},
            "RobertaForMultipleChoice",
            pretrained=("pooler",),
        ),
        "masked": Head(
            MaskedHead,
            {"transform": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder": "lm_head"},
            "RobertaForMaskedLM",
            pretrained=("transform", "norm", "decoder"),
            tied=blocks.WORDS,
        ),
        "span": Head(SpanHead, {"qa_outputs": "qa_outputs"}, "RobertaForQuestionAnswering"),
    },
    tokenizer=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    entries=blocks.ENTRIES | {"pad_token_id": whole(0, 10**8)},
    sharding=blocks.SHARDING,
)

XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    name="xlm-roberta",
    heads={
        name: dataclasses.replace(head, architecture=f"XLM{head.architecture}") for name, head in ROBERTA.heads.items()
    },
    tokenizer=(("tokenizer.json",), ("sentencepiece.bpe.model",)),
)
