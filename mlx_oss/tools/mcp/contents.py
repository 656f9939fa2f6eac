"""What a server answers to a call: as text for the model, and as attachments for the app.

The model reads text alone: of an image or a sound it is told that there is one. Knows nothing of servers and calls.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from mlx_oss.events import Attachment
from mlx_oss.json_text import whole_characters
from mlx_oss.tools.results import WithAttachments

_MOST_ATTACHMENTS = 32
_LONGEST_NAME = 200  # characters of an address, a name or a type


def read(result: Any, longest: int) -> WithAttachments:
    """The result of a call.

    Args:
        result: As the SDK has it.
        longest: How many characters the text may have; from the middle of a longer one something is left out.
    """
    reader = _Reader()
    texts = [text for block in result.content if (text := reader.text_of(block))]
    structured = result.structured_content
    if structured is not None and not _says(texts, structured):
        texts.append(json.dumps(structured, ensure_ascii=False, default=str))
    whole = whole_characters("\n".join(texts)) or "(the result is empty)"
    return WithAttachments(_cut(whole, longest), tuple(reader.attachments))


class _Reader:
    def __init__(self) -> None:
        self.attachments: list[Attachment] = []

    def text_of(self, block: Any) -> str:
        """What the model reads of a block."""
        match block.type:
            case "text":
                return str(block.text)
            case "image" | "audio":
                return self._attached("an image" if block.type == "image" else "a sound", block.data, block.mime_type)
            case "resource_link":
                about = [block.title or block.name, block.mime_type, block.description]
                told = ", ".join(_short(part) for part in about if part)
                return f"(a link to {_short(str(block.uri))}: {told})"
            case "resource":
                inner, address = block.resource, _short(str(block.resource.uri))
                if getattr(inner, "text", None) is not None:
                    return f"({address})\n{inner.text}"
                return self._attached(f"the file {address}", inner.blob, inner.mime_type or "", address)
        return f"(something of the type {_short(str(block.type))}, which cannot be read)"

    def _attached(self, what: str, data: str, media_type: str, name: str = "") -> str:
        kind = _short(media_type) or "application/octet-stream"
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            return f"({what}, {kind}, which is damaged)"
        if len(self.attachments) == _MOST_ATTACHMENTS:
            return f"({what}, {kind}, one of too many)"
        self.attachments.append(Attachment(kind, content, name))
        return f"({what}, {kind}, {len(content):,} bytes, which you cannot see; the user can)"


def _says(texts: list[str], structured: Any) -> bool:
    """Whether the texts say the same as the structured result: servers give both, for clients that read only one."""
    values = [structured]
    if isinstance(structured, dict) and len(structured) == 1:  # the text, or the value that it says, under any name
        values += structured.values()
    if texts and "\n".join(texts) in values:
        return True
    for whole in ("\n".join(texts), "[" + ",".join(texts) + "]"):
        try:
            if json.loads(whole) in values:
                return True
        except (ValueError, RecursionError):
            continue
    return False


def _short(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * _LONGEST_NAME]).strip()
    return text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + " ..."


def _cut(text: str, longest: int) -> str:
    """A text of about so many characters, which says how many of a longer one are left out."""
    if len(text) <= longest:
        return text
    end = longest // 4
    note = f"\n[... {len(text) - longest:,} characters are left out here: ask for less of it ...]\n"
    return text[: longest - end] + note + text[-end:]
