"""Errands: what a generator on the computing thread wants done elsewhere. Knows nothing of what they are."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Action(ABC):
    """A generator that is computed elsewhere yields it, and goes on when whoever pulls the generator has done it."""

    @abstractmethod
    def perform(self) -> None:
        """Does it, on the thread of the caller, and returns when it is done or given up."""

    @abstractmethod
    async def aperform(self) -> None:
        """The same, in the event loop of the caller."""


class Pause(Action):
    """Nothing to do: who has long nothing to yield lets others have the thread meanwhile, and can be closed there."""

    def perform(self) -> None:
        pass

    async def aperform(self) -> None:
        pass
