"""What a chat turn tells its caller while it runs: plain frozen values, no MLX and no token ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from mlx_oss.errors import OptionError
from mlx_oss.harmony import Note

FinishReason = Literal["stop", "tool_calls", "length", "cancelled", "repetition"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost: prompt tokens in all (those read before it was cancelled), how many of them were in the cache
    already, generated tokens, seconds.

    Where experts are on disk, also what the model had to read meanwhile: experts that were in memory when they were
    needed, experts read, bytes, and seconds in which it waited for them.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    generate_seconds: float = 0.0
    experts_held: int = 0
    experts_read: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0

    def plus(self, more: Usage) -> Usage:
        return Usage(*(getattr(self, field.name) + getattr(more, field.name) for field in fields(self)))

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.generate_seconds if self.generate_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a session cost so far, over all its turns, and what it holds.

    prompt_tokens    of all prompts together; reused_tokens of them were in the cache, the others were read
    seconds          of reading and generating
    cache_bytes      keys and values; snapshot_bytes: of the positions to step back to, beside those
    experts_held     and the next three: as in `Usage`, 0 where everything is in memory
    """

    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    cache_bytes: int = 0
    snapshot_bytes: int = 0
    experts_held: int = 0
    experts_read: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0

    @property
    def prefilled_tokens(self) -> int:
        return self.prompt_tokens - self.reused_tokens

    @property
    def hit_rate(self) -> float:
        """Of the experts needed, the share that was in memory."""
        needed = self.experts_held + self.experts_read
        return self.experts_held / needed if needed else 1.0

    @property
    def read_bytes_per_token(self) -> float:
        """Of tokens read and written."""
        return self.read_bytes / max(1, self.prefilled_tokens + self.generated_tokens)

    def after(self, usage: Usage) -> Stats:
        """With one more turn."""
        return Stats(
            turns=self.turns + 1,
            prompt_tokens=self.prompt_tokens + usage.prompt_tokens,
            reused_tokens=self.reused_tokens + usage.reused_tokens,
            generated_tokens=self.generated_tokens + usage.generated_tokens,
            seconds=self.seconds + usage.prefill_seconds + usage.generate_seconds,
            experts_held=self.experts_held + usage.experts_held,
            experts_read=self.experts_read + usage.experts_read,
            read_bytes=self.read_bytes + usage.read_bytes,
            read_seconds=self.read_seconds + usage.read_seconds,
        )


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next piece of the model's reasoning (channel `analysis`): not meant for end users."""

    text: str


@dataclass(frozen=True, slots=True)
class PreambleDelta:
    """The next piece of what the model says to the user before it calls a tool (channel `commentary`)."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of the answer (channel `final`, or text that the model put on no channel)."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool. One that the session has a handler for is run, and its `ToolResult` follows; otherwise
    the turn ends: give the result to `ChatSession.add_tool_result`, then `resume`.

    recipient   who is called, as the model wrote it: `functions.get_weather`, `python`
    arguments   the text of the call: JSON for functions, code for python; as the model wrote it, not checked
    channel     the channel of the call, which its result goes back on
    """

    recipient: str
    arguments: str
    channel: str | None = "commentary"

    @property
    def name(self) -> str:
        """The function's own name, without its namespace."""
        return self.recipient.removeprefix("functions.")


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A result that the model now reads, before it goes on; `recipient` is who was called.

    error  why there is no result, where a tool of the session's failed, was refused, or was stopped; None: it did well
    """

    recipient: str
    text: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in a browsed page that an answer cites.

    cursor      the page, as the model numbers what it has seen; lines `first_line` to `last_line` of it, from 0
    source      where it is: a URL, or a path in the browsed folder; title: what it is called
    text        the lines; start, end: where in the answer the citation stands, in characters
    """

    cursor: int
    first_line: int
    last_line: int
    source: str
    title: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Of the `total` new tokens of the prompt, `done` are read; told after each chunk of a prompt of several."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TurnsDropped:
    """The context was full: the `count` oldest turns are forgotten (`context_policy="drop_oldest"`)."""

    count: int


@dataclass(frozen=True, slots=True)
class ReasoningStopped:
    """The reasoning was closed for the model, and the answer opened.

    reason  "limit": `max_reasoning_tokens` are reached; "repetition": it went round in circles
    """

    reason: Literal["limit", "repetition"]


@dataclass(frozen=True, slots=True)
class RepairedOutput:
    """The model broke the harmony format; the message was put right as the notes say. One that it wrote in another's
    role stands in a note alone, `Repair.OTHER_ROLE`.
    """

    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn is over.

    reason  "stop": the model is done; "tool_calls": it waits for results; "length": it was cut off by a limit;
            "cancelled": by `ChatSession.cancel`; "repetition": it goes round in circles
    usage   of all rounds of the turn: after each tool's result the model reads and writes on
    parsed  with a `response_format`: the answer as a value; None if it is not finished
    """

    reason: FinishReason
    usage: Usage
    citations: tuple[Citation, ...] = ()
    parsed: Any = None


Event = (
    TurnsDropped
    | PrefillProgress
    | ReasoningDelta
    | PreambleDelta
    | AnswerDelta
    | ToolCall
    | ToolResult
    | ReasoningStopped
    | RepairedOutput
    | Finished
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole turn: the answer, the reasoning before it, the tools called, why it ended, its cost and citations, and
    with a `response_format` the answer as a value.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    citations: tuple[Citation, ...] = ()
    parsed: Any = None


def collect(events: Iterable[Event]) -> Reply:
    """The reply that a turn's events add up to."""
    text: dict[type, list[str]] = {ReasoningDelta: [], PreambleDelta: [], AnswerDelta: []}
    calls: list[ToolCall] = []
    for event in events:
        if isinstance(event, (ReasoningDelta, PreambleDelta, AnswerDelta)):
            text[type(event)].append(event.text)
        elif isinstance(event, ToolCall):
            calls.append(event)
        elif isinstance(event, Finished):
            answer, reasoning = "".join(text[AnswerDelta]), "".join(text[ReasoningDelta])
            said = (answer, reasoning, tuple(calls))
            return Reply(*said, event.reason, event.usage, event.citations, event.parsed)
    raise OptionError("the events end without Finished: give all events of one turn")
