"""Masked tokens against PyTorch's masked language models: logits, loss, gradients, and the exports of whole runs."""

import json

import numpy as np
import peft
import pytest
import squad_files
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import check_gradients, packed, with_head

from configs import pretrain
from fjt.core import seeds, settings
from fjt.core.options import MaskConfig
from fjt.data import documents
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.tasks.masked_lm import BEST, FIRST, MASKED_LM

RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(squad_files.FILLERS, n)) for n in (5, 30, 90, 12)]


def blocks(examples):
    """[(token ids, label of each token, -100 where none is predicted)] of each example."""
    found = []
    for n in range(len(examples)):
        tokens = examples.token_ids[examples.offsets[n] : examples.offsets[n + 1]]
        slots = slice(examples.slot_offsets[n], examples.slot_offsets[n + 1])
        label = np.full(len(tokens), -100, np.int64)
        label[examples.slot_token[slots]] = examples.label[slots]
        found.append((torch.tensor(tokens[None].astype(np.int64)), torch.tensor(label[None])))
    return found


def summed_loss(theirs, examples):
    """The sum of PyTorch's loss over all slots, over their number."""
    total = 0.0
    for tokens, label in blocks(examples):
        total = total + theirs(input_ids=tokens, labels=label).loss * int((label >= 0).sum())
    return total / len(examples.label)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_logits_loss_and_gradients(family, tmp_path):
    torch.manual_seed(0)
    theirs = transformers.AutoModelForMaskedLM.from_config(RANDOM[family](tmp_path)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.startswith(("cls", "lm_head")):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model, params, tokenizer = with_head(theirs, tmp_path, 0, "masked")
    texts = documents.tokenize(TEXTS, tokenizer, 40)
    assert len(texts) > len(TEXTS)
    examples = MASKED_LM.draw(texts, tokenizer, MaskConfig(), seeds.make_key(0, "test"))
    batch, places = packed(examples, model)
    logits = np.zeros((len(examples.slot_token), model.config.vocab), np.float32)
    logits[places.slots[1]] = np.asarray(model.apply(params, batch)).reshape(-1, model.config.vocab)[places.slots[0]]
    for n, (tokens, _) in enumerate(blocks(examples)):
        slots = slice(examples.slot_offsets[n], examples.slot_offsets[n + 1])
        with torch.no_grad():
            expected = theirs(input_ids=tokens).logits[0].numpy()[examples.slot_token[slots]]
        np.testing.assert_allclose(logits[slots], expected, atol=1e-4, rtol=0)
    expected = summed_loss(theirs, examples)
    expected.backward()
    check_gradients(MASKED_LM, model, params, batch, theirs, expected.item(), classes=0)


def train(folder, write, method, head=True):
    """(the run as it was prepared, its work directory): two steps over random weights, with a head or without."""
    (folder / "base").mkdir()
    torch.manual_seed(3)
    kind = transformers.AutoModelForMaskedLM if head else transformers.AutoModel
    kind.from_config(write(folder / "base")).save_pretrained(folder / "base")
    (folder / "texts.txt").write_text("\n\n".join(TEXTS))
    made = pretrain.get_config()
    made.data.files.train = made.data.files.dev = str(folder / "texts.txt")
    made.model.path, made.model.max_length = str(folder / "base"), 40
    made.model.dtype, made.train.batch_size, made.train.steps, made.tune.method = "float32", 4, 2, (method,)
    made.optim.learning_rate, made.optim.warmup_fraction = 1e-2, 0.0
    made.cache.dir, made.output.curve = str(folder / "cache"), False
    workdir.own(str(folder / "run"))
    experiment = prepare(settings.from_config(made))
    run(experiment, str(folder / "run"))
    return experiment, folder / "run"


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_bert, "lora"), (write_roberta, "bitfit")])
def test_an_export_predicts_in_pytorch_what_the_run_predicted(write, method, tmp_path):
    experiment, found = train(tmp_path, write, method)
    folder = found / "export" / "merged" if method == "lora" else found / "export"
    assert json.loads((folder / "config.json").read_text())["architectures"][0].endswith("ForMaskedLM")
    model, about = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"]
    examples = experiment.examples["dev"]
    with torch.no_grad():
        loss = summed_loss(model.eval(), examples).item()
    result = json.loads((found / "result.json").read_text())
    assert np.log(result["metrics"]["perplexity"]) == pytest.approx(loss, abs=1e-4)
    with np.load(found / "predictions" / "dev.npz") as arrays:
        logits, label = arrays["logits"], arrays["label"]
    at = 0
    for tokens, true in blocks(examples):
        with torch.no_grad():
            scores = torch.log_softmax(model(input_ids=tokens).logits[0], dim=-1)[true[0] >= 0]
        rows = slice(at, at + len(scores))
        assert label[rows].tolist() == true[true >= 0].tolist()
        np.testing.assert_allclose(logits[rows, 0], scores[np.arange(len(scores)), label[rows]], atol=1e-4)
        np.testing.assert_allclose(logits[rows, FIRST + BEST :], scores.topk(BEST).values.numpy(), atol=1e-4)
        at = rows.stop
    assert at == len(label)


def logits_of(model, examples):
    """f32[M, V]: PyTorch's logits of the slots."""
    found = []
    for tokens, label in blocks(examples):
        with torch.no_grad():
            found.append(model(input_ids=tokens).logits[0][label[0] >= 0])
    return torch.log_softmax(torch.cat(found), dim=-1).numpy()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("write", "method"), [(write_bert, "lora"), (write_roberta, "ia3")])
def test_an_adapter_predicts_in_peft_what_the_run_predicted(write, method, tmp_path):
    experiment, found = train(tmp_path, write, method)
    base = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(base, found / "export" / "adapter").eval()
    with np.load(found / "predictions" / "dev.npz") as arrays:
        logits, label = arrays["logits"], arrays["label"]
    expected = logits_of(model, experiment.examples["dev"])
    np.testing.assert_allclose(logits[:, 0], expected[np.arange(len(label)), label], atol=1e-4)


def test_a_head_that_was_trained_is_no_adapter_of_peft(tmp_path):
    """PEFT would untie it from the table of words; fjt's own form and the merged model have it."""
    experiment, found = train(tmp_path, write_bert, "lora", head=False)
    assert not (found / "export" / "adapter" / "adapter_config.json").exists()
    model = transformers.AutoModelForMaskedLM.from_pretrained(found / "export" / "merged").eval()
    with np.load(found / "predictions" / "dev.npz") as arrays:
        logits, label = arrays["logits"], arrays["label"]
    expected = logits_of(model, experiment.examples["dev"])
    np.testing.assert_allclose(logits[:, 0], expected[np.arange(len(label)), label], atol=1e-4)
