"""`mlx-oss render`: a conversation as the model sees it, coloured by channel, or as token ids."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import Message, conversation_for_next_turn, message_from_dict, render_conversation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("conversation", help='JSON file, or - for stdin: a list of messages, or {"messages": [...]}')
    parser.add_argument("--tokens", action="store_true", help="print the ids, as a JSON list")
    parser.add_argument("--next-turn", action="store_true", help="as the next turn begins: without finished reasoning")


def run(args: argparse.Namespace) -> int:
    messages = read_conversation(args.conversation)
    if args.next_turn:
        messages = conversation_for_next_turn(messages)
    try:
        ids = render_conversation(messages, next_role="assistant" if args.next_turn else None)
    except HarmonyError as error:
        raise HarmonyError(f"{args.conversation}: {error}") from None
    if args.tokens:
        sys.stdout.write(json.dumps(ids) + "\n")
        return 0
    from mlx_oss.cli.colours import write_stream

    write_stream(ids)
    return 0


def read_text(path: str) -> str:
    """The text of a file, or of stdin for "-". Raises HarmonyError."""
    try:
        stdin = sys.stdin.buffer.read if sys.stdin else bytes
        return (stdin() if path == "-" else Path(path).read_bytes()).decode()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that no file can have
        raise HarmonyError(f"{path} cannot be read ({error}): give a text file in UTF-8, or -") from None


def read_conversation(path: str) -> list[Message]:
    """The messages in a JSON file of openai-harmony's form. Raises HarmonyError naming the message that is wrong."""
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise HarmonyError(f"{path} is not JSON: {error}") from None
    entries = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise HarmonyError(f'{path} holds no conversation: a list of messages, or {{"messages": [...]}}')
    messages = []
    for number, entry in enumerate(entries):
        try:
            messages.append(message_from_dict(entry))
        except HarmonyError as error:
            raise HarmonyError(f"{path}: message {number}: {error}") from None
    return messages
