"""Which device computes, a GPU or MLX's CPU backend, and which dtype and compilation suit it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import mlx.core as mx

from mlx_oss.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")


def on_gpu() -> bool:
    """True if MLX computes on a GPU (Metal or CUDA) by default."""
    return mx.default_device() == mx.Device(mx.gpu)


def on_metal() -> bool:
    """True if MLX computes on the GPU of a Mac."""
    return on_gpu() and mx.metal.is_available()


def device_name() -> str:
    """Name of the GPU as MLX reports it ("Apple M4 Pro"), or "CPU backend" if no GPU computes."""
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else "CPU backend"


def settle() -> None:
    """Waits until MLX has computed everything that this thread has submitted."""
    mx.synchronize()


def free_unused_memory() -> None:
    """Gives the memory of arrays that are gone, which MLX keeps for the next ones, back to the system."""
    settle()
    mx.clear_cache()


def activation_dtype(dtype: str) -> mx.Dtype:
    """Converts the name of a dtype to the MLX dtype.

    Args:
        dtype: "float32", "bfloat16", or "auto": the faster one, bfloat16 on a GPU and float32 on the CPU backend.

    Raises:
        OptionError: If the name is none of these.
    """
    known = {"float32": mx.float32, "bfloat16": mx.bfloat16}
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu() else "float32"
    if dtype not in known:
        hint = ": float16 overflows in the residual stream" if dtype == "float16" else ""
        raise OptionError(f"dtype is {dtype!r}, expected auto, float32 or bfloat16{hint}")
    return known[dtype]


def compiled(function: Callable[P, R], *, shapeless: bool = False) -> Callable[P, R]:
    """The function with its kernels fused (mx.compile) on a GPU, and as it is on the CPU backend.

    Each call decides, because a module may be imported before the device is chosen. On the CPU backend, mx.compile runs
    a C++ compiler, and loads what it finds under a name that can be guessed in the temporary folder, where any user of
    the machine can put a library. So nothing that runs there may be compiled.

    Args:
        function: A function of arrays.
        shapeless: Whether one compilation serves inputs of any shape.
    """
    fused = mx.compile(function, shapeless=shapeless)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return fused(*args, **kwargs) if on_gpu() else function(*args, **kwargs)

    return call
