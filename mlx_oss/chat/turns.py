"""Runs the turns of a session, for callers on threads and in event loops. Knows nothing of saving and forking it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Unpack

from mlx_oss.action import Action, Wait
from mlx_oss.chat.configured import Configured
from mlx_oss.chat.driver import AsyncIterate, iterate
from mlx_oss.chat.history import Entry
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.settings import Settings, TurnOptions
from mlx_oss.chat.tool_loop import ToolLoop
from mlx_oss.costs import Stats
from mlx_oss.errors import OptionError
from mlx_oss.events import Event, ToolResult
from mlx_oss.generation.engine import PromptCache
from mlx_oss.harmony import Message
from mlx_oss.tokenizer import Tokenizer

_log = logging.getLogger("mlx_oss.chat")


class Turns(Configured):
    """The part of `ChatSession` that runs turns.

    The methods take `TurnOptions` as keyword arguments. They check their arguments at once.
    """

    _conversation: LiveConversation
    _cache: PromptCache
    _total_stats: Stats
    _loop: ToolLoop | None  # of the running turn, otherwise of the last one

    def send(self, text: str, **turn: Unpack[TurnOptions]) -> Iterator[Event]:
        """Runs a turn: sends a message of the user and yields events while the model answers.

        Closing the iterator early ends the turn and keeps what was generated. If the results of tools fill the context,
        the turn is kept and ends with the reason "length".

        Args:
            text: Message of the user.
            **turn: Options with other values for this turn.

        Yields:
            Events in the order in which they happen; `Finished` is the last one.

        Raises:
            OptionError: At once, if `text` is not a str or an option is invalid; later, if a grammar is too complex to
                follow.
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
        """
        return iterate(self._turn(turn, question_of(text, self.tokenizer)))

    def asend(self, text: str, **turn: Unpack[TurnOptions]) -> AsyncIterator[Event]:
        """Like `send`, for `async for`; same events and errors.

        Cancelling the task ends the turn within a token; what was generated is kept.
        """
        return AsyncIterate(self._turn(turn, question_of(text, self.tokenizer)))

    def resume(self, **turn: Unpack[TurnOptions]) -> Iterator[Event]:
        """Runs a turn without a message of the user: the model continues.

        For example after `add_tool_result`, after a turn that has ended with the reason "no_answer", or if the session
        was made from messages that end with a question.

        Args:
            **turn: Options with other values for this turn.

        Yields:
            A `ToolResult` for each result that the model has not read yet, then events as in `send`.

        Raises:
            OptionError: At once, if an option is invalid; later, if a grammar is too complex to follow.
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
        """
        return iterate(self._turn(turn))

    def aresume(self, **turn: Unpack[TurnOptions]) -> AsyncIterator[Event]:
        """Like `resume`, for `async for`; same events and errors."""
        return AsyncIterate(self._turn(turn))

    def retry(self, **turn: Unpack[TurnOptions]) -> Iterator[Event]:
        """Runs the last turn again, with the same message of the user; the new answer replaces the old one.

        If `options.seed` is set, each retry of a turn uses the next higher seed.

        Args:
            **turn: Options with other values for this turn.

        Yields:
            Events as in `send`.

        Raises:
            OptionError: At once, if there is no turn or an option is invalid; later, if a grammar is too complex to
                follow.
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
        """
        return iterate(self._turn(turn, instead_of=-1))

    def aretry(self, **turn: Unpack[TurnOptions]) -> AsyncIterator[Event]:
        """Like `retry`, for `async for`; same events and errors."""
        return AsyncIterate(self._turn(turn, instead_of=-1))

    def edit(self, number: int, text: str, **turn: Unpack[TurnOptions]) -> Iterator[Event]:
        """Replaces the user's message in a turn, forgets all later turns, and runs the turn again.

        Args:
            number: Index of the turn: 0 is the first, -1 the last.
            text: The new message of the user.
            **turn: Options with other values for this turn.

        Yields:
            Events as in `send`.

        Raises:
            OptionError: At once, if there is no such turn, `text` is not a str or an option is invalid; later, if a
                grammar is too complex to follow.
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
        """
        return iterate(self._turn(turn, question_of(text, self.tokenizer), instead_of=number))

    def aedit(self, number: int, text: str, **turn: Unpack[TurnOptions]) -> AsyncIterator[Event]:
        """Like `edit`, for `async for`; same events and errors."""
        return AsyncIterate(self._turn(turn, question_of(text, self.tokenizer), instead_of=number))

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of the prompt, that is being computed.

        The turn then yields `Finished` with the reason "cancelled"; what the model wrote until then is kept. A tool
        that is running is stopped; if it cannot be stopped, the turn no longer waits for it. May be called from any
        thread or task; does nothing if no turn is running.
        """
        if self._loop is not None:
            self._loop.cancel()

    def _turn(
        self, given: TurnOptions, question: Entry | None = None, instead_of: int | None = None
    ) -> Generator[Event | Action, None, None]:
        """Checks the arguments of a turn, and returns the generator that runs it.

        Args:
            given: Options with other values for this turn.
            question: The user's message. None: continue the conversation, or repeat the question of the replaced turn.
            instead_of: Index of the turn that it replaces, with all later ones.
        """
        settings = self._settings.for_turn(given)
        if instead_of is not None:
            self._conversation.current.split_before(instead_of)
        return self._run(settings, question, instead_of)

    def _run(
        self, settings: Settings, question: Entry | None, instead_of: int | None
    ) -> Generator[Event | Action, None, None]:
        with self._conversation.held():
            settings = yield from self._with_current_tools(settings)
            self._loop = loop = ToolLoop(
                settings.engine,
                settings.tokenizer,
                self._cache,
                settings.toolset,
                settings.constraints,
                self._conversation,
            )
            before = self._conversation.current
            kept, replaced = (before, None) if instead_of is None else before.split_before(instead_of)
            if question is None and replaced is not None:
                question = replace(replaced, retries=replaced.retries + 1)
            self._conversation.current = begun = kept.with_entries([question] if question is not None else [])
            try:
                for result in begun.pending_results:
                    yield ToolResult(result.name or "", str(result.content))
                finished = yield from loop.run(settings.setup)
                _log.info("turn: %s, %d tokens generated", finished.reason, finished.usage.generated_tokens)
            finally:
                if loop.is_taken_back:
                    self._conversation.current = before
                else:
                    self._total_stats = self._total_stats.after(loop.usage)
        yield finished  # after the conversation is let go: a caller that stops reading here can use it at once

    def _with_current_tools(self, settings: Settings) -> Generator[Action, None, Settings]:
        """The settings with groups of tools as they are now: what a server offers can change between turns."""
        for future in settings.toolset.pending():
            yield Wait(future, partial(_cancel, future))
        if settings.is_current:
            return settings
        renewed = settings.renewed()
        if settings is self._settings:
            self._settings = renewed
        return renewed


def _cancel(future: Future[object]) -> None:
    future.cancel()


def question_of(text: str, tokenizer: Tokenizer) -> Entry:
    """The entry of a message of the user. Raises OptionError if it is not a text."""
    if not isinstance(text, str):
        raise OptionError(
            f"the user's message must be a str, not {type(text).__name__}: set session.messages to give a whole "
            "conversation, which `resume` answers"
        )
    return Entry.from_message(Message("user", text), tokenizer)
