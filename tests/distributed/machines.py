"""Several processes of this machine that compute one model together, as `mlx.launch` would start them on several."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def start(size: int, *arguments: object) -> list[subprocess.Popen[str]]:
    """Starts `python arguments` so many times, each as another machine."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as hosts:
        json.dump([[f"127.0.0.1:{port}"] for port in free_ports(size)], hosts)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"MLX_HOSTFILE": hosts.name, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment | {"MLX_RANK": str(rank)},
            **pipes,  # type: ignore[call-overload]
        )
        for rank in range(size)
    ]


def ended(machines: Sequence[subprocess.Popen[str]], timeout: float = 120) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each. Kills those that have not ended in time, and then fails."""
    found = []
    try:
        for machine in machines:
            out, err = machine.communicate(timeout=timeout)
            found.append((machine.returncode, out, err))
    finally:
        for machine in machines:
            machine.kill()
    return found
