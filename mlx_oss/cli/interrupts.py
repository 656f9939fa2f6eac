"""What reaches a conversation in a terminal from outside: Ctrl-C, Ctrl-D, SIGTERM, and keys typed during an answer."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

try:
    import fcntl
    import termios
except ImportError:  # not a POSIX system
    termios = None  # type: ignore[assignment]

_MOMENT = 0.7  # seconds that what is running gets to end by itself
_CTRL_D = b"\x04"


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

    SystemExit alone does not ensure that: the signal can arrive while the prompt is changing the terminal's modes. And
    it can arrive between two steps of a library that then fails with an error of its own, such as a lock that it holds
    only almost. After a SIGTERM, any error leaves the context as SystemExit.
    """
    status = 0

    def exit_program(number: int, frame: object) -> None:
        nonlocal status
        status = 128 + number
        sys.exit(status)

    modes = _terminal_modes()
    previous = signal.signal(signal.SIGTERM, exit_program)
    try:
        yield
    except Exception:
        if status:
            sys.exit(status)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        if modes is not None:
            _set_terminal_modes(modes)


@contextmanager
def leaving_on_ctrl_d() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Within the context, Ctrl-D ends the program within a second, also while a tool runs or MLX computes.

    The terminal sends SIGQUIT for Ctrl-D, which raises SystemExit. What does not end then is left: the process ends
    without it.

    Yields:
        A context in which Ctrl-D is left to what reads a line.
    """
    modes = _terminal_modes()
    if modes is None:
        yield nullcontext
        return
    usual, off = list(modes[6]), os.fpathconf(sys.stdin.fileno(), "PC_VDISABLE").to_bytes(1, "little")
    leaving = list(usual)
    leaving[termios.VQUIT], leaving[termios.VEOF] = _CTRL_D, off

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        exit_soon(modes)
        sys.exit(0)

    @contextmanager
    def reading() -> Iterator[None]:
        _set_control_characters(usual)
        try:
            yield
        finally:
            _set_control_characters(leaving)
        _leave_if_input_has_ended()

    previous = signal.signal(signal.SIGQUIT, leave)
    try:
        _set_control_characters(leaving)
        _leave_if_input_has_ended()
        yield reading
    finally:
        _set_control_characters(usual)
        signal.signal(signal.SIGQUIT, previous)


def _leave_if_input_has_ended() -> None:
    """Raises SystemExit if Ctrl-D was pressed while the terminal still took it for the end of its input."""
    with suppress(OSError):
        terminal = sys.stdin.fileno()
        if select.select([terminal], [], [], 0)[0] and not any(fcntl.ioctl(terminal, termios.FIONREAD, bytes(4))):
            sys.exit(0)


def exit_soon(modes: list[Any] | None = None) -> None:
    """Ends the process if it has not ended by itself after a moment.

    Args:
        modes: The modes that the terminal gets then. None leaves them.
    """

    def end() -> None:
        time.sleep(_MOMENT)
        with suppress(Exception):
            sys.stdout.flush()
            if modes is not None:
                sys.stderr.write("\n")  # an answer may have stopped within a line
                _set_terminal_modes(modes)
        os._exit(0)

    threading.Thread(target=end, name="mlx-oss exit", daemon=True).start()


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


def _set_control_characters(characters: list[Any]) -> None:
    """Sets which characters the terminal treats as commands, and leaves its other modes as they are."""
    modes = _terminal_modes()
    if modes is not None:
        modes[6] = characters
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
