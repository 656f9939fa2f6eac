"""Starts an isolated Python interpreter, sends it code, reads its output, and stops it when it exceeds a limit.

How it is isolated depends on the system; GUARANTEES describes each kind. `jail.py` and `interpreter.py` are the scripts
that run in the child process. Knows nothing of models and tools.
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
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_oss.errors import ToolError
from mlx_oss.tools.sandbox import cgroup, jail, seccomp, this_python
from mlx_oss.tools.sandbox.private_folder import private_folder
from mlx_oss.tools.sandbox.seatbelt import profile

Isolation = Literal["namespaces", "seatbelt", "limits"]
Memory = Literal["cgroup", "watched"]
Ending = Literal["done", "time", "memory", "processes", "unwatched", "stopped", "died"]

GUARANTEES: dict[Isolation, str] = {
    "namespaces": """\
Isolated with Linux user, mount, process and network namespaces, and with a filter that permits only the system calls
that Python and its libraries need. The code has no network, not even to this machine, and opens sockets only of the
families UNIX, INET, INET6 and NETLINK. It sees only the files of the system libraries and of Python itself (executable,
standard library, shared libraries, packages), not what lies beside them, and cannot write them. Its working directory,
/tmp and /dev/shm are in memory, each is limited in size, and they are deleted afterwards. It sees no other processes,
and not the caller's keyring. Time, the number of its processes, and the memory that they use together, including shared
memory, are limited. Memory that is not attributed to any process is refused (memfd, System V, shared mappings without a
file, huge pages). A call ends when the interpreter stops itself; only the supervisor can say so. Then everything that
the code started is stopped, and between calls nothing of it runs, also no thread.""",
    "seatbelt": """\
Isolated with sandbox-exec of macOS. The code has no network. It can write only to a private working directory. It can
read and list nothing in homes (/Users, yours, root's), on other volumes (/Volumes, /Network) and in temporary folders,
except for that directory and for Python's own files, and reads from no terminal; it can find out whether a path exists
in those places. It can read all other files and run all programs that you can, and see your processes with their
arguments and environment. POSIX and System V shared memory is refused. Memory in RAM and number of the processes in
its process group are checked twice a second while code runs and once when a call ends; time and the size of a file are
limited. A process that leaves the group is neither counted nor stopped. Between calls the interpreter is stopped, with
all of its threads; processes that the code has started run on, and can continue it. Not tested on a Mac.""",
    "limits": """\
Not isolated, only limited: time, memory, number of processes, and the size of files. On systems other than Linux,
memory and processes are checked twice a second while code runs and once when a call ends, and only processes in the
process group count and are stopped. The code can use the network, and can read and write everything that you can. Files
on a file system in memory, such as /dev/shm, count as memory only while they are mapped. On Linux the same system calls
are refused as in isolation. Between calls the interpreter is stopped; other processes run on.""",
}
_MEMORY: dict[Memory, str] = {
    "cgroup": """\
A cgroup holds the memory: all processes together cannot exceed the limit, and the kernel's buffers count too.""",
    "watched": """\
No cgroup may be made here, so the memory is not held but watched: it is read up to 500 times a second, and above the
limit everything is stopped to count precisely. Many processes that allocate at once can exceed the limit for moments,
before all are killed. The address space of one process is three quarters of the limit. The kernel's buffers for pipes
and sockets are not counted.""",
}


