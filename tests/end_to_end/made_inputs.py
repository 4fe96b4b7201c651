"""Made tables, labels, texts, names and JSON configs, driven through the commands: no traceback, and all is read back.

    python -m tests.end_to_end.made_inputs --examples 2000 --workdir runs/made --output results/made_inputs.json

hypothesis makes the inputs; the same ones each time.  Of every twenty, ten are tables (CSV, TSV, JSON lines, Parquet;
labels of any spelling, texts of any characters), which are trained on for no step, evaluated, exported, and predicted
again; seven are a model's or an adapter's JSON files with a key set to some value, which a run is planned over; three
are the two files that a study commits, with made names, which are reported.

A command must end with an exit code of its own: 0, 2 or 3.  After 0, what was written is read back: predictions in
every format, label names of the export, the card, logits by `load_run`, the report's tags.  The record counts the
outcomes; the first input that fails is printed as hypothesis reduces it, and the exit code is then 1.
"""

import argparse
import collections
import contextlib
import csv
import hashlib
import html.parser
import io
import json
import pathlib
import shutil
import sys
import tempfile

import hypothesis
import numpy as np
import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from fjt import api, configs, load_run, predict, report
from fjt.core import records
from fjt.core.errors import exit_code
from fjt.core.settings import from_config
from fjt.data import tables
from tests.end_to_end.process import ROOT

SCRATCH = dict(
    data__columns__text="text",
    model__path="",
    model__max_length=16,
    model__scratch__layers=1,
    model__scratch__width=16,
    model__scratch__heads=2,
    model__scratch__inner=32,
    train__steps=0,
    train__batch_size=4,
    train__packing=False,
    log__tensorboard=False,
    output__curve=False,
    mesh__data=1,
)

CHARACTERS = st.characters(exclude_categories=())  # lone surrogates as well
ODD = (
    "", " ", "\t", "\n", "\r", "a\rb", "a\r\nb", "\x00", "a\x00b", "\ufeff", "\ufeffa", "\u2028", "\u0085",
    "\ud83d", "e\u0301", "\u00e9", '"', "'", '"quoted"', "a,b", "a;b", "a\tb", "a|b", "`a`", "[red]a[/red]", "[/b]",
    "[", "$x$", "\\g<0>", "<b>a</b>", "<img src=q onerror=alert(1)>", "&amp;", "# a", "a: b #1", "- a", "{a}", "%s",
    "{0}", "../a", "~", "-1", "NULL", "None", "nan", "NaN", "inf", "1e39", "true", "True", "TRUE", "text", "label",
    "\U0001f600", "\u202eabc", "a" * 300,
)  # fmt: skip
TEXT = st.one_of(
    st.sampled_from(ODD), st.text(CHARACTERS, max_size=12), st.sampled_from(("the dog runs", "the cat sat"))
)
SCALAR = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from((10**30, 0.5)), TEXT)
VALUE = st.one_of(
    SCALAR, st.lists(SCALAR, max_size=2), st.dictionaries(st.sampled_from(("a", "b")), SCALAR, max_size=1)
)
LABEL_SETS = (
    ("no", "yes"),
    (0, 1),
    (0, 1, 2),
    (0.0, 1.0),
    (0, 1.0, True),
    ("1", "1.0", "0"),
    ("a", "A "),
    (1.5, 2.5, 3.0),
)

MODEL_KEYS = {
    "config.json": """
        model_type architectures hidden_size num_hidden_layers num_attention_heads intermediate_size
        hidden_act hidden_dropout_prob attention_probs_dropout_prob classifier_dropout
        max_position_embeddings type_vocab_size initializer_range layer_norm_eps pad_token_id
        position_embedding_type vocab_size is_decoder add_cross_attention num_labels id2label label2id
        problem_type torch_dtype quantization_config chunk_size_feed_forward tie_word_embeddings
        pruned_heads unheard_of
    """.split(),
    "tokenizer_config.json": """
        tokenizer_class do_lower_case model_max_length padding_side truncation_side model_input_names
        pad_token unk_token cls_token sep_token strip_accents tokenize_chinese_chars add_special_tokens
        unheard_of
    """.split(),
    "adapter_config.json": """
        peft_type task_type r lora_alpha lora_dropout target_modules modules_to_save bias use_rslora
        use_dora init_lora_weights fan_in_fan_out rank_pattern alpha_pattern layers_to_transform
        layers_pattern lora_bias exclude_modules layer_replication inference_mode base_model_name_or_path
        unheard_of
    """.split(),
}


