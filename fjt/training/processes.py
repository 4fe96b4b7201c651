"""Processes: one run in several of them, on one machine or many.  Here is who writes, and what they agree on.

All processes run the same program with the same arguments.  Process 0 writes files and prints; what depends on a disk,
a clock or a computation of the host is decided by it and sent to the others.  Without `start` there is one process.
"""

import contextlib
import hashlib
import json
import os
import pickle
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from fjt.core import console, errors
from fjt.core.errors import Ended, UserError

HEARTBEAT = 10  # seconds after which the others end when a process has stopped answering
UNREACHABLE = 25.0  # seconds in which the coordinator has to answer
LATE = 5.0  # seconds after which it is said that others are waited for
ABSENT = 300.0  # seconds in which all processes have to be there: on a cluster some start late
PREEMPTED = "RECEIVED_PREEMPTION_NOTICE"  # under which JAX's service tells all processes of a SIGTERM
CHUNK = 4096  # bytes: what is sent has a multiple of this length, so that few programs are compiled for it

Value = TypeVar("Value")


class _State:
    """This process.

    Attributes:
        count: number of processes.
        number: of this one.
        polls: number of looks for a stop.
        stopped: whether a stop was agreed on.
        forwarded: whether a signal of another kind was passed on as SIGTERM.
    """

    count, number, polls = 1, 0, 0
    stopped = forwarded = False


def start(processes: str, process: int | None = None, coordinator: str = "") -> None:
    """Makes this process one of several that compute one run together.  Called before JAX is used.

    Args:
        processes: their number, or "auto" for what JAX detects: Slurm, Open MPI, TPU hosts, Kubernetes.
        process: the number of this one.
        coordinator: HOST:PORT, where process 0 is reached by all.

    Raises:
        UserError: the arguments do not fit together, nothing is detected, or the coordinator does not answer.
    """
    count = _check(processes, process, coordinator)
    if count == 1:
        return
    if process:
        _reach(coordinator)
    given: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT, "shutdown_timeout_seconds": 2 * HEARTBEAT}
    if count:
        given |= {"coordinator_address": coordinator, "num_processes": count, "process_id": process}
        given |= {"cluster_detection_method": "deactivate"}
    with _watched(f"not all of the {count or ''} processes came within {ABSENT:.0f} s".replace("  ", " ")):
        try:
            jax.distributed.initialize(**given, initialization_timeout=int(ABSENT) + HEARTBEAT)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"--processes={processes}: JAX cannot start ({str(error).splitlines()[0]}). Give --processes=N "
                "--process=I --coordinator=HOST:PORT to each of the processes."
            ) from None
    _State.count, _State.number = jax.process_count(), jax.process_index()
    if not is_main():
        console.CONSOLE.quiet = True
    counts = np.bincount([device.process_index for device in jax.devices()], minlength=jax.process_count())
    if len(set(counts)) > 1:
        raise agreed(UserError(f"Processes have {', '.join(map(str, counts))} devices. Give each of them as many."))


def _check(processes: str, process: int | None, coordinator: str) -> int:
    """The number of processes, 0 for "auto".  See `start`."""
    if processes == "auto":
        if process is not None or coordinator:
            raise UserError("--processes=auto detects --process and --coordinator. Leave them out.")
        return 0
    if not processes.isdecimal() or int(processes) < 1:
        raise UserError(f"--processes={processes} should be a number or auto.")
    count = int(processes)
    if count > 1 and (process is None or not coordinator):
        raise UserError(f"--processes={count} needs --process=I, from 0 to {count - 1}, and --coordinator=HOST:PORT.")
    if process is not None and not 0 <= process < count:
        raise UserError(f"--process={process} should be from 0 to {count - 1}.")
    if coordinator and not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator} should be HOST:PORT, the same for all processes.")
    return count


def _reach(coordinator: str) -> None:
    """Waits until the coordinator accepts connections.  Raises UserError after UNREACHABLE seconds."""
    host, _, port = coordinator.rpartition(":")
    end, reason = time.monotonic() + UNREACHABLE, "no answer"
    while time.monotonic() < end:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=UNREACHABLE / 5).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(0.2)
    raise UserError(
        f"--coordinator={coordinator}: process 0 does not answer there ({reason}). Start it with the same address, and "
        "check that the machines reach each other."
    )


