"""What a docstring says of a function and of its arguments: Google's, NumPy's and Sphinx's styles.

Knows nothing of types.
"""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"(Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?):?\s*$")
_OF_ARGUMENTS = ("Args", "Arguments", "Parameters", "Attributes")
_GOOGLE = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?:(?:\s+(.*)|$)")
_NUMPY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_SPHINX = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:]*\s)?(\w+):\s*(.*)")


def parse(docstring: str | None) -> tuple[str, dict[str, str]]:
    """What it says outside of its sections, and of each argument.

    A section with a colon is what is indented below it, one that is underlined goes on to the next of these.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    summary: list[str] = []
    arguments: dict[str, str] = {}
    at, numpy = 0, False
    while at < len(lines):
        line, end = lines[at], at + 1
        name = line.strip().rstrip(":")
        if _is_underlined(lines, at) and (numpy or _SECTION.match(line)):
            numpy, end = True, at + 2
            while end < len(lines) and not _is_underlined(lines, end):
                end += 1
            arguments |= _entries(lines[at + 2 : end], _NUMPY) if name in _OF_ARGUMENTS else {}
        elif line.startswith(":") or (_SECTION.match(line) and line.rstrip().endswith(":")):
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
                end += 1
            body = lines[at + 1 : end]
            if match := _SPHINX.match(line):
                arguments[match[1]] = _joined([match[2], *body])
            elif name in _OF_ARGUMENTS:
                arguments |= _entries(inspect.cleandoc("\n" + "\n".join(body)).splitlines(), _GOOGLE)
        else:
            summary.append(line)
        at = end
    return re.sub(r"\n{3,}", "\n\n", "\n".join(summary)).strip(), arguments


def _is_underlined(lines: list[str], at: int) -> bool:
    return bool(lines[at].strip()) and at + 1 < len(lines) and set(lines[at + 1].strip()) == {"-"}


def _entries(lines: list[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Of each name, or of several with commas between them, its text; what is deeper goes on with it."""
    entries: dict[str, list[str]] = {}
    text: list[str] = []
    for line in lines:
        if not line.startswith(" ") and (match := pattern.match(line)):
            text = list(filter(None, match.groups()[1:]))
            entries |= {name.strip(" *"): text for name in match[1].split(",")}
        else:
            text.append(line)
    return {name: _joined(text) for name, text in entries.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
