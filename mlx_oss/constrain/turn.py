"""The constraint of one turn: follows the model through the harmony format and computes which ids may come next.

Headers must be legal. A body is free, unless it has a grammar. If the answer has a grammar, reasoning and preambles
cannot end the turn; otherwise whoever runs the turn lets it go on (`Rules.need_answer`). When reasoning reaches its
limit or repeats itself, it is ended and the answer is started. The state comes from the harmony parser, so the
constraint also works in messages that the parser repairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from mlx_oss.constrain.grammar import Grammar, Matcher
from mlx_oss.constrain.headers import State, legal_headers
from mlx_oss.constrain.repetition import RepetitionGuard
from mlx_oss.errors import EngineError
from mlx_oss.harmony import HarmonyParser, Header, MessageStarted, ParserEvent, render_conversation
from mlx_oss.tokenizer import (
    CALL,
    CHANNEL,
    END,
    LAST_TEXT_ID,
    MESSAGE,
    RETURN,
    START,
    STOP_IDS,
    Tokenizer,
    load_tokenizer,
)

Reason = Literal["limit", "repetition"]

# Reasoning that repeats one cycle over this many tokens is stuck. Elsewhere the limit is higher: in an answer or a call
# the user may have asked for a repetition.
MAX_REPETITION_IN_REASONING = 128
MAX_REPETITION_ELSEWHERE = 1024


def final_header() -> list[int]:
    """The ids of `<|channel|>final<|message|>`, which start the answer after `<|start|>assistant`."""
    return [CHANNEL, *load_tokenizer().encode("final"), MESSAGE]


@lru_cache(maxsize=4)
def _not_stop_ids(count: int) -> np.ndarray:
    """Mask bool (count,) of the ids that do not end the turn."""
    return np.isin(np.arange(count), STOP_IDS, invert=True)


def close_and_answer() -> list[int]:
    """The ids that end a message and start the answer."""
    return [END, *render_conversation([], next_role="assistant"), *final_header()]


@dataclass(frozen=True)
class Rules:
    """The restrictions of a turn.

    Attributes:
        recipients: Names that may be called; headers must then be legal. None means that headers are free.
        arguments: Grammar of the arguments, by recipient.
        answer: Grammar of the channel `final`.
        max_reasoning_tokens: Limit of reasoning tokens in the turn; None means no limit.
        must_call: Names of which one has to be called before the model may answer; None if it need not call. Needs
            `recipients`.
        stop_repetition: Whether to end reasoning that repeats itself, and the turn if anything else does for long.
    """

    recipients: tuple[str, ...] | None = ()
    arguments: Mapping[str, Grammar] = field(default_factory=dict)
    answer: Grammar | None = None
    max_reasoning_tokens: int | None = None
    stop_repetition: bool = True
    must_call: tuple[str, ...] | None = None

    def after_call(self) -> Rules:
        """The rules once the model has called a tool in the turn."""
        return self if self.must_call is None else replace(self, must_call=None)

    @property
    def need_answer(self) -> bool:
        """True if a turn that the model ends outside the channel `final` is to go on."""
        return self.recipients is not None

    @property
    def restricts_anything(self) -> bool:
        """True if at least one restriction is set."""
        headers, limited = self.recipients is not None, self.max_reasoning_tokens is not None
        return bool(headers or limited or self.arguments or self.answer or self.stop_repetition)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one token of the model did.

    Attributes:
        token: The token; None for the end of the stream.
        header: Header of the message that the token continues; None if it starts one, or stands between two.
        events: What the harmony parser made of the token.
        reasoning_stopped: Why the reasoning has been ended by now; None if it has not.
        stopped: Why the turn should end now although the model goes on; None if it should not.
    """

    token: int | None
    header: Header | None
    events: tuple[ParserEvent, ...]
    reasoning_stopped: Reason | None = None
    stopped: Literal["repetition"] | None = None


