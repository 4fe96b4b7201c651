"""Label new text with a finished run:  python -m fjt.predict --run runs/first --input new.csv --output labelled.tsv

The input has one text per line (.txt; `-` reads stdin), or is a .csv .tsv .jsonl .parquet table with a column of
texts.  For a run on pairs, a line has both texts with a tab between them, and a table has two columns.  The output has
the id, the text, the predicted label, its probability and the probability of every label if there are at most 200 (for
a regression: the score), as .tsv .csv .jsonl or .npz (with logits); `-` writes TSV to stdout.  A file that exists is
replaced with --overwrite only.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.

From Python:  fjt.load_run("runs/first").predict(["one text", "another"])["labels"]
"""

import argparse
import functools
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core import console, files
from fjt.core.errors import UserError, exit_code, read_rows, suggest
from fjt.core.options import ExecutionConfig
from fjt.data import encoding, labels, tables

if TYPE_CHECKING:
    from fjt.experiment.finished import Run

Texts = tuple[list[str], list[str], list[str] | None]  # (ids, texts, second texts)


SUFFIXES = (".tsv", ".csv", ".jsonl", ".npz")


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--base", default="", metavar="DIR", help="the run's base model, if it has moved")
    parser.add_argument("--input", required=True, metavar="FILE", help=".txt .csv .tsv .jsonl .parquet, or -")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"a new file, {' '.join(SUFFIXES)}, or -")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--text", metavar="COLUMN", help="the column of the texts (default: that of the run's own table, or `text`)"
    )
    parser.add_argument("--text_pair", metavar="COLUMN", help="the column of the second texts")
    parser.add_argument("--id", metavar="COLUMN", help="a column that is copied to the output (default: row number)")
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
    if options.output != "-":
        _check_output(options.output, options.input, run, options.overwrite)
    ids, texts, pairs = read_texts(run, options)
    program_cache.keep_programs(ExecutionConfig())
    predicted = run.predict(texts, pairs)
    _write(options.output, suffix, run, ids, texts, pairs, predicted)
    if options.output != "-":
        console.say(f"{options.output}: {len(texts):,} texts labelled")
    return 0


def _output_suffix(path: str) -> str:
    if path == "-":
        return ".tsv"
    suffix, folder = os.path.splitext(path)[1].lower(), os.path.dirname(path) or "."
    if suffix not in SUFFIXES:
        raise UserError(f"--output={path}: the suffix {suffix!r} is not a known format.{suggest(suffix, SUFFIXES)}")
    if os.path.isdir(path):
        raise UserError(f"--output={path} is a folder; give a file.")
    if not os.path.isdir(folder):
        raise UserError(f"--output={path}: the directory {folder} does not exist; create it first.")
    return suffix


def _check_output(path: str, source: str, run: "Run", overwrite: bool) -> None:
    """Raises UserError for an output that would replace the input, a file of fjt's own or, unasked, any other."""
    from fjt.experiment import workdir

    workdir.check_output(path, "--output")
    given = run.config["data"]["files"]
    read = {f"--input={source}": source} | {f"config.data.files.{name} of the run": given[name] for name in given}
    for name, other in read.items():
        if other and os.path.exists(other) and os.path.exists(path) and os.path.samefile(path, other):
            raise UserError(f"--output={path} is also {name}, and would replace it. Give another file.")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"--output={path} already exists. Give a new file, or --overwrite to replace it.")


def read_texts(run: "Run", options: argparse.Namespace) -> Texts:
    """(ids, texts, second texts or None) of the input.

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
        return _read_lines(path, run.pairs)
    if not os.path.isfile(path):
        raise UserError(f"--input={path} does not exist.")
    trained = run.config["data"]["columns"]
    columns = {"text": options.text or trained["text"]}
    if run.pairs:
        columns["text_pair"] = options.text_pair or trained["text_pair"] or "text_pair"
    elif options.text_pair:
        raise UserError(f"--text_pair={options.text_pair}: the run in {run.path} reads single texts.")
    if options.id:
        columns["id"] = options.id
    rows = tables.read(
        path,
        columns,
        header=not options.no_header,
        remedy="Name it with --{role}=COLUMN; a file without a header is read with --no-header and columns by number.",
    )
    if not rows.lines and not rows.faults:
        raise UserError(f"--input={path} has no rows.")
    remedy = "--{role}=COLUMN should name a text column."
    found = rows.columns(
        {role: functools.partial(rows.texts, role, remedy.format(role=role)) for role in columns if role != "id"}
        | ({"id": lambda: rows.read("id", labels.id_of)} if options.id else {})
    )
    return found.get("id", list(map(str, rows.numbers))), found["text"], found.get("text_pair")


def _read_lines(path: str, pairs: bool) -> Texts:
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
    numbered = enumerate(lines, 1)
    found = read_rows(lambda line: _read_line(line[1], f"{path}:{line[0]}", 2 if pairs else 1), numbered)
    texts = [list(column) for column in zip(*found, strict=True)]
    return [str(i) for i in range(len(lines))], texts[0], texts[1] if pairs else None


def _read_line(line: bytes, place: str, count: int) -> list[str]:
    """The texts of a line.  count: 2 for a run on pairs."""
    text = encoding.decode(line, place)
    texts = text.split("\t") if count == 2 else [text]
    if len(texts) != count:
        raise UserError(f"{place}: {len(texts)} texts, but the run reads pairs: two texts with a tab between them.")
    return [tables.text_of(text, place, "") for text in texts]


def _write(
    path: str,
    suffix: str,
    run: "Run",
    ids: list[str],
    texts: list[str],
    pairs: list[str] | None,
    predicted: dict[str, Any],
) -> None:
    """Writes the output, whole or not at all."""
    columns: dict[str, list[Any]] = {"id": ids, "text": texts} | ({} if pairs is None else {"text_pair": pairs})
    for name, values in run.problem.columns(predicted["logits"], run.task).items():
        columns[name] = [round(float(x), 6) if isinstance(x, float) else x for x in values]
    if suffix == ".npz":
        arrays = {"id": np.array(ids), "predicted": np.array(columns["predicted"]), "logits": predicted["logits"]}
        file = io.BytesIO()
        np.savez(file, **arrays, label_names=np.array(run.label_names, str))
        data = file.getvalue()
    elif suffix == ".jsonl":
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    elif suffix == ".csv":
        data = tables.csv_text([columns, *zip(*columns.values(), strict=True)]).encode()
    else:
        data = tables.tsv([columns, *zip(*columns.values(), strict=True)]).encode()
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
