"""The logs of a run during training: train.jsonl, eval.jsonl, TensorBoard, its curve, and its progress."""

import collections
import contextlib
import os

from fjt.core import console, records
from fjt.experiment import outcome, outputs, run_records
from fjt.experiment.prepared import Experiment
from fjt.training.checkpoint import HostState, NotFinite
from fjt.training.protocols import EvaluationRow, StepRow

CURVE_SECONDS = 5  # of training between two drawings of the curve, which takes as long as a hundred steps of a head


class Unrecorded(contextlib.AbstractContextManager):
    """The Recorder of a process that writes no files, because another one of the run does."""

    def __exit__(self, *exception: object) -> None:
        pass

    def log_step(self, row: StepRow) -> None:
        pass

    def log_evaluation(self, row: EvaluationRow) -> None:
        pass

    def sync(self) -> None:
        pass

    def fail(self, error: NotFinite) -> None:
        pass

    def close(self) -> None:
        pass


class FileRecorder:
    """Writes the rows of a run to train.jsonl, eval.jsonl and TensorBoard, draws its curve and shows its progress.

    A context manager.  Files are cut to the rows that belong to the state from which training continues.

    Args:
        experiment: the run.
        workdir: its work directory.
        step: number of steps taken.
        host: its host state after them.
        view: where its progress is shown.
    """

    def __init__(self, experiment: Experiment, workdir: str, *, step: int, host: HostState, view: console.View) -> None:
        self._experiment, self._workdir, self._view = experiment, workdir, view
        taken = host.evaluated if host.finished else min(step, experiment.steps)  # of lanes some end before others
        run_records.check_resumable(workdir, taken, host.evaluated)
        self._log = records.Log(os.path.join(workdir, "train.jsonl"), step)
        self._evaluations = records.Log(os.path.join(workdir, "eval.jsonl"), host.evaluated)
        execution = experiment.settings.execution
        self._tensorboard = outputs.TensorBoard(workdir, view.warn) if execution.log.tensorboard else None
        self._shown, self._begin = self._dev_at(host.evaluated, host.metrics), host
        self._drawn, self._undrawn = -CURVE_SECONDS, execution.output.curve
        self._recent: collections.deque[float] = collections.deque(maxlen=execution.log.every_steps)
        self._open = contextlib.ExitStack()
        self._bar = self._open.enter_context(view.bar("training", experiment.steps, step, execution.log.every_steps))
        for file in (self._log, self._evaluations, *([self._tensorboard] if self._tensorboard else [])):
            self._open.callback(file.close)

    def __enter__(self) -> "FileRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._undrawn &= kind is None
        self.close()

    def close(self) -> None:
        """Draws what the curve lacks and closes the files."""
        with self._open:
            if self._undrawn:
                self._draw()
                self._undrawn = False

    def sync(self) -> None:
        """Brings the logs to the disk: a checkpoint without the rows before it could not be continued."""
        self._log.sync()
        self._evaluations.sync()

    def log_step(self, row: StepRow) -> None:
        """Adds a step."""
        self._log.write(row._asdict() | {"shape": int(self._experiment.plan.shape_of[row.step - 1])})
        if self._tensorboard:
            self._tensorboard.add_step(row._asdict())
        rate = (row.examples - self._begin.examples) / max(row.seconds - self._begin.train_seconds, 1e-9)
        self._recent.append(row.loss)
        loss = sum(self._recent) / len(self._recent)
        self._bar.update(row.step, f"loss {loss:.4f}  {self._shown}{rate:.1f} examples/s")

    def log_evaluation(self, row: EvaluationRow) -> None:
        """Adds an evaluation."""
        flat = {"step": row.step, **row.metrics, "best": row.best, "train_seconds": row.train_seconds}
        self._shown = self._dev_at(row.step, row.metrics)
        self._evaluations.write(flat)
        epoch = row.step / self._experiment.schedule.steps_per_epoch
        notes = f"best {self._experiment.choice} so far  " if row.best else ""
        if row.metrics.get("collapsed"):  # such a step has no score that counts
            notes += "collapsed: (nearly) one prediction for all of dev  "
        factor = f"learning rates times {row.rate_factor:.3g}" if row.rate_factor != 1.0 else ""
        self._view.say(f"step {row.step} (epoch {epoch:.1f})  {self._scores(row.metrics)}{notes}{factor}".rstrip())
        self._undrawn = self._experiment.settings.execution.output.curve
        if self._undrawn and row.train_seconds - self._drawn >= CURVE_SECONDS:
            self._draw()
            self._drawn, self._undrawn = row.train_seconds, False
        if self._tensorboard:
            self._tensorboard.add_evaluation(flat)

    def _scores(self, metrics: dict[str, float]) -> str:
        """The scores on dev for people, "" where there are none."""
        shown = "".join(f"{name} {metrics[name]:.4f}  " for name in self._experiment.task.metrics if name in metrics)
        return shown and f"dev {shown}"

    def _dev_at(self, step: int, metrics: dict[str, float]) -> str:
        """The scores with the step that they belong to."""
        return f"{self._scores(metrics).rstrip()} at step {step}  " if metrics else ""

    def fail(self, error: NotFinite) -> None:
        """Closes the files and writes the result of a run whose numbers are not finite."""
        self._undrawn = False
        self.close()
        outcome.write_failure(self._experiment, self._workdir, error)

    def _draw(self) -> None:
        try:
            outputs.draw_curve(self._workdir, self._experiment.choice)
        except (ValueError, RuntimeError) as error:  # of Matplotlib
            self._view.warn(f"{os.path.join(self._workdir, 'curve.png')} is not drawn: {error!s:.200}")
