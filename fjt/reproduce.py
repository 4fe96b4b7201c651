"""Repeat a run from its own files, and compare:  python -m fjt.reproduce RUN

With --workdir DIR the repetition is kept, with its model: a study leaves none of its runs' models, and this makes the
model of one of them.

Prints one of three results: the same bits; the same within the tolerance of another layout or machine (the first 20
losses within 2e-6); or different, with the first step that differs.  A run that failed should fail again at the same
step.  The data and the base model are read from the paths of the original run.  Exit codes: 0 same, 1 different, 2 a
mistake in the arguments or files, 130 Ctrl-C, 143 SIGTERM.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from fjt import flags
from fjt.core import console, files, records
from fjt.core.errors import Ended, UserError
from fjt.core.options import flatten
from fjt.experiment.process import undisturbed

STEPS, TOLERANCE = 20, 2e-6  # losses to compare, and their relative difference if only the order of sums differs


def main(argv: Sequence[str]) -> int:
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the work directory of a run that finished or failed, alone or of a study")
    parser.add_argument("--workdir", help="keep the new run in this folder, with its model; by default it is deleted")
    return flags.parse_and_run(parser, argv, _reproduce, lambda options: options.workdir or tempfile.gettempdir())


def _reproduce(options: argparse.Namespace) -> int:
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options.run = files.local_path(options.run, "RUN")
    if options.workdir is not None:
        return reproduce(options.run, files.local_path(options.workdir, "--workdir"), keep=True)
    try:
        temporary = tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(
            f"no temporary folder to repeat the run in: {error.strerror}. Set TMPDIR to a folder that can be written, "
            "or give --workdir DIR."
        ) from None
    with temporary as folder:
        try:
            return reproduce(options.run, folder)
        except Ended as ended:
            raise Ended("stopped; the unfinished run is deleted (--workdir DIR keeps it)", ended.code) from None


@undisturbed()
def reproduce(folder: str, workdir: str, keep: bool = False) -> int:
    """The exit code of the comparison of a run with its repetition.

    Args:
        folder: the work directory of the run.
        workdir: the work directory of the repetition.
        keep: whether the repetition is kept, and so exports its model and writes its tables, even if the run did not.

    Raises:
        UserError: the run has not ended, or its files, data or base model have changed.
    """
    from fjt.experiment import run_records, summary
    from fjt.experiment.again import prepare_again
    from fjt.experiment.execute import run
    from fjt.experiment.workdir import REPETITION, check_own, lock
    from fjt.training.checkpoint import NotFinite

    for name in ("config.json", "result.json"):
        if not os.path.exists(os.path.join(folder, name)):
            raise UserError(f"{folder} is not a run that has ended: it has no {name}. Give the --workdir of a run.")
    if not run_records.ended(folder):
        raise UserError(f"{folder} is not a run that has ended: it did not fail, and has no DONE. Let it finish first.")
    if files.is_inside(workdir, folder):
        raise UserError(f"--workdir={workdir} is within {folder}, the run that is repeated. Give a new folder.")
    check_own(workdir, REPETITION)
    if run_records.ended(workdir):
        raise UserError(f"--workdir={workdir} has a repetition that has ended. Give a new folder.")
    before = run_records.read_result(folder), losses(folder)  # first: training is lost if one cannot be read
    environment = _environment(folder)
    experiment = prepare_again(folder, keep=keep)
    with lock(workdir, kind=REPETITION), contextlib.suppress(NotFinite):  # result.json records the failure
        run(experiment, workdir)
    now = run_records.read_result(workdir)
    show_environment(environment, workdir)
    verdict, code = compare(before[0], now, before[1], losses(workdir))
    console.say(f"{folder}: {verdict}")
    if keep and not now["failed"]:
        summary.show_result(workdir)
    return code


def _environment(folder: str) -> dict[str, Any]:
    """{key: value} of a run's env.json; {} after a warning where it cannot be read."""
    from fjt.experiment import run_records

    try:
        return flatten(run_records.read_environment(folder))
    except records.Damaged as damaged:
        console.warn(f"the environments will not be compared: {damaged}")
        return {}


def show_environment(before: Mapping[str, Any], workdir: str) -> None:
    """Prints the differences between an earlier environment, unless it is {}, and that of a run."""
    from fjt.experiment import run_records

    now = flatten(run_records.read_environment(workdir)) if before else {}
    for key in now:
        if before.get(key) != now[key]:
            console.say(f"  {key}: {before.get(key)} then, {now[key]} now")


def losses(folder: str) -> list[float | None]:
    """The loss of each step of a run; None for a loss that was not finite."""
    from fjt.experiment import run_records

    return [row["loss"] for row in run_records.read_steps(folder)]


def compare(
    before: dict[str, Any],
    now: dict[str, Any],
    losses_before: Sequence[float | None],
    losses_now: Sequence[float | None],
) -> tuple[str, int]:
    """(text of the verdict, exit code) of the comparison of two runs.

    Args:
        before: result.json of the first run.
        now: result.json of the second run.
        losses_before: of the first run's steps; None for a loss that was not finite.
        losses_now: of the second run's steps.
    """
    ends = [result["failed"] or result["params_sha256"] for result in (before, now)]
    if ends[0] == ends[1] and losses_before == losses_now:
        return "the same bits" + (f", up to where {now['failed']}" if now["failed"] else ""), 0
    far = [_distance(a, b) for a, b in zip(losses_before, losses_now, strict=False)]
    scores = _scores(before, now)
    worst = max(far[:STEPS], default=float("inf"))
    alike = len(losses_before) == len(losses_now) and bool(before["failed"]) == bool(now["failed"])
    if alike and worst <= TOLERANCE:
        return (
            f"the same within tolerance: the first {STEPS} losses within {worst:.1e} (at most {TOLERANCE}); {scores}",
            0,
        )
    first = next((i for i, x in enumerate(far) if x > TOLERANCE), len(far))
    loss_before, loss_now = (
        "none" if first == len(values) else "not finite" if values[first] is None else values[first]
        for values in (losses_before, losses_now)
    )
    return f"different, from step {first + 1} on: its loss {loss_before} then, {loss_now} now; {scores}", 1


def _distance(before: float | None, now: float | None) -> float:
    """The relative difference of two losses; 0 for two that are not finite, infinite if only one is finite."""
    if before is None or now is None:
        return 0.0 if before is now else float("inf")
    return abs(before - now) / max(abs(before), 1e-30)


def _scores(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The metrics or failures of two runs as text."""
    if before["failed"] or now["failed"]:
        return f"{before['failed'] or 'it finished'} then, {now['failed'] or 'it finished'} now"
    return ", ".join(f"{name} {before['metrics'][name]} then, {now['metrics'][name]} now" for name in now["metrics"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
