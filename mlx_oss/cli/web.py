"""`mlx-oss chat --web`: the same server as `mlx-oss serve`, on this machine only, with its page in the browser."""

from __future__ import annotations

import argparse
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING, Any

from mlx_oss.arguments import Parser
from mlx_oss.cli import model_arguments, serve
from mlx_oss.errors import OptionError
from mlx_oss.terminal import report, say

if TYPE_CHECKING:
    import socket

    from mlx_oss.server.page.api import PageApi
    from mlx_oss.server.service import Service

_HOST = "127.0.0.1"
_USELESS = {  # what the page has its own ways for, by the name of the argument
    "question": "a question",
    "go_on": "--continue",
    "files": "--file",
    "json": "--json",
    "response_format": "--response-format",
    "no_history": "--no-history",
    "hide_reasoning": "--hide-reasoning",
}


def run(args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C, and opens it in the browser.

    Raises:
        OptionError: If an argument is of no use on the page, or the server cannot start.
    """
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()  # before the imports below
    from mlx_oss.server.run import serve as serve_now

    if useless := [word for name, word in _USELESS.items() if name in args.given and getattr(args, name)]:
        raise OptionError(f"{useless[0]} is of no use with --web: leave it out, and ask on the page")
    usual = Parser()
    serve.add_arguments(usual)
    options = argparse.Namespace(**vars(usual.parse_args([])) | vars(args) | {"host": _HOST})
    service = serve.make_service(options)
    app = serve.make_application(options, service, _page(args, service))
    listening = _bound()
    port = listening.getsockname()[1]
    if port != serve.PORT:
        say(f"port {serve.PORT} is in use: at this other address, the browser keeps other conversations")
    address = f"http://{_HOST}:{port}/"
    report(f"{service.models.names[0]} at {address}\n\nCtrl-C ends it.")
    sys.stdout.flush()
    threading.Thread(target=_open, args=[address], daemon=True).start()  # some browsers return when they are closed
    serve_now(app, service, listening)
    return 0


def _open(address: str) -> None:
    if not webbrowser.open(address):
        say(f"no browser could be started here: open {address} in one")


def _page(args: argparse.Namespace, service: Service) -> PageApi:
    from mlx_oss.server.page.api import PageApi

    free: dict[str, Any] = {
        "options": model_arguments.sampling_options(args),
        "max_tokens": args.max_tokens,
        "max_reasoning_tokens": args.max_reasoning_tokens,
    }
    return PageApi(service, effort=args.reasoning, instructions=args.instructions, free=free)


def _bound() -> socket.socket:
    """Listens where the page was the last time, for browsers keep what belongs to an address; else on a free port."""
    from mlx_oss.server.run import bound

    try:
        return bound(_HOST, serve.PORT)
    except OptionError:
        return bound(_HOST, 0)
