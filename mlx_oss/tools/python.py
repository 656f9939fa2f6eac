"""The `python` tool: runs the code that the model writes in a sandbox.

    tool = PythonTool()
    session = ChatSession(model, tokenizer, tools=[tool])

`tool.guarantees` describes how the code is isolated on this machine. If the machine has no isolation, the tool can only
be created with `isolation="limits"`. Knows nothing of sessions.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import PYTHON, ToolNamespace
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.sandbox import GUARANTEES, Ending, Isolation, Limits, Output, Sandbox, guarantees, isolation_here

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

    Attributes:
        stateful: As given.
        limits: The limits for the code.
        isolation: The isolation in use: "namespaces" (Linux), "seatbelt" (macOS) or "limits".

    Raises:
        OptionError: If this machine has no isolation and `isolation` is not "limits".
    """

    def __init__(
        self, *, stateful: bool = True, limits: Limits | None = None, isolation: Isolation | None = None
    ) -> None:
        available = isolation or isolation_here()
        if available not in GUARANTEES:
            raise OptionError(
                f'{available}: without isolation the tool runs only with isolation="limits", which is unsafe'
            )
        self.isolation: Isolation = available
        self.stateful, self.limits = stateful, limits or Limits()
        self._sandbox: Sandbox | None = None
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
            text: The code, or a JSON object {"code": ...} that holds it.

        Returns:
            What the code printed, with the value of a last expression and the traceback of an exception. If it printed
            nothing, a sentence says so.

        Raises:
            ToolError: If the code was stopped, or the interpreter exited or could not start. `output` is what was
                printed until then.
        """
        with self._calling:
            try:
                output = self._run(code_of(text))
            finally:
                self._cancelled.clear()
                if not self.stateful or self._sandbox is None or self._sandbox.ended:
                    self.close()
        if output.ending != "done":
            raise ToolError(self._reason(output), output.text)
        return output.text.rstrip("\n") or "(no output: print what you want to see)"

    def _run(self, code: str) -> Output:
        if self._sandbox is None:
            self._sandbox = Sandbox(self.isolation, self.limits)
            if self._cancelled.is_set():  # cancelled while the interpreter was starting
                return Output("", "stopped")
        return self._sandbox.run(code)

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


def code_of(text: str) -> str:
    """Returns the code of a call: the text itself, or the value of "code" if the model wrapped it in a JSON object."""
    try:
        wrapped = json.loads(text)
    except (ValueError, RecursionError):
        return text
    match wrapped:
        case {"code": str(code)} if len(wrapped) == 1:
            return code
    return text