@st.composite
def made_table(draw):
    """{suffix, rows: [{column: value}], kind}: a table, its columns named text and label."""
    kind = draw(st.sampled_from(("classification", "classification", "classification", "regression")))
    if kind == "regression":
        labels = st.one_of(st.floats(-5, 5), st.floats(), SCALAR)
    else:
        pool = draw(st.one_of(st.sampled_from(LABEL_SETS), st.lists(VALUE, min_size=2, max_size=4)))
        labels = st.sampled_from(pool)
    rows = draw(st.lists(st.fixed_dictionaries({"text": TEXT, "label": labels}), min_size=4, max_size=10))
    return {"suffix": draw(st.sampled_from(tables.SUFFIXES)), "rows": rows, "kind": kind}


@st.composite
def made_key(draw):
    """{file, key, value}: a key of a model's or an adapter's JSON file."""
    file = draw(st.sampled_from((*MODEL_KEYS, "config.json")))
    return {"file": file, "key": draw(st.sampled_from(MODEL_KEYS[file])), "value": draw(VALUE)}


@st.composite
def made_names(draw):
    """{task, labels}: names in the files that a study commits."""
    task = st.one_of(st.from_regex(r"[\w.+,-]{1,12}", fullmatch=True), TEXT)  # names of folders, and others
    return {"task": draw(task), "labels": draw(st.lists(TEXT, min_size=2, max_size=2))}


STRATEGIES = {"table": made_table(), "key": made_key(), "names": made_names()}
INPUT = st.sampled_from(["table"] * 10 + ["key"] * 7 + ["names"] * 3).flatmap(
    lambda kind: st.tuples(st.just(kind), STRATEGIES[kind])
)


class Driver:
    """Drives inputs through the commands.

    Args:
        folder: for everything that is written.
        study: the folder of the two files that a study commits.

    Attributes:
        counts: {kind of input: {exit code: number}}.
    """

    def __init__(self, folder, study):
        self.folder, self.study, self.counts = folder, study, collections.defaultdict(collections.Counter)
        self._options = SCRATCH | {"cache__dir": folder / "cache"}
        sentences = ["the dog runs", "the dogs run", "the cat sat", "a bird sings"]
        self._write(folder / "base.csv", [{"text": text, "label": "ny"[i % 2]} for i, text in enumerate(sentences * 3)])
        self._model = folder / "base" / "export"
        code, text = self._train(folder / "base.csv", folder / "base")
        assert code == 0, text
        adapted = dict(model__path=self._model, tune__method="lora", model__adapter="")
        code, text = self._train(folder / "base.csv", folder / "adapted", **adapted)
        assert code == 0, text
        self._adapter = folder / "adapted" / "export" / "adapter"
        self._tags = set(Tags.of(self._report(study, folder / "report")[1]))

    def drive(self, made):
        """Runs one made input (kind, value), and raises AssertionError where it does not end as it should."""
        kind, value = made
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        try:
            code, text = getattr(self, f"_drive_{kind}")(value, folder)
        finally:
            shutil.rmtree(folder)
        self.counts[kind][code] += 1
        if (number := sum(codes.total() for codes in self.counts.values())) % 100 == 0:
            print(f"{number} inputs", file=sys.stderr, flush=True)
        assert code in (0, 2, 3), (code, text)
        assert code == 0 or "fjt: " in text, text

    def _drive_table(self, made, folder):
        path = folder / f"rows{made['suffix']}"
        self._write(path, made["rows"])
        code, text = self._train(path, folder / "run", data__kind=made["kind"])
        if code == 0:
            self._read_back(path, folder)
        return code, text

    def _drive_key(self, made, folder):
        adapter = made["file"] == "adapter_config.json"
        shutil.copytree(self._adapter if adapter else self._model, folder / "model")
        path = folder / "model" / made["file"]
        path.write_text(json.dumps(json.loads(path.read_text()) | {made["key"]: made["value"]}))
        options = dict(model__path=self._model, tune__method="lora", model__adapter=folder / "model")
        options = options if adapter else dict(model__path=folder / "model")
        return self._train(self.folder / "base.csv", folder / "run", plan=not adapter, **options)

    def _drive_names(self, made, folder):
        rename_study(self.study, folder, made["task"], made["labels"])
        code, text = self._report(folder, folder / "report")
        if code == 0:
            other = set(Tags.of(text)) - self._tags
            assert not other, other  # a name became markup
            text = ""
        return code, text

    def _read_back(self, path, folder):
        """Asserts that what a run of a table wrote says what it computed."""
        run = load_run(folder / "run")
        with np.load(folder / "run" / "predictions" / "dev.npz") as dev:
            logits, names = dev["logits"], tuple(map(str, dev["label_names"]))
        texts = tables.read(str(path), {"text": "text"}).texts("text", "")  # without byte-order marks
        found = run.predict(texts)
        np.testing.assert_allclose(found["logits"], logits, atol=2e-5)
        about = json.loads((folder / "run" / "export" / "config.json").read_text())
        assert not names or tuple(about["id2label"][str(i)] for i in range(len(names))) == names, about["id2label"]
        import huggingface_hub

        card = huggingface_hub.ModelCard.load(folder / "run" / "export" / "README.md")
        assert card.data.library_name == "transformers" and "fjt" in card.data.tags
        table = tables.read(str(folder / "run" / "predictions" / "dev.tsv"), {"id": "id", "predicted": "predicted"})
        assert len(table.lines) == len(logits)
        for suffix in predict.SUFFIXES:
            output = folder / f"labelled{suffix}"
            code, text = self._call(
                predict.main, "fjt.predict", "--run", folder / "run", "--input", path, "--output", output
            )
            assert code == 0, text
            if suffix == ".npz":
                with np.load(output) as arrays:
                    np.testing.assert_allclose(arrays["logits"], logits, atol=2e-5)
                continue
            read = tables.read(str(output), {"text": "text", "predicted": "predicted"})
            if suffix in (".csv", ".jsonl"):  # a TSV has no tabs and line breaks
                assert read.values["text"] == texts
                if names:
                    assert [str(x) for x in read.values["predicted"]] == list(found["labels"])

    def _train(self, path, workdir, plan=False, **options):
        options = self._options | dict(data__files__train=path, data__files__dev=path) | options
        options = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in options.items()}

        def run(argv):  # fjt.main without its parser, whose flags can be defined once per process
            def command():
                config, file = configs.load("classify", options)
                api.execute(from_config(config), str(workdir), configs.origins(config, {}, file), plan=plan)
                return 0

            return exit_code(command, lambda: str(workdir))

        return self._call(run, "fjt.main")

    def _report(self, folder, output):
        code, text = self._call(report.main, "fjt.report", folder, "--output", output)
        return code, (output / "report.html").read_text(encoding="utf-8") if code == 0 else text

    def _call(self, command, name, *arguments):
        """(exit code, what was printed) of a command in this process."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return command([name, *map(str, arguments)]), said.getvalue()

    def _write(self, path, rows):
        """Writes rows in the format of the suffix; what the format cannot hold is not an input."""
        columns = {name: [row[name] for row in rows] for name in ("text", "label")}
        try:
            if path.suffix == ".parquet":
                pyarrow.parquet.write_table(pyarrow.table(columns), path)
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            elif path.suffix == ".tsv":
                path.write_text(
                    "".join(f"{row['text']}\t{row['label']}\n" for row in [dict(text="text", label="label"), *rows])
                )
            else:
                with open(path, "w", encoding="utf-8", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerows([("text", "label"), *((row["text"], row["label"]) for row in rows)])
        except (UnicodeEncodeError, pyarrow.ArrowException, OverflowError, csv.Error):
            hypothesis.reject()


class Tags(html.parser.HTMLParser):
    """The start tags of a page with the names of their attributes, in order."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, *(name for name, _ in attributes)))

    @classmethod
    def of(cls, page):
        parser = cls()
        parser.feed(page)
        return parser.found


