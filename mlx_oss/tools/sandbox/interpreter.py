"""The Python interpreter in the sandbox: runs one piece of code after the other in one namespace.

A script of its own, started by `jail` and understood by `sandbox`: it imports nothing of the package. Code comes in
through one pipe (its length, then its text), what it prints goes to stdout and stderr, and a line on another pipe says
that it is done. Like a notebook it shows the value of a last expression.

    python -c "<this file>" REQUESTS STATUS ALONE     file descriptors; ALONE 1: no one else's process can be signalled
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
    main_module = sys.modules["__main__"] = ModuleType("__main__")  # this script's own names are not the model's
    sys.path.insert(0, "")
    own = os.getpid()
    os.write(status, b"ready\n")
    with os.fdopen(requests, "rb") as pipe:
        number = 0
        while header := pipe.read(4):
            source = pipe.read(struct.unpack("<I", header)[0]).decode()
            number += 1
            ended = run(source, f"<call {number}>", main_module.__dict__)
            if os.getpid() != own:  # the code has forked, and this is the child
                os._exit(0)
            if alone:
                end_others()
            os.write(status, ended)


def end_others() -> None:
    """What the code left running."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except OSError:  # there is nobody
        pass


def run(source: str, name: str, namespace: dict[str, object]) -> bytes:
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
        ended = b"done\n"
    except BaseException as error:
        ended = b"raised\n"
        show(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the code may have closed or replaced it
            stream.flush()
    return ended


def show(error: BaseException) -> None:
    """The traceback, from the code's own frames on."""
    try:
        own = error.__traceback__
        while own is not None and own.tb_frame.f_code is run.__code__:
            own = own.tb_next
        lines = traceback.format_exception(type(error), error, own)
        text = "".join(lines if own is not None else lines[-1:])
        os.write(2, text.encode("utf-8", "replace"))
    except BaseException:
        os.write(2, b"an exception that cannot be shown\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
