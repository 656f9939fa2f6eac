"""A Python interpreter behind bars: started, fed with code, its output taken, ended when it goes too far.

What the bars are depends on the system, and GUARANTEES says what holds where. `jail` and `interpreter` are what runs on
the other side. Knows nothing of models and tools.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_oss.errors import ToolError
from mlx_oss.tools.sandbox import jail, seccomp
from mlx_oss.tools.sandbox.seatbelt import profile

Isolation = Literal["namespaces", "seatbelt", "limits"]
Ending = Literal["done", "raised", "time", "memory", "processes", "stopped", "died"]

GUARANTEES: dict[Isolation, str] = {
    "namespaces": """\
Linux, user, mount, process and network namespaces. No network, not even to this machine. Of its files only the system's
libraries and Python's are seen, and none can be written; the working directory, /tmp and /dev/shm are in memory, of
limited size each, and gone afterwards. No other processes are seen. Memory, of all its processes together, what they
share too, their number, and time are limited; memory that no process is seen to hold is refused (memfd, System V,
shared mappings of no file), the system's buffers of pipes and sockets are not counted. When a call ends, nothing that
it started runs on but threads.""",
    "seatbelt": """\
macOS, sandbox-exec. No network. Only a private working directory can be written, and the home folder cannot be read but
for Python itself. Memory of its process group and their number are watched twice a second, time is limited; a process
that leaves the group is neither counted nor ended. Not tested on a Mac.""",
    "limits": """\
Limits only: time, memory and number of processes (of the process group where the system is not Linux), size of files.
The code can use the network, and read and write all that you can; files of a file system in memory, as /dev/shm, count
only while they are mapped.""",
}


_SAID: dict[bytes, Ending] = {b"ready": "done", b"done": "done", b"raised": "raised"}
_WHY: dict[int, Ending] = {jail.TOO_MUCH_MEMORY: "memory", jail.TOO_MANY_PROCESSES: "processes"}
_START = 60.0  # seconds for the interpreter to be there


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take. Files: the size of the working directory, and of /tmp; output: bytes kept of it."""

    seconds: float = 120.0
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 256 << 20
    output: int = 20_000


@dataclass(frozen=True, slots=True)
class Output:
    """What a call printed, the middle left out if it was much, and how it ended; "done" and "raised" are its own."""

    text: str
    ending: Ending


@functools.cache
def isolation_here() -> Isolation | str:
    """The isolation that this machine has; otherwise why it has none but limits."""
    if sys.platform not in ("linux", "darwin"):
        return f"there is none for {sys.platform}"
    isolation: Isolation = "namespaces" if sys.platform == "linux" else "seatbelt"
    try:
        with contextlib.closing(Sandbox(isolation, Limits(seconds=20))) as sandbox:
            return isolation if sandbox.run("1 + 1").text == "2\n" else "the interpreter does not answer"
    except ToolError as error:
        return str(error)


