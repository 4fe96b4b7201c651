"""The models that comparisons run on."""

import pytest
import torch
import transformers
from reference import MINILM, SHARED, real_texts

from fjt.data import tokenization
from fjt.data.glue import Split
from fjt.data.synthetic import VOCAB
from fjt.data.synthetic import load as load_synthetic


@pytest.fixture(scope="module", params=["random", "minilm"])
def reference(request, tmp_path_factory):
    """(directory, PyTorch model, texts)."""
    torch.manual_seed(0)
    if request.param == "minilm":
        if not (MINILM and SHARED):
            pytest.skip("FJT_MINILM and FJT_SHARED name real weights and data; not set here")
        texts = real_texts()
        model = transformers.BertForSequenceClassification.from_pretrained(MINILM, num_labels=2)
        folder = tmp_path_factory.mktemp("minilm")
        transformers.AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    else:
        tokenizer = tokenization.load_tokenizer(VOCAB)
        config = transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            initializer_range=0.1,
        )
        model = transformers.BertForSequenceClassification(config)
        folder = tmp_path_factory.mktemp("random")
        tokenizer.save_pretrained(folder)
        texts = []
        for name in ("sentiment", "paraphrase"):
            split = load_synthetic(name)["dev"]
            pair = None if split.text_pair is None else split.text_pair[:32]
            texts.append(Split(split.id[:32], split.text[:32], pair, split.label[:32]))
    with torch.no_grad():  # a trained pooler and a head of some size, so that logits are not all near zero
        model.bert.pooler.dense.bias.normal_(0, 0.1)
        model.classifier.weight.normal_(0, 0.5)
    model.save_pretrained(folder)
    return str(folder), model.eval(), texts
