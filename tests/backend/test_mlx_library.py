"""MLX that is missing or cannot be loaded: one sentence that says what to do. The linker's words are dyld's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_oss.cli import COMMANDS
from tests.synthetic import TINY, write_checkpoint

LIBRARY = "/venv/lib/python3.12/site-packages/mlx/core.cpython-312-darwin.so"
ROSETTA = (
    f"dlopen({LIBRARY}, 0x0002): tried: '{LIBRARY}' (mach-o file, but is an incompatible architecture (have 'arm64', "
    f"need 'x86_64')), '/System/Volumes/Preboot/Cryptexes/OS{LIBRARY}' (no such file)"
)
ROSETTA_WITH_TWO_KINDS = ROSETTA.replace("need 'x86_64'", "need 'x86_64h' or 'x86_64'")
OLD_MACOS = (
    f"dlopen({LIBRARY}, 0x0002): Symbol not found: _cblas_sgemm$NEWLAPACK\n  Referenced from: <8AC9CE5F-E0BC> "
    "/venv/lib/python3.12/site-packages/mlx/lib/libmlx.dylib (built for macOS 14.0 which is newer than running OS)\n"
    "  Expected in:     <0494A450-9778> /System/Library/Frameworks/Accelerate.framework/Versions/A/Accelerate"
)
HALF_INSTALLED = (
    f"dlopen({LIBRARY}, 0x0002): Library not loaded: @rpath/libmlx.dylib\n"
    f"  Referenced from: <4A900F73-B9D2> {LIBRARY}\n"
    "  Reason: tried: '/venv/lib/python3.12/site-packages/mlx/lib/libmlx.dylib' (no such file)"
)
EXPECTED = {
    "not installed": (None, "MLX is not installed in "),
    "Rosetta": (ROSETTA, "MLX needs a Python for arm64, but "),
    "Rosetta, two kinds": (ROSETTA_WITH_TWO_KINDS, "MLX needs a Python for arm64, but "),
    "old macOS": (OLD_MACOS, "this MLX is built for macOS 14.0, which is newer than the macOS of this Mac"),
    "half installed": (HALF_INSTALLED, f"MLX cannot be loaded (dlopen({LIBRARY}, 0x0002): Library not loaded: @rpath"),
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the modules of a folder before all others, and with no nano in the cache."""
    environment = os.environ | {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}", "MLX_OSS_CACHE": str(folder)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def fake_mlx(folder: Path, message: str | None) -> Path:
    """A package mlx in a folder: importing its `core` raises an ImportError with a message. None: it has no core."""
    (folder / "mlx").mkdir()
    (folder / "mlx" / "__init__.py").touch()
    if message is not None:
        (folder / "mlx" / "core.py").write_text(f"raise ImportError({message!r})\n")
    return folder


def test_a_file_that_hides_mlx_is_named(tmp_path):
    (tmp_path / "mlx.py").touch()
    done = run(tmp_path, "-m", "mlx_oss", "chat", "Hi", "--model", "folder")
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path / 'mlx.py'} hides the library MLX: ")


@pytest.mark.parametrize("case", EXPECTED)
def test_the_command_prints_one_sentence(case, tmp_path):
    message, expected = EXPECTED[case]
    done = run(fake_mlx(tmp_path, message), "-m", "mlx_oss", "chat", "Hi", "--model", "folder")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {expected}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("case", EXPECTED)
def test_the_api_raises_an_engine_error_that_keeps_the_reason(case, tmp_path):
    message, expected = EXPECTED[case]
    program = (
        "import mlx_oss\ntry:\n    mlx_oss.load('folder')\n"
        "except mlx_oss.EngineError as error:\n    print(error, repr(error.__cause__), sep='\\n')"
    )
    done = run(fake_mlx(tmp_path, message), "-c", program)
    assert done.stderr == "" and done.stdout.startswith(expected)
    assert done.stdout.splitlines()[1].startswith(("ImportError", "ModuleNotFoundError"))


OF_NAMES = ("models", "pull", "rm", "config", "hosts")
NEEDING = {"chat": ["Hi"], "serve": ["--port", "0"], "generate": ["Hi"], "plan": [], "bench": ["--repeats", "1"]}
NEEDING |= {"compare": ["nano", "nano"]}


@pytest.mark.parametrize("command", NEEDING)
def test_every_command_that_needs_mlx_says_so_when_it_takes_nano(command, tmp_path):
    done = run(fake_mlx(tmp_path, OLD_MACOS), "-m", "mlx_oss", command, *NEEDING[command])
    *notes, last = done.stderr.splitlines()
    assert done.returncode == 1 and last.startswith("error: this MLX is built for macOS 14.0") and len(notes) <= 2
    assert not list(tmp_path.glob(".nano*"))


def test_a_benchmark_of_a_folder_says_so_too(tmp_path):
    done = run(fake_mlx(tmp_path, OLD_MACOS), "-m", "mlx_oss", "bench", "./folder", "--repeats", "1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "mlx-oss cannot run folder: this MLX is built for macOS 14.0" in done.stderr


def test_converting_needs_mlx_only_to_quantise(tmp_path):
    others = {"render", "parse", "convert", "verify", "doctor", "completion", "batch", "eval", "research", "mcp"}
    others |= set(OF_NAMES)
    assert set(NEEDING) | others == set(COMMANDS)
    folder = fake_mlx(tmp_path, ROSETTA)
    source = write_checkpoint(tmp_path / "src", TINY | {"hidden_size": 192, "head_dim": 64}, seed=1)
    converted = run(folder, "-m", "mlx_oss", "convert", str(source), str(tmp_path / "dst"))
    assert converted.returncode == 0, converted.stderr
    refused = run(folder, "-m", "mlx_oss", "convert", str(source), str(tmp_path / "q8"), "--profile", "q8")
    assert refused.returncode == 1 and refused.stderr.startswith("error: MLX needs a Python for arm64")
    assert not (tmp_path / "q8").exists()


def test_without_the_other_packages_the_command_says_what_to_run(tmp_path):
    (tmp_path / "tiktoken.py").write_text("raise ModuleNotFoundError('No module named tiktoken', name='tiktoken')")
    (tmp_path / "messages.json").write_text('[{"role": "user", "content": "Hi"}]')
    done = run(tmp_path, "-m", "mlx_oss", "render", str(tmp_path / "messages.json"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the package tiktoken is not installed in ")
