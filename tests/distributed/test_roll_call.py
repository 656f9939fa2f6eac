"""The machines meet before MLX waits for them. Each machine is a thread here."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from mlx_oss.distributed import roll_call
from mlx_oss.distributed.places import Places
from mlx_oss.errors import EngineError
from tests.distributed.machines import free_ports


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(roll_call, "PATIENCE", 1.0)
    monkeypatch.setattr(roll_call, "_BINDING", 0.3)


@pytest.fixture
def three() -> list[Places]:
    """What three machines know of each other."""
    (port,) = free_ports(1)
    listed = tuple(f"127.0.0.1:{5000 + rank}" for rank in range(3))
    allowed = frozenset({"127.0.0.1"})
    return [Places(rank, 3, "ring", "127.0.0.1", port, listed, allowed, "list") for rank in range(3)]


@contextmanager
def meeting(machines: list[Places]) -> Iterator[list[str]]:
    """Machines that meet while the context runs; then what each has found: names of hosts, or an error."""
    results: list[str] = []
    with ThreadPoolExecutor(len(machines)) as threads:
        coming = [threads.submit(roll_call.meet, places) for places in machines]
        yield results
        for each in coming:
            try:
                found = each.result()
                results.append(" ".join(str(rank) for rank in found))
                for stream, _ in found.values():
                    stream.close()
            except EngineError as error:
                results.append(str(error))


@pytest.fixture
def line_to():
    """line_to(places, data) is a connection to the first machine, when it listens, that says something."""
    with ExitStack() as stack:

        def say(places: Places, data: bytes) -> socket.socket:
            end = time.monotonic() + 5
            while True:
                try:
                    stream = socket.create_connection((places.address, places.port), timeout=5)
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.02)
            stack.enter_context(stream).sendall(data)
            return stream

        yield say


def answer(stream: socket.socket):
    with stream.makefile() as lines:
        return json.loads(lines.readline())


def hello(**changed) -> bytes:
    versions = {"mlx-oss": roll_call.__version__, "mlx": roll_call._version("mlx")}
    return json.dumps({"rank": 2, "size": 3, "list": "list", "host": "mac3", "versions": versions} | changed).encode()


def test_all_meet_whoever_else_connects(three, line_to):
    strangers = [b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 10_000, b"[" * 3000 + b"\n", hello(rank="2") + b"\n"]
    with meeting(three[:2]) as found:
        streams = [line_to(three[0], data) for data in strangers for _ in range(20)]
        streams.append(line_to(three[0], hello()[:20]))
        streams[-1].sendall(hello()[20:] + b"\n")
        assert answer(streams[-1])["hosts"] == [socket.gethostname()] * 2 + ["mac3"]
    assert found == ["1 2", "0"]


def test_a_machine_that_does_not_come_is_named_to_all_who_have(three, line_to):
    started = time.monotonic()
    with meeting(three[:2]) as found:
        line_to(three[0], b"").close()
    assert time.monotonic() - started < 10
    assert found[0] == found[1] and found[0].startswith("machine 2 (127.0.0.1:5002) has not come within 1 s")
    with meeting(three[1:]) as found:
        pass
    assert (
        found[0].startswith(f"machine 0 (127.0.0.1, port {three[0].port}) cannot be reached") and len(set(found)) == 1
    )


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"versions": {"mlx-oss": "0.0", "mlx": "x"}}, "machine 2 (mac3) has mlx-oss 0.0, and machine 0 ("),
        ({"list": "other", "size": 4}, "machine 2 (mac3) was told of other machines than machine 0"),
        ({"rank": 1}, "machine 2 (127.0.0.1:5002) has not come"),
    ],
)
def test_one_that_does_not_fit_is_named_to_all(three, line_to, changed, says):
    with meeting(three[:1]) as found:
        streams = [line_to(three[0], hello(rank=1, host="mac2") + b"\n")]
        time.sleep(0.2)
        streams.append(line_to(three[0], hello(**changed) + b"\n"))
        told = [answer(stream)["end"] for stream in streams]
    assert says in found[0] and told[0] == found[0]
    assert told[1] == found[0] or "other machines" in told[1] or "two machines 1" in told[1]


def test_one_that_has_come_and_gone_is_named(three, line_to):
    with meeting(three[:1]) as found:
        line_to(three[0], hello() + b"\n").close()
        time.sleep(0.2)
        stream = line_to(three[0], hello(rank=1) + b"\n")
        assert answer(stream)["end"].startswith("machine 2 (mac3) has ended: ")
    assert found[0].startswith("machine 2 (mac3) has ended: ")


def test_who_is_not_in_the_list_is_refused_and_told(three, line_to):
    first = replace(three[0], allowed=frozenset({"10.0.0.1"}))
    with meeting([first]) as found:
        stream = line_to(first, b"")
        assert answer(stream)["end"].startswith("127.0.0.1 is not in the list")
    assert "a connection from 127.0.0.1 was refused, which is not in the list of the machines" in found[0]


def test_two_runs_with_the_same_ports_are_told_so(three):
    with meeting(three) as found:
        pass
    assert found == ["1 2", "0", "0"]
    with meeting(three[:2]) as found:  # while the first run is there
        pass
    assert all("another program uses it, perhaps another run of `mlx.launch`" in each for each in found)
    assert all("--starting-port" in each for each in found)


def test_an_address_of_another_machine_cannot_be_that_of_the_first(three):
    with meeting([replace(three[0], address="192.0.2.1")]) as found:
        pass
    assert "cannot wait for the others at port" in found[0] and "an address of its own" in found[0]
    assert found[0].count("192.0.2.1") == 1
