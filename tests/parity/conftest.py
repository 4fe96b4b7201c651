"""The models that comparisons run on."""

import pytest
import roberta_files
import torch
import transformers
from reference import MINILM, SHARED, real_texts

from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB
from fjt.data.synthetic import load as load_synthetic

torch.set_num_threads(1)  # the tests run in as many processes as there are cores, and threads that wait would spin


def write_bert(folder):
    """A small BERT's config; its tokenizer is written into the folder."""
    tokenizer = tokenization.load_tokenizer(VOCAB)
    tokenizer.save_pretrained(folder)
    return transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL)


def write_roberta(folder, **shape):
    """A small RoBERTa's config; its byte-level vocabulary and merges are written into the folder."""
    roberta_files.write_byte_level(folder)
    return transformers.RobertaConfig(**(roberta_files.config() | SMALL | shape))


def write_xlm_roberta(folder):
    """A small XLM-R's config; its Unigram tokenizer is written into the folder."""
    roberta_files.write_unigram(folder)
    return transformers.XLMRobertaConfig(**(roberta_files.config("xlm-roberta", vocab=300) | SMALL))


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "initializer_range": 0.1,
}  # fmt: skip
RANDOM = {
    "bert": write_bert,
    "roberta": write_roberta,
    "roberta, deeper": lambda folder: write_roberta(
        folder, hidden_size=48, num_hidden_layers=5, num_attention_heads=3, intermediate_size=80, hidden_act="gelu_new"
    ),
    "xlm-roberta": write_xlm_roberta,
}


@pytest.fixture(scope="module", params=[*RANDOM, "minilm"])
def reference(request, tmp_path_factory):
    """(directory, PyTorch model, texts)."""
    torch.manual_seed(0)
    if request.param == "minilm":
        if not (MINILM and SHARED):
            pytest.skip("FJT_MINILM and FJT_SHARED name real weights and data; not set here")
        texts = real_texts()
        model = transformers.AutoModelForSequenceClassification.from_pretrained(MINILM, num_labels=2)
        folder = tmp_path_factory.mktemp("minilm")
        transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    else:
        folder = tmp_path_factory.mktemp("random")
        config = RANDOM[request.param](folder)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        texts = []
        for name in ("sentiment", "paraphrase"):
            split = load_synthetic(name)["dev"]
            pair = None if split.text_pair is None else split.text_pair[:32]
            texts.append(Split(split.id[:32], split.text[:32], pair, split.label[:32]))
    with torch.no_grad():  # a trained pooler and a head of some size, so that logits are not all near zero
        for name, parameter in model.named_parameters():
            if "pooler" in name and name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif name in ("classifier.weight", "classifier.out_proj.weight"):
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder)
    return str(folder), model.eval(), texts
