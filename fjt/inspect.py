"""Look at the data and the plan of a run before training:  python -m fjt.inspect --config FILE [--config.key=value ...]

The flags are those of python -m fjt.main.  It prints what it found, the most serious first, and writes a page that
needs no other file, inspection.html, and inspection.json: rows, labels and lengths of each split, empty and repeated
texts, nearly equal texts, equal texts with different labels, texts in two splits, labels of other shares in other
splits, tokens that give the label away, columns that predict it, and steps, shapes, memory and time of the run.

  --output DIR   the folder of the two files (default: inspection); files of these names in it are replaced
  --strict       exit with code 1 if a finding is serious
  --help         print this text and every config key with its default

Nothing is trained and no file of the data is changed.  Without weights, the data are inspected all the same.  The two
files quote short parts of the texts.  Exit codes: 0 success, 1 a serious finding with --strict, 2 a mistake in the
arguments or files, 130 Ctrl-C.
"""

import os
import sys

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import console, files, records
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS
from fjt.core.settings import from_config

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", flag_values=FLAGS)
OUTPUT = absl_flags.DEFINE_string("output", "inspection", "The folder of the page and the record.", flag_values=FLAGS)
STRICT = absl_flags.DEFINE_bool("strict", False, "Whether a serious finding is an error.", flag_values=FLAGS)

PAGE, RECORD = "inspection.html", "inspection.json"


def main(argv: list[str]) -> int:
    """The exit code of a command line."""
    return flags.run(argv, __doc__, OPTIONS, lambda: _start(argv), lambda: OUTPUT.value or "")


def _start(argv: list[str]) -> int:
    config = flags.parse(argv, FLAGS, CONFIG)
    if config is None:
        raise UserError("--config is missing, for example --config configs/glue.py:rte.")
    if "study" in config:
        raise UserError("--config names a study: give the config of one of its runs.")
    settings, output = from_config(config), files.local_path(OUTPUT.value, "--output")
    _own(output)
    from fjt.experiment import inspection, program_cache
    from fjt.reports import inspection_page, pages

    program_cache.configure_jax(settings)
    record = inspection.inspect(settings)
    title, blocks = inspection_page.build(record)
    records.write_json(os.path.join(output, RECORD), record)
    files.write(os.path.join(output, PAGE), pages.page(title, blocks).encode())
    inspection_page.show(record)
    console.say(f"{os.path.join(output, PAGE)}: the page; {RECORD}: the same as JSON")
    serious = inspection_page.count(record)[0]
    return 1 if STRICT.value and serious else 0


def _own(output: str) -> None:
    """Creates the folder of the page.  Raises UserError for a place of other files."""
    from fjt.experiment import workdir

    workdir.check_output(os.path.join(output, RECORD), "--output")
    try:
        os.makedirs(output, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be created: {error.strerror}. Give a new folder.") from None
    names = [name for name in sorted(os.listdir(output)) if not files.TEMPORARY.fullmatch(name)]
    if names and RECORD not in names:
        raise UserError(f"--output={output} has other files, such as {names[0]}. Give a new folder.")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
