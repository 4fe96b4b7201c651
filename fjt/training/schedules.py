"""What changes from step to step as data: learning rates, and how fast an average over steps follows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
from jaxtyping import Float32

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, OptimConfig, TrainConfig

LATE = 0.2  # share of the steps in which wsd falls, by default
PLATEAU_FACTOR = 0.5  # of the learning rate at a plateau, by default


def learning_rates(optim: OptimConfig, steps: int) -> Float32[np.ndarray, " steps"]:
    """The learning rate of each step, warm-up included.

    Warm-up rises linearly from 0 over round(warmup_fraction * steps) steps, as in Trainer: step 0 of a run with
    warm-up has learning rate 0, except under one_cycle, which rises by a cosine from a 25th of the peak (Smith & Topin
    2018, with PyTorch's constants).  The linear schedule reaches 0 after the last step; wsd stays at the peak and falls
    linearly at the end (Hägele et al. 2024, section 3).

    Args:
        optim: the options.
        steps: number of steps.
    """
    assert optim.learning_rate is not None and optim.warmup_fraction is not None, "open options are resolved"
    warmup = round(optim.warmup_fraction * steps)
    rest = max(1, steps - warmup)
    peak, end = optim.learning_rate, optim.learning_rate * optim.final_fraction
    late = LATE if optim.decay_fraction is None else optim.decay_fraction
    schedules = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, end, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=optim.final_fraction),
        "cosine_restarts": lambda: _restarts(peak, end, rest, optim.cycles),
        "polynomial": lambda: optax.polynomial_schedule(peak, end, optim.power, rest),
        "exponential": lambda: optax.exponential_decay(peak, rest, optim.final_fraction),
        "wsd": lambda: _late(peak, end, rest, min(round(late * steps), rest)),
        "one_cycle": lambda: optax.cosine_decay_schedule(peak, rest, alpha=optim.final_fraction),
        "inverse_sqrt": lambda: lambda k: peak * np.sqrt(max(warmup, 1) / (k + max(warmup, 1))),
    }
    rising = np.arange(min(warmup, steps)) * (peak / max(warmup, 1))
    if optim.schedule == "one_cycle":
        rising = peak * (0.04 + 0.48 * (1.0 - np.cos(np.pi * np.arange(len(rising)) / max(warmup, 1))))
    falling = np.broadcast_to(schedules[optim.schedule]()(np.arange(steps - len(rising))), steps - len(rising))
    return np.concatenate([rising, falling]).astype(np.float32)


def _restarts(peak: float, end: float, steps: int, cycles: int) -> Callable[[Any], Any]:
    def rate(k: Any) -> Any:
        progress = (k / steps * cycles) % 1.0
        return end + (peak - end) * 0.5 * (1.0 + np.cos(np.pi * progress))

    return rate


def _late(peak: float, end: float, steps: int, falling: int) -> Callable[[Any], Any]:
    def rate(k: Any) -> Any:
        left = np.clip((steps - k) / max(falling, 1), 0.0, 1.0)
        return end + (peak - end) * left

    return rate


def check_plateau(experiment: ExperimentConfig, evaluations: int, labelled: bool) -> None:
    """Checks that `optim.plateau_patience` and `.plateau_factor` can act in a run.

    The first score is the best so far, and what the last evaluation decides has no step left to act on.

    Args:
        experiment: the options.
        evaluations: number of evaluations of dev in the run, that after its last step included.
        labelled: whether any row of dev has a label.

    Raises:
        UserError: they cannot act.
    """
    optim, patience = experiment.optim, experiment.optim.plateau_patience
    if patience is None:
        if optim.plateau_factor is not None:
            raise UserError(
                f"config.optim.plateau_factor={optim.plateau_factor} acts after config.optim.plateau_patience "
                "evaluations without a better score: give both."
            )
        return
    if not labelled:
        raise UserError(
            f"config.optim.plateau_patience={patience} counts scores on dev, which has no labels here: leave it out, "
            "or keep training rows as dev by config.data.holdout."
        )
    if evaluations < patience + 2:
        raise UserError(
            f"config.optim.plateau_patience={patience} never acts: of the {evaluations} evaluations on dev, the first "
            f"is the best so far and nothing is trained after the last. Give at least {patience + 2} by "
            "config.eval.every_steps, or a shorter patience."
        )
    for key, end, longest in (
        ("train.patience", experiment.train.patience, experiment.train.patience - 1),
        ("tune.stage_patience", experiment.tune.stage_patience, experiment.tune.stage_patience),
    ):
        if end and longest is not None and patience > longest:
            raise UserError(
                f"config.optim.plateau_patience={patience} never acts: config.{key}={end} ends training before. Give "
                f"at most {longest}, or leave one of them out."
            )


def average_rates(train: TrainConfig, steps: int) -> Float32[np.ndarray, " steps"] | None:
    """The share of the new parameters in the average over steps, after each step; None where no average is kept.

    With train.ema the average is the exponential one without bias towards the start (Kingma & Ba 2015, section 3).
    With train.swa it is the plain mean over the last steps (Izmailov et al. 2018), before them the parameters
    themselves.

    Args:
        train: the options.
        steps: number of steps.
    """
    taken = np.arange(1.0, steps + 1)
    if train.ema is not None:
        return ((1.0 - train.ema) / (1.0 - train.ema**taken)).astype(np.float32)
    if train.swa is not None:
        before = steps - max(1, round(train.swa * steps))
        return (1.0 / np.maximum(taken - before, 1.0)).astype(np.float32)
    return None
