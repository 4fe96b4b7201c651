"""The learning-rate range test: short training with a rising learning rate, and the rate that its loss suggests."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.options import Settings
from fjt.experiment.arguments import first_state
from fjt.experiment.distillation import taught
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepare import prepare
from fjt.experiment.prepared import Experiment
from fjt.experiment.programs import Compiled
from fjt.experiment.solo import SoloRun
from fjt.training import placement
from fjt.training.stop import Stop

SMOOTHING = 0.9  # share of the average that stays at each step
SETTLED = 10  # steps after which the average says something
DIVERGED = 2.0  # the test ends where the smoothed loss is this many times its lowest
RULE = "the learning rate at which the smoothed loss falls fastest"
SPAN = 10  # steps over which its fall is measured
FALLEN = 0.98  # the loss has fallen where its average is below this share of its first one


@dataclasses.dataclass(frozen=True)
class Point:
    """One step of a range test.

    Attributes:
        learning_rate: of the step.
        loss: of its batch, before the step.
        smoothed: the average loss so far, see `smooth`.
    """

    learning_rate: float
    loss: float
    smoothed: float


def rates_between(lowest: float, highest: float, steps: int) -> Float32[np.ndarray, " steps"]:
    """The learning rate of each step: an exponential rise from the lowest to the highest (Smith 2017, section 3.3)."""
    return np.geomspace(lowest, highest, steps).astype(np.float32)


def smooth(losses: Sequence[float]) -> Iterator[float]:
    """Yields the exponential moving average of the losses so far, corrected for its start at 0 as in Adam."""
    total = 0.0
    for step, loss in enumerate(losses, 1):
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        yield total / (1 - SMOOTHING**step)


def has_diverged(points: Sequence[Point]) -> bool:
    """Whether the smoothed loss is far above its lowest.  points: at least one."""
    lowest = min(point.smoothed for point in points)
    return len(points) > SETTLED and points[-1].smoothed > DIVERGED * lowest


def prepare_test(
    settings: Settings, lowest: float, highest: float, steps: int, inputs: Inputs | None = None
) -> Experiment:
    """The Experiment of a range test: the run's own batches, methods and optimizer, and rising learning rates.

    Args:
        settings: of the run; its duration and its schedule are replaced, and no evaluation lowers the rate.
        lowest: learning rate of the first step.
        highest: learning rate of the last step.
        steps: number of steps.
        inputs: the data and the base model; by default they are read.

    Raises:
        UserError: for everything that is wrong with the run.
    """
    experiment, optim = settings.experiment, settings.experiment.optim
    experiment = dataclasses.replace(
        experiment,
        train=dataclasses.replace(experiment.train, epochs=None, steps=steps),
        optim=dataclasses.replace(optim, learning_rate=highest, plateau_patience=None, plateau_factor=None),
        tune=dataclasses.replace(experiment.tune, stage_patience=None),
    )
    made = prepare(dataclasses.replace(settings, experiment=experiment), inputs=inputs)
    return dataclasses.replace(made, rates=rates_between(lowest, highest, steps))


def run_test(experiment: Experiment, compiled: Compiled | None = None, view: console.View = console) -> list[Point]:
    """The points of a range test, up to the step at which the loss diverges or is no longer finite.

    The parameters of the last stage train from the first step on, which are all that the run ever trains.

    Args:
        experiment: of `prepare_test`.
        compiled: programs of earlier runs.
        view: where progress is shown.

    Raises:
        UserError: the first loss is not finite.
        Stopped: a signal came; nothing is saved.
    """
    compiled, experiment = {} if compiled is None else compiled, taught(experiment)
    hyper, stage = placement.put_whole(experiment.hyper, experiment.mesh), experiment.stages[-1]
    losses: list[float] = []
    points: list[Point] = []
    with Stop() as stop:
        stepper = SoloRun(experiment, stage, hyper, stop=stop, compiled=compiled, view=view)
        with stop.at_once():
            stepper.features.compile(["train"])
        stepper.features.prepare(["train"])
        with stop.at_once():
            stepper.compile(experiment.sharding.put(first_state(experiment, stage, hyper)), compiled, view)
        with view.bar("range test", experiment.steps, every=experiment.settings.execution.log.every_steps) as bar:
            for step in range(experiment.steps):
                stop.check()
                (loss,) = placement.fetch_numbers(stepper.advance(step, [0])[0])["loss"]
                if not math.isfinite(loss):
                    break
                losses.append(loss)
                *_, smoothed = smooth(losses)
                points.append(Point(float(experiment.rates[step]), loss, smoothed))
                bar.update(step + 1, f"learning rate {experiment.rates[step]:.1e}  loss {smoothed:.4f}")
                if has_diverged(points):
                    break
    if not points:
        raise UserError(
            "The loss of the first batch is not finite, whatever the learning rate: the weights of config.model.path, "
            "or the labels, are not usable."
        )
    return points


def suggest(points: Sequence[Point]) -> float | None:
    """The suggested learning rate, with two digits; None where the smoothed loss never falls.

    It is the one at which the smoothed loss falls fastest per decade before its lowest value, as in Smith (2017) and
    in fastai.

    Args:
        points: of a range test.
    """
    settled = range(SETTLED, len(points))
    lowest = min(settled, key=lambda i: points[i].smoothed, default=0)
    if lowest < SETTLED + SPAN or points[lowest].smoothed >= FALLEN * points[SETTLED].smoothed:
        return None
    first = min(range(SETTLED, lowest - SPAN + 1), key=lambda i: points[i + SPAN].smoothed - points[i].smoothed)
    return float(f"{points[first + SPAN // 2].learning_rate:.1e}")
