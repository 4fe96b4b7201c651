"""Proposals are functions of (seed, number, ended trials); on a known function TPE finds more than random draws."""

import math
import statistics

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from configs import quickstart, search
from fjt.core.errors import UserError
from fjt.study import proposals, space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def spaces_of(*given):
    config = search.get_config(quickstart.get_config())
    config.search.space = given
    return space.read(config)[0]


TWO = {"optim.learning_rate": ("log", 1e-6, 1.0, 6), "optim.warmup_fraction": ("float", 0.0, 1.0, 5)}
CHOICE = TWO | {"train.batch_size": [8, 16, 32]}


def bowl(values):
    """A known function: its highest value, 0, is at a rate of 1e-3, a warm-up of 0.3 and a batch of 16."""
    rate = (math.log10(values["optim.learning_rate"]) - math.log10(1e-3)) / 2
    batch = 0.0 if values.get("train.batch_size", 16) == 16 else 0.5
    return -(rate**2) - 4 * (values["optim.warmup_fraction"] - 0.3) ** 2 - batch


def best_of(sampler, seed, given, trials, function=bowl, ended=()):
    """(the best score of some trials, the ended trials)."""
    spaces, ended = spaces_of(given), list(ended)
    for number in range(len(ended), min(trials, proposals.count(sampler, spaces, trials))):
        parameters, distributions = proposals.propose(sampler, seed, spaces, number, ended, False)
        value = function(space.values_of(parameters, spaces))
        ended.append(create_trial(params=parameters, distributions=distributions, value=value))
    return max(trial.value for trial in ended), ended


def test_tpe_beats_random_and_a_grid_on_a_known_function():
    """The median over seeds of the distance that is left after 30 trials."""
    left = {
        sampler: statistics.median(-best_of(sampler, seed, CHOICE, 30)[0] for seed in range(5))
        for sampler in ("tpe", "random", "grid")
    }
    assert left["tpe"] < left["random"] and left["tpe"] < left["grid"], left


@pytest.mark.parametrize("sampler", proposals.SAMPLERS)
def test_a_search_that_was_stopped_proposes_the_same_trials(sampler):
    axes = TWO if sampler == "cmaes" else CHOICE
    _, whole = best_of(sampler, 3, axes, 16)
    for stopped in (1, 12):
        _, resumed = best_of(sampler, 3, axes, 16, ended=whole[:stopped])
        assert [trial.params for trial in resumed] == [trial.params for trial in whole]
    _, other = best_of(sampler, 4, axes, 16)
    assert [trial.params for trial in other] != [trial.params for trial in whole]


def test_tpe_reads_the_scores_and_the_direction():
    _, ended = best_of("tpe", 0, TWO, 14)
    spaces = spaces_of(TWO)
    up, down = (proposals.propose("tpe", 0, spaces, 14, ended, way)[0] for way in (False, True))
    assert up != down
    assert bowl(space.values_of(up, spaces)) > bowl(space.values_of(down, spaces))


def test_cmaes_finds_more_than_random_draws_of_ranges():
    """The median over seeds of the distance that is left after 42 trials, seven generations."""
    left = {
        sampler: statistics.median(-best_of(sampler, seed, TWO, 42)[0] for seed in range(7))
        for sampler in ("cmaes", "random")
    }
    assert left["cmaes"] < left["random"] / 3, left


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_cmaes_moves_to_the_better_half_of_a_generation(lower, state):
    """Six trials with warm-ups from 0.05 to 0.8; those from 0.5 on have the worse scores, or none."""
    spaces, warmups = spaces_of(TWO), (0.05, 0.1, 0.15, 0.5, 0.7, 0.8)
    _, distributions = proposals.propose("random", 0, spaces, 0, [], lower)
    ended = [
        create_trial(
            params={"optim.learning_rate": 1e-3, "optim.warmup_fraction": warmup},
            distributions=distributions,
            state=state if warmup >= 0.5 else TrialState.COMPLETE,
            value=warmup if lower != (state is TrialState.PRUNED and warmup >= 0.5) else -warmup,  # pruned: a good one
        )
        for warmup in warmups
    ]
    found = [proposals.propose("cmaes", seed, spaces, 6, ended, lower)[0] for seed in range(20)]
    assert statistics.mean(one["optim.warmup_fraction"] for one in found) < 0.3
    before = [proposals.propose("cmaes", seed, spaces, 5, ended[:5], lower)[0] for seed in range(20)]
    assert abs(statistics.mean(one["optim.warmup_fraction"] for one in before) - 0.5) < 0.15, "no whole generation"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((CHOICE,), "train.batch_size is a list of 3 values"),
        ((TWO, TWO | {"tune.method": ["bitfit"]}), "has 2 dicts"),
        (({"tune.method": ["lora"]},), "has no range"),
    ],
)
def test_cmaes_refuses_what_has_no_order(given, message):
    with pytest.raises(UserError, match=f"{message}.*--sampler=tpe"):
        proposals.check("cmaes", spaces_of(*given))
    proposals.check("tpe", spaces_of(*given))
    proposals.check("cmaes", spaces_of(TWO | {"tune.method": ["lora"]}))


