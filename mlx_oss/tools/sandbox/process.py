"""Starts an isolated Python interpreter, sends it code, reads its output, and stops it when it exceeds a limit.

How it is isolated depends on the system; `guarantees.py` describes each kind. `jail/` and `interpreter.py` run in the
child process. Knows nothing of models and tools.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlx_oss.errors import ToolError
from mlx_oss.tools.sandbox import seccomp, this_python
from mlx_oss.tools.sandbox.guarantees import GUARANTEES, MEMORY, Isolation, Memory
from mlx_oss.tools.sandbox.jail import cgroup
from mlx_oss.tools.sandbox.jail import config as jail
from mlx_oss.tools.sandbox.output import BoundedOutput, Ending, Limits, Output
from mlx_oss.tools.sandbox.private_folder import private_folder
from mlx_oss.tools.sandbox.seatbelt import profile
from mlx_oss.tools.sandbox.written import WorkFolder

_EXIT_STATUSES: dict[int, Ending] = {
    jail.TOO_MUCH_MEMORY: "memory",
    jail.TOO_MANY_PROCESSES: "processes",
    jail.UNWATCHED: "unwatched",
}
# Its folder is on the path only until it is imported, and behind the standard library.
_JAIL = "import sys; sys.path.append(sys.argv[1]); from jail.main import main; sys.path.pop(); main(sys.argv[2])"
_SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_PS = "" if sys.platform == "linux" else "/bin/ps"  # where there is no /proc
_INTERVAL, _PS_INTERVAL = 0.05, 0.5  # seconds between two checks of the usage, in /proc and with ps, at most
_PS_SECONDS = 20.0  # for ps to answer
_START_SECONDS = 60.0  # for the interpreter to start
_CGROUPS = sys.platform == "linux"  # whether to use them where they are permitted
_AT_ONCE = 1 << 16  # bytes that are written or read in one step


@functools.cache
def isolation_here() -> Isolation | str:
    """Returns the isolation that works on this machine, or a sentence that says why none works.

    The first call tries it out; later calls return the same.
    """
    if sys.platform not in ("linux", "darwin"):
        return f"there is no isolation for {sys.platform}"
    isolation: Isolation = "namespaces" if sys.platform == "linux" else "seatbelt"
    try:
        with contextlib.closing(Sandbox(isolation, Limits(seconds=20))) as sandbox:
            return isolation if sandbox.run("1 + 1").text == "2\n" else "the interpreter does not answer"
    except ToolError as error:
        return str(error)


def guarantees(isolation: Isolation) -> str:
    """Describes what code can and cannot do with this isolation on this machine, in English sentences."""
    text = GUARANTEES[isolation]
    return text if _PS or isolation == "seatbelt" else f"{text}\n{MEMORY[_memory_here(isolation)]}"


@functools.cache
def _memory_here(isolation: Isolation) -> Memory:
    """What holds the limit of memory on this machine, which is tried out."""
    try:
        with contextlib.closing(Sandbox(isolation, Limits(seconds=20))) as sandbox:
            return sandbox.memory
    except ToolError:
        return "watched"


class Sandbox:
    """One isolated interpreter. It ends with `close`, with this process, and when a call exceeds a limit.

    Attributes:
        ended: Whether it has ended. It cannot run code then.
        memory: What holds the limit of memory: a "cgroup", or a supervisor that has "watched" the usage.
    """

    def __init__(self, isolation: Isolation, limits: Limits) -> None:
        """Starts the interpreter.

        Args:
            isolation: The kind of isolation, a key of GUARANTEES.
            limits: Limits for the code.

        Raises:
            ToolError: If this isolation does not work on this machine.
        """
        self.ended, self._limits, self._stopped = False, limits, threading.Event()
        self._released, self._work = False, WorkFolder()
        self._folder, self._lock = private_folder()
        self._cgroup = cgroup.make(limits.memory_bytes) if _CGROUPS and not _PS else None
        requests, self._requests = os.pipe()
        os.set_blocking(self._requests, False)  # the code may keep the interpreter from reading
        calls, self._calls = os.pipe()
        self._status, status = socket.socketpair()
        try:
            config = _config(isolation, limits, self._folder, self._cgroup, requests, calls, status.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _JAIL, os.path.dirname(__file__), json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[requests, calls, status.fileno(), *(self._cgroup.descriptors if self._cgroup else ())],
                start_new_session=True,
            )
        except BaseException:
            self._release()
            raise
        finally:
            os.close(requests)
            os.close(calls)
            status.close()
        self.memory: Memory = "watched"
        started = self._converse(_START_SECONDS, b"", iter(()))
        if self.ended:
            self.close()
            reason = " ".join(started.text.split()) or f"it did not start: {started.ending}"
            raise ToolError(f"no isolation {isolation!r} here: {reason}")

    def run(self, code: str, files: Mapping[str, bytes] | None = None, writable: bool = False) -> Output:
        """Runs code and returns its output, even if the interpreter ended with it.

        Args:
            code: The code.
            files: Contents of files that are put into the working directory before, by name. A file that is there by
                this name is replaced.
            writable: Whether the code may write to these files.
        """
        messages = _messages(code, files or {}, writable)
        unsent = next(messages)
        with contextlib.suppress(BrokenPipeError):  # it has ended; `_converse` finds out why
            # The interpreter stops itself again if it is continued and finds no message.
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[os.write(self._requests, unsent) :]
            os.write(self._calls, jail.CALL_BEGINS)
        return self._converse(self._limits.seconds, unsent, messages)

    def written(self, came_in: Mapping[str, bytes], most_bytes: int) -> tuple[dict[str, bytes], list[str]]:
        """What has been written to the working directory since the last time, see `WorkFolder.new_files`."""
        return self._work.new_files(came_in, most_bytes)

    def stop(self) -> None:
        """Stops the code that `run` is running, and the interpreter with it. Can be called from any thread."""
        self._stopped.set()
        self._process.terminate()

    def close(self) -> None:
        """Stops everything, waits until it has ended, and deletes its files. Not while `run` is running."""
        self._end()
        self._release()

    def _end(self) -> None:
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

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        if hasattr(self, "_process") and self._process.stdout is not None:
            self._process.stdout.close()
        os.close(self._requests)
        os.close(self._calls)
        self._status.close()
        self._work.close()
        if self._cgroup:
            self._cgroup.remove()
            self._cgroup.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _converse(self, seconds: float, unsent: bytes, more: Iterator[bytes]) -> Output:
        """Sends the messages and reads output until the supervisor reports the end; otherwise ends the interpreter."""
        output = BoundedOutput(self._limits.output)
        ending = self._exchange(output, time.monotonic() + seconds, unsent, more)
        if ending == "done":
            return Output(output.text(), ending)
        if ending == "died":
            with contextlib.suppress(subprocess.TimeoutExpired):
                ending = _EXIT_STATUSES.get(self._process.wait(10), "died")
        self._end()
        return Output(output.text(), "stopped" if self._stopped.is_set() else ending)

    def _exchange(self, output: BoundedOutput, deadline: float, unsent: bytes, more: Iterator[bytes]) -> Ending:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(self._status, selectors.EVENT_READ)
            # A slice of bytes would be a copy, and a large file is sent in many steps.
            if waiting := memoryview(unsent or next(more, b"")):
                selector.register(self._requests, selectors.EVENT_WRITE)
            while ready := {key.fd for key, _ in selector.select(max(deadline - time.monotonic(), 0))}:
                if self._requests in ready:
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):
                        waiting = waiting[os.write(self._requests, waiting[:_AT_ONCE]) :] or memoryview(next(more, b""))
                    if not waiting:
                        selector.unregister(self._requests)
                if stdout.fileno() in ready:  # one read gets everything that the pipe held when the status was written
                    printed = os.read(stdout.fileno(), 1 << 20)
                    output.add(printed)
                    if not printed:
                        selector.unregister(stdout)
                if self._status.fileno() in ready:
                    # What has not been sent would be taken for the beginning of the next message.
                    return "done" if self._has_stopped() and not waiting else "died"
        return "time"

    def _has_stopped(self) -> bool:
        """Whether the supervisor says that the program is ready; otherwise it has ended."""
        try:
            line, descriptors, _, _ = socket.recv_fds(self._status, 100, 1)
        except ConnectionError:
            return False
        if descriptors:
            self._work.open(descriptors[0])
        if line == jail.CGROUP:
            self.memory = "cgroup"
        return line in (jail.CGROUP, jail.WATCHED, jail.DONE)


def _messages(code: str, files: Mapping[str, bytes], writable: bool) -> Iterator[bytes]:
    """What the interpreter reads, in pieces: for each file, and then for the code, two lengths, a name, a content."""
    named = [(f"{'w' if writable else 'r'}{name}", content) for name, content in files.items()]
    for name, content in (*named, ("", code.encode("utf-8", "replace"))):
        encoded = os.fsencode(name)
        yield struct.pack("<IQ", len(encoded), len(content)) + encoded
        if content:
            yield content


def _config(
    isolation: Isolation,
    limits: Limits,
    folder: str,
    group: cgroup.Cgroup | None,
    requests: int,
    calls: int,
    status: int,
) -> jail.Config:
    namespaces = isolation == "namespaces"
    work = "/mnt/data" if namespaces else os.path.realpath(folder)
    source = Path(__file__).with_name("interpreter.py").read_text(encoding="utf-8")
    command = [sys.executable, "-I", "-u", "-c", source, str(requests), str(int(namespaces)), work]
    if isolation == "seatbelt":
        command = [_SANDBOX_EXEC, "-p", profile(work, this_python.files(), sys.executable), *command]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM")}
    return {
        "namespaces": namespaces,
        "root": folder,
        "work": work,
        "visible": [path for path in ("/usr", "/nix/store") if os.path.isdir(path)] + this_python.files()
        if namespaces
        else [],
        "command": command,
        "environment": {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8", "MPLBACKEND": "Agg"}
        | threads,
        "filter": seccomp.program(os.uname().machine).hex(),
        "ps": "" if namespaces else _PS,
        "ps_seconds": _PS_SECONDS,
        "interval": _PS_INTERVAL if _PS and not namespaces else _INTERVAL,
        "requests": requests,
        "calls": calls,
        "status": status,
        "cgroup": None if group is None else list(group),
        "starter": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
    }
