"""Writes responses of Anthropic's Messages, whole or as the events of a stream. Knows nothing of requests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlx_oss import json_text
from mlx_oss.costs import Usage
from mlx_oss.errors import ContextError
from mlx_oss.events import AnswerDelta, Event, Finished, PreambleDelta, ReasoningDelta, ToolCall, ToolResult
from mlx_oss.server.asked import Asked, Cost, Frame, Writer, code_of, message_of, new_id, status_of
from mlx_oss.server.messages.request import NO_THREADS, Details
from mlx_oss.server.messages.thinking import signature

_STOP_REASONS = {"tool_calls": "tool_use", "stop": "end_turn", "no_answer": "end_turn"}  # others: it was cut off
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_THINKING = {"type": "thinking", "thinking": "", "signature": ""}


class MessageWriter(Writer):
    """Writes the response to a request.

    Args:
        asked: The request.
        model: Name of the model that answers.
    """

    def __init__(self, asked: Asked, model: str) -> None:
        details: Details = asked.details
        self._shown, self._own = details.shown, details.own
        self._id, self._model = new_id("msg"), details.model or model
        self._content: list[dict[str, Any]] = []
        self._open: type | None = None  # whose text the last block gets, if it is not closed
        self._pieces: list[str] = []  # that text
        self._call: ToolCall | None = None  # the last one, until it is clear who runs it
        self._call_id = ""
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
        self._usage: dict[str, Any] = {}

    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        self._usage = _usage(Usage(prompt_tokens=prompt_tokens))
        return [("message_start", {"type": "message_start", "message": self.body})]

    def take(self, event: Event, choice: int = 0) -> Iterable[Frame]:
        return [*self._taken(event)]

    def _taken(self, event: Event) -> Iterator[Frame]:
        if isinstance(event, ReasoningDelta):
            if self._shown is not None:
                yield from self._opened(ReasoningDelta, _THINKING)
                self._pieces.append(event.text)
                if self._shown == "text":
                    yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, PreambleDelta | AnswerDelta):
            yield from self._opened(type(event), {"type": "text", "text": ""})
            self._pieces.append(event.text)
            yield self._delta({"type": "text_delta", "text": event.text})
        elif isinstance(event, ToolCall):
            self._call = event
            self._call_id = new_id("srvtoolu" if self._is_own_call else "toolu")
            if self._is_own_call:
                yield from self._whole_call({"type": "server_tool_use", "name": "web_search"})
        elif isinstance(event, ToolResult):
            if self._is_own_call:
                yield from self._whole(_found(self._call_id, "unavailable" if event.error is not None else None))
            self._call = None
        elif isinstance(event, Finished):
            yield from self._finish(event)

    def _finish(self, event: Finished) -> Iterator[Frame]:
        reason = "stop_sequence" if event.stop is not None else _STOP_REASONS.get(event.reason, "max_tokens")
        if self._is_own_call:  # one more than a turn may have
            yield from self._whole(_found(self._call_id, "max_uses_exceeded"))
            reason = "end_turn"
        elif self._call is not None and event.reason == "tool_calls":
            yield from self._whole_call({"type": "tool_use", "name": self._call.name})
        yield from self._closed()
        if not any(block["type"] in ("text", "tool_use") for block in self._content):
            yield from self._opened(AnswerDelta, {"type": "text", "text": ""})  # what clients look for
            yield from self._closed()
        self._stop = {"stop_reason": reason, "stop_sequence": event.stop}

    @property
    def _is_own_call(self) -> bool:
        """Whether there is a call that the server runs, whose result is not there."""
        return self._call is not None and self._call.recipient.partition(".")[0] in self._own

    def call_id(self, choice: int = 0) -> str:
        return self._call_id

    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        (cost,) = costs
        details = {"output_tokens_details": {"thinking_tokens": cost.reasoning_tokens}}
        self._usage = _usage(cost.usage) | details
        yield "message_delta", {"type": "message_delta", "delta": self._stop, "usage": self._usage}
        yield "message_stop", {"type": "message_stop"}

    def wait(self) -> Iterable[Frame]:
        """A ping; where reasoning may come, an empty piece of it: after ten minutes of pings, Claude Code gives up."""
        if self._shown is not None and self._usage and (not self._content or self._open is ReasoningDelta):
            yield from self._opened(ReasoningDelta, _THINKING)
            yield self._delta({"type": "thinking_delta", "thinking": ""})
        else:
            yield "ping", {"type": "ping"}

    def fail(self, error: Exception) -> Iterable[Frame]:
        return [("error", failure_body(error))]

    @property
    def body(self) -> Mapping[str, Any]:
        about = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {**about, "content": list(self._content), **self._stop, "usage": self._usage}

    def _opened(self, kind: type, block: dict[str, Any]) -> Iterator[Frame]:
        """Starts a block, unless the last one is of this kind and open."""
        if self._open is kind:
            return
        yield from self._closed()
        self._open = kind
        self._content.append(dict(block))
        yield self._event("content_block_start", content_block=block)

    def _closed(self) -> Iterator[Frame]:
        """Ends the block that is open."""
        if self._open is None:
            return
        block, text = self._content[-1], "".join(self._pieces)
        if self._open is ReasoningDelta:
            block["thinking"], block["signature"] = text if self._shown == "text" else "", signature(text)
            yield self._delta({"type": "signature_delta", "signature": block["signature"]})
        else:
            block["text"] = text
        yield self._event("content_block_stop")
        self._open, self._pieces = None, []

    def _whole_call(self, block: dict[str, Any]) -> Iterator[Frame]:
        """A block with the last call."""
        assert self._call is not None
        text = _object(self._call.arguments)
        block = {"type": block["type"], "id": self._call_id, "name": block["name"]}
        yield from self._whole(block | {"input": json.loads(text)}, block | {"input": {}}, text)

    def _whole(
        self, block: dict[str, Any], start: Mapping[str, Any] | None = None, text: str | None = None
    ) -> Iterator[Frame]:
        """A block that is there at once; in a stream it starts as another one, and a text of JSON follows."""
        yield from self._closed()
        self._content.append(block)
        yield self._event("content_block_start", content_block=start or block)
        if text is not None:
            yield self._delta({"type": "input_json_delta", "partial_json": text})
        yield self._event("content_block_stop")

    def _delta(self, delta: Mapping[str, Any]) -> Frame:
        return self._event("content_block_delta", delta=delta)

    def _event(self, name: str, **fields: Any) -> Frame:
        return name, {"type": name, "index": len(self._content) - 1, **fields}


def failure_body(error: Exception) -> Mapping[str, Any]:
    """The body of the response for an error."""
    status = status_of(error)
    message = message_of(error)
    if isinstance(error, ContextError):  # by these words clients know that, and by how much, they have to shorten it
        numbers = f" {error.tokens} tokens > {error.context} maximum:" if error.tokens is not None else ""
        message = f"prompt is too long:{numbers} {message}"
    kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
    body: dict[str, Any] = {"type": kind, "message": message}
    if (code := code_of(error)) == NO_THREADS:
        body["details"] = {"error_code": code, "unsupported": ["thread"]}
    return {"type": "error", "error": body, "request_id": new_id("req")}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.reused_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.reused_tokens,
        "output_tokens": usage.generated_tokens,
    }


def _object(arguments: str) -> str:
    """The arguments of a call as the JSON of an object: clients fail over anything else."""
    text = json_text.whole(arguments).strip() or "{}"
    try:
        value = json_text.loads(text)
    except (ValueError, RecursionError):
        value = None
    return text if isinstance(value, dict) else json.dumps({"input": arguments}, ensure_ascii=False)


def _found(call_id: str, error: str | None) -> dict[str, Any]:
    """The block for what a search has found. The server remembers the text; clients could do nothing with it."""
    content: Any = [{"type": "web_search_result", "title": "", "url": "", "encrypted_content": call_id}]
    if error is not None:
        content = {"type": "web_search_tool_result_error", "error_code": error}
    return {"type": "web_search_tool_result", "tool_use_id": call_id, "content": content}
