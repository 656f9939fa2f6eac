"""Prints harmony streams and messages: with a colour for each channel on a terminal, elsewhere as exact plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from operator import itemgetter

from rich.console import Console
from rich.text import Text

from mlx_oss.harmony import MessageFinished, MessageStarted, ParsedMessage
from mlx_oss.harmony.parse import HarmonyParser
from mlx_oss.terminal import sanitize
from mlx_oss.tokenizer import CALL, END, RETURN, SPECIAL_TOKENS, load_tokenizer

_BY_CHANNEL = {"analysis": "dim", "commentary": "yellow", "final": "green"}
_BY_ROLE = {"system": "blue", "developer": "blue", "user": "bold", "tool": "magenta"}
_CONTROL = frozenset(SPECIAL_TOKENS.values())


def style_of(role: str, channel: str | None) -> str:
    """Returns the rich style for a message. A known role other than assistant decides; otherwise the channel does."""
    return _BY_ROLE.get(role) or _BY_CHANNEL.get(channel or "", "")


def write_stream(ids: Iterable[int]) -> None:
    """Prints token ids as text, control tokens included. Each message begins on a new line."""
    last_character = "\n"
    for style, pieces in groupby(_styled(ids), itemgetter(0)):
        text = "".join(text for _, text in pieces)
        _write(text, style)
        last_character = text[-1:] or last_character
    if last_character != "\n":
        _write("\n")


def _styled(ids: Iterable[int]) -> Iterator[tuple[str, str]]:
    """Yields pieces of text, each with its style."""
    tokenizer, parser, style = load_tokenizer(), HarmonyParser(None), ""
    decoder = tokenizer.stream_decoder()
    for id_ in ids:
        for event in parser.feed(id_):
            if isinstance(event, MessageStarted):
                style = style_of(event.header.role, event.header.channel)
            elif isinstance(event, MessageFinished):
                style = ""
        yield "cyan" if id_ in _CONTROL else style, decoder.feed(id_)
        if id_ in (END, CALL, RETURN):
            yield "", "\n"
    yield style, decoder.finish()


def write_message(parsed: ParsedMessage) -> None:
    """Prints one message: a line with its fields, a line for each repair, and its text."""
    message = parsed.message
    fields = [message.name or message.role, message.channel and f"channel {message.channel}"]
    fields += [message.recipient and f"to {message.recipient}", message.content_type, f"ended by {parsed.ending}"]
    _write(", ".join(field for field in fields if field) + "\n", "cyan")
    for note in parsed.notes:
        _write(f"repaired: {note.repair.value}" + (f" ({note.text!r})" if note.text else "") + "\n", "red")
    _write(f"{message.content}\n\n", style_of(message.role, message.channel))


def _write(text: str, style: str = "") -> None:
    if _console().is_terminal:
        _console().print(Text(sanitize(text), style), end="")
    else:
        sys.stdout.write(text)


@cache
def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
