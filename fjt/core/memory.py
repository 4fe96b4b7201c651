"""The size of the device's memory."""

import os

import jax


def device_bytes() -> int:
    """Bytes of memory of the first device; on a CPU, of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
