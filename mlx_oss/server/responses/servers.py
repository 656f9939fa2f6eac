"""The MCP servers of a request: which of the operator's servers it may use, and with which tools.

A client names a server by its label, never by an address: this server connects only to those that its operator has
named. A client cannot be asked for an approval here, so calls run only if both have agreed in advance: the client by
`"require_approval": "never"`, the operator by starting with --yes. Knows nothing of other tools.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_oss.errors import quoted
from mlx_oss.harmony import ToolDescription
from mlx_oss.server.fields import Fields
from mlx_oss.tools.group import ToolGroup


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of the operator.

    Attributes:
        groups: By label.
        may_run: Whether their calls run without being confirmed.
    """

    groups: Mapping[str, ToolGroup]
    may_run: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """What a request gets of a server.

    Attributes:
        label: Its label.
        tools: The tools that the model may call.
        error: Why there are none; None if there are.
    """

    label: str
    tools: tuple[ToolDescription, ...] = ()
    error: str | None = None


def listed(tool: Fields, servers: Servers) -> Listed | None:
    """What a request gets of the server that one of its tools names; None if it names none.

    Args:
        tool: The tool, of the type `mcp`.
        servers: The servers of the operator.

    Raises:
        RequestError: If a field of it is wrong.
    """
    if (label := tool.optional_text("server_label")) is None:
        return None
    group = servers.groups.get(label)
    if group is None:
        known = ", ".join(servers.groups) or "none"
        return Listed(
            label, error=f"there is no server {quoted(label)} here, which `serve --mcp` names; known: {known}"
        )
    if not servers.may_run:
        return Listed(label, error="calls have to be confirmed, which is not possible here: start `serve` with --yes")
    wanted = _names(tool, "allowed_tools")
    found = tuple(each for each in group.namespace.tools if wanted is None or each.name in wanted)
    needed = _needs_approval(tool)
    allowed = tuple(each for each in found if not needed(each.name))
    if not allowed:
        nothing = (
            "none of its tools is allowed"
            if not found
            else ("its calls need an approval, which cannot be asked for here: send `require_approval`: `never`")
        )
        return Listed(label, error=nothing)
    return Listed(label, allowed)


def _needs_approval(tool: Fields) -> Callable[[str], bool]:
    """Tells of the name of a tool whether the client wants to be asked before it runs."""
    approval = tool.get("require_approval")
    if approval == "never":
        return lambda name: False
    if not isinstance(approval, Mapping):
        return lambda name: True
    lists = Fields(
        {name: filters for name in ("never", "always") if isinstance(filters := approval.get(name), Mapping)},
        tool.where("require_approval"),
    )
    never, always = _names(lists, "never") or (), _names(lists, "always") or ()
    return lambda name: name not in never or name in always


def _names(fields: Fields, name: str) -> Collection[str] | None:
    """A list of names, or an object that has one; None if it is missing."""
    value: Any = fields.get(name)
    if isinstance(value, Mapping):
        value = value.get("tool_names")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise fields.wrong(name, "a list of names of tools")
    return frozenset(value)
