"""The range test: rising rates, a smoothed loss by hand, one program, and a suggestion where the loss falls."""

import dataclasses
import json
import math

import numpy as np
import pytest

from configs import quickstart
from fjt import find_lr
from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.settings import from_config
from fjt.experiment import range_test
from fjt.experiment.range_test import Point
from fjt.reports import range_figure
from fjt.study.planner import Shared

COMMAND = ("find_lr", "--config", "configs/quickstart.py", "--steps=30", "--lowest=1e-6", "--highest=1")


def settings_of(tmp_path, **changes):
    config = quickstart.get_config("sentiment")
    config.data.limit, config.train.batch_size, config.train.packing = 96, 24, False
    config.model.scratch.layers, config.model.scratch.width, config.model.scratch.inner = 1, 32, 64
    config.mesh.data, config.cache.dir = 1, str(tmp_path / "cache")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return from_config(config)


@pytest.fixture(scope="module")
def shared():
    return Shared(console.Silent())


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, shared):
    """A range test of twelve steps."""
    settings = settings_of(tmp_path_factory.mktemp("range"))
    return range_test.prepare_test(settings, 1e-5, 10.0, 12, shared.inputs(settings))


def curve(losses, lowest=1e-6, highest=1.0):
    rates = range_test.rates_between(lowest, highest, len(losses))
    return [Point(float(rate), loss, loss) for rate, loss in zip(rates, losses, strict=True)]


def test_rates_rise_by_one_factor():
    rates = range_test.rates_between(1e-5, 1e-1, 5)
    np.testing.assert_allclose(rates, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1], rtol=1e-6)
    assert rates.dtype == np.float32


def test_the_smoothed_loss_by_hand():
    """1; (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81) = 0.39 / 0.19."""
    assert list(range_test.smooth([1.0, 3.0])) == pytest.approx([1.0, 0.39 / 0.19])
    assert list(range_test.smooth([2.0] * 5)) == pytest.approx([2.0] * 5)


def test_the_suggestion_is_the_rate_of_the_steepest_fall():
    """The loss falls from step 20 to step 49, fastest from step 30 to step 40; later falls are behind its lowest."""
    changes = [0.0] * 20 + [-0.01] * 10 + [-0.04] * 10 + [-0.01] * 10 + [0.1] * 10 + [-0.05] * 8
    points = curve(np.cumsum([1.0, *changes]).tolist())
    assert range_test.suggest(points) == float(f"{points[35].learning_rate:.1e}")
    assert range_test.suggest(points[:45]) == float(f"{curve([1.0] * 69)[35].learning_rate:.1e}")


@pytest.mark.parametrize(
    "losses",
    [
        [0.7] * 50,
        [0.7 + 0.01 * i for i in range(50)],
        [0.7 - 0.0001 * i for i in range(50)],  # less than two percent
        [5.0, *[0.7] * 30],  # of the first batch alone
        [0.7] * 12,
        [0.7] * 10 + [0.7 - 0.05 * i for i in range(8)],  # too short to say where
    ],
)
def test_a_loss_that_never_falls_suggests_nothing(losses):
    assert range_test.suggest(curve(losses)) is None


@pytest.mark.parametrize("number", [0, 25])
def test_a_test_ends_where_the_loss_is_not_finite(experiment, monkeypatch, number):
    """Its points are those before; without any, the run itself is at fault."""
    made = dataclasses.replace(experiment, steps=30, rates=range_test.rates_between(1e-5, 10.0, 30))
    losses = [1.0] * number + [math.nan]

    class Stepper:
        def __init__(self, *arguments, **options):
            self.features = self

        def compile(self, *arguments):
            pass

        prepare = compile

        def advance(self, step, moving):
            return {"loss": np.float32(losses[step])}, []

    monkeypatch.setattr(range_test, "SoloRun", Stepper)
    if number:
        points = range_test.run_test(made, view=console.Silent())
        assert [point.loss for point in points] == [1.0] * number and range_test.suggest(points) is None
    else:
        with pytest.raises(UserError, match="first batch is not finite"):
            range_test.run_test(made, view=console.Silent())


