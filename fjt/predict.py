"""Label new text with a finished run:  python -m fjt.predict --run runs/first --input new.csv --output labelled.tsv

The input has one text per line (.txt; `-` reads stdin), or is a .csv .tsv .jsonl .parquet table with a column of
texts.  For a run on pairs, a line has both texts with a tab between them, and a table has two columns.  The output has
the id, the text, the predicted label, its probability and the probability of every label if there are at most 200 (for
a regression: the score), as .tsv .csv .jsonl or .npz (with logits); `-` writes TSV to stdout.  A file that exists is
replaced with --overwrite only.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.

A run that chooses reads the choices after the text, with tabs between them, or the columns that it was trained on.

A run that answers questions reads a question and its context as such a pair, or a file in the layout of SQuAD (.json).
Its output has the answer, its probability and its place in the context, and, as .jsonl, the best 20 answers; as .json
it has an answer per id, which the official evaluation of SQuAD reads.

A run on several tasks predicts all of them for each text, in columns that begin with the name of the task.  Where some
of them are on pairs, lines and tables may have a second text, or none.

A masked language model predicts the tokens at the masks of a text (`[MASK]`, or as its tokenizer writes it); the output
has the five best for each with their probabilities.  A line of a .txt file is a text here, too.

A run that labels words also reads .conll .conllu .iob files and lists of words, and finds the words of a plain text
between blanks, each punctuation mark by itself.  Its output has the words and their tags, and, for entities, a list of
{type, text, start, end, score} in characters of the text.  As .conll it has a word and its tag per line; of a CoNLL
input it has each line as it is, with the tag as a further column.

From Python:  fjt.load_run("runs/first").predict(["one text", "another"])["labels"]
"""

import argparse
import functools
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core import console, files
from fjt.core.errors import UserError, exit_code, read_rows, suggest
from fjt.core.options import ExecutionConfig
from fjt.core.ragged import flat
from fjt.data import choices, conll, encoding, labels, reading, squad, tables, words
from fjt.data.glue import Split
from fjt.tasks import spans

if TYPE_CHECKING:
    from fjt.experiment.finished import Run

RETURNED = ("words", "labels", "probabilities", "logits")  # by every run; others are columns of the output
SUFFIXES = (".tsv", ".csv", ".jsonl", ".npz")  # and, of words, those of conll.SUFFIXES, of answers squad.SUFFIX
LONG = ("n_best",)  # columns of .jsonl alone


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--base", default="", metavar="DIR", help="the run's base model, if it has moved")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help=".txt .csv .tsv .jsonl .parquet .conll .json, or -"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help=f"a new file, {' '.join(SUFFIXES)} .conll .json, or -"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--text", metavar="COLUMN", help="the column of the texts (default: that of the run's own table, or `text`)"
    )
    parser.add_argument("--text_pair", metavar="COLUMN", help="the column of the second texts")
    parser.add_argument("--id", metavar="COLUMN", help="a column that is copied to the output (default: row number)")
    parser.add_argument("--scheme", choices=spans.SCHEMES, help="of the tags of spans that are written")
    parser.add_argument("--no-header", action="store_true", help="columns of a .csv or .tsv are numbers from 0")
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    return exit_code(lambda: _predict(options), lambda: "stdout" if options.output == "-" else options.output)


def _predict(options: argparse.Namespace) -> int:
    from fjt.experiment import program_cache
    from fjt.experiment.finished import load_run

    for name, stream in (("input", sys.stdin), ("output", sys.stdout)):
        if getattr(options, name) != "-":
            setattr(options, name, files.local_path(getattr(options, name), f"--{name}"))
        elif stream is None:  # of a process that was started without it
            raise UserError(f"--{name}=-: this process has no std{name[:-3]}. Give a file.")
    suffix = _output_suffix(options.output)
    run = load_run(options.run, options.base)
    if suffix == ".conllu" and not options.input.lower().endswith(suffix):
        raise UserError(f"--output={options.output}: of another input than a .conllu file, write .conll.")
    if suffix in conll.SUFFIXES and not run.problem.words:
        raise UserError(
            f"--output={options.output}: the run in {run.path} labels texts, not words. Use .tsv or .jsonl."
        )
    if suffix == squad.SUFFIX and not run.problem.contexts:
        raise UserError(f"--output={options.output}: the run in {run.path} answers no questions. Use .tsv or .jsonl.")
    if options.output != "-":
        _check_output(options.output, options.input, run, options.overwrite)
    if options.scheme and options.scheme not in run.problem.schemes:
        raise UserError(f"--scheme={options.scheme}: the run in {run.path} has no tags of spans. Leave the option out.")
    split = read_split(run, options)
    program_cache.keep_programs(ExecutionConfig())
    predicted = run.label(split)
    if options.scheme:
        predicted["labels"] = [spans.converted(tags, options.scheme) for tags in predicted["labels"]]
    _write(options.output, suffix, run, options.input, split, predicted)
    if options.output != "-":
        console.say(f"{options.output}: {len(split):,} texts labelled")
    return 0


