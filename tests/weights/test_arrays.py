"""Arrays that are filled in place: MLX computes with what was written, and their memory is not touched before."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.weights import arrays
from mlx_oss.weights.arrays import MLX_DTYPES, allocated, bytes_of


@pytest.mark.parametrize("large", [0, arrays.LARGE])
@pytest.mark.parametrize("dtype", MLX_DTYPES.values(), ids=MLX_DTYPES)
def test_what_is_written_is_what_mlx_computes_with(dtype, large, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", large)
    array = allocated((3, 5, 7), dtype)
    assert array.shape == (3, 5, 7) and array.dtype == dtype
    written = mx.arange(105).reshape(3, 5, 7).astype(dtype)
    bytes_of(array)[:] = bytes_of(written + 0)
    assert mx.array_equal(array, written) and mx.array_equal((array + array)[1:], (written + written)[1:])


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 2)])
def test_any_shape_can_be_had(shape, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 0)
    assert allocated(shape, mx.float32).shape == shape


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_large_array_is_not_touched_before_it_is_filled():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before, nbytes = resident(), 256 << 20
    array = allocated((nbytes // 4,), mx.uint32)
    untouched = resident()
    np.array(array, copy=False)[:] = 7
    assert untouched - before < nbytes // 4 < nbytes * 3 // 4 < resident() - before
