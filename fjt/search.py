"""Search options of a run:  python -m fjt.search SPACE.py --workdir runs/search [--trials 20] [--config.key=value ...]

SPACE.py is a config whose config.search.space names the options and their values (see configs/search.py and
configs/quickstart_search.py).  Each trial is an ordinary run in the folder's trials/; its score on dev decides.

  --trials N       number of trials, default 20; a larger number later adds trials
  --sampler NAME   tpe (tree-structured Parzen estimator, the default), random, grid or cmaes (CMA-ES, of ranges alone)
  --seed S         seed of the sampler, default 0; the runs have config.seed
  --prune          end trials whose best score so far is below the median of earlier trials at the same evaluation
  --lanes K        propose K trials at once, which share compiled programs and, on an accelerator, run as lanes
  --storage URL    keep the trials in a database of Optuna's, such as sqlite:///FILE, instead of the folder's trials.log
  --help           print this text and every config key with its default

The same command continues an interrupted search, to the same trials.  Several of these commands may work in one
--workdir.  At the end, search.json and report/ have the trials, the best one as flags to copy, and figures.
Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import files
from fjt.core.errors import UserError, suggest
from fjt.core.settings import from_config
from fjt.experiment.process import undisturbed
from fjt.study.proposals import SAMPLERS
from fjt.study.space import ALL_OPTIONS, Space, read

if TYPE_CHECKING:
    from fjt.training.protocols import Events

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of a search.", flag_values=FLAGS)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this search is written.", flag_values=FLAGS)
TRIALS = absl_flags.DEFINE_integer("trials", 20, "The number of trials.", flag_values=FLAGS)
SAMPLER = absl_flags.DEFINE_string("sampler", SAMPLERS[0], "How trials are proposed.", flag_values=FLAGS)
SEED = absl_flags.DEFINE_integer("seed", 0, "The seed of the sampler.", flag_values=FLAGS)
PRUNE = absl_flags.DEFINE_bool("prune", False, "Whether trials that are behind end early.", flag_values=FLAGS)
LANES = absl_flags.DEFINE_integer("lanes", 1, "The number of trials proposed at once.", flag_values=FLAGS)
STORAGE = absl_flags.DEFINE_string("storage", "", "The address of a database of Optuna's.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the trials, for tests and for watching them."""
    return flags.run(
        argv,
        __doc__,
        ALL_OPTIONS,
        lambda: _start(argv, events),
        lambda: WORKDIR.value or "",
        "; the same command continues from the saved state",
        " Files saved earlier are kept.",
    )


def _start(argv: list[str], events: "Events | None") -> int:
    command = shlex.join(["python", "-m", "fjt.search", *argv[1:]])
    if len(argv) > 1 and not argv[1].startswith("-"):
        argv = [argv[0], "--config", *argv[1:]]
    config = flags.parse(argv, FLAGS, CONFIG, ALL_OPTIONS)
    if config is None or WORKDIR.value is None:
        raise UserError(
            "The config of a search and --workdir are needed, for example configs/quickstart_search.py --workdir "
            "runs/quickstart_search."
        )
    workdir = files.local_path(WORKDIR.value, "--workdir")
    _check_numbers()
    spaces, base = read(config)
    execute(workdir, spaces, base, command, events)
    return 0


def _check_numbers() -> None:
    """Raises UserError for values of flags that are not allowed, alone or together."""
    sampler, prune, lanes = SAMPLER.value or "", PRUNE.value, LANES.value or 0
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler={sampler} is unknown.{suggest(sampler, SAMPLERS)}")
    for flag, low in ((TRIALS, 1), (LANES, 1), (SEED, 0)):
        if flag.value is None or flag.value < low:
            raise UserError(f"--{flag.name}={flag.value} should be at least {low}.")
    if prune and lanes > 1:
        raise UserError(f"--prune and --lanes={lanes}: trials that run together end together. Give one of them.")


@undisturbed()
def execute(
    workdir: str, spaces: tuple[Space, ...], base: Mapping[str, Any], command: str, events: "Events | None" = None
) -> None:
    """Runs the trials of a search that are left, and reports it.

    Args:
        workdir: the folder of the search.
        spaces: the axes.
        base: the config of the trials.
        command: the command line, for the report.
        events: of `main`.
    """
    from fjt.experiment.program_cache import configure_jax
    from fjt.experiment.workdir import SEARCH, own
    from fjt.reports import search_report
    from fjt.study import planner, proposals, search, trials

    proposals.check(SAMPLER.value or "", spaces)
    plan = trials.Plan(
        spaces, SAMPLER.value or "", SEED.value or 0, TRIALS.value or 0, LANES.value or 0, bool(PRUNE.value)
    )
    own(workdir, SEARCH)
    configure_jax(from_config(base))
    ended = search.search(workdir, plan, base, planner.Shared(), storage=STORAGE.value or "", events=events)
    search_report.write(ended, workdir, command)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
