"""What happens in a research, a line of text for each line of its trace. Knows nothing of where it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlx_oss.terminal import one_line

_CITATION = re.compile(r"\s*【[^】]*】")  # in a note they have the numbers of its round
_LONGEST = 200  # characters of a text in a line


def described(line: Mapping[str, Any]) -> str | None:
    """Says what a line of the trace tells, in one line that is safe to print. None if it is of no interest.

    Args:
        line: The line, as `Research` and `replay` give it to `progress`.
    """
    number = line.get("look")
    round_ = f"round {number + 1}: " if isinstance(number, int) else ""
    said = _said(line)
    return None if said is None else one_line(round_ + said)


def _said(line: Mapping[str, Any]) -> str | None:
    match line.get("event"):
        case "begin":
            return f"question: {_short(line.get('question'))}"
        case "plan" | "gaps" as event:
            questions = line.get("questions")
            listed = "; ".join(map(_short, questions)) if isinstance(questions, list) else ""
            return f"plan: {listed}" if event == "plan" else f"still open: {listed or 'nothing'}"
        case "look":
            return _short(line.get("question"))
        case "call":
            return _called(line)
        case "read":
            return None if line.get("is_list") is True else _read(line)
        case "error":
            return f"{line.get('tool')} failed: {_short(line.get('text'))}"
        case "note":
            return f"note: {_short(_CITATION.sub('', str(line.get('text')))) or 'nothing'}"
        case "stopped":
            return f"ended early: {_short(line.get('reason'))}"
        case "report":
            return "the report is written"
    return None


def _called(line: Mapping[str, Any]) -> str:
    tool, text = str(line.get("tool")).removeprefix("browser."), str(line.get("text"))
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return f"{tool} {_short(text)}"
    if tool == "search" and "query" in arguments:
        return f"searches: {_short(arguments['query'])}"
    if tool == "find" and "pattern" in arguments:
        return f"looks for: {_short(arguments['pattern'])}"
    return f"{tool} " + ", ".join(f"{_short(name)} {_short(value)}" for name, value in arguments.items())


def _read(line: Mapping[str, Any]) -> str:
    lines, first = line.get("lines"), line.get("first")
    count = len(lines) if isinstance(lines, list) else 0
    last = first + count - 1 if isinstance(first, int) else "?"
    return f"reads {_short(line.get('title'))} ({_short(line.get('source'))}), lines {first} to {last}"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
