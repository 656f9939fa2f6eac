"""The report as a Markdown file: what the model wrote, its citations checked, the sources, and what is wrong.

The model and the pages are not trusted: there are no HTML, images or links in it, except links to pages that were read.
Knows nothing of models and files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_oss.research import claims
from mlx_oss.research.claims import Citation, Claim
from mlx_oss.research.pages import CITATION, Pages, ReadPage
from mlx_oss.research.state import State
from mlx_oss.terminal import sanitize, text_for_review

FLAG = "⚠"
_LONGEST_QUOTED = 160  # characters of a claim in the list of what is wrong
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_LINK = re.compile(r"\]\(([^()\s]*)\)")
_SCHEME = re.compile(r"(?:https?|ftp)://|www\.", re.IGNORECASE)
_BARE_LINK = re.compile(rf"(?:{_SCHEME.pattern})[^\s<]+", re.IGNORECASE)  # many viewers make links of these
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
_AFTER_LINK = ".,;:!?*_~'\")"  # belongs to the text around it
_PLAIN_URL = re.compile(r"https?://[\w.~:/?#@!$&'*+,;=%-]+", re.ASCII)
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#!])")


@dataclass(frozen=True, slots=True)
class Report:
    """A report with its citations checked.

    Attributes:
        markdown: The whole file.
        claims: What it says with citations, or with numbers or quotations and none, and what is wrong with each.
        stopped: The bound that was reached before all questions were answered; None if none was.
    """

    markdown: str
    claims: tuple[Claim, ...]
    stopped: str | None

    @property
    def flagged(self) -> tuple[Claim, ...]:
        """The claims with something wrong."""
        return tuple(claim for claim in self.claims if claim.problems)


def made(state: State) -> Report:
    """Makes the report of a research whose report is written."""
    text = state.report or _notes_instead(state)
    found = claims.check(text, state.pages)
    sources = _sources(found, state.pages)
    parts = [
        f"# {_escaped(state.question or '')}",
        _closed(_body(text, found, sources, state.pages).strip()),
        _list_of_sources(sources, state.pages),
        _list_of_checks(text, found, state),
    ]
    return Report("\n\n".join(parts) + "\n", tuple(found), state.stopped)


def _notes_instead(state: State) -> str:
    notes = "\n\n".join(note.text for note in state.notes if note.text)
    return f"The model has written no report. These are its notes:\n\n{notes}" if notes else "Nothing was found."


def _sources(found: Sequence[Claim], pages: Pages) -> dict[int, int]:
    """The numbers of the cited pages in the list of sources, by their numbers in the research."""
    cited = [citation.page for claim in found for citation in claim.citations if citation.page is not None]
    real = [page.number for number in cited if (page := pages.get(number)) is not None and not page.is_list]
    return {number: place for place, number in enumerate(dict.fromkeys(real), start=1)}


def _body(text: str, found: Sequence[Claim], sources: dict[int, int], pages: Pages) -> str:
    """The text of the model with citations that people can read, and a flag after each claim with problems."""
    parts, at = [], 0
    for claim in found:
        for citation in claim.citations:
            parts += [text[at : citation.start], _mark(citation, sources)]
            at = citation.end
        parts.append(text[at : claim.end])
        at = claim.end
        if claim.problems:
            parts.append(f" **[{FLAG} {_escaped('; '.join(claim.problems))}]**")
    known = frozenset(page.source for number in sources if (page := pages.get(number)) is not None)
    return _harmless("".join([*parts, text[at:]]), known)


def _mark(citation: Citation, sources: dict[int, int]) -> str:
    if citation.page not in sources:
        return "[?]"
    lines = f"L{citation.first}" + (f"\u2013L{citation.last}" if citation.last != citation.first else "")
    return f"[{sources[citation.page]}, {lines}]"


def _harmless(text: str, known: frozenset[str]) -> str:
    """Markdown without HTML, images, definitions of links, and links to anything but `known` pages of the web.

    What is around the citations is looked at together with them: a colon after one would make it a definition.
    """

    def link(match: re.Match[str]) -> str:
        is_known = match[1] in known and match[1].startswith(("https://", "http://"))
        return f"]\0({match[1]})" if is_known else match[0]

    text = _TAG.sub("&lt;", sanitize(text)).replace("![", "! [").replace("]:", "] :")
    text = _LINK.sub(link, text).replace("](", "] (").replace("]\0(", "](")
    return _without_bare_links(text, known)


def _without_bare_links(text: str, known: frozenset[str] = frozenset()) -> str:
    """A text in which no address is one, except those of `known` pages."""

    def parted(match: re.Match[str]) -> str:
        return match[0] if match[0].rstrip(_AFTER_LINK) in known else _SCHEME.sub(r"\g<0> ", match[0])

    return _BARE_LINK.sub(parted, text)


def _closed(text: str) -> str:
    """Markdown whose last block of code has an end, so that what follows it is not in it."""
    fence = ""
    for match in _FENCE.finditer(text):
        if not fence:
            fence = "" if match[1][0] == "`" and "`" in match[2] else match[1]
        elif match[1].startswith(fence) and not match[2].strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


def _escaped(text: str) -> str:
    """A text in one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", _without_bare_links(" ".join(text_for_review(text).split())))


