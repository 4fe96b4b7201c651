"""Checkpoints: trainable parameters, optimizer state, step and host state (Orbax, kept behind this file)."""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fjt.core import records, seeds, tree
from fjt.core.errors import Ended, UserError, without_closed_loops
from fjt.training import placement, processes

STEP = re.compile(r"\d+(\.orbax-checkpoint-tmp.*)?")  # the folder of a step, complete or not


class NotFinite(Ended):
    """A loss or a parameter is not finite; its message says at which step. Exit code 3."""

    def __init__(self, text: str) -> None:
        super().__init__(text, 3)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return NotFinite, (str(self),)


@dataclasses.dataclass(frozen=True)
class HostState:
    """What the host knows about one run beside its arrays.  Each checkpoint holds it as JSON.

    Attributes:
        evaluated: the last step after which dev was evaluated, -1 before the first evaluation.
        best_step: the step of the best evaluation, None before the first one.
        best_score: its score.
        best_metrics: its metrics.
        metrics: the metrics of the last evaluation.
        stale: number of evaluations since the best one.
        finished: whether `train.patience` has ended the run, or `tune.stage_patience` the stage that it is in.
        stage_ends: the steps at which stages have ended under `tune.stage_patience`.
        rate_factor: product of the factors by which `optim.plateau_patience` has reduced the learning rate.
        train_seconds: time of the training steps, summed over restarts; a lane has its share of the group's time.
        examples: number of examples that the run was trained on, counted once per epoch.
        tokens: number of their tokens, without padding.
        compile_seconds: time of compilation.
        operations: number of floating-point operations of the training steps.
        hidden_seconds: time in which cached features were computed.
        failed: why the run ended early, None unless its numbers stopped being finite.
    """

    evaluated: int = -1
    best_step: int | None = None
    best_score: float | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    stale: int = 0
    finished: bool = False
    stage_ends: list[int] = dataclasses.field(default_factory=list)
    rate_factor: float = 1.0
    train_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    compile_seconds: float = 0.0
    operations: float = 0.0
    hidden_seconds: float = 0.0
    failed: str | None = None


Hosts = Sequence[HostState]  # one per run: a run alone has one, lanes have several


def _checksum(about: dict[str, Any]) -> int:
    """The CRC-32 of what JSON holds of a checkpoint."""
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _to_json(hosts: Hosts) -> dict[str, Any]:
    states = [dataclasses.asdict(host) for host in hosts]
    return states[0] if len(states) == 1 else {"lanes": states, "best_step": None}


def _from_json(value: dict[str, Any]) -> list[HostState]:
    return [HostState(**state) for state in value.get("lanes", [value])]


class OtherLeaves(UserError):
    """A checkpoint holds other leaves than the run that reads it."""


