"""The built-in tasks: kind, labels, metrics and files of each, as one table of facts (numpy only, no jax)."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from fjt.core import files
from fjt.core.ragged import Ragged


@dataclasses.dataclass(frozen=True)
class Part:
    """Which rows of a table a split has, where cross-validation divides the table.

    Attributes:
        rows: their numbers, from 0.
        sha256: of the texts and labels of the whole table.
    """

    rows: Int[np.ndarray, " N"]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of a split, in file order.

    Attributes:
        id: identifier of each row.
        text: text of each row.
        text_pair: second text of each row, None for a single text; or None where all are single texts.
        label: one label per row, in the form of the task's Problem (`fjt.tasks.problem`): an array, or Ragged.
        cluster: the source of each row, equal for rows that share one, or None where the source is unknown.
        words: the words of each text, or None where the task's labels are of whole texts.
        choices: the continuations of each text, or None where it has none.
        dropped: of train, the rows that config.data.clean left out: ((name, number), ...).
        part: of dev in cross-validation, its Part of the training table, or None.
    """

    id: tuple[str, ...]
    text: tuple[str, ...]
    text_pair: tuple[str | None, ...] | None
    label: Any
    cluster: tuple[str, ...] | None = None
    words: tuple[tuple[str, ...], ...] | None = None
    choices: tuple[tuple[str, ...], ...] | None = None
    dropped: tuple[tuple[str, int], ...] = ()
    part: Part | None = None

    @classmethod
    def unlabelled(
        cls,
        ids: Iterable[str],
        text: Sequence[str],
        text_pair: Sequence[str | None] | None = None,
        words: Sequence[tuple[str, ...]] | None = None,
        choices: Sequence[tuple[str, ...]] | None = None,
    ) -> "Split":
        """Rows to predict."""
        label = np.full(len(text), -1, np.int32) if words is None else Ragged.of([()] * len(text), np.int32)

        def whole(column: Sequence[Any] | None) -> Any:
            return None if column is None else tuple(column)

        return cls(tuple(ids), tuple(text), whole(text_pair), label, words=whole(words), choices=whole(choices))

    def __len__(self) -> int:
        return len(self.text)

    @property
    def pairs(self) -> bool:
        """Whether some row has a second text."""
        return self.text_pair is not None

    @property
    def singles(self) -> bool:
        """Whether some row has no second text."""
        return self.text_pair is None or None in self.text_pair

    def take(self, rows: Sequence[int] | np.ndarray) -> "Split":
        """The Split of some of the rows, in the order given.  rows: their numbers."""

        def pick(values: Any) -> Any:
            return None if values is None else tuple(values[row] for row in rows)

        columns = {
            name: pick(getattr(self, name)) for name in ("id", "text", "text_pair", "cluster", "words", "choices")
        }
        return Split(label=self.label[rows], **columns)


@dataclasses.dataclass(frozen=True)
class Table:
    """One split in the official files and in TFDS.  Several tables of one split: the first whose file exists is read.

    Attributes:
        split: name of the split.
        path: the file, below config.data.dir.
        text: column of the text, by name, or by number from 0 where the file has no header.
        text_pair: column of the second text; empty for single texts.
        label: column of the label; empty where the file has none.
        codes: this file's spelling of the labels, by id; empty: the task's label_names.
        tfds: "<config>/<split>" of TFDS's GLUE builder; empty where it has none.
        header: whether the first line names the columns.
        optional: whether a run can do without the split.
        drop_labels: labels of rows that are left out, a known defect of the official file.
        drop_short: whether rows with too few fields are left out, another such defect.
        cluster: columns that together name the source of a row.
    """

    split: str
    path: str
    text: str
    text_pair: str
    label: str
    codes: tuple[str, ...]
    tfds: str
    header: bool = True
    optional: bool = False
    drop_labels: tuple[str, ...] = ()
    drop_short: bool = False
    cluster: tuple[str, ...] = ()


@runtime_checkable
class Metric(Protocol):
    """A score of predictions, for which higher is better."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def __call__(self, predicted: Shaped[np.ndarray, "M ..."], label: Shaped[np.ndarray, "M ..."]) -> float: ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: the value of config.task.
        kind: name of its Problem (`fjt.tasks.kinds`).
        label_names: names of the labels by id; () for scores.
        metrics: names of metrics of the Problem; the first one decides in reports.
        description: one line for `--list`.
        tables: its splits; () where no official layout exists.
        submission: ((split, file name), ...) for GLUE's server.
        submission_ids: whether labels are submitted as ids, not as names.
        threshold: the probability from which a label of a set is predicted, or the difference of scores above which a
            question has no answer.
        constrained: whether the predicted tags of spans follow each other as their scheme allows.
        answer_length: the largest number of tokens of a predicted answer.
        selection: name of the metric that selects the best step and the best trial; empty: the first one.
        own_metrics: metrics of the user's own (`fjt.tasks.own_metrics`), whose names are the last ones of `metrics`.
    """

    name: str
    kind: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    description: str = ""
    tables: tuple[Table, ...] = ()
    submission: tuple[tuple[str, str], ...] = ()
    submission_ids: bool = True
    threshold: float = 0.5
    constrained: bool = False
    answer_length: int = 30
    selection: str = ""

    @property
    def selects_by(self) -> str:
        """The name of the metric that selects the best step and the best trial."""
        return self.selection or self.metrics[0]

    own_metrics: tuple[Metric, ...] = ()

    def difference(self, other: "Task") -> tuple[str, Any, Any] | None:
        """(what, the value here, the other one) of the first that tells two tasks' labels apart; None for the same."""
        compared = (
            ("task", self.name, other.name),
            ("kind", self.kind, other.kind),
            ("labels", self.label_names, other.label_names),
        )
        return next((found for found in compared if found[1] != found[2]), None)


