"""Options that nothing reads are refused in a run by itself."""

import pytest
import small

from fjt.core.errors import UserError
from fjt.core.options import DropoutConfig, ExperimentConfig, LossConfig, ModelConfig, OptimConfig, Settings
from fjt.experiment import prepare, unread
from fjt.experiment.prepared import Experiment, Stage

MODEL = small.Model(small.CONFIG, 2)  # of two layers
HEAD, TOP, ALL = {"head/kernel"}, {"head/kernel", "encoder/layer_1/attention/query/kernel"}, {"encoder/embeddings/word"}


def run_of(*stages, optim=None, model=None, loss=None):
    """An Experiment of stages that train these names."""
    options = ExperimentConfig(optim=optim or OptimConfig(), model=model or ModelConfig(), loss=loss or LossConfig())
    made = [small.double(Stage, model=prepare.quiet_below(options, MODEL, names)) for names in stages]
    settings = small.double(Settings, experiment=options)
    return small.double(Experiment, settings=settings, stages=tuple(made), model=MODEL)


@pytest.mark.parametrize(
    ("schedule", "option"),
    [("polynomial", {"power": 1.0}), ("cosine_restarts", {"cycles": 3}), ("wsd", {"decay_fraction": 0.2})],
)
def test_an_option_of_one_schedule_is_refused_with_another(schedule, option):
    (name,) = option
    for other in ("linear", "polynomial", "cosine_restarts", "wsd"):
        given = run_of(ALL, optim=OptimConfig(schedule=other, **option))
        if other == schedule:
            unread.check(given)
        else:
            with pytest.raises(UserError, match=rf"config.optim.{name}=.* config.optim.schedule={other}: {schedule} "):
                unread.check(given)
    unread.check(run_of(ALL))


@pytest.mark.parametrize(
    ("optimizer", "option", "readers"),
    [
        ("sgd", {"momentum": 0.5}, "sgd"),
        ("lion", {"b1": 0.8}, "adamw or adam or lamb or lion"),
        ("adamw", {"b2": 0.8}, "adamw or adam or lamb"),
        ("lamb", {"eps": 1e-6}, "adamw or adam or lamb"),
    ],
)
def test_an_option_of_other_optimizers_is_refused(optimizer, option, readers):
    unread.check(run_of(ALL, optim=OptimConfig(name=optimizer, **option)))
    for other in {"adamw", "sgd", "lion", "adafactor"} - set(readers.split(" or ")):
        with pytest.raises(UserError, match=f"no effect with config.optim.name={other}: {readers} alone"):
            unread.check(run_of(ALL, optim=OptimConfig(name=other, **option)))


def dropout(*layers, **options):
    return ModelConfig(dropout=DropoutConfig(layers=layers), **options)


@pytest.mark.parametrize(
    ("stages", "layers", "idle"),
    [
        ([HEAD], (0.5, 2.0), "0, 1:"),
        ([HEAD], (1.0, 1), ""),
        ([TOP], (0.5, 2.0), "0:"),
        ([TOP], (1.0, 2.0), ""),
        ([HEAD, TOP], (1.0, 2.0), ""),  # a later stage opens the layer
        ([HEAD, ALL], (0.5, 2.0), ""),
    ],
)
def test_dropout_of_a_layer_below_all_that_trains_is_refused(stages, layers, idle):
    unread.check(run_of(*stages, model=dropout(*layers, frozen_dropout=True)))
    if not idle:
        unread.check(run_of(*stages, model=dropout(*layers)))
        return
    with pytest.raises(UserError, match=f"has no effect in layers {idle}.*frozen_dropout=True"):
        unread.check(run_of(*stages, model=dropout(*layers)))


def test_r_drop_without_dropout_is_refused():
    loss = LossConfig(r_drop=1.0)
    for stage, rate in ((HEAD, 0.1), (ALL, 0.0)):
        unread.check(run_of(stage, loss=loss, model=ModelConfig(dropout=DropoutConfig(classifier=rate))))
    with pytest.raises(UserError, match=r"config\.loss\.r_drop=1\.0 compares two dropout masks"):
        unread.check(run_of(HEAD, loss=loss, model=ModelConfig(dropout=DropoutConfig(classifier=0.0))))
