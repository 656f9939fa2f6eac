"""`mlx-oss parse`: prints the messages in a model's output, and what had to be repaired in it."""

from __future__ import annotations

import argparse
import json
import re
import sys

from mlx_oss.cli.render import read_text, source_name
from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import ParsedMessage, Role, message_to_dict, parse_messages, render_conversation
from mlx_oss.tokenizer import START

# The line breaks that `mlx-oss render` puts behind each message, and behind the beginning of the next one.
_BETWEEN = re.compile(
    r"(?:(?<=<\|end\|>)|(?<=<\|call\|>)|(?<=<\|return\|>)|(?<=<\|start\|>assistant))\n(?=<\|start\|>|\Z)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", help="file with a JSON list of token ids, or - for stdin")
    parser.add_argument(
        "--text",
        action="store_true",
        help="the file contains text instead of ids; <|start|> and other control tokens are read as tokens",
    )
    parser.add_argument(
        "--role",
        choices=("auto", "assistant", "none"),
        default="auto",
        help="the role that the prompt ended with; none: the stream begins with <|start|>, as what `mlx-oss render` "
        "prints (default auto: none if it does, else assistant)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop with an error where the format is broken, instead of repairing it"
    )
    parser.add_argument("--json", action="store_true", help="print the messages as JSON")


def run(args: argparse.Namespace) -> int:
    ids = read_ids(args.stream, as_text=args.text)
    is_whole = ids[:1] == [START] if args.role == "auto" else args.role == "none"
    opening = render_conversation([], next_role="assistant")
    opens_next = is_whole and ids[-len(opening) :] == opening  # as at the end of a prompt
    role: Role | None = None if is_whole else "assistant"
    messages = parse_messages(ids[: -len(opening)] if opens_next else ids, role=role, strict=args.strict)
    if args.json:
        entries = [as_dict(parsed) for parsed in messages]
        sys.stdout.write(json.dumps(entries, ensure_ascii=sys.stdout.isatty(), indent=2) + "\n")
        return 0
    from mlx_oss.cli.colours import write_message

    for parsed in messages:
        write_message(parsed)
    if opens_next:
        sys.stdout.write("assistant, is next\n")
    return 0


def read_ids(path: str, *, as_text: bool) -> list[int]:
    """Reads the token ids in a file. Raises HarmonyError if it is not a list of ids."""
    content = read_text(path)
    if as_text:
        from mlx_oss.tokenizer import load_tokenizer

        return load_tokenizer().encode_with_specials(_BETWEEN.sub("", content))
    source = source_name(path)
    try:
        ids = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HarmonyError(
            f"{source} is not JSON ({error}): give a list of token ids, or --text for plain text"
        ) from None
    if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
        raise HarmonyError(f"{source} is not a list of ids: give a JSON list of token ids, or --text for plain text")
    return ids


def as_dict(parsed: ParsedMessage) -> dict[str, object]:
    notes = [{"repair": note.repair.name.lower(), "text": note.text} for note in parsed.notes]
    return {**message_to_dict(parsed.message), "ending": parsed.ending, "ids": list(parsed.ids), "notes": notes}
