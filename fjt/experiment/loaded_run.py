"""A finished run as its work directory has it: what it predicts, its records, its exports."""

import dataclasses
import functools
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fjt.core import files
from fjt.core.errors import UserError, read_rows
from fjt.core.ragged import Ragged
from fjt.data import choices, words
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.labels import some
from fjt.data.rows import text_of
from fjt.experiment import calibration, run_records
from fjt.experiment.process import undisturbed
from fjt.interop.directory import replaced
from fjt.tasks.kinds import find_problem, task_of_record
from fjt.tasks.problem import Problem

if TYPE_CHECKING:
    from fjt.experiment.predictor import Predictor

# Options of a run that using it needs.
USED = (
    "data.columns.text", "data.columns.text_pair", "data.files.train", "model.dtype", "model.matmul_precision",
    "model.max_length", "model.path", "model.revision",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its work directory.
        result: the contents of its result.json.
        config: the "config" of its config.json.
        task: its Task, with the kind of problem and the label names.
        pairs: whether it reads pairs of texts.
        singles: whether it reads single texts; one on several tasks may read both.
        base: the present directory of the base model, "" if it has not moved.
        contents: {name: sha256} of what it has read, in its config.json.
    """

    path: str
    result: dict[str, Any] = dataclasses.field(repr=False)
    config: dict[str, Any] = dataclasses.field(repr=False)
    task: Task
    pairs: bool
    singles: bool = True
    base: str = ""
    contents: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def records(self) -> dict[str, list[dict[str, Any]]]:
        """{"train": rows of train.jsonl, "eval": rows of eval.jsonl}."""
        return {"train": run_records.read_steps(self.path), "eval": run_records.read_evaluations(self.path)}

    def predict(
        self,
        texts: Sequence[str] | Sequence[Sequence[str]],
        pairs: Sequence[str | None] | Sequence[Sequence[str]] | None = None,
        *,
        calibrated: bool = False,
    ) -> dict[str, Any]:
        """{labels, probabilities, logits} of texts, in their order.

        Args:
            texts: the texts; for a run that labels words, also lists of words.
            pairs: the second texts, for a run on pairs (None for none, where it reads single texts too); the contexts,
                for a run that answers questions; a list of choices for each text, for a run that chooses among them.
            calibrated: whether to apply what `python -m fjt.calibrate` fitted for the run to labels and probabilities,
                as `python -m fjt.predict --calibrated` does; the logits stay as they are.

        Returns:
            labels: one per text: a name, a tuple of names, a score, or a list of tags.  probabilities: f64[N, C], None
            for scores.  logits: f32[N, C].  For a run that labels words: `words` as `fjt.data.words` finds them in
            texts, and probabilities and logits are lists of arrays [words, C].  For one that finds entities:
            `entities`, a list per text of {type, text, start, end, score}, in characters of the text, or of its words
            with a blank between them.  For a run that answers questions, labels are the answers, "" for none, logits
            are JSON, and there is `n_best`, a list per question of {text, start, end, score, probability}, in
            characters of the context.  For one that chooses, there is `choice`, the text of the choice.  For a masked
            language model, labels are lists of the best token for each mask of a text, and `candidates` has the five
            best with their probabilities.  For several tasks, labels are {task: label} of each text, the logits of all
            tasks stand side by side, and probabilities are NaN for scores.  Of a calibration with abstention, there is
            `abstains`, a bool per text, and the label is "" where it is True.

        Raises:
            UserError: the texts are not lists of str, do not fit the run, or have logits that are not finite; or the
                base model cannot be found; or `calibrated` is True and the run has no calibration.
        """
        fitted = calibration.read(self.path, self.result["params_sha256"]) if calibrated else None
        if self.problem.words:
            split = _checked_words(texts, pairs)
        else:
            split = _checked(texts, pairs, self)
        found = self.label(split)
        found |= calibration.values(fitted, found["logits"], self.problem, self.task) if fitted else {}
        return {name: list(values) if isinstance(values, Ragged) else values for name, values in found.items()}

    def label(self, split: Split, first: int = 0) -> dict[str, Any]:
        """As `predict`, of a split; the arrays of words are Ragged.  first: number of its first row, for messages."""
        self.check_export()
        with undisturbed():
            examples, logits = self._predict(split)
        wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if len(wrong):
            wrong = np.unique(np.searchsorted(examples.row_slots, wrong, side="right") - 1)  # rows of these slots
            raise UserError(
                f"The logits of {len(wrong):,} texts are not finite, so that these have no label: "
                f"{some(list(map(str, first + wrong)))} (counted from 0). Leave them out, or use another run than "
                f"{self.path}."
            )
        task = self.full_task
        rows = self.problem.by_row(logits, examples, split, task)
        predicted = self.problem.decode(rows, task)
        found = {"labels": predicted.labels, "probabilities": predicted.probabilities, "logits": rows}
        details = self.problem.details(rows, predicted, split, task)
        return found | ({} if split.words is None else {"words": split.words}) | details

    def _predict(self, split: Split) -> tuple[Examples, np.ndarray]:
        """(the Examples of a split, the logits of their slots)."""
        return self._predictor.predict(split)

    @property
    def width(self) -> int:
        """The size of the vectors that `vectors` returns."""
        return self._predictor.model.config.width

    def vectors(self, split: Split) -> np.ndarray | Ragged:
        """The output of the encoder's last layer for the rows of a split, f32[N, D], or for each of their words."""
        self.check_export()
        with undisturbed():
            examples = self._predictor.tokenize(split)
            found = self._predictor.vectors(examples)
        return found if self.problem.one_slot else Ragged(found, examples.row_slots)

    @undisturbed()
    def export(self, path: str | os.PathLike[str], format: str = "hf", task: str = "") -> None:
        """Writes the tuned model to a new directory.

        Args:
            path: the directory.
            format: "hf" for a whole Hugging Face model, "peft" or "adapterhub" for an adapter.
            task: of a run on several tasks, the one whose outputs the model has ("hf"); "": those of all.

        Raises:
            UserError: the directory exists, is among the run's own, the format cannot express the run, or what was
                written gives other tokens or logits than the run.
        """
        from fjt.experiment import readback, workdir
        from fjt.interop.conversion import convert

        output = os.path.normpath(files.local_path(path, "--output"))
        workdir.check_output(output, "--output")
        if os.path.lexists(output):
            raise UserError(f"--output: {output} already exists; give a new directory, or move it away.")
        self.check_export()
        own = self._predictor  # which checks the run's files before anything is written
        if task:
            self._export_task(output, format, task)
            return
        convert(
            format,
            output,
            model=self.model_directory(),
            folder=os.path.join(self.path, "export", "adapter"),
            base=self.base_directory,
            method=" and ".join(self.result["method"]),
            label_names=self.problem.output_names(self.task),
            head=self.problem.head,
            check=lambda folder: readback.check_conversion(
                output, lambda: self._read_export(folder), own, self.pairs, self.problem
            ),
        )

    def _export_task(self, output: str, format: str, name: str) -> None:
        """Writes one of several tasks as a Hugging Face model."""
        from fjt.experiment import predictor, readback
        from fjt.interop import hf

        task, columns = self.problem.member(self.task, name)
        if format != "hf" or not self.model_directory():
            raise UserError(f"--task={name}: one of several tasks is written as a whole model, by --format=hf, alone.")
        own = predictor.of_task(self._predictor, task, columns)
        with replaced(output) as folder:
            shutil.copyfile(os.path.join(self.model_directory(), "README.md"), os.path.join(folder, "README.md"))
            hf.export(folder, own.params, own.model.config, task, own.tokenizer, own.options["max_length"])
            readback.check_conversion(
                output, lambda: predictor.read(folder, task, own.options), own, self.pairs, own.problem
            )

    def _read_export(self, folder: str) -> "Predictor":
        """The Predictor of an export of this run, or of an adapter in another library's form over the base model."""
        from fjt.experiment import predictor
        from fjt.interop import formats
        from fjt.models import pretrained

        options = self.config["model"]
        if os.path.exists(os.path.join(folder, "config.json")):
            return predictor.read(folder, self.task, options)
        base = self.base_directory()
        checkpoint = pretrained.read_checkpoint(base)
        params = predictor.read_base(checkpoint, base, self.task)
        found = formats.read_other(folder, checkpoint.config)
        return predictor.read_over(folder, found, params, checkpoint.config, self.task, options)

    @property
    def metrics(self) -> dict[str, float]:
        """{metric: value} on dev, of the selected step."""
        return self.result["metrics"]

    @property
    def problem(self) -> Problem:
        """The Problem of the run's task."""
        return find_problem(self.task.kind)

    @property
    def full_task(self) -> Task:
        """The Task, with names for labels that are the tokens of the model."""
        if not self.problem.documents:
            return self.task
        return self.problem.name_labels(self.task, self._predictor.tokenizer)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The label names by id, () for scores."""
        return self.task.label_names

    def model_directory(self) -> str:
        """The Hugging Face directory of the run, "" if its method cannot be merged."""
        return _exported_model(self.path)

    def check_export(self) -> None:
        """Raises UserError if the run has left no model."""
        folder = _exported_model(self.path) or os.path.join(self.path, "export", "adapter")
        for file in ("config.json", "model.safetensors") if _exported_model(self.path) else ("fjt_adapter.json",):
            if not os.path.exists(os.path.join(folder, file)):
                raise UserError(
                    f"{os.path.join(folder, file)} does not exist: the run's model is needed, which is written with "
                    f"config.output.export=True. `python -m fjt.reproduce {self.path} --workdir DIR` makes it anew."
                )

    def base_directory(self) -> str:
        """The directory of the model that the run started from.  Raises UserError if it cannot be found."""
        from fjt.models import model_path

        model = self.config["model"]
        try:
            return model_path.resolve(self.base or model["path"], "" if self.base else model["revision"])
        except UserError as error:
            raise UserError(
                f"{error} It is the base model of the run in {self.path}; give its present directory: "
                "`load_run(DIR, base=DIR)`, or --base DIR."
            ) from None

    @functools.cached_property
    def _predictor(self) -> "Predictor":
        """The Predictor of the run's export."""
        from fjt.experiment import predictor
        from fjt.interop import adapter
        from fjt.models import pretrained
        from fjt.training import placement

        placement.find_devices()
        run_records.check_export(self.path, self.result)
        options, folder = self.config["model"], self.model_directory()
        if folder:
            return predictor.read(folder, self.task, options)
        folder, base = os.path.join(self.path, "export", "adapter"), self.base_directory()
        own, checkpoint = adapter.read(folder), pretrained.read_checkpoint(base)
        if checkpoint.sha256 != own.base_sha256:
            raise UserError(f"The weights of {base} differ from those of the base model of the run in {self.path}.")
        params = predictor.read_base(checkpoint, base, self.task)
        return predictor.read_over(folder, own, params, checkpoint.config, self.task, options)


def _checked(texts: Iterable[Any], pairs: Iterable[Any] | None, run: Run) -> Split:
    """The unlabelled Split of what the caller calls texts.

    Args:
        texts: the texts.
        pairs: the second texts, or the choices of each text.
        run: says which of them it reads.

    Raises:
        UserError: they are not str that fit the run.
    """
    choose = run.problem.choices
    if pairs is None and (choose or not run.singles):
        what = "choices of each text are" if choose else "second texts are"
        raise UserError(
            f"The run reads {'texts with choices' if choose else 'pairs of texts'}, but the {what} missing (`pairs`)."
        )
    if pairs is not None and not (choose or run.pairs):
        raise UserError("The run reads single texts; leave out the second texts (`pairs`).")
    columns: dict[str, Any] = {"texts": texts} if pairs is None else {"texts": texts, "pairs": pairs}
    either = run.pairs and run.singles  # None stands for no second text
    for name, values in columns.items():
        if isinstance(values, str):
            raise UserError(f"`{name}` is one str; give a list of str.")
        columns[name] = tuple(
            read_rows(
                lambda cell, second=name == "pairs", name=name: _item(
                    cell[1], f"{name}[{cell[0]}]", choose and second, either and second
                ),
                enumerate(values),
            )
        )
    count = len(columns["texts"])
    if not count:
        raise UserError("There are no texts to label.")
    if pairs is not None and len(columns["pairs"]) != count:
        raise UserError(f"There are {count} texts and {len(columns['pairs'])} second texts; each text needs one.")
    second = {"choices" if choose else "text_pair": columns.get("pairs")}
    return Split.unlabelled(map(str, range(count)), columns["texts"], **second)


def _item(value: Any, place: str, listed: bool, optional: bool) -> Any:
    """A text, or a list of choices; None where it is optional and not there."""
    if value is None and optional:
        return None
    return choices.read([value], place) if listed else text_of(value, place, "Give a list of str.")


def _checked_words(texts: Any, pairs: Any) -> Split:
    """The unlabelled Split of texts or lists of words.  Raises UserError unless the caller gave such."""
    if pairs is not None:
        raise UserError("The run reads single texts; leave out the second texts (`pairs`).")
    if isinstance(texts, str):
        raise UserError("`texts` is one str; give a list of texts or of lists of words.")
    found = read_rows(lambda cell: words.read(cell[1], f"texts[{cell[0]}]"), enumerate(texts))
    if not found:
        raise UserError("There are no texts to label.")
    texts, listed = [text for text, _ in found], [one for _, one in found]
    return Split.unlabelled(map(str, range(len(found))), texts, words=listed)


def read(directory: str, base: str | os.PathLike[str] = "") -> Run:
    """The Run of a work directory.  For the arguments see `finished.load_run`."""
    result, dev = run_records.read_finished(directory), run_records.read_predictions(directory, "dev")
    pairs, recorded = bool(dev.get("pairs", False)), run_records.read_config(directory, USED)
    return Run(
        directory,
        result,
        recorded["config"],
        task_of_record(dev, result["task"]),
        pairs,
        bool(dev.get("singles", not pairs)),
        files.local_path(base, "--base") if base else "",
        recorded["contents"],
    )


def _exported_model(directory: str) -> str:
    """The Hugging Face directory of a run, "" if its method has none."""
    export = os.path.join(directory, "export")
    merged = os.path.join(export, "merged")
    if os.path.exists(merged):
        return merged
    return "" if os.path.exists(os.path.join(export, "adapter")) and not _has_model(export) else export


def _has_model(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, "config.json"))
