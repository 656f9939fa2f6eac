"""Loads the library MLX, and says what to do if it is missing or does not fit this machine.

Knows nothing of what MLX computes. It does not check the machine in advance: it translates what the system reports.
"""

from __future__ import annotations

import platform
import re
import sys

from mlx_oss.errors import EngineError

# Words of macOS's dynamic linker, dyld.
_NEEDS_INTEL = re.compile(r"incompatible architecture \(have '[^']*', need '[^)]*x86_64")
_NEWER_MACOS = re.compile(r"built for macOS ([0-9.]+) which is newer than running OS")


def load_mlx() -> None:
    """Loads MLX. Does nothing if it is already loaded.

    Modules that import MLX are imported after this, so that a user without MLX gets a sentence and no ImportError.

    Raises:
        EngineError: If MLX is not installed, or the system cannot load it.
    """
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise EngineError(_explanation(error)) from error


def _explanation(error: ImportError) -> str:
    text = str(error)
    if "mlx" in sys.modules and not hasattr(sys.modules["mlx"], "__path__"):  # not a package
        hiding = getattr(sys.modules["mlx"], "__file__", None) or "another module named mlx"
        return f"{hiding} hides the library MLX: rename that file, or start mlx-oss in another folder"
    if isinstance(error, ModuleNotFoundError) and error.name in ("mlx", "mlx.core"):
        return (
            f"MLX is not installed in {sys.prefix}: activate the environment that mlx-oss is installed in, or run "
            "`pip install -e .` in the checkout"
        )
    if _NEEDS_INTEL.search(text):
        return (
            f"MLX needs a Python for arm64, but {sys.executable} runs as {platform.machine()}, under Rosetta or on an "
            "Intel Mac: start it from a terminal or editor that does not run under Rosetta, or install a Python for "
            "arm64 and make the virtual environment anew"
        )
    if newer := _NEWER_MACOS.search(text):
        return (
            f"this MLX is built for macOS {newer[1]}, which is newer than the macOS of this Mac: install mlx-oss in a "
            "new virtual environment, after updating macOS if it is older than 14"
        )
    reason = text.partition("\n")[0]
    return f"MLX cannot be loaded ({reason}): install mlx-oss in a new virtual environment"