def rename_study(source, target, task, labels):
    """Copies the two files that a study commits, with other names for its first task and that task's labels."""
    with open(source / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    old = rows[0]["task"]

    def renamed(text):
        return text.replace(f"{old}/", f"{task}/")

    for row in rows:
        if row["task"] == old:
            row |= {"run": renamed(row["run"]), "cell": renamed(row["cell"]), "task": task}
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with np.load(source / "predictions.npz") as arrays:
        arrays = dict(arrays)
    facts = json.loads(str(arrays["facts"]))
    try:
        facts["runs_sha256"] = hashlib.sha256(out.getvalue().encode()).hexdigest()
        arrays |= {name: np.array(labels) for name in arrays if name.endswith("label_names") and len(arrays[name]) == 2}
        for name in ("metrics", "planned_seeds"):
            facts[name] = {task if key == old else renamed(key): value for key, value in facts[name].items()}
        (target / "runs.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    except UnicodeEncodeError:
        hypothesis.reject()
    arrays["facts"] = np.array(json.dumps(facts))
    np.savez_compressed(target / "predictions.npz", **arrays)


def drive_all(driver, examples):
    """Drives a number of made inputs; raises for the first that fails, as hypothesis reduces it."""

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(INPUT)
    def each(made):
        driver.drive(made)

    each()


def command(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.end_to_end.made_inputs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args(argv[1:])
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    driver = Driver(options.workdir.resolve(), ROOT / "results" / "peft_ablation")
    drive_all(driver, options.examples)
    counts = {kind: dict(sorted(codes.items())) for kind, codes in sorted(driver.counts.items())}
    records.write_json(options.output, {"examples": options.examples, "ended": counts, "versions": records.versions()})
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv))
