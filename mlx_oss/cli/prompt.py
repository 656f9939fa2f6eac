"""The line a user types in: history, several lines, completion of commands; prompt_toolkit does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.cli.sanitize import wants_plain

if TYPE_CHECKING:
    from prompt_toolkit.history import History


def reader(commands: Sequence[str]) -> Callable[[], str]:
    """A function that reads a question; it raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D.

    A plain terminal gets Python's own `input`. Elsewhere Enter sends, Alt-Enter starts a new line, pasted lines stay
    together, and questions are kept for the next conversation.
    """
    if wants_plain():
        return _plain
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),  # a file gets answers only
    )
    return lambda: session.prompt("> ")


def _plain() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def _history() -> History:
    """In the user's state folder (XDG Base Directory Specification), for his eyes only; in memory if that fails."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mlx-oss"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "history"
        path.touch(mode=0o600)
        path.open("a").close()  # is it writable?
        return FileHistory(path)
    except (OSError, RuntimeError):  # the second: there is no home folder
        return InMemoryHistory()
