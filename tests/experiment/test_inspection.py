"""An inspection finds each planted fault, with its count and places, and nothing in a table without faults."""

import dataclasses
import json

import made_faults
import numpy as np
import pytest
from made_faults import WORDS, inspect, named

from fjt import configs
from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.options import FilesConfig, Settings
from fjt.core.settings import from_config
from fjt.data.tokenization import load_tokenizer
from fjt.experiment import inspection


@pytest.fixture
def rows():
    return made_faults.make()


def test_a_table_without_faults_has_no_finding(tmp_path, rows):
    facts = inspect(tmp_path, rows)
    assert facts["findings"] == []
    assert {name: one["rows"] for name, one in facts["splits"].items()} == made_faults.SIZES
    train = facts["splits"]["train"]
    assert train["labels"] == {"counts": {"no": 200, "yes": 200}} and train["unknown"] == 0
    assert train["lengths"] == {"5 %": 16, "50 %": 16, "95 %": 16, "longest": 16}  # with [CLS] and [SEP]
    assert sum(train["histogram"]["rows"]) == 400 and train["longer"] == dict.fromkeys(("64", "128", "256", "512"), 0.0)
    assert [(one["column"], one["values"]) for one in facts["columns"]] == [("text", 400), ("source", 3)]


def test_an_exact_leak(tmp_path, rows):
    for row in range(3):
        rows["dev"][row]["text"] = rows["train"][10 + row]["text"].replace(" ", "  ", 1)
    rows["test"][7]["text"] = rows["dev"][50]["text"]
    facts = inspect(tmp_path, rows)
    found = named(facts, "text is also in train", "dev")
    assert (found["count"], found["share"], found["severity"]) == (3, 0.03, "serious")
    assert [(one["place"], one["like"]) for one in found["examples"]] == [
        (f"dev:{r}", f"train:{10 + r}") for r in range(3)
    ]
    assert "config.data.clean=leaks" in found["action"]
    assert named(facts, "text is also in dev", "test")["count"] == 1
    assert named(facts, "text is also in train", "test") is None
    cleaned = inspect(tmp_path, rows, data__clean=("leaks",))
    assert named(cleaned, "text is also in train", "dev") is None and cleaned["dropped"] == {"leaks": 3}


def test_a_near_leak(tmp_path, rows):
    words = rows["train"][5]["text"].split()
    rows["test"][9]["text"] = " ".join([*words[:-1], "leftover"]).upper()  # 12 of the 14 pairs of either are shared
    found = named(inspect(tmp_path, rows), "text is nearly equal to one in train", "test")
    assert found["count"] == 1 and found["examples"][0]["like"] == "train:5"
    assert found["severity"] == "warning"


def test_duplicates(tmp_path, rows):
    for row in range(100, 108):
        rows["train"][row] = dict(rows["train"][0])
    found = named(inspect(tmp_path, rows), "duplicate", "train")
    assert (found["count"], found["share"], found["severity"]) == (8, 0.02, "warning")
    assert found["examples"][0]["place"] == "train:100" and len(found["examples"]) == 5


def test_near_duplicates(tmp_path, rows):
    for row in range(200, 204):
        rows["train"][row] = rows["train"][1] | {"text": rows["train"][1]["text"] + " " + WORDS[row - 200] + "!"}
    facts = inspect(tmp_path, rows)
    found = named(facts, "near-duplicate", "train")
    assert found["count"] == 4 and found["examples"][0]["like"] == "train:1"
    assert named(facts, "duplicate", "train") is None


def test_conflicting_labels(tmp_path, rows):
    for row, label in ((300, "no"), (301, "yes"), (302, "yes")):
        rows["train"][row] = {"text": "bilon damar", "label": label, "source": "web"}
    found = named(inspect(tmp_path, rows), "same text, different labels", "train")
    assert found["count"] == 3 and [one["label"] for one in found["examples"]] == ["no", "yes", "yes"]


def test_labels_of_other_shares(tmp_path, rows):
    """dev has 90 of 100 rows of one label, train 200 of 400: a distance of 0.4 and p by hand."""
    for number, row in enumerate(rows["dev"]):
        row["label"] = "yes" if number < 90 else "no"
    facts = inspect(tmp_path, rows)
    found = named(facts, "other labels than in train", "dev")
    assert found["severity"] == "serious" and found["share"] == pytest.approx(0.4)
    # chi-squared of [[200, 200], [10, 90]]: 500 (200 * 90 - 200 * 10)^2 / (400 * 100 * 210 * 290) = 52.54, 1 d.f.
    assert facts["skew"]["dev"]["p"] == pytest.approx(4.2e-13, rel=0.05)
    assert facts["skew"]["test"]["p"] == 1.0 and named(facts, "other labels than in train", "test") is None


