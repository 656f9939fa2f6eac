"""The arguments `--tool`, `--mcp` and `--yes`: which tools the model may call, and the question before one acts."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import mcp_arguments
from mlx_oss.cli.interrupts import asking_user
from mlx_oss.errors import OptionError
from mlx_oss.files import expanded
from mlx_oss.terminal import one_line, text_for_review

if TYPE_CHECKING:
    from mlx_oss.events import ToolCall
    from mlx_oss.tools.toolset import AnyTool

_HELP = """\
tool that the model may call; may be given more than once. python runs Python code (python=stateless: keep no variables
between calls, python=limits: without a sandbox, python=FOLDER: with copies of the files of a folder, where what the
code writes is saved, python=limits,FOLDER: both); browser=FOLDER reads the text, HTML and PDF files of a
folder; browser=https://HOST/?q={query} searches the web; patch=FOLDER changes the files of a folder; FILE.py
offers the functions of a Python file that have a docstring"""


def add_tool_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tool", action="append", default=[], dest="tools", metavar="TOOL", help=_HELP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tool_argument(parser)
    mcp_arguments.add_argument(parser)
    parser.add_argument(
        "--yes", action="store_true", help="run the model's code, patches and calls of servers without asking first"
    )


def tools(args: argparse.Namespace) -> dict[str, Any]:
    """Returns keyword arguments for `ChatSession`. Raises OptionError for an unknown or invalid tool."""
    selected = [tool for spec in args.tools for tool in made(spec)] + mcp_arguments.servers(args.mcp)
    confirmation = Confirmation(selected) if selected and not args.yes else None
    if confirmation and confirmation.is_needed and not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise OptionError(
            "the model's code, patches and calls of servers need your approval, but there is no terminal: give --yes "
            "to approve them all"
        )
    return {"tools": selected, "confirm": confirmation if confirmation and confirmation.is_needed else None}


class Confirmation:
    """Shows the code, patch or arguments of a call on the terminal and asks the user whether it may run.

    The answer "always" approves all later calls of the tool, and of a server of tools those of this function. Tools
    that run no code and change no files need no approval.

    Args:
        tools: The tools of the session.
    """

    def __init__(self, tools: Sequence[AnyTool]) -> None:
        from mlx_oss.tools.group import ToolGroup
        from mlx_oss.tools.reviews import reviews_of

        self._previews = reviews_of(tools)  # by name: shows what a call would run
        self._groups = {tool.namespace.name for tool in tools if isinstance(tool, ToolGroup)}
        self._approved: set[str] = set()  # names of tools, and of functions of servers, that are always approved

    @property
    def is_needed(self) -> bool:
        """True if any of the tools needs approval."""
        return bool(self._previews)

    def asks(self, call: ToolCall) -> bool:
        """Whether the user will be shown this call, and asked."""
        return self._previewed(call) in self._previews and self._name(call) not in self._approved

    def _previewed(self, call: ToolCall) -> str:
        return call.name if call.name in self._previews else call.name.partition(".")[0]

    def _name(self, call: ToolCall) -> str:
        """What is approved: a tool, or a function of a server."""
        return call.name if (name := self._previewed(call)) in self._groups else name

    def __call__(self, call: ToolCall) -> bool | str:
        if not self.asks(call):
            return True
        name = self._name(call)
        preview = self._previews[self._previewed(call)](call.arguments)
        sys.stderr.write(text_for_review(preview).rstrip("\n") + "\n")
        with asking_user():
            while True:
                sys.stderr.write(f"run {one_line(name)}? yes, no, always: ")
                sys.stderr.flush()
                try:
                    answer = sys.stdin.readline()
                except UnicodeDecodeError:
                    continue
                match answer.strip().lower():
                    case "y" | "yes":
                        return True
                    case "a" | "always":
                        self._approved.add(name)
                        return True
                    case "n" | "no":
                        return False
                if not answer:  # the terminal is gone
                    return False


def made(spec: str) -> Sequence[AnyTool]:
    """Makes the tools that a value of `--tool` names. Raises OptionError if it names none."""
    name, _, where = spec.partition("=")
    from mlx_oss.cli.python_tool import FolderPythonTool
    from mlx_oss.tools import BrowserTool, Web, patch_tool

    match name, where:
        case "python", _ if where or spec == name:
            words = set()
            while where.split(",")[0] in ("stateless", "limits"):
                word, _, where = where.partition(",")
                words.add(word)
            return [
                FolderPythonTool(
                    where or None, stateful="stateless" not in words, isolation="limits" if "limits" in words else None
                )
            ]
        case "browser", _ if where:
            return [BrowserTool(Web(where) if where.startswith(("http://", "https://")) else where)]
        case "patch", _ if where:
            return [patch_tool(where)]
        case _ if name.endswith(".py") and not where:
            return functions_of(expanded(name))
    raise OptionError(f"{spec!r} is not a tool: give python, browser=FOLDER, patch=FOLDER or a Python file")


def functions_of(path: Path) -> list[AnyTool]:
    """Loads a Python file. Returns its public functions that have a docstring, and the tools it creates.

    Raises OptionError if the file cannot be loaded or has no such functions or tools.
    """
    from mlx_oss.tools import Tool
    from mlx_oss.tools.base import SystemTool

    module_name = f"mlx_oss_tool_{path.stem}"  # so that a file called time.py does not replace the module `time`
    spec = importlib.util.spec_from_file_location(module_name, path)
    if not os.path.isfile(path) or spec is None or spec.loader is None:
        raise OptionError(f"{path} cannot be read: give a Python file with functions")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # the file can import modules beside it
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OptionError(f"{path} cannot be loaded ({reason}): correct the file") from None
    tools = [
        value
        for name, value in vars(module).items()
        if isinstance(value, Tool | SystemTool) or _is_public_function(name, value, module_name)
    ]
    if not tools:
        raise OptionError(f"{path} has no public function with a docstring: add one, or a docstring to a function")
    return tools


def _is_public_function(name: str, value: object, module: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module and bool(value.__doc__) and name[0] != "_"
