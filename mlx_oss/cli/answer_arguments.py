"""The command-line arguments for the model's answer: how much it reasons, and which format the answer has."""

from __future__ import annotations

import argparse
import json
from typing import Any

from mlx_oss.errors import OptionError
from mlx_oss.files import CONFIG_BYTES, expanded, read_input

EFFORTS = ("none", "low", "medium", "high")  # those of chat.history, which loads the vocabulary: too slow for --help


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reasoning",
        choices=EFFORTS,
        default="medium",
        help="how much the model reasons before it answers; none: it answers at once (default medium)",
    )
    parser.add_argument(
        "--max-reasoning-tokens",
        type=int,
        metavar="N",
        help="maximum tokens of reasoning in a turn; then the answer begins (default: no limit)",
    )
    parser.add_argument(
        "--response-format",
        metavar="FILE",
        help="file with a JSON schema that the answer has to follow (default: free text)",
    )


def session_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns keyword arguments for `ChatSession`. Raises OptionError if the file is not a JSON schema."""
    return {
        "reasoning_effort": args.reasoning,
        "max_reasoning_tokens": args.max_reasoning_tokens,
        "response_format": None if args.response_format is None else read_schema(args.response_format),
    }


def read_schema(path: str) -> dict[str, Any]:
    """Reads a JSON schema. Raises OptionError if the file cannot be read or is not a JSON object."""
    try:
        schema = json.loads(read_input(expanded(path), CONFIG_BYTES))
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}): give a file with a JSON schema") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not JSON ({error}): give a file with a JSON schema") from None
    if not isinstance(schema, dict):
        raise OptionError(f"{path} is not a JSON schema: give a file with a JSON object")
    return schema
