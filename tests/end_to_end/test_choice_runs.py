"""Runs that choose among continuations: from a table to choices of new texts in every form."""

import csv
import json

import numpy as np
import pytest
import squad_files
from process import ROOT

import fjt

COLOURS = ("red", "green", "blue", "white")


def rows_of(seed, count):
    """Rows in SWAG's columns: the right ending has the colour that the first sentence tells."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        order, label = rng.permutation(COLOURS), int(rng.integers(4))
        first = f"{rng.choice(squad_files.NAMES)} has {order[label]} , {' '.join(rng.choice(squad_files.FILLERS, 5))}"
        rows.append({"sent1": first, "sent2": "it was"} | {f"ending{k}": order[k] for k in range(4)} | {"label": label})
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory, launch):
    """The work directory of a run from random weights; its tables and vocabulary are beside it."""
    folder = tmp_path_factory.mktemp("choices")
    for name, seed, count in (("train", 0, 800), ("dev", 1, 80)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            rows = rows_of(seed, count)
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    words = sorted({*squad_files.NAMES, *COLOURS, *squad_files.FILLERS, "has", "it", "was", ","})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    config = {
        "data.files.train": folder / "train.csv", "data.files.dev": folder / "dev.csv", "model.path": "",
        "model.scratch.vocab": folder / "vocab.txt", "model.scratch.layers": 2, "model.scratch.width": 64,
        "model.scratch.heads": 4, "model.scratch.inner": 128, "model.max_length": 32, "train.epochs": 8,
        "train.batch_size": 16, "optim.learning_rate": 2e-3, "cache.dir": folder / "cache", "eval.every_epochs": 4,
        "mesh.data": 1,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", f"{ROOT}/configs/choice.py", *flags, "--workdir", folder / "run")
    assert done.code == 0, done.text
    return folder / "run"


def test_choices_are_learned_scored_and_exported(run):
    result = json.loads((run / "result.json").read_text())
    assert list(result["metrics"]) == ["accuracy"] and result["metrics"]["accuracy"] > 0.7
    about = json.loads((run / "export" / "config.json").read_text())
    assert about["architectures"] == ["BertForMultipleChoice"]
    header, *rows = [line.split("\t") for line in (run / "predictions" / "dev.tsv").read_text().splitlines()]
    same = np.mean([row[header.index("label")] == row[header.index("predicted")] for row in rows])
    assert abs(same - result["metrics"]["accuracy"]) < 1e-12 and len(rows) == 80


def test_new_texts_have_choices_of_any_number(run, launch, tmp_path):
    new = rows_of(2, 60)
    texts = [row["sent1"] for row in new]
    given = [[f"it was {row[f'ending{k}']}" for k in range(4)] for row in new]
    found = fjt.load_run(run).predict(texts, given)
    assert np.mean([name == str(row["label"]) for name, row in zip(found["labels"], new, strict=True)]) > 0.7
    assert found["choice"] == [choices[int(name)] for choices, name in zip(given, found["labels"], strict=True)]
    fewer = fjt.load_run(run).predict(texts[:2], [given[0][:2], given[1][1:]])
    assert [len(row) for row in fewer["probabilities"]] == [2, 3]
    logits = [row[:, 0] for row in fewer["logits"]]  # a choice's logit does not depend on the others
    np.testing.assert_allclose(logits[0], found["logits"][0][:2, 0], atol=1e-5)
    np.testing.assert_allclose(logits[1], found["logits"][1][1:, 0], atol=1e-5)
    with pytest.raises(fjt.UserError, match=r"choices of each text are missing \(`pairs`\)"):
        fjt.load_run(run).predict(texts)
    with pytest.raises(fjt.UserError, match=r"pairs\[0\]: 1 choices; a row needs 2"):
        fjt.load_run(run).predict(texts, ["it was red", "it was blue"])
    (tmp_path / "new.txt").write_text("\t".join([texts[0], *given[0][:2]]) + "\n")
    done = launch(
        "--run", run, "--input", tmp_path / "new.txt", "--output", tmp_path / "a.jsonl", program="fjt.predict"
    )
    assert done.code == 0, done.text
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["predicted"] == fewer["labels"][0] and row["choice"] == fewer["choice"][0] and row["probability"] >= 0.5
    output = tmp_path / "dev.tsv"
    done = launch("--run", run, "--input", run.parent / "dev.csv", "--output", output, program="fjt.predict")
    assert done.code == 0, done.text
    header, *rows = [line.split("\t") for line in output.read_text().splitlines()]
    before = [line.split("\t") for line in (run / "predictions" / "dev.tsv").read_text().splitlines()]
    column = [row[before[0].index("predicted")] for row in before[1:]]
    assert header == ["id", "text", "predicted", "probability", "choice"] and [row[2] for row in rows] == column
