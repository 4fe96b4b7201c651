"""The loop by itself: arrays and files are stand-ins, so what happens after which step can be read off a list."""

import math
import signal

import numpy as np
import pytest

from fjt.training import processes
from fjt.training.checkpoint import Checkpoints, HostState, NotFinite
from fjt.training.loop import Loop, update_best
from fjt.training.protocols import Count, Course, Events
from fjt.training.stop import Stop, Stopped


class Diary(Events, Checkpoints):
    """What happened, in order; it is also the stepper, the recorder of each run and the checkpoints."""

    def __init__(self, scores=(), losses=None):
        self.happened, self.scores, self.losses, self.alone = [], list(scores), losses or {}, True

    def note(self, *words):
        self.happened.append(" ".join(map(str, words)))

    # Events.
    def step_begins(self, step, stepper):
        assert stepper is self
        self.note("step", step)

    def evaluation_begins(self, step, stepper):
        assert stepper is self
        self.note("evaluate", step)

    def evaluation_ends(self, step):
        self.note("evaluated", step)

    def save_begins(self, step):
        self.note("save", step)

    # The stepper.
    def activate(self, moving, rate_factors):
        self.alone, self.rates = len(moving) < 2, rate_factors

    def advance(self, step, moving):
        loss = np.array(self.losses.get(step + 1, [1.0, 1.0, 1.0]), np.float32)
        measured = {"loss": loss, "grad_norm": np.ones_like(loss), "learning_rate": self.rates}
        return measured, [Count(10, 100, 1e3) for _ in moving]

    def evaluate(self, runs):
        score, others = self.scores.pop(0), [{"accuracy": 0.4} for _ in runs[1:]]
        return [NotFinite("1 of 9 predictions are not finite") if score is None else {"accuracy": score}, *others]

    def keep_best(self, improved):
        if improved:
            self.note("best", *improved)

    def drop(self, run, error):
        self.note("drop", run)
        if self.alone:
            raise error

    def saved(self):
        return {}

    def state_of(self, run):
        return {}

    # The checkpoints.
    def steps(self):
        return []

    def save(self, step, state, hosts):
        self.note("saved", step, *(host.examples for host in hosts))

    def wait(self):
        self.note("waited")


class Files:
    """The recorder of one run."""

    def __init__(self, diary, run):
        self.diary, self.run = diary, run

    def log_step(self, row):
        self.diary.note(f"run {self.run} read {row.step}" + (f" at {row.learning_rate}" * (row.learning_rate != 1)))

    def log_evaluation(self, row):
        self.diary.note(f"run {self.run} {row.metrics['accuracy']} {row.best}")

    def sync(self):
        self.diary.note(f"run {self.run} is on the disk")

    def fail(self, error):
        self.diary.note(f"run {self.run} failed: {error}")

    def close(self):
        pass


def make_loop(diary, *, lasts=(4,), evaluations=(2, 4), patience=0, plateau=0, done=(), stop=None):
    runs = [
        Course(
            last=last,
            evaluations=frozenset(evaluations),
            metric="accuracy",
            lower=False,
            patience=patience,
            plateau_patience=plateau,
            plateau_factor=0.5,
            recorder=None if i in done else Files(diary, i),
        )
        for i, last in enumerate(lasts)
    ]
    return Loop(
        runs=runs,
        hosts=[HostState() for _ in runs],
        stepper=diary,
        step=0,
        saves=frozenset({3}),
        checkpoints=diary,
        stop=stop or Stop(),
        events=diary,
    )


@pytest.mark.parametrize(
    ("scores", "best", "stale", "kept"),
    [
        # (accuracy, whether the step says one thing for all).  Such a step is better than none, and uses up patience.
        ([(0.8, True), (0.6, False), (0.7, False), (0.9, True)], [True, True, True, False], [0, 0, 0, 1], 3),
        ([(0.5, False), (0.9, True), (0.9, True)], [True, False, False], [0, 1, 2], 1),
        ([(0.9, True), (0.95, True), (0.1, False)], [True, False, True], [0, 1, 0], 3),
    ],
)
def test_a_step_that_says_one_thing_is_not_the_best(scores, best, stale, kept):
    host, run, found = HostState(), make_loop(Diary(scores=[])).runs[0], []
    for step, (accuracy, collapsed) in enumerate(scores, 1):
        host, row = update_best(step, {"accuracy": accuracy, "collapsed": float(collapsed)}, host, run)
        found.append((row.best, host.stale))
    assert found == list(zip(best, stale, strict=True)) and host.best_step == kept


def test_a_run_alone_step_by_step():
    """Each step is read after the next one is started; an evaluation comes before the save of its step."""
    diary = Diary(scores=[0.5, 0.4])
    loop = make_loop(diary)
    loop.fit()
    assert diary.happened == [
        *("step 0", "step 1", "run 0 read 1", "run 0 read 2"),
        *("evaluate 2", "run 0 0.5 True", "best 0", "evaluated 2", "save 2", "run 0 is on the disk", "saved 2 20"),
        *("step 2", "run 0 read 3", "save 3", "run 0 is on the disk", "saved 3 30"),
        *("step 3", "run 0 read 4"),
        *("evaluate 4", "run 0 0.4 False", "evaluated 4", "save 4", "run 0 is on the disk", "saved 4 40"),
    ]
    (host,) = loop.hosts
    assert (host.examples, host.tokens, host.operations) == (40, 400, 4e3)
    assert (host.best_step, host.best_score, host.metrics, host.stale) == (2, 0.5, {"accuracy": 0.4}, 1)


