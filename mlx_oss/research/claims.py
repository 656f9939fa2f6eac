"""Checks the citations of a report against the lines that they cite.

A claim is what stands before a citation, back to the citation before it or to the beginning of the paragraph, list item
or row. Its numbers and quotations must stand in the lines that it cites, its names somewhere in what was read of these
pages. What a sentence means is not checked. Knows nothing of models and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_oss.research import facts
from mlx_oss.research.pages import CITATION, Pages, ReadPage

_MOST_LINES = 60  # of one citation; more of them would contain any number
_ANY_MARK = re.compile(r"【[^【】\n]{0,120}】")
_BLOCK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*+•]|\d{1,3}[.)]|\||#|>)(?:[ \t]|\||$|#))")
_LIST_MARK = re.compile(r"\s*(?:>\s*)*(?:[-*+•]|\d{1,3}[.)])[ \t]+")
_HEADING = re.compile(r"\s*#{1,6}(?:\s|$)")
_BETWEEN = re.compile(r"[\s,;.]*")


@dataclass(frozen=True, slots=True)
class Citation:
    """A citation in a report.

    Attributes:
        start: Where its mark begins in the report.
        end: Where its mark ends.
        page: The number of the page. None if the mark cannot be read.
        first: The first line that it cites.
        last: The last one.
    """

    start: int
    end: int
    page: int | None = None
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a report says with one or several citations side by side, and what is wrong with it.

    Attributes:
        text: What it says, without the citations.
        citations: The citations. Empty: numbers or quotations without a source.
        end: Where it ends in the report, citations included.
        problems: What is wrong, in words; empty if nothing is.
        is_checked: Whether it has a number, a quotation or a name, so that more could be checked than that the lines
            exist and were read.
    """

    text: str
    citations: tuple[Citation, ...]
    end: int
    problems: tuple[str, ...] = ()
    is_checked: bool = True


def check(report: str, pages: Pages) -> list[Claim]:
    """Returns the claims of a report, in their order, each with what is wrong with it."""
    known = frozenset(facts.names(report)) if checks_names(report) else None
    return [_checked(claim, pages, known) for claim in _claims(report)]


def checks_names(report: str) -> bool:
    """Whether the names in a report can be told from other words by their capital letters."""
    return facts.can_tell_names(_ANY_MARK.sub("", report))


def _claims(report: str) -> Iterator[Claim]:
    start = 0
    ends = [*(match.start() for match in _BLOCK.finditer(report)), len(report)]
    for end in ends:
        if not _HEADING.match(report[start:end]) or _ANY_MARK.search(report, start, end):
            yield from _claims_of_block(report, start, end)
        start = end


def _claims_of_block(report: str, start: int, end: int) -> Iterator[Claim]:
    marks = list(_ANY_MARK.finditer(report, start, end))
    if mark := _LIST_MARK.match(report, start, end):
        start = mark.end()
    while marks:
        group = [marks.pop(0)]
        while marks and _BETWEEN.fullmatch(report, group[-1].end(), marks[0].start()):
            group.append(marks.pop(0))
        yield Claim(report[start : group[0].start()].strip(), tuple(map(_citation, group)), group[-1].end())
        start = group[-1].end()
    rest = report[start:end].strip()
    if facts.has_numbers(rest) or facts.has_quotations(rest):
        yield Claim(rest.lstrip(" .,;"), (), start + len(report[start:end].rstrip()))


def _citation(mark: re.Match[str]) -> Citation:
    found = CITATION.fullmatch(mark[0])
    if found is None:
        return Citation(mark.start(), mark.end())
    first = int(found[2])
    return Citation(mark.start(), mark.end(), int(found[1]), first, int(found[3] or first))


def _checked(claim: Claim, pages: Pages, known: frozenset[str] | None) -> Claim:
    """The claim with its problems. `known` are names that may stand at the beginning; None: names cannot be told."""
    wanted = [] if known is None else facts.names(claim.text, known)
    is_checked = bool(wanted or facts.has_numbers(claim.text) or facts.has_quotations(claim.text))
    if not claim.citations:
        return Claim(claim.text, (), claim.end, ("it has no citation",), is_checked)
    problems = [problem for citation in claim.citations if (problem := _wrong_place(citation, pages))]
    if not problems:
        cited = [(page, citation) for citation in claim.citations if (page := pages.get(citation.page or 0))]
        problems = _unsupported(claim.text, cited, wanted)
    return Claim(claim.text, claim.citations, claim.end, tuple(dict.fromkeys(problems)), is_checked)


def _wrong_place(citation: Citation, pages: Pages) -> str | None:
    """Why a citation leads nowhere; None if it leads to lines that were read."""
    if citation.page is None:
        return "the citation cannot be read"
    page = pages.get(citation.page)
    if page is None:
        return f"no page {citation.page} was read"
    if page.is_list:
        return "it cites a list of results, not a page"
    if citation.first > citation.last:
        return f"lines {citation.first} to {citation.last} are in the wrong order"
    if citation.last >= page.total:
        return f"page {citation.page} has no line {citation.last}"
    if citation.last - citation.first >= _MOST_LINES:
        return f"it cites {citation.last - citation.first + 1} lines at once"
    unread = [at for at in range(citation.first, citation.last + 1) if at not in page.lines]
    return f"line {unread[0]} of page {citation.page} was not read" if unread else None


def _unsupported(text: str, cited: list[tuple[ReadPage, Citation]], wanted: list[str]) -> list[str]:
    """What of a claim is not in its sources."""
    lines = "\n".join(page.text(citation.first, citation.last) for page, citation in cited)
    whole = "\n".join({page.number: page.whole for page, _ in cited}.values()) if wanted else ""
    return [
        *(f"{number} is not in the cited lines" for number in facts.missing_numbers(text, lines)),
        *(f"“{quotation}” is not in the cited lines" for quotation in facts.missing_quotations(text, lines)),
        *(f"{name} is not on the cited page" for name in facts.missing_names(wanted, whole)),
    ]
