"""Reads the line a user types, with prompt_toolkit: history, several lines, completion of commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlx_oss.cli.sanitize import wants_plain

if TYPE_CHECKING:
    from prompt_toolkit.history import History


def make_reader(commands: Sequence[str]) -> Callable[[], str]:
    """Creates a function that reads a question. It raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D.

    A terminal without escape sequences uses Python's `input`. On other terminals, Enter sends the question, Alt-Enter
    starts a new line, pasted lines stay together, and questions are saved for later conversations.

    Args:
        commands: Names of the commands to complete, without the slash.
    """
    if wants_plain():
        return _read_plain_line
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

    # If stdout is redirected, only the answers go there.
    output = create_output(sys.stdout if sys.stdout.isatty() else sys.stderr)
    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        output=output,
    )
    return lambda: session.prompt("> ")


def _read_plain_line() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def _history() -> History:
    """The history of prompts: a file in the user's state folder, readable by the user only; in memory if that fails."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    from mlx_oss.folders import state_folder

    folder = state_folder()
    if folder is None:
        return InMemoryHistory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "history"
        path.touch(mode=0o600)
        path.open("a").close()  # is it writable?
        return FileHistory(path)
    except OSError:
        return InMemoryHistory()
