"""New text labelled by a finished run, as a command and from Python."""

import csv
import dataclasses
import inspect
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import small
from process import ROOT, tiny

import fjt
from fjt import predict
from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.experiment import finished as finished_run
from fjt.experiment import new_texts, predictor

LABELS = ["acceptable", "unacceptable"]


@pytest.fixture(scope="module")
def run(finished):
    return fjt.load_run(finished[0])


@pytest.fixture(scope="module")
def dev(finished, tables):
    """(texts, logits f32[90, 2]) of dev, as the run predicted them."""
    with open(tables / "dev.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with np.load(finished[0] / "predictions" / "dev.npz") as arrays:
        return texts, arrays["logits"]


def read_table(path, delimiter):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_from_python(run, dev, finished):
    texts, logits = dev
    predicted = run.predict(texts)
    np.testing.assert_allclose(predicted["logits"], logits, rtol=1e-5, atol=1e-6)
    assert predicted["labels"] == [LABELS[i] for i in logits.argmax(axis=-1)]
    np.testing.assert_allclose(predicted["probabilities"].sum(axis=-1), 1.0)
    few = run.predict(texts[7:9])  # in another company, in other rows
    np.testing.assert_allclose(few["logits"], logits[7:9], rtol=1e-5, atol=1e-6)
    assert run.result["metrics"] == json.loads((finished[0] / "result.json").read_text())["metrics"]
    assert run.config["train"]["batch_size"] == 24 and run.label_names == tuple(LABELS)
    assert [row["step"] for row in run.records["eval"]] == [4, 8, 12] and len(run.records["train"]) == 12


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".txt"])
def test_parts_make_the_same_output(finished, dev, tmp_path, monkeypatch, capfdbinary, suffix):
    """In whichever parts texts are read: every row once, in order, with its number and its own prediction."""
    texts, logits = dev
    source, output = tmp_path / f"new{suffix}", tmp_path / "out.tsv"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), source)
    elif suffix == ".txt":
        source.write_text("\n".join(texts))
    else:
        line = {".csv": lambda text: f'"{text}"', ".jsonl": lambda text: json.dumps({"text": text})}[suffix]
        source.write_text("\n".join(["text"] * (suffix == ".csv") + list(map(line, texts))))
    seen = []
    label = finished_run.Run.label
    monkeypatch.setattr(
        finished_run.Run, "label", lambda run, split, *a: seen.append(len(split)) or label(run, split, *a)
    )
    monkeypatch.setattr(predict, "PART", 40)
    assert predict.main(["", "--run", str(finished[0]), "--input", str(source), "--output", str(output)]) == 0
    assert seen == [40, 40, 10]
    rows = read_table(output, "\t")
    assert [row["id"] for row in rows] == list(map(str, range(90))) and [row["text"] for row in rows] == texts
    assert [row["predicted"] for row in rows] == [LABELS[i] for i in logits.argmax(axis=-1)]
    assert predict.main(["", "--run", str(finished[0]), "--input", str(source), "--output", "-"]) == 0
    assert capfdbinary.readouterr().out.endswith(output.read_bytes())  # without progress in between