def test_divergence():
    flat = [1.0] * 11
    assert not range_test.has_diverged(curve([*flat, 1.9]))
    assert range_test.has_diverged(curve([*flat, 2.1]))
    assert range_test.has_diverged(curve([*flat, 0.5, 1.1]))
    assert not range_test.has_diverged(curve([0.5, 1.2])), "the average of few steps says nothing"


def test_a_test_is_the_same_again_and_needs_no_program_per_rate(experiment, shared, tmp_path):
    one, settings = experiment, experiment.settings
    points = range_test.run_test(one, shared.compiled, console.Silent())
    programs = len(shared.compiled)
    assert programs == len(one.plan.shapes) + 1
    assert range_test.run_test(one, shared.compiled, console.Silent()) == points
    other = range_test.prepare_test(settings, 1e-4, 1.0, 12, shared.inputs(settings))
    moved = range_test.run_test(other, shared.compiled, console.Silent())
    assert len(shared.compiled) == programs
    assert moved[0].loss == points[0].loss and moved[2].loss != points[2].loss
    assert [point.learning_rate for point in points] == [float(rate) for rate in one.rates[: len(points)]]
    seeded = settings_of(tmp_path, seed=1)
    again = range_test.prepare_test(seeded, 1e-5, 10.0, 12, shared.inputs(seeded))
    assert range_test.run_test(again, shared.compiled, console.Silent()) != points


def test_the_command_leaves_its_record_also_without_a_suggestion(experiment, tmp_path, monkeypatch, capsys):
    losses = [1.0 - 0.02 * i for i in range(30)]
    monkeypatch.setattr(range_test, "prepare_test", lambda *arguments: experiment)
    monkeypatch.setattr(range_test, "run_test", lambda experiment: curve(losses))
    output = tmp_path / "lr"
    find_lr.find(settings_of(tmp_path), str(output), 1e-6, 1.0, 30)
    record = json.loads((output / "find_lr.json").read_text())
    assert f"  --config.optim.learning_rate={record['suggestion']:g}\n" in capsys.readouterr().out
    assert record["rule"] == range_test.RULE and len(record["points"]) == 30
    assert set(record["points"][0]) == {"learning_rate", "loss", "smoothed"} and str(tmp_path) not in json.dumps(record)
    assert {path.name for path in output.iterdir()} == {"find_lr.json", "find_lr.png", "find_lr.svg"}
    losses[:] = [1.0] * 30
    with pytest.raises(UserError, match="never falls between --lowest=1e-06"):
        find_lr.find(settings_of(tmp_path), str(output), 1e-6, 1.0, 30)
    assert json.loads((output / "find_lr.json").read_text())["suggestion"] is None
    assert f"suggestion, {record['suggestion']:g}" in legend(curve(losses), record["suggestion"])
    assert "no suggestion: the smoothed loss never falls" in legend(curve(losses), None)


def legend(points, suggestion):
    (drawn,) = range_figure.draw(points, suggestion).legends
    return [text.get_text() for text in drawn.get_texts()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--steps=5"], "--steps=5 should be at least 20"),
        (["--lowest=1", "--highest=0.1"], "in this order"),
        (["--lowest=0"], "above 0"),
        (["--output="], "--output is empty"),
        (["--config.optim.learning_rat=1"], "is not an option"),
    ],
)
def test_mistakes_of_the_command(tmp_path, capsys, given, message):
    assert find_lr.main([*COMMAND, f"--output={tmp_path}/x", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_others_is_refused(tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    start = [*COMMAND, "--output"]
    assert find_lr.main([*start, str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert find_lr.main([*start, str(tmp_path / "mine")]) == 2
    assert "is a file" in capsys.readouterr().err
