"""What the operating system says: the only module of the package that starts processes and reads the system's files.

Tests replace `run` and `read_text` by what other machines say. Knows nothing of MLX and of what the values mean.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process has ended.

    Attributes:
        status: The exit status, negative for a signal; None if it ran out of time, or could not be started.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    status: int | None
    out: str
    err: str


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a program for at most `seconds`. What it has written until then is returned in any case.

    Args:
        command: The program and its arguments.
        seconds: After this time it is killed.
        environment: All variables of its environment. None means those of this process.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = None
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        except OSError as error:
            return Ended(None, "", str(error))
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a stuck GPU does not die
                process.wait(2)
        out.seek(0)
        err.seek(0)
        return Ended(status, out.read().decode(errors="replace"), err.read().decode(errors="replace"))


def read_text(path: str) -> str | None:
    """The content of one of the system's files, or None if it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


def sysctl(name: str) -> str | None:
    """A value of macOS's kernel, or None if this kernel has no such value."""
    # With this variable, programs are told a version of macOS that is not the real one.
    environment = {key: value for key, value in os.environ.items() if key != "SYSTEM_VERSION_COMPAT"}
    ended = run(["/usr/sbin/sysctl", "-n", name], 5, environment)
    return ended.out.strip() or None if ended.status == 0 else None


def sysctl_number(name: str) -> int | None:
    """Like `sysctl`, for a whole number."""
    value = sysctl(name) or ""
    return int(value) if value.lstrip("-").isdigit() else None


def meminfo() -> dict[str, int]:
    """Linux's /proc/meminfo in bytes, empty if it cannot be read."""
    lines = [line.split() for line in (read_text("/proc/meminfo") or "").splitlines()]
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


@dataclass(frozen=True, slots=True)
class Computer:
    """The computer and its operating system.

    Attributes:
        system: "Darwin" (macOS) or "Linux".
        version: Version of macOS, or of Linux's kernel.
        python_says: The version of macOS that this Python reports, which can be an older one; else empty.
        architecture: What this Python is built for: "arm64" on a Mac with Apple silicon, unless it runs in Rosetta.
        chip: Name of the chip ("Apple M4 Pro"), or of the processor.
        apple_silicon: Whether it is a Mac with Apple silicon.
        memory: Bytes of memory; None if unknown.
    """

    system: str
    version: str
    python_says: str
    architecture: str
    chip: str
    apple_silicon: bool
    memory: int | None

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers: (14, 5)."""
        return as_numbers(self.version)

    @property
    def generation(self) -> int | None:
        """5 for an M5, M5 Pro and so on; None for other processors."""
        first, _, rest = self.chip.partition("Apple M")
        digits = rest.split()[0] if not first and rest else ""
        return int(digits) if digits.isdigit() else None


def as_numbers(version: str) -> tuple[int, ...]:
    """ "14.5" -> (14, 5); stops at the first part that is not a number."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def this_computer() -> Computer:
    """Asks the operating system."""
    if platform.system() != "Darwin":
        lines = (read_text("/proc/cpuinfo") or "").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        memory = meminfo().get("MemTotal")
        return Computer(
            platform.system(), platform.release(), "", platform.machine(), name or "unknown processor", False, memory
        )
    says = platform.mac_ver()[0]
    return Computer(
        system="Darwin",
        version=sysctl("kern.osproductversion") or says,
        python_says=says,
        architecture=platform.machine(),
        chip=sysctl("machdep.cpu.brand_string") or "unknown chip",
        apple_silicon=sysctl("hw.optional.arm64") == "1" or platform.machine() == "arm64",
        memory=sysctl_number("hw.memsize"),
    )
