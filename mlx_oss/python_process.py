"""The command that runs a module of mlx-oss in a Python process of its own. Knows nothing of what the module does."""

from __future__ import annotations

import sys
from pathlib import Path

_RUN = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command_of(module: str, *arguments: str) -> list[str]:
    """The command for a module, which is run as `__main__` with these arguments.

    Unlike `python -m`, it imports nothing from the current folder. That may be the folder of a downloaded model, whose
    files must not run, or hold a file that only has the name of a module.
    """
    folder = Path(__file__).resolve().parents[1]  # of the package, which may not be installed
    return [sys.executable, "-P", "-c", _RUN, str(folder), module, *arguments]
