"""What MLX raises when a device fails, as errors of ours: what happened, and what helps.

MLX raises RuntimeError for everything: memory that is used up, work that macOS stopped, a GPU that is not there. Knows
MLX's and Metal's messages, and nothing of models.
"""

from __future__ import annotations

from types import TracebackType

from mlx_oss.errors import DeviceError

# Parts of messages of Metal (kIOGPUCommandBufferCallbackError...), MLX's allocators and CUDA.
_OUT_OF_MEMORY = (
    "Insufficient Memory",
    "OutOfMemory",
    "Unable to allocate",
    "maximum allowed buffer size",
    "Resource limit",
    "out of memory",
)
_STOPPED = (
    "Impacting Interactivity",
    "ImpactingInteractivity",
    "GPU Timeout",
    "CallbackErrorTimeout",
    "GPU Hang",
    "CallbackErrorHang",
)
_VICTIM = ("InnocentVictim", "victim of GPU error", "SubmissionsIgnored", "Access Revoked")
_NO_GPU = ("No Metal device", "objectAtIndex", "no CUDA-capable device")
_DRIVER = ("CUDA driver version", "no kernel image", "cudaError", "libcuda")
_NEWER_MACOS = ("language version", "deployment target")
_BROKEN = ("metallib", "Unable to load kernel", "Unable to load function", "Unable to build metal library")

_CASES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        _OUT_OF_MEMORY,
        "there is not enough memory to compute",
        "quit other programs, or load the model with less memory (--memory) or a shorter context (--context)",
    ),
    (
        _STOPPED,
        "the system stopped the GPU, because a computation took too long",
        "quit other programs that use the GPU, and try again",
    ),
    (
        _VICTIM,
        "the GPU was reset, because this or another program made it fail",
        "try again, and restart the computer if it stays so",
    ),
    (
        _NO_GPU,
        "MLX finds no GPU, as in a session without a screen, in a sandbox, or on a virtual machine",
        "log in at the Mac itself and start the program there",
    ),
    (
        _DRIVER,
        "the driver of the GPU and the installed MLX do not fit together",
        "update the driver, or install the MLX that belongs to it (mlx[cuda12] or mlx[cuda13])",
    ),
    (
        _NEWER_MACOS,
        "the installed MLX is built for a newer macOS",
        "update macOS, or let pip choose again with `pip install --force-reinstall mlx`",
    ),
    (
        _BROKEN,
        "MLX cannot load what it runs on the GPU",
        "install MLX again with `pip install --force-reinstall mlx`, and see `mlx-oss doctor`",
    ),
)


def known(message: str) -> tuple[str, str] | None:
    """What a message of MLX, Metal or CUDA means, and what helps; None if it is not known."""
    return next(((what, remedy) for parts, what, remedy in _CASES if any(part in message for part in parts)), None)


def explained(error: Exception) -> DeviceError:
    """The error of ours for what MLX raised. It contains the first line of MLX's message."""
    message = str(error)
    detail = message.strip().splitlines()[0] if message.strip() else type(error).__name__
    what, remedy = known(message) or ("MLX could not compute", "try again, and see `mlx-oss doctor` if it stays so")
    return DeviceError(f"{what} ({detail}): {remedy}", took_too_long=any(part in message for part in _STOPPED))


class DeviceErrors:
    """A context in which MLX computes, and nothing else: RuntimeError and MemoryError become DeviceError.

    Use `device_errors`, the only instance, which has no state.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if type(error) is RuntimeError:  # its subclasses, such as RecursionError, are not MLX's
            raise explained(error) from error
        if isinstance(error, MemoryError):
            raise explained(RuntimeError("Unable to allocate memory")) from error


device_errors = DeviceErrors()
