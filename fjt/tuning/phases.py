"""Phases of a run in which parameters open one after another, given in a config or in a schedule file of patterns."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

from fjt.core.errors import UserError
from fjt.core.options import TuneConfig
from fjt.tuning.method import Stages

# (regular expressions of the names that open, epochs, factor of the learning rate); 0 epochs: a share of what is left.
Phase = tuple[tuple[str, ...], float, float]


def read_into(tune: TuneConfig, path: str) -> TuneConfig:
    """The options with the phases of a schedule file in place of its path, so that a run's records have them.

    Args:
        tune: the options.
        path: of the schedule file.

    Raises:
        UserError: phases are also given as an option, or the file has none.
    """
    if tune.stages:
        raise UserError(f"config.tune.schedule_file={path} and config.tune.stages are both given: leave one out.")
    return dataclasses.replace(tune, stages=read(path), schedule_file=None)


def read(path: str) -> tuple[Phase, ...]:
    """The phases of a schedule file: per line regular expressions, then perhaps epochs=NUMBER and rate=NUMBER.

    Args:
        path: config.tune.schedule_file, a text file; a # begins a comment.

    Raises:
        UserError: the file cannot be read, or a line is not a phase.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"config.tune.schedule_file={path} cannot be read: {reason}.") from None
    phases = tuple(_parse(words, f"{path}, line {number}") for number, words in enumerate(lines, 1) if words)
    if not phases:
        raise UserError(f"config.tune.schedule_file={path} has no phase. Give the patterns of one in each line.")
    return phases


def contents(tune: TuneConfig) -> dict[str, str]:
    """{"phases": sha256} of the phases of a schedule file, {} where the options name none."""
    if not tune.schedule_file:
        return {}
    return {"phases": hashlib.sha256(repr(read(tune.schedule_file)).encode()).hexdigest()}


def _parse(words: Sequence[str], place: str) -> Phase:
    patterns, given = [], {}
    for word in words:
        name, equals, value = word.partition("=")  # no name of a parameter has one
        if not equals:
            patterns.append(word)
            continue
        if name not in ("epochs", "rate") or name in given:
            raise UserError(f"{place}: {word!r} should be epochs=NUMBER or rate=NUMBER, each once.")
        try:
            given[name] = float(value)
        except ValueError:
            raise UserError(f"{place}: {word!r} should be a number behind the equals sign.") from None
    phase = tuple(patterns), given.get("epochs", 0.0), given.get("rate", 1.0)
    _check(phase, place)
    return phase


def check(phases: Sequence[Any]) -> None:
    """Raises UserError for a value of config.tune.stages that is not phases."""
    for number, phase in enumerate(phases, 1):
        _check(phase, f"config.tune.stages, phase {number}")
    if phases and phases[-1][1]:
        raise UserError(
            f"The last phase of config.tune.stages lasts to the end of the run, not {phases[-1][1]} epochs: leave them "
            "out there, and give config.train.epochs."
        )


def _check(phase: Any, place: str) -> None:
    match phase:
        case (tuple(patterns), int() | float() as epochs, int() | float() as factor):
            pass
        case _:
            raise UserError(
                f"{place}: {phase!r} should be patterns, epochs and a factor of the learning rate, such as "
                "(('layer_1/', 'layer_0/'), 2, 0.5)."
            )
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"{place}: {patterns!r} should be regular expressions of the parameters that open, at least one."
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{place}: {pattern!r} is not a regular expression: {error}.") from None
    for name, value in (("epochs", epochs), ("rate", factor)):
        if not 0 <= value < math.inf:
            raise UserError(f"{place}: {name}={value} should be finite and at least 0.")


def plan(
    phases: Sequence[Phase],
    trainable: Collection[str],
    missing: Collection[str],
    steps: int,
    steps_per_epoch: int,
) -> Stages:
    """The stages of a run, as `partition.stages` returns them.

    A parameter opens in the first phase that has a pattern for it.  Parameters that no phase names, such as a head, and
    those that the checkpoint lacked train from the start.  Phases that would begin after the last step are left out;
    one without a step folds into the next.

    Args:
        phases: the phases.
        trainable: the names that train in some stage.
        missing: the names that the checkpoint lacked.
        steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps per epoch.
    """
    given = [epochs * steps_per_epoch for _, epochs, _ in phases]
    share = max(0.0, steps - math.fsum(given)) / max(1, given.count(0.0))
    opens = {name: 0 if name in missing else _first(phases, name) for name in trainable}
    made: list[tuple[int, frozenset[str], float]] = []
    for number, (_, _, factor) in enumerate(phases):
        first = round(math.fsum(length or share for length in given[:number]))
        stage = first, frozenset(name for name, opening in opens.items() if opening <= number), float(factor)
        if number == 0 or made[-1][0] < first < steps:
            made.append(stage)
        elif first == made[-1][0]:
            made[-1] = stage
    return tuple(made)


def _first(phases: Sequence[Phase], name: str) -> int:
    """The first phase that has a pattern for a name, 0 if none has."""
    found = (i for i, (patterns, _, _) in enumerate(phases) if any(re.search(one, name) for one in patterns))
    return next(found, 0)
