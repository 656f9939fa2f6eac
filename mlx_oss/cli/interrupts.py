"""Handles what reaches a conversation in a terminal from outside: Ctrl-C, SIGTERM, and keys typed during an answer."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

try:
    import termios
except ImportError:  # not a POSIX system
    termios = None  # type: ignore[assignment]


@contextmanager
def interruptible(cancel: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the context, the first Ctrl-C calls `cancel`, and a second one raises KeyboardInterrupt.

    With `cancel`, an answer stops between two tokens. Yields a function that returns whether Ctrl-C was pressed.
    """
    presses = 0

    def handle_interrupt(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            raise KeyboardInterrupt
        cancel()

    previous = signal.signal(signal.SIGINT, handle_interrupt)
    try:
        yield lambda: presses > 0
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Within the context, SIGTERM raises SystemExit. However the context ends, the terminal is as it was before.

    SystemExit alone does not ensure that: the signal can arrive while the prompt is changing the terminal's modes.
    """

    def exit_program(number: int, frame: object) -> None:
        sys.exit(128 + number)

    modes = _terminal_modes()
    previous = signal.signal(signal.SIGTERM, exit_program)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if modes is not None:
            _set_terminal_modes(modes)


@contextmanager
def echo_disabled() -> Iterator[None]:
    """Within the context, the terminal does not show typed keys, which would appear in the middle of the answer.

    They are kept for the next prompt.
    """
    try:
        _set_echo(False)
        yield
    finally:
        _set_echo(True)


@contextmanager
def asking_user() -> Iterator[None]:
    """Context for a question to the user in the middle of an answer of the model.

    Keys typed before the question are discarded, so that they do not answer it. Keys typed now are shown, and Ctrl-C
    raises KeyboardInterrupt at once.
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
    """Turns the echo of typed keys on or off."""
    modes = _terminal_modes()
    if modes is not None:
        modes[3] = modes[3] | termios.ECHO if on else modes[3] & ~termios.ECHO
        _set_terminal_modes(modes)


def _terminal_modes() -> list[Any] | None:
    """The modes of the terminal that is stdin.

    None if stdin is not a terminal, or if this process is not in its foreground: changing the terminal from the
    background would stop the process.
    """
    if termios is None or not sys.stdin or not sys.stdin.isatty():
        return None
    # Errors: the terminal is gone, or does not control this process.
    with suppress(OSError, termios.error, io.UnsupportedOperation):
        terminal = sys.stdin.fileno()
        if os.tcgetpgrp(terminal) == os.getpgrp():
            return termios.tcgetattr(terminal)
    return None


def _set_terminal_modes(modes: list[Any]) -> None:
    """Does nothing if stdin is no longer a terminal in whose foreground this process is."""
    if _terminal_modes() is not None:
        with suppress(OSError, termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, modes)
