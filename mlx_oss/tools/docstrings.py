"""What a docstring says of a function and of its arguments: Google's, NumPy's and Sphinx's styles.

Knows nothing of types.
"""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"(Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?):?\s*$")
_OF_ARGUMENTS = ("Args", "Arguments", "Parameters", "Attributes")
_GOOGLE = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s+(.*)")
_NUMPY = re.compile(r"\*{0,2}(\w+)\s*(?::.*)?$")
_SPHINX = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:]*\s)?(\w+):\s*(.*)")


def parse(docstring: str | None) -> tuple[str, dict[str, str]]:
    """What it says before its sections, and of each argument."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    starts = [at for at, line in enumerate(lines) if _is_heading(lines, at) or line.startswith(":")]
    ends = [*starts[1:], len(lines)][: len(starts)]
    summary = "\n".join(lines[: (starts or [len(lines)])[0]]).strip()
    arguments: dict[str, str] = {}
    for start, end in zip(starts, ends, strict=True):
        heading, body = lines[start], lines[start + 1 : end]
        if match := _SPHINX.match(heading):
            arguments[match[1]] = _joined([match[2], *body])
        elif heading.strip().rstrip(":") in _OF_ARGUMENTS:
            arguments |= _numpy(body[1:]) if body and set(body[0].strip()) == {"-"} else _google(body)
    return summary, arguments


def _is_heading(lines: list[str], at: int) -> bool:
    """A name with a colon, or underlined."""
    underlined = at + 1 < len(lines) and set(lines[at + 1].strip()) == {"-"}
    return bool(_SECTION.match(lines[at])) and (lines[at].rstrip().endswith(":") or underlined)


def _google(lines: list[str]) -> dict[str, str]:
    """`name (type): text`, all equally deep; what is deeper goes on with the text."""
    lines = inspect.cleandoc("\n" + "\n".join(lines)).splitlines()
    return _entries(lines, _GOOGLE)


def _numpy(lines: list[str]) -> dict[str, str]:
    """`name : type`, and below it, deeper, the text."""
    return _entries(lines, _NUMPY)


def _entries(lines: list[str], pattern: re.Pattern[str]) -> dict[str, str]:
    entries: dict[str, list[str]] = {}
    text: list[str] = []
    for line in lines:
        if not line.startswith(" ") and (match := pattern.match(line)):
            text = entries[match[1]] = list(match.groups()[1:])
        else:
            text.append(line)
    return {name: _joined(text) for name, text in entries.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
