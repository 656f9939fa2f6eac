"""Writes responses of chat completions, whole or as the chunks of a stream.

The reasoning is in the message as `reasoning`, and the same as `reasoning_content`, as other servers call it: whichever
a client knows, it sends it back. Knows nothing of requests.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_oss.errors import MlxOssError
from mlx_oss.events import (
    AnswerDelta,
    Citation,
    Event,
    Finished,
    PreambleDelta,
    ReasoningDelta,
    Reply,
    TokenLogprob,
    ToolCall,
    ToolResult,
)
from mlx_oss.server.asked import Asked, Cost, Frame, Writer, failure_body, new_id
from mlx_oss.server.chat_completions.request import Details
from mlx_oss.server.custom import unwrapped
from mlx_oss.tokenizer import N_RANKS, load_tokenizer

_FINISH_REASONS = {"tool_calls": "tool_calls", "stop": "stop", "no_answer": "stop"}  # others: the answer was cut off
_APART = "\n\n"  # between a preamble and an answer

Delta = dict[str, Any]


@dataclass(eq=False)
class Choice:
    """One answer, as far as it is written.

    Attributes:
        custom: Names of tools that take a text.
        has_format: Whether the answer has a format, so that a preamble has its place in the reasoning.
        own: Names of the server's own tools.
        finish_reason: Why it has ended; None if it has not.
        call_id: The id of the last call.
    """

    custom: Collection[str] = ()
    has_format: bool = False
    own: Collection[str] = ()
    finish_reason: str | None = None
    call_id: str = ""
    _reasoning: list[str] = field(default_factory=list)
    _content: list[str] = field(default_factory=list)
    _calls: list[dict[str, Any]] = field(default_factory=list)
    _logprobs: list[dict[str, Any]] = field(default_factory=list)
    _unsent: list[dict[str, Any]] = field(default_factory=list)  # log-probabilities of text that is not there yet
    _citations: list[dict[str, Any]] = field(default_factory=list)
    _answer_at: int = 0  # where the answer begins in the content
    _call: ToolCall | None = None  # the last one, until it is clear who runs it
    _last: type | None = None

    def take(self, event: Event) -> Iterator[Delta]:
        """Adds an event, and yields what a stream says of it."""
        if isinstance(event, ReasoningDelta) or (self.has_format and isinstance(event, PreambleDelta)):
            is_apart = self.has_format and self._reasoning and self._last is not type(event)
            text = _APART + event.text if is_apart else event.text
            self._reasoning.append(text)
            yield {"reasoning": text, "reasoning_content": text}
        elif isinstance(event, PreambleDelta | AnswerDelta):
            text = event.text if self._last is type(event) or not self._content else _APART + event.text
            if isinstance(event, AnswerDelta) and self._last is not AnswerDelta:
                self._answer_at = sum(map(len, self._content)) + len(text) - len(event.text)
            self._content.append(text)
            yield {"content": text}
        elif isinstance(event, TokenLogprob):
            self._unsent.append(_logprob(event) | {"top_logprobs": [*map(_logprob, event.top_logprobs)]})
            return
        elif isinstance(event, ToolCall):
            self._call, self.call_id = event, new_id("call")
        elif isinstance(event, ToolResult):  # the server has run it
            self._call = None
        elif isinstance(event, Finished):
            yield from self._finish(event)
        self._last = type(event)

    def _finish(self, event: Finished) -> Iterator[Delta]:
        reason = event.reason
        if self._call is not None and self._call.recipient.partition(".")[0] in self.own:  # one more than it may make
            reason = "stop" if reason == "tool_calls" else reason
        elif self._call is not None and reason == "tool_calls":
            call = _call(self._call, self.call_id, self.custom)
            kind = call["type"]
            text = "arguments" if kind == "function" else "input"
            number = len(self._calls)
            self._calls.append(call)
            yield {"tool_calls": [{"index": number, **call, kind: {**call[kind], text: ""}}]}
            yield {"tool_calls": [{"index": number, kind: {text: call[kind][text]}}]}
        self._citations = [_annotation(citation, self._answer_at) for citation in event.citations]
        if self._citations:
            yield {"annotations": self._citations}
        self.finish_reason = _FINISH_REASONS.get(reason, "length")

    def logprobs(self) -> dict[str, Any] | None:
        """Those that no chunk has had yet."""
        if not self._unsent:
            return None
        unsent, self._unsent = self._unsent, []
        self._logprobs += unsent
        return {"content": unsent, "refusal": None}

    def whole(self, index: int) -> dict[str, Any]:
        """The choice in a whole response."""
        self.logprobs()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self._calls and not self._content else "".join(self._content),
            "refusal": None,
            "annotations": self._citations,
        }
        if self._reasoning:
            message["reasoning"] = message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        logprobs = {"content": self._logprobs, "refusal": None} if self._logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}


class ChatWriter(Writer):
    """Writes the response to a request.

    Args:
        asked: The request.
        model: Name of the model that answers.
    """

    def __init__(self, asked: Asked, model: str) -> None:
        details: Details = asked.details
        self._id, self._created, self._model = new_id("chatcmpl").replace("_", "-"), int(time.time()), model
        self._include_usage = details.include_usage
        self._choices = [Choice(details.custom, details.has_format, asked.builtin) for _ in range(asked.count)]
        self._usage: dict[str, Any] | None = None

    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def take(self, event: Event, choice: int = 0) -> Iterable[Frame]:
        one = self._choices[choice]
        frames = [
            self._chunk(choice, delta, one.logprobs() if "content" in delta else None) for delta in one.take(event)
        ]
        if isinstance(event, Finished):
            frames.append(self._chunk(choice, {}, one.logprobs(), one.finish_reason))
        return frames

    def call_id(self, choice: int = 0) -> str:
        return self._choices[choice].call_id

    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        self._usage = usage(costs)
        return [(None, self._around([]) | {"usage": self._usage})] if self._include_usage else []

    def wait(self) -> Iterable[Frame]:
        return [self._chunk(0, {})]

    def fail(self, error: Exception) -> Iterable[Frame]:
        return [(None, failure_body(error))]

    @property
    def body(self) -> Mapping[str, Any]:
        choices = [choice.whole(index) for index, choice in enumerate(self._choices)]
        return _response(self._id, self._created, self._model, choices) | {"usage": self._usage}

    def _chunk(
        self, index: int, delta: Delta, logprobs: Mapping[str, Any] | None = None, finish: str | None = None
    ) -> Frame:
        return None, self._around([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

    def _around(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = _response(self._id, self._created, self._model, choices) | {"object": "chat.completion.chunk"}
        return chunk | {"usage": None} if self._include_usage else chunk


def completion(reply: Reply, *, id: str, created: int, model: str) -> dict[str, Any]:
    """The response for a reply.

    Args:
        reply: The reply of a session.
        id: Identifies the response.
        created: Seconds since 1970.
        model: Name of the model that has answered.
    """
    choice, texts = Choice(), (ReasoningDelta(reply.reasoning), PreambleDelta(reply.preamble), AnswerDelta(reply.text))
    finished = Finished(reply.finish_reason, reply.usage, reply.citations)
    for event in (*(text for text in texts if text.text), *reply.logprobs, *reply.tool_calls[-1:], finished):
        _ = [*choice.take(event)]
    cost = usage([Cost(reply.usage)])
    del cost["completion_tokens_details"]  # a reply does not say it
    return _response(id, created, model, [choice.whole(0)]) | {"usage": cost}


def _response(id: str, created: int, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": id, "object": "chat.completion", "created": created, "model": model, "choices": choices}


def usage(costs: list[Cost]) -> dict[str, Any]:
    """What a request has cost. Its answers share the prompt."""
    prompt, written = costs[0].usage.prompt_tokens, sum(cost.usage.generated_tokens for cost in costs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": costs[0].usage.reused_tokens},
        "completion_tokens_details": {"reasoning_tokens": sum(cost.reasoning_tokens for cost in costs)},
    }


def _call(call: ToolCall, id: str, custom: Collection[str]) -> dict[str, Any]:
    if call.name in custom:
        return {"id": id, "type": "custom", "custom": {"name": call.name, "input": unwrapped(call.arguments)}}
    arguments = call.arguments if call.arguments.strip() else "{}"  # clients read it as JSON
    return {"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    try:
        bytes_ = load_tokenizer().token_bytes(token.id) if token.id < N_RANKS else token.token.encode()
    except (MlxOssError, KeyError):
        bytes_ = token.token.encode()
    return {"token": token.token, "logprob": max(token.logprob, -9999.0), "bytes": [*bytes_]}  # JSON has no infinity


def _annotation(citation: Citation, answer_at: int) -> dict[str, Any]:
    place = {"start_index": answer_at + citation.start, "end_index": answer_at + citation.end}
    return {"type": "url_citation", "url_citation": {**place, "title": citation.title, "url": citation.source}}
