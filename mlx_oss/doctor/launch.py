"""Runs what needs MLX in processes of their own, so that a crash or a GPU that hangs becomes a finding.

Imports no MLX. `worker` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from typing import Any

from mlx_oss.doctor import host
from mlx_oss.doctor.findings import REPORT_IT, Finding, explain
from mlx_oss.python_process import command_of

SECONDS = {"device": 120.0, "kernels": 240.0}  # time limits of the two processes


@dataclass
class Reported:
    """What a process has reported until it ended.

    Attributes:
        findings: Its findings, and one about itself if it did not end well.
        facts: What it says about the device.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def run_worker(job: str, model: str | None = None) -> Reported:
    """Runs one of the worker's jobs.

    Args:
        job: "device" or "kernels".
        model: Folder or name of a model to plan for, in the job "device".
    """
    request = json.dumps({"job": job, "model": model})
    environment = {name: value for name, value in os.environ.items() if name != "MLX_METAL_FAST_SYNCH"}
    ended = host.run(command_of("mlx_oss.doctor.worker", request), SECONDS[job], environment)
    reported, step = Reported(), "starting Python"
    for line in ended.out.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # not ours: a library has written it
            continue
        if not isinstance(entry, dict):
            continue
        step = entry.get("step", step)
        reported.facts |= entry.get("facts", {})
        reported.findings += [Finding(**each) for each in entry.get("findings", ())]
    if (ending := _bad_ending(job, ended, step)) is not None:
        reported.findings.append(ending)
    return reported


def _bad_ending(job: str, ended: host.Ended, step: str) -> Finding | None:
    """A finding about a process that did not end well, or None."""
    group = "kernels" if job == "kernels" else "GPU"
    if ended.status == 0:
        return None
    if ended.status is None:
        text = (
            f"After {SECONDS[job]:.0f} seconds the GPU had not finished this step: {step}. {ended.err[-400:]}".strip()
        )
        remedy = "Close programs that use the GPU, then try again. If this persists, restart the Mac."
        return Finding(group, "hang", "problem", text, remedy)
    lines = [line for line in ended.err.splitlines() if line.strip()]
    meaning, remedy = explain(" ".join(lines[-3:]))
    how = f"with exit status {ended.status}"
    if ended.status < 0:
        how = f"by {signal.Signals(-ended.status).name}"
        if -ended.status == signal.SIGKILL:
            meaning, remedy = "Probably the memory was not enough.", "Close other programs, then try again."
    text = f"MLX ended its process {how} in this step: {step}. {meaning}"
    return Finding(group, "crash", "problem", text, remedy or REPORT_IT)
