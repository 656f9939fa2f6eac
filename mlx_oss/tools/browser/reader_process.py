"""Reads HTML and PDF documents. `reader.py` runs this file as a script in a process of its own, which it can stop.

The script's argument is the descriptor of a file that both processes share. Each line that it reads is a request: the
kind of a document, and the size of the document, which is in the file. The answer is a line with the size of the JSON
that has taken the document's place. Imports nothing of mlx_oss, so it starts in a moment.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import turbohtml

LINK, TEXT, END = "\ufdd0", "\ufdd1", "\ufdd2"  # around the number and the text of a link; no characters of any text
MAX_LINKS = 10_000  # of a page; the others become text
_MAX_ADDRESS = 1 << 13  # characters; a longer one is no address
_MAX_TEXT = 16 << 20  # characters
_MEMORY = 4 << 30  # bytes of address space
_SECONDS = 15  # for a PDF document; the pages that were not read until then are left out
_DROPPED = "script, style, noscript, template, svg, iframe, title"
_HEADING = re.compile(r"\s*(#+ )?(.*)", re.DOTALL)


class _TimeIsUp(BaseException):
    """Not an `Exception`, so that no library handles it."""


def html(document: bytes) -> dict[str, Any]:
    """Returns the text of an HTML document in the form of Markdown, with its title and the addresses of its links."""
    import turbohtml
    from turbohtml import Markdown

    addresses: list[str] = []

    def link(element: turbohtml.Element, text: str) -> str:
        address = element.attrs.get("href")
        if not isinstance(address, str) or not text.strip() or len(addresses) == MAX_LINKS:
            return text
        addresses.append(address[:_MAX_ADDRESS])
        heading = _HEADING.fullmatch(text)
        assert heading is not None
        return f"{heading[1] or ''}{LINK}{len(addresses) - 1}{TEXT}{heading[2]}{END}"

    def apart(_: turbohtml.Element, text: str) -> str:
        return f" {text} "

    form = Markdown(
        inline=Markdown.Inline(ignore_emphasis=True),
        lists=Markdown.Lists(bullets="*"),
        escaping=Markdown.Escaping(mode="none", asterisks=False, underscores=False),
        images=Markdown.Images(mode="alt"),
        tables=Markdown.Tables(cell_blocks="text"),
        converters={
            **{"a": link, "button": apart, "option": apart, "select": apart, "textarea": apart},
            **{"td": _cell, "th": _cell, "tr": _row, "caption": _caption, "table": _table},
        },
    )
    tree = turbohtml.parse(document.decode())
    title = tree.select_one("head title")
    for element in tree.select(_DROPPED):
        element.decompose()
    for element in tree.select("pre a[href]"):  # there it takes the text as it is
        element.replace_with(turbohtml.Text(link(element, element.text)))
    text = tree.to_markdown(form)[:_MAX_TEXT].replace("  \n", "\n")
    return {"title": title.text if title else "", "text": text, "links": addresses}


# The library would leave tables HTML whose rows have not all the same number of cells.


def _cell(_: object, text: str) -> str:
    return f"{' '.join(text.split())} | "


def _row(_: object, text: str) -> str:
    return f"| {text.strip()}\n" if text.strip() else ""


def _caption(_: object, text: str) -> str:
    return f"{' '.join(text.split())}\n\n"


def _table(element: turbohtml.Element, text: str) -> str:
    if element.closest("td, th"):  # a table in a table is text
        return f" {' '.join(text.replace('|', ' ').split())} "
    caption, bar, rows = text.partition("| ")
    first, _, others = f"{bar}{rows}".partition("\n")
    line = "| --- " * max(first.count(" |"), 1) + "|"
    return f"{caption}{first}\n{line}\n{others}".rstrip() if bar else caption


def pdf(document: bytes) -> dict[str, Any]:
    """Returns the text of a PDF document, with a heading for each page, and its title."""
    try:
        import pypdf
    except ImportError:
        return {"error": "PDF files need an extra: install mlx-oss with it, as in pip install 'mlx-oss[pdf]'"}
    title, pages, count, size = "", list[str](), 0, 0
    try:
        reader = pypdf.PdfReader(io.BytesIO(document))
        count = len(reader.pages)
        with contextlib.suppress(Exception):  # what a document says of itself may be damaged
            title = str(reader.metadata.title or "") if reader.metadata else ""
        for number, page in enumerate(reader.pages, start=1):
            try:
                text = page.extract_text()
            except Exception:  # whatever a damaged page makes the library raise
                text = "(This page cannot be read.)"
            pages.append(f"# Page {number}\n\n{text.strip()}")
            size += len(text)
            if size > _MAX_TEXT:
                break
    except _TimeIsUp:
        if not pages:
            raise
    except Exception as error:
        if not pages:
            return {"error": f"it is no PDF document that can be read ({' '.join(str(error).split())[:200]})"}
    if len(pages) < count:
        pages.append(f"(Only {len(pages)} of {count} pages were read.)")
    elif not any(page.partition("\n\n")[2] for page in pages):
        pages.append("(There is no text in this document, perhaps only pictures of it.)")
    return {"title": title, "text": "\n\n".join(pages)[:_MAX_TEXT], "links": []}


def _time_is_up(*_: object) -> None:
    raise _TimeIsUp


def _main() -> None:
    shared = int(sys.argv[1])
    with contextlib.suppress(OSError, ValueError):  # macOS does not hold a process to this limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _time_is_up)
    for line in sys.stdin:
        kind, size = line.split()
        with open(os.dup(shared), "rb") as file:
            file.seek(0)
            document = file.read(int(size))
        try:
            signal.alarm(_SECONDS)
            answer = (html if kind == "html" else pdf)(document)
        except (MemoryError, RecursionError, _TimeIsUp):
            answer = {"error": "reading it takes too much time or memory"}
        except Exception as error:
            answer = {"error": f"it cannot be read ({' '.join(str(error).split())[:200]})"}
        finally:
            signal.alarm(0)
        with open(os.dup(shared), "wb") as file:
            file.seek(0)
            written = file.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))
            file.truncate()
        sys.stdout.write(f"{written}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
