"""What happens in a turn of a session: rounds of generation, and the tool calls between them.

Knows nothing of files, and of how tools run and engines compute.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import replace

from mlx_oss.action import Action
from mlx_oss.chat.history import Conversation, Entry
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.response import Response
from mlx_oss.chat.setup import TurnSetup
from mlx_oss.chat.translation import has_answer
from mlx_oss.constrain import OutputConstraints
from mlx_oss.costs import Usage
from mlx_oss.errors import ContextError, DeviceError
from mlx_oss.events import Event, Finished, FinishReason, ToolCall, ToolResult, TurnsDropped
from mlx_oss.generation.engine import Engine, PromptCache, Request, room_for_answer
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.tokenizer import LONGEST_TOKEN, Tokenizer
from mlx_oss.tools.calls import ToolInvocation
from mlx_oss.tools.toolset import Toolset

_log = logging.getLogger("mlx_oss.chat")  # sizes, times and names; never what is said
_MOST_FAILURES = 3  # equal errors of a tool, one after another, after which no more calls are run
_MARGIN = 64  # tokens of the message around a tool's result, and a few for the answer


class ToolLoop:
    """Runs one turn; call `run` once. `cancel` may be called before, and from any thread.

    Args:
        engine: The engine.
        tokenizer: The tokenizer.
        cache: What the engine holds of the conversation.
        toolset: The tools that the model may call.
        constraints: Reads the answer as a value.
        conversation: The conversation, which ends with what the model is to answer. It gets what the model writes.

    Attributes:
        usage: What the finished rounds cost.
        is_taken_back: True if the turn is to be taken back: the conversation did not fit the context, or MLX failed
            before a tool had run.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        cache: PromptCache,
        toolset: Toolset,
        constraints: OutputConstraints,
        conversation: LiveConversation,
    ) -> None:
        self.usage, self.is_taken_back = Usage(), False
        self._engine, self._tokenizer, self._cache = engine, tokenizer, cache
        self._toolset, self._constraints, self._conversation = toolset, constraints, conversation
        self._is_cancelled = self._is_refused = False  # refused: the last call was, so the next one ends the turn
        self._failures = Counter[tuple[str, str]]()  # the last error of a tool, and how often it came one after another
        self._invocation: ToolInvocation | None = None  # the tool call that is running

    def cancel(self) -> None:
        """Ends the turn after the token, or the chunk of the prompt, that is being computed, and stops its tool."""
        self._is_cancelled = True
        if (invocation := self._invocation) is not None:
            invocation.cancel()

    def run(self, setup: TurnSetup) -> Generator[Event | Action, None, Finished]:
        """Runs rounds until the model has answered; returns the turn's last event.

        A call of a tool that the session runs leads to another round. So does a message that ends the turn without an
        answer, if the rules need one; at the second time the prompt opens the answer.

        Args:
            setup: The options of the turn.

        Raises:
            ContextError: If the first prompt does not fit the context. In later rounds that ends the turn with the
                reason "length" instead: tools have run, so the turn is kept.
            DeviceError: If MLX fails.
        """
        self._setup, self._limits = setup, setup.limits
        calls = stops = 0  # rounds that ended with a call of a tool, and rounds that ended with no answer
        while True:
            try:
                conversation, dropped = self._without_oldest_turns()
                response = self._begin_round(conversation)
            except ContextError:
                if not (calls or stops):
                    self.is_taken_back = True
                    raise
                return Finished("length", self.usage)
            self._conversation.current = conversation
            if dropped:
                yield TurnsDropped(dropped)
            yield from self._run_round(response, may_be_taken_back=not calls)
            call = self._own_call(response)
            if call is not None and not self._is_refused:
                refusal = self._refusal(calls)
                yield from self._run_tool(call, refusal)
                self._is_refused, calls = refusal is not None, calls + 1
            elif _reason(response) == "no_answer" and setup.rules.need_answer and stops < 2:
                stops += 1
                self._setup = setup if stops < 2 else setup.with_open_answer()
            else:
                return self._finished(response, is_opened=stops == 2)
            if self._is_cancelled:
                return Finished("cancelled", self.usage)
            if self._has_no_tokens_left:
                return Finished("length", self.usage)

    def _run_round(self, response: Response, *, may_be_taken_back: bool) -> Generator[Event | Action, None, None]:
        """Runs a round, and adds what the model writes to the conversation, however the round ends."""
        stopped_result: list[Entry] = []
        try:
            yield from response.run()
        except (ContextError, DeviceError):
            self.is_taken_back = may_be_taken_back
            raise
        except BaseException:  # e.g. the iterator was closed at a tool call: its result then says it was stopped
            if (call := self._own_call(response)) is not None:
                result = self._toolset.invoke(call).result.text
                stopped_result = [Entry.from_tool_result(call, result, self._tokenizer)]
            raise
        finally:
            written = [Entry.from_model(parsed, self._tokenizer) for parsed in response.messages]
            self._conversation.add_written([*written, *stopped_result])
            cost = response.usage
            self.usage = self.usage.plus(cost)
            _log.debug(
                "round: %d prompt tokens, %d of them reused, %d generated in %.2f s",
                cost.prompt_tokens,
                cost.reused_tokens,
                cost.generated_tokens,
                cost.prefill_seconds + cost.generate_seconds,
            )

    def _finished(self, response: Response, *, is_opened: bool) -> Finished:
        """The last event of the turn. An answer that was opened for the model, and that it left empty, is none."""
        citations, parsed = self._toolset.citations(response.answer), self._constraints.parse_answer(response.messages)
        reason = _reason(response)
        if is_opened and reason == "stop" and not response.answer and parsed is None:
            reason = "no_answer"
        return Finished(reason, self.usage, citations, parsed, response.stop)

    @property
    def _has_no_tokens_left(self) -> bool:
        most = self._limits.max_tokens
        return most is not None and self.usage.generated_tokens >= most

    def _begin_round(self, conversation: Conversation) -> Response:
        """Submits the request of a round. Raises ContextError if the prompt leaves no room to answer."""
        setup, opening = self._setup, len(self._setup.frame.opening)
        prompt, constraint = setup.frame.prompt(conversation), setup.constraint(conversation)
        limit = room_for_answer(self._limits.context_limit, len(prompt))
        if self._limits.max_tokens is not None:
            limit = min(self._limits.max_tokens - self.usage.generated_tokens, limit)
        request = Request(
            prompt,
            options=_sampling(setup, conversation.retries),
            max_tokens=limit,
            stop_ids=self._tokenizer.stop_ids,
            constraint=constraint if constraint.restricts else None,
            cache=self._cache,
            # The next turn goes back to where the reasoning of this one begins.
            snapshots=(len(prompt) - opening,) if conversation.awaits_first_round else (),
            preamble=len(setup.frame.preamble),
        )
        return Response(
            self._engine,
            request,
            constraint,
            opening=opening,
            is_cancelled=lambda: self._is_cancelled,
            tokenizer=self._tokenizer,
            stop=setup.stop,
        )

    def _own_call(self, response: Response) -> ToolCall | None:
        """The tool call of a round, if there is one that the session runs."""
        call = response.call
        return call if call is not None and self._toolset.handles(call) else None

    def _refusal(self, calls: int) -> str | None:
        """Why the next call is not run, as the model reads it; None if it is run.

        Args:
            calls: How many calls of the turn were run.
        """
        if any(count >= _MOST_FAILURES for count in self._failures.values()):
            return "not run: your calls have failed in the same way again and again; answer with what you have"
        if calls >= self._limits.max_rounds:
            return f"not run: a turn may call tools {self._limits.max_rounds} times; answer with what you have"
        return None

    def _run_tool(self, call: ToolCall, refusal: str | None) -> Generator[Event | Action, None, None]:
        """Runs a call and adds its result to the conversation. With a refusal it is not run, and that is its result."""
        self._invocation, started = (invocation := self._toolset.invoke(call)), time.perf_counter()
        if self._is_cancelled:
            invocation.cancel()
        try:
            if refusal is not None:
                invocation.refuse(refusal)
            else:
                yield invocation
                while invocation.is_running:
                    yield from invocation.take_progress()
                    yield invocation
                yield from invocation.take_progress()
        finally:
            invocation.cancel()
            self._invocation = None
            result = self._within_context(self._counted(call, invocation.result))
            answered = self._conversation.current.with_entries(
                [Entry.from_tool_result(call, result.text, self._tokenizer)]
            )
            self._conversation.current = answered
            _log.info(
                "tool %s: %s after %.2f s, %d characters",
                call.name,
                "done" if result.error is None else "failed",
                time.perf_counter() - started,
                len(result.text),
            )
        yield result

    def _counted(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """The result; the last of many equal errors also tells the model to stop."""
        failure = (call.recipient, result.error or "")
        failures = self._failures[failure] + 1
        self._failures.clear()  # only errors one after another count
        if result.error is None:
            return result
        self._failures[failure] = failures
        if failures < _MOST_FAILURES:
            return result
        more = f"This has failed {failures} times in the same way: do not call it again, answer with what you have."
        return replace(result, text=f"{result.text}\n{more}")

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

    def _without_oldest_turns(self) -> tuple[Conversation, int]:
        """The conversation for the next prompt, and how many of its oldest turns were dropped.

        Turns are dropped only with the policy "drop_oldest" and if the context is full: then enough of them to free a
        quarter of it at once.
        """
        limits, current = self._limits, self._conversation.current
        quarter = limits.context_limit // 4
        room = limits.context_limit - min(limits.max_tokens or quarter, quarter)
        if limits.context_policy == "refuse" or self._setup.frame.prompt_length(current) <= room:
            return current, 0
        return current.without_oldest_turns(room - quarter - self._setup.frame.prompt_length(Conversation()))


def _reason(response: Response) -> FinishReason:
    """Why a round ended."""
    return "no_answer" if response.reason == "stop" and not has_answer(response.messages) else response.reason


def _sampling(setup: TurnSetup, retries: int) -> SamplingOptions:
    """The options of a turn: with a seed, each retry draws with the next higher seed."""
    options = replace(setup.options, logprobs=setup.logprobs)
    return options if options.seed is None else replace(options, seed=(options.seed + retries) % 2**64)
