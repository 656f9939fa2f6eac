"""The state of a conversation in the terminal, which the commands that are typed change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import statuses
from mlx_oss.cli.kept import Keeper
from mlx_oss.cli.wording import in_words
from mlx_oss.errors import MlxOssError, SessionError
from mlx_oss.terminal import one_line

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer


@dataclass
class ChatState:
    """The state of a conversation in the terminal.

    Attributes:
        session: The session that answers.
        printer: Prints the events of a turn, and notices of the commands.
        show_turn: Prints the events of a turn, and a status line after it.
        tools: Keyword arguments of `ChatSession` for its tools, for sessions that are loaded.
        fetch: fetch(name, room) returns the folder of a model, which is downloaded if it is not here and `room`, the
            memory that it may use, is enough. None if the model cannot be changed.
        load: Loads a model and its tokenizer from a folder. None if the model cannot be changed.
        keeper: Keeps the conversation. None if the user does not want that.
        is_over: Set to True to leave the conversation.
    """

    session: ChatSession
    printer: Printer
    show_turn: Callable[[Iterable[Event]], None]
    tools: dict[str, Any] = field(default_factory=dict)
    fetch: Callable[[str, int | None], Path] | None = None
    load: Callable[[str], tuple[Engine, Tokenizer]] | None = None
    keeper: Keeper | None = None
    is_over: bool = False

    def notice(self, text: str) -> None:
        """Prints a message of the program."""
        self.printer.notice(text)

    def error(self, error: MlxOssError, remedy: str = "") -> None:
        """Prints an error, as one line, or with `--json` as JSON."""
        from mlx_oss.cli.printers import JsonPrinter

        message = in_words(str(error), dashes=False) + remedy
        if isinstance(self.printer, JsonPrinter):
            statuses.tell(message, statuses.status_of(error), kind=type(error).__name__, as_json=True)
        else:
            self.notice(one_line(f"error: {message}"))

    def keep(self) -> None:
        """Writes the conversation as it is now. If that fails, says so once, and no longer tries."""
        if self.keeper is not None:
            try:
                self.keeper.keep(self.session)
            except SessionError as error:
                self.keeper = None
                self.error(error)
