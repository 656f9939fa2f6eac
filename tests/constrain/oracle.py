"""A reference for legal headers: the full list of them, and the allowed ids found by trying every id."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import cache

from mlx_oss import load_tokenizer
from mlx_oss.tokenizer import CHANNEL, CONSTRAIN, LAST_TEXT_ID, MESSAGE, N_RANKS

MARKS = ((" ",), (" ", CONSTRAIN), (CONSTRAIN,))


def symbols(*parts: str | int) -> bytes:
    """Texts and control tokens as bytes, four for each symbol, so that no text equals a control token."""
    numbers = array("I")
    for part in parts:
        numbers.extend([part] if isinstance(part, int) else part.encode())
    return numbers.tobytes()


def legal_headers(recipients: Iterable[str], reasoning: bool = True) -> set[bytes]:
    """All legal headers, from after `<|start|>assistant` up to `<|message|>`."""
    headers = [[CHANNEL, "final"], *([[CHANNEL, "analysis"]] if reasoning else [])]
    headers += [[CHANNEL, "commentary"]] if list(recipients) else []
    headers += [[CHANNEL, "final", *mark, "json"] for mark in MARKS]
    for name in recipients:
        for channel in ("analysis", "commentary"):
            for content_type in [(), *((*mark, kind) for mark in MARKS for kind in ("json", "code"))]:
                headers.append([CHANNEL, channel, f" to={name}", *content_type])
                headers.append([f" to={name}", CHANNEL, channel, *content_type])
    return {symbols(*header, MESSAGE) for header in headers}


def beginnings(headers: Iterable[bytes]) -> set[bytes]:
    """All prefixes of the headers, in whole symbols."""
    return {header[:end] for header in headers for end in range(0, len(header) + 1, 4)}


@cache
def symbols_of(id_: int) -> bytes:
    if id_ >= N_RANKS:
        return symbols(id_)
    numbers = array("I")
    numbers.extend(load_tokenizer().token_bytes(id_))
    return numbers.tobytes()


def what_may_follow(written: bytes, begun: set[bytes]) -> list[int]:
    """Every id that extends `written` to the beginning of a legal header."""
    return [id_ for id_ in range(LAST_TEXT_ID + 1) if written + symbols_of(id_) in begun]
