"""The constraint of one turn: where in the format the model is, and what that allows next.

A header may only be legal; a body is free unless a grammar binds it; where the answer is bound, reasoning and preambles
cannot end the turn. Reasoning that reaches its limit, or goes round in circles, is closed and the answer opened.
Follows the stream with the parser, so it holds for repaired messages too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mlx_oss.constrain.grammar import Grammar, Matcher
from mlx_oss.constrain.headers import State, legal_headers
from mlx_oss.constrain.repetition import RepetitionGuard
from mlx_oss.harmony import HarmonyParser, MessageStarted, render_conversation
from mlx_oss.tokenizer import CALL, CHANNEL, END, LAST_TEXT_ID, MESSAGE, RETURN, START, STOP_IDS, load_tokenizer

Reason = Literal["limit", "repetition"]

# A cycle of this many tokens is degenerate; in an answer or a call it may still be what was asked for, up to a point.
CIRCLE_IN_REASONING = 128
CIRCLE_ELSEWHERE = 1024

_GOES_ON = np.isin(np.arange(LAST_TEXT_ID + 1), STOP_IDS, invert=True)  # what does not end the turn


def final_header() -> list[int]:
    """What opens the answer after `<|start|>assistant`."""
    return [CHANNEL, *load_tokenizer().encode("final"), MESSAGE]


def close_and_answer() -> list[int]:
    """What ends a message and opens the answer."""
    return [END, *render_conversation([], next_role="assistant"), *final_header()]


@dataclass(frozen=True)
class Rules:
    """What holds for a turn.

    recipients            who may be called: headers can only be legal; None: headers are free
    arguments             by recipient, the grammar of what a call to it says
    answer                the grammar of `final`
    max_reasoning_tokens  in a turn; None: no limit
    stop_repetition       close reasoning that repeats itself, and end whatever else does for very long
    """

    recipients: tuple[str, ...] | None = ()
    arguments: Mapping[str, Grammar] = field(default_factory=dict)
    answer: Grammar | None = None
    max_reasoning_tokens: int | None = None
    stop_repetition: bool = True

    @property
    def bind(self) -> bool:
        """Whether there is anything to hold to."""
        headers, limited = self.recipients is not None, self.max_reasoning_tokens is not None
        return bool(headers or limited or self.arguments or self.answer or self.stop_repetition)


class TurnConstraint:
    """The `generate.Constraint` of one turn.

    opening            what the prompt has after `<|start|>assistant`
    reasoned           tokens that the turn has reasoned, at first before this; a message without any counts as one
    reasoning_stopped  why reasoning was closed for the model, once it was
    stopped            why the turn should end now, although the model goes on
    """

    def __init__(self, rules: Rules, opening: Sequence[int] = (), reasoned: int = 0) -> None:
        self.reasoned = reasoned
        self.reasoning_stopped: Reason | None = None
        self.stopped: Literal["repetition"] | None = None
        self._rules = rules
        self._parser = HarmonyParser()
        self._state: State | None = None
        self._forced: deque[int] = deque()
        self._matcher: Matcher | None = None
        self._guard = RepetitionGuard() if rules.stop_repetition else None
        self._thinks_nothing = False  # whether the content is reasoning, and empty so far
        self._headers_from("first")
        for token in opening:
            self.accept(token)

    @property
    def _reasons(self) -> bool:
        """Whether the content that is being written is reasoning."""
        header = self._parser.header
        if self._parser.state != "content" or header is None:
            return False
        return header.channel == "analysis" and header.recipient is None

    @property
    def _may_reason(self) -> bool:
        limit = self._rules.max_reasoning_tokens
        return limit is None or self.reasoned < limit

    def accept(self, token: int) -> None:
        """The model, or its prompt, goes on with this token."""
        if self._forced:
            self._forced.popleft()
        before = self._parser.state
        started = any(isinstance(event, MessageStarted) for event in self._parser.feed(token))
        if self._parser.state != "content":
            self._follow(token, before)
        elif started:
            self._begin()
        else:
            self._continue(token)
        if self._reasons and not self._may_reason:
            self._close("limit")
        circle = self._guard.observe(token) if self._guard is not None else 0
        if self._reasons and circle >= CIRCLE_IN_REASONING:
            self._close("repetition")
        elif circle >= CIRCLE_ELSEWHERE:
            self.stopped = "repetition"

    def _follow(self, token: int, before: str) -> None:
        """Through a header, or between messages."""
        self.reasoned += self._thinks_nothing
        self._thinks_nothing = False
        if self._parser.state == "between":
            self._headers_from("between")
        elif before == "content" and token == CHANNEL:  # which begins a message, if the last one was cut off
            self._headers_from("channel")
        elif token == START:
            self._headers_from("start")
        elif self._state is not None:
            self._state = self._state.after(token)

    def _headers_from(self, state: Literal["first", "start", "channel", "between"]) -> None:
        if self._rules.recipients is not None:
            self._state = getattr(legal_headers(self._rules.recipients, self._may_reason), state)

    def _begin(self) -> None:
        """A header is complete."""
        header = self._parser.header
        assert header is not None
        grammar = self._rules.answer if header.channel == "final" else self._rules.arguments.get(header.recipient or "")
        self._matcher = grammar.matcher(RETURN if header.channel == "final" else CALL) if grammar else None
        self._thinks_nothing = self._reasons

    def _continue(self, token: int) -> None:
        """With a body."""
        if self._matcher is not None:
            self._matcher.accept(token)
        if self._reasons:
            self.reasoned += 1
            self._thinks_nothing = False

    def _close(self, reason: Reason) -> None:
        if not self._forced:
            self.reasoning_stopped = reason
            self._forced.extend(close_and_answer())

    def allowed(self) -> np.ndarray | int | None:
        """None: every id; an id: that one; bool (V',): those that are True."""
        if self._forced:
            return self._forced[0]
        if self._parser.state == "content":
            return self._in_content()
        if self._state is None or not self._state.transitions:
            return None
        ids = self._state.allowed
        if len(ids) == 1:
            return ids[0]
        mask = np.zeros(LAST_TEXT_ID + 1, bool)
        mask[list(ids)] = True
        return mask

    def _in_content(self) -> np.ndarray | int | None:
        if self._matcher is not None:
            return self._matcher.allowed()
        header = self._parser.header
        assert header is not None
        calls = header.recipient is not None
        return None if self._rules.answer is None or calls else _GOES_ON
