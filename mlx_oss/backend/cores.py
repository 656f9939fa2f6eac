"""The cores of MLX's CPU backend: work shared out among its streams. On a GPU nothing here changes anything."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import mlx.core as mx

from mlx_oss.backend import device

SHARED_FROM = 1 << 20  # bytes of weights: about a millisecond of one core, some twenty times what sharing costs


def over_cores(
    function: Callable[..., mx.array],
    *rows: mx.array,
    work: int,
    block: int | None = None,
    axis: int = 0,
    into: int = 0,
    tails: dict[int, mx.array] | None = None,
) -> mx.array:
    """function(*rows), which treats each row alone, with the rows shared out among the CPU backend's cores: MLX
    computes an operation on one core, but the operations of different streams at the same time.

    `work` is the bytes that the function reads; below SHARED_FROM, and on a GPU, sharing costs more than it brings.
    `block` is how many rows it gets at a time at most; None: as many as make one share for each core. Rows are those
    along `axis` of the arrays, and along axis `into` of the result. A core takes one block after another, so that of
    each it finds in its cache what it has made; `tails` is what each core has been given last, for several calls to be
    one queue: MLX by itself would start many blocks at once, and those of one core before those of another.
    """
    count = rows[0].shape[axis]
    if device.on_gpu():
        return function(*rows)
    streams = _cpu.streams if work >= SHARED_FROM else _cpu.streams[:1]
    parts = max(min(count, len(streams)), -(-count // block) if block else 1)
    if parts < 2:
        return function(*rows)
    bounds = [count * part // parts for part in range(parts + 1)]
    shares, tails = [], {} if tails is None else tails
    for part, (start, end) in enumerate(pairwise(bounds)):
        core = part % len(streams)
        with mx.stream(streams[core]):
            share = [array[(slice(None),) * axis + (slice(start, end),)] for array in rows]
            if core in tails:
                share = mx.depends(share, tails[core])
            tails[core] = function(*share)
            shares.append(tails[core])
    return mx.concatenate(shares, into)


def side_stream() -> mx.Stream | None:
    """Where to put work that the next token does not wait for: a second core of the CPU backend; None (the default
    stream) on a GPU, which has nothing to gain from it.
    """
    return None if device.on_gpu() or len(_cpu.streams) < 2 else _cpu.streams[1]


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
