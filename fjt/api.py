"""Runs and studies from Python; `fjt.train` and `fjt.sweep` are these functions, and the commands call them too."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fjt import configs
from fjt.core import console, files, records
from fjt.core.errors import Ended, UserError
from fjt.core.options import Settings, flatten
from fjt.core.settings import from_config, to_dict
from fjt.experiment.process import undisturbed

if TYPE_CHECKING:
    from fjt.experiment.finished import Run
    from fjt.experiment.prepared import Experiment
    from fjt.training.protocols import Events

ORIGIN = "given in Python"


def train(
    config: Any = None,
    workdir: str | os.PathLike[str] = "",
    *,
    train: Any = None,
    dev: Any = None,
    test: Any = None,
    **options: Any,
) -> "Run":
    """The Run of a config, trained, or loaded where its work directory has it; an interrupted one is continued.

    Args:
        config: "configs/glue.py:rte", "glue:rte", a config file of your own, a ConfigDict or dict; None: the defaults.
        workdir: the folder to which the run is written.
        train: the training rows: (texts, labels) or (texts, second texts, labels) as lists, a table of pandas or
            pyarrow, a dict of columns, or a file; None: as the config has them.  The columns of a table are those of
            `data__columns__text` and so on.  Rows in memory are written to the work directory.
        dev: the rows for evaluation, likewise; without any, `data__holdout=0.1` keeps a share of the training rows.
        test: rows to predict at the end, likewise; texts alone suffice.
        options: values of options, with `__` for the dot: `optim__learning_rate=1e-3`, `tune__method="lora"`.

    Raises:
        UserError: a mistake in the arguments or files, with its remedy.
        KeyboardInterrupt: Ctrl-C; the state is saved, and the same call continues from it.
        Ended: the loss is not finite, or SIGTERM came.
    """
    if workdir in ("", None):
        raise UserError("workdir is missing: the folder to which this run is written, such as workdir='runs/first'.")
    folder = files.local_path(workdir, "workdir")
    with undisturbed(), interruptible():
        from fjt.experiment import handed
        from fjt.experiment.finished import read_run
        from fjt.experiment.workdir import lock

        made, file = configs.load(config, options)
        if "study" in made:
            raise UserError("The config is of a study: run it by fjt.sweep.")
        data = {"train": train, "dev": dev, "test": test}
        if any(value is not None for value in data.values()):
            with lock(folder):
                options = {**handed.write(folder, data, handed.columns_of(made)), **options}
            made, _ = configs.load(made, options)
        given = {key.replace("__", "."): ORIGIN for key in options}
        execute(from_config(made), folder, configs.origins(made, given, file))
        return read_run(folder)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A context that raises KeyboardInterrupt where a run was stopped by Ctrl-C, after its state was saved."""
    try:
        yield
    except Ended as ended:
        if ended.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(str(ended)) from None
        raise
    except SystemExit as ended:  # a second Ctrl-C, which does not wait for the end of the step
        if ended.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        raise


def _together(make: "Callable[[], Experiment]") -> "Experiment":
    """The value of a function that each process of a run calls; they raise the UserError of any of them together."""
    from fjt.training import processes

    made, mistake = None, None
    try:
        made = make()
    except UserError as error:
        mistake = error
    processes.fail_together(mistake)
    assert made is not None, "without a mistake there is a run"
    return made


def _is_over(experiment: "Experiment", workdir: str) -> bool:
    """Whether a work directory has the finished run of an experiment, which is then said."""
    from fjt.experiment import outcome, run_records
    from fjt.experiment.workdir import check

    if not run_records.is_done(workdir):
        return False
    check(experiment, workdir)
    outcome.clean_up(workdir)
    console.say(f"{workdir} is already finished; its result:")
    return True


@undisturbed()
def execute(
    settings: Settings, workdir: str, origins: Mapping[str, str], events: "Events | None" = None, plan: bool = False
) -> None:
    """Runs an experiment to its end, or shows that it has ended.

    Args:
        settings: the options.
        workdir: the work directory.
        origins: {key: origin of its value} of the options that were given.
        events: called at moments of the run.
        plan: whether to print the plan instead.

    Raises:
        UserError: a mistake in the options or files.
        Ended: a signal came and the state is saved, or the loss is not finite.
    """
    from fjt.experiment import summary, unread
    from fjt.experiment.execute import run
    from fjt.experiment.inputs import Inputs
    from fjt.experiment.prepare import prepare
    from fjt.experiment.program_cache import configure_jax
    from fjt.experiment.workdir import lock
    from fjt.training import processes
    from fjt.training.checkpoint import NotFinite

    configure_jax(settings)
    if plan:
        experiment = prepare(settings, given=origins)
        unread.check(experiment)
        summary.show_plan(experiment)
        return
    options = to_dict(settings)
    options.pop("cache", None)  # each machine may have a place of its own
    processes.agree("options", flatten(options) | records.versions() | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")})
    with contextlib.ExitStack() as held:
        processes.decide(lambda: held.enter_context(lock(workdir)))
        processes.share(workdir)
        try:
            inputs = Inputs(settings)
            if processes.count() > 1:  # one downloads and unpacks
                processes.decide(lambda: inputs.sha256)
            experiment = _together(lambda: prepare(settings, given=origins, inputs=inputs))
            shapes = [dataclasses.astuple(shape) for shape in experiment.plan.shapes]
            phases = experiment.settings.experiment.tune.stages
            processes.agree("data and model", experiment.contents | {"shapes of batches": shapes, "phases": phases})
            if not processes.decide(lambda: _is_over(experiment, workdir)):
                if not os.path.exists(os.path.join(workdir, "config.json")):  # what has begun goes on
                    processes.decide(lambda: unread.check(experiment))
                summary.show_start(experiment, workdir)
                run(experiment, workdir, events=events)
        except NotFinite as error:
            raise Ended(
                f"{error}. Stopped; checkpoints saved earlier are kept, and the same command would stop here again. "
                "A lower --config.optim.learning_rate or a longer --config.optim.warmup_fraction, in another "
                "--workdir, may help.",
                error.code,
            ) from None
        processes.decide(lambda: summary.show_result(workdir))
