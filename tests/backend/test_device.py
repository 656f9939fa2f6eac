"""What `backend.device` reports on a GPU and on the CPU backend."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_oss.backend import device
from mlx_oss.backend.cores import side_stream
from mlx_oss.backend.device import compiled, device_name, on_gpu


def test_a_gpu_compiles_and_has_no_side_stream(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4 Pro"})
    assert side_stream() is None and device_name() == "Apple M4 Pro"
    function = compiled(lambda x: mx.exp(x) + 1)
    assert np.allclose(function(mx.array([1.0])), np.e + 1)


def test_on_the_cpu_backend_a_function_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert compiled(len) is len and device_name() == "CPU backend"


def test_mlx_says_whether_there_is_a_gpu():
    assert on_gpu() == (mx.default_device().type == mx.gpu)
