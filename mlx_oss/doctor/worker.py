"""The process in which MLX computes: `python -m mlx_oss.doctor.worker JSON`. Prints lines of JSON as it goes on.

A line has one of the keys "step" (what begins now), "facts" (about the device) and "findings". `launch` reads them,
also those of a process that crashed.
"""

from __future__ import annotations

import json
import platform
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

from mlx_oss.backend.cores import usable_cores
from mlx_oss.backend.mlx_library import load_mlx
from mlx_oss.doctor.findings import Finding, findings_of

_WAITS = 100  # repetitions of the computation whose waiting time is measured
_LAYERS = 24  # of gpt-oss-20b


def main(argument: str) -> int:
    """Does what a JSON object asks for: its "job" is "device" or "kernels", its "model" a folder, a name or null."""
    request = json.loads(argument)
    if request["job"] == "kernels":
        load_mlx()
        from mlx_oss.doctor import kernels

        for name, findings in kernels.tests():
            _step("kernels", name, findings)
        return 0
    if not _step("GPU", "loading MLX", _facts):
        return 0
    if _step("GPU", "multiplying two matrices", _product):
        _step("GPU", "waiting for small results", _waits)
        _step("memory", "planning the released models", _fits)
        if request["model"]:
            _step("model", "planning the model's memory", lambda: _plan(request["model"]))
    return 0


def _write(**entry: Any) -> None:
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


def _step(group: str, name: str, check: Callable[[], Iterable[Finding]]) -> bool:
    """Reports the findings of one check, also if it raises. Returns True if there was no problem."""
    _write(step=name)
    good = True
    for finding in findings_of(group, name, check):
        good = good and finding.level != "problem"
        _write(findings=[asdict(finding)])
    return good


def _facts() -> Iterator[Finding]:
    load_mlx()
    import mlx.core as mx

    from mlx_oss.backend import device, host_memory, native

    info = dict(mx.device_info())
    name = device.device_name()
    facts = {"device": name, "metal": device.on_metal(), "device_info": info}
    _write(facts={**facts, "memory_limit": host_memory.this_machine().limit})
    if device.on_gpu():
        yield Finding("GPU", "device", "ok", f"MLX computes on {name}.", "", info)
        if "Paravirtual" in name:
            text = "This Mac is a virtual machine, and its GPU can do less than a real one."
            yield Finding("GPU", "virtual machine", "note", text, "Use the Mac itself rather than a virtual machine.")
    elif platform.system() == "Darwin":
        text = "MLX computes on the CPU of this Mac, although its default is the GPU."
        yield Finding("GPU", "device", "problem", text, "Run `pip install --force-reinstall mlx`.", info)
    else:
        yield Finding("GPU", "device", "ok", "MLX computes on the CPU.", "", info)
        if vectors := native.vectors():
            text = f"Products are computed by the native library, with {vectors} on {usable_cores()} cores."
            yield Finding("GPU", "native library", "ok", text)
        else:
            text = "The native library is missing or of another version, so everything takes many times as long."
            remedy = "Install a C compiler and Python's headers, for example with `apt install gcc python3-dev`."
            remedy += " Then run `pip install -e .` in the checkout once more."
            if sysconfig.get_config_var("Py_GIL_DISABLED"):
                remedy = "Use a Python that has a global interpreter lock; this one is built without."
            yield Finding("GPU", "native library", "note", text, remedy)


def _product() -> Iterator[Finding]:
    import mlx.core as mx

    ones = mx.ones((64, 64))
    started = time.perf_counter()
    result = mx.matmul(ones, ones).sum().item()
    seconds = time.perf_counter() - started
    if result == 64**3:
        text = "A product of two matrices is right."
        yield Finding("GPU", "product", "ok", text, "", {"seconds": seconds})
    else:
        text = f"A product of two matrices is wrong: it adds up to {result} instead of {64**3}."
        remedy = "Restart the computer. If this persists, run `pip install --force-reinstall mlx`."
        yield Finding("GPU", "product", "problem", text, remedy)


def _waits() -> Iterator[Finding]:
    """How long computing almost nothing takes: starting a command, and waiting until its result is there."""
    import mlx.core as mx

    times = []
    x = mx.zeros((1,))
    for _ in range(10 + _WAITS):
        started = time.perf_counter()
        x = x + 1
        mx.eval(x)
        times.append(time.perf_counter() - started)
    wait = median(times[10:])
    text = f"Waiting for a small result takes {1e6 * wait:,.0f} microseconds"
    text += f", so experts on disk cost gpt-oss-20b at least {1e3 * _LAYERS * wait:,.2g} ms for each token."
    yield Finding("GPU", "wait", "ok", text, "", {"seconds": wait, "largest_seconds": max(times[10:])})


def _fits() -> Iterator[Finding]:
    """What the released models would do here, without their files."""
    from mlx_oss.backend.host_memory import this_machine
    from mlx_oss.memory.macs import plan_released
    from mlx_oss.weights.layouts.releases import RELEASES

    for name in RELEASES:
        chosen = plan_released(name, this_machine(), context=None)
        details = {"slots": chosen.slots, "experts": chosen.experts, "context": chosen.context}
        yield Finding("memory", name, "ok", f"{chosen}.", "", {**details, "peak": chosen.peak_bytes})


def _plan(model: str) -> Iterator[Finding]:
    from mlx_oss.loader import plan
    from mlx_oss.weights.hub.copies import name_of

    chosen = plan(model)
    small = chosen.verdict == "too small"
    details = {"slots": chosen.slots, "experts": chosen.experts, "context": chosen.context, "peak": chosen.peak_bytes}
    text = str(chosen).replace(str(chosen.folder), name_of(chosen.folder) if chosen.folder.is_absolute() else model, 1)
    remedy = f"{chosen.remedy[0].upper()}{chosen.remedy[1:]}." if small else ""
    yield Finding("model", "plan", "problem" if small else "ok", f"{text}.", remedy, details)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
