"""What a server says of its tools, made fit to be read by the model: names, descriptions, schemas.

A server may be anybody's. Names become names that a message header can have, each once; texts lose what is invisible
and what spells control tokens, and are cut; a schema that cannot be rendered, or is too long, becomes a simpler one.
Knows nothing of how servers are asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.harmony.header import ROLES
from mlx_oss.harmony.schemas import simplified
from mlx_oss.harmony.typescript import compact_json, type_of

MOST_TOOLS = 1000
_LONGEST_NAME = 64
_LONGEST_TEXT, _LONGEST_NOTE = 1500, 400  # characters of a description, and of one in a schema
_LONGEST_SCHEMA = 6000  # characters of JSON
_DEEPEST, _MOST_ENTRIES = 12, 100  # levels of a schema; entries of one object or list
RESERVED = (*ROLES, "all", "functions")
_CONTROL = re.compile(r"<\|[^|<>]{0,40}\|>")
_ANYTHING: Mapping[str, Any] = {"type": "object", "additionalProperties": True}


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server offers.

    Attributes:
        namespace: As the model reads it.
        originals: By the name that the model reads: the server's own name for the tool.
    """

    namespace: ToolNamespace
    originals: Mapping[str, str]


def listing(name: str, instructions: str | None, tools: Iterable[Any]) -> Listing:
    """Makes the namespace of a server.

    Args:
        name: Its name.
        instructions: What the server says of itself.
        tools: Its tools, as the SDK describes them.
    """
    originals: dict[str, str] = {}
    described = []
    for tool in tools:
        if len(originals) == MOST_TOOLS:
            break
        fit = _unique(fit_name(tool.name) or "tool", originals)
        originals[fit] = tool.name
        text = fit_text(tool.description or tool.title or "", _LONGEST_TEXT)
        described.append(ToolDescription(fit, text, _schema(tool.input_schema)))
    about = fit_text(instructions or "", _LONGEST_TEXT) or None
    return Listing(ToolNamespace(name, about, tuple(described)), originals)


def fit_name(name: str) -> str:
    """A name in letters, digits, _ and -, without those at its ends; "" if nothing is left."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name[: 4 * _LONGEST_NAME]).strip("_-")[:_LONGEST_NAME]


def name_of_server(said: str) -> str:
    """The namespace of a server that nobody has named, from what it calls itself."""
    name = fit_name(said)
    return f"mcp_{name}".rstrip("_") if not name or name in RESERVED or name[0].isdigit() else name


def fit_text(text: str, longest: int) -> str:
    """A text without invisible characters and spelled control tokens, cut at a length."""
    text = text[: 4 * longest].replace("\r\n", "\n")
    text = "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter)[0] != "C")
    text = _CONTROL.sub("", text).strip()
    return text if len(text) <= longest else text[:longest].rstrip() + " ..."


def _unique(name: str, taken: Mapping[str, str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name[: _LONGEST_NAME - 5]}_{number}", number + 1
    return found


def _schema(schema: Any) -> Mapping[str, Any] | None:
    """The schema of a tool's arguments as the model reads it; None if it takes none."""
    if not isinstance(schema, Mapping):
        return _ANYTHING
    if not schema.get("properties") and schema.keys() <= {"type", "properties", "title", "$schema", "required"}:
        return None
    try:
        tidy = {**_tidied(schema, _LONGEST_NOTE), "type": "object"}
        if len(compact_json(tidy)) > _LONGEST_SCHEMA:
            tidy = {**_tidied(schema, 0), "type": "object"}
        if len(compact_json(tidy)) > _LONGEST_SCHEMA:
            tidy = _outline(schema)
        type_of(simplified(tidy))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return _ANYTHING
    return tidy


def _tidied(value: Any, longest: int, depth: int = 0) -> Any:
    """A schema, or a part of it, with texts and numbers of entries that are bounded."""
    if depth > 2 * _DEEPEST:
        return {}
    if isinstance(value, Mapping):
        entries = list(value.items())[:_MOST_ENTRIES]
        notes = ("description", "title") if not longest and isinstance(value.get("type"), str | list) else ()
        return {key: _tidied(entry, longest, depth + 1) for key, entry in entries if key not in notes}
    if isinstance(value, list):
        return [_tidied(entry, longest, depth + 1) for entry in value[:_MOST_ENTRIES]]
    return fit_text(value, longest or _LONGEST_NOTE) if isinstance(value, str) else value


def _outline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Only the names of the arguments, and which of them are needed."""
    given, required = schema.get("properties"), schema.get("required")
    names = [name for name in given if len(name) <= _LONGEST_NAME][:_MOST_ENTRIES] if isinstance(given, Mapping) else []
    needed = [name for name in names if isinstance(required, list) and name in required]
    return {"type": "object", "properties": {name: {} for name in names}, "required": needed}