def test_bad_rows_of_all_parts_are_told_before_any_text_is_labelled(finished, tmp_path, monkeypatch, capsys):
    rows = [json.dumps({"text": f"text {i}" if i % 4 else 7}) for i in range(30)]
    (tmp_path / "new.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(predict, "PART", 10)
    monkeypatch.setattr(finished_run.Run, "label", lambda *_: pytest.fail("labelled"))
    command = ["--run", str(finished[0]), "--input", str(tmp_path / "new.jsonl"), "--output", str(tmp_path / "a.tsv")]
    assert predict.main(["", *command]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "8 bad rows" in text and "new.jsonl:1:" in text and "new.jsonl:29:" in text
    assert not (tmp_path / "a.tsv").exists()


def test_weights_that_are_not_those_of_the_run_are_refused(finished, tmp_path):
    """One bit of a weight is a finite number and gives a prediction: only a sum can tell."""
    copy = shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    path = next(copy.glob("export/**/*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-2] ^= 4
    path.write_bytes(data)
    changed = fjt.load_run(copy)
    for call in (lambda: changed.predict(["a text"]), lambda: changed.export(tmp_path / "export")):
        with pytest.raises(UserError, match=rf"{path.name} is damaged \(it is not the file that the run wrote\)"):
            call()
    result = json.loads((copy / "result.json").read_text())
    del result["export_sha256"]  # of an earlier version
    (copy / "result.json").write_text(json.dumps(result))
    assert len(fjt.load_run(copy).predict(["a text"])["labels"]) == 1


def test_logits_that_are_not_finite_give_no_labels(monkeypatch):
    logits = np.zeros((30, 2), np.float32)
    logits[[3, 17], 1] = np.nan, np.inf
    examples = small.make_examples(30)
    given = small.double(predictor.Predictor, logits=lambda examples: logits, tokenize=lambda split: examples)
    run = small.double(
        finished_run.Run, path="runs/a", pairs=False, task=Task("a", "classification", ("0", "1"), ()), _predictor=given
    )
    monkeypatch.setattr(finished_run.Run, "check_export", lambda run: None)
    with pytest.raises(UserError, match=r"2 texts .*: 3, 17 \(counted from 0\).*another run than runs/a"):
        run.predict(["a text"] * 30)
    slots = {"slot_token": np.tile([0, 1], 30).astype(np.int32), "slot_offsets": np.arange(0, 61, 2)}
    examples = dataclasses.replace(examples, label=np.zeros(60, np.int32), **slots)
    logits = np.repeat(logits, 2, axis=0)
    with pytest.raises(UserError, match=r"2 texts .*: 3, 17 \(counted from 0\)"):
        run.predict(["a text"] * 30)


@pytest.mark.parametrize(
    ("trained", "column", "given", "expected"),
    [
        ("train.csv", "review", "new.csv", "review"),
        ("train.csv", "0", "new.csv", "0"),  # of a file without a header
        ("train.csv", "form", "new.tsv", "form"),
        ("train.jsonl", "tokens", "new.conll", "0"),
        ("train.jsonl", "tokens", "new.conllu", "form"),
        ("train.conll", "1", "new.iob", "1"),
        ("train.conllu", "form", "new.conll", "0"),
        ("train.conll", "0", "new.jsonl", "text"),
    ],
)
def test_the_column_of_texts_is_the_run_s_own_where_the_input_has_such(trained, column, given, expected):
    data = {"columns": {"text": column}, "files": {"train": trained}}
    assert new_texts.text_column(small.double(finished_run.Run, config={"data": data}), given) == expected


def test_calls_share_programs(run, dev):
    texts, _ = dev
    function = run._predictor.program
    run.predict(texts[:5])
    before = function._cache_size()
    for start in range(0, 60, 5):
        run.predict(texts[start : start + 5])
    assert function._cache_size() <= before + 1


def test_refusals_from_python(run, finished, tmp_path):
    def refused(word, call):
        with pytest.raises(UserError, match=word):
            call()

    refused("one str", lambda: run.predict("a text"))
    refused("no texts", lambda: run.predict([]))
    predict = inspect.unwrap(type(run).predict)  # as a user calls it, without the checker of types
    refused(r"texts\[1\]: 3", lambda: predict(run, ["a", 3]))
    refused("single texts", lambda: run.predict(["a"], ["b"]))
    refused(
        r"2 bad rows:\n  texts\[0\]: .*not valid Unicode.*\n  texts\[2\]",
        lambda: run.predict(["\ud83d", "a", "\udc00b"]),
    )
    refused("no config.json", lambda: fjt.load_run(tmp_path))
    refused("matches no run", lambda: fjt.results(tmp_path / "*"))
    shutil.copytree(finished[0], tmp_path / "half")
    (tmp_path / "half" / "DONE").unlink()
    refused("not finished", lambda: fjt.load_run(tmp_path / "half"))


def test_results(finished, tmp_path):
    for name in ("b", "a"):
        shutil.copytree(finished[0], tmp_path / name)
    shutil.copytree(finished[0], tmp_path / "c")
    (tmp_path / "c" / "result.json").unlink()
    (tmp_path / "other").mkdir()
    rows = fjt.results(tmp_path / "*")
    assert [(row["workdir"], row["failed"]) for row in rows] == [
        (str(tmp_path / "a"), None),
        (str(tmp_path / "b"), None),
        (str(tmp_path / "c"), "no result"),
    ]
    assert rows[0]["metrics"] == fjt.load_run(finished[0]).result["metrics"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".txt"])
def test_inputs_and_outputs(suffix, finished, tables, dev, launch, tmp_path):
    """Each format in, each format out, the numbers of the run in all of them."""
    texts, logits = dev
    path, arguments = tmp_path / f"new{suffix}", ["--id", "key"]
    output = (
        tmp_path / {".csv": "o.tsv", ".tsv": "o.csv", ".jsonl": "o.jsonl", ".parquet": "o.npz", ".txt": "o.tsv"}[suffix]
    )
    keys = [f"dev-{i}" for i in range(90)]
    if suffix == ".csv":
        shutil.copy(tables / "dev.csv", path)
    elif suffix == ".tsv":
        path.write_text("".join(f"{key}\t{text}\n" for key, text in zip(keys, texts, strict=True)))
        arguments = ["--no-header", "--text", "1", "--id", "0"]
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"key": k, "says": t}) + "\n" for k, t in zip(keys, texts, strict=True)))
        arguments += ["--text", "says"]
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"key": keys, "text": texts}), path)
    else:
        path.write_text("".join(f"{text}\n" for text in texts))
        arguments, keys = [], [str(i) for i in range(90)]
    done = launch("--run", finished[0], "--input", path, "--output", output, *arguments, program="fjt.predict")
    assert done.code == 0, done.text
    assert "90 texts" in done.text and not list(tmp_path.glob("*.tmp"))
    wanted = [LABELS[i] for i in logits.argmax(axis=-1)]
    share = np.exp(logits[:, 0]) / np.exp(logits).sum(axis=-1)
    if output.suffix == ".npz":
        with np.load(output) as arrays:
            assert arrays["id"].tolist() == keys and arrays["predicted"].tolist() == wanted
            np.testing.assert_allclose(arrays["logits"], logits, rtol=1e-5, atol=1e-6)
        return
    if output.suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        rows = read_table(output, "\t" if output.suffix == ".tsv" else ",")
    assert list(rows[0]) == ["id", "text", "predicted", "probability", "p(acceptable)", "p(unacceptable)"]
    assert [row["id"] for row in rows] == keys and [row["text"] for row in rows] == texts
    assert [row["predicted"] for row in rows] == wanted
    np.testing.assert_allclose([float(row["p(acceptable)"]) for row in rows], share, atol=2e-6)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], np.maximum(share, 1 - share), atol=2e-6)


