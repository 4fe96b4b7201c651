"""Label new text with a finished run:  python -m fjt.predict --run runs/first --input new.csv --output labelled.tsv

The input is a text a line (.txt; `-` reads them from stdin), or a .csv .tsv .jsonl .parquet with a column of texts;
of a run on pairs, a line holds both texts with a tab between them, a table has two columns.  The output holds the
id, the text, the predicted label, its probability and that of every label (of a regression: the score), as .tsv .csv
.jsonl or .npz (logits too); `-` writes TSV to stdout.  Exit codes: 0 done, 2 a mistake in what was given.

From Python:  fjt.load_run("runs/first").predict(["one text", "another"])["labels"]
"""

import argparse
import csv
import dataclasses
import functools
import glob
import io
import json
import os
import sys

import numpy as np

from fjt import console, records
from fjt.settings import UserError, suggest

SUFFIXES = (".tsv", ".csv", ".jsonl", ".npz")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    path: its work directory; result, config: its result.json and the "config" of its config.json;
    kind: classification | regression; label_names: by id, () for regression; pairs: whether it reads pairs of texts.
    """

    path: str
    result: dict
    config: dict
    kind: str
    label_names: tuple
    pairs: bool

    @functools.cached_property
    def records(self):
        """{"train": rows of train.jsonl, "eval": rows of eval.jsonl}."""
        return {name: records.read_lines(os.path.join(self.path, f"{name}.jsonl")) for name in ("train", "eval")}

    def predict(self, texts, pairs=None):
        """{labels, probabilities, logits} of texts, in their order.

        texts, pairs: sequences of str of one length; pairs: the second texts, of a run on pairs.
        labels: label names, or of a regression the scores f64[N]; probabilities: f64[N, C], None of a regression;
        logits: f32[N, C].  Raises UserError.
        """
        import scipy.special

        from fjt.metrics import predict

        logits = self._logits(_checked(texts, pairs, self.pairs))
        predicted = predict(logits, self.kind)
        if self.kind == "regression":
            return {"labels": predicted, "probabilities": None, "logits": logits}
        labels = [self.label_names[i] for i in predicted]
        return {"labels": labels, "probabilities": scipy.special.softmax(np.float64(logits), axis=-1), "logits": logits}

    @functools.cached_property
    def _model(self):
        """(Model, its parameters, tokenizer) of the run's export."""
        import jax

        from fjt.data import tokenize
        from fjt.models import pretrained
        from fjt.models.encoder import Model
        from fjt.prng import make_key

        folder = os.path.join(self.path, "export")
        checkpoint = pretrained.read_checkpoint(folder)
        tokenizer = tokenize.load_tokenizer(folder)
        tokenize.check_vocabulary(tokenizer, checkpoint.config.vocab, folder)
        model = Model(checkpoint.config, max(1, len(self.label_names)), dtype=self.config["model"]["dtype"])
        abstract = jax.eval_shape(model.init, make_key(0, "init"))
        return model, pretrained.take(checkpoint, abstract, folder, keep_head=True).params, tokenizer

    @functools.cached_property
    def _program(self):
        """(function(params, batch) -> logits on every device, parameters on them, mesh)."""
        import jax

        from fjt import mesh
        from fjt.step import eval_step

        model, params, _ = self._model
        devices = mesh.make_mesh(0)
        whole = mesh.replicated(devices)
        function = jax.jit(functools.partial(eval_step, model=model), out_shardings=whole)
        return function, jax.device_put(params, whole), devices

    def _logits(self, split):
        import jax

        from fjt import evaluate, mesh
        from fjt.data import tokenize
        from fjt.experiment import row_grid

        model, _, tokenizer = self._model
        function, params, devices = self._program
        examples = tokenize.tokenize(split, tokenizer, self.config["model"]["max_length"])
        packed = evaluate.pack_splits(
            {"new": examples}, groups=devices.size, grid=max(32, row_grid()), width=model.config.width
        )["new"]
        with jax.default_matmul_precision(self.config["model"]["matmul_precision"]):
            return evaluate.evaluate(
                function, params, _roomy(packed, examples), lambda batch: jax.device_put(batch, mesh.by_group(devices))
            )


