"""The record files of a run, read and checked: config, environment, result, logs and predictions.

Every reader raises `records.Damaged` for a file that is missing, cut off, or of another form.
"""

import contextlib
import glob
import hashlib
import os
from collections.abc import Collection, Mapping
from typing import Any

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS, flatten
from fjt.core.ragged import TEXT_KIND, unflat, values_of
from fjt.core.records import ANY, Damaged, Form, Unresumable

NUMBER, NO_NUMBER = (int, float), (int, float, type(None))
CONFIG: Form = {"config": dict, "contents": dict, "fingerprint": str, "changes": list, "origins?": dict}
ENVIRONMENT: Form = {"versions": {ANY: str}, "platform?": str, "device?": str, "devices?": int}
RESULT: Form = {
    "task": str, "method": list, "steps": int, "epochs?": NUMBER, "train_examples?": int, "data_sha256?": str,
    "dropped_examples?": {ANY: int}, "synthetic_examples?": {ANY: int},
    "constant?": {ANY: {ANY: NO_NUMBER}}, "failed": (str, type(None)),
}  # fmt: skip
FINISHED: Form = {  # besides, unless it failed
    "planned_steps": int, "selected_step": int, "epochs": NUMBER, "selection?": str, "collapsed?": bool,
    "metrics": {ANY: NUMBER}, "splits": {ANY: {ANY: NUMBER}}, "per_class?": list,
    "best": {"step": (int, type(None)), "metrics": {ANY: NO_NUMBER}},
    "trainable_params": int, "head_params": int, "pooler_params?": int, "added_params": int, "total_params": int,
    "flops_per_step": NUMBER, "token_efficiency": NUMBER, "train_seconds": NUMBER, "hidden_seconds?": NUMBER,
    "compile_seconds": NUMBER, "start_layer?": int, "lanes?": int, "examples_per_second": NO_NUMBER,
    "tokens_per_second": NO_NUMBER, "peak_memory_bytes": int, "memory_kind": str, "params_sha256": str,
    "frozen_sha256?": str, "export_sha256?": {ANY: str}, "teachers?": list, "teacher_seconds?": NUMBER,
}  # fmt: skip
STEP: Form = {"loss": NO_NUMBER, "grad_norm": NO_NUMBER}
EVALUATION: Form = {ANY: NO_NUMBER}
PREDICTIONS = ("id", "logits", "label", "label_names")

# Names in a work directory that fjt writes, replaces and removes.
ENSEMBLE = "ensemble.json"  # of a folder with an ensemble, see ensemble.py
OWN = (
    "config.json", "env.json", "result.json", "train.jsonl", "eval.jsonl", "curve.png", "DONE", "predictions",
    "export", "checkpoints", "checkpoints-unreadable", "data", "tensorboard", "evaluation", "calibration.json",
    "teacher.npz",
)  # fmt: skip


def is_done(workdir: str) -> bool:
    """Whether a run has finished."""
    return os.path.exists(os.path.join(workdir, "DONE"))


def ended(workdir: str) -> bool:
    """Whether a run has finished, or has failed for good.

    A result that cannot be read, of a run without DONE, is written again when the run goes on.
    """
    if is_done(workdir) or not os.path.exists(os.path.join(workdir, "result.json")):
        return is_done(workdir)
    try:
        return bool(read_result(workdir)["failed"])
    except Damaged:
        return False


def read_config(workdir: str, options: Collection[str] = ()) -> dict[str, Any]:
    """The contents of config.json.  options: dotted keys that its config must have, with values that they allow."""
    path = os.path.join(workdir, "config.json")
    contents = records.read_json(path, CONFIG, _remedy(workdir))
    values = flatten(contents["config"])
    for key in options:
        if key not in values:
            raise Damaged(f"{path} is damaged (its config has no {key}). {_remedy(workdir)}")
        try:
            OPTIONS[key].parse(values[key])
        except UserError as error:
            raise Damaged(f"{path} is damaged ({str(error).rstrip('.')}). {_remedy(workdir)}") from None
    return contents


def read_environment(workdir: str) -> dict[str, Any]:
    """The contents of env.json."""
    return records.read_json(os.path.join(workdir, "env.json"), ENVIRONMENT, _remedy(workdir))


def read_result(workdir: str) -> dict[str, Any]:
    """The contents of result.json."""
    path = os.path.join(workdir, "result.json")
    result = records.read_json(path, RESULT, _remedy(workdir))
    return result if result["failed"] else records.read_json(path, FINISHED, _remedy(workdir))


def read_finished(workdir: str) -> dict[str, Any]:
    """The contents of the result.json of a run that has finished.  Raises UserError for another."""
    if not os.path.exists(os.path.join(workdir, "config.json")):
        inside = os.path.join(workdir, "run")  # where fjt.combine puts one
        remedy = inside if os.path.exists(os.path.join(inside, "config.json")) else "the --workdir of a finished run"
        if os.path.exists(os.path.join(workdir, "plan.json")):
            remedy = f"one of the study's runs, which are below {os.path.join(workdir, 'runs')}"
        raise UserError(f"{workdir} is not a run: it has no config.json. Give {remedy}.")
    if not is_done(workdir):
        if ended(workdir):
            failed = read_result(workdir)["failed"]
            raise UserError(f"The run in {workdir} failed: {failed}. The same command would fail again.")
        raise UserError(f"The run in {workdir} is not finished; run its command again to finish it.")
    return read_result(workdir)


