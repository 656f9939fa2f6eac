"""HTTP that ends in time: to an address that was checked, until a deadline or until it is cancelled.

Names are looked up once, and all of their addresses are checked. The connection goes to one of these addresses, with
the name in the Host header and in TLS, so a name that changes its address in between leads nowhere else. If the
environment names a proxy, the proxy is told the address too. Knows nothing of pages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies, proxy_bypass

from mlx_oss.errors import ToolError
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser.addresses import addresses_of

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

_DEADLINE = 30.0  # seconds, for looking up, connecting, all redirects and the whole page
_LOOK = 0.02  # seconds between two looks at `stopped`
_CONNECT = 8.0  # seconds for one address
_REDIRECTS = 5
_MAX_URL = 8192  # characters


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        url: Where the redirects led.
        kind: The content type without parameters, in lower case.
        charset: The encoding that the server names, if any.
        body: The content, decoded, up to the limit.
    """

    url: str
    kind: str
    charset: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is fetched.

    Attributes:
        size: Bytes of the content; the rest is not read.
        private: Whether the first host may be in a private network.
        private_later: Whether the hosts that it redirects to may be.
    """

    size: int
    private: bool
    private_later: bool


def fetch(
    url: str, headers: Mapping[str, str], secrets: Mapping[str, str], limits: Limits, stopped: threading.Event
) -> Answer:
    """Fetches what is at a URL, with up to 5 redirects.

    Args:
        url: An http or https URL.
        headers: HTTP headers.
        secrets: More headers, which go only to the host of `url`, and not over HTTP if `url` is HTTPS.
        limits: How much may be fetched, and from where.
        stopped: If set, the fetch ends at once.

    Raises:
        ToolError: If it is no URL of the web, the host is not allowed, there is no answer or an error, or the deadline
            has passed or `stopped` was set.
    """
    return _Fetch(headers, secrets, limits, stopped).run(url)


class _Fetch:
    """One fetch. When time is up or it is cancelled, its thread is not waited for: its connections are closed."""

    def __init__(
        self, headers: Mapping[str, str], secrets: Mapping[str, str], limits: Limits, stopped: threading.Event
    ) -> None:
        self._headers, self._secrets, self._limits, self._stopped = headers, secrets, limits, stopped
        self._end = time.monotonic() + _DEADLINE
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_over = False

    def run(self, url: str) -> Answer:
        result: list[Answer] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                result.append(self._follow(url))
            except BaseException as error:  # raised below, on the caller's thread
                errors.append(error)
            finally:
                done.set()

        threading.Thread(target=work, name="mlx-oss fetch", daemon=True).start()
        try:
            while not done.wait(_LOOK):
                self._check()
            self._check()
        finally:
            self._close()
        if errors:
            raise errors.pop()
        return result.pop()

    def _check(self) -> None:
        """Raises ToolError if stopped or out of time."""
        if self._stopped.is_set() or self._is_over:
            raise ToolError(STOPPED)
        if time.monotonic() > self._end:
            raise ToolError(f"the server did not answer completely within {_DEADLINE:.0f} seconds")

    def _close(self) -> None:
        """Ends whatever the thread is waiting for."""
        with self._lock:
            self._is_over = True
            for connected in self._sockets:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)
                connected.close()
            self._sockets.clear()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpx for everything that it does. Keeps a second handle of each socket, to shut it down with."""
        if not event.endswith("connect_tcp.complete"):
            return
        with self._lock:
            connected = info["return_value"].get_extra_info("socket")
            if self._is_over:
                connected.close()
            else:
                self._sockets.append(connected.dup())

    def _follow(self, url: str) -> Answer:
        import httpx2

        first = httpx2.URL(url)
        at, limits = first, self._limits
        for hop in range(_REDIRECTS + 1):
            if at.scheme not in ("http", "https") or not at.host or len(str(at)) > _MAX_URL:
                raise ToolError(f"{str(at)[:300]!r} is no URL of the web")
            private = limits.private if hop == 0 else limits.private_later or (limits.private and _same(first, at))
            secrets = self._secrets if _same(first, at) else {}
            answer = self._get(at, {**self._headers, **secrets}, private)
            if isinstance(answer, Answer):
                return answer if hop else dataclasses.replace(answer, url=url)
            at = answer
        raise ToolError("it leads from one place to the next without end")

    def _get(self, url: httpx2.URL, headers: Mapping[str, str], private: bool) -> Answer | httpx2.URL:
        """The answer, or the URL of a redirect."""
        import httpx2

        port = url.port or {"http": 80, "https": 443}[url.scheme]
        proxy, name = _proxy_for(url, port), url.raw_host.decode("ascii").strip("[]")
        addresses = [name] if proxy and private else addresses_of(name, port, private)
        try:
            transport = httpx2.HTTPTransport(verify=_tls(), proxy=proxy)
        except (ImportError, ValueError) as error:
            raise ToolError(f"the proxy that the environment names cannot be used ({error})") from None
        for number, address in enumerate(addresses, start=1):
            self._check()
            with httpx2.Client(transport=transport, trust_env=False, timeout=self._timeout()) as client:
                try:
                    return self._read(client, url, address, headers)
                except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError):
                    if number == len(addresses):
                        raise
                    transport = httpx2.HTTPTransport(verify=_tls(), proxy=proxy)
        raise ToolError(f"there is no host {url.host!r}")

    def _timeout(self) -> httpx2.Timeout:
        import httpx2

        left = max(self._end - time.monotonic(), 0.1)
        return httpx2.Timeout(left, connect=min(left, _CONNECT))

    def _read(
        self, client: httpx2.Client, url: httpx2.URL, address: str, headers: Mapping[str, str]
    ) -> Answer | httpx2.URL:
        bare = url.copy_with(userinfo=b"", fragment=None)
        headers = {**headers, "host": bare.netloc.decode("ascii"), "accept-encoding": "gzip, deflate"}
        extensions: dict[str, Any] = {"trace": self._trace}
        if not _is_address(url.host):
            extensions["sni_hostname"] = url.raw_host.decode("ascii")
        request = client.build_request(
            "GET", bare.copy_with(host=address.partition("%")[0]), headers=headers, extensions=extensions
        )
        answer = client.send(request, stream=True)
        try:
            if answer.has_redirect_location:
                return url.join(answer.headers["location"])
            if answer.is_error:
                raise ToolError(f"{answer.status_code} {answer.reason_phrase}"[:200])
            kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()[:100]
            return Answer(str(url.copy_with(userinfo=b"")), kind, answer.charset_encoding, self._body(answer))
        finally:
            answer.close()

    def _body(self, answer: httpx2.Response) -> bytes:
        encodings = [part.strip().lower() for part in answer.headers.get("content-encoding", "").split(",")[:3]]
        encodings = [encoding for encoding in encodings if encoding not in ("", "identity")]
        if len(encodings) > 1 or not {"gzip", "x-gzip", "deflate"}.issuperset(encodings):
            raise ToolError(f"its content is encoded as {', '.join(encodings)[:100]!r}, which was not asked for")
        unpacking = _Unpacking(encodings[0]) if encodings else None
        body = bytearray()
        for part in answer.iter_raw():
            self._check()
            body += unpacking.add(part, self._limits.size - len(body)) if unpacking else part
            if len(body) >= self._limits.size or (unpacking and unpacking.is_done):
                break
        return bytes(body[: self._limits.size])


