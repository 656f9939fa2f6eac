"""Goes on with a conversation that was kept, for `mlx-oss chat -c`, and decides whether one is kept at all."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import kept
from mlx_oss.cli.conversation_commands import open_kept
from mlx_oss.cli.kept import Keeper, Kept
from mlx_oss.errors import OptionError
from mlx_oss.terminal import say

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer

_FIXED = ("response_format", "max_reasoning_tokens")  # what a conversation keeps to its end
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


def keeper(args: argparse.Namespace, *, has_questions: bool) -> Keeper | None:
    """What keeps the conversation. None if the user does not want that, or no user is there: a program asks."""
    if not kept.is_wanted(args.no_history):
        return None
    is_program = args.json or not (sys.stderr and sys.stderr.isatty())
    return None if has_questions and is_program and not args.go_on else Keeper()


def last_kept(args: argparse.Namespace) -> Kept:
    """The conversation that goes on. Raises OptionError if there is none, or an option cannot be changed in it."""
    for name in _FIXED:
        if name in args.given:
            option = "--" + name.replace("_", "-")
            raise OptionError(f"{option} cannot change in a conversation that goes on: leave out {option}, or -c")
    return kept.last()


def resumed(
    found: Kept,
    model: Engine,
    tokenizer: Tokenizer,
    args: argparse.Namespace,
    tools: dict[str, Any],
    keeper: Keeper | None,
) -> ChatSession:
    """Opens a conversation, with the options that were given in place of its own.

    Raises:
        SessionError: If nothing of it can be read.
    """
    session, note = open_kept(found, model, tokenizer, tools)
    if note:
        say(note)
    if "reasoning" in args.given:
        session.reasoning_effort = args.reasoning
    if "instructions" in args.given:
        session.instructions = args.instructions
    if "max_tokens" in args.given:
        session.max_tokens = args.max_tokens
    given = {name: getattr(args, name) for name in _SAMPLING if name in args.given}
    session.options = replace(session.options, **given)
    if keeper is not None and not keeper.go_on(found):
        say(f"another program goes on with {found.name}, so this is kept as a new conversation")
    if not args.json:
        say(f"[{found.name}, turns: {session.turns}]")
    return session
