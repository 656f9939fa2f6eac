"""The memory of the host: what a model may take of it, what stays wired, and what is kept of what is freed."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import sys
from functools import lru_cache
from pathlib import Path

import mlx.core as mx

from mlx_oss.backend import device

FREED = 64 << 20  # bytes
_USABLE = 0.95  # of what Metal recommends: above that MLX gives back all that is freed, and every operation takes anew
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def memory_limit() -> tuple[int, str]:
    """Bytes that a process may take without the system having to swap or end it, and where that number is from: what
    Metal recommends, or what is available now.
    """
    if device.on_metal():
        return int(_USABLE * int(mx.device_info()["max_recommended_working_set_size"])), "recommended by Metal"
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" without a limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes), "available"


def keep_resident() -> int | None:
    """Lets the model's weights stay wired up to what the system recommends, so that they are not paged out between
    tokens.

    Returns the limit in bytes, or None where Metal does not compute (or before macOS 15, which has no such limit).
    """
    if not device.on_metal():
        return None
    limit = int(mx.device_info()["max_recommended_working_set_size"])
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError):
        return None
    return limit


def keep_freed_memory(spare: int = 0) -> bool:
    """How much of what is freed is kept to be used again. Returns whether somebody could be told.

    On a GPU MLX would keep nearly all that the system recommends, whatever a model may take: FREED bytes are kept, or
    the `spare` ones. The C library of a CPU backend would give each larger array back to the system, and getting it
    again page by page takes longer than most operations: up to FREED bytes at a time, and arrays up to the 32 MB that
    glibc allows, are kept.
    """
    if device.on_gpu():
        mx.set_cache_limit(max(spare, FREED))
        return True
    return _tell_c_library()


@lru_cache(maxsize=1)
def _tell_c_library() -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: FREED}
    return mallopt is not None and all(mallopt(*setting) for setting in settings.items())


def in_large_pages(memory: memoryview) -> bool:
    """Asks for pages of 2 MB instead of 4 KB, wherever they fit, for memory that nobody has touched yet: the system has
    to provide far fewer. Returns whether that was granted, which only Linux can; a Mac's are 16 KB.
    """
    if sys.platform != "linux":
        return False
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = (start + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or end <= start:
        return False
    return madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE) == 0


def memory_bytes() -> int:
    """What MLX holds on a GPU, kept ones included; on the CPU backend the most that the process has had resident."""
    if device.on_gpu():
        return mx.get_active_memory() + mx.get_cache_memory()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that the process has had resident, by the operating system."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
