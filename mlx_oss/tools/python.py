"""The `python` tool: runs the code that the model writes in a sandbox.

    tool = PythonTool()
    session = ChatSession(model, tokenizer, tools=[tool])

`tool.guarantees` describes how the code is isolated on this machine. If the machine has no isolation, the tool can only
be created with `isolation="limits"`. Files go in with `PythonTool(files=[...])`, and `tool.files()` has those that the
code has written. Knows nothing of sessions.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import replace

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import PYTHON, ToolNamespace
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.python_files import Files, GivenFiles, Source, harmless_name
from mlx_oss.tools.sandbox import GUARANTEES, Ending, Isolation, Limits, Output, Sandbox, guarantees, isolation_here

_STATELESS = """\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool \
should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when \
creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a new Python interpreter, and what it \
prints is returned. Nothing is kept between two calls: send all of the code each time."""

_MOST_FILES = 1000  # that are kept for the app
_ENDINGS: dict[Ending, str] = {
    "time": "the code was stopped after {seconds:g} seconds",
    "memory": "the code was stopped, as it used more than {memory:,.1f} GB of memory",
    "processes": "the code was stopped, as it started more than {processes} processes",
    "unwatched": "the code was stopped, as the system did not say how much memory and how many processes it uses",
    "stopped": "the code was stopped",
    "died": "the interpreter was ended by the code",
}


class PythonTool(SystemTool):
    """Runs Python code for the model, in a sandbox.

    The interpreter starts with the first call. It is stopped when a call exceeds a limit; the next call starts a new
    one, without the earlier variables.

    Args:
        stateful: If True, variables, imports and files stay for later calls, as in a notebook. If False, each call runs
            in a new interpreter.
        limits: Limits for time, memory, processes, files and output. None means the defaults of `Limits`.
        isolation: None means the isolation of this machine (see `guarantees`). "limits" means no isolation, only
            limits: the code can then do everything that you can, at your own risk.
        files: Files for the code: paths, or a mapping from names to paths or contents. It gets copies in its working
            directory, /mnt/data, which it cannot write to. A file that changes is copied again before the next call.

    Attributes:
        stateful: As given.
        limits: The limits for the code.
        isolation: The isolation in use: "namespaces" (Linux), "seatbelt" (macOS) or "limits".

    Raises:
        OptionError: If this machine has no isolation and `isolation` is not "limits", or a file cannot be read or the
            files are too large: together at most `Limits.file_bytes`.
    """

    def __init__(
        self,
        *,
        stateful: bool = True,
        limits: Limits | None = None,
        isolation: Isolation | None = None,
        files: Files = (),
    ) -> None:
        available = isolation or isolation_here()
        if available not in GUARANTEES:
            raise OptionError(
                f'{available}: without isolation the tool runs only with isolation="limits", which is unsafe'
            )
        self.isolation: Isolation = available
        self.stateful, self.limits = stateful, limits or Limits()
        self._source: Source = GivenFiles(files, self.limits.file_bytes)
        self._sandbox: Sandbox | None = None
        self._came_in: dict[str, bytes] = {}  # digests of the files that this interpreter got
        self._written: dict[str, bytes] = {}  # by name, those written last at the end
        self._unasked: set[str] = set()  # names that `new_files` has not returned
        self._names: dict[str, str] = {}  # by path in the working directory
        self._taken: set[str] = set()  # these names, case-folded
        self._calling, self._cancelled = threading.Lock(), threading.Event()

    @property
    def namespace(self) -> ToolNamespace:
        """The description of the tool in the system message: the text gpt-oss was trained with, if `stateful`."""
        return PYTHON if self.stateful else replace(PYTHON, description=_STATELESS)

    @property
    def guarantees(self) -> str:
        """Describes what the code can and cannot do with this isolation on this machine, in English sentences."""
        return guarantees(self.isolation)

    def call(self, function: str, text: str) -> str:
        """Runs code.

        Args:
            function: Ignored: the namespace has no functions.
            text: The code, or a JSON object {"code": ...} or a Markdown block that holds it.

        Returns:
            What the code printed, with the value of a last expression and the traceback of an exception. If it printed
            nothing, a sentence says so. Another one names files that were written but are not handed out.

        Raises:
            ToolError: If the code was stopped, the interpreter exited or could not start, or a file for it cannot be
                read any more. `output` is what was printed until then.
        """
        with self._calling:
            try:
                output = self._run(code_of(text))
                about_files = self._collect()
            finally:
                self._cancelled.clear()
                if not self.stateful or self._sandbox is None or self._sandbox.ended:
                    self.close()
        if output.ending != "done":
            raise ToolError(self._reason(output), output.text + about_files)
        text = output.text.rstrip("\n") or "(no output: print what you want to see)"
        return text + about_files

    def files(self) -> dict[str, bytes]:
        """The files that the code has written or changed, such as plots, by name.

        They are those of its working directory (on Linux, /mnt/data), with the folders in it, as they were when a call
        ended; also when it was stopped, and also those of interpreters that have ended. Hidden files, links, and files
        with a second name are left out. They are at most 1,000 with `Limits.file_bytes` together; beyond that, those
        written first are dropped. The names are relative paths without characters that could do harm, so they may
        differ from those that the code has chosen.
        """
        return dict(self._written)

    def new_files(self) -> dict[str, bytes]:
        """Those of `files` that were written or changed since this was last called."""
        written = self._written
        new, self._unasked = self._unasked, set()
        return {name: content for name, content in written.items() if name in new}

    def _run(self, code: str) -> Output:
        files = self._source.read(anew=self._sandbox is None)
        if self._sandbox is None:
            self._came_in, self._names, self._taken = {}, {}, set()
            self._sandbox = Sandbox(self.isolation, self.limits)
            if self._cancelled.is_set():  # cancelled while the interpreter was starting
                return Output("", "stopped")
        self._came_in |= {name: hashlib.sha256(content).digest() for name, content in files.items()}
        return self._sandbox.run(code, files, self._source.writable)

    def _collect(self) -> str:
        """Reads what has been written. Returns a sentence for the model about files that are not handed out."""
        if (sandbox := self._sandbox) is None:  # `close` was called meanwhile
            return ""
        contents, left_out = sandbox.written(self._came_in, self.limits.file_bytes)
        written = dict(self._written)
        for path, content in contents.items():
            name = self._names.get(path) or harmless_name(path, self._taken)
            self._names[path] = name
            self._taken.add(name.casefold())
            self._came_in.pop(path, None)
            written.pop(name, None)
            written[name] = content
        while len(written) > _MOST_FILES or sum(map(len, written.values())) > self.limits.file_bytes:
            del written[next(iter(written))]
        self._written = written
        self._unasked |= {self._names[path] for path in contents}
        if not left_out:
            return ""
        names = ", ".join(harmless_name(path) for path in left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        return f"\n[not handed to the user, as too large, too many or not readable: {names}]"

    def cancel(self) -> None:
        """Stops the running call, and the interpreter with it. Can be called from any thread."""
        self._cancelled.set()
        if (sandbox := self._sandbox) is not None:
            sandbox.stop()

    def close(self) -> None:
        """Stops the interpreter; a later call starts a new one."""
        if (sandbox := self._sandbox) is not None:
            sandbox.close()
            self._sandbox = None

    def _reason(self, output: Output) -> str:
        limits = self.limits
        reason = _ENDINGS[output.ending].format(
            seconds=limits.seconds, memory=limits.memory_bytes / 1e9, processes=limits.processes
        )
        return reason + ("; variables are lost, the next call begins anew" if self.stateful else "")


_FENCED = re.compile(r"\s*```(?:python|py)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)


def code_of(text: str) -> str:
    """Returns the code of a call: the text itself, or what the model has put into a JSON object or a Markdown block.

    An object is unwrapped if it has the code as "code", whatever else it has, or under another usual name alone.
    """
    if fenced := _FENCED.fullmatch(text):
        return fenced[1]
    if not text.lstrip().startswith("{"):
        return text
    try:
        wrapped = json.loads(text, strict=False)  # line breaks may stand in it as they are
    except (ValueError, RecursionError):
        return text
    match wrapped:
        case {"code": str(code)}:
            return code
        case {"source": str(code)} | {"script": str(code)} | {"python": str(code)} | {"input": str(code)}:
            return code if len(wrapped) == 1 else text
    return text
