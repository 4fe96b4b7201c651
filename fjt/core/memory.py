"""Memory: the size of the device's memory; on the host, large pages for XLA's calls of malloc."""

import os
import sys
from collections.abc import Mapping

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def large_pages_help(environ: Mapping[str, str], pages: str = PAGES) -> bool:
    """Whether a restart with SETTING would give malloc large pages.

    It would if Linux offers them on request (`madvise`), the C library is a glibc that can ask for them (2.35), and
    the environment does not set glibc's tunables, not even to an empty value.
    """
    if VARIABLE in environ or "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return False
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35) or not os.path.exists(pages):
        return False
    with open(pages) as file:
        return "[madvise]" in file.read()


def use_large_pages() -> None:
    """Restarts this program, as the same process, with transparent huge pages for malloc where that helps.

    On a CPU, XLA allocates each step's temporary memory with malloc and frees it again, so that each step maps its
    pages anew: with pages of 4 KiB this takes a tenth to a sixth of a BERT step. malloc reads its tunables only when a
    program starts.
    """
    if large_pages_help(os.environ):
        os.environ[VARIABLE] = SETTING
        os.execv(sys.executable, sys.orig_argv)


def device_bytes() -> int:
    """Bytes of memory of the first device; on a CPU, of the machine."""
    import jax  # only here: use_large_pages restarts the program before jax is imported

    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
