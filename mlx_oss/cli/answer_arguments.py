"""The arguments that bind the model: how it reasons, and what its answer looks like."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mlx_oss.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    efforts = ("none", "low", "medium", "high")
    parser.add_argument("--reasoning", choices=efforts, default="medium", help="effort; none opens the answer at once")
    parser.add_argument("--max-reasoning-tokens", type=int, metavar="N", help="then the answer is opened")
    parser.add_argument("--response-format", metavar="FILE", help="JSON schema that the answer follows")


def bounds(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ChatSession`. Raises OptionError for a file that holds no JSON schema."""
    return {
        "reasoning_effort": args.reasoning,
        "max_reasoning_tokens": args.max_reasoning_tokens,
        "response_format": None if args.response_format is None else read_schema(args.response_format),
    }


def read_schema(path: str) -> dict[str, Any]:
    """Raises OptionError."""
    try:
        schema = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}): give a file with a JSON schema") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} is not JSON ({error}): give a file with a JSON schema") from None
    if not isinstance(schema, dict):
        raise OptionError(f"{path} holds no JSON schema: give an object")
    return schema
