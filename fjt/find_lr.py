"""Find a learning rate:  python -m fjt.find_lr --config configs/glue.py:rte,lora --output DIR [--config.key=value ...]

The learning-rate range test (Smith 2017): a short training on the run's own batches, with its method and optimizer, in
which the learning rate rises from step to step until the loss diverges.  It prints the rate that the loss suggests, as
the flag to copy, and writes to DIR:

  find_lr.json                  learning rate, loss and smoothed loss of each step; the suggestion, and its rule
  find_lr.png, find_lr.svg      the figure

  --steps N        number of steps, default 150
  --lowest RATE    learning rate of the first step, default 1e-6
  --highest RATE   learning rate of the last step, default 1
  --help           print this text and every config key with its default

The test trains nothing that is kept, and computes no score on dev.  Where the smoothed loss never falls there is no
suggestion.  Exit codes: 0 success, 2 a mistake or no suggestion, 130 Ctrl-C.
"""

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags
from ml_collections import config_flags

from fjt import flags
from fjt.core import console, files, records
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS
from fjt.core.settings import from_config
from fjt.experiment.process import undisturbed

if TYPE_CHECKING:
    from fjt.core.options import Settings
    from fjt.experiment.prepared import Experiment
    from fjt.experiment.range_test import Point

FLAGS = absl_flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", flag_values=FLAGS)
OUTPUT = absl_flags.DEFINE_string("output", None, "The folder to which the test is written.", flag_values=FLAGS)
STEPS = absl_flags.DEFINE_integer("steps", 150, "The number of steps.", flag_values=FLAGS)
LOWEST = absl_flags.DEFINE_float("lowest", 1e-6, "The learning rate of the first step.", flag_values=FLAGS)
HIGHEST = absl_flags.DEFINE_float("highest", 1.0, "The learning rate of the last step.", flag_values=FLAGS)

FEWEST = 20  # steps; fewer say nothing
RECORD = "find_lr.json"


def main(argv: list[str]) -> int:
    """The exit code of a command line."""
    return flags.run(
        argv, __doc__, OPTIONS, lambda: _start(argv), lambda: OUTPUT.value or "", "; the test starts again next time"
    )


def _start(argv: list[str]) -> int:
    config = flags.parse(argv, FLAGS, CONFIG)
    if config is None or OUTPUT.value is None:
        raise UserError("--config and --output are needed, for example --config configs/glue.py:rte --output runs/lr.")
    output = files.local_path(OUTPUT.value, "--output")
    lowest, highest, steps = float(LOWEST.value or 0), float(HIGHEST.value or 0), STEPS.value or 0
    if not 0 < lowest < highest:
        raise UserError(f"--lowest={lowest:g} and --highest={highest:g} should be above 0 and in this order.")
    if steps < FEWEST:
        raise UserError(f"--steps={steps} should be at least {FEWEST}: the loss of fewer batches says nothing.")
    optim: Any = config["optim"]
    optim["learning_rate"] = highest  # optimizers without a recipe need one, and here it is what is looked for
    find(from_config(config), output, lowest, highest, steps)
    return 0


@undisturbed()
def find(settings: "Settings", output: str, lowest: float, highest: float, steps: int) -> None:
    """Runs a range test, and writes and prints what it finds.

    Args:
        settings: of the run.
        output: the folder.
        lowest: learning rate of the first step.
        highest: learning rate of the last step.
        steps: number of steps.

    Raises:
        UserError: a mistake in the options or files, or the loss never falls.
    """
    from fjt.experiment import range_test
    from fjt.experiment.program_cache import configure_jax
    from fjt.reports import figures, range_figure

    _check_output(output)
    configure_jax(settings)
    experiment = range_test.prepare_test(settings, lowest, highest, steps)
    os.makedirs(output, exist_ok=True)
    points = range_test.run_test(experiment)
    suggestion = range_test.suggest(points)
    records.write_json(os.path.join(output, RECORD), _record(experiment, points, suggestion))
    (picture,) = figures.picture(lambda: range_figure.draw(points, suggestion), "find_lr", "")
    files.write(os.path.join(output, "find_lr.svg"), picture.svg.encode())
    files.write(os.path.join(output, "find_lr.png"), picture.png)
    console.say(f"{len(points)} steps, up to a learning rate of {points[-1].learning_rate:.1e}; written to {output}")
    if suggestion is None:
        raise UserError(
            f"the smoothed loss never falls between --lowest={lowest:g} and --highest={highest:g}, so no learning rate "
            f"is suggested; {os.path.join(output, 'find_lr.png')} shows it. Give a higher --highest if the loss is "
            "flat, a lower --lowest if it rises from the start, or more --steps; labels without any relation to the "
            "texts look so as well."
        )
    console.say(f"suggestion, {range_test.RULE}:")
    console.say(f"  --config.optim.learning_rate={suggestion:g}")


def _check_output(output: str) -> None:
    """Raises UserError for a folder that has files of others."""
    from fjt.experiment import workdir

    workdir.check_output(output, "--output")
    if not os.path.lexists(output):
        return
    if not os.path.isdir(output):
        raise UserError(f"--output={output} is a file. Give a folder.")
    names = os.listdir(output)
    if names and RECORD not in names:
        raise UserError(f"--output={output} is not empty and has no {RECORD} of fjt's. Give a new folder.")


def _record(experiment: "Experiment", points: "list[Point]", suggestion: float | None) -> dict[str, Any]:
    """The contents of find_lr.json."""
    from fjt.experiment import range_test

    options = experiment.settings.experiment
    return {
        "task": experiment.task.name,
        "method": list(options.tune.method),
        "model": os.path.basename(os.path.normpath(options.model.path)) if options.model.path else "scratch",
        "optimizer": options.optim.name,
        "batch_size": options.train.batch_size,
        "seeds": dataclasses.asdict(options.seeds),
        "contents": experiment.contents,
        "rule": range_test.RULE,
        "suggestion": suggestion,
        "points": [dataclasses.asdict(point) for point in points],
        "versions": records.versions(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv))
