"""What another machine says is checked before it is used."""

from __future__ import annotations

import socket
from queue import SimpleQueue

import pytest

from mlx_oss.distributed import peers as peers_module
from mlx_oss.distributed.follower import Follower
from mlx_oss.distributed.peers import Peers
from mlx_oss.distributed.places import Places
from mlx_oss.errors import EngineError

PLACES = Places(0, 2, "ring", "127.0.0.1", 1, ("mac1", "mac2"), None, "")


@pytest.fixture
def other(monkeypatch):
    """(the other machines, a socket by which one of them speaks)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    monkeypatch.setattr(peers_module, "GOODBYE", 0.1)
    peers = Peers(PLACES, {1: (ours, "mac2")})
    peers.listen()
    yield peers, theirs
    theirs.close()
    peers.close()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"[]", "sent something that is no message"),
        (b'"plan"', "sent something that is no message"),
        (b"[" * 100_000, "sent something that is no message"),
        (b'["gone"]', "sent something that is no message"),
        (b'["plan"]', "sent something that was not expected"),
        (b'["plan", "7"]', "sent something that was not expected"),
        (b'["plan", 7, 7]', "sent something that was not expected"),
        (b'["end"]', "has ended"),
    ],
)
def test_a_machine_that_says_what_is_no_message_is_named(other, line, says):
    peers, theirs = other
    theirs.sendall(line + b"\n")
    with pytest.raises(EngineError, match=rf"^machine 1 \(mac2\) {says}"):
        peers.heard(1, "plan", int)


def test_what_is_expected_is_returned(other):
    peers, theirs = other
    theirs.sendall(b'["plan", 7, "a"]\n')
    assert peers.heard(1, "plan", int, str) == [7, "a"]


def test_a_follower_that_is_sent_an_unknown_word_ends_and_names_it():
    told: SimpleQueue[list[str]] = SimpleQueue()
    told.put(["dance"])
    with pytest.raises(EngineError, match=r"^machine 0 sent the unknown word 'dance'"):
        Follower(None).follow(told)  # type: ignore[arg-type]
