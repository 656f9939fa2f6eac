"""Text of a model made safe for a terminal: it can draw nothing but characters."""

from __future__ import annotations

import os
import unicodedata

# C0 and C1 control characters, but for newline and tab, and DEL: a terminal could take them for commands.
_SHOWN: dict[int, str] = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_SHOWN |= {ord("\r"): "\N{SYMBOL FOR CARRIAGE RETURN}"}  # Python and others take it for a line end
_UNSEEN = ("Cf", "Cs", "Zl", "Zp")  # categories of characters that have no shape, or change the order of others


def sanitize(text: str) -> str:
    """The text with control characters replaced by a visible one, so that it cannot move the cursor, write the
    clipboard or rename the window.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def plain(text: str) -> str:
    """The text for a user who is to judge it: safe, and nothing in it is unseen or changes the order of the rest."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) in _UNSEEN else character
        for character in sanitize(text)
    )


def wants_plain() -> bool:
    """Whether the terminal is to get no escape sequences: NO_COLOR is set, or it is a dumb one."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
