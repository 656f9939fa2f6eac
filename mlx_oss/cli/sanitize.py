"""Makes text from a model safe for a terminal: it can print characters, but send no commands."""

from __future__ import annotations

import os
import unicodedata

# C0 and C1 control characters and DEL, except newline and tab: a terminal could interpret them as commands.
_REPLACEMENTS: dict[int, str] = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_REPLACEMENTS |= {ord("\r"): "\N{SYMBOL FOR CARRIAGE RETURN}"}  # Python and other programs read it as the end of a line
_INVISIBLE = ("Cf", "Cs", "Zl", "Zp")  # categories of invisible characters, and of those that reorder others


def sanitize(text: str) -> str:
    """Replaces control characters by a visible one.

    The text then cannot move the cursor, write to the clipboard or rename the window.
    """
    return text.replace("\r\n", "\n").translate(_REPLACEMENTS)


def text_for_review(text: str) -> str:
    """Sanitizes text that the user has to judge: invisible and reordering characters are replaced by a visible one."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _INVISIBLE else character
        for character in sanitize(text)
    )


def wants_plain() -> bool:
    """True if the terminal should get no escape sequences: NO_COLOR is set, or TERM is unset or "dumb"."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