class _KeepBest:
    """Preserves the best step's checkpoint; Orbax's own BestN decides by metrics, where ties and NaN are traps."""

    def __init__(self) -> None:
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which takes no part in stopping.

    It would report steps to the counter by which processes agree where they stop (`processes.agree_to_stop`), and JAX
    would wait for a look that never comes.
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of a run or of a group of lanes, one folder per step.

    A context manager: leaving it waits for the last save.

    Args:
        directory: their folder.
        keep: number of latest checkpoints that are kept, in addition to the best one.
        report: called with one line about each checkpoint that cannot be read.
    """

    def __init__(self, directory: records.Path, keep: int, report: Callable[[str], Any] = print) -> None:
        self._best = _KeepBest()
        self._report, self._hook = report, sys.unraisablehook
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), self._best])
        self._manager = _Manager(
            os.path.abspath(directory),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                cleanup_tmp_directories=True,
                # In a thread, a folder that cannot be created leaves another thread waiting for it for five minutes,
                # in which the process does not end.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
            item_names=("state", "host"),
        )

    def __enter__(self) -> "Checkpoints":
        self._hook, sys.unraisablehook = sys.unraisablehook, without_closed_loops(sys.unraisablehook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            self._manager.close()
        except Exception as error:
            if kind is None:
                raise self._failed(error) from None
        finally:
            sys.unraisablehook = self._hook

    def _failed(self, error: Exception) -> UserError:
        # TensorStore ends with the system's own words, behind paths that say nothing to the user.
        found = re.search(r"([^:]+) \[os_error_code", str(error))
        reason = found.group(1).strip() if found else str(error).splitlines()[0][:300]
        return UserError(
            f"a checkpoint could not be written into {self._manager.directory}: {reason}. "
            "The ones before it are kept; make room, and the same command goes on from there."
        )

    def steps(self) -> list[int]:
        """The steps whose checkpoints are kept, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def keep_best(self, hosts: Hosts) -> None:
        """Protects the best checkpoint of a run alone from being deleted.  Lanes hold their best in the state."""
        self._best.step = hosts[0].best_step if len(hosts) == 1 else None

    def save(self, step: int, state: Any, hosts: Hosts) -> None:
        """Starts to save a step.

        Args:
            step: number of steps taken.
            state: tree of arrays: a TrainState, or the state of all lanes.
            hosts: the host states of the runs.

        Raises:
            NotFinite: a leaf is not finite; nothing is saved.
            UserError: this save or the save before it failed.
        """
        sums = check_finite(step, state)
        self.keep_best(hosts)
        about = {"host": _to_json(hosts), "sums": sums}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(about | {"sum": _checksum(about)})
        )
        try:
            saved = self._manager.save(step, args=args, force=True)
        except jax.errors.JaxRuntimeError:
            raise  # another process was lost
        except Exception as error:  # of several processes, the others may wait inside Orbax: this one ends
            raise self._failed(error) from None
        if not saved:
            raise RuntimeError(f"the checkpoint of step {step} was not saved")

    def wait(self) -> None:
        """Waits for the current save.  Raises UserError if it failed."""
        failed = None
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            failed = self._failed(error)
        processes.fail_together(failed)

    def restore(
        self,
        abstract: Callable[[int, Hosts], Any],
        step: int | None = None,
        remedy: str = "It holds what was to be the result; train again in another --workdir.",
    ) -> tuple[int, Any, list[HostState]] | None:
        """(step, state, host states) of a checkpoint, None if there is none.

        A checkpoint that is cut off, or whose bytes do not match its checksums, is reported, moved into
        <directory>-unreadable and skipped.

        Args:
            abstract: (step, host states) -> the tree of shapes, with shardings, that was saved after that step.
            step: which checkpoint; by default the newest one that can be read.
            remedy: where the given step cannot be read, for the message.

        Raises:
            Unresumable: the given step, or every checkpoint, cannot be read: a run does not start over silently.
            OtherLeaves: a checkpoint is whole, and of another version of fjt; it stays where it is.
        """
        candidates = [step] if step is not None else processes.decide(self.steps)
        for candidate in candidates:
            state, hosts, reason, whole = None, [], "", False
            try:
                state, hosts, reason = self._read(candidate, abstract)
                whole = True
            except (MemoryError, jax.errors.JaxRuntimeError, OtherLeaves):
                raise  # not the checkpoint's fault
            except Exception as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            if whole and processes.any_of(bool(reason)):
                reason = reason or "another process read other bytes"
            if reason:
                if step is not None:
                    raise records.Unresumable(
                        f"the checkpoint of step {step} in {self._manager.directory} cannot be read ({reason}). "
                        f"{remedy}"
                    ) from None
                if processes.count() > 1 and not whole:  # the others may wait inside Orbax: this one ends
                    self._put_aside(candidate)
                    raise records.Unresumable(
                        f"the checkpoint of step {candidate} in {self._manager.directory} cannot be read ({reason}). "
                        f"It lies in {self._unreadable()} now; the same commands go on without it."
                    )
                before = "; trying the one before" if candidate != candidates[-1] else ""
                self._report(f"the checkpoint of step {candidate} cannot be read ({reason}){before}")
                processes.decide(lambda candidate=candidate: self._put_aside(candidate))
                self._manager.reload()
                continue
            self.keep_best(hosts)
            return candidate, state, hosts
        if candidates:
            raise records.Unresumable(
                f"none of the {len(candidates)} checkpoints in {self._manager.directory} can be read; they lie in "
                f"{self._unreadable()} now. The same command starts from step 0."
            )
        return None

    def _unreadable(self) -> str:
        return f"{self._manager.directory}-unreadable"

    def _put_aside(self, step: int) -> None:
        os.makedirs(self._unreadable(), exist_ok=True)
        target = os.path.join(self._unreadable(), str(step))
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):  # another process of the run was first
            os.rename(os.path.join(self._manager.directory, str(step)), target)

    def _read(self, step: int, abstract_of: Callable[[int, Hosts], Any]) -> tuple[Any, list[HostState], str]:
        """(state, host states, why they are not what was saved or "")."""
        host = self._manager.directory / str(step) / "host" / "metadata"
        if reason := self._trial(lambda: json.loads(host.read_text())):
            return None, [], reason
        about: Any = self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))
        kept = {name: value for name, value in about.host.items() if name != "sum"}
        if about.host.get("sum", _checksum(kept)) != _checksum(kept):  # version 0.1.0 wrote none
            return None, [], "its host state does not give its checksum"
        sums, hosts = kept.get("sums") or kept["checksums"], _from_json(kept["host"])
        abstract = abstract_of(step, hosts)
        if other := set(sums) ^ set(_flatten(abstract)):
            raise OtherLeaves(
                f"the checkpoint of step {step} in {self._manager.directory} and this run do not have the same leaves, "
                f"{min(other)} among them: another version of fjt wrote it. Finish the run with that version, or train "
                "again in another --workdir."
            )
        if reason := self._trial(lambda: self._read_alone(step, abstract)):
            return None, [], reason
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), host=ocp.args.JsonRestore())
        restored: Any = self._manager.restore(step, args=args)
        for name, leaf in _flatten(restored.state).items():
            found = digest(leaf)[1] if "sums" in about.host else tree.crc32(placement.fetch(leaf))  # of version 0.1.0
            if found != sums[name]:
                return None, [], f"the bytes of {name} do not give its checksum"
        return restored.state, hosts, ""

    def _trial(self, read: Callable[[], Any]) -> str:
        """Why process 0 cannot read a file, "" if it can.  A run in one process needs no trial.

        Where Orbax fails in one of several processes, the others wait for it inside Orbax.
        """

        def reason() -> str:
            try:
                read()
            except MemoryError:
                raise
            except Exception as error:
                return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            return ""

        return processes.decide(reason) if processes.count() > 1 else ""

    def _read_alone(self, step: int, abstract: Any) -> None:
        """Reads the arrays of a checkpoint into the memory of this process, without the others."""
        alone = ocp.options.MultiprocessingOptions(primary_host=None, active_processes={processes.number()})
        folder = self._manager.directory / str(step) / "state"
        arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), abstract)
        ocp.StandardCheckpointHandler(multiprocessing_options=alone).restore(
            folder, args=ocp.args.StandardRestore(arrays)
        )