_EXIT_STATUSES: dict[int, Ending] = {
    jail.TOO_MUCH_MEMORY: "memory",
    jail.TOO_MANY_PROCESSES: "processes",
    jail.UNWATCHED: "unwatched",
}
_SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_PS = "" if sys.platform == "linux" else "/bin/ps"  # where there is no /proc
_START_SECONDS = 60.0  # for the interpreter to start
_CGROUPS = sys.platform == "linux"  # whether to use them where they are permitted
_AT_ONCE = 4096  # bytes that an empty pipe always holds


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for the code that the Python tool runs.

    Attributes:
        seconds: Time for one call.
        memory_bytes: Memory of all processes together, in bytes; on Linux also the address space of each process, or
            three quarters of it where no cgroup holds the limit (see `PythonTool.guarantees`).
        processes: Number of processes.
        file_bytes: Size of one file, in bytes. With namespaces also the size of each folder that can be written: the
            working directory, /tmp and /dev/shm.
        output: How many bytes of a call's output are kept: half from the beginning, half from the end.
    """

    seconds: float = 120.0
    memory_bytes: int = 2 << 30
    processes: int = 64
    file_bytes: int = 256 << 20
    output: int = 20_000


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a call.

    Attributes:
        text: What the code printed; the middle is left out if it exceeds `Limits.output`.
        ending: "done" if the code ended, also with an exception, and the interpreter goes on. Otherwise why the
            interpreter has ended: "time", "memory" or "processes" for a limit that was exceeded, "unwatched" if
            its usage could not be read, "stopped" for `Sandbox.stop`, "died" if it exited.
    """

    text: str
    ending: Ending


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
    return text if _PS or isolation == "seatbelt" else f"{text}\n{_MEMORY[_memory_here(isolation)]}"


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
        self._folder, lock = private_folder()
        self._cgroup = cgroup.make(limits.memory_bytes) if _CGROUPS and not _PS else None
        requests, self._requests = os.pipe()
        calls, self._calls = os.pipe()
        self._status, status = os.pipe()
        theirs, self._ours = [requests, calls, status], [self._requests, self._calls, self._status, lock]
        try:
            config = _config(isolation, limits, self._folder, self._cgroup, *theirs)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", jail.__file__, json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[*theirs, *(self._cgroup.descriptors if self._cgroup else ())],
                start_new_session=True,
            )
        except BaseException:
            self._release()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.memory: Memory = "watched"
        started = self._listen(_START_SECONDS)
        if self.ended:
            reason = " ".join(started.text.split()) or f"it did not start: {started.ending}"
            raise ToolError(f"no isolation {isolation!r} here: {reason}")

    def run(self, code: str) -> Output:
        """Runs code and returns its output, even if the interpreter ended with it."""
        source = code.encode("utf-8", "replace")
        message = memoryview(struct.pack("<I", len(source)) + source)
        with contextlib.suppress(BrokenPipeError):  # it has ended; `_listen` finds out why
            # The interpreter stops itself again if it is continued and finds no request.
            written = os.write(self._requests, message[:_AT_ONCE])
            os.write(self._calls, jail.CALL_BEGINS)
            while written < len(message):
                written += os.write(self._requests, message[written:])
        return self._listen(self._limits.seconds)

    def stop(self) -> None:
        """Stops the code that `run` is running, and the interpreter with it. Can be called from any thread."""
        self._stopped.set()
        self._process.terminate()

    def close(self) -> None:
        """Stops everything and waits until it has ended. Must not be called while `run` is running."""
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
        self._release()

    def _release(self) -> None:
        for descriptor in self._ours:
            os.close(descriptor)
        if self._cgroup:
            self._cgroup.remove()
            self._cgroup.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _listen(self, seconds: float) -> Output:
        """Reads output until the supervisor reports that the code has ended; otherwise ends the interpreter."""
        output = _BoundedOutput(self._limits.output)
        ending = self._read(output, time.monotonic() + seconds)
        if ending == "done":
            return Output(output.text(), ending)
        if ending == "died":
            with contextlib.suppress(subprocess.TimeoutExpired):
                ending = _EXIT_STATUSES.get(self._process.wait(10), "died")
        self.close()
        return Output(output.text(), "stopped" if self._stopped.is_set() else ending)

    def _read(self, output: _BoundedOutput, deadline: float) -> Ending:
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(self._status, selectors.EVENT_READ)
            while ready := {key.fd for key, _ in selector.select(max(deadline - time.monotonic(), 0))}:
                if stdout.fileno() in ready:  # one read gets everything that the pipe held when the status was written
                    printed = os.read(stdout.fileno(), 1 << 20)
                    output.add(printed)
                    if not printed:
                        selector.unregister(stdout)
                if self._status in ready:
                    line = os.read(self._status, 100)
                    if line == jail.CGROUP:
                        self.memory = "cgroup"
                    return "done" if line in (jail.CGROUP, jail.WATCHED, jail.DONE) else "died"
        return "time"


class _BoundedOutput:
    """Keeps the beginning and the end of the output, each up to half of the limit."""

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
    command = [sys.executable, "-I", "-u", "-c", source, str(requests), str(int(namespaces))]
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
        "requests": requests,
        "calls": calls,
        "status": status,
        "cgroup": None
        if group is None
        else {"name": group.name, "parent": group.parent, "entrance": group.entrance, "events": group.events},
        "starter": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "processes": limits.processes,
    }
