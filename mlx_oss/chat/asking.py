"""Asks for whole replies: one, or several to choose from. Knows nothing of saving a session."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import aclosing, closing
from copy import copy
from dataclasses import replace
from typing import Self, Unpack

from mlx_oss.action import Action
from mlx_oss.chat.driver import AsyncIterate, iterate
from mlx_oss.chat.editing import Editing
from mlx_oss.chat.history import Conversation
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.settings import TurnOptions
from mlx_oss.chat.turns import question_of
from mlx_oss.errors import OptionError, quoted
from mlx_oss.events import Event, Reply, collect
from mlx_oss.shield import shielded


class Asking(Editing):
    """The part of `ChatSession` that returns whole replies."""

    _choices: tuple[Conversation, ...] = ()  # what the conversation would be with each answer of the last `ask`

    def ask(self, text: str, *, n: int = 1, **turn: Unpack[TurnOptions]) -> Reply:
        """Runs a turn to its end: like `send`, but returns the whole turn.

        Args:
            text: Message of the user.
            n: How many answers to give. `Reply.choices` then has all of them. The conversation continues with the
                first, unless `choose` says otherwise. With a seed, each uses the next higher one.
            **turn: Options with other values for this turn.

        Returns:
            The answer, the reasoning, the tool calls and the costs of the turn.

        Raises:
            OptionError: If an argument is invalid, or a grammar is too complex to follow.
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
        """
        _check_count(n)
        replies = [_collect(self._turn(turn, question_of(text, self.tokenizer)))]
        if n > 1:
            others = self._begin_others()
            for _ in range(n - 1):
                replies.append(_collect(others._turn(turn, instead_of=-1)))
                self._end_other(others)
        return replace(replies[0], choices=tuple(replies) if n > 1 else ())

    async def aask(self, text: str, *, n: int = 1, **turn: Unpack[TurnOptions]) -> Reply:
        """Like `ask`, in an event loop. Cancelling the task ends the turn within a token."""
        _check_count(n)
        replies = [await _acollect(self._turn(turn, question_of(text, self.tokenizer)))]
        if n > 1:
            others = self._begin_others()
            for _ in range(n - 1):
                replies.append(await _acollect(others._turn(turn, instead_of=-1)))
                self._end_other(others)
        return replace(replies[0], choices=tuple(replies) if n > 1 else ())

    def choose(self, number: int) -> None:
        """Continues the conversation with another answer of the last `ask` that gave several.

        Args:
            number: Its index in `Reply.choices`.

        Raises:
            OptionError: If there is no such answer, or the conversation has gone on.
            SessionError: If a turn of this session is running.
        """
        with self._conversation.held():
            if self._conversation.current.entries not in [choice.entries for choice in self._choices]:
                raise OptionError("there are no answers to choose from: call `choose` right after ask(text, n=...)")
            if type(number) is not int or not 0 <= number < len(self._choices):
                raise OptionError(
                    f"there is no answer {quoted(number)}: give its place in Reply.choices, "
                    f"0 to {len(self._choices) - 1}"
                )
            self._conversation.current = self._choices[number]

    @shielded
    def fork(self) -> Self:
        """Returns a second session with the same conversation, tools and options, which continues independently.

        Both keep what is cached so far; they share its memory until one of them continues.

        Raises:
            SessionError: If a turn of this session is running.
        """
        with self._conversation.held():
            forked = copy(self)
            forked._conversation, forked._cache = LiveConversation(self._conversation.current), self._cache.fork()
            return forked

    def _begin_others(self) -> Self:
        """A session that gives further answers to the last question."""
        self._choices = (self._conversation.current,)
        return self.fork()

    def _end_other(self, others: Self) -> None:
        """Keeps what another answer has made of the conversation, and counts what it cost."""
        self._choices = (*self._choices, others._conversation.current)
        self._total_stats = others._total_stats


def _collect(turn: Generator[Event | Action, None, None]) -> Reply:
    events: Generator[Event, None, None] = iterate(turn)
    with closing(events):
        return collect(events)


async def _acollect(turn: Generator[Event | Action, None, None]) -> Reply:
    events: AsyncIterate[Event] = AsyncIterate(turn)
    async with aclosing(events):
        return collect([event async for event in events])


def _check_count(n: int) -> None:
    if type(n) is not int or not 1 <= n <= 1000:
        raise OptionError(f"n is {n!r}, expected a number of answers from 1 to 1,000")
