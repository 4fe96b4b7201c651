"""Run a study:  python -m fjt.sweep --config configs/peft_ablation.py --workdir runs/ablation [--config.key=value ...]

  --plan        print the runs, the number of compiled programs and the estimated time, without running the study
  --shard i/n   run only every n-th bundle of runs, starting from the i-th (i from 0): one of the n jobs of an array
  --help        print this text and every config key with its default

The same command continues an interrupted study; if the config has more seeds or values, only the new runs are added.
Several of these commands may work in one --workdir, on one machine or on several with a shared folder; file locks must
reach across the machines, as they do on NFS.  `python -m fjt.report DIR` repeats the report.
Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import os
import re
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import api, configs, flags
from fjt.core import console, files
from fjt.core.errors import UserError, exit_code
from fjt.experiment.process import undisturbed
from fjt.study.spec import OPTIONS

if TYPE_CHECKING:
    from fjt.experiment.finished import Results
    from fjt.study.plans import Bundle
    from fjt.study.spec import Run
    from fjt.training.protocols import Events

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of a study.", flag_values=FLAGS)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this study is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Print the plan of the study, and stop.", flag_values=FLAGS)
SHARD = absl_flags.DEFINE_string("shard", "0/1", "i/n: every n-th bundle, from the i-th on.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the runs, for tests and for watching them."""
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
    shard = parse_shard(SHARD.value or "")
    workdir = files.local_path(WORKDIR.value, "--workdir")
    execute(config, workdir, command, plan=bool(PLAN.value), shard=shard, events=events)
    return 0


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n".  Raises UserError for another text."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise UserError(f"--shard={text} should be i/n with i from 0 to n - 1, for example --shard=0/4.")
    return int(match.group(1)), int(match.group(2))


def sweep(config: Any, workdir: str | os.PathLike[str], **options: Any) -> "Results":
    """The results of a study's reported runs, after those that were left have been run.  `fjt.sweep` is this function.

    Args:
        config: "configs/quickstart_sweep.py", "quickstart_sweep", a config file of your own, a ConfigDict or dict.
        workdir: the study's folder; its report is in report/.
        options: values of options, with `__` for the dot: `study__seeds=7`, `train__epochs=3`.

    Raises:
        UserError: a mistake in the arguments or files, with its remedy.
        KeyboardInterrupt: Ctrl-C; the state is saved, and the same call continues from it.
    """
    folder = files.local_path(workdir, "workdir")
    with api.interruptible():
        made, file = configs.load(config, options, OPTIONS)
        given = [f"--config={file}"] if file else []
        given += [f"--config.{key.replace('__', '.')}={value}" for key, value in options.items()]
        execute(made, folder, shlex.join(["python", "-m", "fjt.sweep", *given]))
    from fjt.experiment import run_records
    from fjt.experiment.finished import Results
    from fjt.study import plans

    runs, _, _ = plans.load(folder)
    paths = [os.path.join(folder, name) for name in sorted(runs) if runs[name].phase == "runs"]
    return Results({"workdir": path} | run_records.read_result(path) for path in paths)