def test_a_position_on_a_range_is_a_value():
    axes = {
        "optim.learning_rate": ("log", 1e-5, 1e-3),
        "train.epochs": ("int", 1, 4),
        "train.batch_size": ("log", 8, 128),
        "optim.warmup_fraction": ("float", 0.0, 0.5),
    }
    rate, epochs, batch, warmup = spaces_of(axes)[0]
    assert [rate.at(x) for x in (0.0, 0.5, 1.0)] == [1e-5, 1e-4, 1e-3] and warmup.at(0.25) == 0.125
    assert [epochs.at(x) for x in (0.0, 0.49, 0.51, 1.0)] == [1, 2, 3, 4] and batch.at(0.5) == 32
    assert isinstance(epochs.at(0.4), int)


def test_a_trial_without_a_score_repels():
    """Trials of a high rate have no score, as where runs diverge: TPE proposes few of them later."""
    spaces, ended, high = spaces_of(TWO), [], 0
    for number in range(40):
        parameters, distributions = proposals.propose("tpe", 1, spaces, number, ended, False)
        values = space.values_of(parameters, spaces)
        lost = values["optim.learning_rate"] > 1e-2
        state = TrialState.PRUNED if lost else TrialState.COMPLETE
        ended.append(
            create_trial(
                state=state, params=parameters, distributions=distributions, value=None if lost else bowl(values)
            )
        )
        high += lost and number >= 20
    assert high <= 4, "a third of the space is lost, of which random draws would propose seven of twenty"


def test_a_grid_is_all_of_its_points_in_an_order_of_the_seed():
    spaces = spaces_of(TWO)
    assert proposals.count("grid", spaces, 100) == 30 and proposals.count("tpe", spaces, 100) == 100
    assert proposals.count("grid", spaces, 7) == 7
    for seed in (0, 1):
        points = [proposals.propose("grid", seed, spaces, number, [], False)[0] for number in range(30)]
        assert sorted(map(str, points)) == sorted(map(str, space.grid(spaces)))
        assert points != space.grid(spaces)
    with pytest.raises(UserError, match="needs a number of points"):
        proposals.count("grid", spaces_of({"optim.learning_rate": ("log", 1e-5, 1e-2)}), 5)


def test_a_proposal_from_one_of_several_spaces():
    spaces = spaces_of({"tune.method": ["lora"], "tune.rank": [2, 4]}, {"tune.method": ["bitfit"]})
    found = {
        str(space.values_of(proposals.propose("random", 0, spaces, number, [], False)[0], spaces))
        for number in range(20)
    }
    assert len(found) == 3


def test_a_proposed_float_has_few_digits_and_stays_in_its_range():
    spaces = spaces_of({"optim.learning_rate": ("log", 1.23456789e-3, 1.2345679e-3)})
    for number in range(5):
        (rate,) = proposals.propose("random", 0, spaces, number, [], False)[0].values()
        assert 1.23456789e-3 <= rate <= 1.2345679e-3
    (axis,) = spaces_of({"optim.learning_rate": ("log", 1e-5, 1e-2)})[0]
    assert axis._short(0.000123456) == 0.0001235
