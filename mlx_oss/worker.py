"""The one thread that computes: everything MLX of all sessions runs on it, in turns of one event each.

MLX's streams belong to the thread that made them, so arrays half computed by one thread cannot be finished by another.
With one thread for all, a session may be used from any thread or task, and sessions side by side take turns. A reader
who is slow holds nothing up but his own session. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")

_NAME = "mlx-oss"
_END = object()
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=_NAME)


def run(function: Callable[[], T]) -> T:
    """What the function returns or raises, run on the computing thread."""
    if _is_this_thread():
        return function()
    return _thread.submit(function).result()


def pulled(generator: Generator[T, None, None]) -> Iterator[T]:
    """The generator's items, each computed on the computing thread when it is asked for.

    Closing it, or an exception while it is waited for (Ctrl-C), closes the generator once its item is done.
    """
    try:
        while (item := run(lambda: next(generator, _END))) is not _END:
            yield cast(T, item)
    finally:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: there is no thread any more
            run(generator.close)


class PulledAsync(AsyncIterator[T]):
    """As `pulled`, for `async for`. A task that is cancelled, and a loop that is left, close the generator."""

    def __init__(self, generator: Generator[T, None, None]) -> None:
        self._generator = generator

    async def __anext__(self) -> T:
        try:
            item = await asyncio.wrap_future(_thread.submit(next, self._generator, _END))
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if item is _END:
            raise StopAsyncIteration
        return cast(T, item)

    async def aclose(self) -> None:
        """Closes the generator once its item is done, and waits for that even if cancelled meanwhile."""
        closed = asyncio.ensure_future(asyncio.wrap_future(_thread.submit(self._generator.close)))
        while not closed.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(closed)

    def __del__(self) -> None:
        with contextlib.suppress(RuntimeError):
            _thread.submit(self._generator.close)  # before anything that the same caller asks for next


def _is_this_thread() -> bool:
    return threading.current_thread().name.startswith(_NAME + "_")
