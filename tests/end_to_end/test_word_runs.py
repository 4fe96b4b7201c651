"""Runs that label words: from CoNLL files to entities, exports, and new text in every form."""

import json

import numpy as np
import pytest
from process import ROOT

import fjt
from fjt.data import conll
from fjt.tasks import spans

NAMES, PLACES = ("ada", "bo", "carl"), ("paris", "rome", "new rome", "old oslo")
FILLERS = "the people of this town often ask why they were late . ,".split()


def sentence(rng, words):
    """(words, tags) of at least so many words, with names and places among them."""
    found = []
    while len(found) < words:
        draw = rng.random()
        if draw < 0.2:
            found.append((str(rng.choice(NAMES)), "B-person"))
        elif draw < 0.4:
            first, *rest = str(rng.choice(PLACES)).split()
            found += [("in", "O"), (first, "B-place"), *((word, "I-place") for word in rest)]
        else:
            found.append((str(rng.choice(FILLERS)), "O"))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train, dev (their last sentences longer than a window) and a vocabulary that has the words."""
    folder, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    for name, lengths in (("train", [6] * 100 + [90] * 8), ("dev", [6] * 30 + [90])):
        (folder / f"{name}.conll").write_text(conll.text(sentence(rng, length) for length in lengths))
    words = sorted({*NAMES, *" ".join(PLACES).split(), *FILLERS, "in"})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(folder, launch):
    """The work directory of a run from random weights."""
    config = {
        "data.files.train": folder / "train.conll", "data.files.dev": folder / "dev.conll", "model.path": "",
        "model.scratch.vocab": folder / "vocab.txt", "model.scratch.layers": 1, "model.scratch.width": 32,
        "model.scratch.heads": 2, "model.scratch.inner": 64, "model.max_length": 32, "train.epochs": 20,
        "train.batch_size": 24, "optim.learning_rate": 1e-2, "cache.dir": folder / "cache", "eval.every_epochs": 10,
        "mesh.data": 1,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", f"{ROOT}/configs/ner.py", *flags, "--workdir", folder / "run")
    assert done.code == 0, done.text
    return folder / "run"


def test_entities_are_learned_scored_and_exported(run, folder):
    result = json.loads((run / "result.json").read_text())
    assert list(result["metrics"]) == ["entity_f1", "entity_precision", "entity_recall", "token_accuracy"]
    assert result["metrics"]["entity_f1"] > 0.9
    evaluations = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert result["steps"] == 20 * 6 and evaluations == [
        60,
        120,
    ]  # 132 windows, not 108 sentences
    assert {row["label"]: row["support"] for row in result["per_class"]}.keys() == {"person", "place"}
    about = json.loads((run / "export" / "config.json").read_text())
    assert about["architectures"] == ["BertForTokenClassification"] and about["problem_type"] is None
    assert list(about["id2label"].values()) == ["O", "B-person", "I-person", "B-place", "I-place"]
    rows = [line.split("\t") for line in (run / "predictions" / "dev.tsv").read_text().splitlines()]
    column = {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}
    counts = [len(text.split()) for text in column["text"]]
    assert max(counts) >= 90 and len(counts) == 31  # a sentence longer than a window has a tag for each word
    assert counts == [len(tags.split()) for tags in column["predicted"]]
    with np.load(run / "predictions" / "dev.npz") as arrays:
        assert np.diff(arrays["label_offsets"]).tolist() == np.diff(arrays["logits_offsets"]).tolist() == counts
        label = arrays["label"]
    predicted, true = ([tag for tags in column[name] for tag in tags.split()] for name in ("predicted", "label"))
    same = np.mean([a == b for a, b in zip(predicted, true, strict=True)])
    assert abs(same - result["metrics"]["token_accuracy"]) < 1e-12 and len(label) == len(true)


def test_entities_of_plain_text_have_their_places(run):
    text = "ADA were late,  in New rome."
    found = fjt.load_run(run).predict([text, ["bo", "often"]])
    assert found["words"][0] == ("ADA", "were", "late", ",", "in", "New", "rome", ".")
    assert [len(logits) for logits in found["logits"]] == [8, 2]
    assert [(one["type"], one["text"]) for one in found["entities"][0]] == [("person", "ADA"), ("place", "New rome")]
    for one in found["entities"][0]:
        assert text[one["start"] : one["end"]] == one["text"] and 0.3 < one["score"] <= 1
    assert [one["text"] for one in found["entities"][1]] == ["bo"]
    tags = [spans.parse(tag, "") for tag in found["labels"][0]]
    assert len(spans.read(tags)[0]) == 2


def test_calls_share_programs(run):
    """Whatever the numbers of words are, which the shapes of batches hold too."""
    loaded = fjt.load_run(run)
    function = loaded._predictor.program
    loaded.predict([["ada"] * 9] * 4)
    before = function._cache_size()
    for words in range(9, 16):
        loaded.predict([["ada"] * words] * 4)
    assert function._cache_size() <= before + 1


def test_new_text_is_labelled_in_every_form(run, launch, tmp_path):
    (tmp_path / "new.txt").write_text("ada ask bo.\nthe town\n")
    (tmp_path / "new.conll").write_text("# id = 1\nada X\nask Y\n\nthe Z\ntown Z\n")
    (tmp_path / "new.jsonl").write_text('{"text": ["ada", "ask"]}\n{"text": "in old oslo"}\n')

    def label(source, output, *more):
        arguments = ("--run", run, "--input", tmp_path / source, "--output", tmp_path / output, *more)
        done = launch(*arguments, program="fjt.predict")
        assert done.code == 0, done.text
        return (tmp_path / output).read_text()

    rows = [json.loads(line) for line in label("new.txt", "a.jsonl").splitlines()]
    assert [row["words"] for row in rows] == [["ada", "ask", "bo", "."], ["the", "town"]]
    assert rows[0]["predicted"] == ["B-person", "O", "B-person", "O"]
    assert [one["start"] for one in rows[0]["entities"]] == [0, 8] and rows[1]["entities"] == []
    assert label("new.conll", "b.conll") == "# id = 1\nada X B-person\nask Y O\n\nthe Z O\ntown Z O\n"
    assert label("new.jsonl", "c.conll") == "ada\tB-person\nask\tO\n\nin\tO\nold\tB-place\noslo\tI-place\n"
    converted = label("new.jsonl", "e.conll", "--scheme", "bioes")
    assert converted == "ada\tS-person\nask\tO\n\nin\tO\nold\tB-place\noslo\tE-place\n"
    header, first, _ = label("new.txt", "d.tsv").splitlines()
    assert header.split("\t") == ["id", "text", "words", "predicted", "entities"]
    assert first.split("\t")[3] == "B-person O B-person O" and json.loads(first.split("\t")[4])[0]["text"] == "ada"