@undisturbed()
def execute(
    config: Any,
    workdir: str,
    command: str,
    *,
    plan: bool = False,
    shard: tuple[int, int] = (0, 1),
    events: "Events | None" = None,
) -> None:
    """Runs the runs of a study that are left, and reports it when all have ended.

    Args:
        config: the config of the study.
        workdir: the study's folder.
        command: the command line, for the report.
        plan: whether to print the plan and stop.
        shard: (i, n) for every n-th bundle from the i-th on.
        events: of `main`.
    """
    from fjt.core.settings import from_config
    from fjt.experiment.program_cache import configure_jax
    from fjt.experiment.workdir import STUDY, lock, own
    from fjt.reports import document, power, publication
    from fjt.study import planner, plans, spec, worker

    own(workdir, STUDY)
    publication.check_output(os.path.join(workdir, "report"))
    options, base = spec.read(config)
    runs = spec.make_runs(options, base)
    configure_jax(from_config(base))
    if options.base:
        base["model"]["path"] = make_base(options.base, base)
    shared = planner.Shared()
    with lock(os.path.join(workdir, "groups"), wait=True, kind=""):  # one process plans; the others read its plan
        if not plan:
            worker.put_aside_damaged(workdir)
        runs, bundles, planned = planner.make_plan(workdir, options, base, runs, shared, command)
    document.check_baseline(options.baseline, list(dict.fromkeys(run.cell.split("/")[1] for run in runs.values())))
    changed = plans.changed(planned["study"], planned["declared"])
    for text in [*power.too_few(planned["study"], runs.values()), *([changed] if changed else [])]:
        console.warn(text)
    show_plan(workdir, runs, bundles, planned)
    if plan:
        return
    if not worker.work(workdir, base, runs, bundles, shared, metric=options.metric, shard=shard, events=events):
        console.say("runs of other shards are left; `python -m fjt.report` reports when they are done")
        return
    made = publication.report(workdir)
    if not base["output"]["export"]:
        for task, name in worker.best_runs(workdir, runs, options.metric).items():
            run = shlex.quote(os.path.join(workdir, name))
            console.say(f"model of the best run on {task}: python -m fjt.reproduce {run} --workdir DIR makes it again")
    publication.show(*made)


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
    from fjt.experiment import outcome, run_records
    from fjt.experiment.execute import run
    from fjt.experiment.inputs import cache_dir
    from fjt.experiment.prepare import prepare
    from fjt.experiment.workdir import lock

    known = [path.stem for path in (configs.ROOT / "configs").glob("*.py")]
    module = name.partition(":")[0]
    if module not in known:
        raise UserError(f"config.study.base={name!r}: there is no configs/{module}.py.{suggest(module, known)}")
    changes = {"cache.dir": base["cache"]["dir"], "mesh.data": base["mesh"]["data"], "log.tensorboard": False}
    changes |= {f"output.{kind}": False for kind in ("curve", "tables", "checkpoints")}
    config, _ = configs.load(name, changes)
    settings = from_config(config)
    experiment = prepare(settings, view=console.Silent())
    folder = os.path.join(cache_dir(settings.execution), "bases", experiment.fingerprint[:16])
    with lock(folder, wait=True):
        if not run_records.is_done(folder):
            console.say(f"training the encoder of {name} first: {experiment.steps:,} steps on {experiment.task.name}")
            result = run(experiment, folder, view=console.Silent())
            scores = "  ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
            console.say(f"  dev {scores}; saved in {folder}")
        outcome.clean_up(folder)  # a process that was killed after DONE leaves its checkpoints
        run_records.check_export(folder, run_records.read_result(folder))
    return os.path.join(folder, "export")


def show_plan(workdir: str, runs: "Mapping[str, Run]", bundles: "Sequence[Bundle]", plan: Mapping[str, Any]) -> None:
    """Prints the size of a study and the runs that are left.

    Args:
        workdir: the study's folder.
        runs: {name: Run}.
        bundles: the bundles of runs.
        plan: the contents of plan.json.
    """
    from fjt.experiment import run_records
    from fjt.experiment.features import gib
    from fjt.study import plans

    tuning = sum(run.phase == "tuning" for run in runs.values())
    counts = f"{len(runs)} runs" + (f", {tuning} of them to choose" if tuning else "")
    lacking = {
        bundle.id: sum(not run_records.ended(os.path.join(workdir, name)) for name in bundle.runs) for bundle in bundles
    }
    left = [bundle for bundle in bundles if lacking[bundle.id]]
    if not left:
        console.say(f"{counts}, all of them ended")
        return
    if sum(lacking.values()) < len(runs):
        counts += f", {sum(lacking.values())} of them left"
    word = "lanes" if all(bundle.mode == "vmap" for bundle in left) else "runs"
    programs = {program for bundle in left for program in bundle.programs}
    seconds = sum(bundle.run_seconds * lacking[bundle.id] for bundle in left)
    most = max(len(bundle.runs) for bundle in left)
    console.say(
        f"{counts} -> {len(programs)} programs in {len(left)} bundles of up to {most} {word}; "
        f"about {console.duration(seconds)}, if training reaches half this device's rate of matrix products and "
        f"each run takes {plans.BESIDE:g} s besides; about {gib(plan['bytes'])}"
    )


class _Callable(types.ModuleType):
    """This module, which is also the function `fjt.sweep`: importing a module sets its name in its package."""

    def __call__(self, *arguments: Any, **options: Any) -> "Results":
        return sweep(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main(sys.argv))
