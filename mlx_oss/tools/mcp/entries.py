"""Servers as config files name them: a table with `command`, `args`, `env` and `folder`, or with `url` and `headers`.

These are the names that other programs use, in the tables that they call `mcpServers`. `${NAME}` in a text stands for
an environment variable, `${NAME:-text}` for one that may be missing. Knows nothing of files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from mlx_oss.errors import OptionError, quoted
from mlx_oss.tools.mcp.server import McpServer

_TEXTS = {"command": "command", "url": "command", "cwd": "folder", "folder": "folder"}
_TABLES = ("env", "headers")
_NUMBERS = ("timeout", "start_timeout")
_KNOWN = (*_TEXTS, "args", *_TABLES, *_NUMBERS, "type")
# What other programs keep there, and what means nothing here: who may call what is asked when it is called.
_OF_OTHERS = {"alwaysAllow", "autoApprove", "description", "disabled", "gallery", "tools", "transport", "trust"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def server_of(name: str, entry: Any, where: str) -> McpServer:
    """Makes the server that an entry describes; it is not started.

    Args:
        name: Its name.
        entry: The entry, as read from TOML or JSON.
        where: What to call the entry in messages.

    Raises:
        OptionError: If the entry is wrong.
    """
    if not isinstance(entry, Mapping):
        raise OptionError(f"{where} is {quoted(entry)}: write a table with `command`, or with `url`")
    if unknown := sorted(entry.keys() - {*_KNOWN, *_OF_OTHERS}):
        raise OptionError(f"{where}: {quoted(unknown[0])} is unknown; there are {', '.join(_KNOWN)}")
    if ("command" in entry) == ("url" in entry):
        raise OptionError(f"{where} has to have either a `command` or a `url`: give one of them")
    if entry.get("type") == "sse":
        raise OptionError(f"{where} is of the type sse, which is outdated: give the `url` of its streamable HTTP")
    options: dict[str, Any] = {}
    for key, option in _TEXTS.items():
        if key in entry:
            options[option] = _filled(entry[key], f"{where}: {key}")
    if "command" in entry:
        arguments = entry.get("args", [])
        if not isinstance(arguments, list):
            raise OptionError(f"{where}: args is {quoted(arguments)}: write a list of texts")
        words = [_filled(word, f"{where}: args[{number}]") for number, word in enumerate(arguments)]
        options["command"] = [options["command"], *words] if "args" in entry else options["command"]
    for key in _TABLES:
        if not isinstance(table := entry.get(key, {}), Mapping):
            raise OptionError(f"{where}: {key} is {quoted(table)}: write a table of texts")
        if table:
            options[key] = {variable: _filled(text, f"{where}: {key}.{variable}") for variable, text in table.items()}
    options |= {key: entry[key] for key in _NUMBERS if key in entry}
    try:
        return McpServer(**options, name=name)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None


def _filled(text: Any, where: str) -> str:
    """A text with the values of environment variables. Raises OptionError if one is missing."""
    if not isinstance(text, str):
        raise OptionError(f"{where} is {quoted(text)}: write a text in quotes")

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise OptionError(f"{where} needs the environment variable {match[1]}: set it")
        return found

    return _VARIABLE.sub(value, text)
