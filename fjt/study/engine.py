"""A study on Ray: one task plans it and one task runs each bundle, on nodes that have the study's resources.

Ray orders the tasks, starts lost ones again, and ends them when it is asked to.  The driver needs no device: it prints
the lines of the runs, and writes their files where the nodes do not see the study's folder.
"""

import contextlib
import importlib
import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from fjt.core import console
from fjt.core.errors import UserError
from fjt.experiment.run_records import ended, read_result
from fjt.experiment.workdir import lock
from fjt.study import node, plans, worker
from fjt.study.node import Order
from fjt.study.spec import StudyConfig
from fjt.training.protocols import Events
from fjt.training.stop import Stop, Stopped

POLL = 1.0  # seconds between two looks at the runs
GRACE = 120.0  # seconds in which interrupted tasks save, before they are killed
RETRIES = 10  # times that Ray starts a bundle again whose worker or node was lost
STORE_BYTES = 200_000_000  # of Ray's object store, where fjt starts Ray: it would take 30 % of the memory
MEMORY_SHARE = 0.9  # share of an accelerator's memory that bundles divide among them
ACCELERATORS = ("GPU", "TPU")
TPU_CHIPS = (1, 2, 4, 8)  # of a host, as Ray divides them
SILENCE = 30.0  # seconds of planning after which it is said that Ray may be waiting
PASSED_ON = ("FJT_", "HF_", "JAX_", "TFDS_", "XLA_")  # prefixes of the driver's variables that tasks have as well


