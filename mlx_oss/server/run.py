"""Runs the application until a signal ends it. Knows nothing of what it does."""

from __future__ import annotations

import asyncio
import errno
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from mlx_oss.errors import OptionError
from mlx_oss.server.service import Service

_BACKLOG = 1024
_KEEP_ALIVE_SECONDS = 75


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
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    server = _Server(config, service)
    asyncio.run(server.serve(sockets=[listening]))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for each signal. They end here: uvicorn would raise them once more when it has ended."""
        if self.should_exit and self._loop is not None:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._end_now)
        self._service.is_ending = self.should_exit = True

    def _end_now(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
