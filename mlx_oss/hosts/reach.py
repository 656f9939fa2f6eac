"""Runs a program on one of the machines, or on all of them with `mlx.launch`, and for a limited time only.

Knows nothing of what the programs do, but that `worker` answers with a line of JSON.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mlx_oss.doctor.host import Ended
from mlx_oss.hosts.hostfile import Hostfile

LOCAL = "127.0.0.1"  # needs no ssh, as for mlx.launch
PATIENCE = 10.0  # seconds in which a machine has to answer
ANSWER = "mlx-oss-hosts"  # the key of a worker's answer
_LAUNCH = "import sys; from mlx._distributed_utils.launch import main; sys.argv[0] = 'mlx.launch'; main()"

_running: set[subprocess.Popen[bytes]] = set()


def stop() -> None:
    """Kills all that runs."""
    for process in list(_running):
        with suppress(OSError):  # it has ended
            os.killpg(process.pid, signal.SIGKILL)


def run_on(host: str, command: Sequence[str], seconds: float) -> Ended:
    """Runs a program on a machine.

    Args:
        host: What ssh calls it.
        command: The program and its arguments.
        seconds: After this time it is killed.
    """
    if host == LOCAL:
        return run(command, seconds)
    # As mlx.launch does: in the same folder, if there is one.
    script = f"cd {shlex.quote(os.getcwd())} 2>/dev/null; exec {shlex.join(command)}"
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={PATIENCE:.0f}"]
    return run(["ssh", *options, host, script], seconds)


def run_on_all(hostfile: Hostfile, command: Sequence[str], seconds: float, port: int) -> Ended:
    """Runs a program on all machines, as `mlx.launch` does.

    Args:
        hostfile: The machines.
        command: The program and its arguments.
        seconds: After this time it is killed.
        port: The first port over which the machines exchange numbers.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(hostfile.text())
        file.flush()
        options = ["--hostfile", file.name, "--starting-port", str(port)]
        return run([sys.executable, "-P", "-c", _LAUNCH, *options, "--", *command], seconds)


def worker(python: str, job: str, *arguments: str) -> list[str]:
    """The command for a job of `worker`."""
    return [python, "-P", "-m", "mlx_oss.hosts.worker", job, *arguments]


def answer_of(ended: Ended) -> dict[str, Any] | None:
    """The answer of a worker; None if it has given none."""
    for line in ended.out.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(answer := found.get(ANSWER), dict):
                return answer
    return None


def run(command: Sequence[str], seconds: float) -> Ended:
    """Runs a program and all that it starts for at most `seconds`. Its stdin stays open and empty.

    Args:
        command: The program and its arguments.
        seconds: After this time all of it is killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True)
        except OSError as error:
            return Ended(127, "", f"{command[0]}: {error.strerror or error}")
        status = None
        _running.add(process)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(OSError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _running.discard(process)
            if process.stdin:
                process.stdin.close()
        out.seek(0)
        err.seek(0)
        return Ended(status, out.read().decode(errors="replace"), err.read().decode(errors="replace"))
