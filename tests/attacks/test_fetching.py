"""Attacks on what the browser fetches: servers that never end, addresses in disguise, secrets that must not travel."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from mlx_oss.errors import ToolError
from mlx_oss.tools import BrowserTool, Web
from mlx_oss.tools.browser import addresses, fetching, web
from tests.attacks.servers import Server, response, serving

ENDPOINT = "https://host.test/?q={query}"
HANG = 60.0


def forever(*pieces: bytes, every: float = 0.01) -> Callable[[socket.socket, bytes], None]:
    """An answer that begins with the pieces and repeats the last one as long as somebody listens."""

    def answer(connection: socket.socket, _: bytes) -> None:
        for piece in itertools.chain(pieces, itertools.repeat(pieces[-1])):
            connection.sendall(piece)
            time.sleep(every)

    return answer


def silent(connection: socket.socket, _: bytes) -> None:
    connection.recv(1)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
SLOW = {
    "no answer": silent,
    "headers that drip": forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "a header that drips": forever(HEAD + b"X: ", b"y"),
    "a status that drips": forever(b"H", b"T"),
    "answers that announce an answer": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body that drips": forever(HEAD + b"\r\n", b"x"),
    "chunks that drip": forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk's size that drips": forever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "nothing in gzip": forever(HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"")[:10], b"\0\0\0\xff\xff"),
}


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_fetch_ends_at_its_deadline_whatever_the_server_does(monkeypatch, kind, scheme):
    monkeypatch.setattr(fetching, "_DEADLINE", 0.5)
    with serving(SLOW[kind]) as server:
        start = time.monotonic()
        with pytest.raises(ToolError):
            Web(ENDPOINT, private=True).fetch(f"{scheme}://127.0.0.1:{server.port}/")
        assert time.monotonic() - start < HANG / 2
        if server.begun.is_set():  # on a busy machine the time may be up before it is connected
            assert server.left.wait(HANG)  # its connection is closed, not left to a thread


@pytest.mark.parametrize("kind", SLOW)
def test_a_fetch_can_be_cancelled_whatever_the_server_does_and_the_next_one_works(kind):
    with serving(SLOW[kind]) as server, serving(response(b"fine")) as other:
        tool, errors = BrowserTool(Web(ENDPOINT, private=True)), []

        def run() -> None:
            try:
                tool.open(f"http://127.0.0.1:{server.port}/")
            except ToolError as error:
                errors.append(str(error))

        opening = threading.Thread(target=run, daemon=True)
        opening.start()
        assert server.begun.wait(HANG)
        tool.cancel()
        opening.join(10)  # the deadline is later
        assert errors == ["stopped before it was done"]
        assert server.left.wait(HANG)
        tool._stopped.clear()
        assert "fine" in tool.open(f"http://127.0.0.1:{other.port}/")


def test_a_search_ends_at_its_deadline_too(monkeypatch):
    monkeypatch.setattr(fetching, "_DEADLINE", 0.5)
    with serving(SLOW["headers that drip"]) as server, pytest.raises(ToolError, match="search failed"):
        Web(f"http://127.0.0.1:{server.port}/?q={{query}}").search("x", 3)


def test_looking_up_a_name_can_be_cancelled(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: released.wait(HANG) and [])
    backend = Web(ENDPOINT)
    threading.Timer(0.1, backend.stopped.set).start()
    start = time.monotonic()
    with pytest.raises(ToolError, match="stopped"):
        backend.fetch("http://example.test/")
    assert time.monotonic() - start < HANG / 2
    released.set()


def test_redirects_share_one_deadline(monkeypatch):
    monkeypatch.setattr(fetching, "_DEADLINE", 1.0)
    monkeypatch.setattr(fetching, "_REDIRECTS", 10_000)

    def answer(connection: socket.socket, _: bytes) -> None:
        time.sleep(0.1)
        connection.sendall(response(status="302 Found", Location=f"/{time.monotonic()}"))

    with serving(answer) as server, pytest.raises(ToolError, match="within 1 seconds"):
        Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("encoding", [", ".join(["gzip"] * 3000), "gzip, gzip", "br", "zstd", "x" * 5000])
def test_content_in_an_encoding_that_was_not_asked_for_is_refused(encoding):
    body = gzip.compress(gzip.compress(b"fine"))
    with serving(response(body, Content_Encoding=encoding)) as server:
        with pytest.raises(ToolError, match="encoded as") as caught:
            Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/")
        assert len(str(caught.value)) < 500


def raw_deflate(content: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(content) + packing.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate), ("", bytes)]
)
def test_content_in_one_encoding_is_read_up_to_the_limit(encoding, pack):
    for content in (b"fine", b"x" * (16 << 20)):
        with serving(response(pack(content), Content_Encoding=encoding)) as server:
            page = Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/")
        assert page.body == content[: web._MAX_BYTES].decode()


def test_damaged_content_is_explained_in_a_sentence():
    with serving(response(b"no gzip", Content_Encoding="gzip")) as server, pytest.raises(ToolError, match="damaged"):
        Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "unicode_escape", "base64", "rot13", "undefined", "x" * 9000, "\1"]
)
def test_an_encoding_that_no_page_has_is_read_as_utf_8(charset):
    with serving(response("Grüße".encode() + b" a-" * 100_000, f"text/plain; charset={charset}")) as server:
        page = Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/")
    assert page.body.startswith("Grüße a-")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"results":' * 50_000,
        b"9" * 100_000,
        b"\xff",
        b"",
        b"null",
        b'{"results": {}}',
        b"[" * 9 + b"]" * 9,
    ],
)
def test_a_search_result_that_is_no_list_of_results_is_explained_or_empty(body):
    with serving(response(body, "application/json")) as server:
        try:
            page = Web(f"http://127.0.0.1:{server.port}/?q={{query}}").search("x", 3)
        except ToolError as error:
            assert "the search failed" in str(error) and len(str(error)) < 500
        else:
            assert "No results." in page.text


def test_long_titles_and_summaries_of_results_are_shortened():
    results = [{"title": "t" * 10**6, "content": "c" * 10**6, "url": "http://a.test/"}] * 2 + [
        {"url": "http://a/" * 9999}
    ]
    with serving(response(json.dumps(results).encode(), "application/json")) as server:
        page = Web(f"http://127.0.0.1:{server.port}/?q={{query}}").search("x", 3)
    assert len(page.text) < 4000 and len(page.links) == 2


PRIVATE = """
0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.1.2.3 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1
192.0.0.170 192.0.2.1
192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1
64:ff9b::a9fe:a9fe
64:ff9b::224.0.0.1 64:ff9b:1::1.1.1.1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:20::1 2001:db8::1
2002:7f00:1::1 2002:101:101::1 3fff::1 4000::1 5f00::1 fc00::1 fd12::1 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
nothing
""".split()
PUBLIC = "1.1.1.1 8.8.8.8 172.32.0.1 100.128.0.1 192.0.1.1 223.255.255.255 2606:4700::1111 2a00:1450::1 2001:4860::8888"
PUBLIC += " 64:ff9b::1.1.1.1 ::ffff:8.8.8.8 2003::1"


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_public_internet_is_refused_in_every_form(monkeypatch, address):
    assert not addresses.is_public(address)
    monkeypatch.setattr(
        addresses.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("8.8.8.8", 0)), (0, 0, 0, "", (address, 0))]
    )
    with pytest.raises(ToolError, match="private network"):
        Web(ENDPOINT).fetch("http://both.test/")


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public_addresses_are_known(address):
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "host",
    "0x7f.1 2130706433 017700000001 127.1 0 127.0.0.1. localhost LOCALHOST 127。0。0。1 ①②⑦.0.0.1 [::ffff:7f00:1] "
    "[0:0:0:0:0:0:0:1] user@127.0.0.1 8.8.8.8\\@127.0.0.1 8.8.8.8:80@127.0.0.1".split(),
)
def test_a_disguised_name_of_this_machine_is_refused(host):
    with pytest.raises(ToolError):
        Web(ENDPOINT).fetch(f"http://{host}:1/")


@pytest.fixture
def names(monkeypatch) -> dict[str, list[str]]:
    """The addresses of names, one for each time that a name is asked for. 127.0.0.1 counts as public."""
    known: dict[str, list[str]] = {}
    lookup, is_public = socket.getaddrinfo, addresses.is_public

    def asked(host, port, *arguments, **keywords):
        if host in known:
            return lookup(known[host].pop(0), port, *arguments, **keywords)
        assert str(host)[:1].isdigit() or ":" in str(host), f"{host} is looked up"
        return lookup(host, port, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return known


def test_the_address_that_was_checked_is_the_one_connected_to(names):
    names["rebinds.test"] = ["127.0.0.1", "127.0.0.2"]
    with serving(response(b"fine")) as server:
        page = Web(ENDPOINT).fetch(f"http://user:pw@rebinds.test:{server.port}/a?b#c")
        (asked,) = server.asked
    assert page.body == "fine" and names["rebinds.test"] == ["127.0.0.2"]
    assert asked.startswith(b"GET /a?b HTTP/1.1\r\n") and f"host: rebinds.test:{server.port}".encode() in asked.lower()
    assert b"authorization" not in asked.lower() and b"cookie" not in asked.lower()


def test_tls_asks_for_the_name_at_the_checked_address(names):
    names["rebinds.test"] = ["127.0.0.1", "127.0.0.2"]
    with serving(b"no TLS") as server, pytest.raises(ToolError):
        Web(ENDPOINT).fetch(f"https://rebinds.test:{server.port}/")
    assert b"rebinds.test" in server.asked[0] and names["rebinds.test"] == ["127.0.0.2"]


def test_every_redirect_is_checked_and_connects_to_what_was_checked(names):
    names |= {"first.test": ["127.0.0.1"], "second.test": ["127.0.0.1", "10.0.0.1"], "inside.test": ["10.0.0.1"]}
    with serving(response(b"fine")) as second:
        to_second = response(status="302 Found", Location=f"//second.test:{second.port}/x")
        with serving(to_second) as first:
            page = Web(ENDPOINT).fetch(f"http://first.test:{first.port}/")
        assert page.source == f"http://second.test:{second.port}/x" and names["second.test"] == ["10.0.0.1"]
    names["first.test"] = ["127.0.0.1"]
    to_inside = response(status="302 Found", Location="http://inside.test/")
    with serving(to_inside) as first, pytest.raises(ToolError, match="private network"):
        Web(ENDPOINT).fetch(f"http://first.test:{first.port}/")


def test_the_next_address_of_a_host_is_tried_if_one_does_not_answer(names, monkeypatch):
    with serving(response(b"fine")) as server:
        both = [(0, 0, 0, "", (address, 0)) for address in ("::ffff:8.8.8.8", "127.0.0.1")]
        found = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **k: both if host == "both.test" else found(host, *a, **k)
        )
        connect = socket.create_connection

        def refused(address: tuple[str, int], *arguments: object, **keywords: object) -> socket.socket:
            if address[0] != "127.0.0.1":
                raise ConnectionRefusedError
            return connect(address, *arguments, **keywords)

        monkeypatch.setattr(socket, "create_connection", refused)
        assert Web(ENDPOINT).fetch(f"http://both.test:{server.port}/").body == "fine"


def test_a_proxy_is_told_the_address_that_was_checked(names, monkeypatch):
    names |= {"site.test": ["93.184.216.34", "127.0.0.2"], "inside.test": ["10.0.0.1"]}
    with serving(response(b"fine")) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        assert Web(ENDPOINT).fetch("http://site.test/a").body == "fine"
        names["site.test"] = ["93.184.216.34", "127.0.0.2"]
        with pytest.raises(ToolError):
            Web(ENDPOINT).fetch("https://site.test/")
        with pytest.raises(ToolError, match="private network"):
            Web(ENDPOINT).fetch("http://inside.test/")
        plain, tunnel = proxy.asked
    assert plain.startswith(b"GET http://93.184.216.34/a HTTP/1.1\r\n") and b"host: site.test\r\n" in plain.lower()
    assert tunnel.startswith(b"CONNECT 93.184.216.34:443 HTTP/1.1\r\n")


def test_hosts_that_bypass_the_proxy_do(names, monkeypatch):
    names["site.test"] = ["127.0.0.1"]
    with serving(response(b"fine")) as server, serving(response(b"proxy")) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", ".test")
        assert Web(ENDPOINT).fetch(f"http://site.test:{server.port}/").body == "fine"
        assert not proxy.asked


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x", "ftp://127.0.0.1"])
def test_a_proxy_that_cannot_be_used_is_explained_in_a_sentence(names, monkeypatch, proxy):
    names["site.test"] = ["127.0.0.1"]
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ToolError) as caught:
        Web(ENDPOINT).fetch("http://site.test/")
    assert "\n" not in str(caught.value)


def searched(server: Server, private: bool = True) -> str:
    endpoint = f"http://127.0.0.1:{server.port}/?q={{query}}"
    return Web(endpoint, headers={"Authorization": "secret"}, private=private).search("x", 3).text


def test_the_headers_of_the_endpoint_stay_with_its_host():
    found = response(json.dumps([{"title": "found", "url": "http://a.test/"}]).encode(), "application/json")
    with serving(found) as other:
        with serving(response(status="307 Moved", Location=f"http://localhost:{other.port}/")) as server:
            assert "found" in searched(server)
            assert b"secret" in server.asked[0] and b"secret" not in other.asked[0]
        with serving(response(status="307 Moved", Location=f"http://127.0.0.1:{other.port}/")) as server:
            assert "found" in searched(server)  # another port is another server
            assert b"secret" not in other.asked[1]

    def twice(connection: socket.socket, request: bytes) -> None:
        connection.sendall(found if b"/again" in request else response(status="302 Found", Location="/again"))

    with serving(twice) as server:
        assert "found" in searched(server, private=False)
        assert all(b"secret" in asked for asked in server.asked) and len(server.asked) == 2


def test_an_endpoint_does_not_lead_to_another_host_in_a_private_network():
    with (
        serving(b"") as other,
        serving(response(status="302 Found", Location=f"http://localhost:{other.port}/")) as server,
    ):
        with pytest.raises(ToolError, match="private network"):
            searched(server, private=False)
        assert not other.asked


@pytest.mark.parametrize(
    "url", ["http://" + "a" * 70_000, "http://a/" + "b" * 10_000, "http://\ud800/", "http://a\0/", "//a", "http:///"]
)
def test_an_odd_url_gets_a_sentence(url):
    with pytest.raises(ToolError) as caught:
        Web(ENDPOINT).fetch(url)
    assert len(str(caught.value)) < 2000 and "\n" not in str(caught.value)


def test_what_follows_the_end_of_what_was_packed_is_neither_kept_nor_waited_for():
    packed = HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"<p>whole</p>")

    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(packed)
        while True:
            connection.sendall(bytes(1 << 16))

    with serving(answer) as server:
        assert "whole" in Web(ENDPOINT, private=True).fetch(f"http://127.0.0.1:{server.port}/").text
        assert server.left.wait(HANG)
