"""Trials in the storage: claimed once, kept through kills, told their outcome; equal ones are found."""

import copy

import pytest
from optuna.trial import TrialState

from configs import quickstart, search
from fjt.core.errors import UserError
from fjt.experiment.workdir import lock
from fjt.study import space
from fjt.study.trials import JOURNAL, Plan, Trials, find_equal

AXES = {"optim.learning_rate": ("log", 1e-5, 1e-2, 3), "train.batch_size": [8, 16]}


def plan_of(total=6, lanes=1, sampler="random", prune=False):
    config = search.get_config(quickstart.get_config())
    config.search.space = (AXES,)
    return Plan(space.read(config)[0], sampler, 0, total, lanes, prune)


def open_(folder, plan=None, about=None, **options):
    return Trials(str(folder), plan or plan_of(), False, about or {"seed": 0}, **options)


def run_all(trials, score=lambda number: number / 10):
    """The numbers of the trials that are claimed together, until none is left."""
    claimed = []
    while True:
        with trials.claimed() as mine:
            if not mine:
                return claimed
            claimed.append([trial.number for trial in mine])
            for trial in mine:
                trials.tell(trial.number, score(trial.number), {"ended": "finished"})


def test_trials_are_proposed_in_lanes_and_told(tmp_path):
    trials = open_(tmp_path, plan_of(5, lanes=2))
    assert run_all(trials) == [[0, 1], [2, 3], [4]]
    again = open_(tmp_path, plan_of(5, lanes=2))
    assert [trial.value for trial in again.all()] == [0.0, 0.1, 0.2, 0.3, 0.4] and not again.is_open()
    assert again.all()[0].user_attrs == {"ended": "finished"}
    more = open_(tmp_path, plan_of(7, lanes=2))
    assert run_all(more) == [[5], [6]], "the lanes that the first command would have proposed"


def test_another_folder_of_the_same_name_has_no_part_in_a_database(tmp_path):
    storage = f"sqlite:///{tmp_path}/db"
    for folder in ("one/search", "other/search"):
        (tmp_path / folder).mkdir(parents=True)
    assert len(run_all(open_(tmp_path / "one/search", storage=storage))) == len(
        open_(tmp_path / "one/search", storage=storage).all()
    )
    with pytest.raises(UserError, match="another folder that is called search"):
        open_(tmp_path / "other/search", storage=storage)


def test_a_trial_whose_process_was_killed_keeps_its_parameters(tmp_path):
    trials, whole = open_(tmp_path / "one"), open_(tmp_path / "two")
    with trials.claimed() as (first,):
        pass  # as a killed process leaves it: claimed, and never told
    assert trials.is_open()
    again = open_(tmp_path / "one")
    with again.claimed() as (mine,):
        assert mine.number == 0 and mine.params == first.params
        other = open_(tmp_path / "one")
        with other.claimed() as (theirs,):
            assert theirs.number == 1, "a trial of a process that lives is not taken"
            other.tell(1, 0.5, {})
        again.tell(0, 0.5, {})
    run_all(again)
    run_all(whole)
    assert [trial.params for trial in again.all()] == [trial.params for trial in whole.all()]


def test_a_line_that_a_kill_has_cut_off_is_removed(tmp_path):
    run_all(open_(tmp_path, plan_of(2)))
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole + b'{"op_code":4,"worker')
    trials = open_(tmp_path, plan_of(3))
    assert (tmp_path / JOURNAL).read_bytes()[: len(whole)] == whole
    assert run_all(trials) == [[2]]


def test_the_journal_is_locked_by_the_system(tmp_path):
    """Optuna's own locks are files, which a killed process leaves behind."""
    trials = open_(tmp_path)
    run_all(trials)
    assert not list(tmp_path.glob("*.rename")) and (tmp_path / f"{JOURNAL}.lock").stat().st_size == 0
    with lock(str(tmp_path / "claims"), kind=""):
        pass


def test_a_trial_without_a_score_and_one_behind_the_median(tmp_path):
    trials = open_(tmp_path, plan_of(8, prune=True))
    for number in range(5):
        with trials.claimed():
            assert not trials.report(number, 2, 0.5)
            trials.tell(number, 0.9, {})
    with trials.claimed():
        assert trials.report(5, 2, 0.1)
        assert trials.report(5, 2, 0.7), "the score of a step is that of its first report"
        trials.tell(5, None, {"ended": "pruned"})
    with trials.claimed():
        assert not trials.report(6, 2, 0.6)
        trials.tell(6, None, {"ended": "collapsed"})
    assert [trial.state for trial in trials.all()[4:7]] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]


def test_another_search_is_refused_with_the_options_that_differ(tmp_path):
    open_(tmp_path, about={"seed": 0, "config": {"train.steps": 5}})
    open_(tmp_path, about={"seed": 0, "config": {"train.steps": 5}})
    with pytest.raises(UserError, match=r"config.train.steps: 5 there, 6 now") as error:
        open_(tmp_path, about={"seed": 0, "config": {"train.steps": 6}})
    assert "seed" not in str(error.value)


def test_a_database_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="--storage=nothing:///x cannot be opened"):
        open_(tmp_path, storage="nothing:///x")


def test_equal_trials_are_found(tmp_path):
    trials = open_(tmp_path, plan_of(6, sampler="grid"))
    run_all(trials)
    ended = trials.all()
    assert not any(find_equal(trial, ended) for trial in ended), "a grid has each point once"
    twin = copy.copy(ended[2])
    twin.number = 9
    assert find_equal(twin, ended) is ended[2]
