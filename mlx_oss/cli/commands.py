"""The commands that can be typed in a conversation: `/help` and others, as a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mlx_oss.cli.sanitize import sanitize
from mlx_oss.errors import SessionError
from mlx_oss.harmony import ReasoningEffort

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event


@dataclass
class ChatState:
    """A conversation in the terminal. The commands change it.

    Attributes:
        session: The session that answers.
        printer: Prints the events of a turn, and notices of the commands.
        show_turn: Prints the events of a turn, and a status line after it.
        tools: Keyword arguments of `ChatSession` for its tools, for sessions that are loaded.
        is_over: Set to True to leave the conversation.
    """

    session: ChatSession
    printer: Printer
    show_turn: Callable[[Iterable[Event]], None]
    tools: dict[str, Any] = field(default_factory=dict)
    is_over: bool = False

    def notice(self, text: str) -> None:
        """Prints a message of the program."""
        self.printer.notice(text)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the function that runs it, its arguments and its description for `/help`."""

    run: Callable[[ChatState, str], None]
    arguments: str
    help: str


def dispatch(conversation: ChatState, typed: str) -> None:
    """Runs a line that begins with a slash."""
    name, _, argument = typed[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        conversation.notice(
            f"unknown command /{sanitize(name)}: /help lists the commands; for a question that begins with /, type //"
        )
    else:
        command.run(conversation, argument.strip())


def _help(conversation: ChatState, _: str) -> None:
    usages = {f"/{name} {command.arguments}": command.help for name, command in COMMANDS.items()}
    lines = [f"  {usage:{max(map(len, usages))}}  {help}" for usage, help in usages.items()]
    keys = "Alt-Enter starts a new line, Ctrl-C stops an answer, Ctrl-D leaves.\n"
    keys += "For a question that begins with /, type //."
    conversation.notice("\n".join([*lines, keys]))


def _reasoning(conversation: ChatState, argument: str) -> None:
    session, efforts = conversation.session, ("none", *get_args(ReasoningEffort))
    if argument in efforts:
        session.reasoning_effort = argument  # type: ignore[assignment]
    elif argument in ("show", "hide"):
        conversation.printer.hide_reasoning = argument == "hide"
    elif argument:
        conversation.notice(f"{sanitize(argument)} is not one of {', '.join(efforts)}, show, hide")
        return
    if argument == "show" and (reasoning := _last_reasoning(session)):
        conversation.notice(sanitize(reasoning))
    shown = "hidden" if conversation.printer.hide_reasoning else "shown"
    conversation.notice(f"reasoning effort {session.reasoning_effort}, {shown}")


def _last_reasoning(session: ChatSession) -> str:
    """Returns the reasoning of the last turn."""
    turn = takewhile(lambda message: message.role != "user", reversed(session.messages))
    thoughts = [str(message.content) for message in turn if message.channel == "analysis" and not message.recipient]
    return "\n".join(reversed(thoughts))


def _system(conversation: ChatState, argument: str) -> None:
    if argument:
        conversation.session.instructions = argument
    instructions = conversation.session.instructions
    conversation.notice(f"instructions: {sanitize(instructions)}" if instructions else "there are no instructions")


def _undo(conversation: ChatState, _: str) -> None:
    question = conversation.session.undo()
    conversation.notice("there is nothing to undo" if question is None else f"removed: {sanitize(question)}")


def _retry(conversation: ChatState, _: str) -> None:
    if conversation.session.turns:
        conversation.show_turn(conversation.session.retry())
    else:
        conversation.notice("there is nothing to retry")


def _save(conversation: ChatState, argument: str) -> None:
    if not argument:
        conversation.notice("name a file: /save FILE")
        return
    path = _path(argument)
    if os.path.exists(path):  # False also if the file cannot be examined; then saving reports why
        from mlx_oss.chat import session_file

        try:
            session_file.read(path)
        except SessionError:
            conversation.notice(f"{sanitize(argument)} exists and is not a saved conversation: give another name")
            return
    conversation.session.save(path)
    conversation.notice(f"saved to {sanitize(argument)}")


def _path(typed: str) -> Path:
    """Replaces `~` by the home folder. `~user` of an unknown user is an ordinary file name, as in a shell."""
    return Path(os.path.expanduser(typed))


def _load(conversation: ChatState, argument: str) -> None:
    if not argument:
        conversation.notice("name a file: /load FILE")
        return
    from mlx_oss.chat.session import ChatSession

    model, tokenizer = conversation.session.model, conversation.session.tokenizer
    path = _path(argument)
    try:
        conversation.session = ChatSession.load(path, model, tokenizer, **conversation.tools)
    except SessionError as error:
        conversation.session = ChatSession.load(path, model, tokenizer, text_only=True, **conversation.tools)
        conversation.notice(f"{str(error).partition(':')[0]}: only the text was loaded; the model reads it again")
    conversation.notice(f"loaded {sanitize(argument)}, turns: {conversation.session.turns}")


def _tools(conversation: ChatState, argument: str) -> None:
    if argument in ("whole", "folded"):
        conversation.printer.whole_calls = argument == "whole"
        conversation.notice(f"calls and results are shown {argument}")
        return
    session = conversation.session
    lines = [sanitize(f"  {tool.name}: {tool.description.partition(chr(10))[0]}") for tool in session.tools]
    lines += [sanitize(f"  {namespace.name} (built in)") for namespace in session.system_tools]
    conversation.notice("\n".join(lines) or "the model has no tools")


def _stats(conversation: ChatState, _: str) -> None:
    session = conversation.session
    stats = session.stats
    conversation.notice(
        f"answers {stats.turns}, tokens: read {stats.prefilled_tokens:,}, reused {stats.reused_tokens:,}, "
        f"written {stats.generated_tokens:,}; {stats.seconds:.1f} s\n"
        f"context {session.context_used:,} of {session.context_limit:,} tokens; "
        f"cache {stats.cache_bytes / 1e6:,.1f} MB, snapshots {stats.snapshot_bytes / 1e6:,.1f} MB"
    )
    if stats.experts_held or stats.experts_read:
        conversation.notice(
            f"experts on disk: {stats.hit_rate:.1%} were in memory when needed; a token read "
            f"{stats.read_bytes_per_token / 1e6:,.1f} MB from disk; waiting took {stats.read_seconds:.1f} s in total"
        )


def _clear(conversation: ChatState, _: str) -> None:
    conversation.session.clear()
    conversation.notice("the conversation was cleared")


def _exit(conversation: ChatState, _: str) -> None:
    conversation.is_over = True


COMMANDS = {
    "help": Command(_help, "", "list the commands"),
    "reasoning": Command(_reasoning, "EFFORT|show|hide", "none, low, medium or high; show or hide reasoning"),
    "system": Command(_system, "TEXT", "show or set the instructions for the model"),
    "undo": Command(_undo, "", "remove the last question and its answer"),
    "retry": Command(_retry, "", "answer the last question again"),
    "save": Command(_save, "FILE", "save the conversation to a file"),
    "load": Command(_load, "FILE", "continue a saved conversation"),
    "tools": Command(_tools, "whole|folded", "list the tools; show calls whole or shortened"),
    "stats": Command(_stats, "", "show tokens, times and memory"),
    "clear": Command(_clear, "", "start a new conversation"),
    "exit": Command(_exit, "", "leave the program"),
}
