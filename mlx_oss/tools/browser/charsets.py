"""Decodes texts in the encoding that a byte order mark, the server, or a declaration in the text names.

The names of encodings are those that browsers know. Knows nothing of where texts come from.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal

import webencodings

from mlx_oss.tools.browser.text import Check, nothing

_PIECE = 1 << 16  # bytes; what cannot be decoded takes long
_HEAD = 4096  # bytes, in which an encoding is declared
_MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_AT_ITS_BEGINNING = rb"""\A\s*+<\?xml\s[^>]*?encoding\s*=\s*["']([\w.:-]+)|\A@charset\s+["']([\w.:-]+)"""
_META = rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([\w.:-]+)"""
_COMMENT_OF_A_PROGRAM = rb"\A(?:[^\n]*\n)?[ \t]*#[^\n]*?coding[:=][ \t]*([\w.-]+)"

Kind = Literal["html", "program", "text"]

# A note about HTML, or about encodings, has such declarations in it that are not its own.
_DECLARED = {
    kind: re.compile(b"|".join((_AT_ITS_BEGINNING, *more)), re.IGNORECASE)
    for kind, more in {"html": [_META], "program": [_COMMENT_OF_A_PROGRAM], "text": []}.items()
}


def decode(
    data: bytes, declared: str | None = None, *, kind: Kind = "text", is_cut: bool = False, check: Check = nothing
) -> str:
    """Decodes a text. What cannot be decoded becomes �, and then a sentence before the text says so.

    Args:
        data: The text.
        declared: The encoding that the server names, if any.
        kind: What the text is, which says where in it an encoding may be declared.
        is_cut: Whether the text goes on after `data`, so that its last character may be incomplete.
        check: Is called now and then; what it raises ends the work.
    """
    encoding, start = _encoding(data, declared, kind)
    name = encoding or "utf-8"
    try:
        return _decoded(data, start, name, "strict", is_cut, check)
    except UnicodeError:
        text = _decoded(data, start, name, "replace", is_cut, check)
        if encoding:
            reason = f"Some characters of this text are not in its encoding, {encoding}, and are shown as �."
        else:
            reason = (
                "This text does not say in which encoding it is, and it is not in UTF-8: � stands for what is lost."
            )
        return f"({reason})\n\n{text}"


def _encoding(data: bytes, declared: str | None, kind: Kind) -> tuple[str, int]:
    """The encoding, "" if none is named, and where the text begins."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name, len(mark)
    if name := _known(declared or ""):
        return name, 0
    if name := _wide(data[:_HEAD]):
        return name, 0
    found = _DECLARED[kind].search(_COMMENT.sub(b"", data[:_HEAD]))
    name = _known(next(filter(None, found.groups())).decode("ascii", "replace")) if found else ""
    # Who can read the declaration as ASCII does not read UTF-16.
    return "utf-8" if name.startswith("utf-16") else name, 0


def _wide(head: bytes) -> str:
    """The form of UTF-16 that a text without a mark seems to be in, as every other byte is zero; "" if none."""
    count = len(head) // 2
    low, high = head[: 2 * count : 2].count(0), head[1 : 2 * count : 2].count(0)
    if count < 2 or min(low, high) > count / 20 or max(low, high) < count / 2:
        return ""
    return "utf-16-le" if high > low else "utf-16-be"


def _known(label: str) -> str:
    """Python's name of the encoding with this label; "" if there is none."""
    label = label[:40].encode("ascii", "replace").decode()
    spellings = label, label.replace("_", "-"), label.replace("-", "")  # programs say latin_1 or latin-1
    encoding = next(filter(None, map(webencodings.lookup, spellings)), None)
    if encoding is None or encoding.name in ("replacement", "x-user-defined"):  # none in which a text could be read
        return ""
    return "gb18030" if encoding.name == "gbk" else str(encoding.codec_info.name)  # has all of GBK, and more


def _decoded(data: bytes, start: int, name: str, errors: str, is_cut: bool, check: Check) -> str:
    decoder = codecs.getincrementaldecoder(name)(errors)
    parts = []
    for at in range(start, len(data), _PIECE):
        check()
        parts.append(decoder.decode(data[at : at + _PIECE]))
    if not is_cut:
        parts.append(decoder.decode(b"", final=True))
    return "".join(parts)
