"""The argument `--mcp`: which servers of tools the model may use. Knows nothing of how they are asked."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import settings
from mlx_oss.errors import OptionError, quoted
from mlx_oss.files import CONFIG_BYTES, expanded, read_bytes

if TYPE_CHECKING:
    from mlx_oss.tools.mcp.server import McpServer

_HELP = """\
server of tools (Model Context Protocol) that the model may use; may be given more than once: NAME=COMMAND runs a
command, NAME=https://HOST/mcp connects to a server that runs, NAME alone is one of the table [mcp] in the file that
`mlx-oss config` names, and FILE.json is a file in which other programs keep theirs, as `mcpServers`"""
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mcp", action="append", default=[], metavar="SERVER", help=_HELP)


def servers(specs: Sequence[str]) -> list[McpServer]:
    """The servers, started. Raises OptionError for one that is not described well, ToolError for one that fails."""
    found = [server for spec in specs for server in _made(spec)]
    names = [server.name for server in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"two servers are called {twice[0]!r}: give --mcp another name for one of them")
    for server in found:
        server.start()
    return found


def _made(spec: str) -> list[McpServer]:
    """The servers of one value of `--mcp`."""
    from mlx_oss.tools.mcp.entries import server_of
    from mlx_oss.tools.mcp.server import McpServer

    if (named := _NAMED.fullmatch(spec)) is not None:
        return [McpServer(named[2], name=named[1])]
    if spec.endswith(".json"):
        return [
            server_of(name, entry, f"{spec}: {name}") for name, entry in _read(spec).items() if not _is_disabled(entry)
        ]
    table = settings.mcp()
    if spec in table:
        return [server_of(spec, table[spec], f"{settings.path()}: mcp.{spec}")]
    known = f"the table [mcp] in {settings.path()} has {', '.join(table)}" if table else "there is no table [mcp] yet"
    raise OptionError(f"--mcp {quoted(spec)}: give NAME=COMMAND, NAME=URL, a file, or the name of a server; {known}")


def _is_disabled(entry: Any) -> bool:
    """Whether another program has been told not to use a server."""
    return isinstance(entry, dict) and entry.get("disabled") is True


def _read(file: str) -> dict[str, Any]:
    """The table of servers in a file of another program."""
    try:
        value = json.loads(read_bytes(expanded(file), CONFIG_BYTES))
    except OSError as error:
        raise OptionError(f"{file} cannot be read ({error.strerror}): give a file with `mcpServers`") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{file} is not JSON ({error}): correct it") from None
    for key in ("mcpServers", "servers"):
        if isinstance(value, dict) and isinstance(table := value.get(key), dict):
            return table
    raise OptionError(f'{file} has no servers: write {{"mcpServers": {{"NAME": {{"command": ..., "args": [...]}}}}}}')
