"""A finished run in another format:  python -m fjt.export --run runs/first --format peft [--output given/away]

  hf          a whole Hugging Face model, merged where the method adds parameters
  peft        adapter_config.json and adapter_model.safetensors for PeftModel.from_pretrained
  adapterhub  adapter_config.json, adapter.safetensors and the head for `adapters`

The run itself leaves what fits under its export/; this writes the others.  Where a format cannot hold what was
trained, it says why.  Exit codes: 0 done, 2 a mistake in what was given.
"""

import argparse
import os
import shutil
import sys

from fjt.core import console, records
from fjt.core.errors import UserError
from fjt.experiment.finished import load_run
from fjt.interop import adapter, adapterhub, card, peft
from fjt.interop.directory import replaced
from fjt.models import pretrained

# What is of a form alone, in a directory that holds an adapter.
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


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the work directory of a finished run")
    parser.add_argument("--base", default="", metavar="DIR", help="its base model, where it lies elsewhere by now")
    parser.add_argument("--format", required=True, choices=("hf", "peft", "adapterhub"))
    parser.add_argument(
        "--output", metavar="DIR", help="a directory that does not exist yet; by default DIR/export-FORMAT of the run"
    )
    try:
        options = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return stop.code
    output = os.path.join(options.run, f"export-{options.format}") if options.output is None else options.output
    try:
        export(load_run(options.run, options.base), options.format, output)
    except (UserError, OSError) as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2
    console.say(f"{output}: {options.run} for {options.format}")
    return 0


def export(run, form, output):
    """Writes a load.Run in a format to a new directory.  Raises UserError."""
    if not output:
        raise UserError("--output is empty; give a new directory.")
    output = os.path.normpath(os.path.expanduser(output))
    for path in (output, f"{output}.tmp"):
        if os.path.lexists(path):
            raise UserError(f"--output: {path} exists already; give a new directory, or move it away.")
    method = " and ".join(run.result["method"])
    if form == "hf":
        folder = run.model_directory()
        if not folder:
            raise UserError(
                f"--format=hf: {method} cannot be merged into the base model: what is added is computed beside its "
                "layers or depends on the example, and a plain model has no place for it. Take --format=peft or "
                "--format=adapterhub."
            )
        with replaced(output) as target:
            shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter", "merged"))
        return
    folder = os.path.join(run.path, "export", "adapter")
    if not os.path.exists(os.path.join(folder, adapter.CONFIG)):
        raise UserError(f"--format={form}: {method} trains the model's own parameters; only --format=hf holds them.")
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
