"""Attacks on the browser tool: files and pages that take time, servers that never end, and addresses in disguise.

No attack asserts how long something takes. Where time is the point, 16 times the input may take at most 64 times as
much of the processor's time: a quadratic step takes 256 times as much.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_oss.errors import ToolError
from mlx_oss.tools import BrowserTool
from mlx_oss.tools.browser import folder, reader, reader_process
from mlx_oss.tools.browser.charsets import decode
from mlx_oss.tools.browser.pages import Page
from mlx_oss.tools.browser.passages import Passages
from mlx_oss.tools.browser.reader import Reader
from mlx_oss.tools.browser.text import markdown_page, text_page
from tests.tools.documents import pdf

HANG = 60.0  # seconds until a test that waits gives up

FILES = {
    "brackets.md": "[",
    "labels.md": "[a](",
    "addresses.md": "[a](b ",
    "titles.md": '[a](b "',
    "parentheses.md": "[a](b(",
    "images.md": "![a](b",
    "angles.md": "[a](<",
    "blank heading.md": "# \t",
    "hashes.md": "#",
    "heading.md": "# a #",
    "declarations.html": "<!",
    "comments.html": "<!--",
    "instructions.html": "<?",
    "tags.html": "<a",
    "attributes.html": "<a b=c ",
    "quotes.html": "<a b='\"",
    "equals.html": "<a =",
    "nested.html": "<div>",
    "quotations.html": "<blockquote>x",
    "items.html": "<ol><li>x",
    "closed items.html": "<li></li>",
    "cells.html": "<td>x",
    "links.html": "<a href=x>y",
    "scripts.html": "<script></script",
    "nested cells.html": "<table><tr><td>x|",
    "captions.html": "<table><caption>x</caption></table>",
    "links in cells.html": "<a href=x><table><td>y",
    "links in pre.html": "<pre><a href=x>y",
    "bold paragraphs.html": "<b><p>",
    "options.html": "<select><option>x",
    "dropped.html": "<svg><template>",
    "entities.html": "&#9",
    "ampersands.html": "&",
    "ends.html": "</b>",
    "characters.txt": "鯨",
    "vowel signs.txt": "น้ำ",
    "word.txt": "x",
    "dashes.txt": "1-",
    "blanks.txt": " ",
    "tabs.txt": "\t",
    "line breaks.txt": "\n",
    "link marks.txt": "【1†",
}


def call(tool: BrowserTool, function: str, **arguments: object) -> str:
    return tool.call(function, json.dumps(arguments))


def seconds(work: Callable[[], object]) -> float:
    """The processor's time that it takes, the least of three times, so that other programs do not count."""

    def once() -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    return min(once() for _ in range(3))


def read(name: str, text: str) -> Page:
    """Makes a page as the tool does, and does everything with it that takes time."""
    if name.endswith(".html"):
        text = reader_process.html(text.encode())["text"]
    page = markdown_page(name, text, lambda address: address) if name.endswith(".md") else text_page(name, text)
    page.view(0, 0, page.end(0, -1, 100))
    page.found("zebra")
    page.line_at(len(page.text) - 1)
    return page


def assert_linear(work: Callable[[int], object], size: int) -> None:
    small, large = seconds(lambda: work(size)), seconds(lambda: work(16 * size))
    assert large < 64 * small or large < 0.05, f"{size}: {small:.4f} s, 16 times that: {large:.4f} s"