def test_empty_texts(tmp_path, rows):
    rows["train"][3]["text"], rows["dev"][4]["text"] = " ", ""
    facts = inspect(tmp_path, rows)
    assert named(facts, "empty text", "train")["examples"][0]["place"] == "train:3"
    assert named(facts, "empty text", "dev")["severity"] == "serious"
    record = inspection.inspect(made_faults.settings(tmp_path, rows), console.Silent())
    assert "the text is empty" in record["plan"]["impossible"] and record["tasks"]["table"]["findings"]


def test_texts_that_are_cut(tmp_path, rows):
    for row in range(40):
        rows["train"][row]["text"] = " ".join(np.random.default_rng(row).choice(WORDS, 100))
    facts = inspect(tmp_path, rows, model__max_length=64)
    found = named(facts, "longer than 64 tokens, cut", "train")
    assert (found["count"], found["severity"]) == (40, "warning")
    assert facts["splits"]["train"]["longer"] == {"64": 0.1, "128": 0.0, "256": 0.0, "512": 0.0}
    whole, cut = (inspect(tmp_path, rows, model__max_length=length) for length in (102, 101))
    assert whole["splits"]["train"]["longer"]["102"] == 0.0 and cut["splits"]["train"]["longer"]["101"] == 0.1
    assert not whole["findings"] and named(cut, "longer than 101 tokens, cut", "train")["count"] == 40


def test_a_constant_column_and_one_that_is_the_label(tmp_path, rows):
    for row in rows["train"]:
        row |= {"version": "3", "answer": {"no": "0", "yes": "1"}[row["label"]]}
    facts = inspect(tmp_path, rows)
    assert named(facts, "constant column version", "train")["severity"] == "notice"
    found = named(facts, "column answer alone predicts the label", "train")
    assert found["share"] == 1.0 and found["severity"] == "warning"  # the model does not read it
    told = {one["column"]: one["explained"] for one in facts["columns"]}
    assert told["answer"] == 1.0 and told["version"] is None and told["source"] < 0.2


@pytest.mark.thorough
def test_a_column_of_numbers_that_tells_the_label(tmp_path, rows):
    rng = np.random.default_rng(1)
    for row in rows["train"]:
        row["length"] = f"{rng.uniform(0, 1) + (row['label'] == 'yes'):.6f}"
    assert named(inspect(tmp_path, rows), "column length alone predicts the label", "train")["share"] > 0.95


@pytest.mark.thorough
def test_a_second_text_that_gives_the_label_away(tmp_path, rows):
    for split in rows.values():
        for row in split:
            row["pair"] = {"no": "bilon", "yes": "damar"}[row["label"]]
    found = named(
        inspect(tmp_path, rows, data__columns__text_pair="pair"), "column pair alone predicts the label", "train"
    )
    assert found["severity"] == "serious"


def test_a_token_that_gives_the_label_away(tmp_path, rows):
    tagged = [row for row in rows["train"] if row["label"] == "yes"][:150]
    for row in tagged:
        row["text"] += " leftover"
    facts = inspect(tmp_path, rows)
    found = named(facts, "token that gives the label away", "train")
    assert found["severity"] == "serious" and found["share"] == 0.75
    assert found["examples"][0] == facts["tokens"][0]
    # phi of [[150, 50], [0, 200]]: 150 * 200 / sqrt(200 * 200 * 150 * 250) = 0.7746
    measured = facts["tokens"][0]
    assert (measured["token"], measured["label"], measured["rows"]) == ("leftover", "yes", 150)
    numbers = [measured[name] for name in ("correlation", "precision", "lift", "coverage")]
    assert numbers == pytest.approx([0.7746, 1.0, 2.0, 0.75], rel=1e-4)


def test_unknown_tokens(tmp_path, rows):
    for row in range(20):
        rows["test"][row]["text"] = "\u2603 \u2603 " + rows["test"][row]["text"]
    found = named(inspect(tmp_path, rows), "unknown tokens", "test")
    assert found["count"] == 40 and found["severity"] == "warning"
    assert found["share"] == pytest.approx(40 / (100 * 16 + 40)) and found["examples"][0]["unknown"] == 2


