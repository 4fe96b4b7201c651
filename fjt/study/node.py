"""A node's part in a study that an engine divides: it plans the study, or runs one bundle.  Knows no engine.

Where the nodes do not see the study's folder, the records that the work needs come with it, and those that it leaves
are returned: files are dicts {path below the folder: contents}.
"""

import contextlib
import dataclasses
import functools
import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fjt.core import console, files, records
from fjt.core.errors import Ended, UserError, explain
from fjt.core.options import Settings
from fjt.core.settings import from_config
from fjt.experiment import run_records
from fjt.experiment.process import undisturbed
from fjt.experiment.program_cache import configure_jax
from fjt.experiment.workdir import LOCK, MARKER, STUDY, own
from fjt.study import bases, planner, plans, worker
from fjt.study.spec import Run, StudyConfig
from fjt.training.protocols import Events
from fjt.training.stop import Stopped

Files = dict[str, bytes]

POLL = 1.0  # seconds between two looks
SEEN = 90.0  # seconds after which a file system of several machines shows to one what another has written


@dataclasses.dataclass(frozen=True)
class Order:
    """What every node is told about a study.

    Attributes:
        folder: the study's, absolute.
        directory: the driver's current directory, from which relative paths lead.
        study: config.study.
        base: the config of the runs.
        encoder: (name, settings) of the encoder that is trained first, or None.
        runs: of the config.
        command: the command line.
        versions: of the driver's packages.
    """

    folder: str
    directory: str
    study: StudyConfig
    base: Mapping[str, Any]
    encoder: tuple[str, Settings] | None
    runs: Sequence[Run]
    command: str
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a node answers.

    Attributes:
        mistake: the message of a UserError, "" without one.
        said: lines for the driver's output.
        warned: warnings for it.
        ended: the runs of the bundle that have ended, whether now or before.
        files: plan.json, or the files of runs that have ended now, where the nodes do not see the study's folder.
    """

    mistake: str = ""
    said: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    files: Files = dataclasses.field(default_factory=dict)


class _Kept(console.Silent):
    """A View that keeps lines and warnings for the driver."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def look(path: str) -> tuple[str, dict[str, str]]:
    """(the text of a small file or "" if this node does not see it, the versions of this node's packages)."""
    text = ""
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        text = file.read()
    return text, records.versions()


class Here:
    """This process as the one that plans a study and runs bundles of it.

    Args:
        order: the study.
        shared: parts that runs share.
        view: the output.

    Raises:
        UserError: JAX finds no device, or the encoder that is trained first cannot be.
    """

    def __init__(self, order: Order, shared: planner.Shared | None = None, view: console.View = console) -> None:
        self._order, self._shared, self._view = order, shared or planner.Shared(), view
        self._shared.view = view
        self._base = dict(order.base)
        configure_jax(from_config(self._base))
        if order.encoder:
            self._base["model"] = self._base["model"] | {"path": bases.train(*order.encoder, view)}

    def plan(self) -> None:
        """Makes or extends plan.json: this process's devices decide lanes, shapes and memory."""
        order = self._order
        planner.make_plan(order.folder, order.study, self._base, order.runs, self._shared, order.command)

    def check_contents(self, own: Sequence[plans.Bundle]) -> None:
        """Raises UserError if the data, weights or tokenizer of bundles have other contents here than in the plan."""
        folder, (runs, _, made) = self._order.folder, plans.load(self._order.folder)
        names = [name for bundle in own for name in bundle.runs]
        left = [runs[name] for name in names if not run_records.ended(os.path.join(folder, name))]
        planner.read_contents(folder, self._base, left, self._shared, made["contents"], self._order.study.metric)

    def work(self, own: Sequence[plans.Bundle], events: Events | None = None) -> bool:
        """Whether all runs of the plan have ended, after those of bundles have.  See `worker.work`."""
        order, (runs, bundles, _) = self._order, plans.load(self._order.folder)
        shared, metric = self._shared, order.study.metric
        return worker.work(
            order.folder, self._base, runs, bundles, shared, own=own, metric=metric, view=self._view, events=events
        )


def plan(order: Order, known: Files) -> Answer:
    """Plans a study on this node.

    Args:
        order: the study.
        known: `records_of` all its runs and its plan.json, where the nodes do not see its folder.
    """
    return _answer(order, known, lambda order, view: Here(order, _shared(), view).plan(), lambda folder: ())


def work(order: Order, id_: str, known: Files, *needs: Answer) -> Answer:
    """Runs one bundle on this node.

    Args:
        order: the study.
        id_: of the bundle.
        known: plan.json, and `records_of` its runs and needs that have ended, where the nodes do not see the folder.
        needs: the answers for the other bundles that it needs.
    """
    if any(answer.mistake for answer in needs):
        return Answer()  # the driver has the mistake, and ends
    for answer in needs:
        known = known | answer.files

    def find(folder: str) -> Sequence[plans.Bundle]:
        runs, bundles, _ = plans.load(folder)
        return plans.find([id_], folder, bundles, runs)

    def run(order: Order, view: console.View) -> None:
        await_seen(order.folder, [name for answer in needs for name in answer.ended])
        here, own = Here(order, _shared(), _Warnings(view)), find(order.folder)
        here.check_contents(own)
        here.work(own)

    def ended(folder: str) -> Sequence[str]:
        _, bundles, _ = plans.load(folder)
        names = [name for bundle in bundles if bundle.id == id_ for name in bundle.runs]
        return [name for name in names if run_records.ended(os.path.join(folder, name))]

    return _answer(order, known, run, ended)


