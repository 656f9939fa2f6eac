"""MLX arrays whose bytes are read and written in place, behind MLX's back.

Nobody may compute with an array while it is written: MLX does not know of it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

STORED = {"U32": mx.uint32, "U8": mx.uint8, "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


def allocated(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Zeros that are in memory already."""
    array = mx.zeros(shape, dtype)
    mx.eval(array)
    return array


def bytes_of(array: mx.array) -> memoryview:
    """The bytes of a computed array, by rows; it lives as long as they are held."""
    content: Any = array
    return memoryview(content).cast("B")
