"""`mlx-oss mcp`: offers our tools to other programs, as a server of the Model Context Protocol.

Stdout carries nothing but the protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_oss.cli import tool_arguments
from mlx_oss.cli.interrupts import exit_soon, exiting_on_sigterm
from mlx_oss.errors import OptionError
from mlx_oss.terminal import say

if TYPE_CHECKING:
    from mlx_oss.tools.mcp.offered import OfferedTools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    tool_arguments.add_tool_argument(parser)
    parser.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="serve at http://127.0.0.1:N/mcp, for any number of clients, which share the tools; 0 for any free port "
        "(default: serve one client at stdin and stdout)",
    )
    parser.epilog = "A client asks its user before a call runs: --yes is for `chat` and `serve`."


def run(args: argparse.Namespace) -> int:
    if not args.tools:
        raise OptionError("name the tools, such as --tool browser=./notes --tool python")
    if importlib.util.find_spec("mcp") is None:
        raise OptionError("this needs the extra `mcp`: pip install 'mlx-oss[mcp]'")
    from mlx_oss.tools.mcp.offered import OfferedTools

    with _stdout_to_stderr():  # what the files of tools print while they are imported
        tools = OfferedTools([tool for spec in args.tools for tool in tool_arguments.made(spec)])
    with exiting_on_sigterm():
        try:
            if args.port is None:
                asyncio.run(tools.serve_streams())
            else:
                _serve(tools, args.port)
        finally:
            tools.close()
            exit_soon()  # also if a thread still waits for stdin
    return 0


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Sends to stderr what is written to stdout by anything in this process, and by those that it starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _serve(tools: OfferedTools, port: int) -> None:
    """Serves clients on this machine. The SDK refuses requests that a web page elsewhere makes."""
    import uvicorn

    from mlx_oss.server.run import bound
    from mlx_oss.tools.mcp.offered import PATH

    listening = bound("127.0.0.1", port)
    say(f"http://127.0.0.1:{listening.getsockname()[1]}{PATH}\nCtrl-C ends it.")
    app = tools.server.streamable_http_app(streamable_http_path=PATH, host="127.0.0.1")
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])
