"""Runs a command as long as its starter lives, and then ends all that the command has started.

The starter holds the other end of a pipe. When that is closed, on purpose or because the starter was killed, the
command gets SIGTERM and soon SIGKILL, with all processes of its group. When the command ends by itself, the rest of its
group is killed too. On Linux this also holds for processes that have left the group, as browsers do. The command has
the guard's standard streams; the guard itself keeps none of them, so that the starter sees them end. Python runs this
file by its path: it imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_GRACE = 1.0  # seconds from SIGTERM to SIGKILL
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_MOST_ROUNDS = 50  # of killing, when new processes come all the time


def run(lifeline: int, command: list[str]) -> int:
    """Runs the command. Returns its exit status, as a shell says it.

    Args:
        lifeline: The pipe's end that is read.
        command: The command and its arguments.
    """
    _adopt()
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    threading.Thread(target=_end_with, args=(lifeline, process.pid), daemon=True).start()
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # so that its number is not used again yet
        _kill(process.pid, signal.SIGKILL)
        _kill_descendants()
        status = process.wait()
    else:
        status = process.wait()
        _kill(process.pid, signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _end_with(lifeline: int, group: int) -> None:
    """Ends a group of processes when the pipe is closed."""
    while os.read(lifeline, 1):
        pass
    _kill(group, signal.SIGTERM)
    time.sleep(_GRACE)
    _kill(group, signal.SIGKILL)  # the main thread sees the end of the command, and ends what is left


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses for a group of zombies
        os.killpg(group, number)


def _adopt() -> None:
    """Makes this process the parent of those whose own parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    for _ in range(_MOST_ROUNDS):
        left = _descendants()
        for number in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.001)


def _descendants() -> list[int]:
    """The processes below this one that have not ended; none where there is no /proc."""
    parents = {}
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                number = int(name)
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent, *_ = file.read().rpartition(b")")[2].split()
                if state not in (b"Z", b"X"):
                    parents[number] = int(parent)
    found, new = list[int](), {os.getpid()}
    while new:
        new = {number for number, parent in parents.items() if parent in new}
        found += new
    return found


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