class _Unpacking:
    """Unpacks a body part by part."""

    def __init__(self, encoding: str) -> None:
        self._unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # recognises gzip's header and zlib's
        self._may_lack_header = encoding == "deflate"  # some servers leave zlib's header out

    @property
    def is_done(self) -> bool:
        """True after the end of what was packed. Whatever follows is not read: it could be endless, and is kept."""
        return self._unpacking.eof

    def add(self, part: bytes, most: int) -> bytes:
        """Unpacks the next part, but no more bytes than `most`. Raises ToolError if it is damaged."""
        may_lack_header, self._may_lack_header = self._may_lack_header, False
        try:
            return self._unpacking.decompress(part, max(most, 1))
        except zlib.error as error:
            if not may_lack_header:
                raise ToolError(f"its content is damaged ({error})") from None
            self._unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            return self.add(part, most)


@functools.cache  # reading the certificates takes longer than most fetches
def _tls() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()


def _same(first: httpx2.URL, other: httpx2.URL) -> bool:
    """Whether what is secret to others may go to `other`: it is the same server, or the same host now with HTTPS."""
    if first.host != other.host:
        return False
    upgraded = (first.scheme, other.scheme) == ("http", "https") and first.port is None and other.port is None
    return upgraded or (first.scheme == other.scheme and first.port == other.port)


def _proxy_for(url: httpx2.URL, port: int) -> str | None:
    """The proxy that the environment, or the system's settings on a Mac, name for a URL."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{url.host}:{port}") or proxy_bypass(url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
