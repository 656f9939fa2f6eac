r"""Formulas in Markdown, \( \), \[ \] and $$ $$, are drawn as they are written, with backslashes, stars and lines.

Knows nothing of terminals.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_ENDS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}  # by how a formula begins
_LONGEST = 4000  # characters of a formula


def with_formulas(parser: MarkdownIt) -> MarkdownIt:
    """Adds the rules to a parser, and returns it."""
    parser.inline.ruler.before("escape", "formula", _inline)
    # In front of all that would take a line of a formula, such as "+ b", for the beginning of something else.
    parser.block.ruler.before("fence", "formula", _block, {"alt": ["paragraph"]})
    return parser


def _inline(state: StateInline, silent: bool) -> bool:
    beginning = state.src[state.pos : state.pos + 2]
    if beginning not in _ENDS:
        return False
    end = state.src.find(_ENDS[beginning], state.pos + 2, state.pos + _LONGEST)
    if end < 0 and beginning == "$$":
        return False
    after = end + 2 if end >= 0 else state.pos + 2  # it may still be being written
    if not silent:
        for number, line in enumerate(state.src[state.pos : after].split("\n")):
            if number:
                state.push("hardbreak", "br", 0)
            state.push("text", "", 0).content = line
    state.pos = after
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula that begins a line, up to the line in which it ends; without an end, up to an empty line."""
    if state.is_code_block(first):
        return False
    beginning = state.src[state.bMarks[first] + state.tShift[first] :][:2]
    if beginning not in (r"\[", "$$"):
        return False
    line = first
    while line < last and not state.isEmpty(line) and (line == first or state.sCount[line] >= state.blkIndent):
        start = state.bMarks[line] + state.tShift[line] + (2 if line == first else 0)
        line += 1
        if _ENDS[beginning] in state.src[start : state.eMarks[line - 1]]:
            break
    if silent:
        return True
    state.line = line
    state.push("paragraph_open", "p", 1).map = [first, line]
    inline = state.push("inline", "", 0)
    inline.content = state.getLines(first, line, state.blkIndent, False).strip()
    inline.map, inline.children = [first, line], []
    state.push("paragraph_close", "p", -1)
    return True
