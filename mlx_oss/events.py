"""The events that a chat turn yields: plain frozen dataclasses, without MLX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mlx_oss.costs import Usage
from mlx_oss.errors import OptionError
from mlx_oss.harmony import Note

FinishReason = Literal["stop", "no_answer", "tool_calls", "length", "cancelled", "repetition"]


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The next piece of the model's reasoning (channel `analysis`), which is not meant for end users.

    Attributes:
        text: The piece; never empty, never half a character.
    """

    text: str


@dataclass(frozen=True, slots=True)
class PreambleDelta:
    """The next piece of what the model tells the user before it goes on, mostly to a tool (channel `commentary`).

    Attributes:
        text: The piece; never empty, never half a character.
    """

    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of the answer (channel `final`, or text that the model wrote on no channel).

    Attributes:
        text: The piece; never empty, never half a character.
    """

    text: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer and its log-probability; yielded before its text, if the session has `logprobs=True`.

    Attributes:
        token: Its text. Bytes that are only a part of a character are a replacement character.
        logprob: Its log-probability in nats at temperature 1: see `Step.logprob`.
        id: Its id.
        top_logprobs: The likeliest tokens in its place, the likeliest first: `SamplingOptions.top_logprobs` of them.
    """

    token: str
    logprob: float
    id: int
    top_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool.

    If the session can run the tool, it does so and a `ToolResult` follows. Otherwise the turn ends with the reason
    "tool_calls": pass the result to `ChatSession.add_tool_result`, then call `ChatSession.resume`.

    Attributes:
        recipient: The tool as the model wrote it, for example `functions.get_weather` or `python`.
        arguments: The text of the call, unchecked, as the model wrote it: JSON for functions, code for `python`.
        channel: The channel of the call; its result is sent on the same channel.
    """

    recipient: str
    arguments: str
    channel: str | None = "commentary"

    @property
    def name(self) -> str:
        """The recipient without the namespace `functions`; never empty."""
        return self.recipient.removeprefix("functions.") or self.recipient


@dataclass(frozen=True, slots=True)
class ToolProgress:
    """A tool that is running tells how far it is. Comes between a `ToolCall` and its `ToolResult`.

    Attributes:
        recipient: The tool, as in `ToolCall.recipient`.
        done: How much is done, in the tool's own unit.
        total: How much there is to do. None: it does not say.
        text: What is being done; "" if it does not say.
    """

    recipient: str
    done: float
    total: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something in the result of a tool that the model cannot read, such as an image.

    Attributes:
        media_type: What it is, as the tool says, for example `image/png`.
        data: Its bytes.
        name: Its name or address; "" if it has none.
    """

    media_type: str
    data: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a tool call, which the model reads before it continues.

    Attributes:
        recipient: The tool that was called, as in `ToolCall.recipient`.
        text: What the model reads: the result, or a sentence about the error.
        error: Why there is no result: the tool failed, or the call was refused or stopped. None if the tool succeeded,
            or if the app added the result.
        attachments: What else the tool gave, for the app: images, sounds and files, which `text` only mentions.
    """

    recipient: str
    text: str
    error: str | None = None
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage of a browsed page that an answer cites.

    Attributes:
        cursor: Number of the page, as the model counts the pages it has seen.
        first_line: First cited line of the page, counted from 0.
        last_line: Last cited line, inclusive.
        source: URL of the page, or its path in the browsed folder.
        title: Title of the page.
        text: The cited lines.
        start: Start of the citation mark in the answer: `answer[start:end]` is the mark.
        end: End of the citation mark.
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
    """The model has read another chunk of the prompt; yielded only if the prompt needs more than one chunk.

    Attributes:
        done: New prompt tokens read so far.
        total: New prompt tokens in all, without those in the cache.
    """

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TurnsDropped:
    """The context was full, so the oldest turns were removed from the conversation (`context_policy="drop_oldest"`).

    Attributes:
        count: Number of turns removed.
    """

    count: int


@dataclass(frozen=True, slots=True)
class ReasoningStopped:
    """The session ended the reasoning and started the answer, instead of the model.

    Attributes:
        reason: "limit" if `max_reasoning_tokens` were used up, "repetition" if the reasoning repeated itself.
    """

    reason: Literal["limit", "repetition"]


@dataclass(frozen=True, slots=True)
class RepairedOutput:
    """The model broke the harmony format, and the message was repaired.

    A message that the model wrote in another role, such as the user's, is left out of the conversation: its text is
    only in a note `Repair.OTHER_ROLE`.

    Attributes:
        notes: The repairs, in order, each with the text that it is about.
    """

    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn is over. This is its last event.

    Attributes:
        reason: Why it ended. "stop": the model has answered, perhaps with an empty text. "no_answer": the model stopped
            after reasoning or a preamble, without an answer; `ChatSession.resume` lets it go on. "tool_calls": the
            model waits for results that the session does not produce, or it called more tools after `max_rounds`.
            "length": it was cut off by `max_tokens` or the context limit. "cancelled": `ChatSession.cancel` was called.
            "repetition": the model repeated itself outside its reasoning.
        usage: What the turn cost, over all its rounds.
        citations: Passages of browsed pages that the answer cites.
        parsed: The answer as a value, if the session has a `response_format`: the decoded JSON, the pydantic object, or
            the text for a regular expression. None if the answer is unfinished or cannot be parsed.
        stop: The stop string at which the answer was cut off; None if there was none.
    """

    reason: FinishReason
    usage: Usage
    citations: tuple[Citation, ...] = ()
    parsed: Any = None
    stop: str | None = None


