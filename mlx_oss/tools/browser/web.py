"""The web, through a search endpoint of the user's own; needs the extra `web`.

The endpoint answers a GET with JSON: a list of results, or an object with one under `results`, each with a title, a url
and, if it likes, a summary, as SearXNG does. Pages are fetched without cookies, up to a size, and not from private
networks, where a page could send the model to what only this machine may see. Knows nothing of the model.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.browser.pages import Page, plain, results_page
from mlx_oss.tools.browser.text import html_page, text_page, web_link

if TYPE_CHECKING:
    import httpx2

_LARGEST = 4 << 20  # bytes of a page that are read
_TEXTS = ("application/xhtml+xml", "application/json", "application/xml")
_REDIRECTS = 5
_SECONDS = 20.0


class Web:
    """Search by an endpoint, pages by HTTP.

    search         the endpoint's URL, with {query} and, if it wants it, {topn}
    headers        sent to the endpoint, e.g. a key; never to pages
    private        lets pages of private networks and of this machine be opened
    stopped        set, it ends what is being fetched, between two pieces
    """

    def __init__(self, search: str, *, headers: dict[str, str] | None = None, private: bool = False) -> None:
        """Raises OptionError for a URL without {query}, and without the extra `web`."""
        if importlib.util.find_spec("httpx2") is None:
            raise OptionError("the web needs the extra `web`: pip install 'mlx-oss[web]'")
        if "{query}" not in search or urlsplit(search).scheme not in ("http", "https"):
            raise OptionError(f"{search!r} is no search endpoint: give one like https://host/search?q={{query}}")
        self._search, self._headers, self._private = search, headers or {}, private
        self.stopped = threading.Event()

    def search(self, query: str, topn: int) -> Page:
        import httpx2

        url = self._search.replace("{query}", quote(query)).replace("{topn}", str(topn))
        try:
            with httpx2.Client(timeout=_SECONDS, headers=self._headers, follow_redirects=True) as client:
                answer = client.get(url)
                answer.raise_for_status()
                found = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ToolError(f"the search failed ({_reason(error)})") from None
        results = found.get("results") if isinstance(found, dict) else found
        if not isinstance(results, list):
            raise ToolError("the search failed (the endpoint gave no list of results)")
        return results_page(query, [entry for result in results if (entry := _entry(result))][:topn])

    def fetch(self, source: str) -> Page:
        import httpx2

        try:
            with httpx2.Client(timeout=_SECONDS) as client:
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
        """Raises ToolError for what is no page of the web."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ToolError(f"{url[:1024]!r} is no URL of the web")
        if self._private:
            return
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ToolError(f"there is no host {parts.hostname!r}") from None
        if not all(ipaddress.ip_address(address[4][0]).is_global for address in found):
            raise ToolError(f"{parts.hostname!r} is in a private network, where nothing is opened")

    def _page(self, source: str, answer: httpx2.Response) -> Page:
        kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
        if not kind.startswith("text/") and kind not in _TEXTS:
            raise ToolError(f"{source[:1024]} is no text but {kind}")
        body = bytearray()
        for part in answer.iter_bytes():
            body += part
            self._check_stopped()
            if len(body) > _LARGEST:
                break
        text = bytes(body[:_LARGEST]).decode(_charset(answer.charset_encoding), "replace")
        if kind in ("text/html", "application/xhtml+xml"):
            return html_page(source, text, web_link(source))
        return text_page(source, text)

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise ToolError("stopped before it was done")


def _charset(named: str | None) -> str:
    try:
        "".encode(named or "utf-8")
        return named or "utf-8"
    except LookupError:
        return "utf-8"


def _entry(result: Any) -> tuple[str, str, str] | None:
    if not isinstance(result, dict):
        return None
    url = result.get("url") or result.get("link")
    try:
        if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
            return None
    except ValueError:  # it is no URL
        return None
    said = [result.get(name) for name in ("content", "summary", "snippet", "description")]
    summary = next((text for text in said if isinstance(text, str)), "")
    return plain(str(result.get("title") or url)), url, summary


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
