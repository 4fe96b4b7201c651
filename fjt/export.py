"""Write a finished run in another format:  python -m fjt.export --run runs/first --format peft [--output DIR]

  hf          a whole Hugging Face model, merged if the method adds parameters
  peft        adapter_config.json and adapter_model.safetensors for PeftModel.from_pretrained
  adapterhub  adapter_config.json, adapter.safetensors and the head for `adapters`

The run itself writes one form to its export/; this command writes the others.  If a format cannot express the tuned
parameters, the message says why.  Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from fjt.core import console, records
from fjt.core.errors import UserError, exit_code
from fjt.experiment.finished import Run, load_run
from fjt.interop import adapter, adapterhub, card, peft
from fjt.interop.directory import replaced
from fjt.models import pretrained

# Files of a directory with an adapter that only one of the forms has.
FORMS = (
    adapter.CONFIG,
    adapter.WEIGHTS,
    peft.CONFIG,
    peft.WEIGHTS,
    adapterhub.WEIGHTS,
    adapterhub.HEAD_CONFIG,
    adapterhub.HEAD_WEIGHTS,
    "README.md",
)


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--base", default="", metavar="DIR", help="the run's base model, if it has moved")
    parser.add_argument("--format", required=True, choices=("hf", "peft", "adapterhub"))
    parser.add_argument(
        "--output", metavar="DIR", help="a directory that does not exist yet; default: export-FORMAT in the run's DIR"
    )
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    output = os.path.join(options.run, f"export-{options.format}") if options.output is None else options.output

    def command() -> int:
        export(load_run(options.run, options.base), options.format, output)
        console.say(f"{output}: {options.run} for {options.format}")
        return 0

    return exit_code(command, lambda: output)


def export(run: Run, form: str, output: str) -> None:
    """Writes a run in a format to a new directory.

    Args:
        run: a finished run.
        form: hf, peft or adapterhub.
        output: the directory, which must not exist.

    Raises:
        UserError: the directory exists, or the format cannot express the run.
    """
    if not output:
        raise UserError("--output is empty; give a new directory.")
    output = os.path.normpath(os.path.expanduser(output))
    for path in (output, f"{output}.tmp"):
        if os.path.lexists(path):
            raise UserError(f"--output: {path} already exists; give a new directory, or move it away.")
    method = " and ".join(run.result["method"])
    if form == "hf":
        folder = run.model_directory()
        if not folder:
            raise UserError(
                f"--format=hf: {method} cannot be merged into the base model: its parameters act next to the layers or "
                "depend on the example, which a plain model cannot express. Use --format=peft or --format=adapterhub."
            )
        with replaced(output) as target:
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter", "merged"))
        return
    folder = os.path.join(run.path, "export", "adapter")
    if not os.path.exists(os.path.join(folder, adapter.CONFIG)):
        raise UserError(f"--format={form}: {method} trains the model's own parameters, which only --format=hf has.")
    own = adapter.read(folder)
    config, _ = pretrained.read_config(run.base_directory())
    with replaced(output) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*FORMS))
        records.write_json(os.path.join(target, adapter.BASE), {"base_sha256": own.base_sha256})
        card.convert(os.path.join(folder, "README.md"), os.path.join(target, "README.md"), form)
        if form == "peft":
            peft.write(target, own, config)
        else:
            adapterhub.write(target, own, config, run.label_names, run.problem.head)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
