"""Harmony streams and messages on a terminal, a colour for each channel; plain where there are no colours."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from mlx_oss.harmony import MessageFinished, MessageStarted, ParsedMessage
from mlx_oss.harmony.parse import HarmonyParser
from mlx_oss.tokenizer import CALL, END, RETURN, SPECIAL_TOKENS, load_tokenizer

_BY_CHANNEL = {"analysis": "dim", "commentary": "yellow", "final": "green"}
_BY_ROLE = {"system": "blue", "developer": "blue", "user": "bold", "tool": "magenta"}
_CONTROL = frozenset(SPECIAL_TOKENS.values())


def style_of(role: str, channel: str | None) -> str:
    return _BY_ROLE.get(role) or _BY_CHANNEL.get(channel or "", "")


def write_stream(ids: Iterable[int]) -> None:
    """The ids as text, control tokens included, a message a paragraph."""
    tokenizer, parser, style = load_tokenizer(), HarmonyParser(None), ""
    text, held = Text(), tokenizer.stream_decoder()
    for id_ in ids:
        for event in parser.feed(id_):
            if isinstance(event, MessageStarted):
                style = style_of(event.header.role, event.header.channel)
            elif isinstance(event, MessageFinished):
                style = ""
        text.append(held.feed(id_), "cyan" if id_ in _CONTROL else style)
        if id_ in (END, CALL, RETURN):
            text.append("\n")
    text.append(held.finish())
    Console(highlight=False, soft_wrap=True).print(text, end="" if text.plain.endswith("\n") else "\n")


def write_message(parsed: ParsedMessage) -> None:
    """One message: a line about it, a line for each repair, its text."""
    console, message = Console(highlight=False, soft_wrap=True), parsed.message
    words = [message.name or message.role, message.channel and f"channel {message.channel}"]
    words += [message.recipient and f"to {message.recipient}", message.content_type, f"ended by {parsed.ending}"]
    console.print(Text(", ".join(word for word in words if word), "cyan"))
    for note in parsed.notes:
        console.print(Text(f"repaired: {note.repair.value}" + (f" ({note.text!r})" if note.text else ""), "red"))
    console.print(Text(str(message.content), style_of(message.role, message.channel)), end="\n\n")
