"""BERT (Devlin et al. 2019) as PyTorch `transformers` has it: the classifier reads a pooler, which is pretrained."""

import functools
from typing import Any

from fjt.models import blocks
from fjt.models.family import EncoderConfig, Family, Head, Site
from fjt.models.heads import MaskedHead, PoolerHead, SpanHead, TokenHead

NAME = "bert"


def sites(config: EncoderConfig) -> dict[str, Site]:
    """{name: Site} of the layers and of the pooler."""
    return blocks.sites(config) | {"pooler": Site(config.width, config.width, in_layers=False)}


BERT = Family(
    name=NAME,
    parse=functools.partial(blocks.parse, family=NAME),
    describe=blocks.describe,
    embeddings=blocks.Embeddings,
    block=blocks.PostNormLayer,
    sites=sites,
    prefix="bert",
    modules=blocks.MODULES,
    heads={
        "sequence": Head(
            PoolerHead,
            {"pooler": "bert.pooler.dense", "classifier": "classifier"},
            "BertForSequenceClassification",
            pretrained=("pooler",),
        ),
        "token": Head(TokenHead, {"classifier": "classifier"}, "BertForTokenClassification"),
        "choice": Head(
            PoolerHead,
            {"pooler": "bert.pooler.dense", "classifier": "classifier"},
            "BertForMultipleChoice",
            pretrained=("pooler",),
        ),
        "masked": Head(
            MaskedHead,
            {
                "transform": "cls.predictions.transform.dense",
                "norm": "cls.predictions.transform.LayerNorm",
                "decoder": "cls.predictions",
            },
            "BertForMaskedLM",
            pretrained=("transform", "norm", "decoder"),
            tied=blocks.WORDS,
        ),
        "span": Head(SpanHead, {"qa_outputs": "qa_outputs"}, "BertForQuestionAnswering"),
    },
    tokenizer=(("tokenizer.json",), ("vocab.txt",)),
    renamed={"encoder/pooler": "head/pooler"},
    entries=blocks.ENTRIES,
    sharding=blocks.SHARDING,
)


def scratch_config(shape: Any, vocab: int, max_length: int) -> dict[str, Any]:
    """config.json of a BERT with random weights.

    Args:
        shape: `options.Scratch`: layers, width, heads and inner width.
        vocab: the number of token ids.
        max_length: the number of positions.
    """
    return {
        "architectures": [BERT.heads["sequence"].architecture],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.width,
        "initializer_range": blocks.STDDEV,
        "intermediate_size": shape.inner,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": max_length,
        "model_type": NAME,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": vocab,
    }
