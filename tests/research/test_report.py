"""The report as Markdown: nothing that the model or a page writes becomes HTML, an image, or a link to elsewhere."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlx_oss.research.progress import described
from mlx_oss.research.report import made
from mlx_oss.research.state import State


def state(report: str, source: str = "https://host/page", title: str = "Page") -> State:
    """A research that has read one page of two lines, and has written this report."""
    lines = [
        {"event": "begin", "version": 1, "question": "What?", "date": "2026-01-01", "effort": "low"},
        {"event": "plan", "questions": ["What?"]},
        {"event": "look", "look": 0, "part": 0},
        {"event": "read", "look": 0, "source": source, "title": title, "first": 0, "lines": ["a", "b"], "total": 2},
        {"event": "note", "look": 0, "part": 0, "text": "So it is 【0†L1】."},
        {"event": "report", "text": report},
    ]
    made_of = State()
    for line in lines:
        made_of.apply(line)
    return made_of


def links(markdown: str) -> list[str]:
    """Where the links of a Markdown text lead, also those that many viewers make of addresses in the text.

    Fails if it has HTML or images.
    """
    tokens = MarkdownIt("commonmark").parse(markdown)
    flat = [*tokens, *(child for token in tokens for child in token.children or [])]
    assert not [token for token in flat if token.type in ("html_block", "html_inline", "image")]
    made = [str(token.attrs["href"]) for token in flat if token.type == "link_open"]
    texts = " ".join(token.content for token in flat if token.type in ("text", "fence"))
    bare = [each.rstrip(".)") for each in re.findall(r"(?i)(?:https?://|ftp://|www\.)[^\s<]+", texts)]
    return [*made, *(each for each in bare if each not in made)]


HARMFUL = [
    "[x](javascript:alert(1))",
    "[x](https://evil/?q=1)",
    "[x](<https://evil/>)",
    '[x](https://evil "title")',
    "![x](https://evil/pixel)",
    "![x](https://host/page)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\\<b>bold</b>",
    "<https://evil/>",
    "https://evil/?q=1",
    "(HTTP://evil/)",
    "https://host/page/evil",
    "www.evil.example",
    "```\nhttps://evil/\n```",
    "[x]\n\n[x]: javascript:alert(1)",
    "So 【1†L1】: https://evil/",
    "So 【1†L1】(https://evil/)",
    "!【1†L1】(https://evil/)",
    "[x 【1†L1】](https://evil/)",
    "[x](https://host/page\n)",
    "[x](java\nscript:1)",
    "[a][b]\n\n[b]:\n  https://evil/",
]


@pytest.mark.parametrize("text", HARMFUL)
def test_what_a_model_writes_is_no_html_no_image_and_no_link_to_elsewhere(text):
    assert set(links(made(state(f"{text} 【1†L1】")).markdown)) == {"https://host/page"}  # the only source


@given(st.lists(st.sampled_from([*HARMFUL, "[", "]", "(", ")", "<", "!", "\\", "`", ":", "\n", "【1†L1】", "a", "/"])))
def test_neither_do_pieces_of_it(pieces):
    assert set(links(made(state("".join(pieces))).markdown)) <= {"https://host/page"}


@pytest.mark.parametrize("open_", ["```\n", "~~~~ python\n~~~\n", "```a`b\n````\n", "``` x\ny\n```\n   ```\n"])
def test_code_that_does_not_end_does_not_swallow_sources_and_checks(open_):
    markdown = made(state(f"So it is 【1†L1】.\n{open_}code\n")).markdown
    headings = [token.content for token in MarkdownIt("commonmark").parse(markdown) if token.level == 1]
    assert {"Sources", "Checks"} <= set(headings) and links(markdown) == ["https://host/page"]


def test_an_address_that_was_read_stays_as_it_is():
    assert "See https://host/page." in made(state("See https://host/page. So 【1†L1】")).markdown


def test_a_link_to_a_page_that_was_read_stays():
    assert links(made(state("See [it](https://host/page) 【1†L1】.")).markdown) == ["https://host/page"] * 2


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("javascript:alert(1)", "<b>[x](javascript:1)"),
        ("`a` <i>.md", "![x](https://evil)\n# Heading"),
        ("https://host/<script>", "\x1b]0;t\x07\u202e"),
    ],
)
def test_titles_and_addresses_are_only_text(source, title):
    report = made(state("So it is 【1†L1】.", source, title))
    assert links(report.markdown) == [] and "\x1b" not in report.markdown and "\u202e" not in report.markdown
    assert "\n# Heading" not in report.markdown


def test_the_terminal_gets_no_commands():
    report = made(state("Red \x1b[31m and \x9b5m 【1†L1】.\r"))
    assert not set(report.markdown) & {"\x1b", "\x9b", "\r"}
    for event in (
        {"event": "call", "tool": "browser.search", "text": '{"query": "\\u001b[2J\\n"}'},
        {"event": "note", "text": "\x1b\n\u202e"},
    ):
        line = described(event)
        assert line is not None and line.isprintable()


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"event": 3},
        {"event": "plan", "questions": 5},
        {"event": "plan", "questions": [None]},
        {"event": "call", "text": "[" * 100_000},
        {"event": "read", "lines": 3, "first": "x"},
        {"event": "look", "look": "x"},
    ],
)
def test_no_line_of_a_foreign_trace_breaks_the_progress(line):
    assert described(line) is None or isinstance(described(line), str)


def test_a_cut_report_and_shortened_notes_are_told():
    cut = state("So it is 【1†L1】.")
    cut.apply({"event": "report", "text": "So", "is_cut": True, "shortened": 2})
    assert "The report was cut off" in made(cut).markdown and "2 notes were shortened" in made(cut).markdown


def test_without_a_report_the_notes_stand_there():
    none = state("")
    assert "These are its notes:\n\nSo it is [1, L1]." in made(none).markdown
