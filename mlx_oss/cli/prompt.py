"""Reads the line a user types, with prompt_toolkit: history, several lines, completion of commands."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlx_oss.distributed import is_launched
from mlx_oss.terminal import wants_plain

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.input import Input


def make_reader(commands: Sequence[str], *, keep_history: bool = True) -> Callable[[], str]:
    """Creates a function that reads a question. It raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D.

    A terminal without escape sequences uses Python's `input`. On other terminals, Enter sends the question. Ctrl-J
    starts a new line, and so does Esc followed by Enter. Pasted lines stay together, and questions are saved for later
    conversations.

    Args:
        commands: Names of the commands to complete, without the slash.
        keep_history: Whether questions are saved.
    """
    if wants_plain() or is_launched():  # mlx.launch hands on what is typed line by line
        return _read_plain_line
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    from mlx_oss.cli.completion_words import Words

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("c-j")
    @keys.add("escape", "enter")  # also Alt-Enter, where the terminal sends Esc for Alt
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    # If stdout is redirected, only the answers go there.
    output = create_output(sys.stdout if sys.stdout.isatty() else sys.stderr)
    session: PromptSession[str] = PromptSession(
        history=_history(keep_history),
        completer=Words(commands),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="  ",
        output=output,
    )

    def read() -> str:
        _take_keys_typed_ahead(session.app.input)
        question = session.prompt("> ")
        if _take_keys_typed_ahead(session.app.input):  # Ctrl-D just after Enter
            raise EOFError
        return question

    return read


def _take_keys_typed_ahead(source: Input) -> bool:
    """Hands keys typed before the prompt to it. Returns whether Ctrl-D is among them.

    Before the prompt, the terminal turns Enter (carriage return) into a newline, which is what Ctrl-J sends during the
    prompt. So a newline that has been waiting is an Enter. A Ctrl-D that has been waiting is a null character on Linux.
    """
    from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
    from prompt_toolkit.key_binding.key_processor import KeyPress
    from prompt_toolkit.keys import Keys

    meant: dict[Keys | str, KeyPress] = {
        Keys.ControlJ: KeyPress(Keys.ControlM, "\r"),
        Keys.ControlAt: KeyPress(Keys.ControlD, "\x04"),
    }
    keys = get_typeahead(source)
    with source.raw_mode():
        while select.select([source.fileno()], [], [], 0)[0] and (pressed := source.read_keys()):
            keys += [meant.get(key.key, key) for key in pressed]
    store_typeahead(source, keys)
    return any(key.key is Keys.ControlD for key in keys)


def _read_plain_line() -> str:
    sys.stderr.write("> ")
    sys.stderr.flush()
    return input()


def _history(keep: bool) -> History:
    """The history of prompts: a file in the user's state folder, readable by the user only; in memory if that fails."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    from mlx_oss.files import TEXT_BYTES, check_regular
    from mlx_oss.folders import state_folder

    folder = state_folder()
    if folder is None or not keep:
        return InMemoryHistory()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "history"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            check_regular(path, status)
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        return FileHistory(path) if status.st_size <= TEXT_BYTES else InMemoryHistory()
    except OSError:
        return InMemoryHistory()