def await_seen(folder: str, names: Iterable[str], plan: bytes = b"") -> None:
    """Waits until this machine sees that runs have ended, as others have said.

    Args:
        folder: the study.
        names: the runs.
        plan: the contents of its plan.json, b"" for any.

    Raises:
        UserError: after SEEN seconds it does not.
    """
    end = time.monotonic() + SEEN
    for path in [*([os.path.join(folder, "plan.json")] if plan else []), *(os.path.join(folder, one) for one in names)]:
        is_plan = path.endswith("plan.json")
        while not (_bytes(path) == plan if is_plan else run_records.ended(path)):
            if time.monotonic() > end:
                raise UserError(
                    f"{path} was written by another machine and is not seen here. Share --workdir among all, or set "
                    "config.study.shared=False."
                )
            time.sleep(POLL)
            for parent in (os.path.dirname(path), path):  # a look into a folder makes NFS forget what it has not seen
                with contextlib.suppress(OSError):
                    os.listdir(parent)


def _bytes(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


class _Warnings(console.Silent):
    """A View that passes on warnings alone: the driver prints the lines of the runs."""

    def __init__(self, view: console.View) -> None:
        self.warn = view.warn


def _answer(
    order: Order,
    known: Files,
    do: Callable[[Order, console.View], None],
    ended: Callable[[str], Sequence[str]],
) -> Answer:
    """The Answer after `do`, which is called with the study in its folder on this node.

    What has ended is in the answer also where `do` fails, or the driver interrupts it.

    Args:
        order: the study.
        known: files that the folder has at first, where the nodes do not see the study's.
        do: the work.
        ended: the folder -> the runs that have ended.
    """
    view, mistake, names, found = _Kept(), "", (), {}
    try:
        with undisturbed(), _at(order, known) as folder:
            try:
                check_versions(records.versions(), order.versions)
                do(dataclasses.replace(order, folder=folder), view)
            except Stopped as stop:
                if stop.number != signal.SIGINT:  # not by the driver: the engine starts the bundle again
                    raise
            except KeyboardInterrupt:
                pass
            except Exception as error:
                mistake = _explain(error, order)
            names = ended(folder) if os.path.exists(os.path.join(folder, "plan.json")) else ()
            new = [name for name in names if f"{name}/DONE" not in known and f"{name}/result.json" not in known]
            found = collect(folder, new) if folder != order.folder else {}
            found |= collect(folder, ["plan.json"]) if not names and not mistake else {}
    except Ended:
        raise
    except Exception as error:
        mistake = _explain(error, order)
    return Answer(mistake, tuple(view.said), tuple(view.warned), tuple(names), found)


def _explain(error: Exception, order: Order) -> str:
    """The message of a user's mistake.  Raises the error again if it is fjt's own."""
    mistake = explain(error, lambda: order.folder)
    if not mistake:
        raise error
    return f"{mistake} (On the node {platform.node()}.)"


@functools.cache
def _shared() -> planner.Shared:
    """Parts that the bundles of this process share, where the engine gives it several."""
    return planner.Shared()


@contextlib.contextmanager
def _at(order: Order, known: Files) -> Iterator[str]:
    """A context with the study's folder on this node: its own, or a temporary one with the known files."""
    before = os.getcwd()
    with contextlib.suppress(OSError):  # where the node has another tree of folders, absolute paths alone lead anywhere
        os.chdir(order.directory)
    try:
        if order.study.shared:
            if not os.path.exists(os.path.join(order.folder, "groups")):
                raise UserError(f"--workdir={order.folder} is not there. Share it, or set config.study.shared=False.")
            yield order.folder
            return
        with _temporary() as folder:
            own(folder, STUDY)
            put(folder, known)
            yield folder
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
    """A context with a new folder, which another process removes if this one is killed."""
    place = tempfile.gettempdir()
    files.remove_leftovers(place)
    folder = os.path.join(place, files.temporary_name())
    os.mkdir(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        files.hold(descriptor)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def check_versions(found: Mapping[str, str], expected: Mapping[str, str], place: str = "this node") -> None:
    """Raises UserError where a node has other versions of packages than the driver.

    Args:
        found: the node's.
        expected: the driver's.
        place: the node.
    """
    differ = [
        f"{name} {found.get(name, '')} instead of {one}" for name, one in expected.items() if found.get(name) != one
    ]
    if differ:
        raise UserError(
            f"{place} has other versions than the driver: {', '.join(differ)}. Install the same on all nodes."
        )


def records_of(folder: str, names: Iterable[str]) -> Files:
    """The files by which a node knows that runs have ended, and with which scores.

    Args:
        folder: the study.
        names: the runs; those without a result are left out.
    """
    paths = [os.path.join(name, file) for name in names for file in (MARKER, "result.json", "DONE")]
    return _read(folder, [path for path in paths if os.path.exists(os.path.join(folder, path))])


def collect(folder: str, paths: Iterable[str]) -> Files:
    """The files at or below paths of a study's folder, without locks."""
    found = []
    for path in paths:
        for place, _, names in os.walk(os.path.join(folder, path)):
            found += [os.path.relpath(os.path.join(place, name), folder) for name in names if name != LOCK]
        if os.path.isfile(os.path.join(folder, path)):
            found.append(path)
    return _read(folder, found)


def _read(folder: str, paths: Iterable[str]) -> Files:
    contents = {}
    for path in paths:
        with open(os.path.join(folder, path), "rb") as file:
            contents[path] = file.read()
    return contents


def put(folder: str, contents: Files) -> None:
    """Writes files below a study's folder; a run's DONE and result after its other files."""
    last = {"result.json": 1, "DONE": 2}
    for path in sorted(contents, key=lambda path: last.get(os.path.basename(path), 0)):
        place = os.path.join(folder, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with files.written(place) as file:
            file.write(contents[path])
