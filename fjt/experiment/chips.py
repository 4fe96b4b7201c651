"""The devices that a program is compiled for: those at hand, or the chips of a TPU that is somewhere else."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fjt.core import memory
from fjt.core.errors import UserError, suggest
from fjt.training import placement

LOCAL = "local"  # the devices of this machine
TOO_MUCH = 2**40  # numbers that no device holds


@dataclasses.dataclass(frozen=True)
class Generation:
    """TPUs of one generation.

    Attributes:
        clock: of its cores, in Hz: that at which its matrix units reach `peak`.
        peak: bfloat16 operations per second of a chip, as https://docs.cloud.google.com/tpu/docs/ states them.
        sizes: the usual topologies, by number of chips.
        cores: cores per chip, which a name such as v5p-16 counts.
    """

    clock: float
    peak: float
    sizes: tuple[str, ...]
    cores: int = 1


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
GENERATIONS = {
    "v5e": Generation(1.5e9, 197e12, _FLAT),
    "v5p": Generation(1.75e9, 459e12, _CUBES, cores=2),
    "v6e": Generation(1.75e9, 918e12, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Chips:
    """Devices that a program is compiled for.

    Attributes:
        name: of the topology.
        devices: the devices.
        capacity: bytes of each that programs can use; inf where nobody says.
        clock: Hz, nan where unknown.
        peak: bfloat16 operations per second of each, nan where unknown.
    """

    name: str
    devices: Sequence[Any]
    capacity: float
    clock: float
    peak: float


def full_name(topology: str) -> str:
    """The name of a TPU topology as its compiler knows it: v5e:2x4 for v5e:2x4, v5e-8 and v5litepod-8.

    Raises:
        UserError: it is none of those that were tried.
    """
    known = [f"{name}:{size}" for name, one in GENERATIONS.items() for size in one.sizes]
    name = topology.replace("v5litepod", "v5e")
    counted = re.fullmatch(r"(\w+)-(\d+)", name)
    if counted and counted[1] in GENERATIONS:
        one = GENERATIONS[counted[1]]
        by_count = {one.cores * math.prod(map(int, size.split("x"))): size for size in one.sizes}
        name = f"{counted[1]}:{by_count.get(int(counted[2]), counted[2])}"
    if name not in known:
        raise UserError(f"--topology={topology} is not known.{suggest(name, known)} {LOCAL}: this machine's devices.")
    return name


def find(topology: str) -> Chips:
    """The Chips of a topology.  For those of a TPU, its compiler libtpu has to be installed.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    if topology == LOCAL:
        devices = placement.find_devices()
        return Chips(f"{len(devices)} {devices[0].device_kind}", devices, memory.device_bytes(), math.nan, math.nan)
    name = full_name(topology)
    from jax.experimental import topologies

    one = {"chips_per_host_bounds": [1, 1, 1]} if name.endswith(":1x1") else {}
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **one).devices
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology={topology} needs the TPU's compiler ({str(error).splitlines()[0]:.200}). Install it with: "
            "pip install -e .[tpu]"
        ) from None
    generation = GENERATIONS[name.partition(":")[0]]
    return Chips(name, devices, _capacity(devices[0]), generation.clock, generation.peak)


def _capacity(device: Any) -> float:
    """The bytes that programs can use, as the compiler says when it refuses one that takes too much."""
    one = jax.ShapeDtypeStruct((TOO_MUCH,), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(one).compile()
    except jax.errors.JaxRuntimeError as error:
        return (sizes(str(error)) or [math.inf])[-1]
    return math.inf


def sizes(message: str) -> list[float]:
    """The numbers of bytes that a compiler's message names, such as 15.75G, in their order."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    return [
        float(number) * units[unit] for number, unit in re.findall(r"\b(\d+(?:\.\d+)?)([KMGT]) ?(?:i?B)?\b", message)
    ]