def remove(directory: records.Path) -> None:
    """Removes the checkpoints of a run that has ended, and their folder if it holds nothing else.

    Only folders that `Checkpoints` names are removed.  A folder that is a symbolic link leads elsewhere, and is left.
    """
    if os.path.islink(directory) or not os.path.isdir(directory):
        return
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if STEP.fullmatch(name) and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
    with contextlib.suppress(OSError):  # it is not empty
        os.rmdir(directory)


def check_finite(step: int, state: Any) -> dict[str, int]:
    """{name: checksum} of the leaves of a state.

    Raises:
        NotFinite: a leaf is not finite.
    """
    sums = {}
    # One program at a time: on simulated devices, programs that wait for each other's collectives never end.
    for name, leaf in _flatten(jax.block_until_ready(state)).items():
        finite, sums[name] = digest(leaf)
        if not finite:
            raise NotFinite(f"{name} is not finite after step {step}")
    return sums


def digest(leaf: Any) -> tuple[bool, int]:
    """(whether all values of an array are finite, its checksum), computed where the array is.

    The checksum is the sum, modulo 2**32, of a hash of each value's bits and index: the same however the array is
    divided among devices.
    """
    finite, total = placement.fetch(_digest(leaf))
    return bool(finite), int(total)


@jax.jit
def _digest(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    finite = jnp.isfinite(leaf).all() if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.bool_(True)
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32))
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis, length in enumerate(bits.shape):
        index = index * jnp.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return finite, jnp.sum(seeds.mix(bits.astype(jnp.uint32) ^ seeds.mix(index)), dtype=jnp.uint32)


def _flatten(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def better(score: float | None, best: float | None, lower: bool) -> bool:
    """Whether a score is better than the best score so far.

    Args:
        score: the new score; a score that is not finite is never better.
        best: the best score so far, None if there is none; any score is better than one that is not finite.
        lower: whether lower scores are better.
    """
    if score is None or not math.isfinite(score):
        return False
    return best is None or not math.isfinite(best) or (score < best if lower else score > best)