@contextlib.contextmanager
def _watched(reason: str) -> Iterator[None]:
    """A context that says after LATE seconds that it waits, and ends this process after ABSENT: JAX would abort it."""

    def end() -> None:
        print(f"fjt: --processes: {reason}.", file=sys.stderr, flush=True)
        os._exit(2)

    timers = [threading.Timer(LATE, console.say, ["waiting for the other processes"]), threading.Timer(ABSENT, end)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def count() -> int:
    """The number of processes."""
    return _State.count


def number() -> int:
    """The number of this process, from 0."""
    return _State.number


def is_main() -> bool:
    """Whether this process is the one that writes the files of a run."""
    return number() == 0


def agreed(error: Exception) -> Any:
    """The error, marked as one that all processes raise: they may end together, and one of them says it."""
    error.agreed = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def decide(function: Callable[[], Value]) -> Value:
    """The value of a function that process 0 alone calls, in all processes; they raise its UserError or Ended as well.

    Args:
        function: reads or writes what the processes share; its value can be pickled.
    """
    if count() == 1:
        return function()
    if not is_main():
        kind, *parts = pickle.loads(_broadcast(b""))
        if kind == "value":
            return parts[0]
        raise agreed(parts[0])
    try:
        value = function()
    except (UserError, OSError) as error:
        line = str(error) if isinstance(error, UserError) else f"{error.strerror or error}: {error.filename}."
        _broadcast(pickle.dumps(("error", UserError(line))))
        raise agreed(error) from None
    except Ended as error:
        _broadcast(pickle.dumps(("error", error)))
        raise agreed(error) from None
    _broadcast(pickle.dumps(("value", value)))
    return value


def _broadcast(sent: bytes) -> bytes:
    """The bytes of process 0."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(sent))))
    whole = np.zeros(-(-size // CHUNK) * CHUNK, np.uint8)
    whole[: len(sent)] = np.frombuffer(sent, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(whole))[:size].tobytes()


def _gather(sent: bytes) -> list[bytes]:
    """The bytes of each process."""
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(sent))))
    whole = np.zeros(-(-int(sizes.max()) // CHUNK) * CHUNK, np.uint8)
    whole[: len(sent)] = np.frombuffer(sent, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(whole)).reshape(count(), -1)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def any_of(flag: bool) -> bool:
    """Whether a flag is set in any of the processes."""
    return flag if count() == 1 else bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def fail_together(error: UserError | None) -> None:
    """Raises the error, in all processes where one of them has one.  All come here, whatever they have done before."""
    if count() == 1:
        if error:
            raise error
        return
    texts = [text.decode() for text in _gather(str(error or "").encode())]
    if any(texts):
        which = next(i for i, text in enumerate(texts) if text)
        raise agreed(UserError(texts[which] if which == 0 else f"process {which}: {texts[which]}"))


def agree(what: str, values: Mapping[str, Any]) -> None:
    """Checks that a mapping is the same in all processes.

    Args:
        what: names it in the message.
        values: {name: value}, of which JSON can be made.

    Raises:
        UserError: in all processes, with the names under which they differ.
    """
    if count() == 1:
        return
    text = json.dumps(values, sort_keys=True, default=str).encode()
    digests = _gather(hashlib.sha256(text).digest())
    if len(set(digests)) == 1:
        return
    found = [json.loads(sent) for sent in _gather(text)]
    other = next(i for i, one in enumerate(found) if one != found[0])
    differ = [
        f"{name}: {found[0].get(name)!r} in process 0, {found[other].get(name)!r} in process {other}"
        for name in dict.fromkeys([*found[0], *found[other]])
        if found[0].get(name) != found[other].get(name)
    ]
    raise agreed(UserError(f"The processes of a run need the same {what}:\n  " + "\n  ".join(differ)))


def agree_to_stop(received: int | None) -> int | None:
    """The signal at which all processes of a run stop now, or None.

    Processes that compute together have to stop after the same step.  With several, JAX notes a SIGTERM in any of them,
    and tells all at which of their next looks to stop; they look equally often.  One that comes before the first look,
    such as in compilation, waits for it.  The process that got Ctrl-C ends with its code, the others with SIGTERM's.

    Args:
        received: the signal that this process has received, or None.
    """
    if count() == 1:
        return received
    if received and received != signal.SIGTERM:
        forward()
    if not _State.stopped:
        _State.polls += 1
        _State.stopped = multihost_utils.reached_preemption_sync_point(_State.polls)
    return (received or signal.SIGTERM) if _State.stopped else None


def forward() -> None:
    """Passes a signal of another kind on as SIGTERM, which JAX notes: once."""
    if not _State.forwarded:
        _State.forwarded = True
        os.kill(os.getpid(), signal.SIGTERM)


def is_preempted() -> bool:
    """Whether JAX has noted a SIGTERM in any process.  Unlike `agree_to_stop`, each process asks when it likes."""
    client = distributed.global_state.client
    try:
        return client is not None and bool(client.key_value_try_get(PREEMPTED))
    except jax.errors.JaxRuntimeError:  # there is no such key
        return False


@contextlib.contextmanager
def ending(place: str) -> Iterator[None]:
    """A context after whose errors the processes of a run end as they should.

    Together where all have the error, and process 0 says it.  Else the one that has it says so with its number and ends
    at once: at a usual exit it would wait for the others, and they for it.

    Args:
        place: names the output, for errors of the system that name no file.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if count() == 1:
            raise
        if isinstance(error, Ended) or getattr(error, "agreed", False):
            if is_main():
                raise
            raise SystemExit(error.code if isinstance(error, Ended) else 2) from None
        if isinstance(error, KeyboardInterrupt):
            _leave("stopped by SIGINT", 128 + signal.SIGINT)
        if line := errors.explain(error, lambda: place):
            _leave(line, 2)
        if isinstance(error, jax.errors.JaxRuntimeError):
            _leave(f"another process was lost, or a computation failed: {str(error).splitlines()[0]:.300}", 1)
        traceback.print_exc()
        _leave(f"{type(error).__name__}: {error}", 1)


def _leave(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"fjt: process {number()}: {line}", file=sys.stderr, flush=True)
    os._exit(code)


def share(folder: str) -> None:
    """Checks that all processes see a folder, by a file that process 0 writes.

    Raises:
        UserError: in all processes, with the numbers of those that do not see it.
    """
    if count() == 1:
        return

    def write() -> str:
        name = f".fjt-{secrets.token_hex(8)}.tmp"
        with open(os.path.join(folder, name), "x"):
            return name

    path = os.path.join(folder, decide(write))
    seen = np.ravel(multihost_utils.process_allgather(np.bool_(os.path.exists(path))))
    if is_main():
        os.remove(path)
    if not seen.all():
        blind = ", ".join(map(str, np.flatnonzero(~seen)))
        raise agreed(UserError(f"--workdir={folder} is not seen by process {blind}. Give a folder that all share."))
