"""Tests of the browser tool: pages in the form of the reference, folders, the web, and citations."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import sqlite3
import textwrap
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import BROWSER
from mlx_oss.tokenizer import load_tokenizer
from mlx_oss.tools import BrowserTool, Web, patch_tool
from mlx_oss.tools.browser import Folder, Link, Page, addresses, folder, passages, web
from mlx_oss.tools.browser.pages import link
from mlx_oss.tools.browser.reader import Reader

FILES = {
    "whales.md": "# Whales\n\nThe blue whale is the largest animal. See [krill](food/krill.md) and"
    " [more](missing.md).\n",
    "food/krill.md": "# Krill\n\nKrill is small. " + "It drifts in cold water. " * 40 + "\n\nWhales eat krill.\n",
    "long.txt": "".join(f"line {number} of the long text\n" for number in range(2000)) + "a needle at the end\n",
    "page.html": "<html><head><title>A  page</title><style>x{}</style></head><body><h1>Fish</h1>"
    '<p>Cod &amp; <b>tuna</b> <a href="whales.md">whales</a> <a href="https://example.org/a">far</a></p>'
    "<script>alert(1)</script></body></html>",
    ".hidden/secret.md": "# Secret\n\nwhale\n",
    "picture.png": "whale",
}


@pytest.fixture
def notes(tmp_path) -> Path:
    root = tmp_path / "notes"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "outside.md").write_text("# Outside\n\nwhale secret\n")
    (root / "linked.md").symlink_to(tmp_path / "outside.md")
    (root / "linked").symlink_to(tmp_path)
    return root


@pytest.fixture
def tool(notes) -> BrowserTool:
    return BrowserTool(notes)


def call(tool: BrowserTool, function: str, **arguments: object) -> str:
    return tool.call(function, json.dumps(arguments))


def test_what_a_mac_adds_to_a_folder_is_neither_found_nor_read(notes, tmp_path):
    for name in (".DS_Store", "._whales.md", "food/._krill.md"):
        (notes / name).write_text("largest animal")
    assert "._" not in call(BrowserTool(notes), "search", query="largest animal")
    with pytest.raises(ToolError, match=r"no file '\._whales\.md'"):
        call(BrowserTool(notes), "open", id="._whales.md")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "._whales.md").touch()
    with pytest.raises(OptionError, match="holds no Markdown"):
        BrowserTool(tmp_path / "other")


def test_a_search_shows_results_with_links(tool):
    assert call(tool, "search", query="largest animal") == (
        "[0] largest animal\n**viewing lines [0 - 5] of 5**\n\n"
        "L0: \nL1: URL: \nL2: # Search Results\nL3: \n"
        "L4:   * 【0†Whales†whales.md】 # Whales The blue whale is the largest animal. See \n"
        "L5: krill and [more](missing.md)."
    )


def test_a_search_finds_words(tool):
    assert "【0†Krill†food/krill.md】" in call(tool, "search", query="drifting in cold waters?")  # word stems
    assert "a needle at the end" in call(tool, "search", query='needle "AND" (OR* NEAR')  # no query syntax
    assert "No results." in call(tool, "search", query="zebra")
    assert "No results." in call(tool, "search", query="?!")
    assert "outside" not in call(tool, "search", query="outside secret").lower().replace("outside secret", "")


def test_the_passage_shown_has_most_of_the_words_and_begins_just_before_them():
    few, many = "x " * 30, "x " * 100
    passage, at = passages.best_passage(f"krill {many}whale {few}whale eats krill {many}", ("whale", "eat", "krill"))
    assert at == len("krill ") + len(many) + len("whale ") + len(few)
    assert passage == f"... {'x ' * 5}whale eats krill {'x ' * 31}x ..."
    assert passages.best_passage("a zebra", ("whale",)) == ("a zebra", 0)
    assert passages.best_passage("", ("whale",)) == ("", 0)


def test_topn_limits_the_results(tool):
    assert "【1†" in call(tool, "search", query="whale krill")
    assert "【1†" not in call(tool, "search", query="whale krill", topn=1)


def test_a_result_opens_the_page_at_the_best_line(tool):
    call(tool, "search", query="whale eats krill")
    shown = call(tool, "open", id=0)
    assert shown.startswith("[1] Krill (food/krill.md)\n**viewing lines [15 - 20] of 20**\n\nL15: ")
    assert "Whales eat krill." in shown


def test_links_in_a_page_work_and_broken_ones_are_text(tool):
    shown = call(tool, "open", id="whales.md")
    assert shown == (
        "[0] Whales (whales.md)\n**viewing lines [0 - 6] of 6**\n\n"
        "L0: \nL1: URL: whales.md\nL2: # Whales\nL3: \n"
        "L4: The blue whale is the largest animal. See 【0†krill†food/krill.md】 and \n"
        "L5: [more](missing.md).\nL6: "
    )
    assert call(tool, "open", id=0).startswith("[1] Krill (food/krill.md)")
    with pytest.raises(ToolError, match="Invalid link id `7`"):
        call(tool, "open", id=7)


def test_a_page_can_be_scrolled(tool):
    first = call(tool, "open", id="long.txt")
    assert "**viewing lines [0 - " in first and "L0: \nL1: URL: long.txt\nL2: line 0" in first
    assert call(tool, "open", loc=500, num_lines=2) == (
        "[1] long.txt (long.txt)\n**viewing lines [500 - 501] of 2003**\n\n"
        "L500: line 498 of the long text\nL501: line 499 of the long text"
    )
    with pytest.raises(ToolError, match=r"Invalid location parameter: `5000`\. Cannot exceed page maximum of 2003"):
        call(tool, "open", loc=5000)
    assert call(tool, "open", cursor=0, loc=3, num_lines=1).startswith("[2] ")  # the failed call took no cursor


def test_a_view_holds_about_the_number_of_tokens(notes):
    for tokens in (50, 300, 1024):
        shown = call(BrowserTool(notes, tokens=tokens), "open", id="long.txt").split("\n\n", 1)[1]
        count = len(load_tokenizer().encode(shown))
        assert tokens <= count < tokens + 20  # the last line is shown completely


def test_find_shows_matches_that_can_be_opened(tool):
    call(tool, "open", id="long.txt")
    assert call(tool, "find", pattern="NEEDLE") == (
        "[1] Find results for text: `NEEDLE` in `long.txt` (long.txt/find?pattern=NEEDLE)\n"
        "**viewing lines [0 - 2] of 2**\n\n"
        "L0: # 【0†match at L2002】\nL1: a needle at the end\nL2: "
    )
    assert call(tool, "open", id=0, num_lines=1).endswith("L1998: line 1996 of the long text")
    assert "No `find` results for pattern: `zebra`" in call(tool, "find", pattern="zebra")
    with pytest.raises(ToolError, match="Cannot run `find` on search results page"):
        call(tool, "find", pattern="x")
    assert "of 298**" in call(tool, "find", pattern="line 1", cursor=0)  # 50 matches of 6 lines


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        ("find", '{"pattern": "x"}', "No pages to access!"),
        ("open", "{}", "No pages to access!"),
        ("search", "{}", "`query` is missing"),
        ("search", '{"query": 3}', "`query` must be a text"),
        ("search", "{", "no JSON"),
        ("search", "[]", "one JSON object"),
        ("close", "{}", "no browser.close"),
        ("", "{}", "no browser."),
        ("open", '{"id": "none.md"}', "no file 'none.md'"),
    ],
)
def test_a_wrong_call_is_explained_in_a_sentence(tool, function, arguments, sentence):
    with pytest.raises(ToolError) as caught:
        tool.call(function, arguments)
    assert sentence in str(caught.value)


def test_arguments_that_do_not_exist_are_ignored(tool):
    assert "Whales" in call(tool, "search", query="whale", recency_days=3, source="web", topn=2.0)


@pytest.mark.parametrize(
    "path",
    "../outside.md linked.md linked/outside.md .hidden/secret.md /etc/hostname %2e%2e/outside.md food/../../outside.md "
    "file:///etc/hostname picture.png https://example.org/ food".split(),
)
def test_nothing_outside_the_folder_is_read(tool, path):
    with pytest.raises(ToolError, match="no file"):
        call(tool, "open", id=path)


def test_a_file_whose_name_looks_escaped_is_found_and_opened(tool, notes):
    (notes / "C%2B%2B.md").write_text("# Giraffe\n\nlong neck\n")
    assert "C%2B%2B.md" in call(tool, "search", query="giraffe")
    assert "long neck" in call(tool, "open", id=0)
    (notes / "a b.md").write_text("# Gnu\n\nbeard\n")
    assert "beard" in call(tool, "open", id="a%20b.md")


def test_the_index_follows_the_files(tool, notes):
    assert "No results" in call(tool, "search", query="zebra")
    (notes / "new.md").write_text("# Zebra\n\nstripes\n")
    assert "【0†Zebra†new.md】" in call(tool, "search", query="zebra")
    (notes / "new.md").write_text("# Horse\n\nno longer striped\n")
    assert "No results" in call(tool, "search", query="zebra")
    (notes / "new.md").unlink()
    assert "No results" in call(tool, "search", query="horse")


NOWHERE = "https://[your-domain]/api"


def test_a_link_with_an_invalid_address_is_text(tool, notes, online, site, monkeypatch):
    (notes / "new.md").write_text(f"# Zebra\n\n[api]({NOWHERE}) and [whales](whales.md)\n")
    (notes / "new.html").write_text(f'<p>Zebra <a href="{NOWHERE}">api</a> <a href="whales.md">whales</a></p>')
    assert "【1†" in call(tool, "search", query="zebra")
    assert f"[api]({NOWHERE}) and 【0†whales†whales.md】" in call(tool, "open", id="new.md")
    assert "Zebra api 【0†whales†whales.md】" in call(tool, "open", id="new.html")
    monkeypatch.setitem(Site.pages, "/odd", ("text/html", f"<a href='{NOWHERE}'>api</a> <a href='/b'>b</a>"))
    assert "api 【0†b】" in call(online, "open", id=f"{site}/odd")


def test_a_file_that_cannot_be_read_is_skipped_until_it_changes(tool, notes, monkeypatch):
    (notes / os.fsdecode(b"gr\xfcn.md")).write_text("# zebra\n")
    (notes / "closed.md").write_text("# zebra\n")
    read, tried = folder.Folder._page, []

    def page(self, path, is_page):
        tried.append(path)
        if path == "closed.md" and "open" not in tried:
            raise ToolError("closed.md cannot be read (Permission denied)")
        return read(self, path, is_page)

    monkeypatch.setattr(folder.Folder, "_page", page)
    for _ in range(2):
        assert "No results" in call(tool, "search", query="zebra")
        assert "Whales" in call(tool, "search", query="whale")
    assert tried.count("closed.md") == 1
    tried.append("open")
    (notes / "closed.md").write_text("# a zebra\n")
    assert "closed.md" in call(tool, "search", query="zebra")


def test_a_folder_that_cannot_be_entered_is_skipped(tool, notes):
    if os.geteuid() == 0:
        pytest.skip("root can read anywhere")
    (notes / "food").chmod(0o600)
    try:
        assert "Whales" in call(tool, "search", query="whale")
    finally:
        (notes / "food").chmod(0o700)


def test_a_changed_file_is_read_again(tool, notes):
    change = "*** Begin Patch\n*** Update File: food/krill.md\n@@\n-# Krill\n+# Plankton\n*** End Patch"
    assert "# Krill" in call(tool, "open", id="food/krill.md")
    call(tool, "open", id="whales.md")
    patch_tool(notes).handler(input=change)
    opened = call(tool, "open", id=0)
    assert "# Plankton" in opened and "# Krill" not in opened


@pytest.mark.parametrize("wide", range(0, 90, 3))
def test_matches_have_the_line_numbers_of_the_page_wherever_links_are_wrapped(wide):
    linked = link(0, "a text of some words", "https://a-site.with-a-long.name.example.org/a", "")
    page = Page("a.md", "A", f"{'x' * wide} {linked} and more\nneedle\n{linked}\nneedle at the end")
    first, *_ = page.found("needle").links.values()
    assert page.lines[first.line] == "needle"


def test_html_becomes_text_with_links(tool):
    shown = call(tool, "open", id="page.html")
    assert shown == (
        "[0] A page (page.html)\n**viewing lines [0 - 4] of 4**\n\n"
        "L0: \nL1: URL: page.html\nL2: # Fish\nL3: \nL4: Cod & tuna 【0†whales†whales.md】 far"
    )


def test_the_parts_of_html_have_the_form_of_markdown():
    page = Reader().page(
        "a",
        "html",
        b"""<ul><li>one<li>two <code>x</code><ul><li>deep</ul><li><p>three</ul><ol><li>a<li>b</ol>
        <table><tr><th>A<th>B<tr><td>1<td><a href="b.md">two</a></table><pre>
