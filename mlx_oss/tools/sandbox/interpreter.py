"""Runs pieces of Python code, one after another, in one namespace: the interpreter inside the sandbox.

`process.py` passes this file's text to `python -c`, so it imports only the standard library:

    python -c "<this file>" REQUESTS ALONE

REQUESTS is the file descriptor of a pipe through which code arrives: its length in 4 bytes, then its UTF-8 text. What
the code prints goes to stdout and stderr. When the interpreter is ready, and when a piece has finished, it stops itself
with SIGSTOP; the supervisor sees that, and lets it go on when there is more code. So it reports nothing that the code
could forge: to look finished, the code has to stop. ALONE is 1 if a signal to all processes reaches only those of the
sandbox. As in a notebook, the value of a last expression is shown.
"""

import ast
import contextlib
import linecache
import os
import select
import signal
import struct
import sys
import traceback
from types import ModuleType


def main(requests: int, alone: bool) -> None:
    # The code gets a __main__ of its own, without the names of this script.
    main_module = sys.modules["__main__"] = ModuleType("__main__")
    sys.path.insert(0, "")
    own_pid, poll, kill = os.getpid(), select.poll(), os.kill  # the code may change the modules
    poll.register(requests, select.POLLIN)
    with os.fdopen(requests, "rb") as pipe:
        number = 0
        while True:
            while not poll.poll(0):  # once more if the supervisor has stopped everything and let it go on
                kill(own_pid, signal.SIGSTOP)
            if not (header := pipe.read(4)):
                break
            source = pipe.read(struct.unpack("<I", header)[0]).decode()
            number += 1
            run(source, f"<call {number}>", main_module.__dict__)
            if os.getpid() != own_pid:  # the code has forked, and this is the child
                os._exit(0)
            if alone:
                kill_leftover_processes()


def kill_leftover_processes() -> None:
    """Kills the processes that the code started and left running."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError:  # there are none, or none is left
        pass


def run(source: str, name: str, namespace: dict[str, object]) -> None:
    """Runs one piece of code."""
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
    except BaseException as error:
        write_traceback(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the code may have closed or replaced it
            stream.flush()


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
    main(int(sys.argv[1]), sys.argv[2] == "1")
