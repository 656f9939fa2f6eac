"""Base class of groups of functions that somebody else describes and runs, such as a server of tools.

A group has a namespace of its own in the developer message. What it offers may change while a session lives: a session
looks before each turn. Knows nothing of how the functions run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import replace

from mlx_oss.harmony import ToolNamespace
from mlx_oss.tools.functions import Tool


class ToolGroup(ABC):
    """Functions that the model calls as `<namespace>.<function>`."""

    @property
    @abstractmethod
    def namespace(self) -> ToolNamespace:
        """What the group offers now. Its name never changes."""

    @abstractmethod
    def tool(self, name: str) -> Tool | None:
        """The function with this name; None if there never was one."""

    def latest(self) -> Future[object] | None:
        """What a session waits for before a turn, so that `namespace` is up to date; None if it is."""
        return None

    def close(self) -> None:
        """Releases the resources of the group."""
        return None


class Part(ToolGroup):
    """Some functions of a group, which somebody else closes.

    Args:
        group: The group.
        names: Their names.
    """

    def __init__(self, group: ToolGroup, names: Collection[str]) -> None:
        self._group, self._names = group, names

    @property
    def namespace(self) -> ToolNamespace:
        whole = self._group.namespace
        return replace(whole, tools=tuple(tool for tool in whole.tools if tool.name in self._names))

    def tool(self, name: str) -> Tool | None:
        return self._group.tool(name) if name in self._names else None

    def latest(self) -> Future[object] | None:
        return self._group.latest()
