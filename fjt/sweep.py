"""Run a study:  python -m fjt.sweep --config configs/peft_ablation.py --workdir runs/ablation [--config.key=value ...]

  --plan        print the runs, the number of compiled programs and the estimated time, without running the study
  --shard i/n   run only every n-th group of runs, starting from the i-th (i from 0): one of the n jobs of an array
  --help        print this text and every config key with its default

The same command continues an interrupted study; if the config has more seeds or values, only the new runs are added.
Several of these commands may work in one --workdir, on one machine or on several with a shared folder; file locks must
reach across the machines, as they do on NFS.  `python -m fjt.report DIR` repeats the report.
Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import importlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from fjt import flags
from fjt.core import console
from fjt.core.errors import UserError, exit_code
from fjt.study.spec import OPTIONS

if TYPE_CHECKING:
    from fjt.study.plans import Group
    from fjt.study.spec import Run
    from fjt.training.protocols import Events

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of a study.", flag_values=FLAGS)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this study is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Print the plan of the study, and stop.", flag_values=FLAGS)
SHARD = absl_flags.DEFINE_string("shard", "0/1", "i/n: every n-th group, from the i-th on.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the runs, for tests and for watching them."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv[1:]):
        console.say(__doc__ or "")
        console.say(flags.keys_help(OPTIONS))
        return 0
    return exit_code(
        lambda: _start(argv, events),
        lambda: WORKDIR.value or "",
        "; the same command continues from the saved state",
        " Files saved earlier are kept.",
    )


def _start(argv: list[str], events: "Events | None") -> int:
    config = flags.parse(argv, FLAGS, CONFIG, OPTIONS)
    if config is None or WORKDIR.value is None:
        raise UserError(
            "--config and --workdir are needed, for example --config configs/quickstart_sweep.py "
            "--workdir runs/quickstart_sweep."
        )
    command = shlex.join(["python", "-m", "fjt.sweep", *argv[1:]])
    return sweep(config, WORKDIR.value, bool(PLAN.value), parse_shard(SHARD.value or ""), command, events)


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n".  Raises UserError for another text."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise UserError(f"--shard={text} should be i/n with i from 0 to n - 1, for example --shard=0/4.")
    return int(match.group(1)), int(match.group(2))


def sweep(
    config: ConfigDict,
    workdir: str,
    plan_only: bool,
    shard: tuple[int, int],
    command: str,
    events: "Events | None" = None,
) -> int:
    """The exit code of a study.

    Args:
        config: the config of the study.
        workdir: the study's folder.
        plan_only: whether to print the plan and stop.
        shard: (i, n) for every n-th group from the i-th on.
        command: the command line, for the report.
        events: of `main`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from fjt import report
    from fjt.core.settings import from_config
    from fjt.experiment.program_cache import configure_jax
    from fjt.experiment.workdir import STUDY, lock, own
    from fjt.reports import document, power
    from fjt.study import planner, plans, spec, worker

    own(workdir, STUDY)
    report.check_output(os.path.join(workdir, "report"))
    options, base = spec.read(config)
    runs = spec.make_runs(options, base)
    configure_jax(from_config(base))
    if options.base:
        base["model"]["path"] = make_base(options.base, base)
    shared = planner.Shared()
    with lock(os.path.join(workdir, "groups"), wait=True, kind=""):  # one process plans; the others read its plan
        if not plan_only:
            worker.put_aside_damaged(workdir)
        runs, groups, plan = planner.make_plan(workdir, options, base, runs, shared, command)
    document.check_baseline(options.baseline, list(dict.fromkeys(run.cell.split("/")[1] for run in runs.values())))
    changed = plans.changed(plan["study"], plan["declared"])
    for text in [*power.too_few(plan["study"], runs.values()), *([changed] if changed else [])]:
        console.warn(text)
    show_plan(workdir, runs, groups, plan)
    if plan_only:
        return 0
    if not worker.work(workdir, base, runs, groups, shared, metric=options.metric, shard=shard, events=events):
        console.say("runs of other shards are left; `python -m fjt.report` reports when they are done")
        return 0
    report.show(*report.report(workdir))
    return 0


def make_base(name: str, base: Mapping[str, Any]) -> str:
    """The directory of the encoder that a config trains; it is trained first unless the cache has it.

    Args:
        name: NAME[:ARGUMENT] of configs/NAME.py.
        base: the config of the study's runs.

    Raises:
        UserError: there is no such config, or it cannot be run.
    """
    from fjt.core.errors import suggest
    from fjt.core.settings import from_config
    from fjt.experiment import run_records
    from fjt.experiment.execute import run
    from fjt.experiment.inputs import cache_dir
    from fjt.experiment.prepare import prepare
    from fjt.experiment.workdir import lock

    known = [path.stem for path in (flags.ROOT / "configs").glob("*.py")]
    module, _, argument = name.partition(":")
    if module not in known:
        raise UserError(f"config.study.base={name!r}: there is no configs/{module}.py.{suggest(module, known)}")
    config = importlib.import_module(f"configs.{module}").get_config(*[argument] if argument else [])
    config.cache.dir, config.mesh.data = base["cache"]["dir"], base["mesh"]["data"]
    config.output.curve = config.output.tables = config.output.checkpoints = config.log.tensorboard = False
    settings = from_config(config)
    experiment = prepare(settings, view=console.Silent())
    folder = os.path.join(cache_dir(settings.execution), "bases", experiment.fingerprint[:16])
    with lock(folder, wait=True):
        if not run_records.is_done(folder):
            console.say(f"training the encoder of {name} first: {experiment.steps:,} steps on {experiment.task.name}")
            result = run(experiment, folder, view=console.Silent())
            scores = "  ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
            console.say(f"  dev {scores}; saved in {folder}")
    return os.path.join(folder, "export")


def show_plan(workdir: str, runs: "Mapping[str, Run]", groups: "Sequence[Group]", plan: Mapping[str, Any]) -> None:
    """Prints the size of a study and the runs that are left.

    Args:
        workdir: the study's folder.
        runs: {name: Run}.
        groups: the groups of runs.
        plan: the contents of plan.json.
    """
    from fjt.experiment import run_records
    from fjt.experiment.features import gib
    from fjt.study import plans

    tuning = sum(run.phase == "tuning" for run in runs.values())
    counts = f"{len(runs)} runs" + (f", {tuning} of them to choose" if tuning else "")
    lacking = {
        group.id: sum(not run_records.ended(os.path.join(workdir, name)) for name in group.runs) for group in groups
    }
    left = [group for group in groups if lacking[group.id]]
    if not left:
        console.say(f"{counts}, all of them ended")
        return
    if sum(lacking.values()) < len(runs):
        counts += f", {sum(lacking.values())} of them left"
    word = "lanes" if all(group.mode == "vmap" for group in left) else "runs"
    programs = {program for group in left for program in group.programs}
    seconds = sum(group.run_seconds * lacking[group.id] for group in left)
    console.say(
        f"{counts} -> {len(programs)} programs in {len(left)} groups of up to {max(len(g.runs) for g in left)} {word}; "
        f"about {console.duration(seconds)}, if training reaches half this device's rate of matrix products and "
        f"each run takes {plans.BESIDE:g} s besides; about {gib(plan['bytes'])}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
