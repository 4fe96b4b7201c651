"""Choices against PyTorch's multiple choice: logits, loss, gradients, and the exports of whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import FILES

from configs import choice as config
from fjt.core import seeds, settings, tree
from fjt.data import batches, choices, packing, tokenization
from fjt.data.glue import Split, Task
from fjt.data.synthetic import load
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.experiment.run_records import read_predictions
from fjt.models import pretrained, torch_names
from fjt.models.encoder import Model
from fjt.tasks.multiple_choice import MULTIPLE_CHOICE

TEXTS = load("paraphrase")["dev"].text[:24]
CHOICES = [(TEXTS[i], TEXTS[i - 1], TEXTS[i - 2]) for i in range(24)]
LABEL = np.arange(24) % 3
TASK = Task("t", "multiple_choice", ("0", "1", "2"), ("accuracy",))


def torch_inputs(tokenizer):
    pairs = [(text, choice) for text, row in zip(TEXTS, CHOICES, strict=True) for choice in row]
    first, second = map(list, zip(*pairs, strict=True))
    inputs = tokenizer(first, second, padding=True, return_tensors="pt")
    return {name: array.reshape(len(TEXTS), 3, -1) for name, array in inputs.items()}


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_logits_loss_and_gradients(family, tmp_path):
    torch.manual_seed(0)
    theirs = transformers.AutoModelForMultipleChoice.from_config(RANDOM[family](tmp_path)).eval()
    with torch.no_grad():
        theirs.classifier.weight.normal_(0, 0.5)
    theirs.save_pretrained(tmp_path)
    checkpoint = pretrained.read_checkpoint(str(tmp_path))
    model = Model(checkpoint.config, 1, one_slot=False, head="choice")
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, str(tmp_path), keep_head="choice")
    assert loaded.missing == () and loaded.unused == ()
    tokenizer = tokenization.load_tokenizer(str(tmp_path), FILES)
    tokenization.fit_types(tokenizer, checkpoint.config.types, "")
    examples = choices.tokenize(TEXTS, CHOICES, tokenizer, 64)
    split = Split(tuple(map(str, LABEL)), TEXTS, None, LABEL, choices=tuple(CHOICES))
    examples = MULTIPLE_CHOICE.targets(split, examples, TASK)
    rows = np.arange(len(examples))
    slots = batches.slots_of(examples, rows[None])
    (shape,) = packing.plan(examples.lengths[None], slots=slots, most_shapes=1, width=model.config.width).shapes
    batch, places = batches.build(examples, rows, shape)
    expected = theirs(**torch_inputs(tokenizer), labels=torch.tensor(LABEL))
    found = np.zeros(len(examples.slot_token), np.float32)
    found[places.slots[1]] = np.asarray(model.apply(loaded.params, batch)).reshape(-1)[places.slots[0]]
    np.testing.assert_allclose(found.reshape(24, 3), expected.logits.detach().numpy(), atol=1e-4, rtol=0)
    assert np.ptp(found) > 0.1
    expected.loss.backward()

    def loss(params):
        value, weight = MULTIPLE_CHOICE.loss(model.apply(params, batch), batch, small.make_hyper(dropout=0.0))
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    value, grads = jax.jit(jax.value_and_grad(loss))(loaded.params)
    np.testing.assert_allclose(value, expected.loss.item(), rtol=1e-5)
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    whole = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients.values()))
    grads = tree.flatten(grads)
    assert len(grads) == len(gradients)
    for name, gradient in grads.items():
        reference = gradients[torch_names.torch_name(name, model.config.family)]
        difference = np.linalg.norm(torch_names.to_torch(name, np.asarray(gradient)) - reference)
        assert difference <= 1e-3 * np.linalg.norm(reference) + 1e-7 * whole, name


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_bert, "lora"), (write_roberta, "bitfit")])
def test_an_export_computes_in_pytorch_what_the_run_computed(write, method, tmp_path):
    (tmp_path / "base").mkdir()
    torch.manual_seed(3)
    transformers.AutoModel.from_config(write(tmp_path / "base")).save_pretrained(tmp_path / "base")
    rows = zip(TEXTS, CHOICES, LABEL.tolist(), strict=True)
    lines = [json.dumps({"text": text, "choices": row, "label": label}) for text, row, label in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    made = config.get_config()
    made.data.files.train = made.data.files.dev = str(tmp_path / "rows.jsonl")
    made.data.columns.text, made.data.columns.text_pair, made.data.columns.choices = "text", "", ("choices",)
    made.model.path, made.model.max_length, made.model.dtype = str(tmp_path / "base"), 64, "float32"
    made.train.batch_size, made.train.steps, made.tune.method = 8, 2, (method,)
    made.optim.learning_rate, made.optim.warmup_fraction = 1e-2, 0.0
    made.cache.dir, made.output.curve = str(tmp_path / "cache"), False
    workdir.own(str(tmp_path / "run"))
    run(prepare(settings.from_config(made)), str(tmp_path / "run"))
    expected = read_predictions(str(tmp_path / "run"), "dev")["logits"].values.reshape(24, 3)
    folder = tmp_path / "run" / "export" / ("merged" if method == "lora" else "")
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(**torch_inputs(transformers.AutoTokenizer.from_pretrained(folder))).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert np.ptp(expected) > 1e-3
