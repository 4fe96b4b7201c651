"""Kinds of problems from a table to predictions and exports: sets of labels, and a kind from outside the package."""

import csv
import json
import os

import numpy as np
import pytest
from outside_problem import register_ordinal
from process import ROOT, write_tables

import fjt

TOPICS = ("meals", "sports", "weather")
WORDS = {"meals": "dinner", "sports": "match", "weather": "rain"}


def sentences(number, seed):
    """[(text, names of its topics)]: each topic is there or not by itself."""
    rng = np.random.default_rng(seed)
    fillers = np.array("the day was long and the people were tired of it".split())
    rows = []
    for _ in range(number):
        topics = [name for name in TOPICS if rng.random() < 0.4]
        words = [*rng.choice(fillers, 2), *(WORDS[name] for name in topics)]
        rows.append((" ".join(rng.permutation(words)), topics))
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train and dev as JSON lines with lists, and as CSV with one column per label; a vocabulary that has the words."""
    folder = tmp_path_factory.mktemp("topics")
    for name, number, seed in (("train", 240, 0), ("dev", 60, 1)):
        rows = sentences(number, seed)
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text, "label": topics}) + "\n" for text, topics in rows)
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", *TOPICS])
            writer.writerows([text, *(int(name in topics) for name in TOPICS)] for text, topics in rows)
    words = sorted({word for text, _ in sentences(400, 2) for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return folder


def flags(folder, suffix, kind="multi_label", **config):
    """Arguments of a small run from random weights on the folder's tables."""
    config = {
        "data.files.train": folder / f"train.{suffix}", "data.files.dev": folder / f"dev.{suffix}",
        "model.path": "", "model.scratch.vocab": folder / "vocab.txt", "model.scratch.layers": 1,
        "model.scratch.width": 64, "model.scratch.heads": 2, "model.scratch.inner": 64, "model.max_length": 32,
        "train.epochs": 50, "train.batch_size": 24, "optim.learning_rate": 3e-3, "cache.dir": folder / "cache",
        "eval.every_epochs": 25, "mesh.data": 1,
    } | {key.replace("__", "."): value for key, value in config.items()}  # fmt: skip
    return ["--config", f"{ROOT}/configs/classify.py:{kind}", *(f"--config.{k}={v}" for k, v in config.items())]


@pytest.fixture(scope="module")
def run(folder, launch, tmp_path_factory):
    """The work directory of a run on lists of labels."""
    workdir = tmp_path_factory.mktemp("multi_label") / "run"
    done = launch(*flags(folder, "jsonl", eval__threshold=0.4), "--workdir", workdir)
    assert done.code == 0, done.text
    return workdir


def test_sets_of_labels_are_learned_predicted_and_exported(run, folder, launch, tmp_path):
    result = json.loads((run / "result.json").read_text())
    assert list(result["metrics"]) == ["micro_f1", "macro_f1", "subset_accuracy"]
    assert result["metrics"]["micro_f1"] > 0.9
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(i): name for i, name in enumerate(TOPICS)}
    with np.load(run / "predictions" / "dev.npz") as arrays:
        assert str(arrays["kind"]) == "multi_label" and arrays["label"].shape == arrays["logits"].shape == (60, 3)
        chosen = 1 / (1 + np.exp(-arrays["logits"].astype(np.float64))) >= 0.4
        wanted = [",".join(name for name, yes in zip(TOPICS, row, strict=True) if yes) for row in chosen]
    with open(run / "predictions" / "dev.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["predicted"] for row in rows] == wanted
    assert [row["label"] for row in rows] == [",".join(topics) for _, topics in sentences(60, 1)]
    texts = [text for text, _ in sentences(8, 3)]
    predicted = fjt.load_run(run).predict(texts)
    assert all(set(names) <= set(TOPICS) for names in predicted["labels"])
    (tmp_path / "new.txt").write_text("\n".join(texts) + "\n")
    output = tmp_path / "out.tsv"
    done = launch("--run", run, "--input", tmp_path / "new.txt", "--output", output, program="fjt.predict")
    assert done.code == 0, done.text
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["predicted"] for row in rows] == [",".join(names) for names in predicted["labels"]]
    assert set(rows[0]) == {"id", "text", "predicted", *(f"p({name})" for name in TOPICS)}


@pytest.mark.thorough
def test_one_column_per_label_is_the_same_experiment(run, folder, launch, tmp_path):
    columns = flags(folder, "csv", eval__threshold=0.4, data__columns__labels=str(TOPICS))
    assert launch(*columns, "--workdir", tmp_path / "run").code == 0
    first, second = (json.loads((path / "result.json").read_text()) for path in (run, tmp_path / "run"))
    for key in ("metrics", "params_sha256", "data_sha256"):
        assert first[key] == second[key], key


@pytest.mark.parametrize(
    ("suffix", "train", "config", "words"),
    [
        ("jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": []}', {"data__label_names": "('y','z')"},
         ["train.jsonl:1", "unknown label 'x'", "y, z"]),
        ("jsonl", '{"text": "a", "label": []}\n{"text": "b", "label": []}', {}, ["No row", "config.data.columns"]),
        ("jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": null}', {}, ["train.jsonl:2", "no label"]),
        ("csv", "text,x,y\na,1,0\nb,2,1", {"data__columns__labels": "('x','y')"}, ["train.csv:3", "'2'", "0 or 1"]),
        ("csv", "text,x\na,1\nb,0", {"data__columns__labels": "('x','y')"}, ["train.csv:1", "'y'"]),
        ("csv", "text,label\na,[x\nb,y", {}, ["train.csv:2", "not a list of labels"]),
        ("csv", "text,label\na,x\nb,y", {"eval__threshold": 1.5}, ["eval.threshold=1.5", "between 0.0 and 1.0"]),
        ("csv", "text,label\na,x\nb,y", {"loss__class_weights": "(1.0,)"}, ["class_weights", "2 numbers"]),
    ],
)  # fmt: skip
def test_bad_labels_are_refused(suffix, train, config, words, folder, launch, tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.{suffix}").write_text(train + "\n")
    os.link(folder / "vocab.txt", tmp_path / "vocab.txt")
    done = launch(*flags(tmp_path, suffix, **config), "--workdir", tmp_path / "run")
    assert done.code == 2 and "Traceback" not in done.text, done.text
    for word in words:
        assert word in done.text, (word, done.text)


def test_a_kind_from_outside_trains_predicts_and_exports(launch, tmp_path):
    """Nothing of the package is touched: a file registers the kind, the config names it."""
    write_tables(tmp_path)
    for name in ("train", "dev"):
        with open(tmp_path / f"{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(tmp_path / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([row["text"], ("low", "mid", "top")[len(row["text"]) % 3]] for row in rows)
    words = sorted({word for row in rows for word in row["text"].lower().split()})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    arguments = flags(tmp_path, "csv", "ordinal", train__epochs=1, eval__every_epochs=1)
    assert launch(*arguments, "--workdir", tmp_path / "run").code == 2  # not known yet
    done = launch(*arguments, "--workdir", tmp_path / "run", hook=register_ordinal)
    assert done.code == 0, done.text
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["metrics"]) == {"accuracy", "distance"} and "distance" in done.text
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert config["id2label"]["2"] == "top"
    new = tmp_path / "new.txt"
    new.write_text("a text\nanother one\n")
    arguments = ("--run", tmp_path / "run", "--input", new, "--output", tmp_path / "out.jsonl")
    done = launch(*arguments, program="fjt.predict", hook=register_ordinal)
    assert done.code == 0, done.text
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and {row["predicted"] for row in rows} <= {"low", "mid", "top"}
