"""What happens in a turn of a session: rounds of generation, and the tool calls between them.

Knows nothing of files, and of how tools run and engines compute.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from dataclasses import replace

from mlx_oss.action import Action
from mlx_oss.chat.history import Conversation, Entry
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.response import Response
from mlx_oss.chat.setup import TurnSetup
from mlx_oss.constrain import OutputConstraints
from mlx_oss.errors import ContextError
from mlx_oss.events import Event, Finished, ToolCall, ToolResult, TurnsDropped, Usage
from mlx_oss.generation.engine import Engine, PromptCache, Request, room_for_answer
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.tokenizer import LONGEST_TOKEN, Tokenizer
from mlx_oss.tools.calls import ToolInvocation, Toolset

_MARGIN = 64  # tokens of the message around a tool's result, and a few for the answer


class ToolLoop:
    """Runs one turn; call `run` once.

    Args:
        engine: The engine.
        tokenizer: The tokenizer.
        cache: What it holds of the conversation.
        setup: The options of the turn.
        toolset: The tools that the model may call.
        constraints: Reads the answer as a value.
        conversation: The conversation, which ends with what the model is to answer. It gets what the model writes.

    Attributes:
        usage: What the finished rounds cost.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        cache: PromptCache,
        setup: TurnSetup,
        toolset: Toolset,
        constraints: OutputConstraints,
        conversation: LiveConversation,
    ) -> None:
        self.usage = Usage()
        self._engine, self._tokenizer, self._cache = engine, tokenizer, cache
        self._setup, self._limits = setup, setup.limits
        self._toolset, self._constraints, self._conversation = toolset, constraints, conversation
        self._invocation: ToolInvocation | None = None  # the tool call that is running

    def cancel_tool(self) -> None:
        """Stops the tool that is running, if one is; may be called from any thread."""
        if (invocation := self._invocation) is not None:
            invocation.cancel()

    def run(self) -> Generator[Event | Action, None, Finished]:
        """Runs rounds until one calls no tool that the session runs; returns the turn's last event.

        Raises:
            ContextError: If the first prompt does not fit the context. In later rounds that ends the turn with the
                reason "length" instead: tools have run, so the turn is kept.
        """
        max_rounds, max_tokens = self._limits.max_rounds, self._limits.max_tokens
        for rounds in itertools.count():
            try:
                dropped = self._drop_oldest_turns()
                response = self._begin_round(self._conversation.current if not dropped else dropped[0])
            except ContextError:
                if not rounds:
                    raise
                return Finished("length", self.usage)
            stopped_results: list[Entry] = []
            try:
                if dropped:
                    self._conversation.current = dropped[0]
                    yield TurnsDropped(dropped[1])
                yield from response.run()
            except BaseException:  # e.g. the iterator was closed at a tool call: its result then says it was stopped
                for call in self._own(response):
                    stopped_results.append(Entry.from_tool_result(call, self._toolset.invoke(call).result.text))
                raise
            finally:
                self._conversation.add_written([*map(Entry.from_model, response.messages), *stopped_results])
                self.usage = self.usage.plus(response.usage)
            calls = self._own(response)
            if rounds > max_rounds or not calls:
                break
            yield from self._run_tools(calls, refused=rounds == max_rounds)
            if calls != response.calls:
                break
            if self._is_cancelled():
                return Finished("cancelled", self.usage)
            if max_tokens is not None and self.usage.generated_tokens >= max_tokens:
                return Finished("length", self.usage)
        citations = self._toolset.citations(response.answer)
        return Finished(response.reason, self.usage, citations, self._constraints.parse_answer(response.messages))

    def _begin_round(self, conversation: Conversation) -> Response:
        """Submits the request of a round. Raises ContextError if the prompt leaves no room to answer."""
        setup, opening = self._setup, len(self._setup.frame.opening)
        prompt, constraint = setup.frame.prompt(conversation), setup.constraint(conversation)
        limit = room_for_answer(self._limits.context_limit, len(prompt))
        if self._limits.max_tokens is not None:
            limit = min(self._limits.max_tokens - self.usage.generated_tokens, limit)
        request = Request(
            prompt,
            options=_sampling(setup.options, conversation.retries),
            max_tokens=limit,
            stop_ids=self._tokenizer.stop_ids,
            constraint=constraint if constraint.restricts else None,
            cache=self._cache,
            # The next turn goes back to where the reasoning of this one begins.
            snapshots=(len(prompt) - opening,) if conversation.awaits_first_round else (),
        )
        return Response(self._engine, request, constraint, opening=opening, is_cancelled=self._is_cancelled)

    def _is_cancelled(self) -> bool:
        return self._conversation.is_cancelled

    def _run_tools(self, calls: Sequence[ToolCall], *, refused: bool) -> Generator[Event | Action, None, None]:
        """Runs the calls and adds their results to the conversation.

        With `refused`, no call is run; the results tell the model to answer instead.
        """
        for call in calls:
            self._invocation = invocation = self._toolset.invoke(call)
            if self._is_cancelled():
                invocation.cancel()
            try:
                if refused:
                    most = self._limits.max_rounds
                    invocation.refuse(f"not run: a turn may call tools {most} times; answer with what you have")
                else:
                    yield invocation
            finally:
                invocation.cancel()
                self._invocation = None
                result = self._within_context(invocation.result)
                answered = self._conversation.current.with_entries([Entry.from_tool_result(call, result.text)])
                self._conversation.current = answered
            yield result

    def _own(self, response: Response) -> list[ToolCall]:
        """The calls that the session runs."""
        return [call for call in response.calls if self._toolset.handles(call)]

    def _within_context(self, result: ToolResult) -> ToolResult:
        """The result, or an error result if it does not fit the context.

        With the policy "drop_oldest" the older turns do not count: they can be dropped to make room.
        """
        kept = self._conversation.current
        if self._limits.context_policy == "drop_oldest":
            kept = kept.without_oldest_turns(0)[0]
        room = self._limits.context_limit - self._setup.frame.prompt_length(kept) - _MARGIN
        if len(result.text) <= room * LONGEST_TOKEN and len(self._tokenizer.encode(result.text)) <= room:
            return result
        error = f"the result is too long, {len(result.text):,} characters: ask for less of it"
        return ToolResult(result.recipient, f"Error: {error}", error)

    def _drop_oldest_turns(self) -> tuple[Conversation, int] | None:
        """The conversation without its oldest turns, and how many were dropped; None if none is.

        Turns are dropped only with the policy "drop_oldest" and if the context is full: then enough of them to free a
        quarter of it at once.
        """
        limits, current = self._limits, self._conversation.current
        quarter = limits.context_limit // 4
        room = limits.context_limit - min(limits.max_tokens or quarter, quarter)
        if limits.context_policy == "refuse" or self._setup.frame.prompt_length(current) <= room:
            return None
        kept, count = current.without_oldest_turns(room - quarter - self._setup.frame.prompt_length(Conversation()))
        return (kept, count) if count else None


def _sampling(options: SamplingOptions, retries: int) -> SamplingOptions:
    """The options of a turn: with a seed, each retry draws with the next higher seed."""
    options = replace(options, logprobs=False)  # a chat does not report log-probabilities
    return options if options.seed is None else replace(options, seed=(options.seed + retries) % 2**64)
