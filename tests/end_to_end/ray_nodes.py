"""A Ray of several nodes on this machine, each with one core, for tests and campaigns."""

import contextlib
import os
import pathlib

STORE_BYTES = 100_000_000  # of a node's object store
# Ray would write a token into the home directory, report its use over the network, and give way to all other processes
# of the machine, such as those of other tests.
ALONE = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


@contextlib.contextmanager
def cluster(nodes=2):
    """A context with a `ray.cluster_utils.Cluster` of `nodes` nodes."""
    os.environ.update(ALONE)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES})
    try:
        for _ in range(nodes - 1):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(made):
    """A new node of a cluster."""
    return made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


def task_pids():
    """The processes in which Ray runs a task at this moment; Ray puts the name of the function into their titles."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if path.read_bytes().startswith((b"ray::work", b"ray::plan")):
                found.append(int(path.parent.name))
    return found