def _output_suffix(path: str) -> str:
    if path == "-":
        return ".tsv"
    suffix, folder = os.path.splitext(path)[1].lower(), os.path.dirname(path) or "."
    if suffix not in (known := (*SUFFIXES, *conll.SUFFIXES, squad.SUFFIX)):
        raise UserError(f"--output={path}: the suffix {suffix!r} is not a known format.{suggest(suffix, known)}")
    if os.path.isdir(path):
        raise UserError(f"--output={path} is a folder; give a file.")
    if not os.path.isdir(folder):
        raise UserError(f"--output={path}: the directory {folder} does not exist; create it first.")
    return suffix


def _check_output(path: str, source: str, run: "Run", overwrite: bool) -> None:
    """Raises UserError for an output that would replace the input, a file of fjt's own or, unasked, any other."""
    from fjt.experiment import workdir

    workdir.check_output(path, "--output")
    data = run.config["data"]
    read = {f"--input={source}": source}
    read |= {f"config.data.files.{name} of the run": path for name, path in data["files"].items()}
    read |= {f"config.data.tables of the run, {task} {name}": path for task, name, path in data.get("tables") or ()}
    for name, other in read.items():
        if other and os.path.exists(other) and os.path.exists(path) and os.path.samefile(path, other):
            raise UserError(f"--output={path} is also {name}, and would replace it. Give another file.")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"--output={path} already exists. Give a new file, or --overwrite to replace it.")


def read_split(run: "Run", options: argparse.Namespace) -> Split:
    """The rows of the input, without labels.

    Args:
        run: a finished run.
        options: of the command line.

    Raises:
        UserError: the input cannot be read; the message has file and line.
    """
    path = options.input
    if path == "-" or path.lower().endswith(".txt"):
        for name in ("text", "text_pair", "id"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} names a column, but --input={path} has one text per line.")
        return _read_lines(path, run)
    if not os.path.isfile(path):
        raise UserError(f"--input={path} does not exist.")
    columns = {"text": options.text or _text_column(run, path)}
    if run.problem.choices:
        own = run.config["data"]["columns"]
        columns |= {f"{reading.CHOICE_COLUMNS}{name}": str(name) for name in own["choices"]}
        columns |= {"text_pair": name} if (name := options.text_pair or own["text_pair"]) else {}
    elif run.pairs:
        second = "context" if path.lower().endswith(squad.SUFFIX) else run.config["data"]["columns"]["text_pair"]
        columns["text_pair"] = options.text_pair or second or "text_pair"
    elif options.text_pair:
        raise UserError(f"--text_pair={options.text_pair}: the run in {run.path} reads single texts.")
    if options.id or path.lower().endswith(squad.SUFFIX):
        columns["id"] = options.id or "id"
        if path.lower().endswith(conll.SUFFIXES):
            raise UserError(f"--id={options.id}: the sentences of {path} have no ids. Leave the option out.")
    either = run.pairs and run.singles
    rows = tables.read(
        path,
        columns,
        header=not options.no_header,
        optional=("text_pair",) if either and not options.text_pair else (),
        remedy="Name it with --{role}=COLUMN; a file without a header is read with --no-header and columns by number.",
    )
    if not rows.lines and not rows.faults:
        raise UserError(f"--input={path} has no rows.")
    remedy = "--{role}=COLUMN should name a text column."
    readers: dict[str, Any] = {}
    if "id" in columns:
        readers["id"] = lambda: (
            labels.unique_ids(rows.values["id"], rows.place) if run.problem.contexts else rows.read("id", labels.id_of)
        )
    if run.problem.words:
        found: dict[str, Any] = rows.columns(readers | {"text": lambda: rows.read("text", words.read)})
        return _of_words(found.get("id", map(str, rows.numbers)), found["text"])
    if run.problem.choices:
        readers |= {"choices": lambda: reading.read_choices(rows, remedy)}
        columns = {"text": columns["text"]}
    for role in rows.values if not run.problem.choices else ("text",):
        if role != "id":
            readers[role] = functools.partial(rows.texts, role, remedy.format(role=role))
    if either and "text_pair" in readers:
        readers["text_pair"] = lambda: rows.read("text_pair", lambda value, place: _second(value, place, remedy))
    found = rows.columns(readers)
    ids = found.get("id", map(str, rows.numbers))
    return Split.unlabelled(ids, found["text"], found.get("text_pair"), choices=found.get("choices"))


def _text_column(run: "Run", path: str) -> str:
    """The column of the texts, unless the user names one: that of the run's own file, if it has such columns too."""
    data = run.config["data"]
    own, trained = data["columns"]["text"], data["files"]["train"]
    here, there = (os.path.splitext(file)[1].lower() in conll.SUFFIXES for file in (path, trained))
    universal = path.lower().endswith(".conllu")
    if path.lower().endswith(squad.SUFFIX):
        return "question"
    if here and (not there or not (universal or own.lstrip("-").isdecimal())):
        return "form" if universal else "0"
    return "text" if there and not here else own


