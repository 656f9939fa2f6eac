"""Examines whether this machine runs mlx-oss well: `examine` runs all checks and returns what they found.

No check raises: what goes wrong in one becomes a finding. Only the processes of `worker` import MLX, so a broken MLX, a
crash and a GPU that hangs are findings as well.

    findings.py      what a check returns, and how an error becomes that
    host.py          what the operating system says; the only module that starts processes
    system.py        processor, macOS, Python
    installation.py  the installed MLX and its environment variables
    memory.py        memory, limits, swap, and what fits
    launch.py        starts the worker and reads what it reports
    worker.py        the process in which MLX computes
    kernels.py       the test of MLX's kernels
    disk.py          speed of the model's files, and the folders of mlx-oss
    surroundings.py  sandbox, optional packages, terminal
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_oss.doctor import disk, host, installation, launch, memory, surroundings, system
from mlx_oss.doctor.findings import Finding, findings_of, without_private
from mlx_oss.doctor.host import Computer
from mlx_oss.files import expanded
from mlx_oss.version import __version__

__all__ = ["Examination", "Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Examination:
    """What all checks have found. It has neither the name of the user nor of the home folder.

    Attributes:
        summary: Chip, memory, system, Python and MLX, as a line of text.
        findings: All findings, in the order of the checks.
    """

    summary: str
    findings: tuple[Finding, ...]

    @property
    def has_problem(self) -> bool:
        """True if something does not work."""
        return any(finding.level == "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            "mlx_oss": __version__,
            "summary": self.summary,
            "levels": dict(Counter(finding.level for finding in self.findings)),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(
    folder: str | Path | None = None,
    *,
    name: str | None = None,
    quick: bool = False,
    progress: Callable[[str], object] = lambda _: None,
) -> Examination:
    """Runs all checks.

    Args:
        folder: Folder of a model: its memory is planned, and its files are read to measure the disk.
        name: Name of a model that is not on this disk: its memory is planned, from the headers of its files.
        quick: Leave out the test of the kernels and the measurement of the disk.
        progress: Called with the name of each group of checks before it runs.

    Returns:
        What they found.
    """
    computer = host.this_computer()
    found: list[Finding] = []

    def run(group: str, check: Callable[[], Iterable[Finding]]) -> None:
        progress(group)
        found.extend(findings_of(group, group, check))

    run(system.GROUP, lambda: system.check(computer))
    unfit = any(finding.level == "problem" for finding in found)
    run(installation.GROUP, lambda: installation.check(computer))
    facts: dict[str, Any] = {}
    if unfit:
        text = "The GPU was not tested: the problem with the system has to be solved first."
        found.append(Finding("GPU", "device", "note", text))
    else:
        run("GPU", lambda: _device(os.path.abspath(expanded(folder)) if folder is not None else name, facts))
    run(memory.GROUP, lambda: memory.check(computer, facts))
    if not quick and not unfit and not any(f.group == "GPU" and f.level == "problem" for f in found):
        run("kernels", lambda: launch.run_worker("kernels").findings)
    if folder is not None and not quick:
        run(disk.GROUP, lambda: disk.check_model(expanded(folder)))
    elif name is not None and folder is None:
        text = f"{name} is not on this disk, so the speed of reading it was not measured."
        found.append(Finding(disk.GROUP, "speed", "ok", text))
    run(disk.GROUP, disk.check_folders)
    run("tools", surroundings.check_sandbox)
    run("extras", surroundings.check_extras)
    run("terminal", surroundings.check_terminal)
    return Examination(without_private(_summary(computer)), tuple(without_private(finding) for finding in found))


def _device(model: str | None, facts: dict[str, Any]) -> list[Finding]:
    reported = launch.run_worker("device", model)
    facts |= reported.facts
    return reported.findings


def _summary(computer: Computer) -> str:
    parts = [computer.chip]
    if computer.memory:
        parts.append(f"{computer.memory / (1 << 30):.0f} GB")
    parts.append(f"{'macOS' if computer.system == 'Darwin' else computer.system} {computer.version}")
    where = ", in a virtual environment" if system.in_virtual_environment() else ""
    parts.append(f"Python {platform.python_version()} ({system.python_kind()}{where})")
    mlx = installation.wheel("mlx")
    parts.append(f"MLX {mlx.version}" if mlx else "no MLX")
    return f"{', '.join(parts)}, mlx-oss {__version__}"
