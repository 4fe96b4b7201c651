"""Small RoBERTa and XLM-R directories without a network: tokenizers trained on made-up texts, random weights."""

import json
import pathlib

import jax
import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from fjt.core import tree
from fjt.core.seeds import make_key
from fjt.data.synthetic import load
from fjt.models import config_json, torch_names
from fjt.models.encoder import Model

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {"cls_token": "<s>", "bos_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "eos_token": "</s>"} | {
    "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip


def texts():
    """The training texts of the made-up sentiments and paraphrases."""
    splits = [load(name)["train"] for name in ("sentiment", "paraphrase")]
    return [text for split in splits for text in split.text[:500]]


def write_byte_level(folder, size=600):
    """vocab.json and merges.txt of a byte-level BPE, as RoBERTa's authors distribute theirs."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(texts(), vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    made.save_model(str(folder))


def write_unigram(folder, size=300):
    """tokenizer.json of a Unigram vocabulary with XLM-R's special tokens."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(texts(), trainer)
    ids = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    made.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast"} | NAMES
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def config(model_type="roberta", vocab=600, layers=2, width=32, heads=4, inner=64, positions=66):
    """A config.json; the first position is that after the padding's id."""
    return {
        "model_type": model_type, "vocab_size": vocab, "num_hidden_layers": layers, "hidden_size": width,
        "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": positions,
        "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5,
        "hidden_act": "gelu", "initializer_range": 0.1,
    }  # fmt: skip


def write(folder: pathlib.Path, raw=None, write_tokenizer=write_byte_level):
    """Writes a model directory with random weights and no head, as a pretrained encoder has none."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = raw or config()
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(raw))
    made = Model(config_json.parse_config(raw, "config.json"), 2)
    params = jax.jit(made.init)(make_key(5, "init"))
    tensors = {
        torch_names.torch_name(name, raw["model_type"]): torch_names.to_torch(name, np.asarray(leaf))
        for name, leaf in tree.flatten({"encoder": params["encoder"]}).items()
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
