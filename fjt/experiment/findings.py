"""What an inspection knows of one task's data, and the form of a finding in them."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from fjt.data import cleaning
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.tasks.problem import Problem

SERIOUS, WARNING, NOTICE = SEVERITIES = ("serious", "warning", "notice")
SHOWN = 5  # examples of a finding
LONGEST = 120  # characters of a text in an example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault of the data, or a trait that changes how scores are read.

    Attributes:
        finding: what was found, in a few words.
        severity: one of SEVERITIES.
        split: the split that it is in.
        count: number of rows, or of what `finding` names.
        share: `count` as a share of all of them.
        examples: up to SHOWN, each {name: value}.
        action: what to do.
    """

    finding: str
    severity: str
    split: str
    count: int
    share: float
    examples: tuple[Mapping[str, Any], ...]
    action: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """The data of one task.

    Attributes:
        task: the task.
        problem: its Problem.
        splits: {name: Split}.
        tokens: {name: the tokens of whole texts, one example per row}.
        tokenizer: of the model.
        max_length: of the run, in tokens.
    """

    task: Task
    problem: Problem
    splits: Mapping[str, Split]
    tokens: Mapping[str, Examples]
    tokenizer: Any
    max_length: int

    @functools.cached_property
    def keys(self) -> dict[str, list[cleaning.Key]]:
        """{name: the texts of each row as they are compared}."""
        return {name: cleaning.keys_of(split) for name, split in self.splits.items()}

    @property
    def windows(self) -> bool:
        """Whether long texts are read in windows or blocks, not cut."""
        return self.problem.words or self.problem.contexts or self.problem.documents

    def is_labelled(self, name: str) -> bool:
        """Whether every row of a split has a label."""
        return not self.problem.documents and bool(self.problem.is_labelled(self.splits[name].label).all())

    def examples_of(self, name: str, rows: Iterable[int], **more: Mapping[int, Any]) -> tuple[dict[str, Any], ...]:
        """The first SHOWN rows of a split as examples of a finding.

        Args:
            name: of the split.
            rows: their numbers.
            more: {name: {row: value}} of further values.
        """
        split, found = self.splits[name], []
        for row in itertools.islice(rows, SHOWN):
            texts = " | ".join(cleaning.texts_of(split.take([row]))[0])
            one = {"place": self.place(name, row), "text": texts[:LONGEST]}
            if self.is_labelled(name):
                one["label"] = self.problem.describe_label(split.label[row], self.task)[:LONGEST]
            found.append(one | {key: values[row] for key, values in more.items()})
        return tuple(found)

    def place(self, name: str, row: int) -> str:
        """ "split:id" of a row, whose id is its number in the file where the data have none."""
        return f"{name}:{self.splits[name].id[row]}"

    def lengths(self, name: str) -> Int[np.ndarray, " N"]:
        """The number of tokens of each row of a split; of a row with choices, that of the longest one."""
        examples = self.tokens[name]
        parts = np.diff(examples.part_offsets)
        first = np.searchsorted(examples.part_offsets, examples.offsets[examples.row_offsets[:-1]])
        found = np.maximum.reduceat(np.append(parts, 0), first)
        return np.where(np.diff(examples.row_offsets) > 0, found, 0)


def grade(share: float, warning: float, serious: float) -> str:
    """The severity of a share.

    Args:
        share: what was found.
        warning: from which share it is a warning.
        serious: from which share it is serious.
    """
    return SERIOUS if share >= serious else WARNING if share >= warning else NOTICE
