"""Pages from the web, found through the user's own search endpoint. Needs the extra `web`.

The endpoint answers a GET request with JSON, as SearXNG does: a list of results, or an object with the list under
`results`. Each result has a `title`, a `url` and optionally a summary. Pages are fetched without cookies and only up to
a maximum size. Addresses in private networks are refused, because a page could otherwise lead the model to content
that only this machine can reach. The endpoint itself may be in one, but not where it redirects to. Knows nothing of
the model.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import threading
from typing import Any
from urllib.parse import quote, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser.charsets import Kind, decode
from mlx_oss.tools.browser.fetching import Answer, Limits, fetch
from mlx_oss.tools.browser.pages import Page, plain, results_page
from mlx_oss.tools.browser.reader import Reader
from mlx_oss.tools.browser.text import text_page, web_resolver

_MAX_BYTES = 4 << 20  # of a page; the rest is not read
_TEXT_TYPES = ("application/xhtml+xml", "application/json", "application/xml")
_MAX_URL, _MAX_SUMMARY = 2048, 1000  # characters, of a result


class Web:
    """A source of pages for BrowserTool: searches through an endpoint and fetches pages by HTTP.

    Args:
        search: URL of the search endpoint. `{query}` in it is replaced by the query, and `{topn}`, if present, by the
            number of results.
        headers: HTTP headers for the endpoint, for example with a key. They are never sent to pages, nor to another
            host that the endpoint redirects to.
        private: Whether pages in private networks and on this machine may be opened.

    Attributes:
        stopped: A `threading.Event`. If set, fetching stops at once, and its connections are closed.

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
        self._reader = Reader()

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
        url = self._search.replace("{query}", quote(query)).replace("{topn}", str(topn))
        try:
            limits = Limits(_MAX_BYTES, private=True, private_later=self._private)
            answer = self._get(url, {"accept": "application/json"}, self._headers, limits)
            data = json.loads(answer.body)
        except (ToolError, ValueError, RecursionError) as error:
            raise self._stopped_or(f"the search failed ({_reason(error)})") from None
        results = data.get("results") if isinstance(data, dict) else data
        if not isinstance(results, list):
            raise ToolError("the search failed (the endpoint gave no list of results)")
        entries = (entry for result in results if (entry := _entry(result)))
        return results_page(query, list(itertools.islice(entries, topn)))

    def fetch(self, source: str) -> Page:
        """Fetches a page, with up to 5 redirects.

        Args:
            source: The URL.

        Returns:
            The page.

        Raises:
            ToolError: If the URL is not an http or https URL, is in a private network that is not allowed, cannot be
                fetched within 30 seconds, or is not text, or if `stopped` was set.
        """
        limits = Limits(_MAX_BYTES, private=self._private, private_later=self._private)
        try:
            answer = self._get(source, {"accept": "text/html,text/*,application/pdf"}, {}, limits)
        except ToolError as error:
            raise self._stopped_or(f"Error fetching URL `{source[:1024]}`: {_reason(error)}") from None
        is_cut, check, resolve = len(answer.body) == _MAX_BYTES, self._check_stopped, web_resolver(answer.url)
        if answer.kind == "application/pdf" and not is_cut:
            return self._reader.page(answer.url, "pdf", answer.body, resolve, check)
        if not answer.kind.startswith("text/") and answer.kind not in _TEXT_TYPES:
            raise ToolError(f"{answer.url[:1024]} is no text but {answer.kind}")
        is_html = answer.kind in ("text/html", "application/xhtml+xml")
        kind: Kind = "html" if is_html else "text"
        text = decode(answer.body, answer.charset, kind=kind, is_cut=is_cut, check=check)
        if is_html:
            return self._reader.page(answer.url, "html", text.encode("utf-8", "replace"), resolve, check)
        return text_page(answer.url, text, check)

    def _get(self, url: str, headers: dict[str, str], secrets: dict[str, str], limits: Limits) -> Answer:
        """Raises ToolError for every reason for which there is no answer."""
        import httpx2

        try:
            return fetch(url, headers, secrets, limits, self.stopped)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError, KeyError, OSError) as error:
            raise ToolError(_reason(error)) from None

    def _stopped_or(self, message: str) -> ToolError:
        return ToolError(STOPPED if self.stopped.is_set() else message)

    def _check_stopped(self) -> None:
        if self.stopped.is_set():
            raise ToolError(STOPPED)


def _entry(result: Any) -> tuple[str, str, str] | None:
    """Title, URL and summary of a result; None if it has no http or https URL."""
    if not isinstance(result, dict):
        return None
    url = result.get("url") or result.get("link")
    try:
        if not isinstance(url, str) or len(url) > _MAX_URL or urlsplit(url).scheme not in ("http", "https"):
            return None
    except ValueError:  # not a valid URL
        return None
    summaries = [result.get(name) for name in ("content", "summary", "snippet", "description")]
    summary = next((text for text in summaries if isinstance(text, str)), "")
    title = result.get("title")
    return plain(title if isinstance(title, str) and title.strip() else url)[:300], url, summary[:_MAX_SUMMARY]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
