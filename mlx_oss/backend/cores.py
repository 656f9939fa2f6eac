"""Divides work among the cores of MLX's CPU backend, with one stream for each core.

On a GPU nothing here changes what is computed or where.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import mlx.core as mx

from mlx_oss.backend import device

# Bytes of weights. Reading them takes one core about a millisecond, some twenty times what dividing the work costs.
SHARED_FROM = 1 << 20


def over_cores(
    function: Callable[..., mx.array],
    *rows: mx.array,
    work: int,
    block: int | None = None,
    axis: int = 0,
    into: int = 0,
    tails: dict[int, mx.array] | None = None,
) -> mx.array:
    """function(*rows), computed block by block with the blocks divided among the cores of the CPU backend.

    MLX computes one operation on one core, but operations of different streams at the same time. So each core has a
    stream, and blocks go to the streams in turn. A block starts when the previous block of its core is done, so that
    its intermediate results stay in that core's cache. MLX alone would start many blocks at once, and all blocks of one
    core before those of the next. On a GPU the function is called once, with all rows.

    Args:
        function: Must treat each row independently of the others.
        *rows: Arrays with the same number of rows along `axis`.
        work: Bytes that the function reads. Below SHARED_FROM one core computes all blocks, because dividing the work
            would cost more than it gains.
        block: Maximum number of rows in a block. None makes one block for each core.
        axis: Axis of the rows in the arrays.
        into: Axis of the rows in the result.
        tails: The last result of each core, by core; updated in place. Calls that share it form one queue per core.

    Returns:
        The results of all blocks, joined along axis `into`.
    """
    count = rows[0].shape[axis]
    if device.on_gpu():
        return function(*rows)
    streams = _cpu.streams if work >= SHARED_FROM else _cpu.streams[:1]
    blocks = max(min(count, len(streams)), -(-count // block) if block else 1)
    if blocks < 2:
        return function(*rows)
    bounds = [count * number // blocks for number in range(blocks + 1)]
    results, tails = [], {} if tails is None else tails
    for number, (start, end) in enumerate(pairwise(bounds)):
        core = number % len(streams)
        with mx.stream(streams[core]):
            arguments = [array[(slice(None),) * axis + (slice(start, end),)] for array in rows]
            if core in tails:
                arguments = mx.depends(arguments, tails[core])
            tails[core] = function(*arguments)
            results.append(tails[core])
    return mx.concatenate(results, into)


def side_stream() -> mx.Stream | None:
    """The stream of a second core of the CPU backend, for work that can run in parallel with the default one.

    None, which means the default stream, on a GPU (which would gain nothing) and on a machine with one core.
    """
    return None if device.on_gpu() or len(_cpu.streams) < 2 else _cpu.streams[1]


def settle() -> None:
    """Waits until MLX has computed everything that this thread has submitted."""
    mx.synchronize()
    for stream in vars(_cpu).get("streams", ()):
        mx.synchronize(stream)


class _Cpu(threading.local):
    """The streams of a thread. A stream belongs to the thread that created it, so each thread has its own."""

    @cached_property
    def streams(self) -> tuple[mx.Stream, ...]:
        """One stream for each core that this process may use; the first is the thread's default stream."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return (mx.default_stream(mx.cpu), *(mx.new_stream(mx.cpu) for _ in range(cores - 1)))


_cpu = _Cpu()
