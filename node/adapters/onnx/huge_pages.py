"""Weights in huge pages: every step reads all of them.

Ten megabytes are 2,600 pages of 4 kB, more than a core keeps addresses of; in pages of 2 MB a step
of the shipped model takes a seventh less time.  Linux only, and only a wish: what the kernel does
not give is left as it is.
"""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HUGE: Final = 2 * 1024 * 1024
"""Bytes of a huge page on x86-64 and, with pages of 4 kB, on ARM."""
_MADV_COLLAPSE: Final = 25
"""Linux 6.1: gather a range in huge pages now, whatever the system's setting is."""
_MAPS: Final = Path("/proc/self/maps")


def collapse() -> None:
    """Gather this process's own memory in huge pages, as it is now."""
    if not sys.platform.startswith("linux"):
        return
    try:
        maps = _MAPS.read_text()
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, stop in ranges(maps):
        madvise(start, stop - start, _MADV_COLLAPSE)


def ranges(maps: str) -> Iterator[tuple[int, int]]:
    """Whole huge pages of memory that no file stands behind, from the text of `/proc/PID/maps`."""
    for line in maps.splitlines():
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        if not rights.startswith("rw") or inode != "0" or (name and name[0] != "[heap]"):
            continue  # a file's, or a stack
        start, stop = (int(address, 16) for address in addresses.split("-"))
        start, stop = -(-start // HUGE) * HUGE, stop // HUGE * HUGE
        if start < stop:
            yield start, stop
