"""GCC's sanitizers find nothing in the native library while its own tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
(EXTENSION,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["ext-modules"]
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}
INSTEAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location({name!r}, {path!r})
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
"""


def of_gcc(library: str) -> str:
    command = ["gcc", f"-print-file-name={library}"]
    found = subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("gcc") else ""
    if not Path(found).is_absolute():
        pytest.skip(f"needs gcc and its {library}")
    return found


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", RUNTIMES)
def test_nothing_is_found(sanitizer, tmp_path):
    runtime, path = of_gcc(RUNTIMES[sanitizer]), tmp_path / "_native.so"
    options = [*EXTENSION["extra-compile-args"], f"-I{sysconfig.get_path('include')}", "-fPIC", "-shared", "-g"]
    checks = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *options, *checks, *EXTENSION["sources"], "-o", str(path), "-pthread"], cwd=ROOT, check=True)
    (tmp_path / "sitecustomize.py").write_text(INSTEAD.format(name=EXTENSION["name"], path=str(path)))
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "LD_PRELOAD": f"{runtime} {of_gcc('libstdc++.so.6')}",  # MLX's exceptions need the latter from the start
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself never frees some memory
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1 die_after_fork=0",  # Python and MLX are not compiled for it
    }
    tests = ["tests/backend/test_native.py", "tests/backend/test_native_processes.py"]
    # The runtimes reserve more memory than there is.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "not without_memory"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-10_000:] + done.stderr[-10_000:]
