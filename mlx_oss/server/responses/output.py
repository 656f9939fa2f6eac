"""The items of what the model says and of calls that the client runs, each with the events that build it.

Knows nothing of the response around them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mlx_oss.events import Citation, TokenLogprob, ToolCall
from mlx_oss.server.asked import Frame, new_id
from mlx_oss.server.custom import unwrapped
from mlx_oss.server.responses.tools import Called


class Events:
    """Numbers the events of a stream."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, kind: str, **fields: Any) -> Frame:
        """The next event."""
        number = self._next
        self._next += 1
        return kind, {"type": kind, "sequence_number": number, **fields}


class OutputItem(ABC):
    """An item that is being written: `open`, whatever adds to it, then `close`.

    Args:
        events: Numbers its events.
        index: Its place in the output.
        include: What of items is wanted besides the usual.

    Attributes:
        data: The item as far as it is written.
    """

    prefix: ClassVar[str]

    def __init__(self, events: Events, index: int, include: Collection[str] = ()) -> None:
        self._events, self._index, self._include = events, index, include
        self.data: dict[str, Any] = {"id": new_id(self.prefix), **self._first_fields()}

    @property
    def id(self) -> str:
        """Its id."""
        id_: str = self.data["id"]
        return id_

    @abstractmethod
    def _first_fields(self) -> Mapping[str, Any]:
        """The item when nothing of it is written."""

    @abstractmethod
    def close(self, status: str) -> Iterator[Frame]:
        """Ends the item.

        Args:
            status: `completed` or `incomplete`.
        """

    def open(self) -> Iterator[Frame]:
        """Begins the item."""
        yield self._item_event("added")

    def _item_event(self, what: str) -> Frame:
        return self._events.event(f"response.output_item.{what}", output_index=self._index, item=dict(self.data))

    def _event(self, kind: str, **fields: Any) -> Frame:
        return self._events.event(f"response.{kind}", item_id=self.id, output_index=self._index, **fields)


