"""Explains error messages of MLX, Metal and the dynamic linker, and what to do about them. Knows texts only."""

from __future__ import annotations

import re

from mlx_oss.doctor.findings import REPORT_IT

_AGAIN = "Run `pip install --force-reinstall mlx`."

_KNOWN = (  # pattern, what it means, what to do
    (
        "No Metal device|objectAtIndex",
        "No GPU can be reached. Programs that are started without a logged-in user, in a sandbox, or in a virtual "
        "machine do not always see it.",
        "Log in at the Mac itself and run this in its Terminal.",
    ),
    (
        "Insufficient Memory|ErrorOutOfMemory|Unable to allocate|malloc.*greater than the maximum",
        "The GPU has too little memory.",
        "Close other programs, then try again. For a model, `mlx-oss plan FOLDER` shows what fits.",
    ),
    (
        "ImpactingInteractivity",
        "macOS stopped the computation, because the screen had to wait for the GPU.",
        "Close programs that use the GPU, then try again.",
    ),
    (
        "CallbackErrorHang|CallbackErrorTimeout|Caused GPU Hang|GPU Timeout",
        "The GPU did not finish in time.",
        "Close programs that use the GPU, then try again. If this persists, restart the Mac.",
    ),
    (
        "SubmissionsIgnored|InnocentVictim",
        "The GPU refuses work, because a computation failed earlier, perhaps that of another program.",
        "Try again. If this persists, restart the Mac.",
    ),
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
    ("default metallib|library not found|metallib", "The file with Metal's kernels cannot be loaded.", _AGAIN),
    (
        "No module named 'mlx|import of mlx|Library not loaded|cannot open shared object|ImportError",
        "MLX cannot be loaded.",
        _AGAIN,
    ),
    (
        "no kernel image|CUDA driver version|cudaError|libcuda",
        "The GPU's driver and the installed MLX do not fit together.",
        "Update the driver, or install the MLX that belongs to it (mlx[cuda12] or mlx[cuda13]).",
    ),
)


def explain(message: str) -> tuple[str, str]:
    """What an error message means and what to do about it, as sentences. The message itself is part of the first."""
    message = " ".join(message.split())
    shown = message if len(message) <= 400 else f"{message[:400]}..."
    for pattern, meaning, remedy in _KNOWN:
        if re.search(pattern, message, re.IGNORECASE):
            return f"{meaning} The message is: {shown}", remedy
    return f"The message is: {shown or 'none'}", REPORT_IT
