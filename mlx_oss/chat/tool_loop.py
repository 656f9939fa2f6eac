"""What happens in a turn of a session: rounds of prefill and generation, and the tool calls between them.

This is the half of `ChatSession` that runs on the computing thread. Its generators yield events for the caller, and
actions (`mlx_oss.action`) that the caller's thread performs. Knows nothing of files, and of how tools run.
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

_MARGIN = 64  # tokens of the message around a tool's result, and a few for the answer


class ToolLoop:
    """The state of a session and its turns. `ChatSession` initialises it and documents the options."""

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
    usage: Usage  # of the running turn, otherwise of the last one
    _toolset: Toolset
    _invocation: ToolInvocation | None  # the tool call that is running
    _output_constraints: OutputConstraints
    _conversation: Conversation
    _cache: PromptCache
    _late_results: list[Entry]  # tool results that the app adds while a turn is running
    _turn_is_running: bool
    _results_lock: Lock  # guards the two above
    _turn_lock: TurnLock
    _total_stats: Stats

    @property
    def context_used(self) -> int:
        """Number of tokens in the next prompt, not counting the user's next message."""
        return len(self._prompt())

    def _check_options(self) -> None:
        """Raises OptionError for an invalid option. Checked before every turn, as options may be set between turns."""
        longest = self.model.context
        if type(self.context_limit) is not int or not 1 <= self.context_limit <= longest:
            raise OptionError(f"context_limit is {self.context_limit!r}, expected 1 to {longest:,} tokens or None")
        if self.context_policy not in get_args(ContextPolicy):
            raise OptionError(f"context_policy is {self.context_policy!r}, expected refuse or drop_oldest")
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise OptionError(f"max_tokens is {self.max_tokens!r}, expected at least 1 or None")
        if type(self.max_rounds) is not int or self.max_rounds < 0:
            raise OptionError(f"max_rounds is {self.max_rounds!r}, expected at least 0")
        self._prompt(), self._turn_constraint()  # these raise for what cannot be rendered or enforced

    def _user_turn(self, text: str, turn: int | None = None) -> Generator[Event | Action, None, None]:
        """Runs a turn with a message of the user; if `turn` is given, it replaces that turn and all later ones."""
        if not isinstance(text, str):
            raise OptionError(f"the user's message must be a str, not {type(text).__name__}")
        with self._hold_turn_lock():
            kept = self._conversation if turn is None else self._conversation.split_before(turn)[0]
            finished = yield from self._answer_question(kept, Entry.from_message(Message("user", text)))
        yield finished  # after the lock is released: a caller that stops reading here can use the session at once

    def _retry_turn(self) -> Generator[Event | Action, None, None]:
        """Runs the last turn again with the same message of the user."""
        with self._hold_turn_lock():
            kept, question = self._conversation.split_before(-1)
            finished = yield from self._answer_question(kept, replace(question, retries=question.retries + 1))
        yield finished

    def _answer_question(self, kept: Conversation, question: Entry) -> Generator[Event | Action, None, Finished]:
        """Runs a turn that starts with `question`, after `kept`; restores the conversation on ContextError."""
        self._check_options()
        before, self._conversation = self._conversation, kept.with_entries([question])
        try:
            return (yield from self._run_rounds(snapshot=True))
        except ContextError:
            self._conversation = before
            raise

    def _resumed_turn(self) -> Generator[Event | Action, None, None]:
        """Runs a turn that continues the conversation as it is; yields the pending tool results first."""
        with self._hold_turn_lock():
            self._check_options()
            for result in self._conversation.pending_results:
                yield ToolResult(result.name or "", str(result.content))
            finished = yield from self._run_rounds(snapshot=False)
        yield finished

    @contextmanager
    def _hold_turn_lock(self) -> Iterator[None]:
        """Holds the turn lock. While it is held, `add_tool_result` collects results in `_late_results`: the calls that
        they answer may not be in the conversation yet.
        """
        with self._turn_lock:
            with self._results_lock:
                self._turn_is_running = True
            try:
                yield
            finally:
                with self._results_lock:
                    self._turn_is_running = False
                    self._conversation, self._late_results = self._conversation.with_entries(self._late_results), []

    def _run_rounds(self, *, snapshot: bool) -> Generator[Event | Action, None, Finished]:
        """Runs rounds until one calls no tool that the session runs; returns the turn's last event.

        With `snapshot`, the first round takes a snapshot of the cache before the model writes, so that the next turn
        can step the cache back to before the reasoning.
        """
        self.usage, turn_refused = Usage(), False
        try:
            for rounds in itertools.count():
                try:
                    response = yield from self._run_round(snapshot=snapshot and not rounds)
                except ContextError:
                    if turn_refused := not rounds:
                        raise
                    return Finished("length", self.usage)  # tools have run, so the turn is kept
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
            if not turn_refused:
                self._total_stats = self._total_stats.after(self.usage)
        citations = self._toolset.citations(response.answer)
        parsed = self._output_constraints.parse_answer(response.messages)
        return Finished(response.reason, self.usage, citations, parsed)

    def _run_round(self, *, snapshot: bool) -> Generator[Event | Action, None, Response]:
        """Runs one round and adds what the model wrote to the conversation, however the round ends."""
        conversation, dropped = self._conversation_within_context()
        prompt = self._prompt(conversation)
        room = room_for_answer(self.context_limit, len(prompt))
        self._conversation = conversation
        response = Response(
            self.model,
            self._cache,
            prompt,
            lambda: self._turn_lock.cancelled,
            self._opening_header(),
            self._turn_constraint(),
        )
        stopped_results: list[Entry] = []
        try:
            if dropped:
                yield TurnsDropped(dropped)
            limit = room if self.max_tokens is None else min(self.max_tokens - self.usage.generated_tokens, room)
            yield from response.run(self._round_options(), limit, self.tokenizer.stop_ids, snapshot=snapshot)
        except BaseException:  # e.g. the iterator was closed at a tool call: its result then says that it was stopped
            calls = filter(self._toolset.handles, response.calls)
            stopped_results = [Entry.from_tool_result(call, self._toolset.invoke(call).result.text) for call in calls]
            raise
        finally:
            with self._results_lock:
                written = [*map(Entry.from_model, response.messages), *stopped_results, *self._late_results]
                self._conversation, self._late_results = conversation.with_entries(written), []
            self.usage = self.usage.plus(response.usage)
        return response

    def _run_tools(self, calls: Sequence[ToolCall], *, refused: bool) -> Generator[Event | Action, None, None]:
        """Runs the calls and adds their results to the conversation.

        With `refused`, no call is run; the results tell the model to answer instead.
        """
        for call in calls:
            self._invocation = invocation = self._toolset.invoke(call)
            if self._turn_lock.cancelled:
                invocation.cancel()
            try:
                if refused:
                    reason = f"not run: a turn may call tools {self.max_rounds} times; answer with what you have"
                    invocation.refuse(reason)
                else:
                    yield invocation
            finally:
                invocation.cancel()
                self._invocation = None
                result = self._result_within_context(invocation.result)
                self._conversation = self._conversation.with_entries([Entry.from_tool_result(call, result.text)])
            yield result

    def _result_within_context(self, result: ToolResult) -> ToolResult:
        """The result, or an error result if it does not fit the context.

        With the policy "drop_oldest" the older turns do not count: they can be dropped to make room.
        """
        can_drop = self.context_policy == "drop_oldest"
        kept = self._conversation.without_oldest_turns(0)[0] if can_drop else self._conversation
        room = self.context_limit - len(self._prompt(kept)) - _MARGIN
        if len(result.text) <= room * LONGEST_TOKEN and len(self.tokenizer.encode(result.text)) <= room:
            return result
        error = f"the result is too long, {len(result.text):,} characters: ask for less of it"
        return ToolResult(result.recipient, f"Error: {error}", error)

    def _round_options(self) -> SamplingOptions:
        """The sampling options; with a seed, each retry of a turn draws with the next higher seed."""
        options = replace(self.options, logprobs=False)  # a chat does not report log-probabilities
        if options.seed is None:
            return options
        return replace(options, seed=(options.seed + self._conversation.retries) % 2**64)

    def _conversation_within_context(self) -> tuple[Conversation, int]:
        """The conversation for the next prompt, and how many of its oldest turns were dropped.

        Turns are dropped only with the policy "drop_oldest" and if the context is full: then enough of them to free a
        quarter of it at once.
        """
        quarter = self.context_limit // 4
        room = self.context_limit - min(self.max_tokens or quarter, quarter)
        if self.context_policy == "refuse" or self.context_used <= room:
            return self._conversation, 0
        return self._conversation.without_oldest_turns(room - quarter - len(self._prompt(Conversation())))

    def _prompt(self, conversation: Conversation | None = None) -> list[int]:
        """All ids of the prompt for a conversation, by default the current one."""
        conversation = self._conversation if conversation is None else conversation
        return render_conversation(self._preamble()) + conversation.prompt_ids() + OPENING + self._opening_header()

    def _opening_header(self) -> list[int]:
        """The ids of the opening after `<|start|>assistant`; with the effort "none", they open the answer."""
        return final_header() if self.reasoning_effort == "none" else []

    def _turn_constraint(self) -> TurnConstraint | None:
        """The constraint for the rest of the turn; None if nothing is restricted."""
        header, reasoned = self._opening_header(), self._conversation.reasoned
        return self._output_constraints.for_turn(self.tools, self.system_tools, header, reasoned)

    def _preamble(self) -> list[Message]:
        """The system and developer messages."""
        tools, answer = (self.tools, self.system_tools), self._output_constraints.prompt_format
        return preamble(self.instructions, self.reasoning_effort, *tools, self.current_date, answer)
