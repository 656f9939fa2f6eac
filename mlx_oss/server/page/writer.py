"""Writes an answer as events for the page, with the text as HTML.

    {"type": "begin", "prompt_tokens": 512}
    {"type": "reading", "done": 512, "total": 2048}              the prompt is being read
    {"type": "reasoning", "text": ...}                           the next piece
    {"type": "text", "kind": "answer", "text": ..., "blocks": [{"index": 0, "html": ..., "done": false}]}
    {"type": "call", "id": ..., "to": "python", "channel": ..., "text": ..., "shown": ..., "confirm": null}
    {"type": "result", "id": ..., "text": ..., "error": null}
    {"type": "note", "text": ...}                                what the reader should know
    {"type": "wait"}                                             nothing; the server is alive
    {"type": "done", "reason": "stop", "usage": {...}, "context": {...}, "sources": [...]}
    {"type": "error", "message": ...}                            instead of done

The kind of a text is "answer" or "preamble". A block that comes again replaces the one with its index; only the last
one can change. `shown` is what the reader gets to see of the text of a call. `confirm` is the key with which the page
says whether the call may run (`Approvals.answer`). Knows nothing of connections.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mlx_oss import events
from mlx_oss.server.asked import Cost, Frame, Writer, message_of, new_id
from mlx_oss.server.page.approvals import Approvals
from mlx_oss.server.page.markdown import Block, Blocks
from mlx_oss.terminal import text_for_review
from mlx_oss.tools.reviews import Review

_MOST_SHOWN = 20_000  # characters of a call that needs no approval


class PageWriter(Writer):
    """Writes one answer.

    Args:
        approvals: Where the reader's answers arrive.
        reviews: Returns the tools whose calls need the reader's approval: from arguments to what would run.
        context: Returns the number of tokens that the model's context has.
    """

    def __init__(
        self, approvals: Approvals, reviews: Callable[[], Mapping[str, Review]], context: Callable[[], int | None]
    ) -> None:
        self._approvals, self._reviews, self._context = approvals, reviews, context
        self._prompt_tokens = 0
        self._call = ""  # the id of the last call
        self._question: str | None = None  # the key of the question about it
        self._finished: events.Finished | None = None
        self._blocks, self._kind, self._text = Blocks(), "", ""  # of the text that is written; its part not sent yet
        self._pieces, self._began = 0, 0.0  # tokens, about, and since when

    @property
    def body(self) -> Mapping[str, Any]:
        raise AssertionError("the page reads streams")

    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        self._prompt_tokens = prompt_tokens
        return [_frame("begin", prompt_tokens=prompt_tokens)]

    def take(self, event: events.Event, choice: int = 0) -> Iterable[Frame]:
        if isinstance(event, events.AnswerDelta | events.PreambleDelta):
            return self._text_goes_on("answer" if isinstance(event, events.AnswerDelta) else "preamble", event.text)
        return [*self._text_ends(), *self._translated(event)]

    def call_id(self, choice: int = 0) -> str:
        return self._call

    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        self._forget_question()
        finished = self._finished
        assert finished is not None
        usage = costs[0].usage
        sources = {(cited.source, cited.title, cited.cursor): None for cited in finished.citations}
        yield _frame(
            "done",
            reason=finished.reason,
            usage={
                "prompt_tokens": usage.prompt_tokens,
                "reused_tokens": usage.reused_tokens,
                "generated_tokens": usage.generated_tokens,
                "tokens_per_second": round(usage.tokens_per_second, 2),
                "seconds": round(usage.prefill_seconds + usage.generate_seconds, 2),
            },
            context={"used": self._prompt_tokens + usage.generated_tokens, "limit": self._context()},
            sources=[{"source": source, "title": title, "number": number} for source, title, number in sources],
        )

    def wait(self) -> Iterable[Frame]:
        return [_frame("wait")]

    def fail(self, error: Exception) -> Iterable[Frame]:
        self._forget_question()
        return [*self._text_ends(), _frame("error", message=message_of(error))]

    async def confirm(self, call: events.ToolCall) -> bool:
        """Whether the reader lets a call run."""
        key, self._question = self._question, None
        return True if key is None else await self._approvals.answered(key)

    def _translated(self, event: events.Event) -> Iterator[Frame]:
        match event:
            case events.ReasoningDelta(text):
                yield _frame("reasoning", text=text, rate=self._rate())
            case events.PrefillProgress(done, total):
                yield _frame("reading", done=done, total=total)
            case events.ToolCall():
                yield self._called(event)
            case events.ToolResult(_, text, error):
                self._forget_question()
                yield _frame("result", id=self._call, text=text, error=error)
            case events.TurnsDropped(count):
                yield _frame("note", text=f"The context is full: the {count} oldest questions were left out.")
            case events.ReasoningStopped("limit"):
                yield _frame("note", text="The reasoning reached its limit.")
            case events.ReasoningStopped():
                yield _frame("note", text="The reasoning repeated itself and was stopped.")
            case events.Finished():
                self._finished = event

    def _text_goes_on(self, kind: str, text: str) -> Iterator[Frame]:
        if kind != self._kind:
            yield from self._text_ends()
            self._kind = kind
        self._blocks.add(text)
        self._text += text
        rate = self._rate()
        if blocks := self._blocks.changed():
            yield self._written(blocks, rate=rate)

    def _text_ends(self) -> Iterator[Frame]:
        if self._kind:
            yield self._written(self._blocks.end())
        self._blocks, self._kind = Blocks(), ""

    def _written(self, blocks: list[Block], **more: Any) -> Frame:
        text, self._text = self._text, ""
        shown = [{"index": block.index, "html": block.html, "done": block.is_done} for block in blocks]
        return _frame("text", kind=self._kind, text=text, blocks=shown, **more)

    def _called(self, call: events.ToolCall) -> Frame:
        self._call = new_id("call")
        reviews = self._reviews()
        review = reviews.get(call.name) or reviews.get(call.name.partition(".")[0])
        self._forget_question()
        self._question = self._approvals.ask() if review else None
        shown = text_for_review(review(call.arguments)) if review else _readable(call.arguments)
        told = {"to": call.recipient, "channel": call.channel, "text": call.arguments, "shown": shown}
        return _frame("call", id=self._call, **told, confirm=self._question)

    def _forget_question(self) -> None:
        """If it was never asked, because the turn has ended before."""
        if self._question is not None:
            self._approvals.forget(self._question)
            self._question = None

    def _rate(self) -> float:
        """Pieces of text a second, which are about the tokens."""
        now = time.monotonic()
        self._began = self._began or now
        self._pieces += 1
        return round((self._pieces - 1) / (now - self._began), 1) if now > self._began else 0.0


def _frame(type_: str, **data: Any) -> Frame:
    return None, {"type": type_, **data}


def _readable(arguments: str) -> str:
    """Arguments in JSON with a line for each; other texts, such as code, as they are."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(value := json.loads(arguments), dict):
            arguments = json.dumps(value, indent=2, ensure_ascii=False) if value else ""
    more = len(arguments) - _MOST_SHOWN
    return arguments if more <= 0 else f"{arguments[:_MOST_SHOWN]}\n... ({more:,} more characters)"
