"""Recovers what is readable of a damaged saved session. Knows nothing of files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from mlx_oss.chat.history import Entry
from mlx_oss.chat.saved import DECODING_ERRORS, Saved
from mlx_oss.costs import Stats
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, SystemContent, message_from_dict

T = TypeVar("T")

_ESCAPED = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-f]{4})')  # an escape sequence of JSON
_LETTERS = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MOST_FAILURES = 2000  # places in a damaged file where a message seems to begin and cannot be read


def recover(raw: bytes) -> Saved | None:
    """The messages of a damaged header that can still be decoded, with newly rendered ids; None if there is none.

    A message that can be decoded is kept even if its text was changed by the damage.
    """
    text = _ESCAPED.sub(_unescaped, raw.decode(errors="replace"))
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # joins the halves of characters
    decoded = _decode_all(text, '{"message": ', lambda data: Entry.from_message(message_from_dict(data)))
    entries = [entry for entry in decoded if isinstance(entry.message.content, str)]
    blank = [Message("system", SystemContent())]
    preamble = next(_decode_all(text, '"preamble": ', lambda dicts: list(map(message_from_dict, dicts))), blank)
    saved = Saved(preamble, entries, (), SamplingOptions(), {}, Stats(), "")
    try:
        saved.session_kwargs()
    except DECODING_ERRORS:
        saved = replace(saved, preamble=blank)
    return saved if entries else None


def _unescaped(match: re.Match[str]) -> str:
    """The character that an escape sequence of JSON stands for."""
    return _LETTERS.get(match[0][1]) or chr(int(match[0][2:], 16))


def _decode_all(text: str, prefix: str, convert: Callable[[Any], T]) -> Iterator[T]:
    """Decodes and converts every JSON value that follows `prefix` in the text; skips those that fail.

    Stops after _MOST_FAILURES, or when failures have read the text several times: values that begin within one another
    could take hours.
    """
    decoder, start, failures, wasted = json.JSONDecoder(), text.find(prefix), 0, 0
    while start >= 0 and failures < _MOST_FAILURES and wasted <= 8 * len(text):
        try:
            yield convert(decoder.raw_decode(text, start + len(prefix))[0])
        except json.JSONDecodeError as error:
            failures, wasted = failures + 1, wasted + error.pos - start
        except RecursionError:  # it may have read up to the end
            failures, wasted = failures + 1, wasted + len(text) - start
        except DECODING_ERRORS:
            failures += 1
        start = text.find(prefix, start + 1)
