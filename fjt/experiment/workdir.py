"""A work directory: known by its marker, locked by one process, and claimed by one experiment."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import platform
import re
from collections.abc import Iterator
from typing import Any

import jax

from fjt.core import files, records
from fjt.core.errors import UserError
from fjt.core.options import EXPERIMENT, flatten
from fjt.core.settings import to_dict
from fjt.data import labels
from fjt.experiment import run_records
from fjt.experiment.prepared import Experiment

MARKER, LOCK = ".fjt", ".lock"
# Kinds of folders, as the marker names them.
RUN, STUDY, REPETITION = "the work directory of a run", "the folder of a study", "the repetition of a run"
SEARCH = "the folder of a search"
# Folders of versions without a marker are known by a record: {kind: (file, keys of its contents)}.
KNOWN_BY = {
    RUN: ("config.json", run_records.CONFIG),
    STUDY: ("plan.json", {"config": dict, "study": dict, "runs": dict, "groups": list}),
}
HOLDER = re.compile(r"( \(\d+ on .*\))?")  # the text in LOCK
# The names that fjt writes, replaces and removes in folders of a kind.
OWN = {
    RUN: run_records.OWN,
    REPETITION: run_records.OWN,
    STUDY: ("plan.json", "runs", "groups", "report"),
    SEARCH: ("search.json", "trials", "trials.log", "trials.log.lock", "claims", "groups", "report"),
}
SHOWN = 4  # names in the message about a folder that is not fjt's


class InUse(UserError):
    """Another process holds a directory."""


def own(folder: str, kind: str = RUN) -> None:
    """Makes a folder one of fjt's own, in which fjt may write, replace and remove files of the names that it uses.

    It is created if necessary.  An empty folder gets a marker; any other must have one, or be of an earlier version.

    Args:
        folder: the folder.
        kind: RUN, STUDY, REPETITION or SEARCH.

    Raises:
        UserError: it has files of others, is of another kind, or cannot be created.
    """
    check_own(folder, kind)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={folder} cannot be created: {error.strerror}.") from None
    if _kind_of(folder) != kind or not os.path.exists(os.path.join(folder, MARKER)):
        records.replace(os.path.join(folder, MARKER), f"{kind} of fjt\n")


def check_own(folder: str, kind: str = RUN) -> None:
    """Raises UserError for a folder that `own` would refuse.  See `own` for the arguments."""
    if os.path.islink(folder) and not os.path.exists(folder):
        raise UserError(f"--workdir={folder} is a symbolic link to nothing. Create its target, or give another folder.")
    for parent in pathlib.Path(os.path.realpath(folder)).parents:
        if _kind_of(str(parent)) in (RUN, REPETITION) and _kind_of(folder) != kind:
            raise UserError(f"--workdir={folder} is within {parent}, {_kind_of(str(parent))}. Give a new folder.")
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise UserError(f"--workdir={folder} is a file. Give a folder.")
    others = sorted(name for name in os.listdir(folder) if not _is_trace(folder, name))
    found = _kind_of(folder)
    if not others or found == kind:
        if kind not in (STUDY, SEARCH) and (link := _find_link(folder)):
            raise UserError(
                f"--workdir={folder}: {link} in it is a symbolic link, but fjt writes and removes files only within "
                "the folder. Put a folder in its place, or let the whole folder be a link."
            )
        return
    if found:
        raise UserError(f"--workdir={folder} is {found}. Give a new folder.")
    names = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
    raise UserError(f"--workdir={folder} is not empty and is not {kind} of fjt: it has {names}. Give a new folder.")


def check_output(path: str, option: str) -> None:
    """Raises UserError for an output among the names that fjt itself writes.

    Args:
        path: the place, which need not exist.
        option: names it in messages.

    Raises:
        UserError: it is among the names that fjt itself writes in a folder of its own.
    """
    for parent in map(str, pathlib.Path(os.path.realpath(path)).parents):
        if kind := _kind_of(parent):  # of the innermost one: a run of a study is a folder by itself
            if any(files.is_inside(path, os.path.join(parent, name)) for name in OWN[kind]):
                raise UserError(f"{option}={path} is among fjt's own files in {parent}, {kind}. Give another place.")
            return


def _find_link(folder: str) -> str:
    """The first of a run's own folders, or of those below, that is a symbolic link, or LOCK if it is one; else ""."""
    for name in run_records.OWN:
        path = os.path.join(folder, name)
        for place, folders, _ in [(folder, [name] if os.path.isdir(path) else [], []), *os.walk(path)]:
            for one in folders:
                if os.path.islink(os.path.join(place, one)):
                    return os.path.relpath(os.path.join(place, one), folder)
    return LOCK if os.path.islink(os.path.join(folder, LOCK)) else ""


def _is_trace(folder: str, name: str) -> bool:
    """Whether a file is of the kind that fjt leaves in a folder that it has not used yet."""
    if name == LOCK:
        return HOLDER.fullmatch(_text(os.path.join(folder, name))) is not None
    return files.TEMPORARY.fullmatch(name) is not None or (name == MARKER and bool(_kind_of(folder)))