class TextItem(OutputItem):
    """An item with a text that comes piece by piece."""

    def __init__(self, events: Events, index: int, include: Collection[str] = ()) -> None:
        super().__init__(events, index, include)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What has been written."""
        return "".join(self._pieces)

    @abstractmethod
    def add(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Frame]:
        """Adds a piece.

        Args:
            text: The piece.
            logprobs: The tokens of which it consists.
        """


class MessageItem(TextItem):
    """A message for the user: the answer, or what is said before a call."""

    prefix = "msg"
    phase = "final_answer"

    def __init__(self, events: Events, index: int, include: Collection[str] = ()) -> None:
        super().__init__(events, index, include)
        self._logprobs: list[Mapping[str, Any]] = []
        self._annotations: list[Mapping[str, Any]] = []

    def _first_fields(self) -> Mapping[str, Any]:
        return {"type": "message", "status": "in_progress", "role": "assistant", "content": [], "phase": self.phase}

    @property
    def _part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": list(self._annotations),
            "logprobs": list(self._logprobs),
        }

    def open(self) -> Iterator[Frame]:
        yield from super().open()
        yield self._event("content_part.added", content_index=0, part=self._part)

    def add(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Frame]:
        self._pieces.append(text)
        self._logprobs += logprobs
        yield self._event("output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))

    def cite(self, citations: Iterable[Citation]) -> Iterator[Frame]:
        """Adds where the text cites a page."""
        for citation in citations:
            if not citation.source:  # a page of results
                continue
            annotation = {
                "type": "url_citation",
                "start_index": citation.start,
                "end_index": citation.end,
                "url": citation.source,
                "title": citation.title,
            }
            index = len(self._annotations)
            self._annotations.append(annotation)
            yield self._event(
                "output_text.annotation.added", content_index=0, annotation_index=index, annotation=annotation
            )

    def close(self, status: str) -> Iterator[Frame]:
        part = self._part
        yield self._event("output_text.done", content_index=0, text=part["text"], logprobs=part["logprobs"])
        yield self._event("content_part.done", content_index=0, part=part)
        self.data |= {"status": status, "content": [part]}
        yield self._item_event("done")


class PreambleItem(MessageItem):
    """What is said before a call."""

    phase = "commentary"


class ReasoningItem(TextItem):
    """Reasoning, streamed as itself. When it is done it has all forms in which clients look for it."""

    prefix = "rs"

    def _encrypted(self, text: str) -> Mapping[str, str]:
        """The text again, for clients that keep nothing else of it. Some do not take null for it."""
        return {"encrypted_content": text} if "reasoning.encrypted_content" in self._include else {}

    def _first_fields(self) -> Mapping[str, Any]:
        return {"type": "reasoning", "status": "in_progress", "summary": [], "content": [], **self._encrypted("")}

    def open(self) -> Iterator[Frame]:
        yield from super().open()
        yield self._event("content_part.added", content_index=0, part={"type": "reasoning_text", "text": ""})

    def add(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Frame]:
        self._pieces.append(text)
        yield self._event("reasoning_text.delta", content_index=0, delta=text)

    def close(self, status: str) -> Iterator[Frame]:
        part = {"type": "reasoning_text", "text": self.text}
        yield self._event("reasoning_text.done", content_index=0, text=self.text)
        yield self._event("content_part.done", content_index=0, part=part)
        yield self._done(status)

    def _done(self, status: str) -> Frame:
        text = self.text
        self.data |= {
            "status": status,
            "summary": [{"type": "summary_text", "text": text}],
            "content": [{"type": "reasoning_text", "text": text}],
            **self._encrypted(text),
        }
        return self._item_event("done")


class SummaryItem(ReasoningItem):
    """Reasoning, streamed as its summary."""

    def open(self) -> Iterator[Frame]:
        yield self._item_event("added")
        yield self._event("reasoning_summary_part.added", summary_index=0, part={"type": "summary_text", "text": ""})

    def add(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Frame]:
        self._pieces.append(text)
        yield self._event("reasoning_summary_text.delta", summary_index=0, delta=text)

    def close(self, status: str) -> Iterator[Frame]:
        part = {"type": "summary_text", "text": self.text}
        yield self._event("reasoning_summary_text.done", summary_index=0, text=self.text)
        yield self._event("reasoning_summary_part.done", summary_index=0, part=part)
        yield self._done(status)


class CallItem(OutputItem):
    """A call that the client runs.

    Args:
        events: Numbers its events.
        index: Its place in the output.
        include: What of items is wanted besides the usual.
        call: The call.
        called: The tool.
    """

    prefix = "fc"

    def __init__(
        self, events: Events, index: int, include: Collection[str] = (), *, call: ToolCall, called: Called
    ) -> None:
        self._called, self._arguments = called, call.arguments if call.arguments.strip() else "{}"
        super().__init__(events, index, include)

    @property
    def call_id(self) -> str:
        """The id by which its result names it."""
        id_: str = self.data["call_id"]
        return id_

    def _first_fields(self) -> Mapping[str, Any]:
        called = self._called
        space = {} if called.namespace is None else {"namespace": called.namespace}
        fields = {"type": "function_call", "status": "in_progress", "call_id": new_id("call"), "name": called.name}
        return {**fields, **space, "arguments": ""}

    def close(self, status: str) -> Iterator[Frame]:
        text = self._arguments
        yield self._event("function_call_arguments.delta", delta=text)
        yield self._event("function_call_arguments.done", name=self._called.name, arguments=text)
        self.data |= {"status": status, "arguments": text}
        yield self._item_event("done")


class CustomCallItem(CallItem):
    """A call of a tool that takes a text."""

    prefix = "ctc"

    def _first_fields(self) -> Mapping[str, Any]:
        fields = dict(super()._first_fields())
        del fields["arguments"]
        return {**fields, "type": "custom_tool_call", "input": ""}

    def close(self, status: str) -> Iterator[Frame]:
        text = unwrapped(self._arguments)
        yield self._event("custom_tool_call_input.delta", delta=text)
        yield self._event("custom_tool_call_input.done", input=text)
        self.data |= {"status": status, "input": text}
        yield self._item_event("done")


def as_logprob(token: TokenLogprob) -> Mapping[str, Any]:
    """A token with its log-probability, as items have it."""
    return {
        "token": token.token,
        "bytes": list(token.token.encode()),
        "logprob": token.logprob,
        "top_logprobs": [
            {"token": other.token, "bytes": list(other.token.encode()), "logprob": other.logprob}
            for other in token.top_logprobs
        ],
    }
