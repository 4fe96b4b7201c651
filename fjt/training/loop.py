"""The host's loop: feeds the compiled step, reads it one step late, evaluates, saves, and stops when asked."""

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable

from fjt.training.checkpoint import NotFinite, better, check_finite


class Stopped(Exception):
    """The run was asked to stop by a signal, and its state is saved.  Exit code 128 + signal."""

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command goes on from here")
        self.number = number


class Stop:
    """Notes SIGINT and SIGTERM for the loop to act on at the next step; a second one acts at once."""

    def __init__(self):
        self.number = None
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        del frame
        if self.number is not None:
            raise SystemExit(128 + number)
        self.number = number
        os.write(2, b"\nfjt: stopping at the next step, after saving; once more stops at once\n")

    def check(self):
        """Raises Stopped when a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)


def first_host_state():
    """What the host carries from step to step and each checkpoint holds, at step 0."""
    return {
        "evaluated": -1,
        "best_step": None,
        "best_score": None,
        "best_metrics": {},
        "metrics": {},
        "stale": 0,
        "finished": False,
        "train_seconds": 0.0,
        "examples": 0,
        "tokens": 0,
        "compile_seconds": 0.0,
        "operations": 0.0,
        "hidden_seconds": 0.0,
    }


@dataclasses.dataclass(frozen=True)
class Loop:
    """What a run of the loop needs, all of it made by `experiment`.

    feed(k) -> (batch on the devices, examples, real tokens) of step k; operations(k) -> how many its program counts;
    run(k, state, batch) -> (state, metrics);
    evaluate(state) -> {metric: value}; metric, lower: which one selects, and whether lower is better;
    log_step, log_evaluation: called with a row; keep_last: whether the last step is to be saved: a run that leaves no
    checkpoints makes its last steps again if it is killed after them.
    """

    total: int
    evaluations: frozenset
    saves: frozenset
    feed: Callable
    operations: Callable
    run: Callable
    evaluate: Callable
    metric: str
    lower: bool
    patience: int
    checkpoints: object
    log_step: Callable
    log_evaluation: Callable
    stop: Stop
    keep_last: bool = True


def fit(loop, state, host):
    """(state, host) at the end of the run, from wherever they stand.

    Raises Stopped (after saving) and NotFinite (the last checkpoint stays as it is).
    """
    boundaries = sorted(loop.evaluations | loop.saves | {loop.total})
    k = int(state.step)
    while True:
        if k in loop.evaluations and host["evaluated"] < k:
            try:
                metrics = loop.evaluate(state)
            except Stopped:
                _save(loop, k, state, host)
                loop.checkpoints.wait()
                raise
            host, row = judge(k, metrics, host, metric=loop.metric, lower=loop.lower, patience=loop.patience)
            loop.log_evaluation(row)
        if k == loop.total and not loop.keep_last:
            check_finite(k, state)
        elif k in loop.evaluations or k in loop.saves:
            _save(loop, k, state, host)
        if k >= loop.total or host["finished"]:
            return state, host
        end = next(boundary for boundary in boundaries if boundary > k)
        k, state, host = _segment(loop, k, end, state, host)
        if loop.stop.number is not None and (k not in loop.evaluations or host["evaluated"] >= k):
            _save(loop, k, state, host)
            loop.checkpoints.wait()
            loop.stop.check()


def _segment(loop, k, end, state, host):
    """Steps k to end - 1 or until a signal; only this is on the training clock."""
    start = time.perf_counter()
    waiting = None
    examples, tokens, operations = host["examples"], host["tokens"], host["operations"]
    while k < end and loop.stop.number is None:
        batch, new_examples, new_tokens = loop.feed(k)
        state, metrics = loop.run(k, state, batch)
        examples, tokens, operations = examples + new_examples, tokens + new_tokens, operations + loop.operations(k)
        if waiting:
            _read(loop, *waiting)
        k += 1
        waiting = k, metrics, examples, host["train_seconds"], start
    if waiting:
        _read(loop, *waiting)
    seconds = host["train_seconds"] + time.perf_counter() - start
    return k, state, host | {"train_seconds": seconds, "examples": examples, "tokens": tokens, "operations": operations}


def _read(loop, step, metrics, examples, seconds_before, start):
    """Brings a step's metrics to the host, checks and logs them."""
    loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
    check_step(step, loss, norm)
    seconds = seconds_before + time.perf_counter() - start
    loop.log_step({"step": step, "loss": loss, "grad_norm": norm, "examples": examples, "seconds": seconds})


def check_step(step, loss, norm):
    """Raises NotFinite when a step's loss or its gradient's norm is not finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(f"the loss of step {step} is {loss}, its gradient's norm {norm}")


def judge(step, metrics, host, *, metric, lower, patience):
    """(what the host carries after an evaluation, the row that tells of it); as in `Loop`."""
    score = metrics.get(metric)
    improved = better(score, host["best_score"], lower)
    host = host | {"evaluated": step, "metrics": metrics, "stale": 0 if improved else host["stale"] + 1}
    if improved or host["best_step"] is None:
        host |= {"best_step": step, "best_score": score, "best_metrics": metrics}
    if patience and host["stale"] >= patience:
        host |= {"finished": True}
    return host, {"step": step, **metrics, "best": improved, "train_seconds": host["train_seconds"]}


def _save(loop, step, state, host):
    if step in loop.checkpoints.steps():
        loop.checkpoints.keep_best(host["best_step"])
    else:
        loop.checkpoints.save(step, state, host)