@pytest.mark.thorough
def test_rare_and_overwhelming_labels(tmp_path, rows):
    for number, row in enumerate(rows["train"]):
        row["label"] = "maybe" if number < 4 else "yes" if number < 20 else "no"
    facts = inspect(tmp_path, rows)
    rare = named(facts, "label with fewer than 10 rows", "train")
    assert rare["severity"] == "warning" and rare["examples"] == ({"label": "maybe", "training rows": 4},)
    assert named(facts, "nearly all rows have the label no", "train")["count"] == 380


@pytest.mark.thorough
def test_scores_have_their_own_tests(tmp_path, rows):
    rng = np.random.default_rng(2)
    for split in rows.values():
        for row in split:
            row["label"] = f"{rng.normal():.4f}"
    assert inspect(tmp_path, rows, "regression")["findings"] == []
    for row in rows["dev"]:
        row["label"] = f"{float(row['label']) + 2:.4f}"
    for row in rows["train"][:200]:
        row |= {"label": f"{float(row['label']) + 6:.4f}", "text": row["text"] + " leftover"}
    facts = inspect(tmp_path, rows, "regression")
    assert facts["skew"]["dev"]["test"] == "Kolmogorov-Smirnov" and facts["skew"]["dev"]["distance"] > 0.3
    assert facts["tokens"][0]["token"] == "leftover" and facts["tokens"][0]["correlation"] > 0.9
    assert set(facts["splits"]["train"]["labels"]["quartiles"]) == {"score"}


@pytest.mark.thorough
def test_sets_of_labels(tmp_path, rows):
    for split in rows.values():
        for number, row in enumerate(split):
            row["label"] = ",".join(name for name, every in (("a", 2), ("b", 4)) if number % every == 0)
    for row in rows["dev"]:
        row["label"] = "a,b"
    facts = inspect(tmp_path, rows, "multi_label")
    assert facts["splits"]["train"]["labels"] == {"counts": {"a": 200, "b": 100}}
    assert facts["skew"]["dev"]["distance"] == pytest.approx(0.75)  # b: all for a quarter
    assert named(facts, "other labels than in train", "dev")["severity"] == "serious"


def read(folder, name, rows, write, **options):
    """The facts of an inspection of `configs/<name>.py` on files that `write` writes; rows: {split: rows}."""
    made = configs.load(name, options)[0]
    made["model"] |= {"path": "", "scratch": made["model"]["scratch"] | {"vocab": made_faults.vocabulary(folder)}}
    made["data"]["files"] = {split: str(write(folder, split, part)) for split, part in rows.items()}
    made["data"]["files"].setdefault("test", "")
    return inspection.inspect_task(
        from_config(made).experiment, load_tokenizer(made_faults.vocabulary(folder)), "", console.Silent()
    )


def texts(count, seed, size=14):
    rng = np.random.default_rng(seed)
    return [list(map(str, rng.choice(WORDS, size))) for _ in range(count)]


def write_words(folder, split, rows):
    path = folder / f"{split}.conll"
    blocks = ["".join(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True)) for words, tags in rows]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def write_lines(folder, split, rows):
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_tagged_words(tmp_path):
    tags = ["B-a", "I-a", *["O"] * 11, "B-b"]
    rows = {split: [(words, tags) for words in texts(40, seed)] for seed, split in enumerate(("train", "dev"))}
    assert read(tmp_path, "ner", rows, write_words)["findings"] == []
    rows["dev"][:4] = rows["train"][:4]
    rows["train"][9] = (rows["train"][8][0], ["O"] * 14)
    facts = read(tmp_path, "ner", rows, write_words)
    assert named(facts, "text is also in train", "dev")["count"] == 4
    assert named(facts, "same text, different labels", "train")["count"] == 2
    assert facts["splits"]["train"]["labels"]["counts"]["O"] == 39 * 11 + 14 and facts["tokens"] == []
    longer = read(tmp_path, "ner", rows, write_words, model__max_length=8)
    assert named(longer, "longer than 8 tokens, read in windows", "train")["severity"] == "notice"


