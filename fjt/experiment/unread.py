"""Options that are given and that nothing in a run reads."""

from fjt.core.errors import UserError
from fjt.core.options import OPTIONS
from fjt.experiment.prepared import Experiment

MOMENTS = ("adamw", "adam", "lamb")
READ_BY = {  # option of config.optim: (another one, the values with which it is read)
    "power": ("schedule", ("polynomial",)),
    "cycles": ("schedule", ("cosine_restarts",)),
    "decay_fraction": ("schedule", ("wsd",)),
    "momentum": ("name", ("sgd",)),
    "b1": ("name", (*MOMENTS, "lion")),
    "b2": ("name", MOMENTS),
    "eps": ("name", MOMENTS),
}


def check(experiment: Experiment) -> None:
    """Checks that a run reads its options.

    It is for a run by itself: an axis of a study or a search may pass through runs in which another option, which all
    of them have, is not read.

    Raises:
        UserError: an option differs from its default and is not read.
    """
    given = experiment.settings.experiment
    for name, (other, readers) in READ_BY.items():
        value, now = getattr(given.optim, name), getattr(given.optim, other)
        if value != OPTIONS[f"optim.{name}"].default and now not in readers:
            raise UserError(
                f"config.optim.{name}={value} has no effect with config.optim.{other}={now}: {' or '.join(readers)} "
                "alone reads it. Leave the option out."
            )
    lowest = min(stage.model.noisy_from for stage in experiment.stages)
    if given.loss.r_drop and lowest >= experiment.model.config.layers and not given.model.dropout.classifier:
        raise UserError(
            f"config.loss.r_drop={given.loss.r_drop} compares two dropout masks, and this run has no dropout: nothing "
            "of the encoder trains, and config.model.dropout.classifier=0. Leave the option out, or give a rate."
        )
    factors = given.model.dropout.layers
    if idle := [layer for layer, factor in enumerate(factors) if factor != 1 and layer < lowest]:
        raise UserError(
            f"config.model.dropout.layers={factors} has no effect in layers {', '.join(map(str, idle))}: nothing "
            "trains in or below them, so they have no dropout. Give 1 for these, or config.model.frozen_dropout=True."
        )
