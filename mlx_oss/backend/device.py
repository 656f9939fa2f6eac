"""The one seam to what differs between machines: a GPU and memory wired for it, or a CPU with several cores."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import sys
import threading
from collections.abc import Callable
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import ParamSpec, TypeVar

import mlx.core as mx

from mlx_oss.errors import OptionError

SHARED_FROM = 1 << 20  # bytes of weights: about a millisecond of one core, some twenty times what sharing costs

FREED = 64 << 20  # bytes
_USABLE = 0.95  # of what Metal recommends: above that MLX gives back all that is freed, and every operation takes anew
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

P = ParamSpec("P")
R = TypeVar("R")


def on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def _on_metal() -> bool:
    return on_gpu() and mx.metal.is_available()


def keep_resident() -> int | None:
    """Lets the model's weights stay wired up to what the system recommends, so that they are not paged out between
    tokens.

    Returns the limit in bytes, or None where Metal does not compute (or before macOS 15, which has no such limit).
    """
    if not _on_metal():
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
    if on_gpu():
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


def activation_dtype(dtype: str) -> mx.Dtype:
    """Of "auto", "float32" or "bfloat16": auto is the one that the device is faster in. Raises OptionError."""
    known = {"float32": mx.float32, "bfloat16": mx.bfloat16}
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu() else "float32"
    if dtype not in known:
        hint = ": float16 overflows in the residual stream" if dtype == "float16" else ""
        raise OptionError(f"dtype is {dtype!r}, expected auto, float32 or bfloat16{hint}")
    return known[dtype]


def memory_limit() -> tuple[int, str]:
    """Bytes that a process may take without the system having to swap or end it, and where that number is from: what
    Metal recommends, or what is available now.
    """
    if _on_metal():
        return int(_USABLE * int(mx.device_info()["max_recommended_working_set_size"])), "recommended by Metal"
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # of a container; "max" without a limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes), "available"


def device_name() -> str:
    """Of the chip that computes, as MLX reports it ("Apple M4 Pro"); "CPU backend" off a GPU."""
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else "CPU backend"


def memory_bytes() -> int:
    """What MLX holds on a GPU, kept ones included; on the CPU backend the most that the process has had resident."""
    if on_gpu():
        return mx.get_active_memory() + mx.get_cache_memory()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that the process has had resident, by the operating system."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its kernels fused on a GPU; as it is on the CPU backend, where compiling a new function takes
    a second of a C++ compiler and sampling gains nothing from it.
    """
    return mx.compile(function) if on_gpu() else function


def over_cores(
    function: Callable[..., mx.array],
    *rows: mx.array,
    work: int,
    block: int | None = None,
    axis: int = 0,
    into: int = 0,
    turns: dict[int, mx.array] | None = None,
) -> mx.array:
    """function(*rows), which treats each row alone, with the rows shared out among the CPU backend's cores: MLX
    computes an operation on one core, but the operations of different streams at the same time.

    `work` is the bytes that the function reads; below SHARED_FROM, and on a GPU, sharing costs more than it brings.
    `block` is how many rows it gets at a time at most; None: as many as make one share for each core. Rows are those
    along `axis` of the arrays, and along axis `into` of the result. A core takes one block after another, so that of
    each it finds in its cache what it has made; `turns` is what each core has been given last, for several calls to be
    one queue: MLX by itself would start many blocks at once, and those of one core before those of another.
    """
    count = rows[0].shape[axis]
    if on_gpu():
        return function(*rows)
    streams = _cpu.streams if work >= SHARED_FROM else _cpu.streams[:1]
    parts = max(min(count, len(streams)), -(-count // block) if block else 1)
    if parts < 2:
        return function(*rows)
    bounds = [count * part // parts for part in range(parts + 1)]
    shares, turns = [], {} if turns is None else turns
    for part, (start, end) in enumerate(pairwise(bounds)):
        core = part % len(streams)
        with mx.stream(streams[core]):
            share = [array[(slice(None),) * axis + (slice(start, end),)] for array in rows]
            if core in turns:
                share = mx.depends(share, turns[core])
            turns[core] = function(*share)
            shares.append(turns[core])
    return mx.concatenate(shares, into)


def side_stream() -> mx.Stream | None:
    """Where to put work that the next token does not wait for: a second core of the CPU backend; None (the default
    stream) on a GPU, which has nothing to gain from it.
    """
    return None if on_gpu() or len(_cpu.streams) < 2 else _cpu.streams[1]


def settle() -> None:
    """Waits for everything that this thread has given MLX to compute."""
    mx.synchronize()
    for stream in vars(_cpu).get("streams", ()):
        mx.synchronize(stream)


class _Cpu(threading.local):
    """Streams belong to the thread that made them, so each thread has its own."""

    @cached_property
    def streams(self) -> tuple[mx.Stream, ...]:
        """One for each core that this process may use, the thread's default one first."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return (mx.default_stream(mx.cpu), *(mx.new_stream(mx.cpu) for _ in range(cores - 1)))


_cpu = _Cpu()
