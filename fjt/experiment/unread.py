"""Options that are given and have no effect in a run, which its user would wait for in vain."""

from fjt.core.errors import UserError
from fjt.core.options import OPTIONS
from fjt.experiment.prepared import Experiment

SCHEDULES = {"power": "polynomial", "cycles": "cosine_restarts", "decay_fraction": "wsd"}  # {option: what reads it}


def check(experiment: Experiment) -> None:
    """Checks that a run reads its options.

    It is for a run by itself: an axis of a study or a search may pass through runs in which another option, which all
    of them have, is not read.

    Raises:
        UserError: an option differs from its default and is not read.
    """
    given = experiment.settings.experiment
    for name, schedule in SCHEDULES.items():
        value = getattr(given.optim, name)
        if value != OPTIONS[f"optim.{name}"].default and given.optim.schedule != schedule:
            raise UserError(
                f"config.optim.{name}={value} has no effect: the schedule is {given.optim.schedule}, and {schedule} "
                f"alone reads it. Leave the option out, or give config.optim.schedule={schedule}."
            )
    factors = given.model.dropout.layers
    lowest = min(stage.model.noisy_from for stage in experiment.stages)
    if idle := [layer for layer, factor in enumerate(factors) if factor != 1 and layer < lowest]:
        raise UserError(
            f"config.model.dropout.layers={factors} has no effect in layers {', '.join(map(str, idle))}: nothing "
            "trains in or below them, so they have no dropout. Give 1 for these, or config.model.frozen_dropout=True."
        )
