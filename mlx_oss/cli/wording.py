"""What the library's errors say in the words of the command line: options as they are typed, and nothing of Python.

Knows nothing of commands and sessions.
"""

from __future__ import annotations

import re

_OPTIONS = {  # by the library's name; the others are called alike
    "context_limit": "context",
    "lengths": "prompt",
    "reasoning_effort": "reasoning",
}
_NAMES = (
    "temperature top_p top_k min_p repetition_penalty seed max_tokens max_reasoning_tokens context context_limit chunk "
    "memory reasoning_effort response_format tokens repeats lengths"
).split()
_NAMED = re.compile(rf"^({'|'.join(_NAMES)})(?= is |: )")
_PYTHON = [
    (re.compile(r",? or None\b"), ""),
    (re.compile(r"\btemperature=0\b"), "temperature 0"),
    (re.compile(r"\bisolation=\"limits\""), "python=limits"),
    (re.compile(r": `text_only=True` [^;]*"), ": `/load FILE` in a conversation takes what can be read"),
    (re.compile(r" \(a dict\)"), ""),
    (re.compile(r"\ban integer\b"), "a whole number"),
]


def in_words(message: str, *, dashes: bool = True) -> str:
    """The message of an error, for somebody who types commands.

    Args:
        message: The message.
        dashes: Whether options are called as on the command line, `--top-p`, or as in a conversation, `top-p`.
    """
    for pattern, words in _PYTHON:
        message = pattern.sub(words, message)

    def option(name: re.Match[str]) -> str:
        return ("--" if dashes else "") + _OPTIONS.get(name[1], name[1]).replace("_", "-")

    return _NAMED.sub(option, message)
