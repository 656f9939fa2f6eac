"""The tools of a request: how they are described to the model, and how its calls are written as items.

Tools of a type that is not known here are left out: clients offer whatever they have. Knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_oss.errors import OptionError, quoted
from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.server import options
from mlx_oss.server.custom import as_function
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.responses.servers import Listed, Servers, listed
from mlx_oss.tools.toolset import Toolset

BROWSER, PYTHON = "browser", "python"  # the server's own tools that this API has items for
_FUNCTIONS = "functions"


@dataclass(frozen=True, slots=True)
class Called:
    """A tool that a call names.

    Attributes:
        name: Its name, without a namespace.
        namespace: The namespace that the client has given it; None if it has given none.
        is_custom: Whether its input is a text, not JSON.
    """

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of a request.

    Attributes:
        functions: Those without a namespace.
        groups: The others.
        builtin: Names of the server's own tools that the model may call.
        choice: Which of them it may or must call, as `Settings.tool_choice` takes it.
        servers: What of MCP servers it gets; `builtin` has the labels of those that it may call.
        called: All but the server's own, by the name in message headers.
    """

    functions: tuple[ToolDescription, ...] = ()
    groups: tuple[ToolNamespace, ...] = ()
    builtin: tuple[str, ...] = ()
    choice: Any = "auto"
    servers: tuple[Listed, ...] = ()
    called: Mapping[str, Called] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return not (self.functions or self.groups or self.builtin)

    def of(self, recipient: str) -> Called:
        """The tool with this name in message headers."""
        return self.called.get(recipient) or Called(recipient.removeprefix(f"{_FUNCTIONS}."))

    def recipient(self, name: str, namespace: str | None) -> str:
        """The name of a tool in message headers.

        Args:
            name: Its name in an item.
            namespace: The namespace in that item. Some clients forget it.
        """
        if namespace:
            return f"{namespace}.{name}"
        usual = f"{_FUNCTIONS}.{name}"
        if usual not in self.called:
            others = [recipient for recipient, called in self.called.items() if called.name == name]
            if len(others) == 1:
                return others[0]
            if "." in name:  # a call of a tool that was never described
                return name
        return usual

    def is_own(self, recipient: str) -> bool:
        """Whether the server runs a call with this name."""
        return recipient.partition(".")[0] in self.builtin

    def is_of_server(self, recipient: str) -> bool:
        """Whether a call with this name goes to an MCP server."""
        return recipient.partition(".")[0] in {server.label for server in self.servers}

    @property
    def chosen(self) -> Mapping[str, Collection[str]]:
        """By the label of each MCP server: the names of its tools that the model may call."""
        return {server.label: {tool.name for tool in server.tools} for server in self.servers if server.tools}


def read_tools(body: Fields, own: Collection[str], servers: Servers | None = None) -> Tools:
    """Reads `tools` and `tool_choice` of a request.

    Args:
        body: The request.
        own: The server's own tools that may run.
        servers: The MCP servers that there are.

    Raises:
        RequestError: If a tool cannot be described, or there is no such tool to choose.
    """
    reader = _Reader(own, servers or Servers({}))
    for tool in body.each("tools"):
        reader.read(tool)
    return replace(reader.tools, choice=_choice(body, reader.tools))


