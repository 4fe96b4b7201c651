"""Runs on several tasks: from a table of each to predictions in all of them, and to a model of each."""

import csv
import json

import numpy as np
import pytest
import safetensors.numpy
import squad_files
from process import ROOT

import fjt

TOPICS = {"red": "warm", "blue": "cold"}
TASKS = ("topic", "grade", "whom")


def rows_of(task, seed, count):
    """The colour of a text tells its topic; the number of its first words its grade; the second text whom it is for."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        colour, name, grade = (
            str(rng.choice(list(TOPICS))),
            str(rng.choice(squad_files.NAMES[:2])),
            int(rng.integers(4)),
        )
        text = f"{'very ' * grade}{colour} {name} {' '.join(rng.choice(squad_files.FILLERS, 3))}"
        other = str(rng.choice(squad_files.NAMES[:2]))
        label = {"topic": TOPICS[colour], "grade": grade, "whom": other}[task]
        rows.append({"text": text, "label": label} | ({"other": other} if task == "whom" else {}))
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def run(tmp_path_factory, launch):
    """The work directory of a run from random weights, by a method that is merged; its tables are beside it."""
    folder, given = tmp_path_factory.mktemp("several"), []
    for seed, task in enumerate(TASKS):
        for split, count in (("train", 240), ("dev", 40 + 10 * seed)):
            write(folder / f"{task}_{split}.jsonl", rows_of(task, 2 * seed + (split == "dev"), count))
            given.append((task, split, str(folder / f"{task}_{split}.jsonl")))
    each = (("grade", "kind", "regression"), ("whom", "columns.text_pair", "other"))
    words = sorted({*squad_files.NAMES, *squad_files.FILLERS, *TOPICS, "very"})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    config = {
        "data.source": "files", "data.tables": tuple(given), "data.each": each,
        "model.path": "", "model.scratch.layers": 2, "model.scratch.vocab": folder / "vocab.txt",
        "model.scratch.width": 32, "model.scratch.heads": 2,
        "model.scratch.inner": 64, "model.max_length": 32, "train.epochs": 20, "train.batch_size": 24,
        "train.task_shares": "(0.25,0.25,0.5)", "loss.task_weights": "(1,0.1,1)", "train.select": "best",
        "optim.learning_rate": 3e-3, "eval.every_epochs": 10, "cache.dir": folder / "cache", "mesh.data": 1,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", f"{ROOT}/configs/multitask.py:{'+'.join(TASKS)}", *flags, "--workdir", folder / "run")
    assert done.code == 0, done.text
    return folder / "run"


def test_every_task_is_learned_and_the_mean_chooses(run):
    result = json.loads((run / "result.json").read_text())
    scores = result["metrics"]
    assert scores["topic.accuracy"] > 0.9 and scores["grade.pearson"] > 0.9 and scores["whom.accuracy"] > 0.9
    chosen = [scores[name] for name in ("topic.accuracy", "grade.pearson", "whom.accuracy")]
    assert scores["mean"] == pytest.approx(np.mean(chosen)) and result["selection"] == "mean"
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert result["selected_step"] == max(rows, key=lambda row: row["mean"])["step"]
    assert [row["label"] for row in result["per_class"]] == ["topic.cold", "topic.warm", "whom.ada", "whom.bo"]
    header, *rows = [line.split("\t") for line in (run / "predictions" / "dev.tsv").read_text().splitlines()]
    tables = {task: [row for row in rows if row[0].startswith(f"{task}/")] for task in TASKS}
    assert [len(table) for table in tables.values()] == [40, 50, 60]
    for task in ("topic", "whom"):
        at = [header.index("label"), header.index(f"{task}.predicted")]
        right = np.mean([row[at[0]] == row[at[1]] for row in tables[task]])
        assert right == pytest.approx(scores[f"{task}.accuracy"])
    card = (run / "export" / "README.md").read_text()
    assert "| grade.pearson |" in card and "| 50 |" in card and "| 150 |" in card


def test_new_texts_are_predicted_in_all_tasks(run, launch, tmp_path):
    new = rows_of("whom", 9, 30)
    texts, names = [row["text"] for row in new], [row["other"] for row in new]
    pairs, singles = fjt.load_run(run).predict(texts, names), fjt.load_run(run).predict(texts)
    assert np.mean([one["whom"] == row["label"] for one, row in zip(pairs["labels"], new, strict=True)]) > 0.8
    right = [
        one["topic"] == TOPICS[text.split("very ")[-1].split()[0]]
        for one, text in zip(singles["labels"], texts, strict=True)
    ]
    assert np.mean(right) > 0.9
    grades = [text.count("very") for text in texts]
    assert np.corrcoef([one["grade"] for one in singles["labels"]], grades)[0, 1] > 0.9
    lines = [f"{text}\t{name}" if i % 2 else text for i, (text, name) in enumerate(zip(texts, names, strict=True))]
    (tmp_path / "new.txt").write_text("\n".join(lines))
    done = launch(
        "--run", run, "--input", tmp_path / "new.txt", "--output", tmp_path / "a.jsonl", program="fjt.predict"
    )
    assert done.code == 0, done.text
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for i, row in enumerate(found):
        expected = (pairs if i % 2 else singles)["labels"][i]
        assert row["text_pair"] == (names[i] if i % 2 else None)
        assert row["whom.predicted"] == expected["whom"] and row["topic.predicted"] == expected["topic"]
        assert row["grade.predicted"] == pytest.approx(expected["grade"], abs=1e-4)
    mixed = fjt.load_run(run).predict(texts, [name if i % 2 else None for i, name in enumerate(names)])
    assert [one["whom"] for one in mixed["labels"]] == [row["whom.predicted"] for row in found]
    for source in (
        tmp_path / "a.jsonl",
        tmp_path / "a.csv",
    ):  # what it has written: null, or an empty cell, for no text
        command = ("--run", run, "--input", source, "--output", tmp_path / "a.csv", "--overwrite")
        done = launch(*command, program="fjt.predict")
        assert done.code == (0 if source.suffix == ".jsonl" else 2), done.text
    with open(tmp_path / "a.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert [row["text_pair"] for row in again] == [row["text_pair"] or "" for row in found]
    assert [row["whom.p(ada)"] for row in again] == [str(row["whom.p(ada)"]) for row in found]
    own = run.parent / "topic_dev.jsonl"
    done = launch(
        "--run", run, "--input", own, "--output", own.parent / "grade_dev.jsonl", "--overwrite", program="fjt.predict"
    )
    assert done.code == 2 and "is also config.data.tables of the run, grade dev" in done.text


def test_one_of_the_tasks_becomes_a_model(run, launch, tmp_path):
    done = launch("--run", run, "--format", "hf", "--task", "whom", "--output", tmp_path / "whom", program="fjt.export")
    assert done.code == 0, done.text
    assert (tmp_path / "whom" / "README.md").exists()
    about = json.loads((tmp_path / "whom" / "config.json").read_text())
    assert about["id2label"] == {"0": "ada", "1": "bo"} and about["problem_type"] == "single_label_classification"
    whole, alone = (
        safetensors.numpy.load_file(folder / "model.safetensors") for folder in (run / "export", tmp_path / "whom")
    )
    for name, array in whole.items():
        np.testing.assert_array_equal(alone[name], array[3:] if name.startswith("classifier.") else array)
    for flags, words in (
        (("--task", "whm"), "--task=whm is not one of the run's tasks. Did you mean whom?"),
        (("--task", "whom", "--format", "peft"), "by --format=hf, alone"),
    ):
        done = launch("--run", run, "--format", "hf", *flags, "--output", tmp_path / "x", program="fjt.export")
        assert done.code == 2 and words in done.text and not (tmp_path / "x").exists()
