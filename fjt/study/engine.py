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
import time
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from fjt.core import console
from fjt.core.errors import UserError
from fjt.experiment.run_records import ended, read_result
from fjt.study import node, plans, worker
from fjt.study.node import Answer, Order
from fjt.study.spec import StudyConfig
from fjt.training.protocols import Events
from fjt.training.stop import Stop, Stopped

ENGINES = ("ray",)
POLL = 1.0  # seconds between two looks at the runs
GRACE = 120.0  # seconds in which interrupted tasks save, before they are killed
RETRIES = 10  # times that Ray starts a bundle again whose worker or node was lost
STORE_BYTES = 200_000_000  # of Ray's object store, where fjt starts Ray: it would take 30 % of the memory
MEMORY_SHARE = 0.9  # share of an accelerator's memory that bundles divide among them
ACCELERATORS = ("GPU", "TPU")
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
    address = address or os.environ.get("RAY_ADDRESS", "")
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    study = order.study
    if study.devices < 1:
        variables.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{MEMORY_SHARE * study.devices:.3f}")
    # Ray would set it to the cores that a task reserves; as "" it means all cores, as without Ray.
    variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "")
    options: dict[str, Any] = {"address": address} if address else {
        "address": "local", "include_dashboard": False, "object_store_memory": STORE_BYTES
    }  # fmt: skip
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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
        raise UserError(f"--engine=ray: Ray does not answer at {address or 'this machine'} ({reason}).") from None
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
        self._nodes = {one["NodeID"]: one["NodeManagerAddress"] for one in nodes}
        self._resources = _resources(order.study, [one["Resources"] for one in nodes])
        reserved = " and ".join(f"{amount:g} {kind}" for kind, amount in self._resources.items())
        count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
        console.say(f"Ray has {count}; a bundle reserves {reserved} of one of them")
        self._check_nodes(order.folder)

    def _check_nodes(self, folder: str) -> None:
        """Raises UserError for a node that lacks fjt, has other versions, or does not see a shared folder."""
        path, text = os.path.join(folder, "groups", node.TOKEN), secrets.token_hex(8)
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
            seen = {address: self._ray.get(reference) for address, reference in asked.items()}
        except (self._ray.exceptions.RayTaskError, RuntimeError) as error:
            missing = re.search(r"No module named '([\w.]+)'", str(error))
            if not missing:
                raise
            raise UserError(
                f"A node of Ray lacks the package {missing[1]}. Install fjt and Ray on all nodes."
            ) from None
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
            while not self._wait([reference]):
                if stop.wanted():
                    self._cancel([reference])
                    stop.check()
        self._take(reference)

    def work(self, own: Sequence[plans.Bundle], events: Events | None = None) -> bool:
        """Whether all runs of the plan have ended, after one task per bundle.

        Args:
            own: the bundles.
            events: not called: the runs are in other processes.

        Raises:
            UserError: of a node, or a bundle was lost too often.
            Stopped: a signal came; where the folder is shared, the tasks have saved.
        """
        del events
        order, (runs, bundles, _) = self._order, plans.load(self._order.folder)
        task, plan, tasks = self._task(node.work), node.collect(order.folder, ["plan.json"]), {}
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
        return all(ended(os.path.join(order.folder, name)) for name in names)

    def _follow(self, tasks: dict[Any, str], lines: "_Lines") -> None:
        """Waits for tasks, {reference: id of the bundle}, and cancels what is left after a signal or a mistake."""
        with Stop() as stop:
            try:
                while tasks:
                    for reference in self._wait(list(tasks)):
                        self._take(reference, tasks.pop(reference), lines)
                    lines.look(f"{len(tasks)} bundles left")
                    stop.check()
            except (UserError, Stopped):
                self._cancel(list(tasks))
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

    def _take(self, reference: Any, id_: str = "", lines: "_Lines | None" = None) -> None:
        """Writes the files of a task that has ended, and prints its lines and warnings."""
        try:
            answer: Answer = self._ray.get(reference)
        except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.NodeDiedError) as error:
            reason, lost = next(iter(str(error).splitlines()), ""), f"the bundle {id_}" if id_ else "the plan"
            raise UserError(
                f"{lost} was lost with its worker {RETRIES + 1} times ({reason}). Look at the nodes, first at their "
                "memory; the same command goes on."
            ) from None
        for text in answer.said:
            console.say(text)
        for text in answer.warned:
            (lines or console).warn(text)
        if answer.mistake:
            raise UserError(answer.mistake)
        node.put(self._order.folder, answer.files)

    def _cancel(self, references: Sequence[Any]) -> None:
        """Interrupts tasks, waits until they have saved, and kills those that take too long."""
        for reference in references:
            self._ray.cancel(reference, force=False)
        end = time.monotonic() + GRACE
        left = list(references)
        while left and time.monotonic() < end:
            left = self._ray.wait(left, num_returns=len(left), timeout=POLL)[1]
        for reference in left:
            self._ray.cancel(reference, force=True)


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
        """Prints a line for each run that has ended since the last look.  text: stands beside the bar."""
        for name in [name for name in self._left if ended(os.path.join(self._folder, name))]:
            self._left.remove(name)
            result = read_result(os.path.join(self._folder, name))
            worker.show_end(name, result, _duration(result), self._progress)
        self._progress.show(text)

    def warn(self, text: str) -> None:
        """Prints a warning, each once, whatever run it is about."""
        about = text.partition(": ")[2]
        if about not in self._warned:
            self._warned.add(about)
            console.warn(text)


def _duration(result: Mapping[str, Any]) -> str:
    """The time that a run took on its node, from its result.json."""
    parts = ("train_seconds", "compile_seconds", "hidden_seconds")
    return f"{sum(result.get(part, 0.0) for part in parts):.1f} s"


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
    elif study.devices > 1:
        raise UserError(f"config.study.devices={study.devices:g}: no node of Ray has an accelerator.")
    if not any(all(one.get(kind, 0) >= amount for kind, amount in wanted.items()) for one in nodes):
        have = "; ".join(" ".join(f"{one.get(kind, 0):g} {kind}" for kind in wanted) for one in nodes)
        asked = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items())
        given = f"config.study.cpus={study.cpus:g}, .devices={study.devices:g}"
        raise UserError(f"{given}: no node of Ray has {asked}. They have {have}.")
    return wanted
