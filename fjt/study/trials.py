"""The trials of a search in Optuna's storage: opened, claimed by one process each, and told their outcome."""

import contextlib
import dataclasses
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState, create_trial

from fjt.core import files
from fjt.core.errors import UserError
from fjt.core.options import flatten
from fjt.experiment.workdir import InUse, lock
from fjt.study import proposals
from fjt.study.space import Space, values_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

JOURNAL = "trials.log"
CLAIMS = "claims"  # folder of the locks: one of the proposals, one per trial
MARK = "folder"  # in it: a file that tells this folder from others of its name
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class _Lock:
    """A lock on a journal that the system releases when its process ends in any way."""

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self) -> bool:
        self._file = open(self._path, "ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the trials of a search are proposed.

    Attributes:
        spaces: the axes.
        sampler: one of proposals.SAMPLERS.
        seed: of the sampler.
        total: number of trials.
        lanes: number of trials that are proposed together, from the same ended trials.
        prune: whether trials that are behind the others end early.
    """

    spaces: tuple[Space, ...]
    sampler: str
    seed: int
    total: int
    lanes: int
    prune: bool


class Trials:
    """The trials of a search.

    Args:
        folder: of the search.
        plan: how they are proposed.
        lower: whether lower scores are better.
        about: everything that the trials depend on, as nested plain values; another command may not differ in it.
        storage: the address of a database, "" for a file in the folder.

    Raises:
        UserError: the storage has a search with another `about`, or cannot be opened.
    """

    def __init__(self, folder: str, plan: Plan, lower: bool, about: Mapping[str, Any], storage: str = "") -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._plan, self._lower = folder, plan, lower
        os.makedirs(os.path.join(folder, CLAIMS), exist_ok=True)
        with lock(os.path.join(folder, CLAIMS), wait=True, kind=""):
            self._study = self._open(storage)
            self._check_folder(storage)
            self._check(about)

    def _open(self, storage: str) -> optuna.Study:
        path = os.path.join(self._folder, JOURNAL)
        name = os.path.basename(os.path.abspath(self._folder))
        pruner = optuna.pruners.MedianPruner() if self._plan.prune else optuna.pruners.NopPruner()
        if not storage:
            _cut_partial_line(path)
            guard: Any = _Lock(path + ".lock")  # Optuna's own locks outlive a process that is killed
            kept = JournalStorage(JournalFileBackend(path, lock_obj=guard))
        try:
            return optuna.create_study(
                storage=storage or kept,
                sampler=optuna.samplers.RandomSampler(),  # unused: `propose` has one of its own per trial
                pruner=pruner,
                study_name=name,
                direction="minimize" if self._lower else "maximize",
                load_if_exists=True,
            )
        except Exception as error:
            if not storage:
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--storage={storage} cannot be opened: {reason}. Give an address such as sqlite:///FILE, or leave it "
                "out."
            ) from None

    def _check_folder(self, storage: str) -> None:
        """Raises UserError where a database has the search of another folder of this name."""
        path = os.path.join(self._folder, CLAIMS, MARK)
        if not os.path.exists(path):
            files.write(path, secrets.token_hex(8).encode())
        with open(path, encoding="ascii") as file:
            mark = file.read()
        if "folder" not in self._study.user_attrs:
            self._study.set_user_attr("folder", mark)
        if self._study.user_attrs["folder"] != mark:
            name = os.path.basename(os.path.abspath(self._folder))
            raise UserError(
                f"--storage={storage} has the search of another folder that is called {name}, too. Give --workdir "
                "another name, or another storage."
            )

    def _check(self, about: Mapping[str, Any]) -> None:
        """Raises UserError where the storage has a search with another `about`."""
        before = self._study.user_attrs.get("about")
        if before is None:
            self._study.set_user_attr("about", dict(about))
            return
        old, new = flatten(before), flatten(about)
        differ = [
            f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
            for key in dict.fromkeys([*new, *old])
            if old.get(key) != new.get(key)
        ]
        if differ:
            raise UserError(
                f"--workdir={self._folder} is another search. Give another directory, or the same options:\n  "
                + "\n  ".join(differ)
            )

    def all(self) -> "list[FrozenTrial]":
        """The trials in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def values(self, trial: "FrozenTrial") -> dict[str, Any]:
        """{config key: value} of a trial."""
        return values_of(trial.params, self._plan.spaces)

    @contextlib.contextmanager
    def claimed(self) -> "Iterator[list[FrozenTrial]]":
        """A context with the trials that this process alone runs, [] where none is left that no other process runs.

        Trials of processes that were killed come first, with the parameters that they had; then new ones are proposed.
        """
        with contextlib.ExitStack() as held:
            with lock(os.path.join(self._folder, CLAIMS), wait=True, kind=""):
                mine = self._claim(held)
            yield mine

    def _claim(self, held: contextlib.ExitStack) -> "list[FrozenTrial]":
        found, lanes = [], self._plan.lanes
        for trial in self.all():
            if trial.state is TrialState.RUNNING and len(found) < lanes and self._hold(trial.number, held):
                found.append(trial.number)
        number = len(self.all())
        while number < self._plan.total and len(found) < lanes and (not found or number % lanes):
            self._propose(number)
            self._hold(number, held)
            found.append(number)
            number += 1
        trials = self.all()
        return [trials[number] for number in found]

    def _hold(self, number: int, held: contextlib.ExitStack) -> bool:
        """Whether no other process runs a trial; this one then holds it."""
        folder = os.path.join(self._folder, CLAIMS, f"{number:04d}")
        os.makedirs(folder, exist_ok=True)
        try:
            held.enter_context(lock(folder, kind=""))
        except InUse:
            return False
        return True

    def _propose(self, number: int) -> None:
        """Adds a trial.  It is stored at once with all its parameters, so that a kill loses none of them."""
        plan, ended = self._plan, [trial for trial in self.all() if trial.state in ENDED]
        parameters, distributions = proposals.propose(plan.sampler, plan.seed, plan.spaces, number, ended, self._lower)
        self._study.add_trial(create_trial(state=TrialState.RUNNING, params=parameters, distributions=distributions))

    def is_open(self) -> bool:
        """Whether a trial runs, in this process or in another."""
        return any(trial.state is TrialState.RUNNING for trial in self.all())

    def report(self, number: int, step: int, value: float) -> bool:
        """Whether a trial should end, after its score at a step was stored.

        Args:
            number: of the trial.
            step: number of steps taken.
            value: the metric on dev.
        """
        frozen = self.all()[number]
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        if step not in frozen.intermediate_values:  # before a kill
            trial.report(value, step)
        return bool(trial.should_prune())

    def tell(self, number: int, value: float | None, facts: Mapping[str, Any]) -> None:
        """Ends a trial.

        Args:
            number: of the trial.
            value: the metric on dev; None for one that was pruned, diverged or collapsed, which no sampler may take
                for a good one.
            facts: about the trial, plain values.
        """
        trial = optuna.trial.Trial(self._study, self.all()[number]._trial_id)
        for key, fact in facts.items():
            trial.set_user_attr(key, fact)
        if value is None:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, value)


def find_equal(trial: "FrozenTrial", others: "Sequence[FrozenTrial]") -> "FrozenTrial | None":
    """The first of other trials that has the parameters of a trial: its run would be the same, to the bits."""
    return next((one for one in others if one.number != trial.number and one.params == trial.params), None)


def _cut_partial_line(path: str) -> None:
    """Removes a last line that was cut off when a process was killed: the next line would be damaged by it."""
    with open(path, "a+b") as file, contextlib.ExitStack() as held:
        guard = _Lock(path + ".lock")
        guard.acquire()
        held.callback(guard.release)
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
