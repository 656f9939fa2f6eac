"""What is measured of several machines, by all of them at the same time. Knows nothing of what is computed."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import mlx.core as mx

from mlx_oss.backend.process_memory import peak_memory_bytes
from mlx_oss.model.sharding import Shard


def memory_of_each(shard: Shard) -> list[int]:
    """The most bytes of memory that the process of each machine has used."""
    found: Any = shard.of_all(mx.array(peak_memory_bytes(), mx.int64)).tolist()
    return list(found)


def gather_seconds(shard: Shard, numbers: int, times: int) -> float:
    """The seconds of a gather of so many numbers (float32) from all machines together: the median of so many.

    Args:
        shard: The part of this machine.
        numbers: A multiple of the number of machines.
        times: At least 1. As many are not counted before them, because the first ones take far longer.
    """
    part, measured = mx.zeros(numbers // shard.rank.size), []
    for _ in range(2 * times):
        mx.eval(part)
        started = time.perf_counter()
        mx.eval(shard.of_all(part))
        measured.append(time.perf_counter() - started)
    return median(measured[times:])
