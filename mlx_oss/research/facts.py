"""The key facts of a sentence that can be looked for in a source: numbers, quotations and names.

What is found is compared without regard to how it is written: 1,234 is 1234, "km" beside it does not matter, and a
quotation may be broken into lines. Knows nothing of citations and pages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from decimal import Decimal, InvalidOperation

# Letters of Thai, Lao, Korean, Khmer, Japanese and Chinese: no blank sets a number off from them.
_UNSPACED = (
    r"\u0e00-\u0eff\u1100-\u11ff\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
# A digit that follows another letter belongs to a word, such as km2 or H2O.
_NUMBER = re.compile(
    rf"(?<![^\W_{_UNSPACED}])"
    r"(\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)|\d+(?:[.,'\u2019]\d+)*)(?:[ \u00a0\u202f-]?([^\W\d_]+))?"
)
_SCALES = {
    Decimal(1000): "k thousand tausend",
    Decimal(10) ** 6: "m mn million millions million mio millionen",
    Decimal(10) ** 9: "bn b billion billions mrd milliarde milliarden",
    Decimal(10) ** 12: "tn trillion trillions",
}
_JOINED_SCALES = {
    letter: Decimal(10) ** zeros
    for zeros, letters in {4: "万萬만", 8: "亿億억", 12: "兆조"}.items()
    for letter in letters
}
_SCALE_OF = {word: scale for scale, words in _SCALES.items() for word in words.split()}
_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
"""
_IN_WORDS = {word: str(number % 13) for number, word in enumerate(_WORDS.split())}
_ROUGHLY = re.compile(
    r"\b(?:about|around|roughly|nearly|almost|approximately|some|over|circa|ca\.?|c\.|etwa|rund|ungefähr|fast|knapp|über)"
    r"\W{1,3}$|[~\u2248]\s?$",
    re.IGNORECASE,
)
_QUOTATION = re.compile(
    r'"([^"\n]{3,}?)"|“([^“”]{3,}?)[”“]|«([^«»]{3,}?)»|»([^«»]{3,}?)«|„([^„“”]{3,}?)[“”]'
    r"|「([^「」]{3,}?)」|『([^『』]{3,}?)』"
)
_MARKUP = re.compile(r"【\d+†([^†】]*)(?:†[^†】]*)?】")
_ELLIPSIS = re.compile(r"\[?(?:…|\.\.\.)\]?")
_CAPITALISED = re.compile(r"[^\W\d_][\w'\u2019]*(?:-[^\W\d_][\w'\u2019]*)*")
_SENTENCE_END = re.compile(r"[.!?:;•|(\[\"“«„「『*_>#-]\s*$|^\s*$")
# Words with a capital letter that name nothing that a page would have to contain.
_NO_NAMES = frozenset(
    """i january february march april may june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday the a an in on at it its this that these those he she they we as by for from of and
    but or if when while no yes not there""".split()
)
_MOST_DIGITS = 24  # of a number that is compared by its value
_FEW_CAPITALS = 4  # words; fewer say nothing about the language
_MOST_CAPITALS = 0.3  # of the words inside sentences; above it a text is in German, or written in titles


def has_numbers(text: str) -> bool:
    """Whether a text has numbers in digits."""
    return _NUMBER.search(text) is not None


def missing_numbers(text: str, source: str) -> list[str]:
    """The numbers of a text that a source does not contain, as they are written in the text.

    What is said to be "about" a number may be a rounded one.
    """
    there: set[str] = {_IN_WORDS[word] for word in re.findall(r"[a-z]+", source.lower()) if word in _IN_WORDS}
    for match in _NUMBER.finditer(source):
        there |= _values(match[1], (match[2] or "").lower())
        if len(parts := match[1].split()) > 1:  # what looks like one number with blanks may be several
            there.update(*(_values(part, "") for part in parts))
    missing = []
    for match in _NUMBER.finditer(text):
        values = _values(match[1], (match[2] or "").lower())
        is_rough = _ROUGHLY.search(text[max(0, match.start() - 16) : match.start()]) is not None
        if values.isdisjoint(there) and not (is_rough and any(_is_rounded(value, there) for value in values)):
            missing.append(match[1])
    return list(dict.fromkeys(missing))


