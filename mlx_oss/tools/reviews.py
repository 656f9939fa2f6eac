"""Which tools need the user's approval, and what of a call the user has to see. Knows nothing of how that is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from mlx_oss.tools.functions import Tool
from mlx_oss.tools.group import ToolGroup
from mlx_oss.tools.patch import apply
from mlx_oss.tools.python import PythonTool, code_of
from mlx_oss.tools.toolset import AnyTool

Review = Callable[[str], str]


def reviews_of(tools: Sequence[AnyTool]) -> dict[str, Review]:
    """By the name of each tool that runs code or changes files: a function from its arguments to what would run.

    Of a group of functions it is not known what they do: its name stands for all of them.
    """
    reviews: dict[str, Review] = {}
    for tool in tools:
        if isinstance(tool, PythonTool):
            reviews[tool.namespace.name] = code_of
        elif isinstance(tool, Tool) and getattr(tool.handler, "__module__", None) == apply.__name__:
            reviews[tool.name] = _patch_of
        elif isinstance(tool, ToolGroup):
            reviews[tool.namespace.name] = _arguments_of
    return reviews


def _patch_of(arguments: str) -> str:
    """The patch in the arguments of `apply_patch`, or the arguments if they have none and cannot run."""
    try:
        return str(json.loads(arguments)["input"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return arguments


def _arguments_of(arguments: str) -> str:
    """The arguments with a line for each, or as they are if they are no JSON."""
    try:
        value = json.loads(arguments) if arguments.strip() else {}
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        return arguments
