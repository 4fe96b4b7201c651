"""Fine-tune an encoder:  python -m fjt.main --config configs/glue.py:rte --workdir runs/rte [--config.key=value ...]

  --list   print tasks, methods and configs
  --plan   print the run's resolved options, trainable parameters, steps, shapes and cost, without running it
  --help   print this text and every config key with its default

The same command on an unfinished work directory continues from the last checkpoint, to the same bits.
Exit codes: 0 success, 2 a mistake in the arguments or files, 3 loss not finite, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import console
from fjt.core.errors import Ended, UserError, exit_code
from fjt.core.options import TOGETHER, Settings
from fjt.core.settings import from_config
from fjt.flags import ROOT

if TYPE_CHECKING:
    from fjt.training.protocols import Events

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config file, with its argument after a colon.", flag_values=FLAGS
)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this run is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Print the plan of the run, and stop.", flag_values=FLAGS)
LIST = absl_flags.DEFINE_bool("list", False, "Print tasks, methods and configs.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the run, for tests and for watching a run."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv[1:]):
        console.say(__doc__ or "")
        console.say(flags.keys_help())
        return 0
    return exit_code(
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
    return execute(settings, WORKDIR.value or "", bool(PLAN.value), flags.given(config, argv), events)


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
        first = re.match(r'\s*"""(.*?)(?:\n|""")', path.read_text())
        rows.append((f"configs/{path.name}", first.group(1) if first else ""))
    console.table("Configs (--config)", ("file", "description"), rows)


def execute(
    settings: Settings,
    workdir: str,
    plan_only: bool,
    origins: Mapping[str, str],
    events: "Events | None" = None,
) -> int:
    """The exit code of a run.

    Args:
        settings: the options.
        workdir: the work directory.
        plan_only: whether to print the plan and stop.
        origins: {key: origin of its value} of the options that were given.
        events: of `main`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from fjt.experiment import outcome, run_records, summary
    from fjt.experiment.execute import run
    from fjt.experiment.prepare import prepare
    from fjt.experiment.program_cache import configure_jax
    from fjt.experiment.workdir import check, lock
    from fjt.training.checkpoint import NotFinite

    configure_jax(settings)
    if plan_only:
        experiment = prepare(settings, given=origins)
        summary.show_plan(experiment)
        return 0
    with lock(workdir):
        try:
            experiment = prepare(settings, given=origins)
            if run_records.is_done(workdir):
                check(experiment, workdir)
                outcome.clean_up(workdir)
                console.say(f"{workdir} is already finished; its result:")
                summary.show_result(workdir)
                return 0
            summary.show_start(experiment, workdir)
            run(experiment, workdir, events=events)
        except NotFinite as error:
            raise Ended(
                f"{error}. Stopped; checkpoints saved earlier are kept, and the same command would stop here again. "
                "A lower --config.optim.learning_rate or a longer --config.optim.warmup_fraction, in another "
                "--workdir, may help.",
                error.code,
            ) from None
        summary.show_result(workdir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
