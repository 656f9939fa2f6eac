"""The tools of a session: which there are, how they are described to the model, and which of them the session runs.

Knows nothing of how calls run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from mlx_oss.errors import OptionError, quoted
from mlx_oss.events import Citation, ToolCall
from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.harmony.header import ROLES, read_header
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.calls import Confirm, ToolInvocation
from mlx_oss.tools.fitting import Room, fitted
from mlx_oss.tools.functions import Tool, tool_from
from mlx_oss.tools.group import ToolGroup

# A mapping is a description in the form of OpenAI's API.
AnyTool = Callable[..., Any] | Tool | ToolDescription | SystemTool | ToolGroup | ToolNamespace | Mapping[str, Any]

_log = logging.getLogger("mlx_oss.tools")

_RESERVED_NAMES = (*ROLES, "all")
_MOST_NAMED = 10  # functions in one line of the log


class Toolset:
    """The tools of a session. It runs some of them; others are only described, and a call of those ends the turn.

    Args:
        tools: Functions and tools to run, and descriptions of other tools.
        confirm: Called before each call that the session runs. True lets it run; False or a reason refuses it.
        groups: Functions in namespaces of their own, which are only described.
        room: How much of the context the groups among `tools` may take. None means that all of them is described.

    Attributes:
        functions: Descriptions for the developer message.
        groups: Further namespaces for the developer message.
        namespaces: Descriptions for the system message.
        left_out: Full names of functions for which there was no room.

    Raises:
        OptionError: If something is not a tool, if two tools have the same name, or if a name cannot be written in a
            message header.
    """

    def __init__(
        self,
        tools: Iterable[AnyTool] = (),
        confirm: Confirm | None = None,
        groups: Iterable[ToolNamespace] = (),
        room: Room | None = None,
    ) -> None:
        self._confirm = confirm
        self._runnable: dict[str, Tool | SystemTool] = {}
        tools = list(tools)
        self._offered = {tool: tool.namespace for tool in tools if isinstance(tool, ToolGroup)}
        self._running = {entry.name: tool for tool, entry in self._offered.items()}
        offered = [entry for entry in self._offered.values() if entry.tools]
        fitting, left_out = (offered, list[str]()) if room is None else fitted(offered, room)
        self.left_out = tuple(left_out)
        if left_out:
            _tell_left_out(self.left_out)
        self.groups = (*groups, *fitting)
        described = [(tool, _description(tool)) for tool in tools if not isinstance(tool, ToolGroup)]
        self.functions = tuple(entry for _, entry in described if isinstance(entry, ToolDescription))
        self.namespaces = tuple(entry for _, entry in described if isinstance(entry, ToolNamespace))
        offering = [entry.name for entry in self._offered.values()]
        spaces = [*(entry.name for entry in (*self.namespaces, *groups)), *offering]
        for names in ([entry.name for _, entry in described], spaces):
            if twice := [name for name in names if names.count(name) > 1]:
                raise OptionError(f"two tools are called {twice[0]!r}: give each its own name")
        for entry in (*(entry for _, entry in described), *self.groups):
            _check(entry)
        for tool, entry in described:
            if isinstance(tool, Tool | SystemTool):
                self._runnable[entry.name] = tool
            elif not isinstance(tool, ToolDescription | ToolNamespace | Mapping):
                self._runnable[entry.name] = tool_from(tool)

    def handles(self, call: ToolCall) -> bool:
        """True if the session runs the call.

        It also runs a call of an unknown tool, unless it has only descriptions: the result says that there is no such
        tool.
        """
        name = call.name
        spaces = (*self.groups, *self.namespaces)
        known = [*(tool.name for tool in self.functions), *(space.name for space in spaces)]
        is_described = name in known or name.partition(".")[0] in known
        if name.partition(".")[0] in self._running:
            return True
        return bool(self._runnable or self._running) and (self._tool(name) is not None or not is_described)

    def pending(self) -> list[Future[object]]:
        """What to wait for before `is_current` says how things are."""
        return [future for group in self._offered if (future := group.latest()) is not None]

    @property
    def is_current(self) -> bool:
        """Whether all groups still offer what they offered when this set was made."""
        return all(group.namespace == offered for group, offered in self._offered.items())

    def with_handlers(self, tools: Any) -> Any:
        """The tools, with the tools of this set in place of their descriptions, as `functions` has them."""
        if not isinstance(tools, list | tuple):
            return tools
        own = {id(described): self._runnable.get(described.name, described) for described in self.functions}
        return [own.get(id(tool), tool) for tool in tools]

    def citations(self, answer: str) -> tuple[Citation, ...]:
        """Returns the passages of the built-in tools' results that an answer cites."""
        tools = [tool for tool in self._runnable.values() if isinstance(tool, SystemTool)]
        return tuple(citation for tool in tools for citation in tool.citations(answer))

    def invoke(self, call: ToolCall) -> ToolInvocation:
        """Returns the action that runs the call; it has not started."""
        return ToolInvocation(self._tool(call.name), call, self._confirm, self._known(call.name))

    def _known(self, name: str) -> tuple[str, ...]:
        """The names among which a call has to choose."""
        space = name.partition(".")[0]
        for group in self.groups:
            if group.name == space in self._running:
                return tuple(f"{space}.{tool.name}" for tool in group.tools)
        return (*self._runnable, *self._running)

    def _tool(self, name: str) -> Tool | SystemTool | None:
        space, _, function = name.partition(".")
        if (group := self._running.get(space)) is not None:
            return group.tool(function)
        tool = self._runnable.get(name)
        if tool is None and isinstance(system_tool := self._runnable.get(space), SystemTool):
            return system_tool
        return tool