# The order in which splits are returned.
SPLITS = ("train", "dev", "official_dev", "dev_mismatched", "test", "test_mismatched", "ax")

SPLIT_METRICS = {"ax": ("mcc",)}  # splits that GLUE scores with other metrics than their task

DIGITS = ("0", "1")
NLI = ("entailment", "neutral", "contradiction")


def _tables(
    name: str, folder: str, text: str, text_pair: str, label: str, codes: tuple[str, ...] = (), **others: Any
) -> tuple[Table, ...]:
    """The three tables of a GLUE task whose files have a header and the given columns."""
    place = (text, text_pair)
    return (
        Table("train", f"{folder}/train.tsv", *place, label, codes, f"{name}/train", **others),
        Table("dev", f"{folder}/dev.tsv", *place, label, codes, f"{name}/validation", **others),
        Table("test", f"{folder}/test.tsv", *place, "", codes, f"{name}/test", optional=True),
    )


def _mnli(split: str, file: str) -> Table:
    # The GLUE archive has no rows without a gold label; the original release marks such rows with "-".
    label = "" if split.startswith("test") else "gold_label"
    tfds = "mnli/" + file.replace("dev_", "validation_")
    return Table(
        split, f"MNLI/{file}.tsv", "sentence1", "sentence2", label, (), tfds, optional=not label, drop_labels=("-",)
    )


def _diagnostic(split: str, optional: bool) -> tuple[Table, ...]:
    """The diagnostic set where GLUE's download scripts put it, with labels if the full file exists."""
    full = ("Premise", "Hypothesis", "Label")
    plain = ("sentence1", "sentence2", "")
    return tuple(
        Table(split, f"{folder}/{file}", *columns, (), "ax/test", optional=optional)
        for file, columns in (("diagnostic-full.tsv", full), ("diagnostic.tsv", plain))
        for folder in ("diagnostic", "AX", "MNLI")
    )


def _glue(
    name: str,
    description: str,
    kind: str,
    label_names: tuple[str, ...],
    metrics: tuple[str, ...],
    tables: tuple[Table, ...],
    *submission: tuple[str, str],
    submission_ids: bool = True,
    selection: str = "",
) -> Task:
    return Task(name, kind, label_names, metrics, description, tables, submission, submission_ids, selection=selection)


_SENTENCES = ("sentence1", "sentence2")
_TRAIN = _mnli("train", "train")
_CLASSES = "classification"

