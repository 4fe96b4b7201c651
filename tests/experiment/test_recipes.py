"""Values for what was left open: from the method, the encoder and the optimizer, never over what was given."""

import dataclasses

import numpy as np
from configured import build

from fjt.experiment import recipes
from fjt.models.encoder import EncoderConfig

WIDE = EncoderConfig("bert", 12, 768, 12, 3072, 100, 512, 2, 1e-12, "gelu", 0.02, 0.1, 0.2, 0.3)


def resolve(rows=5_000, scratch=False, config=WIDE, **changes):
    return recipes.resolve(build(**changes), rows=rows, config=config, scratch=scratch, platform="cpu")


def test_open_values_are_filled_and_say_where_from():
    settings, origins = resolve()
    experiment = settings.experiment
    assert experiment.optim.learning_rate == 2e-5 and origins["optim.learning_rate"] == "recipe for full"
    assert (experiment.model.dropout.hidden, experiment.model.dropout.attention) == (0.1, 0.2)
    assert experiment.train.epochs == 5 and experiment.eval.every_epochs == 1
    settings, origins = resolve(optim__learning_rate=3e-4)
    assert settings.experiment.optim.learning_rate == 3e-4 and "optim.learning_rate" not in origins


def test_narrow_encoders_take_five_times_the_rate():
    narrow = dataclasses.replace(WIDE, width=384)
    for method, rate in (("full", 1e-4), ("lora", 2.5e-3), ("pfeiffer", 1e-3)):
        settings, origins = resolve(config=narrow, tune__method=(method,))
        np.testing.assert_allclose(settings.experiment.optim.learning_rate, rate)
        assert "5 times" in origins["optim.learning_rate"]
    assert resolve(config=narrow, scratch=True)[0].experiment.optim.learning_rate == 1e-3
    given, _ = resolve(config=narrow, optim__learning_rate=3e-4)
    assert given.experiment.optim.learning_rate == 3e-4


def test_several_methods_take_the_lowest_rate():
    settings, origins = resolve(tune__method=("bitfit", "lora"))
    assert settings.experiment.optim.learning_rate == 5e-4 and origins["optim.learning_rate"] == "recipe for lora"


def test_ranks_by_site_leave_no_rank():
    settings, _ = resolve(tune__method=("lora",), tune__ranks=(4, 2))
    assert settings.experiment.tune.rank is None and settings.experiment.tune.alpha == 16.0


def test_lion_takes_a_fifth_of_adams_rate():
    assert resolve(optim__name="lion")[0].experiment.optim.learning_rate == 2e-5 / 5


def test_large_sets_are_evaluated_ten_times():
    experiment = resolve(rows=60_000)[0].experiment
    assert len(recipes.evaluation_steps(experiment, 60_000)) == 10
