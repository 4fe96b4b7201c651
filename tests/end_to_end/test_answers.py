"""Runs that answer questions: from SQuAD's files to answers, a threshold, exports, and new questions in every form."""

import json

import numpy as np
import pytest
import squad_files
from process import ROOT

import fjt
from fjt.data import squad


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train and dev (with contexts longer than a window) of questions with and without answers, and a vocabulary."""
    folder = tmp_path_factory.mktemp("answers")
    squad_files.made(folder / "train.json", 0, 200, without=True, longest=60)
    squad_files.made(folder / "dev.json", 1, 60, without=True, longest=60)
    squad_files.write_vocabulary(folder / "vocab.txt")
    return folder


def true_of(path):
    """{id: texts of its answers} of a file."""
    asked = json.loads(path.read_text())["data"]
    return {q["id"]: [a["text"] for a in q["answers"]] for a in asked for p in a["paragraphs"] for q in p["qas"]}


@pytest.fixture(scope="module")
def run(folder, launch):
    """The work directory of a run from random weights."""
    config = {
        "data.files.train": folder / "train.json", "data.files.dev": folder / "dev.json", "model.path": "",
        "model.scratch.vocab": folder / "vocab.txt", "model.scratch.layers": 1, "model.scratch.width": 64,
        "model.scratch.heads": 4, "model.scratch.inner": 64, "model.max_length": 48, "model.doc_stride": 12,
        "train.epochs": 10, "train.batch_size": 16, "optim.learning_rate": 3e-3, "cache.dir": folder / "cache",
        "eval.every_epochs": 5, "mesh.data": 1,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", f"{ROOT}/configs/squad.py", *flags, "--workdir", folder / "run")
    assert done.code == 0, done.text
    counts = [
        sum(bool(answers) == some for answers in true_of(folder / "train.json").values()) for some in (True, False)
    ]
    assert sum(counts) == 402 and f"classes: answer {counts[0]}, no answer {counts[1]}" in done.text
    assert "read in overlapping windows of 48 tokens" in done.text
    return folder / "run"


def test_answers_are_learned_scored_and_exported(run, folder):
    result = json.loads((run / "result.json").read_text())
    assert list(result["metrics"]) == ["f1", "exact_match"]
    assert result["metrics"]["f1"] > 0.8 > result["constant"]["dev"]["f1"]
    about = json.loads((run / "export" / "config.json").read_text())
    assert about["architectures"] == ["BertForQuestionAnswering"] and about["id2label"] == {"0": "start", "1": "end"}
    official = json.loads((run / "predictions" / "dev.json").read_text())
    true = true_of(folder / "dev.json")
    assert official.keys() == true.keys() and len(true) == 122
    same = np.mean([official[name] in (answers or [""]) for name, answers in true.items()])
    assert abs(same - result["metrics"]["exact_match"]) < 1e-12
    with np.load(run / "predictions" / "dev.npz") as arrays:
        assert arrays["cluster"].tolist()[0] == "article 0" and arrays["answer_length"] == 30
        threshold = float(arrays["threshold"])
    assert np.isfinite(threshold) and sum(text == "" for text in official.values()) > 20


def test_new_questions_are_answered(run, folder):
    context = "bo has dark blue , the people of this town say that it was late"
    loaded = fjt.load_run(run)
    found = loaded.predict(squad_files.QUESTIONS, [context, context])
    assert found["labels"] == ["dark blue", ""]
    best = found["n_best"][0][0]
    assert context[best["start"] : best["end"]] == best["text"] == "dark blue" and best["probability"] > 0.5
    assert found["n_best"][1][0]["text"] == "" and found["n_best"][1][0]["start"] is None
    dev = json.loads((folder / "dev.json").read_text())["data"]
    asked = [(q["question"], p["context"]) for a in dev for p in a["paragraphs"] for q in p["qas"]]
    official = json.loads((run / "predictions" / "dev.json").read_text())
    again = loaded.predict(*zip(*asked, strict=True))["labels"]
    assert again == list(official.values())


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".tsv", ".npz"])
def test_new_questions_are_answered_in_every_form(suffix, run, folder, launch, tmp_path):
    output = tmp_path / f"out{suffix}"
    done = launch("--run", run, "--input", folder / "dev.json", "--output", output, program="fjt.predict")
    assert done.code == 0, done.text
    official = json.loads((run / "predictions" / "dev.json").read_text())
    if suffix == ".json":
        assert json.loads(output.read_text()) == official
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert {row["id"]: row["predicted"] for row in rows} == official
        for row in rows:
            assert row["predicted"] == ("" if row["start"] is None else row["text_pair"][row["start"] : row["end"]])
            assert {"text", "start", "end", "score", "probability"} == set(row["n_best"][0])
    elif suffix == ".tsv":
        header, *rows = [line.split("\t") for line in output.read_text().splitlines()]
        assert header == ["id", "text", "text_pair", "predicted", "probability", "start", "end"]
        assert [row[3] for row in rows] == list(official.values())
    else:
        with np.load(output) as arrays:
            assert arrays["predicted"].tolist() == list(official.values())


def test_lines_and_mistakes(run, launch, tmp_path):
    (tmp_path / "new.txt").write_text("which colour ?\tbo has red , the people of this town often say\n")
    done = launch("--run", run, "--input", tmp_path / "new.txt", "--output", "-", program="fjt.predict")
    assert done.code == 0 and done.text.splitlines()[-1].split("\t")[3] == "red"
    done = launch(
        "--run", run, "--input", tmp_path / "new.txt", "--output", tmp_path / "x.conll", program="fjt.predict"
    )
    assert done.code == 2 and "labels texts, not words" in done.text
    (tmp_path / "bad.json").write_text('{"data": [{"paragraphs": [{"qas": []}]}]}')
    done = launch("--run", run, "--input", tmp_path / "bad.json", "--output", "-", program="fjt.predict")
    assert done.code == 2 and "paragraphs[0] has no 'context'" in done.text


def test_labels_of_unanswered_rows_are_unknown():
    assert squad.labels_of([None]).tolist() == [""]
