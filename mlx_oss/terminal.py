"""Makes text from elsewhere safe for a terminal, and writes the program's own messages.

What a model writes, and what a file is called or contains, can print characters, but send no commands. Every message of
the program (errors, warnings, notices, reports) is written by `say` or `report`. Knows nothing of what the texts are.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from mlx_oss.errors import shortened

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


def one_line(text: str) -> str:
    """A message as one line that is safe to print, so that a name in it cannot look like a second message."""
    return text_for_review(text).replace("\n", "\N{SYMBOL FOR NEWLINE}")


def say(text: str) -> None:
    """Writes a message of the program to stderr, as a line of its own; on a terminal it breaks between words."""
    sys.stderr.write(f"{wrapped(text_for_review(text), width_of(sys.stderr))}\n")
    sys.stderr.flush()


def report(text: str) -> None:
    """Writes what a command was asked for to stdout, as `say` does to stderr."""
    sys.stdout.write(f"{wrapped(text_for_review(text), width_of(sys.stdout))}\n")


def width_of(stream: TextIO) -> int | None:
    """The columns of the terminal that a stream writes to. None if it is none, or does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None if stream.isatty() else None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int | None) -> str:
    """The text with line breaks between words, so that each line has at most `width` columns.

    A line that continues has the indentation of its beginning. A word that is longer than a line, such as a path, stays
    whole, so that it can be copied. None for the width changes nothing.
    """
    if width is None or max(map(len, text.split("\n"))) * 2 <= width:
        return text
    return "\n".join(line for long in text.split("\n") for line in _wrapped_line(long, width))


def _wrapped_line(line: str, width: int) -> Iterator[str]:
    from rich.cells import cell_len

    if cell_len(line) <= width:
        yield line
        return
    words = line.split(" ")
    indentation = next((number for number, word in enumerate(words) if word), 0)
    begun = " " * indentation + "".join(words[indentation : indentation + 1])
    for word in words[indentation + 1 :]:
        if cell_len(begun) + 1 + cell_len(word) <= width:
            begun += f" {word}"
        else:
            yield begun
            begun = " " * indentation + word
    yield begun


def say_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Like `sys.excepthook`, but what the error says sends no commands to the terminal."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def show_safely() -> None:
    """Makes everything harmless that Python writes to stderr for this program: warnings, log lines, and tracebacks."""
    warnings.showwarning = _show_warning
    sys.excepthook = say_exception
    log = logging.getLogger("mlx_oss")
    if not any(isinstance(handler, _LogHandler) for handler in log.handlers):
        log.addHandler(_LogHandler(logging.WARNING))


def show_log(name: str) -> None:
    """Also writes to stderr what a logger tells that is no warning, with the time."""
    log = logging.getLogger(name)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(_TimedHandler())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(one_line(f"warning: {shortened(str(message))}"))


class _LogHandler(logging.Handler):
    """Writes what the library logs, as Python would without a handler, but safe for a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        say(one_line(shortened(record.getMessage())))


class _TimedHandler(logging.Handler):
    """Writes lines with the time, and the traceback of a bug below its line."""

    def emit(self, record: logging.LogRecord) -> None:
        say(one_line(f"{time.strftime('%H:%M:%S')} {record.getMessage()}"))
        if record.exc_info:
            say("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))


def wants_plain() -> bool:
    """True if the terminal should get no escape sequences: NO_COLOR is set, or TERM is unset or "dumb"."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
