"""Text of a model made safe for a terminal: it can draw nothing but characters."""

from __future__ import annotations

import os

# C0 and C1 control characters, but for newline and tab, and DEL: a terminal could take them for commands.
_SHOWN: dict[int, str] = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}
_SHOWN |= {ord("\r"): ""}  # of a line end in the manner of Windows


def safe(text: str) -> str:
    """The text with control characters replaced by a visible one, so that it cannot move the cursor, write the
    clipboard or rename the window.
    """
    return text.translate(_SHOWN)


def wants_plain() -> bool:
    """Whether the terminal is to get no escape sequences: NO_COLOR is set, or it is a dumb one."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
