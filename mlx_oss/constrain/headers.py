"""Legal headers of assistant messages, as a state machine over their bytes and control tokens.

Legality is a property of the text, not of its tokens: a text token is allowed if its bytes lead towards a legal header,
however the text is split into tokens. So the likeliest legal continuation is never excluded because of its spelling.
The forms are those of openai/harmony `docs/format.md` and those that the model is seen to write: the recipient before
or after the channel; a content type with or without `<|constrain|>`, and with or without a space before it. Knows
nothing of bodies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

from mlx_oss.tokenizer import CHANNEL, CONSTRAIN, MESSAGE, N_RANKS, START, load_tokenizer

ROLE = "assistant"


class State:
    """A state within a header. Its transitions are bytes (0 to 255) and control tokens (ids from 199998 on)."""

    def __init__(self, transitions: Mapping[int, State]) -> None:
        self.transitions = transitions

    @cached_property
    def allowed(self) -> tuple[int, ...]:
        """The ids that may come next, sorted."""
        ids = []
        pending = [(self, b"")]
        while pending:
            state, text = pending.pop()
            for symbol, target in state.transitions.items():
                if symbol < N_RANKS:
                    pending.append((target, text + bytes([symbol])))
                elif not text:
                    ids.append(symbol)
            if text and (id_ := _id_of(text)) is not None:
                ids.append(id_)
        return tuple(sorted(ids))

    def after(self, token: int) -> State | None:
        """The state after a token; None if the token is not legal here."""
        if token >= N_RANKS:
            return self.transitions.get(token)
        state: State | None = self
        for byte in load_tokenizer().token_bytes(token):
            if state is None:
                return None
            state = state.transitions.get(byte)
        return state


@lru_cache(maxsize=1 << 14)
def _id_of(text: bytes) -> int | None:
    try:
        id_ = load_tokenizer().encoding.encode_single_token(text)
    except KeyError:
        return None
    return id_ if id_ < N_RANKS else None


END_OF_HEADER = State({})


def _path(*parts: str | int, to: State) -> State:
    """A state from which these texts and control tokens, in order, lead to `to`."""
    for part in reversed(parts):
        for symbol in [part] if isinstance(part, int) else reversed(part.encode()):
            to = State({symbol: to})
    return to


def _either(*states: State) -> State:
    """A state with the transitions of all of these; where several have the same one, their targets are merged."""
    if len(states) == 1:
        return states[0]
    transitions: dict[int, list[State]] = {}
    for state in states:
        for symbol, target in state.transitions.items():
            transitions.setdefault(symbol, []).append(target)
    return State({symbol: _either(*targets) for symbol, targets in transitions.items()})


def _content_types(*names: str) -> State:
    """A state before an optional content type, one of `names`, and `<|message|>`."""
    message = _path(MESSAGE, to=END_OF_HEADER)
    marks: list[tuple[str | int, ...]] = [(" ",), (" ", CONSTRAIN), (CONSTRAIN,)]
    return _either(message, *(_path(*mark, name, to=message) for name in names for mark in marks))


class LegalHeaders:
    """The state machine of legal headers.

    Args:
        recipients: Names that may be called, as a header contains them: `functions.get_weather`, `python`. Without any,
            `commentary` is not legal: preambles announce calls, and nothing but calls and preambles belongs there.
        reasoning: Whether a reasoning message is legal: `analysis` without a recipient.
        answer: Whether an answer is legal: `final`.

    Attributes:
        between: The state between two messages.
        start: The state after `<|start|>`.
        first: The state after `<|start|>assistant`.
        channel: The state after `<|channel|>`.
    """

    def __init__(self, recipients: Sequence[str], reasoning: bool = True, answer: bool = True) -> None:
        message = _path(MESSAGE, to=END_OF_HEADER)
        call = _content_types("json", "code")
        prose = [_path("final", to=_content_types("json"))] if answer else []
        prose += [_path("commentary", to=message)] if recipients else []
        prose += [_path("analysis", to=message)] if reasoning else []
        calls_in_channel, calls_in_role = [], []
        if recipients:
            recipient = _either(*(_path(f" to={name}", to=call) for name in recipients))
            calls_in_channel = [_path(channel, to=recipient) for channel in ("commentary", "analysis")]
            channels = _either(*(_path(CHANNEL, channel, to=call) for channel in ("commentary", "analysis")))
            calls_in_role = [_path(f" to={name}", to=channels) for name in recipients]
        self.channel = _either(*prose, *calls_in_channel)
        self.first = _either(_path(CHANNEL, to=self.channel), *calls_in_role)
        self.start = _path(ROLE, to=self.first)
        self.between = _path(START, to=self.start)


@lru_cache(maxsize=64)
def legal_headers(recipients: tuple[str, ...], reasoning: bool = True, answer: bool = True) -> LegalHeaders:
    """`LegalHeaders` with these arguments, built once and cached."""
    return LegalHeaders(recipients, reasoning, answer)
