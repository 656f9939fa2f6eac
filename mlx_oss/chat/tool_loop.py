"""What happens in a turn of a session: rounds of reading and writing, and the tools that are run between them.

The half of `ChatSession` that runs on the computing thread; everything it does is yielded as events, or as errands for
whoever listens. Knows nothing of threads, files and how tools run.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Literal, get_args

from mlx_oss.action import Action
from mlx_oss.chat.history import OPENING, Conversation, Effort, Entry, preamble
from mlx_oss.chat.response import Response
from mlx_oss.chat.turn_lock import TurnLock
from mlx_oss.constrain import OutputConstraints, TurnConstraint, final_header
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.events import Event, Finished, Stats, ToolCall, ToolResult, TurnsDropped, Usage
from mlx_oss.generation.generate import room_for_answer
from mlx_oss.generation.prompt_cache import PromptCache
from mlx_oss.generation.sampling import SamplingOptions
from mlx_oss.harmony import Message, ToolDescription, ToolNamespace, render_conversation
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import LONGEST_TOKEN, Tokenizer
from mlx_oss.tools.calls import ToolInvocation, Toolset

ContextPolicy = Literal["refuse", "drop_oldest"]

_MARGIN = 64  # tokens around a tool's result, and a few to answer with


class ToolLoop:
    """The state of a session and its turns; `ChatSession` makes it and says what each option means."""

    model: Transformer
    tokenizer: Tokenizer
    instructions: str
    reasoning_effort: Effort
    tools: tuple[ToolDescription, ...]
    system_tools: tuple[ToolNamespace, ...]
    max_rounds: int
    options: SamplingOptions
    max_tokens: int | None
    current_date: str
    context_limit: int
    context_policy: ContextPolicy
    usage: Usage  # of the last turn
    _toolset: Toolset
    _invocation: ToolInvocation | None  # of a tool, at this moment
    _bounds: OutputConstraints
    _conversation: Conversation
    _cache: PromptCache
    _results: list[Entry]  # of tools, given while the turn that calls them is running
    _answering: bool  # whether such a turn runs; the lock guards both
    _adding: Lock
    _turn_lock: TurnLock
    _total: Stats

    @property
    def context_used(self) -> int:
        """Tokens that the next turn begins with."""
        return len(self._prompt())

    def _check(self) -> None:
        """Raises OptionError for an option that is none; some may be set between turns."""
        most = self.model.context
        if type(self.context_limit) is not int or not 1 <= self.context_limit <= most:
            raise OptionError(f"context_limit is {self.context_limit!r}, expected 1 to {most:,} tokens or None")
        if self.context_policy not in get_args(ContextPolicy):
            raise OptionError(f"context_policy is {self.context_policy!r}, expected refuse or drop_oldest")
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise OptionError(f"max_tokens is {self.max_tokens!r}, expected at least 1 or None")
        if type(self.max_rounds) is not int or self.max_rounds < 0:
            raise OptionError(f"max_rounds is {self.max_rounds!r}, expected at least 0")
        self._prompt(), self._constraint()

    def _say(self, text: str, turn: int | None = None) -> Generator[Event | Action, None, None]:
        """The user says `text`, in place of `turn` and all after it, if one is given."""
        if not isinstance(text, str):
            raise OptionError(f"the user says text, not {type(text).__name__}")
        with self._running_turn():
            kept = self._conversation if turn is None else self._conversation.before(turn)[0]
            finished = yield from self._asked(kept, Entry.of(Message("user", text)))
        yield finished  # the session is free again: who stops listening here may go on with it

    def _say_again(self) -> Generator[Event | Action, None, None]:
        """What the user said last."""
        with self._running_turn():
            kept, said = self._conversation.before(-1)
            finished = yield from self._asked(kept, replace(said, retries=said.retries + 1))
        yield finished

    def _asked(self, kept: Conversation, question: Entry) -> Generator[Event | Action, None, Finished]:
        """A turn that begins with the question, after what is kept of the conversation."""
        self._check()
        before, self._conversation = self._conversation, kept.plus([question])
        try:
            return (yield from self._turn(snapshot=True))
        except ContextError:
            self._conversation = before
            raise

    def _go_on(self) -> Generator[Event | Action, None, None]:
        with self._running_turn():
            self._check()
            for result in self._conversation.unseen_results:
                yield ToolResult(result.name or "", str(result.content))
            finished = yield from self._turn(snapshot=False)
        yield finished

    @contextmanager
    def _running_turn(self) -> Iterator[None]:
        """A turn has the floor; tool results that come meanwhile are kept apart, lest they stand before their calls."""
        with self._turn_lock:
            with self._adding:
                self._answering = True
            try:
                yield
            finally:
                with self._adding:
                    self._answering = False
                    self._conversation, self._results = self._conversation.plus(self._results), []

    def _turn(self, *, snapshot: bool) -> Generator[Event | Action, None, Finished]:
        """Rounds, until one calls no tool that is run here; returns the last event. `snapshot` where the next turn will
        step back to: before the first reasoning of this one.
        """
        self.usage, refused = Usage(), False
        try:
            for rounds in itertools.count():
                try:
                    response = yield from self._round(snapshot=snapshot and not rounds)
                except ContextError:
                    if refused := not rounds:
                        raise
                    return Finished("length", self.usage)  # tools have run: what they did is not taken back
                calls = [call for call in response.calls if self._toolset.handles(call)]
                if rounds > self.max_rounds or not calls:
                    break
                yield from self._run_tools(calls, refused=rounds == self.max_rounds)
                if calls != response.calls:
                    break
                if self._turn_lock.cancelled:
                    return Finished("cancelled", self.usage)
                if self.max_tokens is not None and self.usage.generated_tokens >= self.max_tokens:
                    return Finished("length", self.usage)
        finally:
            if not refused:
                self._total = self._total.after(self.usage)
        citations, parsed = self._toolset.citations(response.answer), self._bounds.parsed(response.messages)
        return Finished(response.reason, self.usage, citations, parsed)

    def _round(self, *, snapshot: bool) -> Generator[Event | Action, None, Response]:
        conversation, dropped = self._fitting()
        prompt = self._prompt(conversation)
        room = room_for_answer(self.context_limit, len(prompt))
        self._conversation = conversation
        response = Response(
            self.model, self._cache, prompt, lambda: self._turn_lock.cancelled, self._header(), self._constraint()
        )
        stopped: list[Entry] = []
        try:
            if dropped:
                yield TurnsDropped(dropped)
            most = room if self.max_tokens is None else min(self.max_tokens - self.usage.generated_tokens, room)
            yield from response.run(self._options(), most, self.tokenizer.stop_ids, snapshot=snapshot)
        except BaseException:  # the events were closed at a call: it is answered like one that is stopped
            calls = filter(self._toolset.handles, response.calls)
            stopped = [Entry.answering(call, self._toolset.invoke(call).result.text) for call in calls]
            raise
        finally:
            with self._adding:
                written = [*map(Entry.written, response.messages), *stopped, *self._results]
                self._conversation, self._results = conversation.plus(written), []
            self.usage = self.usage.plus(response.usage)
        return response

    def _run_tools(self, calls: Sequence[ToolCall], *, refused: bool) -> Generator[Event | Action, None, None]:
        for call in calls:
            self._invocation = run = self._toolset.invoke(call)
            if self._turn_lock.cancelled:
                run.cancel()
            try:
                if refused:
                    run.refuse(f"not run: a turn may call tools {self.max_rounds} times; answer with what you have")
                else:
                    yield run
            finally:
                run.cancel()
                self._invocation = None
                result = self._as_fits(run.result)
                self._conversation = self._conversation.plus([Entry.answering(call, result.text)])
            yield result

    def _as_fits(self, result: ToolResult) -> ToolResult:
        """A result, or a word that it is too long for the context, which this turn has for itself if need be."""
        alone = self.context_policy == "drop_oldest"
        kept = self._conversation.without_oldest(0)[0] if alone else self._conversation
        room = self.context_limit - len(self._prompt(kept)) - _MARGIN
        if len(result.text) <= room * LONGEST_TOKEN and len(self.tokenizer.encode(result.text)) <= room:
            return result
        error = f"the result is too long, {len(result.text):,} characters: ask for less of it"
        return ToolResult(result.recipient, f"Error: {error}", error)

    def _options(self) -> SamplingOptions:
        options = replace(self.options, logprobs=False)  # a chat tells none
        if options.seed is None:
            return options
        return replace(options, seed=(options.seed + self._conversation.retries) % 2**64)

    def _fitting(self) -> tuple[Conversation, int]:
        """The conversation and the number of turns to drop from it, where that is the policy and the context full."""
        quarter = self.context_limit // 4
        room = self.context_limit - min(self.max_tokens or quarter, quarter)
        if self.context_policy == "refuse" or self.context_used <= room:
            return self._conversation, 0
        return self._conversation.without_oldest(room - quarter - len(self._prompt(Conversation())))

    def _prompt(self, conversation: Conversation | None = None) -> list[int]:
        said = self._conversation if conversation is None else conversation
        return render_conversation(self._preamble()) + said.ids() + OPENING + self._header()

    def _header(self) -> list[int]:
        """What the opening has after `<|start|>assistant`."""
        return final_header() if self.reasoning_effort == "none" else []

    def _constraint(self) -> TurnConstraint | None:
        """What the model may write next."""
        return self._bounds.turn(self.tools, self.system_tools, self._header(), self._conversation.reasoned)

    def _preamble(self) -> list[Message]:
        tools, shown = (self.tools, self.system_tools), self._bounds.shown
        return preamble(self.instructions, self.reasoning_effort, *tools, self.current_date, shown)