def test_regression_on_pairs(launch, tmp_path):
    """A run on pairs of texts with a score: two columns, or a line with a tab."""
    words = "good bad old new red blue".split()
    lines = [f"{a} thing,{b} thing,{i % 7 / 2}" for i, (a, b) in enumerate((a, b) for a in words for b in words)]
    (tmp_path / "t.csv").write_text("\n".join(["first,second,score", *lines]) + "\n")
    options = dict(
        data__kind="regression",
        data__files__train=tmp_path / "t.csv",
        data__files__dev=tmp_path / "t.csv",
        data__files__test="",
        data__columns__text="first",
        data__columns__text_pair="second",
        data__columns__id="",
        data__columns__label="score",
        train__batch_size=36,
        train__epochs=2,
    )
    done = launch(*tiny(tmp_path, **options), "--workdir", tmp_path / "run")
    assert done.code == 0, done.text
    with np.load(tmp_path / "run" / "predictions" / "dev.npz") as arrays:
        wanted = arrays["logits"][:, 0]
    (tmp_path / "t.txt").write_text("".join("\t".join(line.split(",")[:2]) + "\n" for line in lines))
    for name in ("t.csv", "t.txt"):
        arguments = ["--run", tmp_path / "run", "--input", tmp_path / name, "--output", "-"]
        done = launch(*arguments, program="fjt.predict")
        assert done.code == 0, done.text
        rows = list(csv.DictReader(done.text.splitlines(), delimiter="\t"))
        assert list(rows[0]) == ["id", "text", "text_pair", "predicted"]
        np.testing.assert_allclose([float(row["predicted"]) for row in rows], wanted, rtol=1e-5, atol=2e-6)
    (tmp_path / "t.txt").write_text("one\ttwo\nalone\n")
    done = launch("--run", tmp_path / "run", "--input", tmp_path / "t.txt", "--output", "-", program="fjt.predict")
    assert done.code == 2 and "t.txt:2" in done.text and "tab" in done.text


