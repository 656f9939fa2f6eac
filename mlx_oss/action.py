"""Actions: work that a generator on the computing thread hands to its caller's thread or event loop.

Knows nothing of what the work is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class Action(ABC):
    """Work that a generator on the computing thread yields to its caller. The generator continues when it is done."""

    @abstractmethod
    def perform(self) -> None:
        """Does the work on the caller's thread. Returns when it is done or cancelled."""

    @abstractmethod
    async def aperform(self) -> None:
        """Does the work in the caller's event loop. Returns when it is done or cancelled."""


class Pause(Action):
    """An action that does nothing.

    A generator that has nothing to yield for a long time yields this. Other sessions can then use the computing thread
    in between, and the generator can be closed at that point.
    """

    def perform(self) -> None:
        pass

    async def aperform(self) -> None:
        pass
