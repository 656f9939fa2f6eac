"""Which functions of groups are described to the model when all of them would take too much of its context.

A session may get hundreds of functions from servers of tools. Those that do not fit are left out, the least likely ones
first: a function is likely if it shares words with the instructions of the session, and otherwise the earlier it stands
in the list of its server, which begins with what it is for. Knows nothing of tokens, but how to count them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlx_oss.harmony import ToolDescription, ToolNamespace

Cost = Callable[[ToolNamespace], int]

_WORD = re.compile(r"[a-z0-9]{3,}")
_NAME_COUNTS = 3  # times as much as the description
_MOST_NAMED = 20  # left out functions that the model is told of


@dataclass(frozen=True, slots=True)
class Room:
    """How much groups may take.

    Attributes:
        tokens: For all of them together.
        cost: How many tokens a namespace takes.
        context: Words that tell what the session is about.
    """

    tokens: int
    cost: Cost
    context: str = ""


def fitted(groups: Sequence[ToolNamespace], room: Room) -> tuple[list[ToolNamespace], list[str]]:
    """The groups with those functions that fit, and the full names of the others.

    Args:
        groups: All that there is.
        room: How much fits.
    """
    left = room.tokens - sum(map(room.cost, groups))
    if left >= 0:
        return list(groups), []
    words = set(_WORD.findall(room.context.lower()))
    ranked = sorted(
        (
            (-_shared(tool, words), number / len(group.tools), group, tool)
            for group in groups
            for number, tool in enumerate(group.tools)
        ),
        key=lambda entry: entry[:2],
    )
    empty = [replace(group, tools=(ToolDescription("x"),)) for group in groups]
    left, kept = room.tokens - sum(map(room.cost, empty)), set[int]()
    for _, _, group, tool in ranked:
        cost = room.cost(ToolNamespace(group.name, None, (tool,)))
        if cost <= left:
            left -= cost
            kept.add(id(tool))
    names = [f"{group.name}.{tool.name}" for group in groups for tool in group.tools if id(tool) not in kept]
    return [found for group in groups if (found := _with(group, kept)) is not None], names


def _shared(tool: ToolDescription, words: set[str]) -> int:
    """How much a function has in common with words."""
    if not words:
        return 0
    name = set(_WORD.findall(tool.name.lower().replace("_", " ").replace("-", " ")))
    return _NAME_COUNTS * len(words & name) + len(words & set(_WORD.findall(tool.description.lower())))


def _with(group: ToolNamespace, kept: set[int]) -> ToolNamespace | None:
    """The group with the functions that are kept, which tells the model of the others; None if there are none."""
    tools = tuple(tool for tool in group.tools if id(tool) in kept)
    others = [tool.name for tool in group.tools if id(tool) not in kept]
    if not tools:
        return None
    if not others:
        return group
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    note = f"Left out here, and not available: {', '.join(others[:_MOST_NAMED])}{more}."
    return replace(group, description=f"{group.description}\n{note}" if group.description else note, tools=tools)
