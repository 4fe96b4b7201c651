"""Write a finished run in another format:  python -m fjt.export --run runs/first --format peft [--output DIR]

  hf          a whole Hugging Face model, merged if the method adds parameters
  peft        adapter_config.json and adapter_model.safetensors for PeftModel.from_pretrained
  adapterhub  adapter_config.json, adapter.safetensors and the head for `adapters`

The run itself writes one form to its export/; this command writes the others.  If a format cannot express the tuned
parameters, the message says why.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from fjt import flags
from fjt.core import console
from fjt.core.options import EXPORT_FORMS


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--base", default="", metavar="DIR", help="the run's base model, if it has moved")
    parser.add_argument("--task", default="", metavar="NAME", help="hf: of a run on several tasks, this one alone")
    parser.add_argument("--format", required=True, choices=EXPORT_FORMS)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="a directory that does not exist yet; default: export-FORMAT[-TASK] in the run's DIR",
    )
    return flags.parse_and_run(parser, argv, _export, _output)


def _output(options: argparse.Namespace) -> str:
    own = "-".join(filter(None, ("export", options.format, options.task)))
    return os.path.join(options.run, own) if options.output is None else options.output


def _export(options: argparse.Namespace) -> int:
    from fjt.experiment.finished import load_run

    load_run(options.run, options.base).export(_output(options), options.format, options.task)
    console.say(f"{_output(options)}: {options.run} for {options.format}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
