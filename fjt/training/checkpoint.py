"""Checkpoints: what trains, the optimizer's state, the step and the host's state (Orbax, kept behind this file)."""

import math
import os
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fjt.core import tree
from fjt.core.errors import UserError


class NotFinite(Exception):
    """A loss or a parameter is not finite; its message says at which step. Exit code 3."""


class _KeepBest:
    """Preserves the best step's checkpoint; Orbax's own BestN decides by metrics, where ties and NaN are traps."""

    def __init__(self):
        self.step = None

    def should_preserve(self, checkpoints, *, context):
        del context
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of a run, one folder a step.  A context manager: leaving it waits for the last save."""

    def __init__(self, directory, keep, report=print):
        """keep: how many of the latest stay, beside the best.  report: called with a line when one is unreadable."""
        self._best = _KeepBest()
        self._report = report
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), self._best])
        self._manager = ocp.CheckpointManager(
            os.path.abspath(directory),
            options=ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True),
            item_names=("state", "host"),
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        try:
            self._manager.close()
        except Exception as error:
            if kind is None:
                raise self._failed(error) from None

    def _failed(self, error):
        # TensorStore ends with the system's own words, behind paths that say nothing to the user.
        reason = re.search(r"([^:]+) \[os_error_code", str(error))
        reason = reason.group(1).strip() if reason else str(error).splitlines()[0][:300]
        return UserError(
            f"a checkpoint could not be written into {self._manager.directory}: {reason}. "
            "The ones before it are kept; make room, and the same command goes on from there."
        )

    def steps(self):
        """The steps that are kept, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def keep_best(self, step):
        """Names the step whose checkpoint is never pruned."""
        self._best.step = step

    def save(self, step, state, host):
        """Starts saving a step; raises what the save before it failed with.

        state: TrainState; host: dict of plain values with "best_step" (None before the first evaluation).
        Raises NotFinite, and saves nothing, when a leaf is not finite.
        """
        leaves = check_finite(step, state)
        self.keep_best(host["best_step"])
        checksums = {name: tree.crc32(leaf) for name, leaf in leaves.items()}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), host=ocp.args.JsonSave({"host": host, "checksums": checksums})
        )
        try:
            saved = self._manager.save(step, args=args, force=True)
        except Exception as error:
            raise self._failed(error) from None
        if not saved:
            raise RuntimeError(f"the checkpoint of step {step} was not saved")

    def wait(self):
        """Waits for the save under way; raises what it failed with."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from None

    def restore(self, abstract, step=None):
        """(step, state, host) of a step, or of the newest whole checkpoint; None when there is none.

        abstract(step) -> TrainState of shapes with shardings.  A checkpoint that is cut off, or whose bytes do not give
        its checksums, is reported, put aside into <directory>-unreadable and passed over.  Raises UserError when a
        given step, or every step there is, cannot be read: the run does not begin anew without being told to.
        """
        candidates = [step] if step is not None else self.steps()
        for candidate in candidates:
            try:
                state, host = self._read(candidate, abstract(candidate))
            except (MemoryError, jax.errors.JaxRuntimeError):
                raise  # not the checkpoint's fault
            except Exception as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                if step is not None:
                    raise UserError(
                        f"the checkpoint of step {step} in {self._manager.directory} cannot be read ({reason}). It "
                        "holds what was to be the result; train again in another --workdir."
                    ) from None
                before = "; trying the one before" if candidate != candidates[-1] else ""
                self._report(f"the checkpoint of step {candidate} cannot be read ({reason}){before}")
                self._put_aside(candidate)
                continue
            self.keep_best(host["best_step"])
            return candidate, state, host
        if candidates:
            raise UserError(
                f"none of the {len(candidates)} checkpoints in {self._manager.directory} can be read; they lie in "
                f"{self._unreadable()} now. The same command starts from step 0."
            )
        return None

    def _unreadable(self):
        return f"{self._manager.directory}-unreadable"

    def _put_aside(self, step):
        os.makedirs(self._unreadable(), exist_ok=True)
        target = os.path.join(self._unreadable(), str(step))
        shutil.rmtree(target, ignore_errors=True)
        os.rename(os.path.join(self._manager.directory, str(step)), target)
        self._manager.reload()

    def _read(self, step, abstract):
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), host=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        for name, leaf in _flatten(restored.state).items():
            if tree.crc32(leaf) != restored.host["checksums"][name]:
                raise ValueError(f"the bytes of {name} do not give its checksum")
        return restored.state, restored.host["host"]


def check_finite(step, state):
    """{name: array on the host} of a state's leaves.  Raises NotFinite."""
    leaves = {name: np.asarray(leaf) for name, leaf in _flatten(state).items()}
    for name, leaf in leaves.items():
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise NotFinite(f"{name} is not finite after step {step}")
    return leaves


def _flatten(state):
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def better(score, best, lower):
    """Whether a score beats the best so far (None: nothing so far); a score that is not finite never does."""
    if score is None or not math.isfinite(score):
        return False
    return best is None or (score < best if lower else score > best)