@pytest.mark.parametrize("name", FILES)
def test_the_time_for_a_file_is_in_proportion_to_its_length(name):
    unit = FILES[name]
    assert_linear(lambda size: read(name, unit * (size // len(unit))), 5000)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_files_of_the_largest_size_are_read(name, tmp_path):
    (tmp_path / name).write_text(FILES[name] * (folder._MAX_BYTES // len(FILES[name].encode())))
    tool = BrowserTool(tmp_path)
    call(tool, "search", query="what of the whale and the captain")
    assert call(tool, "open", id=name, num_lines=3).startswith("[1] ")


def test_the_time_of_a_search_is_in_proportion_to_the_matches_in_a_file(tmp_path):
    def search(size: int) -> None:
        (tmp_path / "a.txt").write_text("the whale of the sea and the captain\n" * size)
        assert "the whale" in call(BrowserTool(tmp_path), "search", query="what of the whale and the captain")

    assert_linear(search, 500)


def test_the_time_of_a_search_is_in_proportion_to_a_text_without_blanks(tmp_path):
    def search(size: int) -> None:
        (tmp_path / "a.txt").write_text("鲸鱼是世界上最大的哺乳动物" * size)
        assert "鲸鱼" in call(BrowserTool(tmp_path), "search", query="最大的鲸鱼和哺乳动物")

    assert_linear(search, 500)


BIG = 1 << 20  # characters


@pytest.mark.parametrize("unit", ["\n", "\t", "x", "some words ", "鯨", "�", "[a](b) "])
def test_every_step_looks_often_whether_the_call_was_cancelled(unit):
    """At most 64 K characters, or 1000 lines of 80, are handled between two looks."""
    looks = []

    def check() -> None:
        looks.append(1)

    text = unit * (BIG // len(unit))
    page = text_page("a", text, check)
    assert len(looks) >= len(text) >> 16
    steps = [
        lambda: markdown_page("a", text, str, check),
        lambda: decode(text.encode(), check=check),
        lambda: decode(b"\xff" + text.encode(), check=check),
        lambda: page.wrap(check),
        lambda: page.line_at(len(text) - 1, check),
        lambda: page.found("zebra", check),
    ]
    for step in steps:
        looks.clear()
        step()
        assert len(looks) >= len(text) // 80_000 - 1


def test_a_text_without_blanks_is_indexed_in_small_pieces():
    looks = []
    index = Passages(threading.Event())
    index.check = lambda: looks.append(1)
    index.add("a", "a", "鯨" * (1 << 18))
    assert len(looks) >= 32


def test_fifty_thousand_words_are_searched_for_as_quickly_as_those_that_count(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("whale\n" + "the sea and the captain\n" * 100)
    tool, seen = BrowserTool(tmp_path), []
    best = folder.Passages._stems
    monkeypatch.setattr(folder.Passages, "_stems", lambda self, words: best(self, seen.append(words) or words))
    shown = call(tool, "search", query=" ".join(["whale", *(f"word{number}" for number in range(50_000))]))
    assert "a.txt" in shown and len(shown) < 5000 and len(seen[0]) == 32


def test_a_file_larger_than_what_is_read_is_found_by_its_beginning(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a zebra\n" + b"the sea and the captain\n" * (50 << 20 >> 5))
    assert "a.txt" in call(BrowserTool(tmp_path), "search", query="zebra")


@pytest.mark.long
def test_a_folder_of_twenty_thousand_files_is_searched(tmp_path):
    for number in range(20_000):
        (tmp_path / f"{number}.md").write_text(f"# File {number}\n\nthe sea and the captain {number}\n")
    tool = BrowserTool(tmp_path)
    assert "File 777" in call(tool, "search", query="777")
    assert seconds(lambda: call(tool, "search", query="778")) < HANG / 10


def cancelled_within(tool: BrowserTool, work: Callable[[], object], begun: threading.Event) -> float:
    """How long the work goes on after `cancel`, once it has begun."""
    errors: list[str] = []

    def run() -> None:
        try:
            work()
        except ToolError as error:
            errors.append(str(error))

    running = threading.Thread(target=run, daemon=True)
    running.start()
    assert begun.wait(HANG)
    start = time.perf_counter()
    tool.cancel()
    running.join(HANG)
    assert errors == ["stopped before it was done"]
    return time.perf_counter() - start


@pytest.mark.parametrize("name", ["titles.md", "items.html", "dashes.txt"])
@pytest.mark.parametrize("function", ["search", "open"])
def test_reading_a_large_file_can_be_cancelled(tmp_path, monkeypatch, name, function):
    """The file takes ten seconds and more, so a call that ends within the limit did not read it to its end."""
    (tmp_path / name).write_text(FILES[name] * (folder._MAX_BYTES // len(FILES[name])))
    tool, begun = BrowserTool(tmp_path), threading.Event()
    read = folder.Folder._open
    monkeypatch.setattr(folder.Folder, "_open", lambda self, path: begun.set() or read(self, path))
    arguments = {"query": "whale"} if function == "search" else {"id": name}
    assert cancelled_within(tool, lambda: call(tool, function, **arguments), begun) < 5
    assert "No results" in call(BrowserTool(small_folder(tmp_path)), "search", query="zebra")


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_a_document_that_is_being_read_is_left_when_the_call_is_cancelled(kind, monkeypatch):
    content = b"BT (x) Tj ET " * 2_000_000
    document = b"<b><p>" * 2_000_000 if kind == "html" else pdf(content=content)
    reads, stopped = Reader(), threading.Event()
    assert reads.page("a", "html", b"fine", str).body == "fine"
    process = reads._child._process

    def check() -> None:
        if stopped.is_set():
            raise ToolError("stopped before it was done")

    ask = reader._Child._ask
    monkeypatch.setattr(reader._Child, "_ask", lambda self, *args: stopped.set() or ask(self, *args))
    with pytest.raises(ToolError, match="stopped"):
        reads.page("a", kind, document, str, check)
    stopped.clear()
    monkeypatch.undo()
    assert process.wait(HANG) == -signal.SIGKILL
    assert reads.page("a", "html", b"fine", str).body == "fine"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os; os.abort()", "the library that reads such documents cannot read it"),
        ("import sys; sys.stdin.readline(); sys.exit(3)", "the library that reads such documents cannot read it"),
        ("import time; time.sleep(1000)", "takes too long"),
    ],
)
def test_a_library_that_crashes_or_hangs_costs_one_document(program, sentence, tmp_path, monkeypatch):
    (tmp_path / "crashes.py").write_text(program)
    (tmp_path / "a.html").write_text("<p>a whale")
    (tmp_path / "b.txt").write_text("a whale")
    with monkeypatch.context() as within:
        within.setattr(reader.reader_process, "__file__", str(tmp_path / "crashes.py"))
        within.setattr(reader, "_SECONDS", 0.3)
        tool = BrowserTool(tmp_path)
        with pytest.raises(ToolError, match=sentence):
            call(tool, "open", id="a.html")
        shown = call(tool, "search", query="whale")
        assert "b.txt" in shown and "a.html" not in shown
    assert "a whale" in call(tool, "open", id="a.html")


def test_the_process_that_reads_documents_ends_with_the_tool(tmp_path):
    (tmp_path / "a.html").write_text("<p>a whale")
    tool = BrowserTool(tmp_path)
    call(tool, "search", query="whale")
    process = tool.backend._reader._child._process
    assert process.poll() is None
    del tool
    gc.collect()
    assert process.poll() == -signal.SIGKILL


PDF_FILES = {
    "empty": b"",
    "head": b"%PDF-1.4\n",
    "cut off": pdf("whale" * 100)[:400],
    "damaged": pdf("whale", "sea").replace(b"Kids", b"Kidz"),
    "zeros": pdf("whale").replace(b"0 R", b"0 0"),
    "a bomb": pdf("x").replace(b"stream\nBT", b"/Filter/FlateDecode>>stream\n" + zlib.compress(b"x" * 100_000_000)),
    "a page in itself": pdf("whale").replace(b"Kids[4 0 R]", b"Kids[2 0 R]"),
    "a table in itself": pdf("whale").replace(b"/Root", b"/Prev 9/Root"),
    "many pages said": pdf("whale").replace(b"Count 1", b"Count 999999999"),
    "arrays": pdf(content=b"[" * 500_000),
    "dictionaries": pdf(content=b"<<" * 500_000),
    "brackets": pdf(content=b"(" * 500_000),
    "states": pdf(content=b"q " * 100_000),
    "nested objects": b"%PDF-1.4\n1 0 obj\n" + b"[" * 500_000 + b"\ntrailer<</Root 1 0 R>>",
    "percent": b"%PDF-1.4\n" + b"%" * 1_000_000,
    "noise": b"%PDF-1.4\n" + random.Random(1).randbytes(100_000),
}


def test_no_pdf_file_stops_the_reader():
    reads = Reader()
    for name, document in PDF_FILES.items():
        try:
            page = reads.page(name, "pdf", document, str)
        except ToolError as error:
            assert len(str(error)) < 400 and "\n" not in str(error)
        else:
            assert len(page.text) < 10_000, name
    process = reads._child._process
    assert "whale" in reads.page("a", "pdf", pdf("whale"), str).text
    assert reads._child._process is process  # it was never killed


def small_folder(tmp_path: Path) -> Path:
    small = tmp_path / "small"
    small.mkdir()
    (small / "a.md").write_text("# Whale\n")
    return small


def test_a_search_is_cancelled_while_sqlite_compares_matches(tmp_path, monkeypatch):
    for number in range(2000):
        (tmp_path / f"{number}.txt").write_text("the whale of the sea and the captain\n" * 20)
    tool = BrowserTool(tmp_path)
    call(tool, "search", query="whale")
    looked, stop = [], tool.backend.stopped

    class Stops:
        """Is set from the second look on. The first ones come from within SQLite."""

        def is_set(self) -> bool:
            looked.append(1)
            return len(looked) > 1

        def clear(self) -> None:
            pass

    index = tool.backend._index
    monkeypatch.setattr(index, "_stopped", Stops())
    monkeypatch.setattr(index, "_stems", lambda words: pytest.fail("SQLite was not stopped"))
    with pytest.raises(ToolError, match="stopped"):
        index.search("what of the whale and the captain", 10)
    monkeypatch.undo()
    index._stopped = stop
    assert "【0†" in call(tool, "search", query="what of the whale and the captain")


def test_a_search_that_was_cancelled_leaves_an_index_that_finds_every_file_once(tmp_path):
    text = "the whale of the sea\n" * 20_000
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"zebra {number}\n{text}")
    tool = BrowserTool(tmp_path)
    index, insert = tool.backend._index, 0
    check = index.check

    for stops_at in range(1, 12, 2):

        def counted(stops_at: int = stops_at) -> None:
            nonlocal insert
            insert += 1
            if insert == stops_at:
                tool.cancel()
            check()

        insert, index.check = 0, counted
        with pytest.raises(ToolError, match="stopped"):
            call(tool, "search", query="zebra")
    index.check = check
    shown = call(tool, "search", query="zebra")
    fresh = BrowserTool(tmp_path)
    call(fresh, "search", query="zebra")
    assert count_rows(tool) == count_rows(fresh) > 3
    assert all(shown.count(f"{number}.txt】") == 1 for number in range(3)) and "【3†" not in shown


def count_rows(tool: BrowserTool) -> int:
    (count,) = tool.backend._index._index.execute("SELECT count(*) FROM pages").fetchone()
    return count


def test_a_link_that_replaces_a_file_or_folder_after_the_check_leads_nowhere(tmp_path, monkeypatch):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "a.md").write_text("# Secret\n")
    is_page = folder.Folder._is_page

    def swapped(self: folder.Folder, path: str) -> bool:
        known = is_page(self, path)
        if path == "a.md":
            (root / path).unlink(missing_ok=True)
            (root / path).symlink_to(outside / "a.md")
        else:
            (root / "deep").rename(tmp_path / "moved")
            (root / "deep").symlink_to(outside)
        return known

    for path in ("a.md", "deep/a.md"):
        (root / path).write_text("# Open\n")
    tool = BrowserTool(root)
    monkeypatch.setattr(folder.Folder, "_is_page", swapped)
    for path in ("a.md", "deep/a.md"):
        with pytest.raises(ToolError, match="cannot be read"):
            call(tool, "open", id=path)


def test_a_pipe_or_device_in_the_folder_is_neither_opened_nor_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "a.md").write_text("# Whale\n")
    tool = BrowserTool(tmp_path)
    assert "a.md" in call(tool, "search", query="whale")
    with pytest.raises(ToolError, match="no file"):
        call(tool, "open", id="pipe.md")
    with pytest.raises(ToolError, match="no file"):
        with_pipe = tool.backend
        with_pipe._is_page = lambda path: True  # as if it had become a pipe after the check
        with_pipe.fetch("pipe.md")


@pytest.mark.parametrize(
    "odd",
    [
        "²",
        "٣",
        "9" * 5000,
        "-" + "9" * 30,
        "a" * 5000 + ".md",
        "a/" * 5000 + "a.md",
        "a\0.md",
        "\ud800.md",
        "",
        "/",
        ".",
    ],
)
def test_an_odd_id_gets_a_sentence(tmp_path, odd):
    (tmp_path / "a.md").write_text("# Whale\n")
    tool = BrowserTool(tmp_path)
    call(tool, "open", id="a.md")
    with pytest.raises(ToolError) as caught:
        call(tool, "open", id=odd)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_entities_cannot_forge_links_and_citations():
    document = "<title>&#x3010;9†x】</title><p>&#x3010;5&#8224;click&#12305; <a href=x>&#x3010;b</a></p>"
    page = Reader().page("a", "html", document.encode(), str)
    assert "【5" not in page.text and "【9" not in page.title and "【0†〖b†x】" in page.text


def test_a_long_answer_of_long_citations_takes_little_memory(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 79 + "\n" + ("y" * 79 + "\n") * 20_000)
    tool = BrowserTool(tmp_path)
    call(tool, "open", id="a.txt")
    citations = tool.citations("【0†L0-L999999】" * 100)
    assert len(citations) == 100 and sum(len(citation.text) for citation in citations) < 3_000_000
    assert all(citation.last_line == 199 for citation in citations)


def test_a_page_that_is_opened_again_is_held_once(tmp_path):
    (tmp_path / "a.txt").write_text("x\n" * 1000)
    tool = BrowserTool(tmp_path)
    for _ in range(3):
        call(tool, "open", id="a.txt")
    assert tool.shown[0].page is tool.shown[1].page is tool.shown[2].page
