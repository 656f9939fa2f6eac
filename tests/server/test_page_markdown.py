"""Markdown on the page: nothing runs or loads, and what is streamed block by block is what a reload shows."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.server.page import markdown
from mlx_oss.server.page.markdown import Block, Blocks, rendered

SAMPLE = """\
# Title

Some *words*, **bold** and `code`, on
two lines. See https://example.com/a_b, or [here](https://example.com "x").

- one
- two

  ```python
  print(1)
  ```
1. three

| a | b |
|---|--:|
| 1 | 2 |

> quoted
> more

```js title="x"
let a = "</code>";
```

    indented

\\[ a_b \\]
***
last **line
"""


def typed(text: str, cuts: list[int]) -> list[str]:
    """The HTML of each block, after a text has come in pieces and was shown after each."""
    blocks, shown, done = Blocks(), dict[int, str](), set[int]()

    def show(changed: list[Block]) -> None:
        for block in changed:
            assert block.index not in done and block.index <= len(shown)
            shown[block.index] = block.html
            if block.is_done:
                done.add(block.index)

    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        blocks.add(text[begin:end])
        blocks._next = 0.0
        show(blocks.changed())
    show(blocks.end())
    assert done == set(shown)
    return [shown[index] for index in sorted(shown)]


def every_cut(text: str) -> list[int]:
    return list(range(1, len(text)))


def test_what_is_streamed_is_what_a_reload_shows():
    assert "".join(typed(SAMPLE, every_cut(SAMPLE))) == rendered(SAMPLE)
    assert len(typed(SAMPLE, [])) > 9


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab #*-_`|>[]()!\n\n\\$1.~:=+", "```", "\n\n", "    ", "| - |\n", "https://a.b", "\r\n"])
    )
)
def test_any_text_is_streamed_as_a_reload_shows_it(pieces):
    text = "".join(pieces)
    assert "".join(typed(text, every_cut(text))) == rendered(text)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](data:text/html;base64,PHNjcmlwdD4=)",
        "[a](vbscript:x)",
        "[a](&#106;avascript:alert(1))",
        "<javascript:alert(1)>",
        "![x](data:image/svg+xml,<svg/onload=alert(1)>)",
        '```"><script>alert(1)</script>\nx\n```',
        '[a](https://e.com/"onmouseover="alert(1))',
        '![" onerror="alert(1)](https://e.com/x.png)',
        'https://e.com/"onmouseover="alert(1)',
        "[a](file:///etc/passwd)",
        "[a](//e.com)",
        "[a](/page/state)",
        "| <b> |\n|:--|\n| <i onclick=x> |",
    ],
)
def test_nothing_that_a_model_writes_can_run_or_load(text):
    html = rendered(text)
    assert not re.search(r"<(script|img|svg|iframe|b|i)\b|\sstyle=|<[^>]*\son\w+=", html)
    for tag in re.findall(r"<a [^>]*>", html):
        assert re.fullmatch(r'<a href="(https?|mailto):[^"]*" target="_blank" rel="noopener noreferrer nofollow">', tag)


def test_an_image_is_a_link_to_it():
    assert '<a href="https://e.com/x.png"' in rendered("![A cat](https://e.com/x.png)")
    assert ">A cat</a>" in rendered("![A cat](https://e.com/x.png)")


def test_an_address_is_a_link_without_the_full_stop_after_it():
    html = rendered("See https://e.com/a_b(c)?d=1&e=2. And (http://f.org), `https://g.h`.")
    assert re.findall(r'href="([^"]*)"', html) == ["https://e.com/a_b(c)?d=1&amp;e=2", "http://f.org"]


def test_code_has_its_language_and_a_button():
    html = rendered('```python title="x"\n1 < 2\n```')
    assert "<span>python</span>" in html and 'class="copy"' in html and "<code>1 &lt; 2\n</code>" in html


def test_headings_stand_below_those_of_the_page():
    assert rendered("# a\n\n###### b") == "<h3>a</h3>\n<h6>b</h6>\n"


def test_the_mark_of_a_citation_is_a_number():
    assert '<sup class="citation">3</sup>' in rendered("So it is【3†L1-L4】.")


@pytest.mark.parametrize(
    ("so_far", "shown"),
    [
        ("Hi\n-", "<p>Hi</p>\n"),  # not a heading yet
        ("Hi\n\n#", "<p>Hi</p>\n"),
        ("Hi **bo", "<p>Hi <strong>bo</strong></p>\n"),
        ("Hi `co", "<p>Hi <code>co</code></p>\n"),
        ("Hi [the", "<p>Hi the</p>\n"),
        ("Hi [there](https://e.c", "<p>Hi there</p>\n"),
        ("| a | b |\n|-", ""),
        ("- a\n- ", "<ul>\n<li>a</li>\n</ul>\n"),
    ],
)
def test_marks_do_not_show_up_and_vanish_while_the_model_writes(so_far, shown):
    blocks = Blocks()
    blocks.add(so_far)
    assert "".join(block.html for block in blocks.changed()) == shown


def test_marks_in_code_that_is_being_written_stay():
    blocks = Blocks()
    blocks.add("```\na **b `c [d")
    assert "a **b `c [d" in blocks.changed()[0].html


@pytest.mark.parametrize("kind", ["paragraph", "list", "code", "paragraphs"])
def test_rendering_a_long_block_takes_a_fifth_of_the_time_at_most(kind, monkeypatch):
    now = work = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    parse = markdown._PARSER.parse

    def slowly(text, *rest):
        nonlocal now, work
        now += len(text) * 1e-5
        work += len(text) * 1e-5
        return parse(text, *rest)

    monkeypatch.setattr(markdown._PARSER, "parse", slowly)
    line = {"paragraph": "some words ", "list": "- some words\n", "code": "x = 1\n", "paragraphs": "words\n\n"}[kind]
    text = ("```\n" if kind == "code" else "") + line * 1000
    blocks = Blocks()
    for place in range(0, len(text), 4):
        blocks.add(text[place : place + 4])
        now += 0.01
        blocks.changed()
    assert 0 < work < now / 4


def test_pathological_text_is_rendered():
    for text in (
        "[" * 5_000,
        "*a " * 5_000,
        ">" * 5_000,
        "`a" * 5_000,
        "![" * 3_000,
        "|a" * 2_000 + "\n" + "|-" * 2_000,
    ):
        assert rendered(text)


def test_halves_of_characters_and_odd_line_ends_do_no_harm():
    assert rendered("a\r\nb\rc") == "<p>a<br />\nbc</p>\n"
    assert rendered("\ud800")
