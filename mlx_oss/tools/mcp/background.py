"""The thread on which the protocol runs: one event loop for all servers of this process. Knows nothing of servers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_process = 0  # whose thread it is: a forked process has none


def loop() -> asyncio.AbstractEventLoop:
    """The loop, which runs."""
    global _loop, _process
    with _lock:
        if _loop is None or _process != os.getpid():
            _loop, _process = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="mlx-oss mcp", daemon=True).start()
        return _loop


def begin(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts work on the loop. Cancelling the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, loop())
