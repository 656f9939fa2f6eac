"""The host's memory: how much a model may use, how freed memory is reused, and what the process uses."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from functools import lru_cache
from pathlib import Path

import mlx.core as mx

from mlx_oss.backend import device
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.backend.machine import Machine, mac
from mlx_oss.backend.process_memory import peak_memory_bytes

FREED = 64 << 20  # bytes of freed memory to keep for reuse
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def this_machine() -> Machine:
    """The machine that this process runs on. If its GPU is not Metal's, the limit is the memory that is free now.

    Raises:
        DeviceError: If there is no GPU although MLX was built for one.
    """
    if device.on_metal():
        with device_errors:
            info = mx.device_info()
        return mac(int(info["memory_size"]), int(info["max_recommended_working_set_size"]))
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # limit of a container; the file says "max" if there is none
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return Machine(min(sizes), gpu=device.on_gpu())


def keep_freed_memory(spare: int = 0) -> bool:
    """Sets how much freed memory the allocator keeps for reuse.

    On a GPU, MLX would keep nearly as much as the system recommends, whatever the model's memory limit. It is set to
    keep `spare` bytes, but at least FREED. On the CPU backend, the C library would return each larger array to the
    system, and getting it back page by page takes longer than most operations. It is set to keep up to FREED bytes at a
    time, and arrays of up to 32 MB, which is the most that glibc allows.

    Args:
        spare: Bytes that the model's memory limit leaves unused; only a GPU uses it.

    Returns:
        True if the allocator accepted the limits.
    """
    if device.on_gpu():
        mx.set_cache_limit(max(spare, FREED))
        return True
    return _set_malloc_thresholds()


@lru_cache(maxsize=1)
def _set_malloc_thresholds() -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: FREED}
    return mallopt is not None and all(mallopt(*setting) for setting in settings.items())


def in_large_pages(memory: memoryview) -> bool:
    """Requests huge pages (2 MB instead of 4 KB, wherever they fit) for memory that has not been touched yet.

    The system then has far fewer pages to provide.

    Returns:
        True if the request was accepted. Only Linux can; the pages of a Mac are 16 KB.
    """
    if sys.platform != "linux":
        return False
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = (start + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or end <= start:
        return False
    status: int = madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_HUGEPAGE)
    return status == 0


def memory_bytes() -> int:
    """Bytes of memory in use.

    On a GPU these are MLX's buffers, including freed ones that it keeps for reuse. On the CPU backend it is the peak
    memory of the process.
    """
    if device.on_gpu():
        return mx.get_active_memory() + mx.get_cache_memory()
    return peak_memory_bytes()