def _roomy(packed, examples):
    """The chunks in a shape rounded up to powers of two, so that calls with other texts meet a compiled program."""
    from fjt.data import batches

    def above(number):
        return 1 << (number - 1).bit_length()

    shape = dataclasses.replace(packed.shape, rows=above(packed.shape.rows), examples=above(packed.shape.examples))
    chunks = []
    for _, chosen, _ in packed.chunks:
        batch, place = batches.build(examples, chosen, shape)
        chunks.append(({k: v for k, v in batch.items() if k not in ("label", "weight")}, chosen, place))
    return dataclasses.replace(packed, shape=shape, chunks=tuple(chunks))


def _checked(texts, pairs, wanted):
    """The unlabelled Split of texts.  Raises UserError for what is no list of str, or not what the run reads."""
    from fjt.data.tasks import Split

    if wanted and pairs is None:
        raise UserError("The run reads pairs of texts, and the second ones are missing (`pairs`).")
    if pairs is not None and not wanted:
        raise UserError("The run reads single texts; leave out the second ones (`pairs`).")
    columns = {"texts": texts} if pairs is None else {"texts": texts, "pairs": pairs}
    for name, values in columns.items():
        if isinstance(values, str):
            raise UserError(f"`{name}` is one str; give a list of them.")
        columns[name] = values = tuple(values)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise UserError(f"{name}[{i}] = {value!r} is no text.")
    count = len(columns["texts"])
    if not count:
        raise UserError("There are no texts to label.")
    if pairs is not None and len(columns["pairs"]) != count:
        raise UserError(f"There are {count} texts and {len(columns['pairs'])} second ones; each needs one.")
    label = np.full(count, -1, np.int32)
    return Split(tuple(str(i) for i in range(count)), columns["texts"], columns.get("pairs"), label)


def load_run(directory):
    """The Run of a work directory.  Raises UserError for what is none, or one that is not finished."""
    directory = os.fspath(directory)
    if not os.path.exists(os.path.join(directory, "config.json")):
        raise UserError(f"{directory} is no run: it holds no config.json. Give the --workdir of a finished run.")
    if not os.path.exists(os.path.join(directory, "DONE")):
        raise UserError(f"The run in {directory} is not finished; run its command again to take it to its end.")
    for name in ("config.json", "model.safetensors"):
        if not os.path.exists(os.path.join(directory, "export", name)):
            raise UserError(f"{os.path.join(directory, 'export', name)} does not exist; the run's model is needed.")
    exported = records.read_json(os.path.join(directory, "export", "config.json"))
    kind = "regression" if exported["problem_type"] == "regression" else "classification"
    names = tuple(exported["id2label"][str(i)] for i in range(len(exported["id2label"])))
    with open(os.path.join(directory, "predictions", "dev.tsv"), encoding="utf-8", newline="") as file:
        pairs = "text_pair" in next(csv.reader(file, delimiter="\t"))
    return Run(
        directory,
        records.read_json(os.path.join(directory, "result.json")),
        records.read_json(os.path.join(directory, "config.json"))["config"],
        kind,
        () if kind == "regression" else names,
        pairs,
    )


def results(pattern):
    """[result.json of each run, with its "workdir"], in the order of their names, for pandas or pyarrow.

    pattern: such as "runs/*"; other folders are passed over.  A run without a result is there with "failed".
    Raises UserError when there is no run.
    """
    pattern = os.fspath(pattern)
    found = []
    for folder in sorted(glob.glob(pattern, recursive=True)):
        result = os.path.join(folder, "result.json")
        if os.path.exists(result):
            found.append({"workdir": folder} | records.read_json(result))
        elif os.path.exists(os.path.join(folder, "config.json")) and os.path.exists(os.path.join(folder, "env.json")):
            found.append({"workdir": folder, "failed": "no result"})
    if not found:
        raise UserError(f"{pattern} names no run; a run's folder holds config.json and, in the end, result.json.")
    return found


