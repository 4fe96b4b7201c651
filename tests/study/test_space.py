"""A space is read with every mistake named before anything runs; its grid has each point once."""

import numpy as np
import pytest

from configs import quickstart, search
from fjt.core.errors import UserError
from fjt.study import space


def config_of(*spaces, **changes):
    config = search.get_config(quickstart.get_config())
    config.update(changes)
    config.search.space = spaces
    return config


def read(*spaces):
    return space.read(config_of(*spaces))[0]


AXES = {"optim.learning_rate": ("log", 1e-5, 1e-2), "train.batch_size": [8, 16], "train.epochs": ("int", 1, 3)}


def test_axes_are_read():
    ((rate, size, epochs),) = read(AXES)
    assert rate == space.Range("optim.learning_rate", 1e-5, 1e-2, True)
    assert size == space.Listed("train.batch_size", (8, 16))
    assert epochs == space.Range("train.epochs", 1, 3, False)
    assert (rate.whole, epochs.whole) == (False, True)
    assert rate.position(1e-5) == 0.0 and rate.position(np.sqrt(1e-7)) == pytest.approx(0.5)


def test_the_config_of_the_trials_has_no_search():
    _, base = space.read(config_of(AXES))
    assert "search" not in base and "study" not in base and base["output"]["export"] is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim.learning_rat": [1e-3]}, "is not an option of a run. Did you mean optim.learning_rate"),
        ({"log.every_steps": [1, 2]}, "an option of execution"),
        ({"seed": [0, 1]}, "would choose a score, not a run"),
        ({"data.limit": [10, 20]}, "would choose a score"),
        ({"train.select": ["last", "best"]}, "would choose a score"),
        ({"optim.learning_rate": ("log", "a", 1.0)}, "config.optim.learning_rate='a' should be of type float"),
        ({"optim.learning_rate": [1e-3, "x"]}, "should be of type float"),
        ({"optim.warmup_fraction": ("float", 0.0, 2.0)}, "warmup_fraction=2.0 should be between 0.0 and 1.0"),
        ({"train.epochs": ("int", 0, 3)}, "config.train.epochs=0 should be at least 1"),
        ({"optim.name": ["adamw", "adamv"]}, "is unknown. Did you mean"),
        ({"optim.name": ("log", 1, 2)}, "is of type str: give a list"),
        ({"train.epochs": ("float", 1, 3)}, 'write ("int", ...)'),
        ({"optim.learning_rate": ("int", 1, 3)}, 'write ("float", ...)'),
        ({"optim.learning_rate": ("log", 0.0, 1.0)}, "should be above 0"),
        ({"optim.learning_rate": ("log", 1.0, 1.0)}, "low end below its high end"),
        ({"optim.learning_rate": ("log", 1.0)}, 'should be ("log", low, high)'),
        ({"optim.learning_rate": ("log", 0.1, 1.0, 1)}, "whole number of at least 2"),
        ({"optim.learning_rate": []}, "has no value"),
        ({"optim.learning_rate": 1e-3}, "a list of values"),
        ({"optim.learning_rate": [1e-3, 1e-3]}, "twice"),
        ({"tune.method": ["full"], "tune.rank": [4, 8]}, "config.tune.rank"),
        ({"tune.method": ["lora", "head"], "tune.rank": [4, 8]}, "config.tune.rank"),
        ({}, "is empty"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(given, message):
    with pytest.raises(UserError) as error:
        read(given)
    assert message in str(error.value)


def test_a_config_without_a_space():
    with pytest.raises(UserError, match="is empty"):
        read()
    with pytest.raises(UserError, match="no search"):
        space.read(quickstart.get_config())


def test_several_spaces_hold_the_options_of_each_method():
    spaces = read({"tune.method": ["lora"], "tune.rank": [2, 4]}, {"tune.method": ["bitfit"]})
    points = space.grid(spaces)
    assert [space.values_of(point, spaces) for point in points] == [
        {"tune.method": ("lora",), "tune.rank": 2},
        {"tune.method": ("lora",), "tune.rank": 4},
        {"tune.method": ("bitfit",)},
    ]


def test_a_grid_has_each_point_once():
    spaces = read({"optim.learning_rate": ("log", 1e-4, 1e-2, 3), "train.epochs": ("int", 1, 2)})
    values = [space.values_of(point, spaces) for point in space.grid(spaces)]
    assert values == [
        {"optim.learning_rate": rate, "train.epochs": epochs} for rate in (1e-4, 1e-3, 1e-2) for epochs in (1, 2)
    ]
    whole = read({"train.epochs": ("log", 1, 100, 3)})
    assert [point["train.epochs"] for point in space.grid(whole)] == [1, 10, 100]
    linear = read({"optim.warmup_fraction": ("float", 0.0, 1.0, 5)})
    assert [point["optim.warmup_fraction"] for point in space.grid(linear)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_grid_needs_points_of_a_range():
    with pytest.raises(UserError, match="needs a number of points"):
        space.grid(read(AXES))
