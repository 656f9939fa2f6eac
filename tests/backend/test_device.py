"""What `backend.device` reports on a GPU and on the CPU backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import device
from mlx_oss.backend.device import compiled, device_name, on_gpu
from tests.gpu_branch import sitecustomize as gpu_branch


def test_a_gpu_compiles(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M4 Pro"})
    assert device_name() == "Apple M4 Pro"
    function = compiled(lambda x: mx.exp(x) + 1)
    assert np.allclose(function(mx.array([1.0])), np.e + 1)


def test_on_the_cpu_backend_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(mx, "compile", lambda function, shapeless: None)
    assert compiled(len)("four") == 4 and device_name() == "CPU backend"


def test_mlx_says_whether_there_is_a_gpu(request):
    forced = request.config.getoption("--gpu-branch") is not None
    assert on_gpu() == (forced or mx.default_device().type == mx.gpu)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_program_that_a_test_starts_takes_the_same_branch_and_loads_mlx_no_sooner(dtype):
    program = """
import sys, mlx_oss
assert "mlx.core" not in sys.modules
from mlx_oss.backend import device, native
print(device.on_gpu(), native.computes(None), device.activation_dtype("auto"), device.activation_dtype("float32"))
"""
    folders = [str(Path(gpu_branch.__file__).parent), os.environ.get("PYTHONPATH", "")]
    variables = {gpu_branch.VARIABLE: dtype, "PYTHONPATH": os.pathsep.join(folders)}
    out = subprocess.check_output([sys.executable, "-c", program], env=os.environ | variables, text=True)
    assert out.split() == ["True", "False", f"mlx.core.{dtype}", "mlx.core.float32"]