def _text(path: str) -> str:
    """The text of a small file; a NUL, which none of fjt's has, for one that cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(1000)
    except (OSError, ValueError):
        return "\0"


def _kind_of(folder: str) -> str:
    """The kind of a folder by its marker or, without one, by its record; "" for a folder of others."""
    text = _text(os.path.join(folder, MARKER))
    if text != "\0":
        return next((kind for kind in (RUN, STUDY, REPETITION, SEARCH) if text == f"{kind} of fjt\n"), "")
    for kind, (name, form) in KNOWN_BY.items():
        with contextlib.suppress(records.Damaged):
            records.read_json(os.path.join(folder, name), form)
            return kind
    return ""


@contextlib.contextmanager
def lock(workdir: str, wait: bool = False, kind: str = RUN) -> Iterator[None]:
    """A context in which this process alone holds a work directory, which is created if necessary.

    The system releases the lock when its process ends in any way.  On a network file system that passes flock on to
    its server (NFS; Lustre mounted with `flock`), the lock holds among machines as well.

    Args:
        workdir: the directory.
        wait: whether to wait for another process that holds it.
        kind: see `own`; "" for a folder within one of fjt's own.

    Raises:
        InUse: another process holds it and `wait` is False.
        UserError: it is not fjt's, or cannot be created.
    """
    new = not os.path.exists(workdir)
    if kind:
        own(workdir, kind)
    else:
        os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, LOCK), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"--workdir={workdir} cannot be locked: {error.strerror}. Give one on a file system with locks."
                ) from None
            file.seek(0)
            raise InUse(
                f"--workdir={workdir} is in use by another process{file.read(200)}. Wait for it or give another "
                "directory."
            ) from None
        try:
            file.truncate(0)
            file.write(f" ({os.getpid()} on {platform.node()})")
            file.flush()
            yield
        finally:
            if new and not wait and set(os.listdir(workdir)) <= {LOCK, MARKER}:  # refused before it wrote anything
                for name in os.listdir(workdir):
                    os.remove(os.path.join(workdir, name))
                os.rmdir(workdir)


def check(experiment: Experiment, workdir: str) -> dict[str, Any]:
    """The contents of a work directory's config.json, or {} without one.

    Raises:
        UserError: it is of another experiment; the message lists the keys that differ.
    """
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return {}
    old = run_records.read_config(workdir)
    before, now = flatten(old["config"]), flatten(_config(experiment))
    names = list(experiment.task.label_names)
    if old.get("label_names", names) != names:  # the fingerprint has their numbers alone
        raise UserError(
            f"--workdir={workdir} has a run with the labels {labels.some(old['label_names'])}, but the data now have "
            f"{labels.some(names)}. Give another directory, or the same data."
        )
    if old["fingerprint"] == experiment.fingerprint:
        _check_unedited(path, before, now)
    else:
        keys = dict.fromkeys([*now, *before])
        differ = [
            f"config.{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in keys if before.get(k) != now.get(k)
        ]
        differ += [
            f"{k}: other contents" for k in experiment.contents if old["contents"].get(k) != experiment.contents[k]
        ]
        raise UserError(
            f"--workdir={workdir} belongs to another experiment. Give another directory, or the same settings:\n  "
            + "\n  ".join(differ)
        )
    return old


def _check_unedited(path: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises Damaged for a config.json whose options are not those of its fingerprint.

    Args:
        path: of the config.json.
        before: its options, flat; those that a later version added are missing.
        now: the options that have the fingerprint.
    """
    for key, option in EXPERIMENT.items():
        if not option.fingerprinted or option.place or key not in before or not (before[key] or now[key]):
            continue
        if before[key] != now[key]:
            raise records.Damaged(
                f"{path} is damaged (it says config.{key}={before[key]!r}, but its fingerprint was computed with "
                f"{now[key]!r}). Restore the file."
            )


def claim(experiment: Experiment, workdir: str) -> None:
    """Writes config.json and env.json after checking that the work directory belongs to the experiment.

    Differences in execution and environment from the previous start are appended to `changes`.

    Raises:
        UserError: the directory belongs to another experiment.
    """
    old = check(experiment, workdir)
    config, environment = _config(experiment), _environment(experiment)
    changes = old.get("changes", [])
    path = os.path.join(workdir, "env.json")
    if old:
        changes += _changed(old["config"], config)
        if os.path.exists(path):
            changes += _changed({"env": run_records.read_environment(workdir)}, {"env": environment})
    records.write_json(
        os.path.join(workdir, "config.json"),
        {
            "config": config,
            "origins": experiment.origins,
            "contents": experiment.contents,
            "shapes": [dataclasses.astuple(shape) for shape in experiment.plan.shapes],
            "fingerprint": experiment.fingerprint,
            "label_names": list(experiment.task.label_names),
            "changes": changes,
        },
    )
    records.write_json(path, environment)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    before, now = flatten(before), flatten(now)
    return [{"key": k, "from": before.get(k), "to": now[k]} for k in now if before.get(k) != now[k]]


def _config(experiment: Experiment) -> dict[str, Any]:
    return records.plain(to_dict(experiment.settings))


def _environment(experiment: Experiment) -> dict[str, Any]:
    device = jax.local_devices()[0]
    return records.plain(
        {
            "versions": records.versions(),
            "platform": device.platform,
            "device": records.processor() if device.platform == "cpu" else device.device_kind,
            "devices": experiment.mesh.size,
            "cores": records.cores(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        }
    )
