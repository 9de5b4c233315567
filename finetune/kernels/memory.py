"""What the system and the C library do with large blocks of memory, on Linux.

By default glibc's allocator asks the system for each large block and gives it back when it is freed. The
system clears the memory again each time, page by page, which takes a fifth of a training step on a CPU and a
third of encoding pictures. Nothing here changes a result.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from array import array

from torch import Tensor

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_WORTH_IT = 2**16  # bytes
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on freed memory is used again by this process, not given back to the system."""
    if libc := _glibc():
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _MOST)


def give_back_freed_memory() -> None:
    """Gives back what is free now, as after a part of the work that needed more than the rest will."""
    if libc := _glibc():
        libc.malloc_trim(0)


class Scattered:
    """Gives freed memory back when much was freed in pieces between others, where little else fits.

    Args:
        most: Bytes of it that may lie unused.
    """

    def __init__(self, most: int = 2**29) -> None:
        self._most, self._freed = most, 0

    def add(self, size: int) -> None:
        """Counts a piece of `size` bytes that has been freed."""
        self._freed += size
        if self._freed > self._most:
            self._freed = 0
            give_back_freed_memory()


def release_mapped(tensor: Tensor) -> None:
    """Gives back the memory of a tensor that is mapped from a file; reading it again reads the file.

    Nothing is done to any other tensor, nor to one that was changed since.
    """
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or size < _WORTH_IT or not sys.platform.startswith("linux"):
        return
    # The pages at both ends may hold parts of other tensors.
    first, end = -(-tensor.data_ptr() // mmap.PAGESIZE), (tensor.data_ptr() + size) // mmap.PAGESIZE
    if _all_of_files(first, end - first):
        start, length = first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _all_of_files(first: int, count: int) -> bool:
    """Whether so many pages, from the one numbered `first`, are a file's own, or not in memory at all."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(8 * first)
            flags = array("Q", pagemap.read(8 * count))
    except OSError:
        return False
    # The three highest bits: in memory, swapped out, of a file (Documentation/admin-guide/mm/pagemap.rst).
    return len(flags) == count and all(flag >> 61 in (0b000, 0b101) for flag in set(flags))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