class Sandbox:
    """One interpreter in one jail. It ends with `close`, with this process, and when a call goes too far (`ended`)."""

    def __init__(self, isolation: Isolation, limits: Limits) -> None:
        """Raises ToolError if the isolation cannot be had here."""
        self.ended, self._limits, self._stopped = False, limits, threading.Event()
        self._folder = tempfile.mkdtemp(prefix="mlx-oss-")
        requests, self._requests = os.pipe()
        self._status, status = os.pipe()
        config = _config(isolation, limits, self._folder, requests, status)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", jail.__file__, json.dumps(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(requests, status),
            start_new_session=True,
        )
        os.close(requests)
        os.close(status)
        started = self._listen(_START)
        if self.ended:
            reason = " ".join(started.text.split()) or f"it did not start: {started.ending}"
            raise ToolError(f"no isolation {isolation!r} here: {reason}")

    def run(self, code: str) -> Output:
        """Runs code and gives its output, also if that is the last thing the interpreter did."""
        source = code.encode("utf-8", "replace")
        message = memoryview(struct.pack("<I", len(source)) + source)
        with contextlib.suppress(BrokenPipeError):  # it has ended: its status will say so
            while message:
                message = message[os.write(self._requests, message) :]
        return self._listen(self._limits.seconds)

    def stop(self) -> None:
        """Ends a `run` that is running; for any thread."""
        self._stopped.set()
        self._process.terminate()

    def close(self) -> None:
        """Ends everything and waits until it has ended. Not while `run` runs."""
        if self.ended:
            return
        self.ended = True
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        os.close(self._requests)
        os.close(self._status)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _listen(self, seconds: float) -> Output:
        """Takes output until the interpreter says that it is done; if it does not, ends it."""
        kept = _Kept(self._limits.output)
        ending = self._take(kept, time.monotonic() + seconds)
        if ending in ("done", "raised"):
            return Output(kept.text(), ending)
        if ending == "died":
            with contextlib.suppress(subprocess.TimeoutExpired):
                ending = _WHY.get(self._process.wait(10), "died")
        self.close()
        return Output(kept.text(), "stopped" if self._stopped.is_set() else ending)

    def _take(self, kept: _Kept, deadline: float) -> Ending:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(self._status, selectors.EVENT_READ)
            while ready := {key.fd for key, _ in selector.select(max(deadline - time.monotonic(), 0))}:
                if stdout.fileno() in ready:  # at once all that the pipe held when the status was written
                    printed = os.read(stdout.fileno(), 1 << 20)
                    kept.add(printed)
                    if not printed:
                        selector.unregister(stdout)
                if self._status in ready:
                    return _SAID.get(os.read(self._status, 100).strip(), "died")
        return "time"


class _Kept:
    """Of what is printed the beginning and the end, half of the limit each."""

    def __init__(self, limit: int) -> None:
        self._half, self._head, self._tail, self._size = limit // 2, bytearray(), bytearray(), 0

    def add(self, printed: bytes) -> None:
        self._size += len(printed)
        room = self._half - len(self._head)
        self._head += printed[:room]
        self._tail += printed[room:]
        del self._tail[: -self._half]

    def text(self) -> str:
        left_out = self._size - len(self._head) - len(self._tail)
        gap = f"\n[... {left_out:,} bytes left out ...]\n" if left_out else ""
        return self._head.decode("utf-8", "replace") + gap + self._tail.decode("utf-8", "replace")


def _config(isolation: Isolation, limits: Limits, folder: str, requests: int, status: int) -> dict[str, object]:
    """What `jail` is told."""
    namespaces = isolation == "namespaces"
    work = "/mnt/data" if namespaces else os.path.realpath(folder)
    source = Path(__file__).with_name("interpreter.py").read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-u", "-c", source, str(requests), str(status), str(int(namespaces))]
    if isolation == "seatbelt":
        command = ["/usr/bin/sandbox-exec", "-p", profile(work, _python()), *command]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
    return {
        "namespaces": namespaces,
        "root": folder,
        "work": work,
        "visible": [path for path in ("/usr", "/nix/store") if os.path.isdir(path)] + _python() if namespaces else [],
        "command": command,
        "environment": {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", "MPLBACKEND": "Agg"}
        | threads,
        "filter": seccomp.program(os.uname().machine).hex(),
        "lifeline": requests,
        "starter": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
    }


def _python() -> list[str]:
    """The folders that this Python and its packages are in, outside of /usr."""
    executable = Path(sys.executable).resolve()
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    folders = [sys.prefix, sys.base_prefix, str(executable.parents[1]), *packages]
    found = {str(folder) for folder in map(Path, folders) if folder.is_dir() and len(folder.parts) > 1}
    found = {path for path in found if not path.startswith("/usr/") and path != "/usr"}
    return sorted(path for path in found if not any(path.startswith(f"{other}/") for other in found))
