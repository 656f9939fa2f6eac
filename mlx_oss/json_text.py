"""Reads JSON that a model wrote. It may hold halves of surrogate pairs, which no file, terminal or tokenizer takes."""

from __future__ import annotations

import json
import math
from typing import Any


def whole_characters(text: str) -> str:
    """The text, with question marks for halves of surrogate pairs."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def loads(text: str, *, is_strict: bool = False) -> Any:
    """`json.loads`, with question marks for halves of surrogate pairs in texts and keys.

    Args:
        text: The JSON.
        is_strict: Whether NaN and infinite numbers are refused, which JSON cannot write.

    Raises:
        ValueError: If the text is not JSON.
        RecursionError: If it is nested too deeply.
    """
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite) if is_strict else json.loads(text)
    return json.loads(whole_characters(json.dumps(value, ensure_ascii=False))) if "\\u" in text else value


def _refuse(name: str) -> Any:
    raise ValueError(f"it has the number {name}")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse(text[:20])


def whole(text: str) -> str:
    """JSON with question marks for halves of surrogate pairs; what is not JSON stays as it is."""
    try:
        return json.dumps(loads(text), ensure_ascii=False) if "\\u" in text else text
    except (ValueError, RecursionError):
        return text
