"""Writes what happens in a turn as the events of a response, and as the response itself. Knows nothing of requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from mlx_oss.events import (
    AnswerDelta,
    Event,
    Finished,
    PreambleDelta,
    PrefillProgress,
    ReasoningDelta,
    TokenLogprob,
    ToolCall,
    ToolResult,
)
from mlx_oss.server.asked import Cost, Frame, Writer, code_of, message_of, new_id, status_of
from mlx_oss.server.responses.output import (
    CallItem,
    CustomCallItem,
    Events,
    MessageItem,
    OutputItem,
    PreambleItem,
    ReasoningItem,
    SummaryItem,
    TextItem,
    as_logprob,
)
from mlx_oss.server.responses.own_calls import CodeItem, OwnCallItem, SearchItem, ServerCallItem, ServerListItem
from mlx_oss.server.responses.request import Details
from mlx_oss.server.responses.tools import PYTHON

Keep = Callable[[Mapping[str, Any]], None]


class ResponseWriter(Writer):
    """Writes one response.

    Args:
        details: What the request asks of it.
        model: Name of the model.
        keep: Called with the response when it is complete.
    """

    def __init__(self, details: Details, model: str, keep: Keep | None = None) -> None:
        self._details, self._keep = details, keep
        self._events = Events()
        self._items: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._logprobs: list[Mapping[str, Any]] = []  # of tokens whose text has not come yet
        self._progress: PrefillProgress | None = None
        self._finished: Finished | None = None
        self._has_begun = False
        self._call_id = ""
        self._fields: dict[str, Any] = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": [],
            "usage": None,
            **details.echo,
        }

    @property
    def body(self) -> Mapping[str, Any]:
        return {**self._fields, "output": [item.data for item in self._items]}

    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        return [*self._begin(), *self._list_servers()]

    def _list_servers(self) -> Iterator[Frame]:
        """Tells what MCP servers offer; not again, if the client has been told and gives it back."""
        told = [item.get("server_label") for item in self._details.items if item.get("type") == "mcp_list_tools"]
        for server in self._details.tools.servers:
            if server.label not in told:
                yield from self._begin_item(ServerListItem(*self._place, server=server))
                yield from self._close()

    def _begin(self) -> Iterator[Frame]:
        if not self._has_begun:
            self._has_begun = True
            yield self._event("created")
            yield self._event("in_progress")

    def _event(self, what: str, **more: Any) -> Frame:
        return self._events.event(f"response.{what}", response=self.body, **more)

    def wait(self) -> Iterable[Frame]:
        if not self._has_begun:
            return list(self._begin())
        read = self._progress
        progress = {} if read is None else {"prompt_progress": {"read_tokens": read.done, "tokens": read.total}}
        return [self._event("in_progress", **progress)]

    def take(self, event: Event, choice: int = 0) -> Iterable[Frame]:
        return list(self._take(event))

    def _take(self, event: Event) -> Iterator[Frame]:
        match event:
            case ReasoningDelta():
                yield from self._add(SummaryItem if self._details.has_summary else ReasoningItem, event.text)
            case PreambleDelta():
                yield from self._add(PreambleItem, event.text)
            case AnswerDelta():
                yield from self._add(MessageItem, event.text)
            case TokenLogprob():
                self._logprobs.append(as_logprob(event))
            case PrefillProgress():
                self._progress = event
            case ToolCall():
                yield from self._take_call(event)
            case ToolResult():
                if isinstance(item := self._open, OwnCallItem):
                    item.take_result(event)
                yield from self._close()
            case Finished():
                yield from self._finish(event)

    def _add(self, kind: type[TextItem], text: str) -> Iterator[Frame]:
        if type(self._open) is not kind:
            yield from self._begin_item(kind(*self._place))
        assert isinstance(self._open, TextItem)
        logprobs, self._logprobs = (self._logprobs, []) if kind is MessageItem else ([], self._logprobs)
        yield from self._open.add(text, logprobs)

    @property
    def _place(self) -> tuple[Events, int, Collection[str]]:
        """What every item needs to know."""
        return self._events, len(self._items), self._details.include

    def _begin_item(self, item: OutputItem) -> Iterator[Frame]:
        yield from self._close()
        self._items.append(item)
        self._open = item
        yield from item.open()

    def _close(self, status: str = "completed") -> Iterator[Frame]:
        if (item := self._open) is not None:
            self._open = None
            yield from item.close(status)

    def _take_call(self, call: ToolCall) -> Iterator[Frame]:
        tools = self._details.tools
        if tools.is_own(call.recipient):
            of_server = tools.is_of_server(call.recipient)
            is_python = call.recipient.partition(".")[0] == PYTHON
            kind = ServerCallItem if of_server else CodeItem if is_python else SearchItem
            own = kind(*self._place, call=call)
            self._call_id = own.id
            yield from self._begin_item(own)
            return
        called = tools.of(call.recipient)
        item = (CustomCallItem if called.is_custom else CallItem)(*self._place, call=call, called=called)
        self._call_id = item.call_id
        yield from self._begin_item(item)
        yield from self._close()

    def call_id(self, choice: int = 0) -> str:
        return self._call_id

    def _finish(self, event: Finished) -> Iterator[Frame]:
        self._finished = event
        has_said = any(isinstance(item, MessageItem | CallItem) for item in self._items)
        if not (has_said or self._is_cut_off):  # clients expect a message, even an empty one
            yield from self._begin_item(MessageItem(*self._place))
        if type(item := self._open) is MessageItem:
            yield from item.cite(event.citations)
        yield from self._close("incomplete" if self._is_cut_off else "completed")

    @property
    def _is_cut_off(self) -> bool:
        return self._finished is not None and self._finished.reason not in ("stop", "no_answer", "tool_calls")

    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        usage, reasoned = costs[0].usage, costs[0].reasoning_tokens
        self._fields["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.reused_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": reasoned},
            "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        }
        if self._is_cut_off:
            self._fields |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        else:
            self._fields |= {"status": "completed", "completed_at": int(time.time())}
        if self._keep is not None:
            self._keep(self.body)
        return [self._event(self._fields["status"])]

    def fail(self, error: Exception) -> Iterable[Frame]:
        code = code_of(error) or ("server_error" if status_of(error) >= 500 else "invalid_prompt")
        begun = list(self._begin())
        self._fields |= {"status": "failed", "error": {"code": code, "message": message_of(error)}}
        return [*begun, self._event("failed")]