def read_steps(workdir: str) -> list[dict[str, Any]]:
    """The rows of train.jsonl; of a run that has finished, one for each of its steps."""
    path = os.path.join(workdir, "train.jsonl")
    rows = records.read_lines(path, STEP, _remedy(workdir))
    if missing := set(range(1, len(rows) + 1)) - {row["step"] for row in rows}:
        raise Damaged(f"{path} is damaged (the row of step {min(missing)} is missing). {_remedy(workdir)}")
    if is_done(workdir) and len(rows) != read_result(workdir)["steps"]:
        raise Damaged(f"{path} is damaged ({len(rows)} of {read_result(workdir)['steps']} steps). {_remedy(workdir)}")
    return rows


def check_resumable(workdir: str, step: int, evaluated: int) -> None:
    """Checks that the logs have the rows of the steps before a checkpoint: the run would end with half a log.

    Args:
        workdir: of the run.
        step: number of steps that the checkpoint has taken.
        evaluated: the step of its last evaluation; not above 0 for none.

    Raises:
        Unresumable: rows are missing, or a log cannot be read.
    """
    for name, needed in (("train.jsonl", range(1, step + 1)), ("eval.jsonl", [evaluated] if evaluated > 0 else [])):
        path = os.path.join(workdir, name)
        try:
            there = {row["step"] for row in records.read_lines(path, remedy=_remedy(workdir))} if needed else set()
        except Damaged as damaged:
            raise Unresumable(str(damaged)) from None
        if missing := set(needed) - there:
            raise Unresumable(f"{path} is damaged (the row of step {min(missing)} is missing). {_remedy(workdir)}")


def read_evaluations(workdir: str) -> list[dict[str, Any]]:
    """The rows of eval.jsonl."""
    return records.read_lines(os.path.join(workdir, "eval.jsonl"), EVALUATION, _remedy(workdir))


def read_predictions(workdir: str, split: str) -> dict[str, Any]:
    """The arrays of predictions/<split>.npz; labels and logits are Ragged where rows have several slots."""
    path = os.path.join(workdir, "predictions", f"{split}.npz")
    arrays = records.read_npz(path, PREDICTIONS, _remedy(workdir))
    with contextlib.suppress(ValueError, KeyError, TypeError):  # TypeError: an array without rows
        rows = unflat(arrays)
        columns = [rows[name] for name in ("logits", "id", "label", "cluster", "row") if name in rows]
        logits = values_of(rows["logits"])
        if (logits.ndim == 2 or logits.dtype.kind == TEXT_KIND) and len({len(column) for column in columns}) == 1:
            return rows
    raise Damaged(f"{path} is damaged (its arrays do not have one row per example). {_remedy(workdir)}")


def export_sha256(workdir: str) -> dict[str, str]:
    """{path from the work directory: sha256} of the files of weights in a run's export."""
    found = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(workdir), "export", "**", "*.safetensors"), recursive=True)):
        with open(path, "rb") as file:
            found[os.path.relpath(path, workdir)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def check_export(workdir: str, result: Mapping[str, Any]) -> None:
    """Raises Damaged for weights in a run's export that are not those that the run wrote.

    Args:
        workdir: of the run.
        result: its result.json; without the sums, in one of an earlier version, nothing is checked.
    """
    written = result.get("export_sha256", {})
    for path, digest in export_sha256(workdir).items():
        if written.get(path, digest) != digest:
            path = os.path.join(workdir, path)
            raise Damaged(f"{path} is damaged (it is not the file that the run wrote). {_remedy(workdir)}")


def find_damage(workdir: str) -> str:
    """What is wrong with the first record of a run that cannot be read, "" if all are sound.

    A run that has not ended may lack every file but config.json, and one that has not begun lacks that too.
    """
    there = {name for name in ("config.json", "env.json", "train.jsonl", "eval.jsonl", "result.json")}
    there = {name for name in there if os.path.exists(os.path.join(workdir, name))}
    finished, has_ended = is_done(workdir), ended(workdir)
    try:
        if "config.json" in there or has_ended:
            read_config(workdir)
        if "env.json" in there:
            read_environment(workdir)
        if "train.jsonl" in there or finished:
            read_steps(workdir)
        if "eval.jsonl" in there:
            read_evaluations(workdir)
        if finished:
            for split in dict.fromkeys(["dev", *read_result(workdir)["splits"]]):
                read_predictions(workdir, split)
    except Damaged as damaged:
        return str(damaged)
    return ""


def _remedy(workdir: str) -> str:
    return f"Restore the file, or move {workdir} away and run its command again."