# Two metrics of one task are in the order of GLUE's table (F1/accuracy, Pearson/Spearman).  F1 alone would select a
# step of MRPC or QQP that is always positive, so their mean selects, which is GLUE's score of the task.
_F1_ACCURACY = ("f1", "accuracy", "f1_accuracy")
GLUE = (
    _glue(
        "cola", "GLUE: is the sentence acceptable English", _CLASSES, ("unacceptable", "acceptable"), ("mcc",),
        (
            Table("train", "CoLA/train.tsv", "3", "", "1", DIGITS, "cola/train", header=False, cluster=("0",)),
            Table("dev", "CoLA/dev.tsv", "3", "", "1", DIGITS, "cola/validation", header=False, cluster=("0",)),
            Table("test", "CoLA/test.tsv", "sentence", "", "", DIGITS, "cola/test", optional=True),
        ),
        ("test", "CoLA.tsv"),
    ),
    _glue(
        "sst2", "GLUE: sentiment of film reviews", _CLASSES, ("negative", "positive"), ("accuracy",),
        _tables("sst2", "SST-2", "sentence", "", "label", DIGITS), ("test", "SST-2.tsv"),
    ),
    _glue(
        "mrpc", "GLUE: are two news sentences paraphrases", _CLASSES, ("not_equivalent", "equivalent"),
        _F1_ACCURACY, _tables("mrpc", "MRPC", "#1 String", "#2 String", "Quality", DIGITS), ("test", "MRPC.tsv"),
        selection="f1_accuracy",
    ),
    _glue(
        "stsb", "GLUE: similarity of two sentences, 0 to 5", "regression", (), ("pearson", "spearman"),
        _tables("stsb", "STS-B", *_SENTENCES, "score", cluster=("genre", "filename", "year")), ("test", "STS-B.tsv"),
    ),
    _glue(
        "qqp", "GLUE: do two questions ask the same", _CLASSES, ("not_duplicate", "duplicate"), _F1_ACCURACY,
        # Questions with line breaks are broken rows in the official files; TFDS and Hugging Face drop them too.
        _tables("qqp", "QQP", "question1", "question2", "is_duplicate", DIGITS, drop_labels=("",), drop_short=True),
        ("test", "QQP.tsv"), selection="f1_accuracy",
    ),
    _glue(
        "mnli", "GLUE: entailment in many genres; both dev sets, both test sets, diagnostics", _CLASSES, NLI,
        ("accuracy",),
        (_TRAIN, _mnli("dev", "dev_matched"), _mnli("dev_mismatched", "dev_mismatched"), _mnli("test", "test_matched"),
         _mnli("test_mismatched", "test_mismatched"), *_diagnostic("ax", optional=True)),
        ("test", "MNLI-m.tsv"), ("test_mismatched", "MNLI-mm.tsv"), ("ax", "AX.tsv"), submission_ids=False,
    ),
    _glue(
        "mnli_mismatched", "GLUE: MNLI chosen and tested on the genres that training lacks", _CLASSES, NLI,
        ("accuracy",), (_TRAIN, _mnli("dev", "dev_mismatched"), _mnli("test", "test_mismatched")),
        ("test", "MNLI-mm.tsv"), submission_ids=False,
    ),
    _glue(
        "qnli", "GLUE: does the sentence answer the question", _CLASSES, ("entailment", "not_entailment"),
        ("accuracy",), _tables("qnli", "QNLI", "question", "sentence", "label"), ("test", "QNLI.tsv"),
        submission_ids=False,
    ),
    _glue(
        "rte", "GLUE: entailment, small", _CLASSES, ("entailment", "not_entailment"), ("accuracy",),
        _tables("rte", "RTE", *_SENTENCES, "label"), ("test", "RTE.tsv"), submission_ids=False,
    ),
    _glue(
        "wnli", "GLUE: the noun that a pronoun refers to, tiny and adversarial", _CLASSES,
        ("not_entailment", "entailment"), ("accuracy",), _tables("wnli", "WNLI", *_SENTENCES, "label", DIGITS),
        ("test", "WNLI.tsv"),
    ),
    _glue(
        "ax", "GLUE: MNLI tested on the diagnostic set", _CLASSES, NLI, ("mcc",),
        (_TRAIN, _mnli("dev", "dev_matched"), *_diagnostic("test", optional=False)), ("test", "AX.tsv"),
        submission_ids=False,
    ),
)  # fmt: skip

AG_NEWS = Task(
    "ag_news",
    _CLASSES,
    ("World", "Sports", "Business", "Sci/Tech"),
    ("accuracy", "macro_f1"),
    "topic of a news item's description, 4 classes; no dev set, so set config.data.holdout",
    (
        Table("train", "train.csv", "2", "", "0", ("1", "2", "3", "4"), "", header=False),
        Table("train", "train_subset_description.jsonl", "text", "", "label", ("0", "1", "2", "3"), ""),
        Table("test", "test.csv", "2", "", "0", ("1", "2", "3", "4"), "", header=False),
    ),
)

TASKS = {task.name: task for task in (*GLUE, AG_NEWS)}

OWN_TABLE = "table"  # the name of a user's own table; `sources` builds its Task, since its labels are in its files


def names() -> dict[str, str]:
    """{name: one line} of the tasks that can be read from files, for `--list`."""
    return {t.name: t.description for t in TASKS.values()} | {OWN_TABLE: "your own table: config.data.files, .columns"}


def write_submission(task: Task, split: str, ids: Sequence[str], predictions: Any, folder: str) -> str | None:
    """Path of the written file for GLUE's server, or None where the server takes no file for the split.

    Format: header "index<TAB>prediction"; label names for the entailment tasks, label ids for the others, scores
    clipped to 0..5 with three decimals (https://gluebenchmark.com/faq).

    Args:
        task: a GLUE task.
        split: name of the split.
        ids: row numbers of the split (`Split.id`).
        predictions: label ids, or scores for a task without label names.
        folder: where the file is written.
    """
    file = dict(task.submission).get(split)
    if file is None:
        return None
    if not task.label_names:
        values = [f"{score:.3f}" for score in np.clip(predictions, 0.0, 5.0)]
    else:
        values = [str(int(p)) if task.submission_ids else task.label_names[int(p)] for p in predictions]
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, file)
    rows = [f"{row}\t{value}\n" for row, value in zip(ids, values, strict=True)]
    files.write(path, "".join(["index\tprediction\n", *rows]).encode())
    return path
