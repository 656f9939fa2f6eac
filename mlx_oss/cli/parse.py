"""`mlx-oss parse`: what the parser makes of a stream the model wrote: its messages, and what had to be repaired."""

from __future__ import annotations

import argparse
import json
import sys

from mlx_oss.cli.render import read_text
from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import ParsedMessage, Role, message_to_dict, parse_messages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", help="file with a JSON list of ids, or - for stdin")
    parser.add_argument("--text", action="store_true", help="the file holds text; <|start|> and the like are tokens")
    parser.add_argument("--role", choices=("assistant", "none"), default="assistant", help="who the prompt ended with")
    parser.add_argument("--strict", action="store_true", help="stop at the first break of the format")
    parser.add_argument("--json", action="store_true", help="print the messages as JSON")


def run(args: argparse.Namespace) -> int:
    ids = read_ids(args.stream, as_text=args.text)
    role: Role | None = None if args.role == "none" else "assistant"
    messages = parse_messages(ids, role=role, strict=args.strict)
    if args.json:
        found = [as_dict(parsed) for parsed in messages]
        sys.stdout.write(json.dumps(found, ensure_ascii=sys.stdout.isatty(), indent=2) + "\n")
        return 0
    from mlx_oss.cli.colours import write_message

    for parsed in messages:
        write_message(parsed)
    return 0


def read_ids(path: str, *, as_text: bool) -> list[int]:
    """Raises HarmonyError for a file that is not a list of ids."""
    content = read_text(path)
    if as_text:
        from mlx_oss.tokenizer import load_tokenizer

        return load_tokenizer().encode_with_specials(content)
    try:
        ids = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HarmonyError(f"{path} is not JSON: {error}; for plain text give --text") from None
    if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
        raise HarmonyError(f"{path} is not a list of ids; for plain text give --text")
    return ids


def as_dict(parsed: ParsedMessage) -> dict[str, object]:
    notes = [{"repair": note.repair.name.lower(), "text": note.text} for note in parsed.notes]
    return {**message_to_dict(parsed.message), "ending": parsed.ending, "ids": list(parsed.ids), "notes": notes}
