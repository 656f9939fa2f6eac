"""A fast BLAS is loaded before MLX if there is one, and not looked for where it cannot help."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlx_oss.backend import blas
from mlx_oss.backend.blas import prefer_fast_blas

HAS_GEMM = SimpleNamespace(cblas_sgemm=None)


@pytest.fixture
def libraries(monkeypatch):
    """libraries({name: library}) makes these the libraries of a Linux system, with MLX not loaded yet.

    Returns a list to which each attempt to load a library adds its (name, mode).
    """
    prefer_fast_blas.cache_clear()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)

    def install(present: dict[str, object]) -> list[tuple[str, int]]:
        asked: list[tuple[str, int]] = []

        def load(name: str, mode: int) -> object:
            asked.append((name, mode))
            if name not in present:
                raise OSError(f"{name}: cannot open shared object file")
            return present[name]

        monkeypatch.setattr(blas.ctypes, "CDLL", load)
        return asked

    yield install
    prefer_fast_blas.cache_clear()


def test_the_first_one_found_is_loaded_for_everyone(libraries):
    asked = libraries({"libopenblasp.so.0": HAS_GEMM, "libblis.so.4": HAS_GEMM})
    assert prefer_fast_blas() == "libopenblasp.so.0"
    assert asked == [(name, ctypes.RTLD_GLOBAL) for name in ("libopenblas.so.0", "libopenblasp.so.0")]


def test_one_in_the_environment_of_python_is_found(libraries, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/conda")
    libraries({"/opt/conda/lib/libopenblas.so.0": HAS_GEMM})
    assert prefer_fast_blas() == "/opt/conda/lib/libopenblas.so.0"


def test_a_library_without_the_c_interface_is_passed_over(libraries):
    libraries({"libopenblas.so.0": SimpleNamespace(), "libblis.so.4": HAS_GEMM})
    assert prefer_fast_blas() == "libblis.so.4"


def test_a_system_without_one_is_fine(libraries):
    libraries({})
    assert prefer_fast_blas() is None


@pytest.mark.parametrize(("environment", "expected"), [({}, [1]), ({"OPENBLAS_NUM_THREADS": "4"}, [])])
def test_it_computes_on_one_core_unless_the_environment_says_otherwise(libraries, monkeypatch, environment, expected):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    threads: list[int] = []
    libraries({"libopenblas.so.0": SimpleNamespace(cblas_sgemm=None, openblas_set_num_threads=threads.append)})
    assert prefer_fast_blas() and threads == expected


@pytest.mark.parametrize("elsewhere", [("platform", "darwin"), ("modules", {**sys.modules, "mlx.core": object()})])
def test_nothing_is_loaded_where_it_cannot_help(libraries, monkeypatch, elsewhere):
    asked = libraries({"libopenblas.so.0": HAS_GEMM})
    monkeypatch.setattr(sys, *elsewhere)
    assert prefer_fast_blas() is None and asked == []


@pytest.mark.parametrize("name", ["load", "LocalEngine", "generate_step", "Transformer", "Cache"])
def test_every_public_name_that_loads_mlx_looks_for_one_first(name):
    program = f"""
import sys, mlx_oss, mlx_oss.backend.blas as blas
seen = []
blas.prefer_fast_blas = lambda: seen.append("mlx.core" in sys.modules)
mlx_oss.{name}
assert seen[0] is False and "mlx.core" in sys.modules, seen
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_matrix_products_are_the_same_with_it():
    program = """
import numpy as np, mlx_oss
from mlx_oss.backend.blas import prefer_fast_blas
prefer_fast_blas()
import mlx.core as mx
a, b = (np.random.default_rng(1).standard_normal(s).astype("float32") for s in ((37, 211), (211, 53)))
assert np.abs(np.array(mx.array(a) @ mx.array(b)) - a.astype("float64") @ b).max() < 1e-4
"""
    subprocess.run([sys.executable, "-c", program], check=True)
