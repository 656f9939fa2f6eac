"""The commands that can be typed in a conversation: `/help` and others, as a table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from mlx_oss.arguments import did_you_mean
from mlx_oss.cli import conversation_commands
from mlx_oss.cli.answer_arguments import EFFORTS
from mlx_oss.cli.attachments import without_attachments
from mlx_oss.cli.chat_state import ChatState
from mlx_oss.cli.set_command import set_option
from mlx_oss.distributed import is_launched
from mlx_oss.terminal import one_line, sanitize, width_of

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the function that runs it, its arguments and its description for `/help`."""

    run: Callable[[ChatState, str], None]
    arguments: str
    help: str


def dispatch(state: ChatState, typed: str) -> None:
    """Runs a line that begins with a slash."""
    name, _, argument = typed[1:].partition(" ")
    command = COMMANDS.get("exit" if name in LEAVING else name)
    if command is None:
        guess = did_you_mean(name, (*COMMANDS, *LEAVING))
        meant = guess.replace("mean ", "mean /") or "/help lists them."
        state.notice(f"unknown command /{one_line(name)}: {meant} For a question that begins with /, type //")
    else:
        command.run(state, argument.strip())


_KEYS = (
    "Enter sends; Ctrl-J, or Esc and then Enter, starts a new line; Tab completes.",
    "Ctrl-C stops an answer; Ctrl-D or exit leaves.",
    'For a question that begins with /, type //. @FILE attaches a file, @"A FILE" one with spaces in its name.',
)
_KEYS_OF_LINES = ("Each line is a question; Ctrl-C or exit leaves.", _KEYS[-1])  # mlx.launch hands on whole lines only


def _help(state: ChatState, _: str) -> None:
    usages = {f"/{name} {command.arguments}".rstrip(): command.help for name, command in COMMANDS.items()}
    first = max(map(len, usages))
    if first + max(map(len, usages.values())) + 4 <= (width_of(sys.stderr) or 80):
        lines = [f"  {usage:{first}}  {help}" for usage, help in usages.items()]
    else:
        lines = [f"{usage}\n  {help}" for usage, help in usages.items()]
    state.notice("\n".join([*lines, *(_KEYS_OF_LINES if is_launched() else _KEYS)]))


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
    if question is None:
        state.notice("there is nothing to undo")
        return
    state.keep()
    lines = without_attachments(question).strip().splitlines() or [""]
    more = f" ... ({len(lines)} lines)" if len(lines) > 1 else ""
    state.notice(f"removed: {sanitize(lines[0])}{more}")


def _retry(state: ChatState, _: str) -> None:
    if state.session.turns:
        state.show_turn(state.session.retry())
    else:
        state.notice("there is nothing to retry")


def _tools(state: ChatState, argument: str) -> None:
    if argument in ("whole", "folded"):
        state.printer.whole_calls = argument == "whole"
        state.notice(f"calls and results are shown {argument}")
        return
    session = state.session
    lines = [one_line(f"  {tool.name}: {tool.description.partition(chr(10))[0]}") for tool in session.tools]
    lines += [one_line(f"  {namespace.name} (built in)") for namespace in session.system_tools]
    for space in session.tool_groups:
        for tool in space.tools:
            lines.append(one_line(f"  {space.name}.{tool.name}: {tool.description.partition(chr(10))[0]}"))
    if left_out := session.tools_left_out:
        lines.append(one_line(f"  left out, as there is no room in the context: {', '.join(left_out)}"))
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
    if state.keeper is not None:
        state.keeper.end()  # the next answer begins another conversation
    state.notice("the conversation was cleared")


def _exit(state: ChatState, _: str) -> None:
    state.is_over = True


LEAVING = ("exit", "quit", "bye")  # each of them, with or without a slash
COMMANDS = {
    "help": Command(_help, "", "list the commands"),
    "reasoning": Command(_reasoning, "EFFORT|show|hide", "none, low, medium or high; show or hide reasoning"),
    "system": Command(_system, "TEXT", "show or set the instructions for the model"),
    "undo": Command(_undo, "", "remove the last question and its answer"),
    "retry": Command(_retry, "", "answer the last question again"),
    "set": Command(set_option, "OPTION VALUE", "show or set temperature, top-p and others"),
    "save": Command(conversation_commands.save, "FILE", "save the conversation to a file"),
    "load": Command(conversation_commands.load, "NAME", "go on with a kept or saved conversation"),
    "sessions": Command(conversation_commands.sessions, "", "list the kept conversations"),
    "export": Command(conversation_commands.export, "FILE", "write the conversation as .md or .json"),
    "models": Command(conversation_commands.models, "", "list the models on this disk"),
    "model": Command(conversation_commands.model, "NAME", "show the model, or go on with another one"),
    "tools": Command(_tools, "whole|folded", "list the tools; show calls whole or shortened"),
    "stats": Command(_stats, "", "show tokens, times and memory"),
    "clear": Command(_clear, "", "start a new conversation"),
    "exit": Command(_exit, "", "leave the program"),
}
