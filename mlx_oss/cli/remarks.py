"""Texts for the events of a turn that are not text of the model: calls, results, dropped turns, repairs.

Knows nothing of terminals and sessions.
"""

from __future__ import annotations

from mlx_oss import events
from mlx_oss.events import Event
from mlx_oss.harmony import Repair
from mlx_oss.terminal import one_line, sanitize

_SHOWN_LINES, _SHOWN_CHARACTERS = 6, 400  # of a shortened call or result
_REFUSED = "the user refused this call"  # the error of such a call
_ENDINGS: dict[events.FinishReason, str] = {
    "no_answer": "[the model stopped without an answer: ask again, or ask it to go on]",
    "repetition": "[cut off: the model repeated itself]",
    "tool_calls": "[the model stopped at a call that is not run: ask again, or ask it to answer]",
}


def remark(event: Event, whole: bool = False) -> str:
    """Returns the text to print for an event, empty if there is nothing to print.

    Args:
        event: An event that is not text of the model.
        whole: Include tool calls and results whole, else only their beginning.
    """
    match event:
        case events.ToolCall(recipient, arguments):
            return f"[calls {one_line(recipient)}: {sanitize(arguments if whole else _folded(arguments))}]"
        case events.ToolResult(recipient, error=error) if error == _REFUSED:  # the user knows it
            return f"[{one_line(recipient)} was not run]"
        case events.ToolResult(recipient, text):
            return f"[{one_line(recipient)} returns: {sanitize(text if whole else _folded(text))}]"
        case events.ToolProgress(recipient, done, total, text):
            far = f"{done:,g}" if total is None else f"{done:,g} of {total:,g}"
            return f"[{one_line(recipient)}: {far}{' · ' + one_line(text) if text else ''}]"
        case events.TurnsDropped(count):
            return f"[the context is full: the {count} oldest turns were dropped]"
        case events.ReasoningStopped("limit"):
            return "[the reasoning reached its limit]"
        case events.ReasoningStopped("repetition"):
            return "[the reasoning repeated itself and was stopped]"
        case events.RepairedOutput(notes):  # other repairs are not shown
            texts = [note.text for note in notes if note.repair is Repair.OTHER_ROLE]
            return sanitize("\n".join(f"[in another role: {text}]" for text in texts if text.strip()))
    raise AssertionError(f"no remark for {event}")


def ending(finished: events.Finished, max_tokens: int | None = None) -> str:
    """Returns why the answer is not whole, empty if it is, or if the user stopped it.

    Args:
        finished: The last event of the turn.
        max_tokens: Limit of tokens in the turn. None: only the context limits it.
    """
    if finished.reason != "length":
        return _ENDINGS.get(finished.reason, "")
    if max_tokens is not None and finished.usage.generated_tokens >= max_tokens:
        return "[cut off at --max-tokens]"
    return "[cut off: the context is full]"


def _folded(text: str) -> str:
    """Returns the beginning of a long text, and its length."""
    shown = "\n".join(text.splitlines()[:_SHOWN_LINES])[:_SHOWN_CHARACTERS]
    return text if len(shown) >= len(text.rstrip("\n")) else f"{shown} ... ({len(text):,} characters)"
