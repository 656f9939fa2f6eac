"""A round of a research: in a fresh session, the model searches and reads until it can write a note.

Its context holds the question and what it reads in this round, nothing of other rounds. Before the context is full, or
when a bound is reached, it is told to write down what it has. Knows nothing of the other rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, cast

from mlx_oss.chat.session import ChatSession
from mlx_oss.errors import ContextError
from mlx_oss.events import AnswerDelta, Finished, ToolCall, ToolResult
from mlx_oss.research import prompts
from mlx_oss.tools.browser import BrowserTool, View

_NOTE_TOKENS = 2000  # of the answer to `prompts.NOTE`, with its reasoning
_LONGEST_ARGUMENTS = 500  # characters, in the trace

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What a round has brought.

    Attributes:
        text: The note, with the cursors of this round in its citations.
        goes_on: Whether the context was full before the model had answered.
        tokens: Tokens generated.
    """

    text: str
    goes_on: bool
    tokens: int


class Look:
    """A round. Call `run` once.

    Args:
        session: A fresh session with the browser.
        browser: The browser, which has shown nothing yet.
        is_over: Whether a bound of the research is reached.
        tell: Called with lines for the trace: what is called, read and not read.
    """

    def __init__(self, session: ChatSession, browser: BrowserTool, is_over: Callable[[], bool], tell: Tell) -> None:
        self._session, self._browser, self._is_over, self._tell = session, browser, is_over, tell
        self._told = 0  # how many of the views were told

    def run(self, prompt: str, *, calls: int, tokens: int) -> Found:
        """Runs the round.

        Args:
            prompt: What to look for.
            calls: How many calls it may make.
            tokens: How many tokens it may generate.
        """
        answer: list[str] = []
        is_full = is_whole = False
        generated = 0
        events = self._session.send(prompt, max_rounds=calls, max_tokens=tokens)
        with closing(cast(Any, events)), suppress(ContextError):
            for event in events:
                match event:
                    case AnswerDelta(text):
                        answer.append(text)
                    case ToolCall():
                        self._tell({"event": "call", "tool": event.name, "text": event.arguments[:_LONGEST_ARGUMENTS]})
                    case ToolResult():
                        self._tell_result(event)
                        is_full = not self._has_room()
                    case Finished(reason):
                        is_whole = reason == "stop" and bool("".join(answer).strip())
                if is_full or (self._is_over() and not isinstance(event, Finished)):
                    break
        generated += self._session.usage.generated_tokens
        note = "".join(answer)
        if not is_whole and self._browser.shown:
            note, more = self._ask_for_note()
            generated += more
        return Found(note.strip(), is_full, generated)

    def _tell_result(self, event: ToolResult) -> None:
        """Tells which lines the model has read. It has not read a result that did not fit its context."""
        new = self._browser.shown[self._told :]
        self._told += len(new)
        if event.error is not None:
            self._tell({"event": "error", "tool": event.recipient, "text": event.error[:_LONGEST_ARGUMENTS]})
        for view in new:
            self._tell(_line_of(view) if event.error is None else {"event": "unread"})

    def _has_room(self) -> bool:
        """Whether the context has room for one more view of a page, and for the note after it."""
        limit = self._session.context_limit
        reserve = min(self._browser.tokens * 2 + _NOTE_TOKENS, limit // 2)
        return self._session.context_used + reserve <= limit

    def _ask_for_note(self) -> tuple[str, int]:
        with suppress(ContextError):
            reply = self._session.ask(
                prompts.NOTE, tool_choice="none", max_tokens=_NOTE_TOKENS, max_reasoning_tokens=_NOTE_TOKENS // 4
            )
            return reply.text, reply.usage.generated_tokens
        return "", 0


def _line_of(view: View) -> Mapping[str, Any]:
    page = view.page
    return {
        "event": "read",
        "source": page.source,
        "title": page.title,
        "first": view.first,
        "lines": page.lines[view.first : view.end],
        "total": len(page.lines),
        "is_list": page.results,
    }
