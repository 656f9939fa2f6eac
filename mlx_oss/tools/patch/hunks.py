"""Applies the hunks of a patch to a text. Knows nothing of files, and of how the place of a hunk is found."""

from __future__ import annotations

from mlx_oss.tools.patch.parsing import Hunk
from mlx_oss.tools.patch.places import BOM, Places


def apply_hunks(text: str, hunks: tuple[Hunk, ...], name: str) -> str:
    """Returns the text with the hunks applied, from the top down. Raises ToolError if a hunk fits nowhere.

    Lines that stay keep their characters and their line endings, also where a hunk fits only roughly (`Places` says
    how); new lines get the ending of the line that they replace, or else of a neighbour. `name` is the file's name, for
    messages.
    """
    lines, ends = _split_lines(text)
    if len(hunks) > 1 and hunks[0].names_files and hunks[1].line is not None and hunks[0].old[-1] not in lines:
        hunks = hunks[1:]
    places, result, at = Places(lines, hunks, name), list[tuple[str, str]](), 0
    mark = ""
    for hunk in hunks:
        place, is_exact = places.find(hunk)
        result += zip(lines[at:place], ends[at:place], strict=True)
        if place == 0 and not is_exact and hunk.old and lines[0].startswith(BOM) and not hunk.old[0].startswith(BOM):
            mark, lines[0] = BOM, lines[0].removeprefix(BOM)  # stays at the beginning, whatever comes before this line
        end = ends[min(place, len(ends) - 1)] if ends else "\n"
        context, replaced = hunk.context, 0
        for line in hunk.new if is_exact else _with_kept_lines(hunk):
            if isinstance(line, int):
                replaced, end = line + 1, ends[place + line]
            elif replaced < len(hunk.old) and replaced not in context:
                replaced, end = replaced + 1, ends[place + replaced]
            result.append((lines[place + line] if isinstance(line, int) else line, end))
        at = place + len(hunk.old)
    result += zip(lines[at:], ends[at:], strict=True)
    if result and text and not text.endswith("\n"):
        result[-1] = result[-1][0], ""
    changed = "".join(line + end for line, end in result)
    return mark + changed.removeprefix(BOM) if mark else changed


def _with_kept_lines(hunk: Hunk) -> list[str | int]:
    """The new lines, where one that is removed and then inserted again stays as it is in the file."""
    context, kept = [*sorted(hunk.context), len(hunk.old)], list[str | int]()
    position = 0  # in `context`: the next line of it
    removed = _positions(hunk, -1, context[0])
    least = 0
    for line in hunk.new:
        if isinstance(line, int):
            position += 1
            removed, least = _positions(hunk, line, context[position]), line
            kept.append(line)
            continue
        numbers = removed.get(line, [])
        while numbers and numbers[-1] < least:
            numbers.pop()
        if numbers:
            least = numbers.pop()
            kept.append(least)
        else:
            kept.append(line)
    return kept


def _positions(hunk: Hunk, after: int, before: int) -> dict[str, list[int]]:
    """The old lines between two numbers: for each text its numbers, the first one last."""
    positions: dict[str, list[int]] = {}
    for number in reversed(range(after + 1, before)):
        positions.setdefault(hunk.old[number], []).append(number)
    return positions


def _split_lines(text: str) -> tuple[list[str], list[str]]:
    """Returns the lines and their line endings. A last line without an ending gets the ending of the line above."""
    raw_lines = text.removesuffix("\n").split("\n") if text else []
    ends = ["\r\n" if line.endswith("\r") else "\n" for line in raw_lines]
    if raw_lines and not text.endswith("\n"):
        ends[-1:] = ends[-2:-1] or ["\n"]
        return [*(line.removesuffix("\r") for line in raw_lines[:-1]), raw_lines[-1]], ends
    return [line.removesuffix("\r") for line in raw_lines], ends
