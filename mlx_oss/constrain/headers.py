"""Legal headers of assistant messages, as a graph of the texts they may have.

Legality is about text: tokens may be cut anywhere, so that the likeliest legal continuation is never ruled out for the
way it is spelled: a text token is allowed where its bytes lead on to some legal header. Knows nothing of bodies.
The forms are those of openai/harmony `docs/format.md` and those the model is seen to write: the recipient before the
channel or after it, a content type with `<|constrain|>` or without, with a blank before it or without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

from mlx_oss.tokenizer import CHANNEL, CONSTRAIN, MESSAGE, N_RANKS, START, load_tokenizer

ROLE = "assistant"


class State:
    """A state in a header, and what may follow: bytes (0 to 255) and control tokens (from 199998 on)."""

    def __init__(self, transitions: Mapping[int, State]) -> None:
        self.transitions = transitions

    @cached_property
    def allowed(self) -> tuple[int, ...]:
        """Ids that may come next, in order."""
        found = []
        open_ = [(self, b"")]
        while open_:
            state, text = open_.pop()
            for way, further in state.transitions.items():
                if way < N_RANKS:
                    open_.append((further, text + bytes([way])))
                elif not text:
                    found.append(way)
            if text and (id_ := _id_of(text)) is not None:
                found.append(id_)
        return tuple(sorted(found))

    def after(self, token: int) -> State | None:
        """Where a token leads; None if it is not legal here."""
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
    """The state from which these texts and control tokens, in order, lead to `to`."""
    for part in reversed(parts):
        for way in [part] if isinstance(part, int) else reversed(part.encode()):
            to = State({way: to})
    return to


def _either(*states: State) -> State:
    """A state from which everything leads on that does from one of these."""
    if len(states) == 1:
        return states[0]
    transitions: dict[int, list[State]] = {}
    for state in states:
        for way, further in state.transitions.items():
            transitions.setdefault(way, []).append(further)
    return State({way: _either(*further) for way, further in transitions.items()})


def _content_types(*names: str) -> State:
    message = _path(MESSAGE, to=END_OF_HEADER)
    marks: list[tuple[str | int, ...]] = [(" ",), (" ", CONSTRAIN), (CONSTRAIN,)]
    return _either(message, *(_path(*mark, name, to=message) for name in names for mark in marks))


class LegalHeaders:
    """recipients  who may be called, as a header names them: `functions.get_weather`, `python`
    reasoning   whether a message may be reasoning: `analysis` that is addressed to nobody
    """

    def __init__(self, recipients: Sequence[str], reasoning: bool = True) -> None:
        message = _path(MESSAGE, to=END_OF_HEADER)
        call = _content_types("json", "code")
        answer = _path("final", to=_content_types("json"))
        said = [_path("commentary", to=message), *([_path("analysis", to=message)] if reasoning else [])]
        calls_in_channel, calls_in_role = [], []
        if recipients:
            called = _either(*(_path(f" to={name}", to=call) for name in recipients))
            calls_in_channel = [_path(channel, to=called) for channel in ("commentary", "analysis")]
            channels = _either(*(_path(CHANNEL, channel, to=call) for channel in ("commentary", "analysis")))
            calls_in_role = [_path(f" to={name}", to=channels) for name in recipients]
        self.channel = _either(answer, *said, *calls_in_channel)
        self.first = _either(_path(CHANNEL, to=self.channel), *calls_in_role)  # after `<|start|>assistant`
        self.start = _path(ROLE, to=self.first)
        self.between = _path(START, to=self.start)


@lru_cache(maxsize=64)
def legal_headers(recipients: tuple[str, ...], reasoning: bool = True) -> LegalHeaders:
    """As `LegalHeaders`, built once."""
    return LegalHeaders(recipients, reasoning)
