"""`mlx-oss render`: prints a conversation as the model sees it, with a colour for each channel, or as token ids."""

from __future__ import annotations

import argparse
import json
import sys

from mlx_oss.errors import HarmonyError
from mlx_oss.files import TEXT_BYTES, expanded, read_input, read_up_to
from mlx_oss.harmony import Message, conversation_for_next_turn, message_from_dict, render_conversation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "conversation", help='JSON file with a list of messages, or with {"messages": [...]}; - for stdin'
    )
    parser.add_argument("--tokens", action="store_true", help="print the token ids, as a JSON list")
    parser.add_argument(
        "--next-turn",
        action="store_true",
        help="print the prompt of the next turn: without the reasoning of finished turns, "
        "and with <|start|>assistant at the end",
    )


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


def source_name(path: str) -> str:
    """What an error calls a file: "stdin" for "-"."""
    return "stdin" if path == "-" else path


def read_text(path: str) -> str:
    """Reads the text of a file, or of stdin for "-". Raises HarmonyError if it cannot be read as UTF-8."""
    source = source_name(path)
    try:
        if path == "-":
            return read_up_to(sys.stdin.buffer, TEXT_BYTES, "stdin").decode() if sys.stdin else ""
        return read_input(expanded(path), TEXT_BYTES).decode()
    except UnicodeDecodeError:
        raise HarmonyError(f"{source} is not text in UTF-8: give a text file, or - for stdin") from None
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        reason = getattr(error, "strerror", None) or error
        raise HarmonyError(f"{source} cannot be read ({reason}): give a text file, or - for stdin") from None


def read_conversation(path: str) -> list[Message]:
    """Reads messages from a JSON file in the form of openai-harmony. Raises HarmonyError naming the wrong message."""
    source = source_name(path)
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise HarmonyError(f"{source} is not JSON ({error}): give a list of messages") from None
    entries = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise HarmonyError(f'{source} is not a conversation: give a list of messages, or {{"messages": [...]}}')
    messages = []
    for number, entry in enumerate(entries):
        try:
            messages.append(message_from_dict(entry))
        except HarmonyError as error:
            raise HarmonyError(f"{source}: message {number}: {error}") from None
    return messages
