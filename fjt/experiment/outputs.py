"""The files of a run for people: predictions, learning curve, TensorBoard events."""

import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from fjt.core import records
from fjt.data import glue, tables
from fjt.data.glue import Split, Task
from fjt.tasks.kinds import find_problem

Logits = Float[np.ndarray, "N C"]  # in file order


def write_predictions(folder: str, name: str, task: Task, split: Split, logits: Logits) -> None:
    """Writes <folder>/<name>.npz: id, logits, label, label_names, kind, threshold, pairs, and cluster if known.

    Args:
        folder: where the file is written.
        name: of the split.
        task: of the run.
        split: its rows.
        logits: of the rows.
    """
    os.makedirs(folder, exist_ok=True)
    arrays: dict[str, Any] = {"id": np.array(split.id), "logits": logits, "label": split.label}
    arrays |= {"label_names": np.array(task.label_names, str), "pairs": split.text_pair is not None}
    arrays |= {"kind": np.array(task.kind), "threshold": np.array(task.threshold)}
    arrays |= {} if split.cluster is None else {"cluster": np.array(split.cluster)}
    path = os.path.join(folder, f"{name}.npz")
    np.savez(f"{path}.tmp.npz", **arrays)
    os.replace(f"{path}.tmp.npz", path)


def write_tables(folder: str, name: str, task: Task, split: Split, logits: Logits) -> None:
    """Writes <folder>/<name>.tsv to read, and GLUE's submission file if there is one.

    Args:
        folder: where the files are written.
        name: of the split.
        task: of the run.
        split: its rows.
        logits: of the rows.
    """
    write_table(os.path.join(folder, f"{name}.tsv"), task, split, logits)
    predicted = find_problem(task.kind).decode(logits, task).values
    glue.write_submission(task, name, split.id, predicted, os.path.join(folder, "submission"))


def write_table(path: str, task: Task, split: Split, logits: Logits) -> None:
    """Writes a TSV of the rows with their predictions: id, text, label, predicted label, probabilities."""
    problem = find_problem(task.kind)
    columns = {"id": split.id, "text": split.text}
    columns |= {} if split.text_pair is None else {"text_pair": split.text_pair}
    columns |= {"label": problem.label_column(split.label, task)}
    for name, values in problem.columns(logits, task).items():
        columns[name] = [f"{x:.4f}" if isinstance(x, float) else x for x in values]
    records.replace(path, tables.tsv([columns, *zip(*columns.values(), strict=True)]))


def draw_curve(workdir: str, metric: str) -> None:
    """Draws curve.png from train.jsonl and eval.jsonl: loss (each step and smoothed) and the dev metric."""
    from matplotlib.figure import Figure

    steps = records.read_lines(os.path.join(workdir, "train.jsonl"))
    evaluations = records.read_lines(os.path.join(workdir, "eval.jsonl"))
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
    figure.savefig(os.path.join(workdir, "curve.png"), dpi=120)


class TensorBoard:
    """Events for TensorBoard under Trainer's tags, in <workdir>/tensorboard.

    The file starts with the rows of train.jsonl and eval.jsonl, so that a resumed run has no point twice.
    """

    def __init__(self, workdir: str, rates: Float[np.ndarray, " steps"]) -> None:
        """workdir: the work directory.  rates: learning rate of each step."""
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import (
            Summary,  # pyright: ignore[reportAttributeAccessIssue]  # protobuf defines it at run time
        )

        folder = os.path.join(workdir, "tensorboard")
        shutil.rmtree(folder, ignore_errors=True)  # first, because two files of one second would have the same name
        self._writer = SummaryWriter(folder, filename_suffix=".fjt", flush_secs=30)
        self._rates, self._summary = rates, Summary
        for row in records.read_lines(os.path.join(workdir, "train.jsonl")):
            self.add_step(row)
        for row in records.read_lines(os.path.join(workdir, "eval.jsonl")):
            self.add_evaluation(row)

    def add_step(self, row: Mapping[str, Any]) -> None:
        """Adds a row of train.jsonl."""
        # One event with three values, because each event costs the loop a tenth of a millisecond.
        values = {"loss": row["loss"], "grad_norm": row["grad_norm"], "learning_rate": self._rates[row["step"] - 1]}
        points = [self._summary.Value(tag=f"train/{name}", simple_value=float(x)) for name, x in values.items()]
        assert self._writer.file_writer is not None, "the file is open"
        self._writer.file_writer.add_summary(self._summary(value=points), row["step"])

    def add_evaluation(self, row: Mapping[str, Any]) -> None:
        """Adds a row of eval.jsonl."""
        for name, value in row.items():
            if isinstance(value, float) and name != "train_seconds":
                self._writer.add_scalar(f"eval/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