def _code(text: str) -> str:
    """A text in one line as code, in which nothing is a link."""
    text = " ".join(text_for_review(text).split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def _list_of_sources(sources: dict[int, int], pages: Pages) -> str:
    cited = [(place, page) for number, place in sources.items() if (page := pages.get(number)) is not None]
    lines = [f"{place}. {_source(page)}" for place, page in cited]
    return "\n".join(["## Sources", "", *(lines or ["None."])])


def _list_of_checks(text: str, found: Sequence[Claim], state: State) -> str:
    """How many citations are right, what is wrong, and what else a reader has to know."""
    cited = [claim for claim in found if claim.citations]
    right = [claim for claim in cited if not claim.problems]
    unchecked = sum(not claim.is_checked for claim in right)
    wrong = [claim for claim in found if claim.problems]
    names = "their pages have its names" if claims.checks_names(text) else "names were not looked for"
    told = (
        f"{len(right)} of {len(cited)} claims with citations are supported: the cited lines were read, and have the "
        f"numbers and quotations of the claim; {names}. What sentences mean was not checked."
    )
    if unchecked:
        told += f" {unchecked} of these claims have no number, quotation or name that could be looked for."
    lines = ["## Checks", "", told if cited else "The report cites nothing."]
    if wrong:
        lines += ["", f"{len(wrong)} marked with {FLAG}:", ""]
        lines += [f"- “{_quoted(claim)}”: {_escaped('; '.join(claim.problems))}" for claim in wrong]
    lines += [f"\n{remark}" for remark in _remarks(state)]
    return "\n".join(lines)


def _remarks(state: State) -> list[str]:
    remarks = []
    if state.stopped is not None:
        remarks.append(f"The research was ended early: {_escaped(state.stopped)}.")
    if unanswered := [state.parts[part] for part in state.open_parts()]:
        remarks.append("Not answered: " + "; ".join(map(_escaped, unanswered)))
    if state.is_cut:
        remarks.append("The report was cut off: the context was full, or it repeated itself.")
    if state.shortened:
        remarks.append(f"{state.shortened} notes were shortened for the report, because the context has no more room.")
    return remarks


def _quoted(claim: Claim) -> str:
    text = " ".join(CITATION.sub("", claim.text).split())
    return _escaped(text if len(text) <= _LONGEST_QUOTED else text[:_LONGEST_QUOTED] + " ...")


def _source(page: ReadPage) -> str:
    address = page.source[:2000]
    return f"{_escaped(page.title[:300])}: {f'<{address}>' if _PLAIN_URL.fullmatch(address) else _code(address)}"