def test_refusals(finished, tables, launch, tmp_path):
    good = dict(run=finished[0], input=tables / "dev.csv", output=tmp_path / "o.tsv")

    def attempt(*more, **options):
        arguments = [f"--{name}={value}" for name, value in (good | options).items()]
        return launch(*arguments, *more, program="fjt.predict")

    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    half = ['{"text": "\\ud83d"}', '{"text": 1}', '{"text": "a"}', "{", '{"text": "a\\udc00"}']
    (tmp_path / "half.jsonl").write_text("\n".join(half))
    places = [f"half.jsonl:{line}: " for line in (1, 2, 4, 5)]
    for done, words in (
        (attempt(run=ROOT), ["is not a run", "config.json"]),
        (attempt(input=tmp_path / "gone.csv"), ["--input", "gone.csv", "does not exist"]),
        (attempt(input=tmp_path / "gone.txt"), ["--input", "gone.txt"]),
        (attempt(input=ROOT / "README.md"), ["'.md'", ".csv"]),
        (attempt(input=tmp_path / "latin.txt"), ["latin.txt:2", "0xe9"]),
        (attempt(input=tmp_path / "empty.txt"), ["empty.txt", "no lines"]),
        (attempt(input=tmp_path / "half.jsonl"), ["4 bad rows", "not valid Unicode", "1 is not text", *places]),
        (attempt("--text", "review"), ["dev.csv:1", "'review'", "--text"]),
        (attempt("--text_pair", "text"), ["--text_pair", "single texts"]),
        (attempt(output=tmp_path / "o.xlsx"), ["--output", "'.xlsx'", ".tsv"]),
        (attempt(output=tmp_path / "gone" / "o.tsv"), ["--output", "does not exist"]),
        (attempt("--txt", "text"), ["--txt"]),
    ):
        assert done.code == 2 and "Traceback" not in done.text, done.text
        for word in words:
            assert word in done.text, done.text
    assert not (tmp_path / "o.tsv").exists()
    done = launch("--help", program="fjt.predict")
    assert done.code == 0 and "--input" in done.text and "load_run" in done.text


@pytest.mark.parametrize("name", ["input", "output"])
def test_a_process_without_a_standard_stream_is_told_to_give_a_file(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin" if name == "input" else "sys.stdout", None)
    given = {"run": "runs/a", "input": "new.txt", "output": "new.tsv"} | {name: "-"}
    assert predict.main(["predict", *(f"--{key}={value}" for key, value in given.items())]) == 2
    assert f"--{name}=-: this process has no std{name[:-3]}. Give a file." in capsys.readouterr().err


BROKEN = """
import sys, types
from fjt import predict
from fjt.core.errors import exit_code
from fjt.data.glue import Split
run = types.SimpleNamespace(problem=types.SimpleNamespace(columns=lambda logits, task: {}), full_task=None)
write = lambda: predict._write("-", ".tsv", run, "-", [(Split.unlabelled(["0"], ["a"]), {"logits": None})])
sys.exit(exit_code(write, lambda: "stdout"))
"""


def test_an_output_that_nobody_reads_is_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", BROKEN]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "fjt: Broken pipe: stdout.\n")