def test_patience_ends_a_run():
    loop = make_loop(Diary(scores=[0.5, 0.4, 0.3]), lasts=(8,), evaluations=(2, 4, 6, 8), patience=2)
    loop.fit()
    assert loop.step == 6 and loop.hosts[0].finished


def test_runs_of_other_lengths_and_a_run_that_is_done():
    """The second run ends at step 2, the third had ended before: neither is counted any more."""
    diary = Diary(scores=[0.5, 0.5])
    loop = make_loop(diary, lasts=(4, 2, 4), done=(2,))
    loop.fit()
    assert [host.examples for host in loop.hosts] == [40, 20, 0]
    assert "run 1 read 2" in diary.happened and "run 1 read 3" not in diary.happened
    assert not [line for line in diary.happened if line.startswith("run 2")]


@pytest.mark.parametrize("lasts", [(4,), (4, 4, 4)])
def test_numbers_that_are_not_finite_end_their_run(lasts):
    """Alone it raises; among others the others go on."""
    diary = Diary(scores=[0.5, 0.4], losses={2: [math.inf, 1.0, 1.0]})
    loop = make_loop(diary, lasts=lasts)
    if len(lasts) == 1:
        with pytest.raises(NotFinite, match="the loss of step 2 is inf"):
            loop.fit()
        assert not [line for line in diary.happened if line.startswith("save")]
    else:
        loop.fit()
        assert loop.step == 4 and "run 1 read 4" in diary.happened and "run 0 read 3" not in diary.happened
    assert "run 0 failed: the loss of step 2 is inf, its gradient's norm 1.0" in diary.happened
    assert loop.hosts[0].failed


@pytest.mark.parametrize("lasts", [(4,), (4, 4, 4)])
def test_predictions_that_are_not_finite_end_their_run(lasts):
    """Though its losses and its parameters are finite; such an evaluation is neither logged nor the best."""
    diary = Diary(scores=[None, 0.4])
    loop = make_loop(diary, lasts=lasts)
    if len(lasts) == 1:
        with pytest.raises(NotFinite, match="1 of 9 predictions are not finite after step 2"):
            loop.fit()
        assert not [line for line in diary.happened if line.startswith("save")]
    else:
        loop.fit()
        assert "best 1 2" in diary.happened and "run 1 read 4" in diary.happened
    assert "run 0 failed: 1 of 9 predictions are not finite after step 2" in diary.happened
    assert loop.hosts[0].failed and loop.hosts[0].best_step is None


def test_the_learning_rate_falls_where_scores_do_not_rise():
    """As ReduceLROnPlateau("max", factor=0.5, patience=1, threshold=0) of PyTorch, by hand: the second evaluation in a
    row without a better score than the best one reduces, an equal score is none, and each reduction counts anew."""
    scores = [0.5, 0.6, 0.6, 0.5, 0.4, 0.4, 0.7, 0.7, 0.8, 0.1, 0.8]
    factors = [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.125]
    host, run, found = HostState(), make_loop(Diary(), plateau=2).runs[0], []
    for step, score in enumerate(scores):
        host, row = update_best(step, {"accuracy": score}, host, run)
        assert row.rate_factor == host.rate_factor and not host.finished
        found.append(host.rate_factor)
    assert found == factors


@pytest.mark.parametrize("lasts", [(5,), (5, 5)])
def test_each_run_has_a_rate_of_its_own(lasts):
    """The scores of the first run fall once, those of the second are all the same."""
    diary = Diary(scores=[0.5, 0.6, 0.5])
    loop = make_loop(diary, lasts=lasts, evaluations=(1, 2, 3), plateau=1)
    loop.fit()
    wanted = ["run 0 read 1", "run 0 read 2", "run 0 read 3", "run 0 read 4 at 0.5", "run 0 read 5 at 0.5"]
    assert [line for line in diary.happened if line.startswith("run 0 read")] == wanted
    if len(lasts) > 1:
        lines = [line for line in diary.happened if line.startswith("run 1 read")]
        assert lines[2:] == ["run 1 read 3 at 0.5", "run 1 read 4 at 0.25", "run 1 read 5 at 0.25"]
        assert [host.rate_factor for host in loop.hosts] == [0.5, 0.25]


def test_any_finite_score_is_better_than_a_first_one_that_is_not():
    loop = make_loop(Diary(scores=[math.nan, 0.5, 0.4]), lasts=(6,), evaluations=(2, 4, 6), patience=2)
    loop.fit()
    assert (loop.hosts[0].best_step, loop.hosts[0].stale) == (4, 1)


class Deaf(Stop):
    """Mutant: it asks no other process."""

    def wanted(self):
        return self._number


@pytest.mark.parametrize("stop", [Stop, Deaf])
def test_a_stop_that_processes_agree_on_ends_all_of_them(stop, monkeypatch):
    """No signal came to this process; another one got it while this one took its second step."""
    diary = Diary(scores=[0.5, 0.4])
    monkeypatch.setattr(
        processes, "agree_to_stop", lambda own: own or (signal.SIGTERM if "step 0" in diary.happened else None)
    )
    loop = make_loop(diary, stop=stop())
    if stop is Deaf:
        loop.fit()
        assert loop.step == 4
        return
    with pytest.raises(Stopped, match="SIGTERM"):
        loop.fit()
    assert diary.happened == ["step 0", "run 0 read 1", "save 1", "run 0 is on the disk", "saved 1 10", "waited"]