class _Reader:
    def __init__(self, own: Collection[str], servers: Servers) -> None:
        self._own, self._servers = own, servers
        self._listed: dict[str, Listed] = {}
        self._functions: list[ToolDescription] = []
        self._groups: dict[str, ToolNamespace] = {}
        self._builtin: list[str] = []
        self._called: dict[str, Called] = {}

    @property
    def tools(self) -> Tools:
        groups = tuple(group for group in self._groups.values() if group.tools)
        labels = [server.label for server in self._listed.values() if server.tools]
        builtin = (*self._builtin, *labels)
        return Tools(tuple(self._functions), groups, builtin, servers=tuple(self._listed.values()), called=self._called)

    def read(self, tool: Fields) -> None:
        kind = tool.get("type")
        if kind in ("function", "custom"):
            self._functions.append(self._described(tool, kind, None))
        elif kind == "namespace":
            self._read_namespace(tool)
        elif kind == "mcp":
            if (server := listed(tool, self._servers)) is not None:
                self._listed[server.label] = server
        elif tool.get("external_web_access") is not False:  # false: the user has not allowed it
            name = own_tool(kind)
            self._builtin += [name] if name in self._own and name not in self._builtin else []

    def _read_namespace(self, space: Fields) -> None:
        name, text = space.text("name"), space.text("description", "")
        functions = [
            self._described(tool, str(tool.get("type")), name)
            for tool in space.each("tools")
            if tool.get("type") in ("function", "custom")
        ]
        if name == _FUNCTIONS:
            self._functions += functions
            return
        before = self._groups.get(name)
        group = ToolNamespace(name, text or None, (*(before.tools if before else ()), *functions))
        try:
            Toolset(groups=[group])
        except OptionError as error:
            raise RequestError(f"{space.where('name')}: {error}", space.where("name")) from None
        self._groups[name] = group

    def _described(self, tool: Fields, kind: str, namespace: str | None) -> ToolDescription:
        inner = tool.fields("function") if isinstance(tool.get("function"), Mapping) else None
        tool = inner or tool  # as chat completions have it
        described = as_function(tool) if kind == "custom" else options.function(tool)
        name = described.name
        recipient = f"{namespace or _FUNCTIONS}.{name}"
        if recipient in self._called:
            raise RequestError(
                f"{tool.where('name')} is {quoted(name)}, which another tool is called too: give each its own name",
                tool.where("name"),
            )
        own = None if namespace == _FUNCTIONS else namespace
        self._called[recipient] = Called(name, own, kind == "custom")
        return described


def own_tool(kind: Any) -> str:
    """The server's own tool for a type of OpenAI's tools, whichever of its versions; "" if there is none."""
    if not isinstance(kind, str):
        return ""
    return BROWSER if kind.startswith("web_search") else PYTHON if kind == "code_interpreter" else ""


def _choice(body: Fields, tools: Tools) -> Any:
    """`tool_choice` with the names of message headers."""
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping):
        return body.one_of("tool_choice", ("auto", "none", "required"), "auto")
    fields = Fields(choice, "tool_choice")
    if choice.get("type") == "allowed_tools":
        inner = fields.fields("allowed_tools") if "allowed_tools" in choice else fields
        assert inner is not None
        mode = inner.one_of("mode", ("auto", "required"), "auto")
        named = [name for tool in inner.each("tools") if (name := _chosen(tool, tools)) is not None]
        if named:
            return {"type": "allowed_tools", "mode": mode, "tools": [{"name": name} for name in named]}
        if mode == "auto":
            return "none"
        raise RequestError("tool_choice allows none of the tools, but one has to be called: allow some", "tool_choice")
    name = _chosen(fields, tools)
    if name is None:  # of a type that was left out
        return "auto"
    known = {*tools.called, *(group.name for group in tools.groups), *tools.builtin}
    known |= {f"{label}.{tool}" for label, names in tools.chosen.items() for tool in names}
    if name not in known:
        shown = ", ".join(called.name for called in tools.called.values()) or "none"
        raise RequestError(
            f"tool_choice names {quoted(choice.get('name'))}, which is not one of the tools: {shown}", "tool_choice"
        )
    return {"type": "function", "name": name}


def _chosen(tool: Fields, tools: Tools) -> str | None:
    """The name in message headers of a tool that is chosen."""
    kind = tool.get("type")
    if kind in ("function", "custom"):
        inner = tool.fields("function") if isinstance(tool.get("function"), Mapping) else None
        return tools.recipient((inner or tool).text("name"), tool.optional_text("namespace"))
    if kind == "namespace":
        return tool.text("name")
    if kind == "mcp":
        label, name = tool.optional_text("server_label"), tool.optional_text("name")
        if label is None or label not in tools.chosen:
            return None
        return f"{label}.{name}" if name in tools.chosen[label] else label
    own = own_tool(kind)
    return own if own in tools.builtin else None
