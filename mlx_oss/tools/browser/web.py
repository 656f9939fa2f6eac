"""Pages from the web, found through the user's own search endpoint. Needs the extra `web`.

The endpoint answers a GET request with JSON, as SearXNG does: a list of results, or an object with the list under
`results`. Each result has a `title`, a `url` and optionally a summary. Pages are fetched without cookies and only up to
a maximum size. Addresses in private networks are refused, because a page could otherwise lead the model to content
that only this machine can reach. Knows nothing of the model.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser.html_text import html_page
from mlx_oss.tools.browser.pages import Page, plain, results_page
from mlx_oss.tools.browser.text import text_page, web_resolver

if TYPE_CHECKING:
    import httpx2

_MAX_BYTES = 4 << 20  # of a page; the rest is not read
_TEXT_TYPES = ("application/xhtml+xml", "application/json", "application/xml")
_REDIRECTS = 5
_TIMEOUT = 20.0  # seconds


class Web:
    """A source of pages for BrowserTool: searches through an endpoint and fetches pages by HTTP.

    Args:
        search: URL of the search endpoint. `{query}` in it is replaced by the query, and `{topn}`, if present, by the
            number of results.
        headers: HTTP headers for the endpoint, for example with a key. They are never sent to pages.
        private: Whether pages in private networks and on this machine may be opened.

    Attributes:
        stopped: A `threading.Event`. If set, fetching a page stops after the next piece of it.

    Raises:
        OptionError: If `search` is not an http or https URL with `{query}`, or the extra `web` is not installed.
    """

    def __init__(self, search: str, *, headers: dict[str, str] | None = None, private: bool = False) -> None:
        if importlib.util.find_spec("httpx2") is None:
            raise OptionError("the web needs an extra: install mlx-oss with it, as in pip install 'mlx-oss[web]'")
        if "{query}" not in search or urlsplit(search).scheme not in ("http", "https"):
            raise OptionError(f"{search!r} is not a search endpoint: give a URL like https://host/search?q={{query}}")
        self._search, self._headers, self._private = search, headers or {}, private
        self.stopped = threading.Event()

    def search(self, query: str, topn: int) -> Page:
        """Searches through the endpoint.

        Args:
            query: What to search for.
            topn: The maximum number of results.

        Returns:
            A page with the results.

        Raises:
            ToolError: If the endpoint does not answer, or does not return a list of results.
        """
        import httpx2

        url = self._search.replace("{query}", quote(query)).replace("{topn}", str(topn))
        try:
            with httpx2.Client(timeout=_TIMEOUT, headers=self._headers, follow_redirects=True) as client:
                answer = client.get(url)
                answer.raise_for_status()
                data = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ToolError(f"the search failed ({_reason(error)})") from None
        results = data.get("results") if isinstance(data, dict) else data
        if not isinstance(results, list):
            raise ToolError("the search failed (the endpoint gave no list of results)")
        return results_page(query, [entry for result in results if (entry := _entry(result))][:topn])

    def fetch(self, source: str) -> Page:
        """Fetches a page, with up to 5 redirects.

        Args:
            source: The URL.

        Returns:
            The page.

        Raises:
            ToolError: If the URL is not an http or https URL, is in a private network that is not allowed, cannot be
                fetched, or is not text, or if `stopped` was set.
        """
        import httpx2

        try:
            with httpx2.Client(timeout=_TIMEOUT) as client:
                for _ in range(_REDIRECTS + 1):
                    self._check_stopped()
                    self._check(source)
                    with client.stream("GET", source, headers={"accept": "text/html,text/*"}) as answer:
                        if not answer.is_redirect:
                            answer.raise_for_status()
                            return self._page(source, answer)
                        source = urljoin(source, answer.headers["location"])
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
            raise ToolError(f"Error fetching URL `{source[:1024]}`: {_reason(error)}") from None
        raise ToolError(f"Error fetching URL `{source[:1024]}`: it leads from one place to the next without end")

    def _check(self, url: str) -> None:
        """Raises ToolError if this is not an http or https URL, or its host is unknown or in a private network."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolError(f"{url[:1024]!r} is no URL of the web")
        if self._private:
            return
        try:
            addresses = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ToolError(f"there is no host {parts.hostname!r}") from None
        if not all(ipaddress.ip_address(address[4][0]).is_global for address in addresses):
            raise ToolError(f"{parts.hostname!r} is in a private network, where nothing is opened")

    def _page(self, source: str, answer: httpx2.Response) -> Page:
        kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
        if not kind.startswith("text/") and kind not in _TEXT_TYPES:
            raise ToolError(f"{source[:1024]} is no text but {kind}")
        body = bytearray()
        for part in answer.iter_bytes():
            body += part
            self._check_stopped()
            if len(body) > _MAX_BYTES:
                break
        text = bytes(body[:_MAX_BYTES]).decode(_charset(answer.charset_encoding), "replace")
        if kind in ("text/html", "application/xhtml+xml"):
            return html_page(source, text, web_resolver(source))
        return text_page(source, text)

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise ToolError(STOPPED)


def _charset(name: str | None) -> str:
    """The name of the encoding, or "utf-8" if it is missing or unknown."""
    try:
        "".encode(name or "utf-8")
        return name or "utf-8"
    except LookupError:
        return "utf-8"


def _entry(result: Any) -> tuple[str, str, str] | None:
    """Title, URL and summary of a result; None if it has no http or https URL."""
    if not isinstance(result, dict):
        return None
    url = result.get("url") or result.get("link")
    try:
        if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
            return None
    except ValueError:  # not a valid URL
        return None
    summaries = [result.get(name) for name in ("content", "summary", "snippet", "description")]
    summary = next((text for text in summaries if isinstance(text, str)), "")
    return plain(str(result.get("title") or url)), url, summary


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
