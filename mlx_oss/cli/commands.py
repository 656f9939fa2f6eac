"""What can be typed in a conversation besides questions: `/help` and its kin, as a table."""

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
    """A session in the terminal: what commands change. `answer` shows the events of a turn, `say` a remark; `tools` are
    the keyword arguments for what a session may call.
    """

    session: ChatSession
    show: Printer
    say: Callable[[str], None]
    answer: Callable[[Iterable[Event]], None]
    tools: dict[str, Any] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    run: Callable[[ChatState, str], None]
    arguments: str
    help: str


def dispatch(conversation: ChatState, typed: str) -> None:
    """Runs a line that begins with a slash."""
    name, _, argument = typed[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        conversation.say(f"there is no /{sanitize(name)}: /help lists the commands, // sends a question with a slash")
    else:
        command.run(conversation, argument.strip())


def _help(conversation: ChatState, _: str) -> None:
    typed = {f"/{name} {command.arguments}": command.help for name, command in COMMANDS.items()}
    lines = [f"  {line:{max(map(len, typed))}}  {help}" for line, help in typed.items()]
    keys = "Alt-Enter starts a new line, Ctrl-C stops an answer, Ctrl-D leaves,\n// begins a question with a slash."
    conversation.say("\n".join([*lines, keys]))


def _reasoning(conversation: ChatState, argument: str) -> None:
    session, efforts = conversation.session, ("none", *get_args(ReasoningEffort))
    if argument in efforts:
        session.reasoning_effort = argument  # type: ignore[assignment]
    elif argument in ("show", "hide"):
        conversation.show.hide_reasoning = argument == "hide"
    elif argument:
        conversation.say(f"{sanitize(argument)} is not one of {', '.join(efforts)}, show, hide")
        return
    if argument == "show" and (folded := _last_reasoning(session)):
        conversation.say(sanitize(folded))
    shown = "hidden" if conversation.show.hide_reasoning else "shown"
    conversation.say(f"reasoning effort {session.reasoning_effort}, {shown}")


def _last_reasoning(session: ChatSession) -> str:
    """What the model thought in the last turn."""
    turn = takewhile(lambda message: message.role != "user", reversed(session.messages))
    thoughts = [str(message.content) for message in turn if message.channel == "analysis" and not message.recipient]
    return "\n".join(reversed(thoughts))


def _system(conversation: ChatState, argument: str) -> None:
    if argument:
        conversation.session.instructions = argument
    said = conversation.session.instructions
    conversation.say(f"instructions: {sanitize(said)}" if said else "there are no instructions")


def _undo(conversation: ChatState, _: str) -> None:
    said = conversation.session.undo()
    conversation.say("there is nothing to undo" if said is None else f"forgotten: {sanitize(said)}")


def _retry(conversation: ChatState, _: str) -> None:
    if conversation.session.turns:
        conversation.answer(conversation.session.retry())
    else:
        conversation.say("there is nothing to retry")


def _save(conversation: ChatState, argument: str) -> None:
    if not argument:
        conversation.say("give a file: /save FILE")
        return
    path = _path(argument)
    if os.path.exists(path):  # as far as that can be known
        from mlx_oss.chat import session_file

        try:
            session_file.read(path)
        except SessionError:
            conversation.say(f"{sanitize(argument)} is there and no saved conversation: give another name")
            return
    conversation.session.save(path)
    conversation.say(f"saved to {sanitize(argument)}")


def _path(typed: str) -> Path:
    """`~` is the home folder; one of a user who does not exist is a name like any other, as in a shell."""
    return Path(os.path.expanduser(typed))


def _load(conversation: ChatState, argument: str) -> None:
    if not argument:
        conversation.say("give a file: /load FILE")
        return
    from mlx_oss.chat.session import ChatSession

    model, tokenizer = conversation.session.model, conversation.session.tokenizer
    path = _path(argument)
    try:
        conversation.session = ChatSession.load(path, model, tokenizer, **conversation.tools)
    except SessionError as error:
        conversation.session = ChatSession.load(path, model, tokenizer, text_only=True, **conversation.tools)
        conversation.say(f"{str(error).partition(':')[0]}: the conversation is there and will be read anew")
    conversation.say(f"loaded {sanitize(argument)}, turns: {conversation.session.turns}")


def _tools(conversation: ChatState, argument: str) -> None:
    if argument in ("whole", "folded"):
        conversation.show.whole_calls = argument == "whole"
        conversation.say(f"calls and results are shown {argument}")
        return
    session = conversation.session
    lines = [sanitize(f"  {tool.name}: {tool.description.partition(chr(10))[0]}") for tool in session.tools]
    lines += [sanitize(f"  {namespace.name} (built in)") for namespace in session.system_tools]
    conversation.say("\n".join(lines) or "the model has no tools here")


def _stats(conversation: ChatState, _: str) -> None:
    s, session = conversation.session.stats, conversation.session
    conversation.say(
        f"answers {s.turns}, tokens: read {s.prefilled_tokens:,}, reused {s.reused_tokens:,}, "
        f"written {s.generated_tokens:,}; {s.seconds:.1f} s\n"
        f"context {session.context_used:,} of {session.context_limit:,} tokens; "
        f"cache {s.cache_bytes / 1e6:,.1f} MB, snapshots {s.snapshot_bytes / 1e6:,.1f} MB"
    )
    if s.experts_held or s.experts_read:
        conversation.say(
            f"experts on disk: {s.hit_rate:.1%} were in memory when needed; a token read "
            f"{s.read_bytes_per_token / 1e6:,.1f} MB, waited for {s.read_seconds:.1f} s in all"
        )


def _clear(conversation: ChatState, _: str) -> None:
    conversation.session.clear()
    conversation.say("the conversation is forgotten")


def _exit(conversation: ChatState, _: str) -> None:
    conversation.over = True


COMMANDS = {
    "help": Command(_help, "", "show this"),
    "reasoning": Command(_reasoning, "EFFORT|show|hide", "none, low, medium or high; show it or not"),
    "system": Command(_system, "TEXT", "what the model should keep to"),
    "undo": Command(_undo, "", "forget the last question and its answer"),
    "retry": Command(_retry, "", "answer the last question once more"),
    "save": Command(_save, "FILE", "write the conversation to a file"),
    "load": Command(_load, "FILE", "go on with a saved conversation"),
    "tools": Command(_tools, "whole|folded", "what the model may call; how much of calls is shown"),
    "stats": Command(_stats, "", "tokens, times and memory"),
    "clear": Command(_clear, "", "forget the conversation"),
    "exit": Command(_exit, "", "leave"),
}
