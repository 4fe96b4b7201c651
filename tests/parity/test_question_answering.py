"""Answers in contexts against PyTorch's question answering: logits, loss, gradients, and the exports of whole runs."""

import json

import numpy as np
import peft
import pytest
import squad_files
import torch
import transformers
from conftest import RANDOM, write_bert, write_roberta
from reference import check_gradients, packed, with_head

from configs import squad as config
from fjt.core import settings
from fjt.data import squad, tokenization
from fjt.data.glue import Split, Task
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.tasks.question_answering import ANSWER, QUESTION_ANSWERING

LENGTH = 40
TASK = Task("t", "question_answering", (ANSWER,), ("f1",))


def split_of(count, words=8):
    rng, rows = np.random.default_rng(0), []
    while len(rows) < count:
        context, asked = squad_files.paragraph(rng, words, without=True)
        rows += [(question, context, answers) for question, answers in asked]
    questions, texts, answers = zip(*rows[:count], strict=True)
    return Split(tuple(map(str, range(count))), questions, texts, squad.labels_of(answers))


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_logits_loss_and_gradients(family, tmp_path):
    """One window at a time in PyTorch, because its softmax is over padding as well."""
    torch.manual_seed(0)
    theirs = transformers.AutoModelForQuestionAnswering.from_config(RANDOM[family](tmp_path)).eval()
    with torch.no_grad():
        theirs.qa_outputs.weight.normal_(0, 0.5)
    model, params, tokenizer = with_head(theirs, tmp_path, 2, "span")
    split = split_of(6, words=60)
    examples = QUESTION_ANSWERING.targets(split, tokenization.tokenize(split, tokenizer, 60, stride=0), TASK)
    assert len(examples) > len(split)
    batch, places = packed(examples, model)
    logits = np.zeros((len(examples.slot_token), 2), np.float32)
    logits[places.slots[1]] = np.asarray(model.apply(params, batch)).reshape(-1, 2)[places.slots[0]]
    total = 0.0
    for window in range(len(examples)):
        chosen = slice(examples.offsets[window], examples.offsets[window + 1])
        label = examples.label[chosen]
        inputs = {"input_ids": torch.tensor(examples.token_ids[chosen][None])}
        if model.config.types > 1:
            inputs["token_type_ids"] = torch.tensor(examples.type_ids[chosen][None], dtype=torch.long)
        expected = theirs(
            **inputs,
            start_positions=torch.tensor([int(np.argmax(label & 1))]),
            end_positions=torch.tensor([int(np.argmax(label & 2))]),
        )
        for at, found in enumerate((expected.start_logits, expected.end_logits)):
            np.testing.assert_allclose(logits[chosen, at], found[0].detach().numpy(), atol=1e-4, rtol=0)
        total = total + expected.loss / len(examples)
    total.backward()
    check_gradients(QUESTION_ANSWERING, model, params, batch, theirs, total.item())
    assert QUESTION_ANSWERING.dev_loss(logits, examples, TASK) == pytest.approx(total.item(), rel=1e-5)


def train(folder, write, method):
    """(work directory, the best answers to each question of dev) of a run of two steps, one window per question."""
    (folder / "base").mkdir()
    torch.manual_seed(3)
    transformers.AutoModel.from_config(write(folder / "base")).save_pretrained(folder / "base")
    file = squad_files.made(folder / "rows.json", 0, 8, words=4)
    made = config.get_config()
    made.data.files.train = made.data.files.dev = file
    made.model.path, made.model.max_length, made.model.doc_stride = str(folder / "base"), 60, 8
    made.model.dtype, made.train.batch_size, made.train.steps, made.tune.method = "float32", 8, 2, (method,)
    made.optim.learning_rate, made.optim.warmup_fraction = 1e-2, 0.0
    made.tune.prefix_length = 4 if method == "prefix" else None
    made.cache.dir, made.output.curve = str(folder / "cache"), False
    workdir.own(str(folder / "run"))
    run(prepare(settings.from_config(made)), str(folder / "run"))
    rows = json.loads((folder / "rows.json").read_text())["data"]
    asked = [(q["question"], p["context"]) for a in rows for p in a["paragraphs"] for q in p["qas"]]
    return folder / "run", asked, json.loads((folder / "run" / "predictions" / "dev.json").read_text())


def answers(model, folder, asked):
    """The best answer to each question by PyTorch's logits, found among all spans of at most 30 tokens."""
    tokenizer, found = transformers.AutoTokenizer.from_pretrained(folder), []
    for question, context in asked:
        inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        places, inside = inputs.pop("offset_mapping")[0].tolist(), [s == 1 for s in inputs.sequence_ids(0)]
        assert len(inside) <= 60, "one window"
        with torch.no_grad():
            output = model.eval()(**inputs)
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        spans = [
            (start[i] + end[j], context[places[i][0] : places[j][1]])
            for i in range(len(inside))
            for j in range(i, min(i + 30, len(inside)))
            if inside[i] and inside[j] and places[i][0] < places[j][1]
        ]
        found.append(max(spans)[1])
    return found


@pytest.mark.parametrize(("write", "method"), [(write_bert, "full"), (write_bert, "lora"), (write_roberta, "bitfit")])
def test_an_export_answers_in_pytorch_what_the_run_answered(write, method, tmp_path):
    found, asked, expected = train(tmp_path, write, method)
    folder = found / "export" / "merged" if method == "lora" else found / "export"
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    assert model.config.num_labels == 2 and len(set(expected.values())) > 4
    assert answers(model, folder, asked) == list(expected.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("write", "method", "name"),
    [(write_bert, "lora", "PeftModel"), (write_roberta, "prefix", "PeftModelForQuestionAnswering")],
)
def test_an_adapter_answers_in_peft_what_the_run_answered(write, method, name, tmp_path):
    """PEFT's class for questions leaves out token types, which BERT needs."""
    found, asked, expected = train(tmp_path, write, method)
    folder = found / "export" / "adapter"
    bare = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "base", torch_dtype="float32")
    model = peft.PeftModel.from_pretrained(bare, folder)
    assert type(model).__name__ == name
    assert answers(model, folder, asked) == list(expected.values())
