"""Runs the application until a signal ends it. Knows nothing of what it does."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlx_oss.errors import OptionError
from mlx_oss.server.service import Service

_BACKLOG = 1024
_KEEP_ALIVE_SECONDS = 75
_HEAD_SECONDS = 30.0  # until the first request of a connection has its head
_MOST_CONNECTIONS = 4096
_END_SECONDS = 3.0  # for what still runs after the last answer, or after the second signal
_FILES = 10_240  # that macOS lets a process open at most, if it asks for them; at first it is 256


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OptionError if it cannot."""
    if not 0 <= port <= 65535:
        raise OptionError(f"cannot listen on port {port}: give a --port from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family[0], socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(family[4])
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening
    except (OSError, OverflowError, UnicodeError) as error:
        remedy = "give another --host"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            remedy = "another program uses it; give another --port, 0 for any free one"
        elif getattr(error, "errno", None) == errno.EACCES:
            remedy = "give a --port above 1023"
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot listen on {host} port {port} ({reason}): {remedy}") from None


def serve(app: ASGIApp, service: Service, listening: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM. The first one lets requests finish, the second one does not.

    Args:
        app: The application.
        service: It refuses new requests from the first signal on.
        listening: What `bound` returned.
    """
    _open_more_files()
    server = _Server(configured(app), service)
    try:
        asyncio.run(server.run_until_signal(listening))
    finally:
        server.giving_up.cancel()


def configured(app: ASGIApp, **more: Any) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        limit_concurrency=_MOST_CONNECTIONS,
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        **more,
    )


def _open_more_files() -> None:
    """Lets this process have a connection for each client, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Protocol(H11Protocol):
    """HTTP, with a limit for the time that the first head of a connection takes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._giving_up = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._giving_up.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        # A thread cannot be interrupted, such as one that loads a model, and Python would wait for it.
        self.giving_up = threading.Timer(_END_SECONDS, lambda: os._exit(1 if self.force_exit else 0))
        self.giving_up.daemon = True

    async def run_until_signal(self, listening: socket.socket) -> None:
        """Serves until a signal comes and the requests are answered."""
        await self.serve(sockets=[listening])
        self._give_up_soon()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Has the event loop handle signals until it is closed.

        uvicorn's own handlers would count two signals as one while another thread holds the interpreter.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._take_signal)
        yield

    def _take_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._end_now()
        self._service.is_ending = self.should_exit = True

    def _end_now(self) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would log a traceback for each request
        self._give_up_soon()
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()

    def _give_up_soon(self) -> None:
        with suppress(RuntimeError):  # it has been started
            self.giving_up.start()
