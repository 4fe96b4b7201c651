"""A work directory: locked by one process, and claimed by one experiment."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from typing import Any

import jax

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import flatten
from fjt.core.settings import to_dict
from fjt.experiment.prepared import Experiment


class InUse(UserError):
    """Another process holds a directory."""


@contextlib.contextmanager
def lock(workdir: str, wait: bool = False) -> Iterator[None]:
    """A context in which this process alone holds a work directory, which is created if necessary.

    The system releases the lock when its process ends in any way.  On a network file system that passes flock on to
    its server (NFS; Lustre mounted with `flock`), the lock holds among machines as well.

    Args:
        workdir: the directory.
        wait: whether to wait for another process that holds it.

    Raises:
        InUse: another process holds it and `wait` is False.
        UserError: it cannot be created.
    """
    new = not os.path.exists(workdir)
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be created: {error.strerror}.") from None
    with open(os.path.join(workdir, ".lock"), "a+", encoding="utf-8") as file:
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
            if new and not wait and os.listdir(workdir) == [".lock"]:  # the run was refused before it wrote anything
                os.remove(file.name)
                os.rmdir(workdir)


def finished(workdir: str) -> bool:
    """Whether the run of a work directory has finished."""
    return os.path.exists(os.path.join(workdir, "DONE"))


def check(experiment: Experiment, workdir: str) -> dict[str, Any]:
    """The contents of a work directory's config.json, or {} without one.

    Raises:
        UserError: it is of another experiment; the message lists the keys that differ.
    """
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return {}
    old = records.read_json(path)
    if not {"config", "fingerprint", "contents", "changes"} <= set(old):
        raise UserError(f"--workdir={workdir} has a config.json that is not of a run. Give another directory.")
    if old["fingerprint"] != experiment.fingerprint:
        before, now = flatten(old["config"]), flatten(_config(experiment))
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
            changes += _changed({"env": records.read_json(path)}, {"env": environment})
    records.write_json(
        os.path.join(workdir, "config.json"),
        {
            "config": config,
            "origins": experiment.origins,
            "contents": experiment.contents,
            "shapes": [dataclasses.astuple(shape) for shape in experiment.plan.shapes],
            "fingerprint": experiment.fingerprint,
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
    device = jax.devices()[0]
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
