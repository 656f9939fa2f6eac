"""A server that is a command: starts it, carries messages to and from it, and ends it.

The command runs below `guard.py`. A line that is no message is passed over; one that is too long ends the server. What
the server writes to stderr is kept, and its last lines tell why it ended. Knows nothing of what messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.tools.mcp.fate import Fate
from mlx_oss.tools.mcp.messages import Filter, read

LONGEST_MESSAGE = 16 * 2**20  # bytes
_PIECE = 2**16  # bytes that are read at once
_USELESS, _REST = 100, 0.02  # after so many useless messages, seconds to rest: a server may send them all the time
_KEPT_ERRORS = 4000  # bytes of stderr
_LEAVING, _ENDING = 2.0, 4.0  # seconds in which a server has to end: when its input ends, and when it is killed
_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started.

    Attributes:
        words: The program and its arguments.
        env: Environment variables besides the few that every server gets.
        folder: Where it runs; None for the current folder.
    """

    words: Sequence[str]
    env: Mapping[str, str]
    folder: str | None = None


@asynccontextmanager
async def transport(command: Command, fate: Fate, messages: Filter) -> AsyncIterator[Any]:
    """Runs a server, for the SDK's client.

    Args:
        command: The server.
        fate: Gets to know why it ended.
        messages: Lets its messages through.

    Yields:
        The streams of messages, as the SDK's own transports do.

    Raises:
        OSError: If no process can be started, or the folder does not exist.
    """
    import anyio
    from mcp.client.stdio import get_default_environment

    process, lifeline = await _started(command, {**get_default_environment(), **command.env})
    to_client, from_server = anyio.create_memory_object_stream[Any](0)
    to_server, from_client = anyio.create_memory_object_stream[Any](0)
    carrying = [
        asyncio.create_task(_read(process, to_client, messages, fate)),
        asyncio.create_task(_write(process, from_client, messages)),
        asyncio.create_task(_read_errors(process, fate)),
    ]
    try:
        yield from_server, to_server
    finally:
        for stream in (from_server, to_server):
            stream.close()
        try:
            await _end(process, lifeline, carrying, fate)
        finally:
            for stream in (to_client, from_client):
                stream.close()


async def _started(command: Command, env: Mapping[str, str]) -> tuple[asyncio.subprocess.Process, int]:
    """The process of the guard, and the pipe that it watches."""
    watched, lifeline = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_GUARD), str(watched), *command.words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_PIECE,
            env=env,
            cwd=command.folder,
            pass_fds=(watched,),
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(watched)
    return process, lifeline


class _TooLong(Exception):
    """A line is too long."""


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a stream, of which little is read ahead. Raises _TooLong."""
    pieces, length = list[bytes](), 0
    while piece := await stream.read(_PIECE):
        first, *rest = piece.split(b"\n")
        pieces.append(first)
        length += len(first)
        if length > LONGEST_MESSAGE:
            raise _TooLong
        for begun in rest:
            yield b"".join(pieces)
            pieces, length = [begun], len(begun)


async def _read(process: asyncio.subprocess.Process, to_client: Any, messages: Filter, fate: Fate) -> None:
    """Hands the server's messages to the client."""
    import anyio
    from mcp.shared.message import SessionMessage

    assert process.stdout is not None
    async with to_client:
        try:
            useless = 0
            async for line in _lines(process.stdout):
                message = read(line)
                if message is None:
                    fate.strange_lines += 1
                if message is not None and messages.passed(message):
                    await to_client.send(SessionMessage(message))
                else:
                    useless += 1
                    await asyncio.sleep(0 if useless % _USELESS else _REST)  # they may be all that comes
        except _TooLong:
            fate.reason = f"it sent a message of more than {LONGEST_MESSAGE // 2**20} MiB"
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            return
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.5)  # its status is part of the reason
            fate.status = process.returncode
        fate.over.set()


async def _write(process: asyncio.subprocess.Process, from_client: Any, messages: Filter) -> None:
    """Hands the client's messages to the server."""
    assert process.stdin is not None
    async with from_client:
        with contextlib.suppress(ConnectionError):  # it has ended, which its output will say
            async for message in from_client:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()
                messages.sent(message.message)


async def _read_errors(process: asyncio.subprocess.Process, fate: Fate) -> None:
    assert process.stderr is not None
    with contextlib.suppress(ConnectionError):
        while piece := await process.stderr.read(_PIECE):
            fate.errors = (fate.errors + piece)[-_KEPT_ERRORS:]


async def _end(
    process: asyncio.subprocess.Process, lifeline: int, carrying: Sequence[asyncio.Task[None]], fate: Fate
) -> None:
    """Ends the server: its input ends, and if that is not enough, it is killed."""
    assert process.stdin is not None
    try:
        process.stdin.close()
        if not fate.reason:
            await _ended(process, _LEAVING)
    finally:
        os.close(lifeline)
    if not await _ended(process, _ENDING):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _ended(process, _LEAVING)
    for task in carrying:
        task.cancel()
    await asyncio.gather(*carrying, return_exceptions=True)
    process._transport.close()  # type: ignore[attr-defined]  # a process that inherited the pipes would keep them open


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether a process has ended within so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)  # waiting for the process would also wait for who has inherited its pipes
    return process.returncode is not None
