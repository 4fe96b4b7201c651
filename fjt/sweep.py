"""Run a study:  python -m fjt.sweep --config configs/peft_ablation.py --workdir runs/ablation [--config.key=value ...]

  --plan          print the runs, the bundles, the number of compiled programs and the estimated time, and stop
  --shard i/n     run only every n-th bundle of runs, starting from the i-th (i from 0): one of the n jobs of an array
  --bundles A,B   run exactly these bundles, by the names that --plan prints
  --engine ray    run the bundles on the nodes of Ray, each with config.study.devices accelerators and .cpus cores
  --address HOST  of a running Ray, such as auto; without it Ray is started on this machine
  --help          print this text and every config key with its default

The same command continues an interrupted study; if the config has more seeds or values, only the new runs are added.
Several of these commands may work in one --workdir, on one machine or on several with a shared folder; file locks must
reach across the machines, as they do on NFS; Ray needs no shared folder with --config.study.shared=False.
`python -m fjt.report DIR` repeats the report.
Exit codes: 0 success, 2 a mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM (state saved).
"""

import contextlib
import dataclasses
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
from fjt.core import console, files, records
from fjt.core.errors import UserError
from fjt.experiment.process import undisturbed
from fjt.study.spec import OPTIONS

if TYPE_CHECKING:
    from fjt.core.options import Settings
    from fjt.experiment.finished import Results
    from fjt.study.plans import Bundle
    from fjt.study.spec import Run
    from fjt.training.protocols import Events

MOST_PATTERNS = 4  # cross-validations whose command is printed
FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of a study.", flag_values=FLAGS)
WORKDIR = absl_flags.DEFINE_string("workdir", None, "The folder to which this study is written.", flag_values=FLAGS)
PLAN = absl_flags.DEFINE_bool("plan", False, "Print the plan of the study, and stop.", flag_values=FLAGS)
SHARD = absl_flags.DEFINE_string("shard", None, "i/n: every n-th bundle, from the i-th on.", flag_values=FLAGS)
BUNDLES = absl_flags.DEFINE_list("bundles", None, "The bundles to run.", flag_values=FLAGS)
ENGINE = absl_flags.DEFINE_string("engine", "", "ray: bundles run on its nodes.", flag_values=FLAGS)
ADDRESS = absl_flags.DEFINE_string("address", "", "The address of a running Ray.", flag_values=FLAGS)
PROCESSES = absl_flags.DEFINE_string("processes", "1", "Of fjt.main; a study has --engine.", flag_values=FLAGS)


def main(argv: list[str], events: "Events | None" = None) -> int:
    """The exit code of a command line.  events: called at moments of the runs, for tests and for watching them."""
    return flags.run(
        argv,
        __doc__,
        OPTIONS,
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
    workdir = files.local_path(WORKDIR.value, "--workdir")
    if BUNDLES.value == []:
        raise UserError("--bundles is empty: give the names that --plan prints, or leave it out.")
    share = Share(SHARD.value or "", tuple(BUNDLES.value or ()), ENGINE.value or "", ADDRESS.value or "")
    if PROCESSES.value not in ("", "0", "1"):
        raise UserError(
            f"--processes={PROCESSES.value}: each bundle of a study runs in one process. --engine=ray runs bundles in "
            "many processes and on many machines; --shard and --bundles divide a study by hand."
        )
    execute(config, workdir, command, plan=bool(PLAN.value), share=share, events=events)
    return 0


@dataclasses.dataclass(frozen=True)
class Share:
    """Who runs which bundles of a study; by default this process runs all.

    Attributes:
        shard: "i/n" for every n-th bundle from the i-th on.
        bundles: ids of the bundles that this process runs.
        engine: "ray" for the nodes of Ray.
        address: of a running Ray.

    Raises:
        UserError: values that are not allowed, alone or together.
    """

    shard: str = ""
    bundles: tuple[str, ...] = ()
    engine: str = ""
    address: str = ""

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard or "0/1")
        if not match or not int(match.group(1)) < int(match.group(2)):
            raise UserError(f"--shard={self.shard} should be i/n with i from 0 to n - 1, for example --shard=0/4.")
        if self.engine not in ("", "ray"):
            raise UserError(f"--engine={self.engine} is not known; ray is.")
        if self.address and not self.engine:
            raise UserError(f"--address={self.address} is of a running Ray: give --engine=ray as well.")
        given = {"--shard": self.shard, "--bundles": self.bundles, "--engine": self.engine}
        given = [name for name, value in given.items() if value]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} both divide the study; give one of them.")

    def of(self, folder: str, bundles: "Sequence[Bundle]", runs: "Mapping[str, Run]") -> "Sequence[Bundle]":
        """The bundles that this process runs.

        Args:
            folder: the study.
            bundles: all bundles of the plan.
            runs: {name: Run} of the plan.
        """
        from fjt.study import plans

        if self.bundles:
            return plans.find(self.bundles, folder, bundles, runs)
        first, step = map(int, (self.shard or "0/1").split("/"))
        return bundles[first::step]


