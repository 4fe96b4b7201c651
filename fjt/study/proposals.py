"""The parameters of the next trial: a function of the seed, the trial's number and the trials that have ended."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.study.space import WHICH, Space, grid, name_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "grid")


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
    if sampler == "grid":
        points = grid(spaces)
        study.enqueue_trial(points[np.random.default_rng(seed).permutation(len(points))[number]])
    trial = study.ask()
    found = {}
    if len(spaces) > 1:
        found[WHICH] = trial.suggest_categorical(WHICH, list(map(str, range(len(spaces)))))
    which = int(found.get(WHICH, 0))
    found |= {name: axis.suggest(trial, name) for axis in spaces[which] for name in [name_of(which, axis.key, spaces)]}
    return found, trial.distributions