@contextlib.contextmanager
def connect(address: str, order: Order) -> Iterator["Cluster"]:
    """A context with a Cluster, whose connection is closed at the end.

    Args:
        address: of a running Ray, such as "auto"; "": of RAY_ADDRESS, or else Ray is started on this machine.
        order: the study.

    Raises:
        UserError: Ray is not installed, does not answer, has no node with the study's resources, or a node does not see
            the study's folder.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("--engine=ray needs the package ray: pip install 'fjt[ray]', or pip install ray.") from None
    if ray.is_initialized():
        raise UserError("--engine=ray: this program is connected to Ray already. Call ray.shutdown() first.")
    address = address or os.environ.get("RAY_ADDRESS", "")
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    variables = {name: value for name, value in variables.items() if "TOKEN" not in name}  # a cluster shows them to all
    study = order.study
    if study.devices < 1:
        variables.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{MEMORY_SHARE * study.devices:.3f}")
    # Ray would set it to the cores that a task reserves; as "" it means all cores, as without Ray.
    variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "")
    options: dict[str, Any] = {"address": address} if address else {
        "address": "local", "include_dashboard": False, "object_store_memory": STORE_BYTES
    }  # fmt: skip
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            **options,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": variables},
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--engine=ray: Ray cannot be used at {address or 'this machine'} ({reason}).") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process with another code
    try:
        yield Cluster(ray, order)
    finally:
        ray.shutdown()


class Cluster:
    """A Ray to which this process is connected, as the driver of a study.

    Args:
        ray: the module.
        order: the study.

    Raises:
        UserError: no node has the study's resources, or one does not see its folder.
    """

    def __init__(self, ray: ModuleType, order: Order) -> None:
        self._ray, self._order, self._shared = ray, order, order.study.shared
        nodes = [one for one in ray.nodes() if one["Alive"]]
        self._resources = _resources(order.study, [one["Resources"] for one in nodes])
        nodes = [one for one in nodes if _has(one["Resources"], self._resources)]
        self._nodes = {one["NodeID"]: one["NodeManagerAddress"] for one in nodes}
        reserved = " and ".join(f"{amount:g} {kind}" for kind, amount in self._resources.items())
        count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
        console.say(f"Ray has {count} for bundles; each bundle reserves {reserved}")
        self._check_nodes(order.folder)

    def _check_nodes(self, folder: str) -> None:
        """Raises UserError for a node that lacks fjt, has other versions, or does not see a shared folder."""
        text = secrets.token_hex(8)
        path = os.path.join(folder, "groups", f"token-{text}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            on = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
            look = self._ray.remote(node.look)
            asked = {
                address: look.options(num_cpus=0, scheduling_strategy=on(id_, soft=False)).remote(path)
                for id_, address in self._nodes.items()
            }
            seen = {address: self._get(reference, f"the node {address}") for address, reference in asked.items()}
        finally:
            os.remove(path)
        for address, (_, versions) in seen.items():
            node.check_versions(versions, self._order.versions, f"The node {address}")
        blind = [address for address, (read, _) in seen.items() if self._shared and read != text]
        if blind:
            raise UserError(
                f"--workdir={folder} is not seen by {', '.join(blind)}. Give a folder that all nodes share, or set "
                "config.study.shared=False: runs are then sent to this process."
            )

    def _get(self, reference: Any, place: str) -> Any:
        """The value of a task.

        Args:
            reference: to it.
            place: names the task, for messages.

        Raises:
            UserError: it was lost, or its node cannot run it.
        """
        try:
            return self._ray.get(reference, timeout=GRACE)
        except (self._ray.exceptions.RayError, RuntimeError) as error:
            if missing := re.search(r"No module named '([\w.]+)'", str(error)):
                raise UserError(f"{place} lacks the package {missing[1]}. Install fjt on all nodes.") from None
            if isinstance(error, self._ray.exceptions.RayTaskError):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"{place}: Ray says: {reason.rstrip('.')}. Look at the nodes, first at their memory. The same command "
                "goes on."
            ) from None

    def plan(self) -> None:
        """Makes or extends the study's plan.json on a node.

        Raises:
            UserError: a mistake in the config or the files.
        """
        order = self._order
        known = {} if self._shared else node.collect(order.folder, ["plan.json"])
        known |= {} if self._shared else node.records_of(order.folder, [run.name for run in order.runs])
        reference = self._task(node.plan).remote(order, known)
        with Stop() as stop:
            said, start = False, time.monotonic()
            while not self._wait([reference]):
                if stop.wanted():
                    self._cancel([reference])
                    stop.check()
                if not said and time.monotonic() - start > SILENCE:
                    console.say("Ray plans the study, or waits for a node with these resources to be free")
                    said = True
        self._take(reference, "the plan")

    def work(self, own: Sequence[plans.Bundle], events: Events | None = None) -> bool:
        """Whether all runs of the plan have ended, after one task per bundle.

        Args:
            own: the bundles.
            events: not called: the runs are in other processes.

        Raises:
            UserError: of a node, or a bundle was lost too often.
            Stopped: a signal came; where the folder is shared, the tasks have saved.
        """
        held = os.path.join(self._order.folder, "groups", "driver")
        with contextlib.nullcontext() if self._shared else lock(held, kind=""):  # runs are locked on their nodes
            return self._work(own, events)

    def _work(self, own: Sequence[plans.Bundle], events: Events | None) -> bool:
        del events
        order, (runs, bundles, _) = self._order, plans.load(self._order.folder)
        task, plan = self._task(node.work), node.collect(order.folder, ["plan.json"])
        tasks: dict[str, Any] = {}
        for bundle in sorted(own, key=lambda bundle: bundle.phase != "tuning"):
            if plans.has_ended(order.folder, bundle):
                continue
            needs = plans.needs(bundle, bundles, runs)
            names = [name for one in (bundle, *needs) for name in one.runs]
            known = {} if self._shared else plan | node.records_of(order.folder, names)
            waited_for = [tasks[one.id] for one in needs if one.id in tasks]
            tasks[bundle.id] = task.remote(order, bundle.id, known, *waited_for)
        names = [name for bundle in bundles for name in bundle.runs]
        with console.bar("runs", len(names)) as bar:
            self._follow({reference: id_ for id_, reference in tasks.items()}, _Lines(order, bundles, bar))
        return worker.clean_up(order.folder, bundles)

    def _follow(self, tasks: dict[Any, str], lines: "_Lines") -> None:
        """Waits for tasks, {reference: id of the bundle}, and cancels what is left after a signal or a mistake."""
        with Stop() as stop:
            try:
                while tasks:
                    for reference in self._wait(list(tasks)):
                        self._take(reference, f"the bundle {tasks.pop(reference)}", lines)
                    lines.look(f"{len(tasks)} bundles left")
                    stop.check()
            except BaseException:
                for reference in self._cancel(list(tasks)):
                    with contextlib.suppress(Exception):  # the first error is the one that counts
                        self._take(reference, "", lines)
                lines.look("")
                raise

    def _task(self, function: Any) -> Any:
        """A remote function with the study's resources."""
        amounts = dict(self._resources)
        options = {"num_cpus": amounts.pop("CPU"), "num_gpus": amounts.pop("GPU", 0), "resources": amounts}
        # A process keeps an accelerator's memory until it ends.
        once = {"max_calls": 1} if options["num_gpus"] or amounts else {}
        return self._ray.remote(max_retries=RETRIES, retry_exceptions=[Stopped], **options, **once)(function)

    def _wait(self, references: Sequence[Any]) -> list[Any]:
        """The tasks that have ended, after at most POLL seconds of waiting for one."""
        return self._ray.wait(references, num_returns=1, timeout=POLL)[0]

    def _take(self, reference: Any, place: str, lines: "_Lines | None" = None) -> None:
        """Writes the files of a task that has ended, and prints its lines and warnings.  place: names it."""
        folder, answer = self._order.folder, self._get(reference, place)
        for name in answer.ended if answer.files else ():
            with lock(os.path.join(folder, name)):
                node.put(folder, {path: text for path, text in answer.files.items() if path.startswith(f"{name}/")})
        plan = answer.files.get("plan.json", b"")
        if plan and not self._shared:
            node.put(folder, {"plan.json": plan})
        node.await_seen(folder, answer.ended, plan)
        for text in answer.said:
            console.say(text)
        for text in answer.warned:
            (lines or console).warn(text)
        if answer.mistake:
            raise UserError(answer.mistake)

    def _cancel(self, references: Sequence[Any]) -> list[Any]:
        """The tasks that have ended, after all are interrupted; those that take too long to save are killed."""
        for reference in references:
            self._ray.cancel(reference, force=False)
        end = time.monotonic() + GRACE
        left = list(references)
        while left and time.monotonic() < end:
            left = self._ray.wait(left, num_returns=len(left), timeout=POLL)[1]
        for reference in left:
            self._ray.cancel(reference, force=True)
        return [reference for reference in references if reference not in left]


