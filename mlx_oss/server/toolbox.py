"""The tools that the server itself runs. A conversation keeps its own, so that none sees the variables of another.

Knows nothing of requests, and of what the tools do.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.group import ToolGroup
from mlx_oss.tools.toolset import AnyTool

_MOST_KEPT = 16


@dataclass(frozen=True, slots=True)
class BuiltinTool:
    """A tool that the server itself runs.

    Attributes:
        make: Makes it. Each conversation gets one of its own.
        needs_confirmation: Whether it runs code or changes files, or nobody knows.
        group: The server of tools that it is; conversations share it. None for any other tool.
    """

    make: Callable[[], Sequence[AnyTool]]
    needs_confirmation: bool = False
    group: ToolGroup | None = None


class Toolbox:
    """What conversations have of the server's own tools.

    Args:
        tools: The tools, by name.
    """

    def __init__(self, tools: Mapping[str, BuiltinTool]) -> None:
        self._tools = tools
        self._kept: OrderedDict[tuple[str, str], Sequence[AnyTool]] = OrderedDict()  # by conversation and name
        self._lock = threading.Lock()

    def take(self, names: Iterable[str], conversation: str | None = None) -> list[AnyTool]:
        """The tools with these names. Call it on a thread: making one can take a while.

        Args:
            names: The names.
            conversation: Whose tools; those of conversations that rest are closed. None: new ones.
        """
        return [tool for name in names for tool in self._made(name, conversation)]

    def _made(self, name: str, conversation: str | None) -> Sequence[AnyTool]:
        if conversation is None:
            return self._tools[name].make()
        key, made = (conversation, name), list[Sequence[AnyTool]]()
        with self._lock:
            is_kept = key in self._kept
        if not is_kept:
            made = [self._tools[name].make()]  # without the lock: it can take a while
        with self._lock:
            if key not in self._kept:  # another request of the conversation may have been faster
                self._kept[key] = made.pop() if made else self._tools[name].make()
            self._kept.move_to_end(key)
            tools, unused = self._kept[key], made
            while len(self._kept) > _MOST_KEPT:
                unused.append(self._kept.popitem(last=False)[1])
        for tool in (tool for others in unused for tool in others if isinstance(tool, SystemTool)):
            tool.close()
        return tools
