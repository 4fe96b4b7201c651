"""Make a run once more from its own files, and compare:  python -m fjt.reproduce RUN

Says one of three things: the same bits; the same within the tolerance of another layout or machine (the first 20
losses within 2e-6); or different, and from which step on.  A run that failed should fail again, at the same step.
The data and the base model are read from where the run read them.  Exit codes: 0 same, 1 different, 2 a mistake in
what was given.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
import tempfile

from fjt.core import console, memory, records
from fjt.core.errors import UserError
from fjt.core.options import flatten, from_config

STEPS, TOLERANCE = 20, 2e-6  # of the losses, where the order of float additions may differ


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fjt.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="the work directory of a run that finished or failed, alone or of a study")
    parser.add_argument("--workdir", help="keep the new run here; by default it is thrown away")
    options = parser.parse_args(argv[1:])
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        if options.workdir:
            return reproduce(options.run, options.workdir)
        with tempfile.TemporaryDirectory() as folder:
            return reproduce(options.run, folder)
    except UserError as error:
        print(f"fjt: {error}", file=sys.stderr)
        return 2


def reproduce(folder, workdir):
    """The exit code of the comparison of a run with one made from its files in another work directory."""
    from fjt.data.packing import Shape
    from fjt.experiment.execute import run
    from fjt.experiment.prepare import prepare
    from fjt.experiment.programs import configure_jax
    from fjt.experiment.workdir import lock
    from fjt.study.plans import ended
    from fjt.training.checkpoint import NotFinite

    for name in ("config.json", "result.json"):
        if not os.path.exists(os.path.join(folder, name)):
            raise UserError(f"{folder} is no run that has ended: it holds no {name}.")
    if not ended(folder):
        raise UserError(f"{folder} is no run that has ended: it did not fail, and holds no DONE.")
    recorded = records.read_json(os.path.join(folder, "config.json"))
    settings = from_config(recorded["config"])
    execution = settings.execution
    quiet = dataclasses.replace(execution.output, export=False, tables=False, curve=False, checkpoints=False)
    execution = dataclasses.replace(execution, output=quiet, log=dataclasses.replace(execution.log, tensorboard=False))
    configure_jax(settings)
    shapes = tuple(Shape(*shape) for shape in recorded["shapes"])
    experiment = prepare(dataclasses.replace(settings, execution=execution), shapes=shapes)
    if experiment.fingerprint != recorded["fingerprint"]:
        other = [key for key in experiment.contents if experiment.contents[key] != recorded["contents"].get(key)]
        what = (
            f"the {' and the '.join(other)} there have other contents now" if other else "this fjt reads it otherwise"
        )
        raise UserError(f"{folder} cannot be made again: {what}.")
    with lock(workdir), contextlib.suppress(NotFinite):  # which its result tells
        run(experiment, workdir)
    results = [records.read_json(os.path.join(where, "result.json")) for where in (folder, workdir)]
    show_environment(folder, workdir)
    verdict, code = compare(*results, *(losses(where) for where in (folder, workdir)))
    console.say(f"{folder}: {verdict}")
    return code


def show_environment(folder, workdir):
    """Prints what differs between the environments of two runs."""
    there, here = (flatten(records.read_json(os.path.join(where, "env.json"))) for where in (folder, workdir))
    for key in here:
        if there.get(key) != here[key]:
            console.say(f"  {key}: {there.get(key)} then, {here[key]} now")


def losses(folder):
    """[loss of each step] of a run."""
    return [row["loss"] for row in records.read_lines(os.path.join(folder, "train.jsonl"))]


def compare(before, now, losses_before, losses_now):
    """(what to say, exit code) of two results with the losses of their steps."""
    ends = [result["failed"] or result["params_sha256"] for result in (before, now)]
    if ends[0] == ends[1] and losses_before == losses_now:
        return "the same bits" + (f", up to where {now['failed']}" if now["failed"] else ""), 0
    far = [abs(a - b) / max(abs(a), 1e-30) for a, b in zip(losses_before, losses_now, strict=False)]
    scores = _scores(before, now)
    worst = max(far[:STEPS], default=float("inf"))
    alike = len(losses_before) == len(losses_now) and bool(before["failed"]) == bool(now["failed"])
    if alike and worst <= TOLERANCE:
        return (
            f"the same within tolerance: the first {STEPS} losses within {worst:.1e} (at most {TOLERANCE}); {scores}",
            0,
        )
    first = next((i for i, x in enumerate(far) if x > TOLERANCE), len(far))
    there, here = ((found[first : first + 1] or ["none"])[0] for found in (losses_before, losses_now))
    return f"different, from step {first + 1} on: its loss {there} then, {here} now; {scores}", 1


def _scores(before, now):
    """What came of two runs."""
    if before["failed"] or now["failed"]:
        return f"{before['failed'] or 'it finished'} then, {now['failed'] or 'it finished'} now"
    return ", ".join(f"{name} {before['metrics'][name]} then, {now['metrics'][name]} now" for name in now["metrics"])


if __name__ == "__main__":
    memory.use_large_pages()
    sys.exit(main(sys.argv))
