"""Nothing that runs on MLX's CPU backend is compiled: no compiler is started, and no library in /tmp is loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlx_oss
from mlx_oss.backend import device

SOURCE = Path(mlx_oss.__file__).parent
on_cpu = pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="a GPU compiles its kernels in memory")


def spied(tmp_path: Path, temporary: Path) -> tuple[dict[str, str], Path]:
    """An environment in which every compiler is a program that leaves a trace, and the path of the trace."""
    programs, trace = tmp_path / "programs", tmp_path / "compiler was run"
    programs.mkdir()
    for name in ("g++", "c++", "gcc", "cc", "clang", "clang++"):
        (programs / name).write_text(f'#!/bin/sh\necho "$0 $@" >> "{trace}"\nexit 1\n')
        (programs / name).chmod(0o755)
    temporary.mkdir(exist_ok=True)
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(temporary)}, trace


def chat(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlx_oss", "chat", "--temperature", "0.7", "--max-tokens", "8", "Who are you?"]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@on_cpu
def test_a_chat_starts_no_compiler_and_leaves_the_temporary_folder_empty(tmp_path):
    """Also the first one, which converts nano."""
    temporary = tmp_path / "tmp"
    environment, trace = spied(tmp_path, temporary)
    done = chat(environment | {"MLX_OSS_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 3, done.stderr  # cut off at --max-tokens
    assert not trace.exists() and list(temporary.iterdir()) == []


@on_cpu
def test_a_temporary_folder_that_cannot_be_written_does_not_matter(tmp_path):
    """As where /tmp belongs to another user who was there first, or is mounted noexec."""
    blocked = tmp_path / "tmp"
    blocked.mkdir()
    (blocked / "mlx").write_text("a file where MLX would create its folder")
    environment, trace = spied(tmp_path, blocked)
    done = chat(environment)
    assert done.returncode == 3, done.stderr  # cut off at --max-tokens
    assert "Traceback" not in done.stderr and not trace.exists()


def test_mlx_compiles_in_one_place_only_which_asks_for_the_device():
    """Also a function of mlx.nn that MLX compiles itself, such as nn.silu, may not be used."""
    compiled_by_mlx = {name for name, thing in vars(nn).items() if type(thing).__name__ == "_gc_func"}
    assert "silu" in compiled_by_mlx
    for path in [*SOURCE.rglob("*.py"), *(SOURCE / "convert").rglob("*.py")]:
        attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        for node in attributes:
            owner = ast.unparse(node.value)
            assert not (owner == "nn" and node.attr in compiled_by_mlx), f"{path}:{node.lineno}"
            if (owner, node.attr) == ("mx", "compile"):
                assert path == Path(device.__file__), f"{path}:{node.lineno}"


def test_the_device_is_asked_at_each_call(monkeypatch):
    fused: list[bool] = []
    monkeypatch.setattr(mx, "compile", lambda function, shapeless: lambda *args: fused.append(shapeless))
    function = device.compiled(lambda x: x, shapeless=True)
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert function(3) == 3 and fused == []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert function(3) is None and fused == [True]
