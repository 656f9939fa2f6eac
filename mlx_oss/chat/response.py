"""One round of a chat turn: one request to the engine, and the events of what the model writes.

The round ends when the model has answered or called a tool, when it is cancelled, or when a limit is reached. A turn
without tools is one round. Knows the engine and harmony; nothing of conversations and tools.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from mlx_oss.action import Action
from mlx_oss.chat.answer_text import AnswerText
from mlx_oss.chat.translation import assistant_messages, chat_events, is_answer, tool_calls, without_bare_header
from mlx_oss.constrain import Parsed, TurnConstraint
from mlx_oss.costs import Usage
from mlx_oss.errors import ContextError
from mlx_oss.events import (
    AnswerDelta,
    Event,
    FinishReason,
    PrefillProgress,
    ReasoningStopped,
    TokenLogprob,
    ToolCall,
)
from mlx_oss.generation.engine import Engine, Item, PromptProgress, Request, Step
from mlx_oss.harmony import ParsedMessage, render_message
from mlx_oss.tokenizer import Tokenizer


class Response:
    """One round of a turn; call `run` once.

    However the round ends, even by an error or by closing `run`, `messages` and `usage` then describe what was written,
    and the prompt cache remains usable.

    Args:
        engine: The engine.
        request: What it is asked for.
        constraint: Follows what the model writes; the constraint of the request, if that has one.
        opening: How many ids at the end of the prompt open the model's message.
        is_cancelled: Called before each chunk and each token; True ends the round.
        tokenizer: The tokenizer of the model.
        stop: Texts that end the answer.

    Attributes:
        messages: The messages that the model wrote, including one that was cut off.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        constraint: TurnConstraint,
        *,
        opening: int,
        is_cancelled: Callable[[], bool],
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
    ) -> None:
        self.messages: list[ParsedMessage] = []
        self._constraint, self._opening, self._is_cancelled = constraint, opening, is_cancelled
        self._tokenizer, self._text = tokenizer, AnswerText(stop)
        self._stream = engine.submit(request)
        self._reason: FinishReason = "stop"
        self._generated = 0
        self._started = time.perf_counter()
        self._first: float | None = None  # when the first token came
        self._ended: float | None = None

    @property
    def call(self) -> ToolCall | None:
        """The tool call that ended the round; None if none did."""
        return next(iter(tool_calls(self.messages)), None)

    @property
    def is_answered(self) -> bool:
        """True once there is a message on the channel `final`."""
        return any(parsed.message.channel == "final" for parsed in self.messages)

    @property
    def stop(self) -> str | None:
        """The stop string that has ended the answer; None if none has."""
        return self._text.stop

    @property
    def answer(self) -> str:
        """The text on the channel `final`."""
        messages = [parsed.message for parsed in self.messages]
        return "".join(str(message.content) for message in messages if message.channel == "final")

    @property
    def usage(self) -> Usage:
        """What the round cost until it ended, or until now."""
        end, counts = self._ended or time.perf_counter(), self._stream.counts
        first = self._first or end
        return Usage(
            prompt_tokens=counts.read_tokens,
            reused_tokens=counts.reused_tokens,
            generated_tokens=self._generated,
            prefill_seconds=first - self._started,
            generate_seconds=end - first,
            experts_held=counts.offload.hits,
            experts_read=counts.offload.misses,
            read_bytes=counts.offload.nbytes,
            read_seconds=counts.offload.seconds,
        )

    @property
    def reason(self) -> FinishReason:
        """Why the round ended; valid once it has."""
        return self._reason if self.call is None else "tool_calls"

    def run(self) -> Generator[Event | Action, None, None]:
        """Runs the round.

        Yields:
            Events as the model reads and writes, and actions that wait for the engine.
        """
        last_events: list[Event] = []
        reported, reasoning_stopped = 0, None
        try:
            while not self._is_cancelled():
                wait = self._stream.wait()
                try:
                    yield wait
                except GeneratorExit:
                    self._take_undelivered(wait.future)
                    raise
                try:
                    item = wait.result()
                except ContextError:  # other conversations have used up the memory for keys and values
                    if not self._generated:
                        raise
                    self._reason = "length"
                    break
                if item is None:
                    break
                if isinstance(item, PromptProgress):
                    # Reading the opening belongs to writing: it is not reported, nor is a prompt of one chunk.
                    total = item.total - self._opening
                    done = min(item.done, total)
                    if done > reported and (reported or done < total):
                        reported = done
                        yield PrefillProgress(done, total)
                    continue
                parsed = self._constraint.parsed(item.token)
                yield from self._take(parsed, item)
                # The answer may end with `<|end|>`, which is no stop id.
                if self.is_answered or self.call is not None or self.stop is not None:
                    break
                if parsed.reasoning_stopped and not reasoning_stopped:
                    reasoning_stopped = parsed.reasoning_stopped
                    yield ReasoningStopped(reasoning_stopped)
                if parsed.stopped or item.finish == "length":
                    self._reason = parsed.stopped or "length"
                    break
        finally:
            self._ended = time.perf_counter()
            if not self.is_answered:  # a message that started after the answer is not part of the turn
                rest = self._constraint.finish()
                events = without_bare_header(rest.events)
                self.messages += assistant_messages(events)
                last_events = self._passed_on(chat_events(rest.header, events)) + self._text.end()
                if self._is_cancelled() and self.stop is None:
                    self._reason = "cancelled"
            if self.stop is not None:
                self._cut_answer()
            self._stream.close()
        yield from last_events

    def _take(self, parsed: Parsed, step: Step) -> list[Event]:
        """Counts a token and keeps what it did; returns the events."""
        if self._first is None:
            self._first = time.perf_counter()
        self._generated += 1
        self.messages += assistant_messages(parsed.events)
        is_text = parsed.header is not None and not self._tokenizer.is_control(step.token)
        if step.logprob is not None and is_text and is_answer(parsed.header):
            self._text.add_token(self._with_text(step.token, step.logprob, step.top_logprobs))
        events = self._passed_on(chat_events(parsed.header, parsed.events))
        return events + (self._text.end() if assistant_messages(parsed.events) else [])

    def _passed_on(self, events: Iterable[Event]) -> list[Event]:
        """The events, with the text of the answer only as far as no stop string is in it."""
        return [
            passed
            for event in events
            for passed in (self._text.add(event.text) if isinstance(event, AnswerDelta) else [event])
        ]

    def _with_text(self, token: int, logprob: float, top: Iterable[tuple[int, float]] = ()) -> TokenLogprob:
        others = tuple(self._with_text(*other) for other in top)
        return TokenLogprob(self._tokenizer.decode([token]), logprob, token, others)

    def _cut_answer(self) -> None:
        """Leaves of the answer what stands before the stop string, with newly rendered ids."""
        at = max(place for place, parsed in enumerate(self.messages) if is_answer(parsed.message))
        message = replace(self.messages[at].message, content=self._text.text)
        ids = tuple(render_message(message, tokenizer=self._tokenizer)[:-1])
        self.messages[at] = ParsedMessage(message, "cut", ids, self.messages[at].notes)

    def _take_undelivered(self, reading: Future[Item | None]) -> None:
        """Takes a token that came although the wait for it was interrupted: it is in the prompt cache."""
        if reading.done() and reading.exception() is None and isinstance(step := reading.result(), Step):
            self._take(self._constraint.parsed(step.token), step)
