"""The `python` tool: code that the model writes runs in a sandbox, with what earlier calls defined, or each call anew.

    tool = PythonTool(); ChatSession(model, tokenizer, tools=[tool])

`tool.guarantees` says what the sandbox of this machine promises. Where there is none but limits, the tool is refused
unless they are asked for with `isolation="limits"`. Knows nothing of sessions.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import PYTHON, ToolNamespace
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.sandbox import GUARANTEES, Ending, Isolation, Limits, Output, Sandbox, isolation_here

_STATELESS = """\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool \
should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when \
creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a new Python interpreter, and what it \
prints is returned. Nothing is kept between two calls: send all of the code each time."""

_ENDINGS: dict[Ending, str] = {
    "time": "the code was stopped after {seconds:g} seconds",
    "memory": "the code was stopped, as it used more than {memory:,.1f} GB of memory",
    "processes": "the code was stopped, as it started more than {processes} processes",
    "stopped": "the code was stopped",
    "died": "the interpreter was ended by the code",
}


class PythonTool(SystemTool):
    """Python for the model.

    stateful   variables, imports and files stay for later calls, as in a notebook; otherwise every call begins anew
    limits     of time, memory, processes, files and output, see `sandbox.Limits`
    isolation  None: what this machine has (`guarantees`); "limits": none but limits, on your own responsibility

    Raises OptionError where this machine has no isolation and "limits" was not asked for.
    """

    def __init__(
        self, *, stateful: bool = True, limits: Limits | None = None, isolation: Isolation | None = None
    ) -> None:
        found = isolation or isolation_here()
        if found not in GUARANTEES:
            raise OptionError(f'{found}: without it the tool runs only with isolation="limits", which is unsafe')
        self.isolation: Isolation = found
        self.stateful, self.limits = stateful, limits or Limits()
        self._sandbox: Sandbox | None = None
        self._calling, self._cancelled = threading.Lock(), threading.Event()

    @property
    def namespace(self) -> ToolNamespace:
        return PYTHON if self.stateful else replace(PYTHON, description=_STATELESS)

    @property
    def guarantees(self) -> str:
        """What holds of the code that runs here, and what does not."""
        return GUARANTEES[self.isolation]

    def call(self, function: str, text: str) -> str:
        with self._calling:
            try:
                output = self._run(code_of(text))
            finally:
                self._cancelled.clear()
                if not self.stateful or self._sandbox is None or self._sandbox.ended:
                    self.close()
        if output.ending not in ("done", "raised"):
            raise ToolError(self._why(output), output.text)
        return output.text.rstrip("\n") or "(no output: print what you want to see)"

    def _run(self, code: str) -> Output:
        if self._sandbox is None:
            self._sandbox = Sandbox(self.isolation, self.limits)
            if self._cancelled.is_set():  # while it was starting
                return Output("", "stopped")
        return self._sandbox.run(code)

    def cancel(self) -> None:
        self._cancelled.set()
        if (sandbox := self._sandbox) is not None:
            sandbox.stop()

    def close(self) -> None:
        """Ends the interpreter; a later call starts a new one."""
        if (sandbox := self._sandbox) is not None:
            sandbox.close()
            self._sandbox = None

    def _why(self, output: Output) -> str:
        limits = self.limits
        said = _ENDINGS[output.ending].format(
            seconds=limits.seconds, memory=limits.memory_bytes / 1e9, processes=limits.processes
        )
        return said + ("; variables are lost, the next call begins anew" if self.stateful else "")


def code_of(text: str) -> str:
    """The code of a call; a model that wraps it in JSON, as functions want it, is understood."""
    try:
        wrapped = json.loads(text)
    except (ValueError, RecursionError):
        return text
    match wrapped:
        case {"code": str(code)} if len(wrapped) == 1:
            return code
    return text
