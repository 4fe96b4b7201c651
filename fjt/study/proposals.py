"""The parameters of the next trial: a function of the seed, the trial's number and the trials that have ended."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core.errors import UserError
from fjt.study.space import WHICH, Range, Space, grid, name_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "grid", "cmaes")
SIGMA = 1 / 6  # first standard deviation of CMA-ES, of axes from 0 to 1: Optuna's


def check(sampler: str, spaces: Sequence[Space]) -> None:
    """Checks that a sampler can search some spaces.

    Args:
        sampler: one of SAMPLERS.
        spaces: of a search.

    Raises:
        UserError: CMA-ES over listed values or several spaces, in which no point is between two others.
    """
    if sampler != "cmaes":
        return
    remedy = "CMA-ES moves between numbers. Give one dict of ranges, or take --sampler=tpe."
    if len(spaces) > 1:
        raise UserError(f"--sampler=cmaes: config.search.space has {len(spaces)} dicts. {remedy}")
    for axis in spaces[0]:
        if not isinstance(axis, Range) and len(axis.values) > 1:
            raise UserError(f"--sampler=cmaes: {axis.key} is a list of {len(axis.values)} values. {remedy}")
    if not _ranges(spaces[0]):
        raise UserError(f"--sampler=cmaes: config.search.space has no range. {remedy}")


def count(sampler: str, spaces: Sequence[Space], trials: int) -> int:
    """The number of trials of a search: those that were asked for, or the points of a smaller grid.

    Args:
        sampler: one of SAMPLERS.
        spaces: of the search.
        trials: the number that was asked for.

    Raises:
        UserError: a grid over a range without a number of points.
    """
    return min(trials, len(grid(spaces))) if sampler == "grid" else trials


def propose(
    sampler: str,
    seed: int,
    spaces: Sequence[Space],
    number: int,
    ended: "Sequence[FrozenTrial]",
    lower: bool,
) -> "tuple[dict[str, Any], dict[str, BaseDistribution]]":
    """(the parameters of a trial, the distribution of each).

    The sampler starts anew for each trial, so that a search that was killed proposes the trials of one that was not.

    Args:
        sampler: one of SAMPLERS.
        seed: of the search.
        spaces: of the search.
        number: of the trial, from 0.
        ended: the trials that have ended, in the order of their numbers.
        lower: whether lower scores are better.
    """
    import optuna

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    make = optuna.samplers.TPESampler if sampler == "tpe" else optuna.samplers.RandomSampler
    study = optuna.create_study(sampler=make(seed=own), direction="minimize" if lower else "maximize")
    study.add_trials(ended)
    if sampler == "cmaes":
        study.enqueue_trial(_evolve(own, spaces[0], ended, lower))
    elif sampler == "grid":
        points = grid(spaces)
        study.enqueue_trial(points[np.random.default_rng(seed).permutation(len(points))[number]])
    trial = study.ask()
    found = {}
    if len(spaces) > 1:
        found[WHICH] = trial.suggest_categorical(WHICH, list(map(str, range(len(spaces)))))
    which = int(found.get(WHICH, 0))
    found |= {name: axis.suggest(trial, name) for axis in spaces[which] for name in [name_of(which, axis.key, spaces)]}
    return found, trial.distributions


def _ranges(space: Space) -> list[Range]:
    return [axis for axis in space if isinstance(axis, Range)]


def _evolve(seed: int, space: Space, ended: "Sequence[FrozenTrial]", lower: bool) -> dict[str, Any]:
    """{name: parameter} of each range, drawn by CMA-ES (Hansen 2016).

    Ended trials in the order of their numbers are its generations, whichever of them it was that proposed them, so that
    nothing is kept from trial to trial.  A trial without a score is the worst of its generation.
    """
    import cmaes
    from optuna.trial import TrialState

    def loss(trial: "FrozenTrial") -> float:
        if trial.state is not TrialState.COMPLETE or trial.value is None:  # a pruned one may have a value
            return math.inf
        return trial.value if lower else -trial.value

    ranges = _ranges(space)
    bounds = np.tile([0.0, 1.0], (len(ranges), 1))
    optimizer = cmaes.CMA(mean=np.full(len(ranges), 0.5), sigma=SIGMA, bounds=bounds, seed=seed)
    scored = [(np.array([axis.position(trial.params[axis.key]) for axis in ranges]), loss(trial)) for trial in ended]
    size = optimizer.population_size
    for first in range(0, len(scored) - size + 1, size):
        optimizer.tell(scored[first : first + size])
    return {axis.key: axis.at(x) for axis, x in zip(ranges, optimizer.ask(), strict=True)}