x = 1

  y</pre><blockquote>said<br>so</blockquote>a &lt; b<hr><a href="c.md"><h2>Head</h2></a>
        <svg><text>no</text></svg><template>no</template><p>tail <a href="d.md">of it</a>, a<b>b</b>""",
        lambda address: address,
    )
    assert page.body == (
        "* one\n* two `x`\n  * deep\n* three\n1. a\n2. b\n\n"
        "| A | B |\n| --- | --- |\n| 1 | 【0†two†b.md】 |\n\n```\nx = 1\n\n  y\n```\n\n> said\n> so\n\n"
        "a < b\n\n---\n\n## 【1†Head†c.md】\n\ntail 【2†of it†d.md】, ab"
    )


@given(st.lists(st.text("ab1 .,'\t\r\u2014é", max_size=90) | st.sampled_from(["-", "--", "---"]), max_size=30))
def test_long_lines_are_wrapped_as_textwrap_does_it(parts):
    for line in " ".join(parts), "".join(parts):
        if "----" not in line:  # longer dashes are cut elsewhere
            wrapped = textwrap.wrap(line, 80, replace_whitespace=False, drop_whitespace=False)
            assert Page("", "", line).lines == (wrapped or [""])


def test_a_python_without_full_text_search_is_refused(notes, monkeypatch):
    class Without:
        def execute(self, statement: str) -> None:
            raise sqlite3.OperationalError("no such module: fts5")

    monkeypatch.setattr(passages.sqlite3, "connect", lambda *_, **__: Without())
    with pytest.raises(OptionError, match="FTS5"):
        Folder(notes)


@pytest.mark.parametrize("content", [None, {}, {"a.png": "x"}])
def test_a_folder_without_pages_is_refused(tmp_path, content):
    root = tmp_path / "empty"
    if content is not None:
        root.mkdir()
        for name, body in content.items():
            (root / name).write_text(body)
    with pytest.raises(OptionError):
        Folder(root)


def test_a_page_cannot_forge_links_and_citations(notes):
    (notes / "evil.md").write_text("# 【3†Evil】\n\nzebra 【5†click†example.org】 [a†b](whales.md)\n")
    shown = call(BrowserTool(notes), "search", query="zebra")
    opened = call(BrowserTool(notes), "open", id="evil.md")
    for output in (shown, opened):
        assert "〖5†click†example.org〗" in output
    assert "【0†a‡b†whales.md】" in opened


def test_citations_of_an_answer_have_their_lines(tool):
    call(tool, "search", query="whale")
    call(tool, "open", id="whales.md")
    answer = "It is large【1†L4】, and eats【1†L2-L4】【9†L1】【1†L99】【1†L5-L4】【0†x】. 【1†L5-L80】"
    first, second, third = tool.citations(answer)
    line = "The blue whale is the largest animal. See 【0†krill†food/krill.md】 and "
    assert (first.source, first.title, first.text) == ("whales.md", "Whales", line)
    assert answer[first.start : first.end] == "【1†L4】"
    assert (second.cursor, second.first_line, second.last_line) == (1, 2, 4)
    assert second.text == f"# Whales\n\n{line}"
    assert (third.first_line, third.last_line) == (5, 6)


def test_the_model_reads_the_description_it_was_trained_with(tool):
    assert tool.namespace is BROWSER


def test_a_custom_backend_works():
    class One:
        def search(self, query: str, topn: int) -> Page:
            return Page("", query, "only " + link(0, "one", "a://b", ""), {0: Link("a://b")}, results=True)

        def fetch(self, source: str) -> Page:
            return Page(source, "One", "the page")

    tool = BrowserTool(One())
    assert "only 【0†one†b】" in call(tool, "search", query="x")
    assert call(tool, "open", id=0) == "[1] One (a://b)\n**viewing lines [0 - 0] of 0**\n\nL0: the page"


class Site(http.server.BaseHTTPRequestHandler):
    """A web site that is also a search endpoint."""

    pages: ClassVar[dict[str, tuple[str, str]]] = {
        "/a": ("text/html; charset=utf-8", "<title>A</title><p>Grüße <a href='/b#x'>b</a> <a href='#top'>top</a></p>"),
        "/b": ("text/plain", "plain 【1†x】"),
        "/latin": ("text/html; charset=iso-8859-1", "<p>Gr\xfc\xdfe</p>"),
        "/nonsense": ("text/html; charset=nonsense", "<p>fine</p>"),
        "/image": ("image/png", "x"),
        "/large": ("text/plain", "x" * (web._MAX_BYTES + 10)),
    }
    asked: ClassVar[list[str]] = []
    dripping: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers.get('x-key')}")
        path, _, query = self.path.partition("?")
        if path == "/search":
            host = self.headers["host"]
            found = [{"title": "A【", "url": f"http://{host}/a", "content": f"for {query}"}, {"url": "javascript:1"}, 3]
            found.insert(0, {"title": "bad", "url": NOWHERE})
            self.answer("application/json", json.dumps({"results": found}).encode())
        elif path in self.pages:
            kind, body = self.pages[path]
            self.answer(kind, body.encode("iso-8859-1" if "8859" in kind else "utf-8"))
        elif path.startswith("/to"):
            self.send_response(302)
            self.send_header("Location", {"/to-a": "/a", "/to-private": "http://127.0.0.1:1/"}.get(path, path))
            self.end_headers()
        elif path == "/drips":
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"drop ")
                    self.dripping.set()
                    time.sleep(0.01)
        elif path == "/list":
            self.answer("application/json", b'"nothing"')
        else:
            self.send_error(404)

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def online(site) -> BrowserTool:
    backend = Web(f"{site}/search?q={{query}}&n={{topn}}", headers={"x-key": "secret"}, private=True)
    return BrowserTool(backend)


def test_the_web_is_searched_by_the_users_endpoint_and_its_pages_are_read(online, site):
    shown = call(online, "search", query="a b&c", topn=3)
    assert f"【0†A〖†{site[7:]}】 for q=a%20b%26c&n=3" in shown and "【1†" not in shown
    assert f"[1] A ({site}/a)" in (opened := call(online, "open", id=0))
    assert "Grüße 【0†b】 top" in opened
    assert "plain 〖1†x〗" in call(online, "open", id=0)
    assert "/search?q=a%20b%26c&n=3 secret" in Site.asked and "/a None" in Site.asked


def test_loading_a_slow_page_can_be_cancelled(online, site):
    errors: list[str] = []

    def open_it() -> None:
        try:
            call(online, "open", id=f"{site}/drips")
        except ToolError as error:
            errors.append(str(error))

    opening = threading.Thread(target=open_it)
    opening.start()
    assert Site.dripping.wait(20)
    online.cancel()
    opening.join(20)
    assert errors == ["stopped before it was done"]
    assert call(online, "open", id=f"{site}/a").startswith("[0] A")


def test_a_search_of_a_folder_can_be_cancelled(tool, monkeypatch):
    read = folder.Folder._page

    def page(self, path, is_page):
        tool.cancel()
        return read(self, path, is_page)

    monkeypatch.setattr(folder.Folder, "_page", page)
    with pytest.raises(ToolError, match="stopped"):
        call(tool, "search", query="whale")
    monkeypatch.undo()
    assert call(tool, "search", query="whale").startswith("[0] whale")


def test_the_result_of_a_backend_after_cancel_is_not_shown():
    class Slow:
        def fetch(self, source: str) -> Page:
            tool.cancel()
            return Page(source, source, source)

    tool = BrowserTool(Slow())
    for _ in range(2):
        with pytest.raises(ToolError, match="stopped"):
            call(tool, "open", id="x")
    assert tool.citations("【0†L0】") == ()


@pytest.mark.parametrize(("path", "content"), [("/latin", "Grüße"), ("/nonsense", "fine"), ("/to-a", "/a)")])
def test_pages_of_all_kinds_are_read(online, site, path, content):
    assert content in call(online, "open", id=f"{site}{path}")


def test_a_large_page_is_cut_off(online, site):
    assert len(online.backend.fetch(f"{site}/large").text) < web._MAX_BYTES + 100


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/none", "404"), ("/image", "is no text"), ("/to-itself", "without end"), (":1/", "Error fetching URL")],
)
def test_a_page_that_cannot_be_read_is_explained_in_a_sentence(online, site, path, sentence):
    with pytest.raises(ToolError) as caught:
        call(online, "open", id=site.rpartition(":")[0] + path if path.startswith(":") else site + path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://a/", "nothing", "http://", "http://[::1", "http://a b/"]
)
def test_only_the_web_is_opened(online, url):
    with pytest.raises(ToolError):
        call(online, "open", id=url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "[::1]", "0.0.0.0"])
def test_private_networks_are_refused_by_default(host):
    with pytest.raises(ToolError, match="private network"):
        Web("https://host/?q={query}").fetch(f"http://{host}:1/")


def test_a_redirect_into_a_private_network_is_not_followed(site, monkeypatch):
    is_public, asked = addresses.is_public, []
    monkeypatch.setattr(addresses, "is_public", lambda address: not asked and asked.append(address) is None)
    with pytest.raises(ToolError, match="private network"):
        Web("https://host/?q={query}").fetch(f"{site}/to-private")
    assert asked == ["127.0.0.1"] and not is_public("127.0.0.1")


@pytest.mark.parametrize("path", ["/none?q={query}", "/list?q={query}", "/b?q={query}"])
def test_a_failed_search_is_explained_in_a_sentence(site, path):
    with pytest.raises(ToolError, match="the search failed"):
        Web(site + path).search("x", 3)


@pytest.mark.parametrize("endpoint", ["https://host/search", "notes", "file:///{query}"])
def test_a_wrong_endpoint_is_refused(endpoint):
    with pytest.raises(OptionError, match="not a search endpoint"):
        Web(endpoint)


def test_the_web_without_the_extra_is_refused(monkeypatch):
    monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"mlx-oss\[web\]"):
        Web("https://host/?q={query}")