# --- the command


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--input", required=True, metavar="FILE", help=".txt .csv .tsv .jsonl .parquet, or -")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"{' '.join(SUFFIXES)}, or -")
    parser.add_argument("--text", metavar="COLUMN", help="the column of the texts (default: as in the run's data)")
    parser.add_argument("--text_pair", metavar="COLUMN", help="the column of the second texts")
    parser.add_argument("--id", metavar="COLUMN", help="a column that is carried over (default: the row's number)")
    parser.add_argument("--no-header", action="store_true", help="columns of a .csv or .tsv are numbers from 0")
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return stop.code
    try:
        suffix = _output_suffix(options.output)
        run = load_run(options.run)
        ids, texts, pairs = read_texts(run, options)
        predicted = run.predict(texts, pairs)
        _write(options.output, suffix, run, ids, texts, pairs, predicted)
    except UserError as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2
    if options.output != "-":
        console.say(f"{options.output}: {len(texts):,} texts labelled")
    return 0


def _output_suffix(path):
    if path == "-":
        return ".tsv"
    suffix, folder = os.path.splitext(path)[1].lower(), os.path.dirname(path) or "."
    if suffix not in SUFFIXES:
        raise UserError(f"--output={path}: the suffix {suffix!r} is no known format.{suggest(suffix, SUFFIXES)}")
    if not os.path.isdir(folder):
        raise UserError(f"--output={path}: there is no directory {folder}; make it first.")
    return suffix


def read_texts(run, options):
    """(ids, texts, second texts or None) of the input.  Raises UserError with file and line."""
    path = options.input
    if path == "-" or path.lower().endswith(".txt"):
        for name in ("text", "text_pair", "id"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} names a column, and --input={path} has none: it holds a text a line.")
        return _read_lines(path, run.pairs)
    if not os.path.isfile(path):
        raise UserError(f"--input={path} does not exist.")
    from fjt.data import tables

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
    for role in ("text", "text_pair"):
        for i, value in enumerate(rows.values.get(role, ())):
            if not isinstance(value, str):
                raise UserError(f"{rows.place(i)}: {value!r} stands where a text (column {columns[role]!r}) belongs.")
    if not rows.lines:
        raise UserError(f"--input={path} has no rows.")
    ids = [str(i) for i in rows.values.get("id", rows.numbers)]
    return ids, rows.values["text"], rows.values.get("text_pair")


def _read_lines(path, pairs):
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise UserError(f"--input={path} cannot be read: {error.strerror or error}.") from None
    texts, seconds = [], []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8. "
                "Convert the file, for example: iconv -f latin1 -t utf-8."
            ) from None
        if pairs:
            parts = text.split("\t")
            if len(parts) != 2:
                raise UserError(
                    f"{path}:{number}: {len(parts)} texts, where the run reads pairs: two with a tab between them."
                )
            text = parts[0]
            seconds.append(parts[1])
        texts.append(text)
    if not texts:
        raise UserError(f"--input={path} has no lines.")
    return [str(i) for i in range(len(texts))], texts, seconds if pairs else None


def _write(path, suffix, run, ids, texts, pairs, predicted):
    """Writes the output, whole or not at all."""
    columns = {"id": ids, "text": texts} | ({} if pairs is None else {"text_pair": pairs})
    if run.kind == "regression":
        columns["predicted"] = [round(float(x), 6) for x in predicted["labels"]]
    else:
        shares = predicted["probabilities"]
        columns |= {"predicted": predicted["labels"], "probability": [round(float(x), 6) for x in shares.max(axis=-1)]}
        for name, column in zip(run.label_names, shares.T, strict=True):
            columns[f"p({name})"] = [round(float(x), 6) for x in column]
    if suffix == ".npz":
        arrays = {"id": np.array(ids), "predicted": np.array(predicted["labels"]), "logits": predicted["logits"]}
        file = io.BytesIO()
        np.savez(file, **arrays, label_names=np.array(run.label_names, str))
        data = file.getvalue()
    elif suffix == ".jsonl":
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    else:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        data = file.getvalue().encode()
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        with open(f"{path}.tmp", "wb") as file:
            file.write(data)
        os.replace(f"{path}.tmp", path)
    except OSError as error:
        raise UserError(f"--output={path} cannot be written: {error.strerror or error}.") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
