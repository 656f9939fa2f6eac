"""Checks the memory: how much there is, how much a model may use, how much is free, and what fits. Imports no MLX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_oss.backend.machine import mac
from mlx_oss.doctor import host
from mlx_oss.doctor.findings import Finding
from mlx_oss.doctor.host import Computer
from mlx_oss.memory.estimates import format_bytes

GROUP = "memory"
_CLOSE = "Close other programs."
_LIMITS = ("max_recommended_working_set_size", "max_buffer_length", "memory_size", "resource_limit")
# More than this share of the memory for the GPU leaves macOS too little.
_MOST_WIRED = 0.9
_USUAL_LIMITS = (0.55, 0.95)  # the share of the memory that Metal usually recommends


def check(computer: Computer, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks the memory. `facts` is what the process with MLX reported; it may be empty."""
    if computer.memory is None:
        yield Finding(GROUP, "size", "note", "The system does not say how much memory there is.")
        return
    limit = facts.get("memory_limit")
    yield _size(computer, facts.get("device_info", {}), _estimated(computer) if limit is None else limit, limit is None)
    if computer.system == "Darwin":
        yield from _on_macos(computer)
    else:
        yield from _on_linux(computer)


def _estimated(computer: Computer) -> int:
    assert computer.memory is not None
    return mac(computer.memory).limit if computer.system == "Darwin" else host.meminfo().get("MemAvailable", 0)


def _size(computer: Computer, info: Mapping[str, Any], limit: int, estimated: bool) -> Finding:
    memory = computer.memory or 0
    text = f"Of {format_bytes(memory)} of memory, a model may use {format_bytes(limit)}{' (estimated)' * estimated}."
    details = {
        "memory": memory,
        "limit": limit,
        "estimated": estimated,
        **{key: info[key] for key in _LIMITS if key in info},
    }
    recommended = info.get("max_recommended_working_set_size")
    if computer.system == "Darwin" and recommended is not None:
        least, most = _USUAL_LIMITS
        if not least * memory <= recommended <= most * memory:
            text = (
                f"Metal recommends {format_bytes(recommended)} of {format_bytes(memory)} of memory, which is unusual."
            )
            remedy = "Set a limit with --memory, for example --memory 8GB."
            return Finding(GROUP, "size", "note", text, remedy, details)
    return Finding(GROUP, "size", "ok", text, "", details)


def _on_macos(computer: Computer) -> Iterator[Finding]:
    memory = computer.memory or 0
    wired = host.sysctl_number("iogpu.wired_limit_mb")
    details = {"iogpu.wired_limit_mb": wired}
    if wired and wired << 20 > _MOST_WIRED * memory:
        text = f"iogpu.wired_limit_mb is {wired:,}: the GPU may take so much that macOS itself has too little."
        remedy = "Run `sudo sysctl iogpu.wired_limit_mb=0`, which sets the usual limit."
        yield Finding(GROUP, "wired limit", "note", text, remedy, details)
    else:
        text = f"iogpu.wired_limit_mb is {wired:,}, set by the user." if wired else "The GPU's limit is the usual one."
        yield Finding(GROUP, "wired limit", "ok", text, "", details)
    level, free = (host.sysctl_number(f"kern.memorystatus_{name}") for name in ("vm_pressure_level", "level"))
    details = {"pressure_level": level, "free_percent": free}
    if level in (2, 4):
        text = f"macOS reports {'critical' if level == 4 else 'high'} memory pressure."
        yield Finding(GROUP, "pressure", "note", text, f"{_CLOSE} Otherwise a model is slow, or is ended.", details)
    elif level == 1:
        text = "macOS reports normal memory pressure" + (f"; {free} % is available." if free is not None else ".")
        yield Finding(GROUP, "pressure", "ok", text, "", details)
    used = _swap_used(host.sysctl("vm.swapusage") or "")
    if used is not None:
        yield _swap(used, memory)


def _swap_used(text: str) -> int | None:
    """The used bytes in "total = 2048.00M  used = 1184.25M  free = 863.75M"; some systems write a decimal comma."""
    match = re.search(r"used = ([\d.,]+)([KMGT])", text)
    return round(float(match[1].replace(",", ".")) * (1 << 10 * ("KMGT".index(match[2]) + 1))) if match else None


def _on_linux(computer: Computer) -> Iterator[Finding]:
    memory = host.meminfo()
    text = f"{format_bytes(memory.get('MemAvailable', 0))} are available now."
    yield Finding(GROUP, "available", "ok", text, "", {"available": memory.get("MemAvailable")})
    cap = (host.read_text("/sys/fs/cgroup/memory.max") or "").strip()
    if cap.isdigit():
        text = f"This container may use {format_bytes(int(cap))}."
        yield Finding(GROUP, "container", "ok", text, "", {"memory.max": int(cap)})
    yield _swap(memory.get("SwapTotal", 0) - memory.get("SwapFree", 0), computer.memory or 0)


def _swap(used: int, memory: int) -> Finding:
    details = {"used": used}
    text = f"{format_bytes(used)} are swapped out." if used else "Nothing is swapped out."
    if used > memory // 4:
        return Finding(GROUP, "swap", "note", text, f"{_CLOSE} Otherwise a model is slow.", details)
    return Finding(GROUP, "swap", "ok", text, "", details)
