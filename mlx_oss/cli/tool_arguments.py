"""`--tool`: what the model may call, and the question before it runs code or changes files."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli.interrupts import asking
from mlx_oss.cli.sanitize import plain
from mlx_oss.errors import OptionError

if TYPE_CHECKING:
    from mlx_oss.events import ToolCall
    from mlx_oss.tools.calls import AnyTool

_HELP = """\
let the model call a tool, once for each: python (python=stateless keeps nothing between calls, python=limits runs
without a sandbox), browser=FOLDER with Markdown, text and HTML files, browser=https://HOST/search?q={query},
patch=FOLDER whose files it may change, or a Python file whose functions it may call"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tool", action="append", default=[], dest="tools", metavar="TOOL", help=_HELP)
    parser.add_argument("--yes", action="store_true", help="run the model's code and patches without asking")


def tools(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ChatSession` for what was asked for. Raises OptionError for what is no tool."""
    found = [tool for spec in args.tools for tool in _tool(spec)]
    asker = Asker(found) if found and not args.yes else None
    if asker and asker.asks and not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise OptionError(
            "before the model's code or patches run you are asked, and there is no terminal: --yes agrees"
        )
    return {"tools": found, "confirm": asker if asker and asker.asks else None}


class Asker:
    """Shows what a call of code or a patch would run and asks on the terminal whether it may; the answer "always" holds
    for the tool from then on. Other tools are not asked for.
    """

    def __init__(self, tools: Sequence[AnyTool]) -> None:
        self._runs = dict(filter(None, map(_judged, tools)))  # by name: what a call's arguments would run
        self._always: set[str] = set()

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask for."""
        return bool(self._runs)

    def __call__(self, call: ToolCall) -> bool | str:
        name = call.name if call.name in self._runs else call.name.partition(".")[0]
        if name not in self._runs or name in self._always:
            return True
        sys.stderr.write(plain(self._runs[name](call.arguments)).rstrip("\n") + "\n")
        with asking():
            while True:
                sys.stderr.write(f"run {name}? yes, no, always: ")
                sys.stderr.flush()
                try:
                    answer = sys.stdin.readline()
                except UnicodeDecodeError:
                    continue
                match answer.strip().lower():
                    case "y" | "yes":
                        return True
                    case "a" | "always":
                        self._always.add(name)
                        return True
                    case "n" | "no":
                        return False
                if not answer:  # the terminal is gone
                    return False


def _judged(tool: AnyTool) -> tuple[str, Callable[[str], str]] | None:
    """The name of a tool that runs code or changes files, and what it would make of a call's arguments."""
    from mlx_oss.tools import PythonTool, Tool, python
    from mlx_oss.tools.patch import apply

    if isinstance(tool, PythonTool):
        return tool.namespace.name, python.code_of
    if isinstance(tool, Tool) and getattr(tool.handler, "__module__", None) == apply.__name__:
        return tool.name, _patch_of
    return None


def _patch_of(arguments: str) -> str:
    """The patch in a call of `apply_patch`; the arguments as they are where there is none, and it will not run."""
    try:
        return str(json.loads(arguments)["input"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return arguments


def _tool(spec: str) -> Sequence[AnyTool]:
    name, _, where = spec.partition("=")
    from mlx_oss.tools import BrowserTool, PythonTool, Web, patch_tool

    match name, where:
        case "python", "" | "stateless" | "limits":
            return [PythonTool(stateful=where != "stateless", isolation="limits" if where == "limits" else None)]
        case "browser", _ if where:
            return [BrowserTool(Web(where) if where.startswith(("http://", "https://")) else where)]
        case "patch", _ if where:
            return [patch_tool(where)]
        case _ if name.endswith(".py") and not where:
            return functions_of(Path(name))
    raise OptionError(f"{spec!r} is no tool: python, browser=FOLDER, patch=FOLDER, or a Python file")


def functions_of(path: Path) -> list[AnyTool]:
    """The public functions with a docstring that a Python file defines, and the tools it makes."""
    from mlx_oss.tools import Tool
    from mlx_oss.tools.base import SystemTool

    own_name = f"mlx_oss_tool_{path.stem}"  # or a file called time.py would be everybody's `time`
    spec = importlib.util.spec_from_file_location(own_name, path)
    if not os.path.isfile(path) or spec is None or spec.loader is None:
        raise OptionError(f"{path} cannot be read: name a Python file with functions")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # it may import what lies beside it
    sys.modules[own_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise OptionError(f"{path} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())})") from None
    found = [
        thing
        for name, thing in vars(module).items()
        if isinstance(thing, Tool | SystemTool) or _is_public_function(name, thing, own_name)
    ]
    if not found:
        raise OptionError(f"{path} has no public function with a docstring")
    return found


def _is_public_function(name: str, thing: object, module: str) -> bool:
    return inspect.isfunction(thing) and thing.__module__ == module and bool(thing.__doc__) and name[0] != "_"