@lru_cache(maxsize=64)
def _tell_left_out(names: tuple[str, ...]) -> None:
    """Tells the log, once: a server makes a set for each request."""
    shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    _log.warning("%d functions are left out, as the context has no room for them: %s", len(names), shown)


def rebind_tools(tools: Sequence[AnyTool], described: Sequence[ToolDescription | ToolNamespace]) -> list[AnyTool]:
    """Returns the descriptions, each replaced by the tool of the same name if there is one, then the other tools."""
    by_name = {_description(tool).name: tool for tool in tools}
    return [by_name.pop(old.name, old) for old in described] + list(by_name.values())


def _description(tool: AnyTool) -> ToolDescription | ToolNamespace:
    """The tool's description. Raises OptionError if this is not a tool."""
    if isinstance(tool, Mapping):
        return _described(tool)
    if isinstance(tool, type) and issubclass(tool, SystemTool | ToolGroup):
        raise OptionError(f"{tool.__name__} is a class, not a tool: give {tool.__name__}(...)")
    match tool:
        case Tool():
            return tool.description
        case SystemTool() | ToolGroup():
            return tool.namespace
        case ToolDescription() | ToolNamespace():
            return tool
    if not callable(tool):
        raise OptionError(f"{quoted(tool)} is not a tool: give a function, a Tool, or a ToolDescription")
    return tool_from(tool).description


def _described(tool: Mapping[str, Any]) -> ToolDescription:
    """The description in OpenAI's form of a function. Raises OptionError if it is another one."""
    function = tool.get("function", tool)
    name, text = (function.get("name"), function.get("description")) if isinstance(function, Mapping) else (None, None)
    if tool.get("type", "function") != "function" or not isinstance(name, str) or not isinstance(text, str | None):
        raise OptionError(
            f"{quoted(tool)} is not a tool: give a function, a Tool, a ToolDescription, or "
            '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
        )
    return ToolDescription(name, text or "", function.get("parameters"))


def _check(described: ToolDescription | ToolNamespace) -> None:
    """Raises OptionError if no schema describes the arguments, or a message would be parsed with another name."""
    namespace = described if isinstance(described, ToolNamespace) else ToolNamespace("functions", None, (described,))
    if namespace.name in _RESERVED_NAMES:
        raise OptionError(f"a namespace cannot be called {namespace.name!r}, which is reserved: choose another name")
    for tool in namespace.tools:
        if tool.parameters is not None and not isinstance(tool.parameters, Mapping):
            raise OptionError(
                f"the parameters of tool {tool.name!r} are {quoted(tool.parameters)}, expected the JSON schema of an "
                "object (a dict), or None for a function without arguments"
            )
    for name in [f"{namespace.name}.{tool.name}" for tool in namespace.tools] or [namespace.name]:
        header, notes, _ = read_header([f"assistant to={name}", "commentary"], None)
        is_text = not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)  # half a character cannot be encoded
        if notes or header.recipient != name or name.startswith(".") or name.endswith(".") or not is_text:
            raise OptionError(f"no message can be sent to {name!r}: name the tool in letters, digits, _ and -")
