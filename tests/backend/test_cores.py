"""No more threads compute than this process may use cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlx_oss.backend import cores as cores_module


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 6), ("250000 100000", 3), ("10000 100000", 1), ("x", 6)])
def test_no_more_threads_compute_than_the_container_may_use(quota, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cores_module, "Path", lambda path: tmp_path / Path(path).name)
    assert cores_module.usable_cores() == cores
