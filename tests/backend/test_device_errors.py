"""MLX's errors become ours, with a remedy for each kind, and others pass as they are."""

from __future__ import annotations

import re
from collections.abc import Callable

import mlx.core as mx
import pytest

import mlx_oss
from mlx_oss import load_model
from mlx_oss.backend import device, host_memory
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.cli import main
from mlx_oss.errors import DeviceError, EngineError, OptionError

FAILED = "[METAL] Command buffer execution failed: "
CALLBACK = "kIOGPUCommandBufferCallbackError"
REINSTALL = "pip install --force-reinstall mlx"
MESSAGES = {  # as MLX and Metal write them -> what ours says
    f"{FAILED}Insufficient Memory (00000008:{CALLBACK}OutOfMemory).": "--memory",
    "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size of 8": "quit",
    "[metal::malloc] Resource limit (499000) exceeded.": "--memory",
    "[malloc] Unable to allocate 123 bytes.": "--memory",
    f"{FAILED}Impacting Interactivity (0000000e:{CALLBACK}ImpactingInteractivity).": "too long",
    f"{FAILED}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout).": "too long",
    f"{FAILED}Ignored (for causing prior/excessive GPU errors) (00000004:{CALLBACK}SubmissionsIgnored).": "was reset",
    f"{FAILED}Discarded (victim of GPU error/recovery) (00000005:{CALLBACK}InnocentVictim).": "was reset",
    "[metal::load_device] No Metal device available. This typically occurs in headless sessions.": "log in at the Mac",
    "Failed to load the default metallib. library not found": REINSTALL,
    "[metal::Device] Unable to load kernel steel_attention_bfloat16\nCompiler error": REINSTALL,
    "[metal::Device] Unable to load function rope\n": REINSTALL,
    "something that nobody has seen": "mlx-oss doctor",
    "": "RuntimeError",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_each_failure_says_what_happened_in_mlx_words_and_what_helps(message):
    with pytest.raises(DeviceError) as caught, device_errors:
        raise RuntimeError(message)
    ours = str(caught.value)
    first_line = (message.splitlines() or ["RuntimeError"])[0]
    assert MESSAGES[message] in ours and f"({first_line})" in ours and "\n" not in ours
    assert caught.value.took_too_long == ("too long" in ours) and isinstance(caught.value.__cause__, RuntimeError)
    assert isinstance(caught.value, EngineError)


@pytest.mark.parametrize("error", [OptionError("x"), ValueError("x"), RecursionError("x"), KeyboardInterrupt()])
def test_what_is_no_failure_of_mlx_passes_unchanged(error):
    with pytest.raises(type(error)) as caught, device_errors:
        raise error
    assert caught.value is error


def test_memory_that_python_cannot_get_is_told_in_the_same_way():
    with pytest.raises(DeviceError, match="not enough memory"), device_errors:
        raise MemoryError


@pytest.fixture
def failing(monkeypatch) -> Callable[[str, Exception], None]:
    """failing(name, error): from now on the function of mlx.core raises the error."""

    def fail(name: str, error: Exception) -> None:
        def function(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(mx, name, function)

    return fail


def test_a_model_that_does_not_fit_after_all_is_told_in_a_line(folder, failing, capsys):
    failing("eval", RuntimeError("[malloc] Unable to allocate 13760000000 bytes."))
    with pytest.raises(DeviceError, match="--memory"):
        load_model(folder("tiny"))
    assert main(["chat", "--model", str(folder("tiny")), "Hi"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: there is not enough memory .*\n", error)


def test_a_mac_without_a_gpu_is_told_in_a_line(monkeypatch, folder, failing, capsys):
    monkeypatch.setattr(device, "on_metal", lambda: True)
    failing("device_info", RuntimeError("[metal::load_device] No Metal device available. This typically occurs in ..."))
    for function in (
        host_memory.this_machine,
        lambda: mlx_oss.plan(folder("tiny")),
        lambda: load_model(folder("tiny")),
    ):
        with pytest.raises(DeviceError, match="MLX finds no GPU"):
            function()
    assert main(["plan", str(folder("tiny"))]) == 1 and "MLX finds no GPU" in capsys.readouterr().err