class TurnConstraint:
    """Follows one turn of the model: parses what it writes, and says what may come next.

    It is a `generation.engine.Constraint`. An engine calls `allowed` and `accept` on its own thread, at most one token
    ahead of the reader, who calls `parsed` for each token. So each token is parsed once. An engine may also ignore the
    constraint; then `parsed` parses, and nothing is restricted.

    Args:
        rules: The restrictions.
        opening: What the prompt contains after `<|start|>assistant`.
        reasoned: Reasoning tokens that earlier rounds of the turn have used.
        tokenizer: The tokenizer of the model. None means that of the releases.

    Attributes:
        restricts: True if the rules restrict anything, so that the engine needs the constraint.
        reasoned: Reasoning tokens that the turn has used; an empty reasoning message counts as one.
        reasoning_stopped: Why the reasoning was ended; None if it was not.
        stopped: Why the turn should end now although the model goes on; None if it should not.
    """

    def __init__(
        self, rules: Rules, opening: Sequence[int] = (), reasoned: int = 0, tokenizer: Tokenizer | None = None
    ) -> None:
        self.reasoned = reasoned
        self.reasoning_stopped: Reason | None = None
        self.stopped: Literal["repetition"] | None = None
        self.restricts = rules.restricts_anything
        self._rules = rules
        self._ids = max(LAST_TEXT_ID, *(tokenizer.added_text_ids if tokenizer else ()), 0) + 1
        self._parser = HarmonyParser(tokenizer=tokenizer)
        self._parsed: deque[Parsed] = deque()  # the tokens that were accepted and not yet asked for
        self._is_ignored = False  # True once a token was asked for that the engine had not accepted
        self._state: State | None = None
        self._forced: deque[int] = deque()
        self._matcher: Matcher | None = None
        self._guard = RepetitionGuard() if rules.stop_repetition else None
        self._reasoning_is_empty = False  # True in the body of a reasoning message that has no tokens yet
        self._expect_header("first")
        for token in opening:
            self.accept(token)
        self._parsed.clear()

    @property
    def _in_reasoning(self) -> bool:
        """True in the body of a reasoning message."""
        header = self._parser.header
        if self._parser.state != "content" or header is None:
            return False
        return header.channel == "analysis" and header.recipient is None

    @property
    def _may_reason(self) -> bool:
        limit = self._rules.max_reasoning_tokens
        return limit is None or self.reasoned < limit

    def accept(self, token: int) -> None:
        """Takes the next token that the model wrote, or that the prompt contains.

        Raises:
            OptionError: If a grammar is too complex to follow.
            EngineError: If the engine has given the token to the reader already.
        """
        if self._is_ignored:
            raise EngineError("the engine gave a step before the constraint accepted its token: accept first")
        if self._forced:
            self._forced.popleft()
        before, header = self._parser.state, self._parser.header
        events = self._parser.feed(token)
        started = any(isinstance(event, MessageStarted) for event in events)
        if self._parser.state != "content":
            self._accept_in_header(token, before)
        elif started:
            self._start_body()
        else:
            self._accept_in_body(token)
        if self._in_reasoning and not self._may_reason:
            self._end_reasoning("limit")
        repeated = self._guard.observe(token) if self._guard is not None else 0
        if self._in_reasoning and repeated >= MAX_REPETITION_IN_REASONING:
            self._end_reasoning("repetition")
        elif repeated >= MAX_REPETITION_ELSEWHERE:
            self.stopped = "repetition"
        self._parsed.append(Parsed(token, header, events, self.reasoning_stopped, self.stopped))

    def parsed(self, token: int) -> Parsed:
        """What the next token did; every token is asked for once, in order.

        Raises EngineError if the engine has accepted another one.
        """
        if not self._parsed:
            self._is_ignored = True
            return Parsed(token, self._parser.header, self._parser.feed(token))
        parsed = self._parsed.popleft()
        if parsed.token != token:
            raise EngineError(
                f"the engine gave token {token} after the constraint accepted {parsed.token}: give the same"
            )
        return parsed

    def finish(self) -> Parsed:
        """What the end of the stream did: an unfinished message is cut off. Includes tokens that nobody asked for."""
        unread = [*self._parsed, Parsed(None, self._parser.header, self._parser.finish())]
        self._parsed.clear()
        return Parsed(None, unread[0].header, tuple(event for parsed in unread for event in parsed.events))

    def _accept_in_header(self, token: int, before: str) -> None:
        """Takes a token of a header, or one between messages; `before` is the parser's state before it."""
        self.reasoned += self._reasoning_is_empty
        self._reasoning_is_empty = False
        if self._parser.state == "between":
            self._expect_header("between")
        elif before == "content" and token == CHANNEL:  # it cuts off the message and starts the next one
            self._expect_header("channel")
        elif token == START:
            self._expect_header("start")
        elif self._state is not None:
            self._state = self._state.after(token)

    def _expect_header(self, state: Literal["first", "start", "channel", "between"]) -> None:
        """Allows legal headers from a state of `LegalHeaders` on."""
        if self._rules.recipients is not None:
            names, must_call = self._rules.recipients, self._rules.must_call
            headers = legal_headers(must_call or names, self._may_reason, answer=must_call is None)
            self._state = getattr(headers, state)

    def _start_body(self) -> None:
        """Prepares for the body of a message whose header is complete."""
        header = self._parser.header
        assert header is not None
        grammar = self._rules.answer if header.channel == "final" else self._rules.arguments.get(header.recipient or "")
        self._matcher = grammar.matcher(RETURN if header.channel == "final" else CALL) if grammar else None
        self._reasoning_is_empty = self._in_reasoning

    def _accept_in_body(self, token: int) -> None:
        if self._matcher is not None:
            self._matcher.accept(token)
        if self._in_reasoning:
            self.reasoned += 1
            self._reasoning_is_empty = False

    def _end_reasoning(self, reason: Reason) -> None:
        """Forces the ids that end the reasoning and start the answer, or leave the model to call a tool."""
        if not self._forced:
            self.reasoning_stopped = reason
            self._forced.extend(close_and_answer() if self._rules.must_call is None else [END])

    def allowed(self) -> np.ndarray | int | None:
        """What may come next: None means every id, an int that id only, a mask bool (V',) the ids that are True.

        Raises OptionError if a grammar is too complex to follow.
        """
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
        is_call = header.recipient is not None
        may_end = self._rules.answer is None and self._rules.must_call is None
        return None if may_end or is_call else _not_stop_ids(self._ids)
