"""Fine-tune an encoder:  python -m fjt.main --config configs/glue.py:rte --workdir runs/rte [--config.key=value ...]

  --list   print tasks, methods and configs
  --plan   print the run's resolved options, trainable parameters, steps, shapes and cost, without running it
  --help   print this text and every config key with its default

One run in several processes, on one machine or many, each started by the same command and these flags:

  --processes=auto        as JAX detects them: Slurm, Open MPI, TPU hosts
  --processes=N --process=I --coordinator=HOST:PORT   the I-th of N, from 0; process 0 is reached at the address

The same command on an unfinished work directory continues from the last checkpoint, to the same bits.
Exit codes: 0 success, 2 a mistake in the arguments or files, 3 numbers not finite; after a signal the state is saved:
129 SIGHUP, 130 Ctrl-C, 141 nobody reads the output, 143 SIGTERM.
"""

import re
import sys
from typing import TYPE_CHECKING

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import api, flags
from fjt.configs import ROOT
from fjt.core import console, files
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS, TOGETHER
from fjt.core.settings import from_config

if TYPE_CHECKING:
    from fjt.training.protocols import Events

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file, with its argument after a colon.", flag_values=FLAGS
)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this run is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Print the plan of the run, and stop.", flag_values=FLAGS)
LIST = absl_flags.DEFINE_bool("list", False, "Print tasks, methods and configs.", flag_values=FLAGS)
PROCESSES = absl_flags.DEFINE_string("processes", "1", "Processes of this run: a number or auto.", flag_values=FLAGS)
PROCESS = absl_flags.DEFINE_integer("process", None, "The number of this process, from 0.", flag_values=FLAGS)
COORDINATOR = absl_flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the run, for tests and for watching a run."""
    return flags.run(
        argv,
        __doc__,
        OPTIONS,
        lambda: _start(argv, events),
        lambda: WORKDIR.value or "",
        " before training began; there was nothing to save",  # once it trains, the run saves first
        " Files saved earlier are kept.",
    )


def _start(argv: list[str], events: "Events | None") -> int:
    config = flags.parse(argv, FLAGS, CONFIG)
    if config is not None and "study" in config:
        raise UserError("--config names a study: run it by python -m fjt.sweep, with the same flags.")
    settings = None if config is None else from_config(config)
    if LIST.value:
        show_list()
        return 0
    if config is None or settings is None:
        raise UserError("--config is missing, for example --config configs/glue.py:rte. --list prints all configs.")
    if WORKDIR.value is None and not PLAN.value:
        raise UserError(
            "--workdir is missing: the folder to which this run is written, for example --workdir runs/first."
        )
    workdir = "" if PLAN.value else files.local_path(WORKDIR.value or "", "--workdir")
    given, plan = flags.given(config, argv), bool(PLAN.value)
    if (PROCESSES.value, PROCESS.value, COORDINATOR.value) == ("1", None, ""):
        api.execute(settings, workdir, given, events, plan=plan)
        return 0
    from fjt.training import processes

    processes.start(PROCESSES.value or "", PROCESS.value, COORDINATOR.value or "")
    with processes.ending(workdir):
        api.execute(settings, workdir, given, events, plan=plan)
    return 0


def show_list() -> None:
    """Prints tasks, methods and configs."""
    from fjt.data import sources
    from fjt.tuning.partition import METHODS

    console.table("Tasks (config.task, or configs/glue.py:TASK)", ("name", "description"), sources.names().items())
    rows = [
        (name, f"{m.learning_rate:g}", ", ".join(f"{k}={v}" for k, v in m.options.items()) or "-", m.about)
        for name, m in METHODS.items()
    ]
    rows += [
        (
            name,
            f"{min(METHODS[one].learning_rate for one in several):g}",
            f"those of {', '.join(several)}",
            f"{', '.join(several)} together{', gated' if options.get('gating') else ''}",
        )
        for name, (several, options) in TOGETHER.items()
    ]
    columns = ("name", ">learning rate", "options (config.tune.)", "trainable parameters")
    console.table("Methods (config.tune.method)", columns, rows)
    rows = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        first = re.match(r'\s*"""(.*?)(?:\n|""")', path.read_text(encoding="utf-8"))
        rows.append((f"configs/{path.name}", first.group(1) if first else ""))
    console.table("Configs (--config)", ("file", "description"), rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
