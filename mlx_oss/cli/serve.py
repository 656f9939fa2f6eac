"""`mlx-oss serve`: serves a model to other programs, by the APIs of OpenAI and Anthropic, and a page in the browser."""

from __future__ import annotations

import argparse
import os
import re
import socket
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import mcp_arguments, model_arguments, settings, tool_arguments
from mlx_oss.distributed import is_launched
from mlx_oss.errors import MlxOssError, OptionError
from mlx_oss.files import expanded
from mlx_oss.terminal import report, say, show_log
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.generation.engine import Engine
    from mlx_oss.server.page.api import PageApi
    from mlx_oss.server.service import Service
    from mlx_oss.server.toolbox import BuiltinTool
    from mlx_oss.tokenizer import Tokenizer

PORT = 8642
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#*]+")
_KEY = "MLX_OSS_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_model_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default 127.0.0.1, this machine)"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"port to listen on; 0 for any free one (default {PORT})"
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"key that clients have to give; needed to listen elsewhere than on this machine (default: ${_KEY})",
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of web pages that may use the server, such as http://localhost:3000; may be given more than once",
    )
    parser.add_argument(
        "--max-requests",
        type=int,
        default=256,
        metavar="N",
        help="requests that are answered or wait at the same time; more are refused with status 429 (default 256)",
    )
    parser.add_argument(
        "--idle-unload",
        type=float,
        metavar="MINUTES",
        help="free the memory of the model after so many minutes without a request (default: never)",
    )
    parser.add_argument(
        "--store",
        metavar="FILE",
        help="keep responses in this file, so that requests can continue them by previous_response_id also after the "
        "server was started again; it takes up to 1 GiB, and only you can read it (default: in memory, 64 MiB)",
    )
    tool_arguments.add_arguments(parser)
    parser.add_argument("--log-prompts", action="store_true", help="also log what is asked (default: never)")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()  # before the imports below
    from mlx_oss.constrain import grammar
    from mlx_oss.server.run import bound, serve

    service = make_service(args)
    app = make_application(args, service)
    listening = bound(args.host, args.port)
    host, port = listening.getsockname()[:2]
    show_log("mlx_oss.server")
    _greet(_address(host, port), service.models.names[0], has_key=bool(_key(args)))
    # Otherwise the first request with a schema would hold up all others for a second.
    threading.Thread(target=grammar.prepare, name="mlx-oss grammar", daemon=True).start()
    serve(app, service, listening)
    return 0


def make_service(args: argparse.Namespace) -> Service:
    """What answers requests. Raises OptionError if an argument is wrong"""
    from mlx_oss.server.models import Models
    from mlx_oss.server.service import Service
    from mlx_oss.server.toolbox import BuiltinTool
    from mlx_oss.weights.layouts.checkpoint import open_model

    if args.max_requests < 1:
        raise OptionError(f"--max-requests is {args.max_requests}: give at least 1")
    for origin in args.cors:
        if not _ORIGIN.fullmatch(origin):
            raise OptionError(f"--cors {origin} is no origin: give one such as http://localhost:3000, without a path")
    if args.idle_unload is not None and not args.idle_unload > 0:
        raise OptionError(f"--idle-unload is {args.idle_unload}: give minutes, more than 0")
    name = args.model or settings.model() or NANO
    if name == NANO and args.model is None:
        say(model_arguments.NANO_NOTE.format(command="serve"))
    if is_launched():  # several machines load one model, at the same time
        models = Models.holding(name, *model_arguments.load_named(args, name))
    else:
        # It is loaded by the first request, but what cannot be loaded is told now.
        open_model(model_arguments.folder_of(name, dtype=args.dtype, memory=args.memory, context=args.context))
        models = Models(
            name,
            partial(_load, args),
            others=_others,
            fits=partial(_fits, args),
            idle_seconds=None if args.idle_unload is None else 60 * args.idle_unload,
        )
    tools = dict(_builtin(spec) for spec in args.tools)
    for server in mcp_arguments.servers(args.mcp):
        if server.name in tools:
            raise OptionError(f"a tool and a server are called {server.name!r}: give --mcp another name for the server")
        tools[server.name] = BuiltinTool(partial(list, [server]), True, server)
    return Service(models, tools, runs_unasked=args.yes, most_requests=args.max_requests)


