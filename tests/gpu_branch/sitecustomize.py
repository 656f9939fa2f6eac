"""`pytest --gpu-branch DTYPE`: what the package does on a GPU, whatever device computes.

With this folder on PYTHONPATH, Python imports this module when it starts. So the programs that tests start do the same
as the tests.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

VARIABLE = "MLX_OSS_TESTS_GPU_BRANCH"  # the dtype, for the programs that tests start
DEVICE = "mlx_oss.backend.device"


def take(device: ModuleType, dtype: str) -> None:
    """Makes `mlx_oss.backend.device` say that a GPU computes, and that the dtype "auto" means `dtype` there."""
    real = device.activation_dtype
    device.on_gpu = lambda: True
    device.activation_dtype = lambda name: real(dtype if name == "auto" and device.on_gpu() else name)


class WhenImported:
    """Changes the module once it is imported; before that it would import MLX, which many programs never need."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != DEVICE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            take(module, os.environ[VARIABLE])

        spec.loader.exec_module = run_and_change
        return spec


if __name__ == "sitecustomize" and VARIABLE in os.environ:
    sys.meta_path.insert(0, WhenImported())
