"""Markdown to HTML for the page: a whole text, or block by block while the model writes it.

HTML in the text is shown as text, links lead only to the web and to mail, and images become links. So what a model or a
web page wrote can neither run nor load anything. Knows nothing of models and HTTP.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from mlx_oss.formulas import with_formulas

_SHORTEST_PAUSE = 0.04  # seconds between two renderings of the block that is being written
_SHARE = 4  # after a rendering, the pause is so many times as long as it took,
_GROWTH = 50.0  # and longer by so many times for each second: nothing else is answered meanwhile
_BYTES_PER_SECOND = 2_000_000  # of HTML that count as work: whoever reads it has to draw it
_LINK = re.compile(r"(?:https?|mailto):", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s<>\"'`\\^{}|]+[^\s<>\"'`\\^{}|.,;:!?)\]*_]", re.IGNORECASE)
_CITATION = re.compile("【(\\d{1,4})†[^】\n]{0,60}】")
_LONGEST_LABEL = 30  # characters of a code block's language


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the text at the top level: a paragraph, a list, a table, code.

    Attributes:
        index: Its place in the text, counted from 0.
        html: What it looks like; may be empty.
        is_done: True if no more text can change it.
    """

    index: int
    html: str
    is_done: bool


def rendered(text: str) -> str:
    """The HTML of a whole text."""
    return str(_PARSER.render(_plain_lines(text)))