def make_application(args: argparse.Namespace, service: Service, page: PageApi | None = None) -> Any:
    """The ASGI application. Raises OptionError if it would be open to others without a key.

    Args:
        args: The arguments.
        service: What answers.
        page: The page; None for the usual one.
    """
    from mlx_oss.server.app import application
    from mlx_oss.server.chat_completions import ChatCompletions
    from mlx_oss.server.guard import Access, is_loopback
    from mlx_oss.server.messages import Messages
    from mlx_oss.server.page.api import PageApi
    from mlx_oss.server.page.routes import PUBLIC
    from mlx_oss.server.responses import Responses, Servers, Store

    key = _key(args)
    is_local = args.host == "localhost" or is_loopback(args.host)
    if not is_local and key is None:
        raise OptionError(
            f"--host {args.host} lets other machines use the server: give an --api-key, or ${_KEY}, that they need"
        )
    access = Access(hosts=() if is_local else None, key=key, origins=args.cors, public=PUBLIC)
    simple = {name: tool for name, tool in service.tools.items() if tool.group is None}
    own = [name for name, tool in simple.items() if service.runs_unasked or not tool.needs_confirmation]
    groups = {name: tool.group for name, tool in service.tools.items() if tool.group is not None}
    servers = Servers(groups, service.runs_unasked)
    store = Store(None if args.store is None else expanded(args.store))
    apis = (Responses(store, own, servers), ChatCompletions(own), Messages(own), page or PageApi(service))
    return application(service, apis, access, logs_prompts=args.log_prompts)


def _key(args: argparse.Namespace) -> str | None:
    key: str | None = args.api_key if args.api_key is not None else os.environ.get(_KEY) or None
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise OptionError("the key is empty or has other characters than ASCII: give another --api-key")
    return key


def _load(args: argparse.Namespace, name: str) -> tuple[Engine, Tokenizer]:
    import mlx_oss

    return mlx_oss.load(
        name, dtype=args.dtype, memory=args.memory, context=args.context, wire=model_arguments.wire(args)
    )


def _others() -> Iterable[str]:
    """The other models on this disk that can be loaded."""
    from mlx_oss.weights.hub.copies import all_copies

    return [copy.model.repository for copy in all_copies() if copy.is_whole and copy.has_weights]


def _fits(args: argparse.Namespace, name: str, engines: Iterable[Engine]) -> bool:
    """Whether everything of a model fits into memory beside those that are loaded."""
    import mlx_oss

    try:
        plan = mlx_oss.plan(name, dtype=args.dtype, memory=args.memory, context=args.context)
        loaded = [engine.plan for engine in engines]  # type: ignore[attr-defined]
    except (MlxOssError, AttributeError):
        return False
    limit = min([plan.memory, *(other.memory for other in loaded)])
    return bool(plan.whole_bytes + sum(other.peak_bytes for other in loaded) <= limit)


def _builtin(spec: str) -> tuple[str, BuiltinTool]:
    """The name of a tool that `--tool` has named, and the tool."""
    from mlx_oss.server.toolbox import BuiltinTool
    from mlx_oss.tools.reviews import reviews_of

    tools = tool_arguments.made(spec)  # whatever is wrong with it is told now
    is_file = spec.partition("=")[0].endswith(".py")
    name = os.path.basename(spec).removesuffix(".py") if is_file else spec.partition("=")[0]
    make = (lambda: tools) if is_file else partial(tool_arguments.made, spec)
    return name, BuiltinTool(make, bool(reviews_of(tools)))


def _address(host: str, port: int) -> str:
    """Where the server can be reached; by this machine's name if it listens at all of its addresses."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _greet(address: str, model: str, *, has_key: bool) -> None:
    env_key, key = (f',env_key="{_KEY}"', f"${_KEY}") if has_key else ("", "none")
    provider = f'model_providers.mlx={{name="mlx-oss",base_url="{address}/v1",wire_api="responses"{env_key}}}'
    report(f"{model} at {address}\n")
    report(f"Browser:      {address}")
    report(f"Codex:        codex -m {model} -c model_provider=mlx -c '{provider}'")
    report(f"Claude Code:  ANTHROPIC_BASE_URL={address} ANTHROPIC_AUTH_TOKEN={key} ANTHROPIC_MODEL={model} claude")
    report("\nCtrl-C lets requests finish and ends it; twice ends it at once.")
