"""Memory: how much the device has; on the host, large pages for what XLA takes from malloc."""

import os
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def large_pages_help(environ, pages=PAGES):
    """Whether starting again with SETTING would give large pages: Linux offers them on request (`madvise`), the C
    library is a glibc that can ask (2.35), and nobody has set its tunables, be it to nothing."""
    if VARIABLE in environ or "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return False
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35) or not os.path.exists(pages):
        return False
    with open(pages) as file:
        return "[madvise]" in file.read()


def use_large_pages():
    """Starts this program once more, as the same process, with transparent huge pages for malloc; or returns.

    On a CPU XLA takes each step's temporary memory from malloc and gives it back, so that each step maps it anew:
    with pages of 4 KiB that is a tenth to a sixth of a BERT step. malloc reads its tunables at the start only.
    """
    if large_pages_help(os.environ):
        os.environ[VARIABLE] = SETTING
        os.execv(sys.executable, sys.orig_argv)


def device_bytes():
    """Bytes of memory of the first device: on a CPU, of the machine."""
    import jax  # an entry point starts the program once more before it is imported

    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
