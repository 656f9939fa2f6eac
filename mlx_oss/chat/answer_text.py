"""Passes on the text of an answer up to a stop string, with the log-probabilities of its tokens.

Knows nothing of engines, messages and tokens' ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mlx_oss.events import AnswerDelta, Event, TokenLogprob


class AnswerText:
    """The text of one round's answer. What may be the beginning of a stop string is held back until that is decided.

    Args:
        stops: The stop strings; the one that is complete first ends the text, and of several the longest.

    Attributes:
        text: The text of the current message, as far as it is certain.
        stop: The stop string that has ended it; None if none has.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.text, self._held = "", ""
        self.stop: str | None = None
        self._stops = stops
        self._tokens: deque[tuple[int, TokenLogprob]] = deque()  # with the place in the text where each begins

    def add_token(self, token: TokenLogprob) -> None:
        """Takes a token whose text comes next; it is passed on before that."""
        self._tokens.append((len(self.text) + len(self._held), token))

    def add(self, text: str) -> list[Event]:
        """Takes the next text, and returns what is certain of it."""
        if self.stop is not None:
            return []
        window = self._held + text
        found = [(window.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in window]
        if found:
            end, length, self.stop = min(found)
            return self._pass_on(window[: end + length], "")
        held = max((_overlap(window, stop) for stop in self._stops), default=0)
        return self._pass_on(window[: len(window) - held], window[len(window) - held :])

    def end(self) -> list[Event]:
        """The message has ended: what was held back is certain now."""
        events = self._pass_on(self._held, "") if self.stop is None else []
        if self.stop is None:
            self.text = ""
        return events

    def _pass_on(self, text: str, held: str) -> list[Event]:
        self.text, self._held = self.text + text, held
        is_last = self.stop is not None
        events = list[Event]()
        while self._tokens and (self._tokens[0][0] < len(self.text) or not (held or is_last)):
            events.append(self._tokens.popleft()[1])
        return [*events, *([AnswerDelta(text)] if text else [])]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin the stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
