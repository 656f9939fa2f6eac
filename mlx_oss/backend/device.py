"""What computes here: a GPU, or MLX's CPU backend, and what follows from that for dtypes and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import mlx.core as mx

from mlx_oss.errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")


def on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def on_metal() -> bool:
    return on_gpu() and mx.metal.is_available()


def device_name() -> str:
    """Of the chip that computes, as MLX reports it ("Apple M4 Pro"); "CPU backend" off a GPU."""
    return str(mx.device_info().get("device_name", "GPU")) if on_gpu() else "CPU backend"


def activation_dtype(dtype: str) -> mx.Dtype:
    """Of "auto", "float32" or "bfloat16": auto is the one that the device is faster in. Raises OptionError."""
    known = {"float32": mx.float32, "bfloat16": mx.bfloat16}
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu() else "float32"
    if dtype not in known:
        hint = ": float16 overflows in the residual stream" if dtype == "float16" else ""
        raise OptionError(f"dtype is {dtype!r}, expected auto, float32 or bfloat16{hint}")
    return known[dtype]


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its kernels fused on a GPU; as it is on the CPU backend, where compiling a new function takes
    a second of a C++ compiler and sampling gains nothing from it.
    """
    return mx.compile(function) if on_gpu() else function
