"""McpServer: a server of tools by the Model Context Protocol, as a tool of a session.

    server = McpServer("npx -y @modelcontextprotocol/server-filesystem ./notes", name="notes")
    session = ChatSession(model, tokenizer, tools=[server])

Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import re
import shlex
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

from mlx_oss.errors import OptionError, ToolError, quoted, shortened
from mlx_oss.harmony import ToolNamespace
from mlx_oss.shield import shield
from mlx_oss.tools import progress
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.group import ToolGroup
from mlx_oss.tools.mcp import background, contents, http, stdio
from mlx_oss.tools.mcp.connection import Connection, problem
from mlx_oss.tools.mcp.fate import Fate
from mlx_oss.tools.mcp.listing import RESERVED, Listing, listing, name_of_server
from mlx_oss.tools.mcp.messages import Filter
from mlx_oss.tools.results import WithAttachments

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ADDRESS = ("http://", "https://")
_LONGEST_SHOWN = 200  # characters of a command in a message
_LONGEST_CALL = 10  # times the timeout: a call that tells of its progress goes on, but not for ever
_LISTING = 2.0  # seconds that a turn waits for a list that is being asked for
_GIVING_UP = 2.0  # seconds until a server knows that a call is cancelled
_CLOSING = 15.0  # seconds that `close` waits
_PAUSE = 0.5  # seconds between two such lists
_running: weakref.WeakSet[McpServer] = weakref.WeakSet()


class McpServer(ToolGroup):
    """A server of tools by the Model Context Protocol.

    It is started when a session first needs it, or by `start`. Its tools are functions in a namespace of their own. A
    server that ends while a session lives is started again at the next call, once; the model reads in the result what
    happened. May be shared by sessions, and used from any thread. Needs the extra `mcp`.

    Args:
        command: The command that runs the server, as a line or as a list of words, or the address (http:// or https://)
            of one that runs.
        name: The namespace of its tools. None: as the server calls itself.
        env: Environment variables for the command. It gets only a few others, such as HOME and PATH.
        folder: Where the command runs. None: in the current folder.
        headers: Headers for an address, such as {"Authorization": "Bearer ..."}.
        timeout: Seconds that a call may take without a sign of progress.
        start_timeout: Seconds in which the server has to be ready.
        longest_result: Characters of a result that the model reads. From the middle of a longer one something is left
            out.

    Raises:
        OptionError: If an argument is invalid, or the extra `mcp` is not installed.
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 120,
        start_timeout: float = 60,
        longest_result: int = 50_000,
    ) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise OptionError("MCP servers need the extra `mcp`: pip install 'mlx-oss[mcp]'")
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise OptionError(f"the name of the server is {quoted(name)}: use letters, digits, _ and -")
        if name in RESERVED:
            raise OptionError(f"a server cannot be called {name!r}, which is reserved: choose another name")
        for limit, value in (
            ("timeout", timeout),
            ("start_timeout", start_timeout),
            ("longest_result", longest_result),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**8:
                raise OptionError(f"{limit} is {quoted(value)}, expected a number above 0")
        self._timeout, self._start_timeout, self._longest = timeout, start_timeout, int(longest_result)
        self._named, self._open, self._what = name, *_opener(command, env, folder, headers)
        self._is_remote = self._what.startswith(_ADDRESS)
        self._starting = threading.Lock()
        self._listing: Listing | None = None
        self._tools: dict[str, Tool] = {}  # all that there ever were
        self._is_closed = False
        # On the loop of `background`:
        self._connection: Connection | None = None
        self._renewing = asyncio.Lock()
        self._may_restart = True
        self._calls: set[asyncio.Task[Any]] = set()
        self._lists: asyncio.Task[None] | None = None
        self._has_changed = False

    def __repr__(self) -> str:
        return f"McpServer({self._what!r})"

    @property
    def name(self) -> str:
        """The namespace of its tools. Starts the server if it has not been named."""
        return self._named or self.namespace.name

    def start(self) -> None:
        """Starts the server if it does not run.

        Raises:
            ToolError: If it cannot be started. The message says why, and what to do.
        """
        with self._starting:
            if self._is_closed:
                raise ToolError(f"the MCP server {self._label} has been closed: make a new McpServer")
            if self._listing is not None:
                return
            starting = background.begin(self._start())
            shield(starting.result, starting.cancel)

    def cancel(self) -> None:
        """Stops all calls that run, and tells the server. The model reads that they were stopped, and goes on."""
        background.loop().call_soon_threadsafe(lambda: [call.cancel() for call in list(self._calls)])

    def close(self) -> None:
        """Ends the server, and waits until it has ended. It cannot be started again."""
        self._is_closed = True
        if self in _running:
            with contextlib.suppress(Exception):
                closing = background.begin(self._close())
                shield(lambda: closing.result(_CLOSING))

    def __enter__(self) -> McpServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def namespace(self) -> ToolNamespace:
        """What the server offers now. Starts it if it does not run. Raises ToolError if it cannot be started."""
        if self._listing is None:
            self.start()
        assert self._listing is not None
        return self._listing.namespace

    @property
    def originals(self) -> Mapping[str, str]:
        """By the names of its tools in the namespace: the server's own names for them."""
        return {} if self._listing is None else self._listing.originals

    def tool(self, name: str) -> Tool | None:
        """The function with this name; None if there never was one.

        Args:
            name: Its name in the namespace.
        """
        return self._tools.get(name)

    def latest(self) -> Future[object] | None:
        """What a turn waits for if the server has just said that its tools have changed; None otherwise."""
        lists = self._lists
        return None if lists is None or lists.done() else background.begin(_ended(lists))

    @property
    def _label(self) -> str:
        return self._named or (self._listing.namespace.name if self._listing else self._what)

    # What follows runs on the loop of `background`.

    async def _start(self) -> None:
        """Starts the server and asks for its tools. Raises ToolError with a remedy."""
        connection = Connection(self._open, self._take_change)
        _running.add(self)
        try:
            await connection.start(self._start_timeout)
            async with asyncio.timeout(self._start_timeout):
                tools = await connection.tools()
        except Exception as error:
            late = f"it did not list its tools within {self._start_timeout:g} s{connection.why}"
            reason = late if isinstance(error, TimeoutError) else problem(error)
            await connection.close()
            raise ToolError(f"the MCP server {self._label} cannot be used: {reason}; {self._remedy}") from None
        except BaseException:
            await connection.close()
            raise
        if self._is_closed:  # meanwhile
            await connection.close()
            raise ToolError(f"the MCP server {self._label} has been closed")
        self._connection = connection
        self._take(tools)

    @property
    def _remedy(self) -> str:
        if self._is_remote:
            return f"check that it runs at {self._what}, and the headers that it needs"
        return "check that its command runs in a terminal, and the variables in `env` that it needs"

    def _take(self, tools: Sequence[Any]) -> None:
        """Takes a list of tools."""
        connection = self._connection
        assert connection is not None
        found = listing(self._given_name(connection), connection.instructions, tools)
        for described in found.namespace.tools:
            original = found.originals[described.name]
            handler, most = partial(self._answer, original), _LONGEST_CALL * self._timeout + self._start_timeout + 15
            self._tools[described.name] = Tool(described, handler, timeout=min(most, threading.TIMEOUT_MAX))
        self._listing = found

    def _given_name(self, connection: Connection) -> str:
        """The name, which never changes once it is known."""
        return self._named or (self._listing.namespace.name if self._listing else name_of_server(connection.name))

    def _take_change(self) -> None:
        """The server says that its tools have changed."""
        self._has_changed = True
        if self._connection is not None and (self._lists is None or self._lists.done()):
            self._lists = asyncio.create_task(self._list_again())

    async def _list_again(self) -> None:
        while self._has_changed and (connection := self._connection) is not None and not connection.is_over:
            self._has_changed = False
            with contextlib.suppress(Exception):  # then what is known stays
                async with asyncio.timeout(self._start_timeout):
                    tools = await connection.tools()
                if connection is self._connection:
                    self._take(tools)
            await asyncio.sleep(_PAUSE if self._has_changed else 0)

    async def _close(self) -> None:
        if (connection := self._connection) is not None:
            await connection.close()
        _running.discard(self)

    async def _answer(self, original: str, /, **arguments: Any) -> WithAttachments:
        """Runs a call; the handler of the tools, which runs in the loop of whoever calls."""
        report = progress.listener.get()
        return await asyncio.wrap_future(background.begin(self._call(original, arguments, report)))

    async def _call(
        self, original: str, arguments: Mapping[str, Any], report: progress.Report | None
    ) -> WithAttachments:
        connection = await self._connected()
        call = asyncio.create_task(self._within_time(connection, original, arguments, report))
        self._calls.add(call)
        try:
            await asyncio.wait([call])
            if call.cancelled():
                raise ToolError(STOPPED)
            result = call.result()
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.wait([call], timeout=_GIVING_UP)  # until the server has been told
            raise
        except TimeoutError:
            raise ToolError(
                f"the call took longer than {self._timeout:g} s without a sign of progress and was stopped"
            ) from None
        except ToolError:
            raise
        except Exception as error:
            if not connection.is_over:
                raise ToolError(problem(error)) from None
            raise ToolError(await self._after_end(connection)) from None
        finally:
            self._calls.discard(call)
        self._may_restart = True
        read = contents.read(result, self._longest)
        if result.is_error:
            raise ToolError(read.text.removeprefix("Error: "))  # which the result begins with anyway
        return read

    async def _within_time(
        self, connection: Connection, original: str, arguments: Mapping[str, Any], report: progress.Report | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        last = loop.time() + _LONGEST_CALL * self._timeout
        limit = asyncio.timeout(self._timeout)

        async def take(done: float, total: float | None, text: str | None) -> None:
            if report is not None:
                report(done, total, text or "")
            if not limit.expired():
                limit.reschedule(min(loop.time() + self._timeout, last))

        try:
            async with limit:
                return await connection.call(original, arguments, take)
        except asyncio.CancelledError:
            if limit.expired():  # the SDK counts cancellations in its own way, so asyncio may not know this as its own
                raise TimeoutError from None
            raise

    async def _connected(self) -> Connection:
        """The connection; a server that has ended is started again. Raises ToolError if it has ended too often."""
        async with self._renewing:
            connection = self._connection
            if self._is_closed or connection is None:
                raise ToolError(f"the MCP server {self._label} has been closed")
            if not connection.is_over:
                return connection
            if not self._may_restart:
                raise ToolError(f"the MCP server {self._label} has ended again{connection.why}: do without it")
            self._may_restart = self._is_remote  # somebody else starts it
            await connection.close()
            await self._start()
            assert self._connection is not None
            return self._connection

    async def _after_end(self, ended: Connection) -> str:
        """Starts a server that has ended during a call again, if it may be. Returns what the model reads."""
        told = f"the MCP server {self._label} ended during the call{ended.why}"
        if not self._may_restart:
            return f"{told}: it has ended before, do without it"
        try:
            await self._connected()
        except ToolError as error:
            return f"{told}, and starting it again failed: {error}"
        return f"{told}. It has been started again: the call may be repeated, if it does no harm to do it twice"


def _opener(
    command: str | Sequence[str],
    env: Mapping[str, str] | None,
    folder: str | Path | None,
    headers: Mapping[str, str] | None,
) -> tuple[Callable[[Fate, Filter], AbstractAsyncContextManager[Any]], str]:
    """What opens the transport, and what to call the server in messages. Raises OptionError."""
    for option, values in (("env", env), ("headers", headers)):
        if values is not None and not (
            isinstance(values, Mapping)
            and all(isinstance(text, str) and "\0" not in text for pair in values.items() for text in pair)
        ):
            raise OptionError(f"{option} is not a dict of texts: give {option}={{'NAME': 'value'}}")
    if isinstance(command, str) and command.startswith(_ADDRESS):
        if env or folder:
            raise OptionError(f"{quoted(command)} is an address, which has no env and folder: give headers")
        return partial(http.transport, command, dict(headers or {})), command.partition("?")[0]
    if headers:
        raise OptionError("headers are only for a server with an address: give a command `env`")
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except (TypeError, ValueError) as error:
        raise OptionError(f"the command of the MCP server cannot be read ({error}): {quoted(command)}") from None
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        raise OptionError(f"{quoted(command)} is no command: give the command of a server, or its address (http://...)")
    if folder is not None and not Path(folder).is_dir():
        raise OptionError(f"{folder} is not a folder: give the one in which the server runs")
    started = stdio.Command(words, dict(env or {}), None if folder is None else str(folder))
    return partial(stdio.transport, started), shortened(shlex.join(words), _LONGEST_SHOWN)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task], timeout=_LISTING)


def _close_all() -> None:
    """Ends all servers when the program ends; their guards end them if that is not reached."""
    with contextlib.suppress(Exception):
        closing = [background.begin(server._close()) for server in list(_running)]
        for future in closing:
            future.result(10)


atexit.register(_close_all)