def test_questions_and_contexts(tmp_path):
    """Two questions about one context are not alike, however long the context is."""

    def questions(split, seed):
        contexts = [" ".join(words) for words in texts(20, seed, 60)]
        asked = [" ".join(words) for words in texts(40, seed + 10, 8)]
        return [
            {"question": text, "context": contexts[i // 2], "id": f"{split}{i}", "title": f"t{i // 2}"}
            | {"answers": [{"text": contexts[i // 2].split()[0], "answer_start": 0}]}
            for i, text in enumerate(asked)
        ]

    rows = {split: questions(split, seed) for seed, split in enumerate(("train", "dev"))}
    assert read(tmp_path, "squad", rows, write_lines)["findings"] == []
    rows["train"][5] = rows["train"][4] | {"id": "again"}
    rows["train"][7] = rows["train"][6] | {"id": "other", "answers": [{"text": WORDS[0], "answer_start": 0}]}
    rows["train"][7]["context"] = rows["train"][6]["context"] = f"{WORDS[0]} {rows['train'][6]['context']}"
    rows["train"][6]["answers"] = [{"text": rows["train"][6]["answers"][0]["text"], "answer_start": 6}]
    facts = read(tmp_path, "squad", rows, write_lines)
    assert named(facts, "duplicate", "train")["examples"][0]["place"] == "train:again"
    assert named(facts, "same text, different labels", "train")["count"] == 2


def test_choices(tmp_path):
    def chosen(seed):
        made = [list(map(" ".join, texts(3, 100 * seed + i, 10))) for i in range(40)]
        return [{"text": text, "ending": endings, "label": i % 2} for i, (text, *endings) in enumerate(made)]

    rows = {split: chosen(seed) for seed, split in enumerate(("train", "dev"))}
    options = {
        "data__columns__text": "text",
        "data__columns__text_pair": "",
        "data__columns__choices": ("ending",),
        "data__columns__label": "label",
    }
    assert read(tmp_path, "choice", rows, write_lines, **options)["findings"] == []
    rows["dev"][0] = dict(rows["train"][0])
    rows["dev"][1]["text"] = rows["train"][1]["text"]  # with other choices
    facts = read(tmp_path, "choice", rows, write_lines, **options)
    assert named(facts, "text is also in train", "dev")["count"] == 1
    assert facts["splits"]["train"]["lengths"]["longest"] == 2 * 10 + 3  # of one choice
    for row in rows["dev"]:
        row["label"] = 0
    assert named(read(tmp_path, "choice", rows, write_lines, **options), "other labels than in train", "dev")


def test_documents(tmp_path):
    def write(folder, split, rows):
        path = folder / f"{split}.txt"
        path.write_text("\n\n".join(map(" ".join, rows)), encoding="utf-8")
        return path

    rows = {split: texts(30, seed, 200) for seed, split in enumerate(("train", "dev"))}
    rows["dev"][2] = rows["train"][3]
    facts = read(tmp_path, "pretrain", rows, write)
    assert named(facts, "text is also in train", "dev")["count"] == 1
    assert facts["splits"]["dev"]["labels"] == {} and facts["skew"] == {} and facts["tokens"] == []
    assert named(facts, "longer than 128 tokens, read in windows", "train")["count"] == 30


@pytest.mark.thorough
def test_each_of_several_tasks(tmp_path, rows):
    files = made_faults.settings(tmp_path, rows).experiment.data.files
    tables = tuple((task, split, vars(files)[split]) for task in ("one", "two") for split in ("train", "dev"))
    made = made_faults.settings(tmp_path, rows, task="one+two", data__tables=tables, data__files__train="")
    made = dataclasses.replace(made.experiment, data=dataclasses.replace(made.experiment.data, files=FilesConfig()))
    record = inspection.inspect(Settings(made), console.Silent())
    assert list(record["tasks"]) == ["one", "two"] and record["plan"]["steps"] > 0
    assert record["tasks"]["two"]["splits"]["train"]["labels"] == {"counts": {"no": 200, "yes": 200}}


@pytest.mark.thorough
def test_the_record_has_the_plan(tmp_path, rows):
    made = made_faults.settings(tmp_path, rows, train__steps=3, train__batch_size=8)
    record = inspection.inspect(made, console.Silent())
    assert list(record["tasks"]) == ["table"] and record["tasks"]["table"]["findings"] == []
    assert record["plan"]["steps"] == 3 and record["plan"]["memory"]["weights"] > 0
    assert record["plan"]["real_tokens"]["longest_of_batch"] == 1.0  # all rows have one length
    assert record["plan"]["real_tokens"]["max_length"] == pytest.approx(16 / 128)


def test_data_are_inspected_without_weights(tmp_path, rows):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert", "vocab_size": 206, "hidden_size": 32, '
        '"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 128, '
        '"type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}')  # fmt: skip
    made_faults.vocabulary(model)
    record = inspection.inspect(made_faults.settings(tmp_path, rows, model__path=str(model)), console.Silent())
    assert record["tasks"]["table"]["findings"] == [] and "no model.safetensors" in record["plan"]["impossible"]
    with pytest.raises(UserError, match=r"config\.model\.path"):
        inspection.inspect(made_faults.settings(tmp_path, rows, model__path=str(tmp_path / "none")), console.Silent())
