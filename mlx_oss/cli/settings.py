"""The user's own defaults, from a small file: the model, options of `mlx-oss chat`, and servers of tools by name.

    model = "openai/gpt-oss-20b"

    [chat]
    reasoning = "high"
    temperature = 0.7

    [mcp.notes]
    command = "npx"
    args = ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/notes"]

An option on the command line comes first, then the environment variable MLX_OSS_MODEL, then the file.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from pathlib import Path
from typing import Any

from mlx_oss.errors import OptionError, quoted
from mlx_oss.files import CONFIG_BYTES, read_bytes
from mlx_oss.folders import config_folder

FILE = "config.toml"
VARIABLE = "MLX_OSS_MODEL"
# Options of `chat` that the file may set. What lets the model act, such as tools, has to be asked for each time.
CHAT = (
    "reasoning max_reasoning_tokens instructions temperature top_p top_k min_p repetition_penalty max_tokens memory "
    "context dtype hide_reasoning no_history"
).split()


def path() -> Path | None:
    """The file, whether it exists or not. None if the user has no home folder."""
    folder = config_folder()
    return None if folder is None else folder / FILE


def read() -> dict[str, Any]:
    """What the file says; empty if there is none.

    Raises:
        OptionError: If it cannot be read, is not TOML, or has an unknown key.
    """
    file = path()
    if file is None:
        return {}
    try:
        settings = tomllib.loads(read_bytes(file, CONFIG_BYTES).decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OptionError(f"{file} cannot be read ({error.strerror}): check it, or remove it") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{file} is not TOML ({error}): correct or remove it") from None
    if unknown := sorted(settings.keys() - {"model", "chat", "mcp"}):
        raise OptionError(
            f"{file}: {quoted(unknown[0])} is unknown: the file has a `model`, and tables [chat] and [mcp]"
        )
    if not isinstance(settings.get("model", ""), str):
        raise OptionError(f"{file}: model is {quoted(settings['model'])}: give a name or a folder in quotes")
    if not isinstance(settings.get("chat", {}), dict):
        raise OptionError(f"{file}: chat is {quoted(settings['chat'])}: write a table [chat] with options")
    if not isinstance(settings.get("mcp", {}), dict):
        raise OptionError(f"{file}: mcp is {quoted(settings['mcp'])}: write a table [mcp.NAME] for each server")
    return settings


def mcp() -> dict[str, Any]:
    """The servers of tools that the file describes, by name. They are used if `--mcp NAME` asks for them."""
    table: dict[str, Any] = read().get("mcp", {})
    return table


def model() -> str | None:
    """The model to use when none is named. None: nano. Raises OptionError as `read`."""
    return os.environ.get(VARIABLE) or read().get("model") or None


def apply_chat_options(parser: argparse.ArgumentParser) -> None:
    """Makes the options in the file the defaults of the parser of `chat`.

    Raises:
        OptionError: If an option is unknown or has a wrong value; or as `read`.
    """
    actions = {action.dest: action for action in parser._actions if action.dest in CHAT}
    for key, value in read().get("chat", {}).items():
        action = actions.get("instructions" if key == "system" else key.replace("-", "_"))
        if action is None:
            raise OptionError(f"{path()}: [chat] has no option {quoted(key)}, only {', '.join(sorted(CHAT))}")
        if not _is_right(action, value):
            raise OptionError(f"{path()}: [chat] {key} is {quoted(value)}, expected {_expected(action)}")
        parser.set_defaults(**{action.dest: float(value) if action.type is float else value})


def _is_right(action: argparse.Action, value: object) -> bool:
    if action.nargs == 0:
        return isinstance(value, bool)
    if action.choices is not None:
        return value in action.choices
    numbers: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float)}
    kinds = numbers.get(action.type, (str,))
    return isinstance(value, kinds) and not isinstance(value, bool)


def _expected(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "true or false"
    if action.choices is not None:
        return " or ".join(map(repr, action.choices))
    names: dict[object, str] = {int: "a whole number", float: "a number"}
    return names.get(action.type, "a text in quotes")