class _Lines:
    """The lines of the runs that end on any node.

    Args:
        order: the study.
        bundles: all bundles of the plan.
        bar: over all runs.
    """

    def __init__(self, order: Order, bundles: Sequence[plans.Bundle], bar: console.BarView) -> None:
        self._folder, self._warned = order.folder, set()
        self._progress = worker.Progress(bar, order.folder, bundles)
        names = [name for bundle in bundles for name in bundle.runs]
        self._left = [name for name in names if not ended(os.path.join(order.folder, name))]

    def look(self, text: str) -> None:
        """Prints a line for each run that has ended since the last look.  text: what the bar shows beside its count."""
        for name in [name for name in self._left if ended(os.path.join(self._folder, name))]:
            self._left.remove(name)
            result = read_result(os.path.join(self._folder, name))
            worker.show_end(name, result, _duration(result), self._progress)
        self._progress.show(text)

    def warn(self, text: str) -> None:
        """Prints a warning, each once, whatever run it is about."""
        about = text.partition(": ")[2] or text
        if about not in self._warned:
            self._warned.add(about)
            console.warn(text)


def _duration(result: Mapping[str, Any]) -> str:
    """The time that a run took on its node, from its result.json."""
    parts = ("train_seconds", "compile_seconds", "hidden_seconds")
    return f"{sum(result.get(part, 0.0) for part in parts):.1f} s"


def _has(resources: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether a node has these resources when it is idle."""
    return all(resources.get(kind, 0) >= amount for kind, amount in wanted.items())


def _resources(study: StudyConfig, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """{kind of resource: amount} that a bundle reserves.

    Args:
        study: config.study.
        nodes: the resources of each node.

    Raises:
        UserError: no node has them.
    """
    wanted = {"CPU": study.cpus}
    cpu = os.environ.get("JAX_PLATFORMS") == "cpu"
    kinds = [] if cpu else [kind for kind in ACCELERATORS if any(one.get(kind) for one in nodes)]
    if kinds:
        wanted[kinds[0]] = study.devices
        if (study.devices > 1 and study.devices % 1) or (kinds[0] == "TPU" and study.devices not in TPU_CHIPS):
            whole = f"one of {', '.join(map(str, TPU_CHIPS))}" if kinds[0] == "TPU" else "a whole number above 1"
            raise UserError(
                f"config.study.devices={study.devices:g}: Ray divides a {kinds[0]} otherwise. Give {whole}."
            )
    elif study.devices > 1:
        raise UserError(f"config.study.devices={study.devices:g}: no node of Ray has an accelerator.")
    if cpu and any(one.get(kind) for one in nodes for kind in ACCELERATORS):
        console.say("JAX_PLATFORMS=cpu: the accelerators of Ray's nodes are not used")
    if not any(_has(one, wanted) for one in nodes):
        have = "; ".join(" ".join(f"{one.get(kind, 0):g} {kind}" for kind in wanted) for one in nodes)
        asked = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
        given = f"config.study.cpus={study.cpus:g}, .devices={study.devices:g}"
        raise UserError(f"{given}: no node of Ray has {asked}. They have {have}.")
    return wanted
