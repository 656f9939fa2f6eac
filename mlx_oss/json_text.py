"""Reads JSON that a model wrote. It may hold halves of surrogate pairs, which no file, terminal or tokenizer takes."""

from __future__ import annotations

import json
from typing import Any


def whole_characters(text: str) -> str:
    """The text, with question marks for halves of surrogate pairs."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def loads(text: str) -> Any:
    """`json.loads`, with question marks for halves of surrogate pairs in texts and keys.

    Raises:
        ValueError: If the text is not JSON.
        RecursionError: If it is nested too deeply.
    """
    value = json.loads(text)
    return json.loads(whole_characters(json.dumps(value, ensure_ascii=False))) if "\\u" in text else value


def whole(text: str) -> str:
    """JSON with question marks for halves of surrogate pairs; what is not JSON stays as it is."""
    try:
        return json.dumps(loads(text), ensure_ascii=False) if "\\u" in text else text
    except (ValueError, RecursionError):
        return text
