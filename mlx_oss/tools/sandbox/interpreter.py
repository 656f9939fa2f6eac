"""Runs pieces of Python code, one after another, in one namespace: the interpreter inside the sandbox.

`process.py` passes this file's text to `python -c`, so it imports only the standard library:

    python -c "<this file>" REQUESTS ALONE WORK

REQUESTS is the file descriptor of a pipe through which messages arrive: two lengths in 4 and 8 bytes, a name and a
content. With a name it is a file for the working directory, after a "w" if the code may write to it, otherwise an "r".
Without a name it is code. What the code prints goes to stdout and stderr. When the interpreter is ready, and when a
piece has finished, it stops itself with SIGSTOP; the supervisor sees that, and lets it go on when there is more. So it
reports nothing that the code could forge: to look finished, the code has to stop. ALONE is 1 if a signal to all
processes reaches only those of the sandbox. WORK is the working directory, which models know as /mnt/data.

As in a notebook, the value of a last expression is shown, `await` works outside of functions, and `plt.show()` shows
what has been drawn: it is saved as a file.
"""

import ast
import contextlib
import importlib.abc
import importlib.util
import inspect
import linecache
import os
import re
import select
import signal
import struct
import sys
import traceback
from types import ModuleType
from typing import Any, BinaryIO

NOT_IPYTHON = """\
Lines with !, % or ? like this one are commands of IPython, and this is plain Python: for a shell command use \
subprocess.run("...", shell=True), for documentation help(...), and leave out magics such as %matplotlib.
"""
IPYTHON = re.compile(r"\s*([\w., ]+=\s*)?[!%?].*|\s*[\w.]+\?{1,2}\s*", re.DOTALL)


def main(requests: int, alone: bool, work: str) -> None:
    # The code gets a __main__ of its own, without the names of this script.
    main_module = sys.modules["__main__"] = ModuleType("__main__")
    sys.path.insert(0, "")
    sys.meta_path.insert(0, PlotsAreSaved(work))
    own_pid, poll, kill = os.getpid(), select.poll(), os.kill  # the code may change the modules
    poll.register(requests, select.POLLIN)
    with os.fdopen(requests, "rb") as pipe:
        number = 0
        while True:
            while not poll.poll(0):  # once more if the supervisor has stopped everything and let it go on
                kill(own_pid, signal.SIGSTOP)
            source = receive(pipe, work)
            if source is None:
                break
            number += 1
            # Where /mnt/data cannot be made, what the code calls so is the working directory.
            source = re.sub(r"/mnt/data(?![\w.-])", lambda _: work, source)
            run(source, f"<call {number}>", main_module.__dict__)
            if os.getpid() != own_pid:  # the code has forked, and this is the child
                os._exit(0)
            if alone:
                kill_leftover_processes()


def receive(pipe: BinaryIO, work: str) -> str | None:
    """Reads messages, and writes those that are files, until one is code. None if there are no more."""
    while header := pipe.read(12):
        name_size, size = struct.unpack("<IQ", header)
        name, content = os.fsdecode(pipe.read(name_size)), pipe.read(size)
        if not name:
            return content.decode()
        path = os.path.join(work, name[1:])
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with open(path, "xb") as file:
                file.write(content)
                os.chmod(path, 0o644 if name[0] == "w" else 0o444)
        except OSError as error:
            os.write(2, f"{path} could not be put there: {error}\n".encode())
    return None


def kill_leftover_processes() -> None:
    """Kills the processes that the code started and left running, and collects them, so that none counts any more."""
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
        evaluate(tree, name, "exec", namespace)
        if isinstance(last, ast.Expr):
            value = evaluate(ast.Expression(last.value), name, "eval", namespace)
            if value is not None:
                namespace["_"] = value
                sys.stdout.write(f"{value!r}\n")
    except BaseException as error:
        write_traceback(error, source, name)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the code may have closed or replaced it
            stream.flush()


def evaluate(tree: ast.Module | ast.Expression, name: str, mode: str, namespace: dict[str, object]) -> object:
    """Runs a part of the code. If it awaits something, in an event loop that stays for later calls."""
    code = compile(tree, name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, namespace)
    if not code.co_flags & inspect.CO_COROUTINE:
        return result
    import asyncio

    global loop
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
    return loop.run_until_complete(result)


loop: Any = None  # of asyncio


def write_traceback(error: BaseException, source: str, name: str) -> None:
    """Writes the traceback to stderr, without the frames of this script."""
    try:
        frame = error.__traceback__
        while frame is not None and not frame.tb_frame.f_code.co_filename.startswith("<call "):
            frame = frame.tb_next
        line = ""
        if frame is None and isinstance(error, SyntaxError) and error.filename == name:
            line = "".join(source.splitlines()[(error.lineno or 1) - 1 :][:1])
            error.text = error.text or line
        text = "".join(traceback.format_exception(type(error), error, frame))
        text += NOT_IPYTHON if IPYTHON.fullmatch(line) else ""
        os.write(2, text.encode("utf-8", "replace"))
    except BaseException:
        os.write(2, b"an exception that cannot be shown\n")


class PlotsAreSaved(importlib.abc.MetaPathFinder):
    """Lets `matplotlib.pyplot.show` save the open figures in the working directory, as there is no screen."""

    def __init__(self, work: str) -> None:
        self._work = work

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "matplotlib.pyplot" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_replace(module: ModuleType) -> None:
                execute(module)
                module.show = lambda *_, **__: save_figures(module, self._work)  # type: ignore[attr-defined]

            loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def save_figures(pyplot: Any, work: str) -> None:
    """Saves each open figure as plot-1.png, plot-2.png and so on, says so, and closes it."""
    number = 1
    for figure in pyplot.get_fignums():
        while os.path.lexists(path := os.path.join(work, f"plot-{number}.png")):
            number += 1
        pyplot.figure(figure).savefig(path, bbox_inches="tight")
        sys.stdout.write(f"saved {path}\n")
    pyplot.close("all")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3])
