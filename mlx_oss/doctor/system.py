"""Checks the operating system and the Python that runs this. Knows nothing of MLX."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from mlx_oss.doctor.findings import Finding, Level
from mlx_oss.doctor.host import Computer

GROUP = "system"
OLDEST_MACOS = 14
NEWEST_PYTHON = (3, 14)  # that mlx-oss was tested with; one that is too old cannot import it

_OTHER_PYTHON = (
    "Install a Python that is built for Apple silicon (from python.org, with Homebrew in /opt/homebrew, or with "
    "`uv python install`), create a new virtual environment with it, and install mlx-oss there."
)


def check(computer: Computer) -> Iterator[Finding]:
    """Checks the processor, the operating system and Python."""
    yield _processor(computer)
    if computer.system == "Darwin":
        old = computer.release < (OLDEST_MACOS,)
        yield Finding(
            GROUP,
            "macOS",
            "problem" if old else "ok",
            f"This is macOS {computer.version}" + (f", but MLX needs macOS {OLDEST_MACOS} or later." if old else "."),
            "Update macOS: System Settings, General, Software Update." if old else "",
            {"version": computer.version},
        )
    yield _python()


def _processor(computer: Computer) -> Finding:
    details = {"chip": computer.chip, "architecture": computer.architecture}
    if computer.system != "Darwin":
        text = f"This is {computer.system} on {computer.chip} ({computer.architecture})."
        return Finding(GROUP, "processor", "ok", text, "", details)
    if computer.apple_silicon and computer.architecture != "arm64":
        text = "This Python is built for Intel Macs and runs in Rosetta, where MLX does not work."
        return Finding(GROUP, "Rosetta", "problem", text, _OTHER_PYTHON, details)
    if not computer.apple_silicon:
        text = f"This Mac has {computer.chip}, but MLX needs Apple silicon."
        return Finding(GROUP, "processor", "problem", text, "Use a Mac with Apple silicon, or Linux.", details)
    return Finding(GROUP, "processor", "ok", f"This Mac has {computer.chip}.", "", details)


def _python() -> Finding:
    version, kind, isolated = platform.python_version(), python_kind(), in_virtual_environment()
    level: Level = "ok"
    text = f"Python {version} is {kind}, " + ("in a virtual environment." if isolated else "in no virtual environment.")
    remedy = ""
    if sys.version_info[:2] > NEWEST_PYTHON:
        level = "note"
        text = f"Python {version} was not tested with mlx-oss."
        remedy = "Use Python 3.11 to 3.14."
    details = {"version": version, "kind": kind, "virtual_environment": isolated}
    return Finding(GROUP, "Python", level, text, remedy, details)


def in_virtual_environment() -> bool:
    """True if this Python runs in a virtual environment (venv, uv, pipx)."""
    return sys.prefix != sys.base_prefix


def python_kind() -> str:
    """Where this Python comes from, as far as its folder tells."""
    base = sys.base_prefix
    for pattern, kind in _KINDS:
        if re.search(pattern, base):
            return kind
    if (Path(base) / "conda-meta").is_dir():
        return "conda's"
    if "deb_system" in sysconfig.get_scheme_names():
        return "Debian's"
    return "the system's" if base == "/usr" else "of unknown origin"


_KINDS = (  # patterns of sys.base_prefix, the first one that occurs counts
    (r"conda|mamba|miniforge", "conda's"),
    (r"/uv/python/|cpython-3\.\d+", "uv's (python-build-standalone)"),
    (r"/\.pyenv/", "pyenv's"),
    (r"^/Library/Frameworks/Python\.framework", "python.org's"),
    (r"^/Library/Developer/CommandLineTools|^/Applications/Xcode|^/System/", "Apple's"),
    (r"^/opt/homebrew|/Cellar/|linuxbrew", "Homebrew's"),
    (r"^/opt/local", "MacPorts'"),
)