class Blocks:
    """The blocks of a text that grows.

    A block that is done is rendered once. The last one is rendered again as it grows, in a fifth of the time at most,
    so that a long answer costs no more per second than a short one.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []  # added since the last rendering
        self._tail = ""  # the text from the beginning of the block that is being written
        self._index = 0  # of that block
        self._shown = ""  # its HTML
        self._next = 0.0  # the earliest time of the next rendering

    def add(self, text: str) -> None:
        """Adds text at the end."""
        self._pieces.append(text)

    def changed(self) -> list[Block]:
        """The blocks that have changed since the last call; none if it is too early to render again."""
        started = time.perf_counter()
        if not self._pieces or started < self._next:
            return []
        blocks = self._finished_blocks()
        html = _render(_without_beginnings(self._tail))
        if html != self._shown:
            blocks.append(Block(self._index, html, False))
            self._shown = html
        now = time.perf_counter()
        work = now - started + sum(len(block.html) for block in blocks) / _BYTES_PER_SECOND
        self._next = now + max((_SHARE + _GROWTH * work) * work, _SHORTEST_PAUSE)
        return blocks

    def end(self) -> list[Block]:
        """The blocks that have changed since the last call, the last of them as it stays. The text is complete."""
        blocks = self._finished_blocks()
        tail, self._tail, self._shown = self._tail, "", ""
        for html in _blocks(_PARSER.parse(tail)):
            blocks.append(Block(self._index, html, True))
            self._index += 1
        return blocks

    def _finished_blocks(self) -> list[Block]:
        """Takes the blocks that are done out of the tail. Only whole lines count: `***` may become `***bold***`."""
        new = _plain_lines("".join(self._pieces))
        self._pieces, self._tail = [], self._tail + new
        if "\n" not in new:
            return []
        lines = self._tail.split("\n")
        tokens = _PARSER.parse("\n".join(lines[:-1]))
        starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
        if len(starts) < 2:
            return []
        blocks = []
        for html in _blocks(tokens)[:-1]:
            blocks.append(Block(self._index, html, True))
            self._index += 1
        self._tail, self._shown = "\n".join(lines[starts[-1] :]), ""
        return blocks


def _plain_lines(text: str) -> str:
    return text.replace("\r", "")


def _render(text: str) -> str:
    """The HTML of a text that goes on: what has been opened is closed, so that no marks show up and vanish again."""
    tokens = _PARSER.parse(text)
    last = next((token for token in reversed(tokens) if token.type in ("inline", "fence", "code_block")), None)
    if last is not None and last.type == "inline" and (closed := _closed(text)) != text:
        tokens = _PARSER.parse(closed)
    return str(_PARSER.renderer.render(tokens, _PARSER.options, {}))


def _blocks(tokens: Sequence[Token]) -> list[str]:
    """The HTML of each block at the top level."""
    blocks, begun = list[str](), 0
    for number, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0:
            blocks.append(str(_PARSER.renderer.render(tokens[begun : number + 1], _PARSER.options, {})))
            begun = number + 1
    return blocks


_ONLY_MARKS = re.compile(r"[-=+*_#>|:`~\s]*(?:\d{1,9}[.)]?\s*)?")
_OPEN_LINK = re.compile(r"!?\[([^\[\]\n]{0,300})(?:\](?:\([^()\s]*)?)?\Z")


def _without_beginnings(text: str) -> str:
    """The text without its last line if nobody can know yet what that is, such as a heading, a list or a table."""
    before, _, line = text.rpartition("\n")
    if _ONLY_MARKS.fullmatch(line):
        text, line = before, before.rpartition("\n")[2]
        before = before.rpartition("\n")[0]
    is_header = line.lstrip().startswith("|") and not before.rpartition("\n")[2].lstrip().startswith("|")
    return before if is_header else text


def _closed(text: str) -> str:
    """The text with the end of the code, the bold words or the link that its last line has begun."""
    before, newline, line = text.rpartition("\n")
    if line.count("`") % 2:
        return f"{text}`" if not line.endswith("`") else text[:-1]
    outside = re.sub(r"`[^`]*`", "", line)
    if (link := _OPEN_LINK.search(line)) and link[0].count("[") and outside.endswith(link[0]):
        line = line[: link.start()] + link[1]
        outside = outside.removesuffix(link[0]) + link[1]
    for mark in ("**", "~~"):
        if outside.count(mark) % 2:
            line = line.removesuffix(mark) if line.endswith(mark) else f"{line.rstrip()}{mark}"
    return before + newline + line


class _Renderer(RendererHTML):
    """HTML that needs no style and no script in it."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        label = (token.info.split() or [""])[0][:_LONGEST_LABEL]
        return (
            f'<div class="code"><div class="code-head"><span>{escapeHtml(label or "code")}</span>'
            '<button type="button" class="copy">Copy</button></div>'
            f'<pre tabindex="0"><code>{escapeHtml(token.content)}</code></pre></div>\n'
        )

    code_block = fence

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        address = escapeHtml(str(token.attrGet("src") or ""))
        name = escapeHtml(self.renderInlineAsText(token.children, options, env)) or address
        return f'<a href="{address}"{_ELSEWHERE}>{name}</a>'

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<a href="{escapeHtml(str(tokens[idx].attrGet("href") or ""))}"{_ELSEWHERE}>'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return '<div class="table" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>\n"

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        style = str(tokens[idx].attrGet("style") or "")
        return f'<{tokens[idx].tag} class="{style.rpartition(":")[2]}">' if style else f"<{tokens[idx].tag}>"

    th_open = td_open

    def citation(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<sup class="citation">{escapeHtml(tokens[idx].content)}</sup>'


_ELSEWHERE = ' target="_blank" rel="noopener noreferrer nofollow"'


def _finish(state: StateCore) -> None:
    """Puts headings below those of the page; addresses become links, and the marks of citations numbers."""
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        elif token.type == "inline" and token.children:
            token.children = _with_links(token.children)


def _with_links(children: Sequence[Token]) -> list[Token]:
    result, depth = list[Token](), 0
    for child in children:
        depth += {"link_open": 1, "link_close": -1}.get(child.type, 0)
        result += _split(child.content) if child.type == "text" and not depth else [child]
    return result


def _split(text: str) -> list[Token]:
    """A text as tokens, with links where it has addresses."""
    tokens, done = list[Token](), 0
    if "://" in text or "†" in text:
        for match in re.finditer(f"{_ADDRESS.pattern}|{_CITATION.pattern}", text, re.IGNORECASE):
            tokens.append(_token("text", text[done : match.start()]))
            if match[1]:
                tokens.append(_token("citation", match[1]))
            else:
                opening, closing = Token("link_open", "a", 1), Token("link_close", "a", -1)
                opening.attrs = {"href": _PARSER.normalizeLink(match[0])}
                tokens += [opening, _token("text", match[0]), closing]
            done = match.end()
    return [*tokens, _token("text", text[done:])]


def _token(kind: str, content: str) -> Token:
    token = Token(kind, "", 0)
    token.content = content
    return token


def _parser() -> MarkdownIt:
    options: dict[str, Any] = {"html": False, "breaks": True}  # in a chat a newline is a line break, as in poems
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    parser.disable("reference")  # it would make a block depend on others
    parser.validateLink = lambda url: bool(_LINK.match(url.strip()))  # type: ignore[method-assign]
    parser.core.ruler.push("finish", _finish)
    return with_formulas(parser)


_PARSER = _parser()