def sweep(
    config: Any, workdir: str | os.PathLike[str], *, engine: str = "", address: str = "", **options: Any
) -> "Results":
    """The results of a study's reported runs, after those that were left have been run.  `fjt.sweep` is this function.

    Args:
        config: "configs/quickstart_sweep.py", "quickstart_sweep", a config file of your own, a ConfigDict or dict.
        workdir: the study's folder; its report is in report/.
        engine: "ray" to run the bundles of runs on the nodes of Ray.
        address: of a running Ray, such as "auto"; without it Ray is started on this machine.
        options: values of options, with `__` for the dot: `study__seeds=7`, `train__epochs=3`.

    Raises:
        UserError: a mistake in the arguments or files, with its remedy.
        KeyboardInterrupt: Ctrl-C; the state is saved, and the same call continues from it.
    """
    folder = files.local_path(workdir, "workdir")
    share = Share(engine=engine, address=address)
    with api.interruptible():
        made, file = configs.load(config, options, OPTIONS)
        given = [f"--config={file}"] if file else []
        given += [f"--config.{key.replace('__', '.')}={value}" for key, value in options.items()]
        given += [f"--engine={engine}"] if engine else []
        execute(made, folder, shlex.join(["python", "-m", "fjt.sweep", *given]), share=share)
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
    share: Share = Share(),
    events: "Events | None" = None,
) -> None:
    """Runs the runs of a study that are left, and reports it when all have ended.

    Args:
        config: the config of the study.
        workdir: the study's folder.
        command: the command line, for the report.
        plan: whether to print the plan and stop.
        share: who runs which bundles.
        events: of `main`.
    """
    from fjt.experiment.workdir import STUDY, lock, own
    from fjt.reports import document, power, publication
    from fjt.study import choosing, engine, node, plans, spec, worker

    own(workdir, STUDY)
    publication.check_output(os.path.join(workdir, "report"))
    options, base = spec.read(config)
    runs = spec.make_runs(options, base)
    order = node.Order(
        folder=os.path.abspath(workdir) if share.engine else workdir,
        directory=os.getcwd(),
        study=options,
        base=base,
        encoder=(options.base, encoder_settings(options.base, base)) if options.base else None,
        runs=runs,
        command=command,
        versions=records.versions(),
    )
    with engine.connect(share.address, order) if share.engine else contextlib.nullcontext(node.Here(order)) as host:
        with lock(os.path.join(workdir, "groups"), wait=True, kind=""):  # one process plans; the others read its plan
            if not plan:
                worker.put_aside_damaged(workdir)
            host.plan()
        runs, bundles, planned = plans.load(workdir)
        document.check_baseline(options.baseline, list(dict.fromkeys(run.cell.split("/")[1] for run in runs.values())))
        changed = plans.changed(planned["study"], planned["declared"])
        for text in [*power.too_few(planned["study"], runs.values()), *([changed] if changed else [])]:
            console.warn(text)
        left = [bundle for bundle in bundles if not plans.has_ended(workdir, bundle)]
        show_plan(workdir, runs, left, planned)
        if plan:
            show_bundles(left, bundles, runs)
            return
        if not host.work(share.of(workdir, bundles, runs), events):
            console.say("runs of other bundles are left; `python -m fjt.report` reports when they are done")
            return
    made = publication.report(workdir)
    if not base["output"]["export"]:
        for task, name in choosing.best_runs(workdir, runs, options.metric).items():
            run = shlex.quote(os.path.join(workdir, name))
            console.say(f"model of the best run on {task}: python -m fjt.reproduce {run} --workdir DIR makes it again")
    publication.show(*made)
    patterns = choosing.fold_patterns(runs)
    for pattern in patterns[:MOST_PATTERNS]:
        console.say(f"all folds together: python -m fjt.evaluate --run {shlex.quote(workdir)}/{pattern}")
    if len(patterns) > MOST_PATTERNS:
        console.say(f"and likewise {len(patterns) - MOST_PATTERNS} more cross-validations")


