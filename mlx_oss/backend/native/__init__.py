"""Products and attention of MLX's CPU backend, computed by a small library of ours in C.

MLX's own operations take several times as long as reading the weights does, because they make float32 of a matrix
before they multiply with it, on one core. The library multiplies with weights as they are stored, on all cores. It
reads MLX's arrays in place, so they are computed before a call: on the CPU backend a model does not run ahead of its
graph. The installation builds the library where there is a C compiler. Elsewhere `computes` is False, and the layers
use MLX's operations. Knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_oss.backend import device
from mlx_oss.backend.cores import usable_cores
from mlx_oss.config import MXFP4, QuantizationSpec

_INTERFACE = 2  # raised with each change of what the functions of the library take, in `module.c` too


def _library() -> Any:
    """The library, or None: without a compiler, on other systems, and if it was built before the code has changed."""
    try:
        from mlx_oss.backend.native import _native as library
    except ImportError:
        return None
    return library if getattr(library, "INTERFACE", 0) == _INTERFACE else None


_native = _library()
_EVERYTHING = 2**31 - 1  # more positions than there are


class SwiGLU(NamedTuple):
    """The activation of the experts, as `model.swiglu` computes it.

    Attributes:
        alpha: Factor of gate in the sigmoid; not 0.
        limit: Where gate and up are clamped.
        alternates: True if even rows of the matrix are gate and odd ones are up; False if gate is the first half.
    """

    alpha: float
    limit: float
    alternates: bool


def vectors() -> str | None:
    """The vectors that the library computes with: "AVX-512", "AVX2", "NEON" or "C". None if there is no library."""
    return _started() if _native else None


def computes(spec: QuantizationSpec | None) -> bool:
    """True if this process computes products with such matrices here; None stands for floats."""
    if _native is None or device.on_gpu():
        return False
    return (
        spec is None or spec == MXFP4 or (spec.mode == "affine" and spec.bits in (4, 8) and spec.group_size % 32 == 0)
    )


def product(
    x: mx.array,
    spec: QuantizationSpec | None,
    stored: Sequence[mx.array],
    bias: mx.array | None = None,
    experts: mx.array | None = None,
    swiglu: SwiGLU | None = None,
) -> mx.array:
    """x (..., inputs) -> (..., outputs) in the dtype of x, added up in float32.

    The bits of a row depend on nothing but this row, its expert and the kind of processor.

    Args:
        x: The rows; (n, 1, inputs) if there are experts.
        spec: How the matrix is packed. None: its values are floats.
        stored: The weight (outputs, inputs); if packed also the scales, and the biases if affine. Of all experts, one
            after another, if there are experts.
        bias: Added to each row: (outputs,), or (number of experts, outputs).
        experts: (N,) uint32. Each row of x belongs to N / n of them, and the result is (N, 1, outputs).
        swiglu: The activation that follows; then the matrix has two rows for each output.
    """
    _started()
    outputs = stored[0].shape[-2] // (2 if swiglu else 1)
    shape = (*x.shape[:-1], outputs) if experts is None else (experts.size, 1, outputs)
    result = np.empty(shape, np.float32)
    if bias is not None and bias.dtype != mx.float32:
        bias = bias.astype(mx.float32)
    rows = np.ascontiguousarray(_values(x if x.dtype == mx.float32 else x.astype(mx.float32)))
    ids = None if experts is None else np.ascontiguousarray(_values(experts))  # it may be a view with gaps
    bits, group = (spec.bits, spec.group_size) if spec else (0, 0)
    alpha, limit, alternates = swiglu or (0.0, 0.0, False)
    weight, scales, biases = (*stored, None, None)[:3]
    _native.product(result, rows, ids, weight, scales, biases, bias, bits, group, alpha, limit, alternates)
    return mx.array(result).astype(x.dtype)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, sinks: mx.array, window: int | None = None
) -> mx.array:
    """Like `model.attention.attention`: q (B, H, L, D), k and v (B, K, S, D) -> (B, L, H, D) in the dtype of q."""
    _started()
    B, H, L, D = q.shape
    dtype = q.dtype
    if dtype != mx.float32:
        q, k, v = (array.astype(mx.float32) for array in (q, k, v))
    sinks = sinks.astype(mx.float32)
    mx.eval(q, k, v, sinks)
    result = np.empty((B, L, H, D), np.float32)
    _native.attention(result, q, k, v, sinks, scale, window or _EVERYTHING)
    return mx.array(result).astype(dtype)


def _values(array: mx.array) -> np.ndarray:
    """The memory of an array, which is computed first."""
    mx.eval(array)
    return np.array(array, copy=False)


@cache
def _started() -> str | None:
    return use()


def use(level: int = 0, threads: int | None = None) -> str | None:
    """Uses the fastest vectors of this machine, or slower ones for levels above 0, on so many threads; None means all.

    Returns:
        The name of the vectors, or None if this machine has no such level.
    """
    name: str | None = _native.use(level, usable_cores() if threads is None else threads)
    return name
