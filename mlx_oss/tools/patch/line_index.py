"""Lines as the characters of a string, so that looking for several lines is looking for a substring.

That takes linear time, whatever the lines are. Knows nothing of patches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

# Characters that a model writes in place of one that looks like them, or leaves out.
_LOOK_ALIKES = {
    **dict.fromkeys([*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D], "-"),
    **dict.fromkeys([*range(0x2018, 0x201C), 0x02BC], "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
    0x2026: "...",
    **dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF], None),
}
# A letter and the accents that follow it. Short, because composing takes quadratic time.
_ACCENTED = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]{1,64}")


class LineIndex:
    """Lines as the characters of a string: equal characters for lines that are equal after `key`.

    Args:
        lines: The lines of the file.
        wanted: Every line that `encode` is called with.
        key: What of a line counts.

    Attributes:
        text: The lines of the file; NUL for each line that is not among the wanted ones.
        characters: The characters that occur in it.
    """

    def __init__(self, lines: Iterable[str], wanted: Iterable[str], key: Callable[[str], str]) -> None:
        self._key, self._characters = key, dict[str, str]()
        for line in wanted:
            self._characters.setdefault(key(line), chr(len(self._characters) + 1))
        self.text = "".join([self._characters.get(key(line), "\0") for line in lines])
        self.characters = set(self.text)

    def encode(self, lines: Iterable[str]) -> str:
        """The string of some of the wanted lines."""
        return "".join([self._characters[self._key(line)] for line in lines])


def plain(line: str) -> str:
    """A line with plain characters for those that look alike, accents composed, and no whitespace at its end."""
    if line.isascii():
        return line.rstrip()
    composed = _ACCENTED.sub(lambda found: unicodedata.normalize("NFC", found[0]), line)
    return composed.translate(_LOOK_ALIKES).rstrip()


def numbers_of(wanted: Iterable[str], lines: Sequence[str], key: Callable[[str], str]) -> dict[str, list[int]]:
    """For each wanted text, the numbers of the lines that are equal to it after `key`."""
    numbers: dict[str, list[int]] = {text: [] for text in wanted}
    if numbers:
        for number, line in enumerate(lines):
            if (found := numbers.get(key(line))) is not None:
                found.append(number)
    return numbers


def finder(text: str, wanted: Sequence[str]) -> Callable[[int, int], int]:
    """A function like `str.find`: from where and up to where to look -> the place, or -1 if there is none.

    Args:
        text: Where to look.
        wanted: For each character, those that it may be. If there is a choice, looking takes quadratic time.
    """
    if all(len(characters) == 1 for characters in wanted):
        whole = "".join(wanted)
        return lambda start, stop: text.find(whole, start, stop)
    pattern = re.compile("".join(f"[{re.escape(characters)}]" for characters in wanted))

    def find(start: int, stop: int) -> int:
        found = pattern.search(text, start, stop)
        return found.start() if found else -1

    return find


def last_place(text: str, wanted: str, start: int, before: int) -> int:
    """The last place from `start` on and before `before`; -1 if there is none. `str.rfind` can take quadratic time."""
    part = text[start : before + len(wanted) - 1] if before > start else ""
    at = part[::-1].find(wanted[::-1])
    return start + len(part) - len(wanted) - at if at >= 0 else -1


def longest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size up to `most` that fits, if every smaller one does too."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least
