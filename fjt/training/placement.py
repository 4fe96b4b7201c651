"""One mesh axis, `data`: groups of a batch are spread over it, parameters are repeated on it."""

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fjt.core.errors import UserError


def make_mesh(num):
    """A mesh of `num` devices (0: all).  Raises UserError when there are fewer."""
    devices = jax.devices()
    if num > len(devices):
        raise UserError(f"config.mesh.data={num}: there are {len(devices)} {devices[0].platform} devices here.")
    num = num or len(devices)
    return jax.make_mesh((num,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:num])


def replicated(mesh):
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def by_group(mesh):
    """The sharding of arrays whose leading axis is groups."""
    return NamedSharding(mesh, P("data"))


def lanes_by_group(mesh):
    """The sharding of arrays whose leading axis is lanes and whose second is groups."""
    return NamedSharding(mesh, P(None, "data"))
