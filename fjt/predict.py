"""Label new text with a finished run:  python -m fjt.predict --run runs/first --input new.csv --output labelled.tsv

The input has one text per line (.txt; `-` reads stdin), or is a .csv .tsv .jsonl .parquet table with a column of
texts.  For a run on pairs, a line has both texts with a tab between them, and a table has two columns.  The output has
the id, the text, the predicted label, its probability and the probability of every label if there are at most 200 (for
a regression: the score), as .tsv .csv .jsonl or .npz (with logits); `-` writes TSV to stdout.  A file that exists is
replaced with --overwrite only.  Texts are checked, and then labelled in parts, so that a file may be of any size;
stdin is read once, so that a bad line ends the command where it stands.  Of .npz, .json and CoNLL files, all texts are
in memory at once.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.

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

With --calibrated, what `python -m fjt.calibrate` fitted for the run is applied: probabilities, thresholds, and
abstention, where the prediction is empty and the column `abstains` is True.

From Python:  fjt.load_run("runs/first").predict(["one text", "another"])["labels"]
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt import flags
from fjt.core import console, files
from fjt.core.errors import UserError, suggest
from fjt.core.options import ExecutionConfig
from fjt.core.ragged import flat
from fjt.data import conll, squad, tables
from fjt.data.glue import Split
from fjt.tasks import spans

if TYPE_CHECKING:
    from fjt.experiment.finished import Run
    from fjt.tasks.calibration import Calibration

RETURNED = ("words", "labels", "probabilities", "logits")  # by every run; others are columns of the output
SUFFIXES = (".tsv", ".csv", ".jsonl", ".npz")  # and, of words, those of conll.SUFFIXES, of answers squad.SUFFIX
LONG = ("n_best",)  # columns of .jsonl alone
PART = 8192  # texts in memory
Labelled = tuple[Split, dict[str, Any]]  # texts, and what `Run.label` says of them


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
    parser.add_argument("--calibrated", action="store_true", help="apply what fjt.calibrate fitted for the run")
    return flags.parse_and_run(
        parser, argv, _predict, lambda options: "stdout" if options.output == "-" else options.output
    )


def _predict(options: argparse.Namespace) -> int:
    from fjt.experiment import calibration, new_texts, program_cache
    from fjt.experiment.finished import load_run
    from fjt.experiment.new_texts import Source

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
    fitted = calibration.read(run.path, run.result["params_sha256"]) if options.calibrated else None
    source = Source(options.input, options.text or "", options.text_pair or "", options.id or "", not options.no_header)
    # Some forms are of all texts at once: arrays, answers in one object, a CoNLL file with a further column.
    size = 0 if suffix in (".npz", squad.SUFFIX) or (suffix in conll.SUFFIXES and _is_conll(source.path)) else PART
    once = source.path == "-" or not os.path.isfile(source.path)  # a pipe
    total = 0 if once or not size else new_texts.count(run, source, size)  # errors come before work
    program_cache.keep_programs(ExecutionConfig())
    view = console.Silent() if options.output == "-" else console  # which prints to stdout, too
    found = _labelled(run, new_texts.read(run, source, size), total, view)
    if options.scheme:
        found = (
            (split, one | {"labels": [spans.converted(tags, options.scheme) for tags in one["labels"]]})
            for split, one in found
        )
    count = _write(options.output, suffix, run, options.input, found, fitted)
    if options.output != "-":
        console.say(f"{options.output}: {count:,} texts labelled")
    return 0


def _is_conll(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in conll.SUFFIXES


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


def _labelled(run: "Run", parts: Iterable[Split], total: int, view: console.View) -> Iterator[Labelled]:
    """Yields each part with what the run predicts, and shows progress.  total: number of texts, 0 if unknown."""
    done = 0
    with view.bar("labelling", total, every=PART if total > PART else 0) as bar:
        for split in parts:
            yield split, run.label(split, done)
            done += len(split)
            bar.update(done)


class _Elsewhere(Exception):
    """An OSError of another file than the output."""


def _write(
    path: str,
    suffix: str,
    run: "Run",
    source: str,
    parts: Iterable[Labelled],
    fitted: "Calibration | None" = None,
) -> int:
    """The number of texts of the output, which is written whole or not at all, or to stdout.

    Args:
        path: the output.
        suffix: of its format.
        run: the run.
        source: the input.
        parts: its texts with what the run predicts.
        fitted: the calibration that is applied, or None.
    """
    count = 0

    def pieces() -> Iterator[bytes]:
        nonlocal count
        try:
            for split, predicted in parts:
                yield _piece(suffix, run, source, split, predicted, not count, fitted)
                count += len(split)
        except OSError as error:
            raise _Elsewhere(error) from error

    if path == "-":
        for piece in pieces():
            try:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            except OSError:
                console.CONSOLE.on_broken_pipe()  # or Python would try, and fail, to write the rest at its end
                raise
        return count
    try:
        with files.written(path) as file:
            for piece in pieces():
                file.write(piece)
    except _Elsewhere as error:
        raise error.args[0] from None
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror or error}.") from None
    return count


def _piece(
    suffix: str,
    run: "Run",
    source: str,
    split: Split,
    predicted: dict[str, Any],
    first: bool,
    fitted: "Calibration | None",
) -> bytes:
    """The part of the output for a part of the texts.  first: whether it is the first one, which has the header."""
    if suffix in conll.SUFFIXES:
        return (b"" if first else b"\n") + _conll(source, split, predicted)
    if suffix == squad.SUFFIX:
        return run.problem.files(predicted["logits"], split, run.task)[suffix].encode()
    return _table(suffix, run, split, predicted, first, fitted)


def _conll(source: str, split: Split, predicted: dict[str, Any]) -> bytes:
    """A CoNLL file of words and tags; of an input in that form, its lines, with the tag as a further column."""
    tags = predicted["labels"]
    if not _is_conll(source):
        return conll.text(zip(*row, strict=True) for row in zip(predicted["words"], tags, strict=True)).encode()
    with open(source, encoding="utf-8-sig") as file:
        return conll.append(source, file, (tag for row in tags for tag in row)).encode()


def _table(
    suffix: str,
    run: "Run",
    split: Split,
    predicted: dict[str, Any],
    first: bool,
    fitted: "Calibration | None",
) -> bytes:
    columns: dict[str, Any] = {"id": split.id, "text": split.text}
    columns |= {} if split.text_pair is None else {"text_pair": split.text_pair}
    if split.words is None:
        for name, values in _columns(run, predicted["logits"], fitted).items():
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
    cells = [*([columns] if first else []), *(map(tables.cell, row) for row in rows)]
    return (tables.csv_text(cells) if suffix == ".csv" else tables.tsv(cells)).encode()


def _columns(run: "Run", logits: Any, fitted: "Calibration | None") -> Mapping[str, Any]:
    from fjt.experiment import calibration

    if fitted is not None:
        return calibration.columns(fitted, logits, run.problem, run.task)
    return run.problem.columns(logits, run.full_task)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
