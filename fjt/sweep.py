"""Run a study:  python -m fjt.sweep --config configs/peft_ablation.py --workdir runs/ablation [--config.key=value ...]

  --plan        which runs there are, how many programs they compile, about how long they take; then stop
  --shard i/n   run only every n-th group of runs, starting from the i-th (i from 0): one of the n jobs of an array
  --help        this text and every config key with its default

The same command again goes on where it stopped; with more seeds or values in the config, only what is new is run.
Several of these may work in one --workdir at a time, on one machine or on several with a shared folder; file locks
must reach across the machines, as they do on NFS.  `python -m fjt.report DIR` makes the report again.
Exit codes: 0 done, 2 a mistake in what was given, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import importlib
import logging
import os
import re
import shlex
import sys

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import console
from fjt.core.errors import UserError
from fjt.study.spec import OPTIONS

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of a study.", flag_values=FLAGS)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "Where everything of this study is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Show what the study would be, and stop.", flag_values=FLAGS)
SHARD = absl_flags.DEFINE_string("shard", "0/1", "i/n: every n-th group, from the i-th on.", flag_values=FLAGS)


def main(argv, events=None):
    """The exit code of a command line.  events: `Events` of the training loop, for tests and for watching runs."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if any(argument in ("--help", "-h", "--helpfull") for argument in argv[1:]):
        console.say(__doc__)
        console.say(flags.keys_help(OPTIONS))
        return 0
    try:
        config = flags.parse(argv, FLAGS, CONFIG, OPTIONS)
        if config is None or WORKDIR.value is None:
            raise UserError(
                "--config and --workdir are needed, for example --config configs/quickstart_sweep.py "
                "--workdir runs/quickstart_sweep."
            )
        command = shlex.join(["python", "-m", "fjt.sweep", *argv[1:]])
        return sweep(config, WORKDIR.value, PLAN.value, parse_shard(SHARD.value), command, events)
    except KeyboardInterrupt:
        print("fjt: stopped by SIGINT; the same command goes on from what was saved", file=sys.stderr)
        return 130
    except OSError as error:
        print(
            f"fjt: {error.strerror or error}: {error.filename or WORKDIR.value}. What was saved before is kept.",
            file=sys.stderr,
        )
        return 2
    except UserError as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2


def parse_shard(text):
    """(i, n) of "i/n".  Raises UserError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise UserError(f"--shard={text} should be i/n with i from 0 to n - 1, for example --shard=0/4.")
    return int(match.group(1)), int(match.group(2))


def sweep(config, workdir, plan_only, shard, command, events=None):
    """The exit code of a study.

    config: the ConfigDict; shard: (i, n); command: what was typed; events: of `main`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from fjt import report
    from fjt.core.options import from_config
    from fjt.experiment.programs import configure_jax
    from fjt.experiment.workdir import lock
    from fjt.reports import document, power
    from fjt.study import planner, plans, spec, worker
    from fjt.training.stop import Stopped

    options, base = spec.read(config)
    runs = spec.make_runs(options, base)
    configure_jax(from_config(base))
    if options.base:
        base["model"]["path"] = make_base(options.base, base)
    shared = planner.Shared()
    with lock(os.path.join(workdir, "groups"), wait=True):  # one process plans, and the others find it done
        runs, groups, plan = planner.make_plan(workdir, options, base, runs, shared, command)
    document.check_baseline(options.baseline, list(dict.fromkeys(run.cell.split("/")[1] for run in runs.values())))
    changed = plans.changed(plan["study"], plan["declared"])
    for text in [*power.too_few(plan["study"], runs.values()), *([changed] if changed else [])]:
        console.warn(text)
    show_plan(workdir, runs, groups, plan)
    if plan_only:
        return 0
    try:
        done = worker.work(workdir, base, runs, groups, shared, shard=shard, events=events)
    except Stopped as stop:
        console.warn(str(stop))
        return 128 + stop.number
    if not done:
        console.say("other shards have runs to make; `python -m fjt.report` reports when they are done")
        return 0
    report.show(*report.report(workdir))
    return 0


def make_base(name, base):
    """The directory of the encoder that configs/NAME.py trains, made when the cache has none; name: NAME[:ARGUMENT].

    Raises UserError.
    """
    from fjt.core.errors import suggest
    from fjt.core.options import from_config
    from fjt.experiment.execute import run
    from fjt.experiment.inputs import cache_dir
    from fjt.experiment.prepare import prepare
    from fjt.experiment.workdir import finished, lock

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
        if not finished(folder):
            console.say(f"the encoder of {name}, {experiment.steps:,} steps on {experiment.task.name}, first")
            result = run(experiment, folder, view=console.Silent())
            scores = "  ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
            console.say(f"  dev {scores}; kept in {folder}")
    return os.path.join(folder, "export")


def show_plan(workdir, runs, groups, plan):
    """Prints what the study is, and what of it is left to make."""
    from fjt.experiment.features import gib
    from fjt.study import plans

    tuning = sum(run.phase == "tuning" for run in runs.values())
    counts = f"{len(runs)} runs" + (f", {tuning} of them to choose" if tuning else "")
    lacking = {group.id: sum(not plans.ended(os.path.join(workdir, name)) for name in group.runs) for group in groups}
    left = [group for group in groups if lacking[group.id]]
    if not left:
        console.say(f"{counts}, all of which have ended")
        return
    if sum(lacking.values()) < len(runs):
        counts += f", {sum(lacking.values())} of them left"
    word = "lanes" if all(group.mode == "vmap" for group in left) else "runs"
    programs = {program for group in left for program in group.programs}
    seconds = sum(group.run_seconds * lacking[group.id] for group in left)
    console.say(
        f"{counts} -> {len(programs)} programs in {len(left)} groups of up to {max(len(g.runs) for g in left)} {word}; "
        f"about {console.duration(seconds)}, by training at half this device's rate of matrix products and "
        f"{plans.BESIDE:g} s beside it a run; about {gib(plan['bytes'])}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