def encoder_settings(name: str, base: Mapping[str, Any]) -> "Settings":
    """The settings of the run that trains the encoder of a study.

    Args:
        name: NAME[:ARGUMENT] of configs/NAME.py.
        base: the config of the study's runs.

    Raises:
        UserError: configs/ has no file of this name.
    """
    from fjt.core.errors import suggest
    from fjt.core.settings import from_config
    from fjt.study import bases

    known = [path.stem for path in (configs.ROOT / "configs").glob("*.py")]
    module = name.partition(":")[0]
    if module not in known:
        raise UserError(f"config.study.base={name!r}: there is no configs/{module}.py.{suggest(module, known)}")
    return from_config(configs.load(name, bases.changes(base))[0])


def show_plan(workdir: str, runs: "Mapping[str, Run]", left: "Sequence[Bundle]", plan: Mapping[str, Any]) -> None:
    """Prints the size of a study and the runs that are left.

    Args:
        workdir: the study's folder.
        runs: {name: Run}.
        left: the bundles with runs that have not ended.
        plan: the contents of plan.json.
    """
    from fjt.experiment import run_records
    from fjt.experiment.features import gib
    from fjt.study import plans

    tuning = sum(run.phase == "tuning" for run in runs.values())
    counts = f"{len(runs)} runs" + (f", {tuning} of them to choose" if tuning else "")
    lacking = {
        bundle.id: sum(not run_records.ended(os.path.join(workdir, name)) for name in bundle.runs) for bundle in left
    }
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


def show_bundles(left: "Sequence[Bundle]", bundles: "Sequence[Bundle]", runs: "Mapping[str, Run]") -> None:
    """Prints the bundles that are left, by the names that --bundles takes.

    Args:
        left: these bundles.
        bundles: all bundles of the plan.
        runs: {name: Run} of the plan.
    """
    from fjt.study import plans

    rows = []
    for bundle in left:
        cells = list(dict.fromkeys(runs[name].cell for name in bundle.runs))
        shown = cells[0] if len(cells) == 1 else f"{cells[0]} and {len(cells) - 1} more"
        needs = ",".join(one.id for one in plans.needs(bundle, bundles, runs) if one in left)
        rows.append((bundle.id, bundle.phase, len(bundle.runs), console.duration(bundle.seconds), needs or "-", shown))
    columns = ("bundle", "phase", ">runs", ">training", "after", "cells")
    console.table("Bundles that are left (--bundles)", columns, rows)


class _Callable(types.ModuleType):
    """This module, which is also the function `fjt.sweep`: importing a module sets its name in its package."""

    def __call__(self, *arguments: Any, **options: Any) -> "Results":
        return sweep(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main(sys.argv))
