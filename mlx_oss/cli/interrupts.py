"""What happens to a conversation in a terminal from outside: Ctrl-C, SIGTERM, and keys typed while an answer comes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

try:
    import termios
except ImportError:  # not a POSIX system
    termios = None  # type: ignore[assignment]


@contextmanager
def interruptible(cancel: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C cancels, so that it strikes between two tokens; a second one raises KeyboardInterrupt."""
    hits = 0

    def strike(number: int, frame: object) -> None:
        nonlocal hits
        hits += 1
        if hits > 1:
            raise KeyboardInterrupt
        cancel()

    previous = signal.signal(signal.SIGINT, strike)
    try:
        yield lambda: hits > 0
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def terminable() -> Iterator[None]:
    """While open, SIGTERM ends the program in order, so that the terminal is left as it was found."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def unechoed() -> Iterator[None]:
    """While open, the terminal does not show what is typed, which would stand in the middle of the answer; it is there
    for the next prompt.
    """
    try:
        _set_echo(False)
        yield
    finally:
        _set_echo(True)


@contextmanager
def asking() -> Iterator[None]:
    """While open, in the middle of an answer, the user is asked something: what he typed before does not count as his
    answer, what he types is shown, and Ctrl-C raises KeyboardInterrupt at once.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal = sys.stdin.fileno() if termios is not None and sys.stdin.isatty() else None
    modes = None if terminal is None else termios.tcgetattr(terminal)
    try:
        if terminal is not None:
            termios.tcflush(terminal, termios.TCIFLUSH)
        _set_echo(True)
        yield
    finally:
        if terminal is not None and modes is not None:
            termios.tcsetattr(terminal, termios.TCSANOW, modes)
        signal.signal(signal.SIGINT, previous)


def _set_echo(on: bool) -> None:
    """Does nothing where there is no terminal, or it is another job's: that would stop this one."""
    if termios is None or not sys.stdin or not sys.stdin.isatty():
        return
    with suppress(OSError, termios.error, io.UnsupportedOperation):  # gone, or not the one that controls this process
        terminal = sys.stdin.fileno()
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return
        modes = termios.tcgetattr(terminal)
        modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