def _is_rounded(rounded: str, there: Iterable[str]) -> bool:
    """Whether a number is one of the others, rounded to as many digits as it has before its zeros."""
    try:
        value = Decimal(rounded)
        unit = Decimal(1).scaleb(int(value.normalize().as_tuple().exponent))
        return any(abs(Decimal(other) - value) * 2 <= unit for other in there)
    except (InvalidOperation, ValueError):  # one of them is such as 1.2.3
        return False


def _values(written: str, unit: str) -> frozenset[str]:
    plain = re.sub(r"[\s'\u2019]", "", written)
    exact = set()
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+|[1-9]\d{0,2}(\.\d{3}){2,}", plain):
        readings = {re.sub(r"[.,]", "", plain)}
    elif re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", plain):
        readings, exact = {plain.replace(".", "")}, {plain}  # as a fraction it keeps its zeros: 68.000 is not 68
    elif plain.rfind(",") > plain.rfind("."):
        readings = {plain.replace(".", "").replace(",", ".")}
    else:
        readings = {plain.replace(",", "")}
    values = set[str](exact)
    for reading in readings:
        try:
            value = Decimal(reading if len(reading) <= _MOST_DIGITS else "nothing")
        except InvalidOperation:  # such as 1.2.3
            values.add(reading)
            continue
        scale = _SCALE_OF.get(unit, _JOINED_SCALES.get(unit[:1]))
        if scale is not None:
            values.add(_canonical(value * scale))
        if scale is None or (unit.isascii() and len(unit) == 1):  # such a letter may also be a unit, such as metres
            values.add(_canonical(value))
    return frozenset(values)


def _canonical(value: Decimal) -> str:
    return format(value.normalize(), "f")


def missing_quotations(text: str, source: str) -> list[str]:
    """The quotations in a text that a source does not contain word for word."""
    there = _bare(source)
    quoted = [next(filter(None, match.groups())) for match in _QUOTATION.finditer(text)]
    return [words for words in quoted if not all(_bare(part) in there for part in _ELLIPSIS.split(words))]


def has_quotations(text: str) -> bool:
    """Whether a text quotes something."""
    return _QUOTATION.search(text) is not None


def _bare(text: str) -> str:
    """Letters, digits and signs only: where lines and words are broken, and what sets words off, does not matter."""
    text = unicodedata.normalize("NFKC", _MARKUP.sub(r"\1", text)).casefold()
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", text).replace("\u2019", "'")
    return re.sub(r"[\s*_`\"“”„«»「」『』]|[.,;:!?]+(?=\s*$)", "", text)


def names(text: str, also: Collection[str] = ()) -> list[str]:
    """The names in a text: words with a capital letter inside a sentence.

    Args:
        text: The text.
        also: Words that are names at the beginning of a sentence too.
    """
    found = []
    words = list(_CAPITALISED.finditer(text))
    for number, match in enumerate(words):
        word = match[0]
        if not word[0].isupper() or len(word) == 1 or word.lower() in _NO_NAMES:
            continue
        begins = _SENTENCE_END.search(text[max(0, match.start() - 20) : match.start()]) is not None
        after = words[number + 1] if number + 1 < len(words) else None
        is_pair = after is not None and after[0][0].isupper() and text[match.end() : after.start()] == " "
        if not begins or word in also or (is_pair and number + 1 < len(words)):
            found.append(word)
    return list(dict.fromkeys(found))


def can_tell_names(text: str) -> bool:
    """Whether capital letters mark names in a text; in German they mark all nouns."""
    words = [match for match in _CAPITALISED.finditer(text) if len(match[0]) > 1]
    inside = [word for word in words if not _SENTENCE_END.search(text[max(0, word.start() - 20) : word.start()])]
    capitals = sum(word[0][0].isupper() for word in inside)
    return capitals < _FEW_CAPITALS or capitals <= _MOST_CAPITALS * len(inside)


def missing_names(wanted: Iterable[str], source: str) -> list[str]:
    """The names that no word of a source begins as. Endings and accents do not matter."""
    there = _folded(_MARKUP.sub(r"\1", source))
    return [name for name in wanted if not re.search(rf"(?<!\w){re.escape(_stem(_folded(name)))}", there)]


def _stem(name: str) -> str:
    """A name without an ending: of a plural, or of what is called after it, such as European and Italian."""
    name = re.sub(r"['\u2019]s?$", "", name)
    return re.sub(r"(?<=.{4})(?:s|ian|ean|an|ish|ese|ic)$", "", name)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text).casefold().replace("\u2019", "'")
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
