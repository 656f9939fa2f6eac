"""The one seam to what differs between machines: a GPU and memory wired for it, or a CPU with several cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import mlx.core as mx

P = ParamSpec("P")
R = TypeVar("R")


def on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def keep_resident() -> int | None:
    """Lets the model's weights stay wired up to what the system recommends, so that they are not paged out between
    tokens.

    Returns the limit in bytes, or None without Metal (or before macOS 15, which has no such limit).
    """
    if not mx.metal.is_available():
        return None
    limit = int(mx.device_info()["max_recommended_working_set_size"])
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError):
        return None
    return limit


def device_name() -> str:
    """Of the chip that computes, as MLX reports it ("Apple M4 Pro"); "CPU backend" off a GPU."""
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else "CPU backend"


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its kernels fused on a GPU; as it is on the CPU backend, where compiling a new function takes
    a second of a C++ compiler and sampling gains nothing from it.
    """
    return mx.compile(function) if on_gpu() else function


@lru_cache(maxsize=1)
def side_stream() -> mx.Stream | None:
    """Where to put work that the next token does not wait for: a second core of the CPU backend; None (the default
    stream) on a GPU, which has nothing to gain from it.
    """
    return None if on_gpu() else mx.new_stream(mx.cpu)
