"""The files of a run for people: predictions, learning curve, TensorBoard events."""

import contextlib
import glob
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fjt.core import files, records
from fjt.core.ragged import flat
from fjt.data import glue, tables
from fjt.data.glue import Split, Task
from fjt.experiment import run_records
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Scores

SUFFIX = ".fjt"  # of the names of event files: a restart replaces those alone


def write_predictions(folder: str, name: str, task: Task, split: Split, logits: Scores) -> None:
    """Writes <folder>/<name>.npz: id, logits, label, cluster and part if known, and what `task_of_record` reads.

    Args:
        folder: where the file is written.
        name: of the split.
        task: of the run.
        split: its rows.
        logits: of the rows.
    """
    os.makedirs(folder, exist_ok=True)
    arrays: dict[str, Any] = {"id": np.array(split.id)} | flat("logits", logits) | flat("label", split.label)
    arrays |= {"label_names": np.array(task.label_names, str), "pairs": split.pairs, "singles": split.singles}
    arrays |= {"kind": np.array(task.kind), "threshold": np.array(task.threshold)}
    arrays |= {"constrained": np.array(task.constrained), "answer_length": np.array(task.answer_length)}
    arrays |= {} if split.cluster is None else {"cluster": np.array(split.cluster)}
    arrays |= {} if split.part is None else {"row": split.part.rows, "table_sha256": np.array(split.part.sha256)}
    records.write_npz(os.path.join(folder, f"{name}.npz"), arrays)


def write_tables(folder: str, name: str, task: Task, split: Split, logits: Scores) -> None:
    """Writes <folder>/<name>.tsv to read, and GLUE's submission file if there is one.

    Args:
        folder: where the files are written.
        name: of the split.
        task: of the run.
        split: its rows.
        logits: of the rows.
    """
    problem = find_problem(task.kind)
    write_table(os.path.join(folder, f"{name}.tsv"), task, split, logits)
    for suffix, text in problem.files(logits, split, task).items():
        records.replace(os.path.join(folder, f"{name}{suffix}"), text)
    predicted = problem.decode(logits, task).values
    for one, ids, values in problem.submissions(task, split, predicted):
        glue.write_submission(one, name, ids, values, os.path.join(folder, "submission"))


def write_table(path: str, task: Task, split: Split, logits: Scores) -> None:
    """Writes a TSV of the rows with their predictions: id, text, label, predicted label, probabilities."""
    problem = find_problem(task.kind)
    columns = {"id": split.id, "text": split.text}
    columns |= {} if split.text_pair is None else {"text_pair": list(map(tables.cell, split.text_pair))}
    columns |= {"label": problem.label_column(split.label, task)}
    for name, values in problem.columns(logits, task).items():
        columns[name] = [f"{x:.4f}" if isinstance(x, float) else tables.cell(x) for x in values]
    records.replace(path, tables.tsv([columns, *zip(*columns.values(), strict=True)]))


def draw_curve(workdir: str, metric: str) -> None:
    """Draws curve.png from train.jsonl and eval.jsonl: loss (each step and smoothed) and the dev metric."""
    from fjt.core import drawing  # Matplotlib takes a while to import

    with drawing.style():
        _draw_curve(workdir, metric)


def _draw_curve(workdir: str, metric: str) -> None:
    from matplotlib.figure import Figure

    steps, evaluations = run_records.read_steps(workdir), run_records.read_evaluations(workdir)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    x, loss = np.array([row["step"] for row in steps]), np.array([row["loss"] for row in steps])
    axes.plot(x, loss, color="tab:blue", alpha=0.25, linewidth=0.8)
    window = max(1, len(loss) // 40)
    if len(loss) > window:
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        axes.plot(x[window - 1 :], smooth, color="tab:blue", label=f"training loss (mean of {window} steps)")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss", color="tab:blue")
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    scored = [row for row in evaluations if row.get(metric) is not None]
    right.plot([r["step"] for r in scored], [r[metric] for r in scored], "o-", color="tab:orange", markersize=4)
    right.set_ylabel(f"dev {metric}", color="tab:orange")
    with files.written(os.path.join(workdir, "curve.png")) as file:
        figure.savefig(file, format="png", dpi=120)


class TensorBoard:
    """Events for TensorBoard under Trainer's tags, in <workdir>/tensorboard.

    The file starts with the rows of train.jsonl and eval.jsonl, so that a resumed run has no point twice.  Events are
    written by the caller's own thread: a thread that writes, as tensorboardX's SummaryWriter has, would end at a full
    disk, and the run would wait for it forever.  A file that cannot be written ends the events, not the run.
    """

    def __init__(self, workdir: str, warn: Callable[[str], None]) -> None:
        """workdir: the work directory.  warn: prints a warning."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event: Any = event_pb2  # protobuf defines the classes of both at run time
        self._summary: Any = summary_pb2
        self._folder, self._warn = os.path.join(workdir, "tensorboard"), warn
        os.makedirs(self._folder, exist_ok=True)
        for path in glob.glob(os.path.join(glob.escape(self._folder), f"events.out.tfevents.*{SUFFIX}")):
            os.remove(path)  # first, because two files of one second would have the same name
        self._writer: EventsWriter | None = None
        with self._writing():
            self._writer = EventsWriter(os.path.join(self._folder, "events"), filename_suffix=SUFFIX)
        for row in run_records.read_steps(workdir):
            self.add_step(row)
        for row in run_records.read_evaluations(workdir):
            self.add_evaluation(row)

    def add_step(self, row: Mapping[str, Any]) -> None:
        """Adds a row of train.jsonl."""
        values = {f"train/{name}": float(row[name]) for name in ("loss", "grad_norm", "learning_rate")}
        self._add(values, row["step"])

    def add_evaluation(self, row: Mapping[str, Any]) -> None:
        """Adds a row of eval.jsonl."""
        values = {name: x for name, x in row.items() if isinstance(x, float) and name != "train_seconds"}
        self._add({f"eval/{name}": x for name, x in values.items()}, row["step"])
        with self._writing():
            if self._writer:
                self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with self._writing():
            if self._writer:
                self._writer.close()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            return
        points = [self._summary.Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()]
        summary = self._summary.Summary(value=points)
        event = self._event.Event(wall_time=time.time(), step=step, summary=summary)
        with self._writing():
            self._writer.write_event(event)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self._warn(f"{self._folder}: no more events for TensorBoard: {error.strerror or error}; training goes on")
