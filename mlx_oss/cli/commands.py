"""The commands that can be typed in a conversation: `/help` and others, as a table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli.answer_arguments import EFFORTS
from mlx_oss.errors import MlxOssError, SessionError
from mlx_oss.files import expanded
from mlx_oss.terminal import one_line, sanitize

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer


@dataclass
class ChatState:
    """The state of a conversation in the terminal, which the commands change.

    Attributes:
        session: The session that answers.
        printer: Prints the events of a turn, and notices of the commands.
        show_turn: Prints the events of a turn, and a status line after it.
        tools: Keyword arguments of `ChatSession` for its tools, for sessions that are loaded.
        fetch: fetch(name, room) returns the folder of a model, which is downloaded if it is not here and `room`, the
            memory that it may use, is enough. None if the model cannot be changed.
        load: Loads a model and its tokenizer from a folder. None if the model cannot be changed.
        is_over: Set to True to leave the conversation.
    """

    session: ChatSession
    printer: Printer
    show_turn: Callable[[Iterable[Event]], None]
    tools: dict[str, Any] = field(default_factory=dict)
    fetch: Callable[[str, int | None], Path] | None = None
    load: Callable[[str], tuple[Engine, Tokenizer]] | None = None
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


def dispatch(state: ChatState, typed: str) -> None:
    """Runs a line that begins with a slash."""
    name, _, argument = typed[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        state.notice(
            f"unknown command /{sanitize(name)}: /help lists the commands; for a question that begins with /, type //"
        )
    else:
        command.run(state, argument.strip())


def _help(state: ChatState, _: str) -> None:
    usages = {f"/{name} {command.arguments}": command.help for name, command in COMMANDS.items()}
    lines = [f"  {usage:{max(map(len, usages))}}  {help}" for usage, help in usages.items()]
    keys = "Enter sends; Ctrl-J, or Esc and then Enter, starts a new line; Ctrl-C stops an answer; Ctrl-D leaves.\n"
    keys += "For a question that begins with /, type //."
    state.notice("\n".join([*lines, keys]))


def _reasoning(state: ChatState, argument: str) -> None:
    session = state.session
    if argument in EFFORTS:
        session.reasoning_effort = argument  # type: ignore[assignment]
    elif argument in ("show", "hide"):
        state.printer.hide_reasoning = argument == "hide"
    elif argument:
        state.notice(f"{sanitize(argument)} is not one of {', '.join(EFFORTS)}, show, hide")
        return
    if argument == "show" and (reasoning := _last_reasoning(session)):
        state.notice(sanitize(reasoning))
    shown = "hidden" if state.printer.hide_reasoning else "shown"
    state.notice(f"reasoning effort {session.reasoning_effort}, {shown}")


def _last_reasoning(session: ChatSession) -> str:
    """Returns the reasoning of the last turn."""
    turn = takewhile(lambda message: message.role != "user", reversed(session.messages))
    thoughts = [str(message.content) for message in turn if message.channel == "analysis" and not message.recipient]
    return "\n".join(reversed(thoughts))


def _system(state: ChatState, argument: str) -> None:
    if argument:
        state.session.instructions = argument
    instructions = state.session.instructions
    state.notice(f"instructions: {sanitize(instructions)}" if instructions else "there are no instructions")


def _undo(state: ChatState, _: str) -> None:
    question = state.session.undo()
    state.notice("there is nothing to undo" if question is None else f"removed: {sanitize(question)}")


def _retry(state: ChatState, _: str) -> None:
    if state.session.turns:
        state.show_turn(state.session.retry())
    else:
        state.notice("there is nothing to retry")


def _save(state: ChatState, argument: str) -> None:
    if not argument:
        state.notice("name a file: /save FILE")
        return
    path = expanded(argument)
    if os.path.exists(path):  # False also if the file cannot be examined; then saving reports why
        from mlx_oss.chat import session_file

        try:
            session_file.read(path)
        except SessionError:
            state.notice(one_line(f"{argument} exists and is not a saved conversation: give another name"))
            return
    state.session.save(path)
    state.notice(one_line(f"saved to {argument}"))


def _load(state: ChatState, argument: str) -> None:
    if not argument:
        state.notice("name a file: /load FILE")
        return
    from mlx_oss.chat.session import ChatSession

    model, tokenizer = state.session.model, state.session.tokenizer
    path = expanded(argument)
    try:
        state.session = ChatSession.load(path, model, tokenizer, **state.tools)
    except SessionError as error:
        state.session = ChatSession.load(path, model, tokenizer, text_only=True, **state.tools)
        state.notice(one_line(f"{str(error).partition(':')[0]}: only the text was loaded; the model reads it again"))
    state.notice(one_line(f"loaded {argument}, turns: {state.session.turns}"))


def _models(state: ChatState, _: str) -> None:
    from mlx_oss.cli.models import lines

    state.notice("\n".join(map(one_line, lines())))


def _model(state: ChatState, argument: str) -> None:
    if not argument or state.fetch is None or state.load is None:
        state.notice(one_line(f"the model is {_folder_of(state.session)}; /models lists those on this disk"))
        return
    from mlx_oss.chat.session import ChatSession

    plan = getattr(state.session.model, "plan", None)
    folder = str(state.fetch(argument, plan and plan.memory))  # the old model's memory: it will be free
    with tempfile.TemporaryDirectory(prefix="mlx-oss-") as temporary:
        file = Path(temporary) / "conversation"
        state.session.save(file, text_only=True)
        before, failure = _folder_of(state.session), None
        del state.session  # the memory may not have room for both models
        try:
            model, tokenizer = state.load(folder)
        except (MlxOssError, KeyboardInterrupt) as error:
            failure = str(error) or "interrupted"
            model, tokenizer = state.load(before)
        state.session = ChatSession.load(file, model, tokenizer, text_only=True, **state.tools)
    if failure:
        state.notice(one_line(f"error: {failure}; the model is still {before}"))
    else:
        read_again = "; it reads the conversation again" if state.session.turns else ""
        state.notice(one_line(f"the model is {folder}{read_again}"))


def _folder_of(session: ChatSession) -> str:
    return str(session.model.plan.folder) if hasattr(session.model, "plan") else type(session.model).__name__


def _tools(state: ChatState, argument: str) -> None:
    if argument in ("whole", "folded"):
        state.printer.whole_calls = argument == "whole"
        state.notice(f"calls and results are shown {argument}")
        return
    session = state.session
    lines = [one_line(f"  {tool.name}: {tool.description.partition(chr(10))[0]}") for tool in session.tools]
    lines += [one_line(f"  {namespace.name} (built in)") for namespace in session.system_tools]
    state.notice("\n".join(lines) or "the model has no tools")


def _stats(state: ChatState, _: str) -> None:
    session = state.session
    stats = session.stats
    state.notice(
        f"answers {stats.turns}, tokens: read {stats.prefilled_tokens:,}, reused {stats.reused_tokens:,}, "
        f"written {stats.generated_tokens:,}; {stats.seconds:.1f} s\n"
        f"context {session.context_used:,} of {session.context_limit:,} tokens; "
        f"cache {stats.cache_bytes / 1e6:,.1f} MB, snapshots {stats.snapshot_bytes / 1e6:,.1f} MB"
    )
    if stats.experts_held or stats.experts_read:
        state.notice(
            f"experts on disk: {stats.hit_rate:.1%} were in memory when needed; a token read "
            f"{stats.read_bytes_per_token / 1e6:,.1f} MB from disk; waiting took {stats.read_seconds:.1f} s in total"
        )


def _clear(state: ChatState, _: str) -> None:
    state.session.clear()
    state.notice("the conversation was cleared")


def _exit(state: ChatState, _: str) -> None:
    state.is_over = True


COMMANDS = {
    "help": Command(_help, "", "list the commands"),
    "reasoning": Command(_reasoning, "EFFORT|show|hide", "none, low, medium or high; show or hide reasoning"),
    "system": Command(_system, "TEXT", "show or set the instructions for the model"),
    "undo": Command(_undo, "", "remove the last question and its answer"),
    "retry": Command(_retry, "", "answer the last question again"),
    "save": Command(_save, "FILE", "save the conversation to a file"),
    "load": Command(_load, "FILE", "continue a saved conversation"),
    "models": Command(_models, "", "list the models on this disk"),
    "model": Command(_model, "NAME", "show the model, or continue with another one"),
    "tools": Command(_tools, "whole|folded", "list the tools; show calls whole or shortened"),
    "stats": Command(_stats, "", "show tokens, times and memory"),
    "clear": Command(_clear, "", "start a new conversation"),
    "exit": Command(_exit, "", "leave the program"),
}
