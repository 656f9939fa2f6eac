"""Explains messages of MLX, Metal and the dynamic linker, and what to do about them. Knows texts only."""

from __future__ import annotations

import re

from mlx_oss.backend.device_errors import known
from mlx_oss.doctor.findings import REPORT_IT

_AGAIN = "Run `pip install --force-reinstall mlx`."

# What is wrong with the installation: pattern, what it means, what to do. `known` has what goes wrong on the device.
_INSTALLATION = (
    (
        "language version|deployment target .* not supported|built for newer macOS|Symbol not found",
        "The installed MLX is built for a newer macOS.",
        f"Update macOS, or let pip choose again: {_AGAIN}",
    ),
    (
        "incompatible architecture|mach-o file, but is an",
        "The installed MLX is built for another processor than this Python.",
        "Create a new virtual environment with a Python for Apple silicon, and install mlx-oss there.",
    ),
    (
        r"No module named 'mlx(\.core)?'|import of mlx|Library not loaded|cannot open shared object|ImportError",
        "MLX cannot be loaded.",
        _AGAIN,
    ),
)


def explain(message: str) -> tuple[str, str]:
    """What an error message means and what to do about it, as sentences. The message itself is part of the first."""
    message = " ".join(message.split())
    shown = message if len(message) <= 400 else f"{message[:400]}..."
    for pattern, meaning, remedy in _INSTALLATION:
        if re.search(pattern, message, re.IGNORECASE):
            return f"{meaning} The message is: {shown}", remedy
    if (found := known(message)) is not None:
        meaning, remedy = (f"{text[0].upper()}{text[1:]}." for text in found)
        return f"{meaning} The message is: {shown}", remedy
    return f"The message is: {shown or 'none'}", REPORT_IT
