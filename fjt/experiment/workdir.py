"""A work directory: held by one process, and claimed by one experiment."""

import contextlib
import dataclasses
import errno
import fcntl
import os

import jax

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import flatten, to_dict


@contextlib.contextmanager
def lock(workdir, wait=False):
    """Holds a work directory for one process.  Raises UserError when another has it, unless it is to wait for that."""
    new = not os.path.exists(workdir)
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made a directory: {error.strerror}.") from None
    with open(os.path.join(workdir, ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(
                f"--workdir={workdir} is in use by another process; wait for it or take another one."
            ) from None
        try:
            yield
        finally:
            if new and not wait and os.listdir(workdir) == [".lock"]:  # refused before anything was written
                os.remove(file.name)
                os.rmdir(workdir)


def finished(workdir):
    """Whether a work directory's run is done."""
    return os.path.exists(os.path.join(workdir, "DONE"))


def check(experiment, workdir):
    """The config.json of a work directory's run, {} where there is none.

    Raises UserError with the keys that differ when it is of another experiment.
    """
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return {}
    old = records.read_json(path)
    if not {"config", "fingerprint", "contents", "changes"} <= set(old):
        raise UserError(f"--workdir={workdir} holds a config.json that is not of a run; take another directory.")
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
            f"--workdir={workdir} belongs to another experiment. Take another directory, or its settings:\n  "
            + "\n  ".join(differ)
        )
    return old


def claim(experiment, workdir):
    """Checks that a work directory is the experiment's and writes its config.json and env.json.

    What differs from the start before, in execution or environment, is added to `changes`.  Raises UserError.
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


def _changed(before, now):
    before, now = flatten(before), flatten(now)
    return [{"key": k, "from": before.get(k), "to": now[k]} for k in now if before.get(k) != now[k]]


def _config(experiment):
    return records.plain(to_dict(experiment.settings))


def _environment(experiment):
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
