"""Placement: the only file that puts arrays on devices and fetches them to the host.

The mesh has two axes.  The groups of a batch are spread over `data`.  Every device holds all parameters, unless a
Layout spreads them: over `data` to save memory, over `model` to share each layer.
"""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def make_mesh(num: int, model: int = 1, devices: Sequence[Any] = ()) -> Mesh:
    """A mesh of num x model devices, or of all devices if `num` is 0.

    Its axes have the type Auto: XLA moves what a program needs elsewhere, and `Layout` says what stays where.  JAX's
    guides begin with Explicit axes; those fail at the first lookup of an embedding, and every layer would have to know
    of the mesh.

    Args:
        num: devices that share a batch, the axis `data`.
        model: devices that share each layer, the axis `model`.
        devices: those to choose from; by default those of JAX's platform.

    Raises:
        UserError: there are fewer devices.
    """
    devices = devices or find_devices()
    if num * model > len(devices) or len(devices) < model:
        raise UserError(
            f"config.mesh.data={num}, .model={model}: there are {len(devices)} {devices[0].platform} devices here."
        )
    num = num or len(devices) // model
    if processes.count() > 1 and num * model != len(devices):
        raise UserError(
            f"config.mesh.data={num}, .model={model}: {processes.count()} processes have {len(devices)} devices, and "
            "all of them take part. Leave config.mesh.data 0."
        )
    axes = {"data": num, "model": model}
    return jax.make_mesh(
        tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * 2, devices=devices[: num * model]
    )


def platform(mesh: Mesh) -> str:
    """JAX's name of the kind of devices, which need not be those of this machine: fjt.aot compiles for others."""
    return mesh.devices.flat[0].platform


def num_shards(mesh: Mesh) -> int:
    """The number of devices that share a batch."""
    return mesh.shape["data"]


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


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each parameter is, and with it its gradient and its moments.

    Attributes:
        mesh: the devices.
        rules: of the family, `Family.sharding`: the axis `model` of some parameters.
        spread: whether each array is divided over `data` as well, along its largest axis that this divides.
    """

    mesh: Mesh
    rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
    spread: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every device holds everything."""
        return self.mesh.shape["model"] == 1 and not (self.spread and num_shards(self.mesh) > 1)

    def _axes(self, name: str, shape: tuple[int, ...]) -> list[str | None]:
        """The axis of the mesh for each axis of an array, while a model reads it."""
        size = self.mesh.shape["model"]
        for pattern, axes in self.rules if size > 1 else ():
            if re.search(f"(^|/){pattern}$", name) and len(axes) == len(shape):
                if all(axis is None or length % size == 0 for axis, length in zip(axes, shape, strict=True)):
                    return list(axes)
        return [None] * len(shape)

    def in_use(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a parameter while the model reads it.

        Args:
            name: ends with the parameter's name.
            shape: of the array.
        """
        return self._sharding(self._axes(name, shape))

    def _sharding(self, axes: list[str | None]) -> NamedSharding:
        return NamedSharding(self.mesh, P(*axes) if any(axes) else P())

    def stored(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a parameter, gradient or moment between two uses.  See `in_use`."""
        axes, shards = self._axes(name, shape), num_shards(self.mesh)
        free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % shards == 0 and shape[i] >= shards]
        if self.spread and shards > 1 and free:
            axes[max(free, key=lambda i: shape[i])] = "data"
        return self._sharding(axes)

    def shardings(self, state: Any) -> Any:
        """The tree of `stored` shardings of parameters or of a TrainState, or of their shapes."""
        return _by_name(lambda name, leaf: self.stored(name, leaf.shape), state)

    def shapes(self, state: Any) -> Any:
        """The tree of shapes with their shardings."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, self.shardings(state)
        )

    def put(self, state: Arrays) -> Arrays:
        """The arrays of parameters or of a TrainState, each where it is stored."""
        if self.is_whole:
            return put_whole(state, self.mesh)
        return _by_name(lambda name, leaf: _put(leaf, self.stored(name, np.shape(leaf))), state)

    def gather(self, params: Any) -> Any:
        """The parameters as the model reads them: inside a program, they are sent where they are needed."""
        return _by_name(lambda name, x: jax.lax.with_sharding_constraint(x, self.in_use(name, x.shape)), params)

    def scatter(self, grads: Any) -> Any:
        """Gradients as the optimizer reads them: inside a program, each device gets the sums of its own part."""
        return _by_name(lambda name, x: jax.lax.with_sharding_constraint(x, self.stored(name, x.shape)), grads)


def _by_name(function: Any, tree: Any) -> Any:
    """The tree of function(name, leaf), names joined by `/`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """The array on devices in a sharding.  Each process has the whole array on its host."""
    if processes.count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
        return leaf
    host = np.asarray(fetch(leaf))
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def put_whole(arrays: Arrays, mesh: Mesh) -> Arrays:
    """The arrays on every device of the mesh: parameters, optimizer states, hyper-parameters.

    Each process has all of them.  `device_put` would send them around to see whether they agree.
    """
    if processes.count() == 1:
        return jax.device_put(arrays, replicated(mesh))
    return jax.tree.map(lambda leaf: _put(leaf, replicated(mesh)), arrays)


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
        shards = num_shards(mesh)
        groups = len(own) * shards // len(own_groups(mesh, shards) or ())
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
    if processes.count() > 1:
        arrays = jax.tree.map(_collect, arrays)
    return jax.device_get(arrays)


def _collect(leaf: Any) -> Any:
    """A leaf of which this process has all parts: others have some of a sharded one."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    mesh: Any = leaf.sharding
    return jax.jit(lambda x: x, out_shardings=replicated(mesh.mesh))(leaf)


def fetch_numbers(arrays: Mapping[str, Any]) -> dict[str, list[float]]:
    """{name: the values of a small array as a list}.  Several times as fast as `fetch`; every step calls it."""
    return {name: np.ravel(np.asarray(array)).tolist() for name, array in arrays.items()}
