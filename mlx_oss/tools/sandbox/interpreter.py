"""Runs pieces of Python code, one after another, in one namespace: the interpreter inside the sandbox.

`process.py` passes this file's text to `python -c`, so it imports only the standard library:

    python -c "<this file>" REQUESTS STATUS ALONE

REQUESTS and STATUS are file descriptors of pipes. Code arrives through REQUESTS: its length in 4 bytes, then
its UTF-8 text. What the code prints goes to stdout and stderr. A line is written to STATUS when the interpreter is
ready, and when a piece has finished. ALONE is 1 if a signal to all processes reaches only those of the sandbox. As in a
notebook, the value of a last expression is shown.
"""

import ast
import contextlib
import linecache
import os
import signal
import struct
import sys
import traceback
from types import ModuleType


def main(requests: int, status: int, alone: bool) -> None:
    # The code gets a __main__ of its own, without the names of this script.
    main_module = sys.modules["__main__"] = ModuleType("__main__")
    sys.path.insert(0, "")
    own_pid = os.getpid()
    os.write(status, b"ready\n")
    with os.fdopen(requests, "rb") as pipe:
        number = 0
        while header := pipe.read(4):
            source = pipe.read(struct.unpack("<I", header)[0]).decode()
            number += 1
            status_line = run(source, f"<call {number}>", main_module.__dict__)
            if os.getpid() != own_pid:  # the code has forked, and this is the child
                os._exit(0)
            if alone:
                kill_leftover_processes()
            os.write(status, status_line)


def kill_leftover_processes() -> None:
    """Kills the processes that the code started and left running."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError:  # there are none, or none is left
        pass


def run(source: str, name: str, namespace: dict[str, object]) -> bytes:
    """Runs one piece of code and returns the line for STATUS: "done", or "raised" after an exception."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    try:
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            if value is not None:
                namespace["_"] = value
                sys.stdout.write(f"{value!r}\n")
        status_line = b"done\n"
    except BaseException as error:
        status_line = b"raised\n"
        write_traceback(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the code may have closed or replaced it
            stream.flush()
    return status_line


def write_traceback(error: BaseException) -> None:
    """Writes the traceback to stderr, without the frames of this script."""
    try:
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code is run.__code__:
            frame = frame.tb_next
        lines = traceback.format_exception(type(error), error, frame)
        text = "".join(lines if frame is not None else lines[-1:])
        os.write(2, text.encode("utf-8", "replace"))
    except BaseException:
        os.write(2, b"an exception that cannot be shown\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
