"""Placement: the only file that puts arrays on devices and fetches them to the host.

The mesh has one axis, `data`: the groups of a batch are spread over it, and every device holds all parameters.
"""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fjt.core.errors import UserError
from fjt.training import processes

FLAGS_TIMEOUT = 60  # seconds; importing jaxlib takes about one
Arrays = TypeVar("Arrays")  # a tree of arrays, on the host or on devices


def find_devices() -> list[Any]:
    """The devices of JAX's platform.

    Raises:
        UserError: it has none, such as for a wrong JAX_PLATFORMS.
    """
    _check_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # it asserts that the plugin of a known platform is installed
        given = f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: " if os.environ.get("JAX_PLATFORMS") else ""
        reason = f" ({str(error).splitlines()[0].rstrip('. ')})" if str(error) else ""
        raise UserError(
            f"{given}JAX finds no device{reason}. Set JAX_PLATFORMS to a platform of this machine, such as cpu, or "
            "unset it."
        ) from None


@functools.cache
def _check_flags(flags: str) -> None:
    """Raises UserError for XLA_FLAGS that XLA refuses: it would end the process, so another process tries them."""
    if not flags or not sys.executable:  # which a program that embeds Python lacks
        return
    program = "import jaxlib.xla_client; jaxlib.xla_client.CompileOptions()"
    try:
        tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=FLAGS_TIMEOUT)
    except subprocess.TimeoutExpired:  # a busy machine: XLA says it in this process, without the advice
        return
    fault = re.search(r"^[EF]\d{4} [^\]]*\] (.*)", tried.stderr, re.MULTILINE)
    if tried.returncode and fault:
        raise UserError(f"XLA_FLAGS={flags}: {fault[1].rstrip('. ')}. Correct or unset the variable.")


def make_mesh(num: int) -> Mesh:
    """A mesh of `num` devices, or of all devices if `num` is 0.

    Raises:
        UserError: there are fewer devices.
    """
    devices = find_devices()
    if num > len(devices):
        raise UserError(f"config.mesh.data={num}: there are {len(devices)} {devices[0].platform} devices here.")
    if processes.count() > 1 and num not in (0, len(devices)):
        raise UserError(
            f"config.mesh.data={num}: {processes.count()} processes have {len(devices)} devices, and all of them take "
            "part. Leave it 0."
        )
    num = num or len(devices)
    return jax.make_mesh((num,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:num])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds completely."""
    return NamedSharding(mesh, P())


def by_group(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose leading axis is groups."""
    return NamedSharding(mesh, P("data"))


def read_by_all(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays [G, ...] that a program returns to be fetched: by group, if one process has all groups."""
    return by_group(mesh) if processes.count() == 1 else replicated(mesh)


def lanes_by_group(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose leading axis is lanes and whose second axis is groups."""
    return NamedSharding(mesh, P(None, "data"))


def put_whole(arrays: Arrays, mesh: Mesh) -> Arrays:
    """The arrays on every device of the mesh: parameters, optimizer states, hyper-parameters.

    Each process has all of them.  `device_put` would send them around to see whether they agree.
    """
    if processes.count() == 1:
        return jax.device_put(arrays, replicated(mesh))

    def put(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(replicated(mesh), leaf.ndim):
            return leaf
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, replicated(mesh), lambda index: host[index])

    return jax.tree.map(put, arrays)


def own_groups(mesh: Mesh, groups: int) -> tuple[int, ...] | None:
    """The groups of a batch that this process lays out, None for all: those of its own devices.

    Args:
        mesh: the devices.
        groups: number of groups.
    """
    if processes.count() == 1:
        return None
    places = by_group(mesh).addressable_devices_indices_map((groups,)).values()
    return tuple(sorted({group for place in places if place for group in range(*place[0].indices(groups))}))


def put_batch(batch: Arrays, mesh: Mesh) -> Arrays:
    """The arrays [G, ...] of a batch, spread over the mesh by group.

    Args:
        batch: of several processes, each has its own groups alone.
        mesh: the devices.
    """
    if processes.count() == 1:
        return jax.device_put(batch, by_group(mesh))

    def put(own: np.ndarray) -> jax.Array:
        groups = len(own) * processes.count()
        first = {group: i for i, group in enumerate(own_groups(mesh, groups) or ())}

        def part(index: Any) -> np.ndarray:
            start, end, _ = index[0].indices(groups)
            return own[first[start] : first[start] + end - start][:, *index[1:]]

        return jax.make_array_from_callback((groups, *own.shape[1:]), by_group(mesh), part)

    return jax.tree.map(put, batch)


def put_lanes(batches: Arrays, mesh: Mesh) -> Arrays:
    """The arrays [J, G, ...] of one batch per lane, spread over the mesh by group."""
    return jax.device_put(batches, lanes_by_group(mesh))


def fetch(arrays: Arrays) -> Arrays:
    """The arrays as numpy arrays on the host.  Waits for the computations that they come from."""
    return jax.device_get(arrays)


def fetch_numbers(arrays: Mapping[str, Any]) -> dict[str, list[float]]:
    """{name: the values of a small array as a list}.  Several times as fast as `fetch`; every step calls it."""
    return {name: np.ravel(np.asarray(array)).tolist() for name, array in arrays.items()}
