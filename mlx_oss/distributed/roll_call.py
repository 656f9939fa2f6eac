"""The machines meet before MLX waits for them: who has come, and with which versions.

MLX waits without an end for a machine that does not come, and does not say which. Here the first machine listens for a
limited time; then it tells all who have come whether all are there and run the same, or who is missing and what
differs. Every line is short, and nobody waits for one who says nothing. Does not import MLX, which takes seconds.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlx_oss.distributed.places import MEETING, Places
from mlx_oss.errors import EngineError
from mlx_oss.version import __version__

# Seconds in which all machines have to come: `mlx.launch` starts them at the same time, ssh and Python take one or two
# of them, and with those all have ended within ten.
PATIENCE = 8.0
_HELLO = 2.0  # seconds in which one that has connected has to say who it is
_BINDING = 3.0  # seconds in which a port has to become free: those that held it before may be about to end
_AGAIN = 0.1  # seconds between two attempts to connect
_LONGEST = 4000  # bytes of a line
_STRANGERS = 64  # connections of which nothing is known yet

_OTHER_RUN = (
    "another program uses it, perhaps another run of `mlx.launch`: give this one other ports, `mlx.launch "
    "--starting-port 34000`"
)


@dataclass
class _Guest:
    """A connection of which little is known."""

    stream: socket.socket
    address: str
    end: float
    data: bytes = b""
    hello: dict[str, Any] = field(default_factory=dict)


def meet(places: Places) -> dict[int, tuple[socket.socket, str]]:
    """Connects the machines: the first one to all others, and those to it. Returns them with their host names.

    Raises:
        EngineError: If one has not come, or has something else than the first. All who have come are told the same.
    """
    own = {
        "rank": places.rank,
        "size": places.size,
        "list": places.digest,
        "host": socket.gethostname()[:100] or "no name",
        "versions": {"mlx-oss": __version__, "mlx": _version("mlx")},
    }
    if places.rank:
        return _come(places, own)
    server = _listen(places)
    try:
        found = _Call(places, own, server).all()
    except BaseException:
        server.close()
        raise
    threading.Thread(target=_refuse, args=(server, places.port), name="mlx-oss port", daemon=True).start()
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _listen(places: Places) -> socket.socket:
    end = time.monotonic() + _BINDING
    family = socket.AF_INET6 if ":" in places.address else socket.AF_INET
    while True:
        try:
            return socket.create_server((places.address, places.port), family=family, backlog=128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < end:
                time.sleep(_AGAIN)
                continue
            where = f"port {places.port} of {places.address}"
            if error.errno == errno.EADDRINUSE:
                raise EngineError(f"the machines cannot meet at {where}: {_OTHER_RUN}") from None
            reason = os.strerror(error.errno) if error.errno else error  # `create_server` adds the address to its own
            raise EngineError(
                f"machine 0 ({socket.gethostname()}) cannot wait for the others at {where} "
                f"({reason}): the list of the machines has to begin with an address of its own"
            ) from None


def _refuse(server: socket.socket, port: int) -> None:
    """Answers the machines of another run that uses the same port, for as long as this process lives."""
    answer = _line({"end": f"the machines cannot meet at port {port}: {_OTHER_RUN}"})
    while True:
        try:
            stream, _ = server.accept()
            with stream:
                stream.settimeout(_AGAIN)
                stream.sendall(answer)
        except OSError:
            time.sleep(_AGAIN)


class _Call:
    """What the first machine does until all have come, or the time is over."""

    def __init__(self, places: Places, own: dict[str, Any], server: socket.socket) -> None:
        self._places, self._own, self._server = places, own, server
        self._came: dict[int, _Guest] = {}
        self._strangers: list[_Guest] = []
        self._problems: list[str] = []
        self._notes: list[str] = []  # what may be why one is missing
        self._selector = selectors.DefaultSelector()

    def all(self) -> dict[int, tuple[socket.socket, str]]:
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        try:
            return self._call()
        except BaseException:
            for guest in self._came.values():
                guest.stream.close()
            raise
        finally:
            self._selector.close()
            self._server.setblocking(True)
            for guest in self._strangers:
                guest.stream.close()

    def _call(self) -> dict[int, tuple[socket.socket, str]]:
        size, end = self._places.size, time.monotonic() + PATIENCE
        while len(self._came) < size - 1 and (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left, _HELLO / 4)):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)
            for guest in [each for each in self._strangers if each.end < time.monotonic()]:
                self._dismiss(guest)
        missing = [self._places.name(rank) for rank in range(1, size) if rank not in self._came]
        if missing:
            has = "has" if len(missing) == 1 else "have"
            self._problems += [f"{', '.join(missing)} {has} not come within {PATIENCE:g} s", *self._notes]
        for rank, guest in sorted(self._came.items()):
            self._compare(rank, guest)
        hosts = [self._own["host"], *(guest.hello["host"] for _, guest in sorted(self._came.items()))]
        problem = f"{'; '.join(self._problems)}: `mlx-oss hosts check` says more" if self._problems else ""
        for guest in self._came.values():
            _answer(guest.stream, {"end": problem} if problem else {"hosts": hosts})
        if problem:
            raise EngineError(problem)
        return {rank: (guest.stream, guest.hello["host"]) for rank, guest in sorted(self._came.items())}

    def _accept(self) -> None:
        try:
            stream, address = self._server.accept()
        except OSError:
            return
        guest = _Guest(stream, address[0], time.monotonic() + _HELLO)
        allowed = self._places.allowed
        if allowed is not None and guest.address not in allowed:
            self._note(f"a connection from {guest.address} was refused, which is not in the list of the machines")
            _answer(stream, {"end": f"{guest.address} is not in the list of the machines that machine 0 has"})
            stream.close()
            return
        stream.setblocking(False)
        self._selector.register(stream, selectors.EVENT_READ, guest)
        self._strangers.append(guest)
        if len(self._strangers) > _STRANGERS:
            self._dismiss(self._strangers[0])

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < 8:
            self._notes.append(text)

    def _dismiss(self, guest: _Guest) -> None:
        self._strangers.remove(guest)
        self._selector.unregister(guest.stream)
        guest.stream.close()

    def _hear(self, guest: _Guest) -> None:
        try:
            data = guest.stream.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if guest.hello:  # it has come, and has nothing more to say
            self._selector.unregister(guest.stream)
            self._problems.append(f"{self._places.name(guest.hello['rank'], guest.hello['host'])} has ended")
            return
        guest.data += data
        if data and b"\n" not in data and len(guest.data) < _LONGEST:
            return
        hello = _hello(guest.data)
        if hello is None:
            self._dismiss(guest)
        elif not 0 < hello["rank"] < self._places.size or hello["list"] != self._places.digest:
            reason = f"machine {hello['rank']} ({hello['host']}) was told of other machines than machine 0"
            self._note(reason)
            _answer(guest.stream, {"end": f"{reason}: start all of them by one `mlx.launch`"})
            self._dismiss(guest)
        elif hello["rank"] in self._came:
            _answer(guest.stream, {"end": f"there are two machines {hello['rank']} at port {self._places.port}"})
            self._dismiss(guest)
        else:
            guest.hello = hello
            self._strangers.remove(guest)
            self._came[hello["rank"]] = guest

    def _compare(self, rank: int, guest: _Guest) -> None:
        for what, value in self._own["versions"].items():
            if (other := guest.hello["versions"].get(what)) != value:
                self._problems.append(
                    f"{self._places.name(rank, guest.hello['host'])} has {what} {other}, and machine 0 "
                    f"({self._own['host']}) {value}: install the same version on both"
                )


def _hello(data: bytes) -> dict[str, Any] | None:
    """What another machine says of itself, if that is complete and of the right kind."""
    line, end, rest = data.partition(b"\n")
    if not end or rest:
        return None
    try:
        found = json.loads(line)
        kinds = {"rank": int, "size": int, "list": str, "host": str, "versions": dict}
        good = set(found) == set(kinds) and all(type(found[name]) is kind for name, kind in kinds.items())
        good = good and all(isinstance(each, str) for each in found["versions"].values())
        good = good and 0 < len(found["host"]) <= 100
    except (ValueError, RecursionError, TypeError):
        return None
    return found if good else None


def _come(places: Places, own: dict[str, Any]) -> dict[int, tuple[socket.socket, str]]:
    """Goes to the first machine, and waits until that says that all are there."""
    end, first = time.monotonic() + PATIENCE, f"machine 0 ({places.address}, port {places.port})"
    while True:
        try:
            left = max(_AGAIN, end - time.monotonic())
            stream = socket.create_connection((places.address, places.port), timeout=left)
            break
        except OSError as error:
            if time.monotonic() + _AGAIN > end:
                raise EngineError(
                    f"{first} cannot be reached within {PATIENCE:g} s ({error.strerror or error}): is it running, and "
                    f"is no firewall between the machines? {MEETING} names another address, if it is only reached at "
                    "one that is not in the list of the machines"
                ) from None
            time.sleep(_AGAIN)
    try:
        answer = _asked(stream, own, first)
        if (reason := answer.get("end")) is not None:
            raise EngineError(str(reason))
    except BaseException:
        stream.close()
        raise
    return {0: (stream, str(answer["hosts"][0]))}


def _asked(stream: socket.socket, own: dict[str, Any], first: str) -> dict[str, Any]:
    stream.settimeout(PATIENCE + _HELLO)  # the first one may have begun to wait just now
    try:
        stream.sendall(_line(own))
        return _answered(stream)
    except TimeoutError:
        raise EngineError(f"{first} has not said within {PATIENCE + _HELLO:g} s whether all have come") from None
    except (OSError, ValueError, RecursionError):
        raise EngineError(f"{first} has ended before all machines had come: its output says why") from None


def _answered(stream: socket.socket) -> dict[str, Any]:
    """The line with which the first machine answers. Raises ValueError if it is none."""
    data, end = b"", time.monotonic() + PATIENCE + _HELLO
    while not data.endswith(b"\n"):
        stream.settimeout(max(_AGAIN, end - time.monotonic()))
        piece = stream.recv(1)  # no more: what follows is read by others
        if not piece or len(data) > 16 * _LONGEST:
            raise ValueError
        data += piece
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError
    hosts = found.get("hosts")
    if "end" not in found and not (isinstance(hosts, list) and hosts):
        raise ValueError
    return found


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _answer(stream: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):
        stream.settimeout(_AGAIN)
        stream.sendall(_line(message))