def _read_lines(path: str, run: "Run") -> Split:
    """The rows of a text file, a text per line, with its second text or its choices after tabs."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise UserError(f"--input={path} cannot be read: {error.strerror or error}.") from None
    encoding.check(path, data[: encoding.START])
    lines = data.splitlines()
    if not lines:
        raise UserError(f"--input={path} has no lines.")
    ids, numbered = list(map(str, range(len(lines)))), [(f"{path}:{at}", line) for at, line in enumerate(lines, 1)]
    if run.problem.words:
        found = read_rows(lambda line: words.read(encoding.decode(line[1], line[0]), line[0]), numbered)
        return _of_words(ids, found)
    if run.problem.choices:
        rows = read_rows(lambda line: _read_choices(line[1], line[0]), numbered)
        return Split.unlabelled(ids, [text for text, _ in rows], choices=[row for _, row in rows])
    found = read_rows(lambda line: _read_line(line[1], line[0], run), numbered)
    texts, second = [text for text, _ in found], [pair for _, pair in found]
    return Split.unlabelled(ids, texts, second if any(pair is not None for pair in second) else None)


def _second(value: Any, place: str, remedy: str) -> str | None:
    """The second text in a cell, None where there is none."""
    return tables.text_of(value, place, remedy.format(role="text_pair")) if value not in (None, "") else None


def _of_words(ids: Iterable[str], found: Sequence[tuple[str, tuple[str, ...]]]) -> Split:
    return Split.unlabelled(ids, [text for text, _ in found], words=[one for _, one in found])


def _read_line(line: bytes, place: str, run: "Run") -> tuple[str, str | None]:
    """The text of a line and the second one, None where it has none."""
    text = encoding.decode(line, place)
    texts = text.split("\t") if run.pairs else [text]
    texts = texts[:1] if run.singles and texts[1:] == [""] else texts
    if len(texts) > 2 or (len(texts) == 1 and not run.singles):
        raise UserError(f"{place}: {len(texts)} texts, but the run reads pairs: two texts with a tab between them.")
    first, *rest = [tables.text_of(text, place, "") for text in texts]
    return first, rest[0] if rest else None


def _read_choices(line: bytes, place: str) -> tuple[str, tuple[str, ...]]:
    """The text and the choices of a line."""
    text, *rest = encoding.decode(line, place).split("\t")
    return tables.text_of(text, place, ""), choices.read([rest], place)


def _write(path: str, suffix: str, run: "Run", source: str, split: Split, predicted: dict[str, Any]) -> None:
    """Writes the output, whole or not at all.  source: the input."""
    if suffix in conll.SUFFIXES:
        data = _conll(source, split, predicted)
    elif suffix == squad.SUFFIX:
        data = run.problem.files(predicted["logits"], split, run.task)[suffix].encode()
    else:
        data = _table(suffix, run, split, predicted)
    if path == "-":
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError:
            console.CONSOLE.on_broken_pipe()  # or Python would try, and fail, to write the rest at its end
            raise
        return
    try:
        files.write(path, data)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror or error}.") from None


def _conll(source: str, split: Split, predicted: dict[str, Any]) -> bytes:
    """A CoNLL file of words and tags; of an input in that form, its lines, with the tag as a further column."""
    tags = predicted["labels"]
    if os.path.splitext(source)[1].lower() not in conll.SUFFIXES:
        return conll.text(zip(*row, strict=True) for row in zip(predicted["words"], tags, strict=True)).encode()
    with open(source, encoding="utf-8-sig") as file:
        return conll.append(source, file, (tag for row in tags for tag in row)).encode()


def _table(suffix: str, run: "Run", split: Split, predicted: dict[str, Any]) -> bytes:
    columns: dict[str, Any] = {"id": split.id, "text": split.text}
    columns |= {} if split.text_pair is None else {"text_pair": split.text_pair}
    if split.words is None:
        for name, values in run.problem.columns(predicted["logits"], run.full_task).items():
            columns[name] = [round(float(x), 6) if isinstance(x, float) else x for x in values]
    else:
        columns |= {"words": split.words, "predicted": predicted["labels"]}
    columns |= {name: predicted[name] for name in predicted if name not in RETURNED}
    columns = {name: values for name, values in columns.items() if name not in LONG or suffix == ".jsonl"}
    rows = zip(*columns.values(), strict=True)
    if suffix == ".npz":
        shown = columns["predicted"] if "predicted" in columns else predicted["labels"]  # of several tasks
        shown = np.array([tables.cell(value) for value in shown])
        arrays: dict[str, Any] = {"id": np.array(split.id), "predicted": shown, **flat("logits", predicted["logits"])}
        file = io.BytesIO()
        np.savez(file, **arrays, label_names=np.array(run.label_names, str))
        return file.getvalue()
    if suffix == ".jsonl":
        objects = (dict(zip(columns, row, strict=True)) for row in rows)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects).encode()
    cells = [columns, *(map(tables.cell, row) for row in rows)]
    return (tables.csv_text(cells) if suffix == ".csv" else tables.tsv(cells)).encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
