"""Runs the turns of a session, for callers on threads and in event loops. Knows nothing of saving and forking it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from mlx_oss.action import Action
from mlx_oss.chat.driver import AsyncIterate, iterate
from mlx_oss.chat.history import Effort, Entry, preamble
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.setup import ContextPolicy, Frame, Limits, TurnSetup
from mlx_oss.chat.tool_loop import ToolLoop
from mlx_oss.constrain import OutputConstraints, final_header
from mlx_oss.errors import OptionError
from mlx_oss.events import Event, Reply, Stats, ToolResult, collect
from mlx_oss.generation.engine import Engine, PromptCache
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, ToolDescription, ToolNamespace, render_conversation
from mlx_oss.harmony.schemas import with_simplified_schemas
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import Toolset


class Turns:
    """The part of `ChatSession` that runs turns. Its attributes are those of the session, which sets them."""

    model: Engine
    tokenizer: Tokenizer
    instructions: str
    reasoning_effort: Effort
    tools: Sequence[ToolDescription]
    system_tools: Sequence[ToolNamespace]
    max_rounds: int
    options: SamplingOptions
    max_tokens: int | None
    current_date: str
    context_limit: int
    context_policy: ContextPolicy
    _toolset: Toolset
    _constraints: OutputConstraints
    _conversation: LiveConversation
    _cache: PromptCache
    _total_stats: Stats
    _loop: ToolLoop | None  # of the running turn, otherwise of the last one

    def ask(self, text: str) -> Reply:
        """Runs a turn to its end: like `send`, but returns the whole turn.

        Args:
            text: Message of the user.

        Returns:
            The answer, the reasoning, the tool calls and the costs of the turn.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
            OptionError: If `text` is not a str, an option set since the last turn is invalid, or a grammar is too
                complex to follow.
        """
        events: Generator[Event, None, None] = iterate(self._turn(_question(text, self.tokenizer)))
        with closing(events):
            return collect(events)

    def send(self, text: str) -> Iterator[Event]:
        """Runs a turn: sends a message of the user and yields events while the model answers.

        Closing the iterator early ends the turn and keeps what was generated. If the results of tools fill the context,
        the turn is kept and ends with the reason "length".

        Args:
            text: Message of the user.

        Yields:
            Events in the order in which they happen; `Finished` is the last one.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
            OptionError: If `text` is not a str, an option set since the last turn is invalid, or a grammar is too
                complex to follow.
        """
        return iterate(self._turn(_question(text, self.tokenizer)))

    def asend(self, text: str) -> AsyncIterator[Event]:
        """Like `send`, for `async for`; same events and errors.

        Cancelling the task ends the turn within a token; what was generated is kept.
        """
        return AsyncIterate(self._turn(_question(text, self.tokenizer)))

    def resume(self) -> Iterator[Event]:
        """Runs a turn without a message of the user: the model continues.

        For example after `add_tool_result`, or after a turn that has ended with the reason "no_answer".

        Yields:
            A `ToolResult` for each result that the model has not read yet, then events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If an option set since the last turn is invalid, or a grammar is too complex to follow.
        """
        return iterate(self._turn())

    def aresume(self) -> AsyncIterator[Event]:
        """Like `resume`, for `async for`; same events and errors."""
        return AsyncIterate(self._turn())

    def retry(self) -> Iterator[Event]:
        """Runs the last turn again, with the same message of the user; the new answer replaces the old one.

        If `options.seed` is set, each retry of a turn uses the next higher seed.

        Yields:
            Events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If there is no turn, an option set since the last turn is invalid, or a grammar is too complex
                to follow.
        """
        return iterate(self._turn(instead_of=-1))

    def aretry(self) -> AsyncIterator[Event]:
        """Like `retry`, for `async for`; same events and errors."""
        return AsyncIterate(self._turn(instead_of=-1))

    def edit(self, turn: int, text: str) -> Iterator[Event]:
        """Replaces the user's message in a turn, forgets all later turns, and runs the turn again.

        Args:
            turn: Index of the turn: 0 is the first, -1 the last.
            text: The new message of the user.

        Yields:
            Events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If there is no such turn, `text` is not a str, an option set since the last turn is invalid, or
                a grammar is too complex to follow.
        """
        return iterate(self._turn(_question(text, self.tokenizer), instead_of=turn))

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of the prompt, that is being computed.

        The turn then yields `Finished` with the reason "cancelled"; what the model wrote until then is kept. A tool
        that is running is stopped; if it cannot be stopped, the turn no longer waits for it. May be called from any
        thread or task; does nothing if no turn is running.
        """
        if self._loop is not None:
            self._loop.cancel()

    def _turn(
        self, question: Entry | None = None, instead_of: int | None = None
    ) -> Generator[Event | Action, None, None]:
        """Runs a turn.

        Args:
            question: The user's message. None: continue the conversation, or repeat the question of the replaced turn.
            instead_of: Index of the turn that it replaces, with all later ones.
        """
        with self._conversation.held():
            self._loop = loop = ToolLoop(
                self.model, self.tokenizer, self._cache, self._toolset, self._constraints, self._conversation
            )
            before = self._conversation.current
            kept, replaced = (before, None) if instead_of is None else before.split_before(instead_of)
            if question is None and replaced is not None:
                question = replace(replaced, retries=replaced.retries + 1)
            setup = self._setup()
            self._conversation.current = begun = kept.with_entries([question] if question is not None else [])
            try:
                for result in begun.pending_results:
                    yield ToolResult(result.name or "", str(result.content))
                finished = yield from loop.run(setup)
            finally:
                if loop.is_taken_back:
                    self._conversation.current = before
                else:
                    self._total_stats = self._total_stats.after(loop.usage)
        yield finished  # after the conversation is let go: a caller that stops reading here can use it at once

    def _setup(self) -> TurnSetup:
        """The options as they are now, checked and rendered. Raises OptionError for an invalid one."""
        limits = Limits(self.context_limit, self.context_policy, self.max_tokens, self.max_rounds)
        limits.check_context(self.model.context)
        rules = self._constraints.rules(self.tools, self.system_tools)
        return TurnSetup(self._frame(), self.options, limits, rules, self.tokenizer)

    def _frame(self) -> Frame:
        header = final_header() if self.reasoning_effort == "none" else []
        messages = map(with_simplified_schemas, self._preamble())
        return Frame(render_conversation(messages, tokenizer=self.tokenizer), header)

    def _preamble(self) -> list[Message]:
        """The system and developer messages."""
        tools, answer = (self.tools, self.system_tools), self._constraints.prompt_format
        return preamble(self.instructions, self.reasoning_effort, *tools, self.current_date, answer)


def _question(text: str, tokenizer: Tokenizer) -> Entry:
    if not isinstance(text, str):
        raise OptionError(f"the user's message must be a str, not {type(text).__name__}")
    return Entry.from_message(Message("user", text), tokenizer)