Event = (
    TurnsDropped
    | PrefillProgress
    | ReasoningDelta
    | PreambleDelta
    | AnswerDelta
    | TokenLogprob
    | ToolCall
    | ToolProgress
    | ToolResult
    | ReasoningStopped
    | RepairedOutput
    | Finished
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole turn in one value.

    Attributes:
        text: The answer; empty if the model gave none, which `finish_reason` then says.
        reasoning: The reasoning before it.
        tool_calls: All tool calls of the turn, including those that the session ran.
        finish_reason: Why the turn ended: see `Finished.reason`.
        usage: What the turn cost.
        citations: Passages of browsed pages that the answer cites.
        parsed: The answer as a value, if the session has a `response_format`: see `Finished.parsed`.
        preamble: What the model told the user before it called tools, or before the answer: the text of all
            `PreambleDelta` events.
        stop: The stop string at which the answer was cut off; None if there was none.
        logprobs: The tokens of the answer with their log-probabilities, if the session has `logprobs=True`.
        choices: All answers, if several were asked for with `n`; this reply is the first of them.
    """

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    citations: tuple[Citation, ...] = ()
    parsed: Any = None
    preamble: str = ""
    stop: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    choices: tuple[Reply, ...] = ()


def collect(events: Iterable[Event]) -> Reply:
    """Reads the events of one turn up to `Finished` and joins them into a reply.

    Args:
        events: All events of the turn, for example from `ChatSession.send`.

    Returns:
        The reply.

    Raises:
        OptionError: If they are not the events of a turn, with `Finished` at their end.
    """
    text: dict[type, list[str]] = {ReasoningDelta: [], PreambleDelta: [], AnswerDelta: []}
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    if not isinstance(events, Iterable):
        raise OptionError(
            f"events is of the type {type(events).__name__}, expected those of `send`: in an event loop, "
            "`await session.aask(text)` returns a Reply"
        )
    for event in events:
        if isinstance(event, (ReasoningDelta, PreambleDelta, AnswerDelta)):
            text[type(event)].append(event.text)
        elif isinstance(event, ToolCall):
            calls.append(event)
        elif isinstance(event, TokenLogprob):
            logprobs.append(event)
        elif isinstance(event, Finished):
            answer, reasoning, preamble = ("".join(text[kind]) for kind in (AnswerDelta, ReasoningDelta, PreambleDelta))
            outcome = (event.reason, event.usage, event.citations, event.parsed)
            rest = (preamble, event.stop, tuple(logprobs))
            return Reply(answer, reasoning, tuple(calls), *outcome, *rest)
    raise OptionError("the events end without Finished: pass all events of one turn")
