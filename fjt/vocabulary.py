"""Learn a vocabulary from texts:  python -m fjt.vocabulary --input train.txt --size 8000 --output vocabulary

The input is a plain text (.txt) or a .csv .tsv .jsonl .parquet table with a column of texts.  The output is a new
directory with a tokenizer, for a model from scratch:

    python -m fjt.main --config configs/pretrain.py --config.model.path= --config.model.scratch.vocab=vocabulary ...

  wordpiece   BERT's: words are split into pieces, those after the first one with ##; lower case, unless --cased
  bytes       RoBERTa's byte-level BPE: every text can be written, case and blanks are kept

Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from fjt import flags
from fjt.core import console, files
from fjt.core.errors import UserError
from fjt.data import tables, vocabulary


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.vocabulary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, metavar="FILE", help=".txt .csv .tsv .jsonl .parquet")
    parser.add_argument("--output", required=True, metavar="DIR", help="a directory that does not exist yet")
    parser.add_argument("--size", type=int, default=30_000, help="number of tokens (default: %(default)s)")
    parser.add_argument("--pieces", choices=vocabulary.PIECES, default=vocabulary.PIECES[0], help="of words")
    parser.add_argument("--text", metavar="COLUMN", default="text", help="the column of the texts (default: text)")
    parser.add_argument("--cased", action="store_true", help="wordpiece: keep upper and lower case apart")
    return flags.parse_and_run(parser, argv, _learn, lambda options: options.output)


def _learn(options: argparse.Namespace) -> int:
    source, output = (files.local_path(getattr(options, name), f"--{name}") for name in ("input", "output"))
    if os.path.lexists(output):
        raise UserError(f"--output: {output} already exists; give a new directory, or move it away.")
    if not os.path.isfile(source):
        raise UserError(f"--input={source} does not exist.")
    if options.cased and options.pieces != "wordpiece":
        raise UserError("--cased is for --pieces=wordpiece: bytes are always cased. Leave the option out.")
    rows = tables.read(source, {"text": options.text}, remedy="Name it with --{role}=COLUMN.")
    texts = rows.columns({"text": lambda: rows.texts("text", "--text=COLUMN should name a text column.")})["text"]
    made = vocabulary.learn(texts, options.size, options.pieces, options.cased)
    vocabulary.save(made, output)
    console.say(f"{output}: {len(made):,} tokens ({options.pieces}) of {len(texts):,} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
