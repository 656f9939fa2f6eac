"""Pretends to be a Mac: what its kernel, its Python, its packages and its GPU say. Nothing of it was seen on a Mac.

The worker runs in this process, on MLX's CPU backend, which pretends to be the Mac's GPU.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

import mlx_oss.tools.sandbox
from mlx_oss.backend import device
from mlx_oss.doctor import disk, host, installation, system, worker
from mlx_oss.doctor.installation import Wheel
from mlx_oss.tools.sandbox import trial

GIB = 1 << 30
VERSION = "0.32.4"
# What Metal recommends, by the chip and its memory in GiB.
RECOMMENDED = {("Apple M1", 16): 11_453_246_122, ("Apple M3 Max", 128): 115_448_725_504}


@dataclass
class Mac:
    """A Mac on which all is well; tests change what is not.

    Attributes:
        chip: Name of the chip, as macOS and as Metal call it.
        memory: GiB of memory.
        macos: Version of macOS.
        python_says: Version of macOS that Python reports. None: the same.
        architecture: What Python is built for.
        wheel: What mlx-metal is built for.
        metal: Version of mlx-metal.
        kernel: Further values of the kernel, or other ones.
        gpu: Name of the GPU. None: that of the chip.
        crash: A function that the worker runs first, to end as a process would.
    """

    chip: str = "Apple M1"
    memory: int = 16
    macos: str = "14.5"
    python_says: str | None = None
    architecture: str = "arm64"
    wheel: str = "macosx_14_0_arm64"
    metal: str = VERSION
    has_kernels: bool = True
    kernel: dict[str, str] = field(default_factory=dict)
    gpu: str | None = None
    crash: Callable[[], host.Ended | None] = lambda: None
    environments: list[Mapping[str, str] | None] = field(default_factory=list)

    def sysctl(self, name: str) -> str | None:
        values = {
            "kern.osproductversion": self.macos,
            "machdep.cpu.brand_string": self.chip,
            "hw.optional.arm64": "1",
            "hw.memsize": str(self.memory * GIB),
            "iogpu.wired_limit_mb": "0",
            "kern.memorystatus_vm_pressure_level": "1",
            "kern.memorystatus_level": "71",
            "vm.swapusage": "total = 2048.00M  used = 1184.25M  free = 863.75M  (encrypted)",
        }
        return (values | self.kernel).get(name)

    def device_info(self) -> dict[str, Any]:
        nbytes = self.memory * GIB
        return {
            "device_name": self.gpu or self.chip,
            "architecture": "applegpu_g13g",
            "max_buffer_length": nbytes // 2,
            "max_recommended_working_set_size": RECOMMENDED.get((self.chip, self.memory), nbytes * 3 // 4),
            "memory_size": nbytes,
            "resource_limit": 499_000,
        }

    def run(self, command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> host.Ended:
        if command[0] == "/usr/sbin/sysctl":
            assert command[1] == "-n" and "SYSTEM_VERSION_COMPAT" not in environment
            value = self.sysctl(command[2])
            if value is None:
                return host.Ended(1, "", f"sysctl: unknown oid '{command[2]}'\n")
            return host.Ended(0, f"{value}\n", "")
        assert command[-2] == "mlx_oss.doctor.worker"
        self.environments.append(environment)
        if (ended := self.crash()) is not None:
            return ended
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                status = worker.main(command[-1])
            except BaseException:
                return host.Ended(1, out.getvalue(), traceback.format_exc())
        return host.Ended(status, out.getvalue(), "")

    def installed(self, name: str) -> Wheel | None:
        return {
            "mlx": Wheel(VERSION, "macosx_14_0_arm64", None),
            "mlx-metal": Wheel(self.metal, self.wheel, self.has_kernels),
        }.get(name)

    def pretend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        """Makes all that the checks ask answer as on this Mac."""
        for name in [name for name in os.environ if name.startswith("MLX_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path))
        monkeypatch.setenv("SYSTEM_VERSION_COMPAT", "1")
        monkeypatch.setattr(platform, "system", lambda: "Darwin")
        monkeypatch.setattr(platform, "machine", lambda: self.architecture)
        says = self.macos if self.python_says is None else self.python_says
        monkeypatch.setattr(platform, "mac_ver", lambda: (says, ("", "", ""), self.architecture))
        monkeypatch.setattr(platform, "python_version", lambda: "3.12.4")
        monkeypatch.setattr(system, "python_kind", lambda: "Homebrew's")
        monkeypatch.setattr(system, "in_virtual_environment", lambda: True)
        monkeypatch.setattr(host, "run", self.run)
        monkeypatch.setattr(installation, "wheel", self.installed)
        monkeypatch.setattr(device, "on_gpu", lambda: True)
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        monkeypatch.setattr(mx, "device_info", self.device_info)
        monkeypatch.setattr(mlx_oss.tools.sandbox, "isolation_here", lambda: "seatbelt")
        kept = [trial.Promise(name, name, True) for name in ("network", "files", "memory")]
        monkeypatch.setattr(trial, "try_promises", lambda _: kept)
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
        monkeypatch.setattr(sys, "__stdout__", SimpleNamespace(encoding="utf-8"))


def killed(step: str, number: signal.Signals, err: str = "") -> Callable[[], host.Ended]:
    """A worker that a signal ends in a step."""
    return lambda: host.Ended(-number, f'{{"step": "{step}"}}\n', err)


def hanging(step: str) -> Callable[[], host.Ended]:
    """A worker that does not end in time."""
    return lambda: host.Ended(None, f'{{"step": "{step}"}}\n', "")
