"""Finds the programs and libraries of others that use the server, and runs them as their users do.

They are looked for on PATH, in the Python that runs the tests, and in the folder that MLX_OSS_TEST_CLIENTS names:
`node_modules` there is what npm has installed, `venv` an environment of Python. A test of a client that is not there is
skipped. Each runs with a home of its own and without the environment of the user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("MLX_OSS_TEST_CLIENTS", "none")).absolute()
NODE_MODULES = FOLDER / "node_modules"
SECONDS = 240.0


def path() -> str:
    """The PATH of clients: their commands, then those of the user."""
    folders = [NODE_MODULES / ".bin", FOLDER / "venv" / "bin", Path(sys.executable).parent]
    return os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])


def command(name: str) -> str:
    """The path of a command; the test is skipped without it."""
    if (found := shutil.which(name, path=path())) is None:
        pytest.skip(f"{name} is not installed (MLX_OSS_TEST_CLIENTS)")
    return found


def python_with(*modules: str) -> str:
    """A Python that has these modules; the test is skipped without one."""
    for python in (sys.executable, FOLDER / "venv" / "bin" / "python"):
        code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {modules!r})))"
        if Path(python).exists() and subprocess.run([python, "-c", code], capture_output=True).returncode == 0:
            return str(python)
    pytest.skip(f"{' and '.join(modules)} are not installed (MLX_OSS_TEST_CLIENTS)")


def node_with(folder: Path, *packages: str) -> str:
    """The path of node; programs in the folder can import these packages. The test is skipped without them."""
    for package in packages:
        if not (NODE_MODULES / package).exists():
            pytest.skip(f"{package} is not installed (MLX_OSS_TEST_CLIENTS)")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    return command("node")


def environment(home: Path, **others: str) -> dict[str, str]:
    """The environment of a client."""
    return {"PATH": path(), "HOME": str(home), "LANG": "C.UTF-8", **others}


def run(
    arguments: list[str], folder: Path, variables: dict[str, str], *, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Runs a client to its end, without input."""
    return subprocess.run(
        arguments,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
