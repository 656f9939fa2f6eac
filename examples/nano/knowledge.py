"""Facts built from the tables of `facts`: the names that users give a thing, the name nano uses, and the answer.

Knows nothing of turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import facts


def with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        asked: Names that users may use for the thing. Duplicates make a name more likely.
        shown: Name that nano uses in its answer.
        answer: The fact itself.
    """

    asked: tuple[str, ...]
    shown: str
    answer: str


def _country(name: str) -> str:
    return f"the {name}" if name in facts.WITH_ARTICLE else name


def _country_facts(column: int) -> list[Fact]:
    """Facts from one column of the table of countries; empty cells are skipped."""
    rows = []
    for row in facts.COUNTRIES:
        name = row[0]
        if row[column]:
            short = [short for short, long in facts.SHORT_NAMES if long == name]
            asked = (
                *([_country(name)] * (4 - bool(short) * 2)),
                *(short and [*short, *(f"the {s}" for s in short if s.isupper())]),
                *([name] if name in facts.WITH_ARTICLE else []),
            )
            rows.append(Fact(asked, _country(name), row[column]))
    return rows


def _plain(
    pairs: list[tuple[str, str]], shown: Callable[[str], str] = str, answer: Callable[[str], str] = str
) -> list[Fact]:
    return [Fact((key,), shown(key), answer(value)) for key, value in pairs]


def _both_ways(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs in both directions. A pair of the table takes precedence over a reversed pair."""
    known = dict(pairs)
    for left, right in pairs:
        known.setdefault(right, left)
    return list(known.items())


def _coloured(word: str) -> str:
    if word in {"sky", "night sky", "sun", "sea"}:
        return f"the {word}"
    return (
        word if word in {"grass", "snow", "blood", "coal", "milk", "chocolate", "sugar", "salt"} else with_article(word)
    )


def _named(pairs: list[tuple[str, str]]) -> list[Fact]:
    """Facts about titles of works, which users may write without "The" or with "the"."""
    return [
        Fact(tuple({key, key, key.removeprefix("The "), key.replace("The ", "the ", 1)} - {""}), key, value)
        for key, value in pairs
    ]


_CAPITALS = {
    capital: _country(name) for name, capital, *_ in reversed(facts.COUNTRIES) if name not in {capital, "England"}
}
_MONTHS_AFTER = list(zip(facts.MONTHS, facts.MONTHS[1:] + facts.MONTHS[:1], strict=True))
_DAYS_AFTER = list(zip(facts.DAYS, facts.DAYS[1:] + facts.DAYS[:1], strict=True))
FACTS: dict[str, list[Fact]] = {
    "capital": _country_facts(1),
    "capital_of": [Fact((capital,), capital, country) for capital, country in _CAPITALS.items()],
    "continent": _country_facts(2),
    "currency": _country_facts(3),
    "language": _country_facts(4),
    "symbol": _plain(facts.ELEMENTS),
    "element": _plain([(symbol, name) for name, symbol in facts.ELEMENTS]),
    "opposite": _plain(_both_ways(facts.OPPOSITES)),
    "sound": _plain(facts.SOUNDS),
    "baby": _plain(facts.BABIES),
    "legs": _plain(facts.LEGS),
    "kind": _plain(facts.KINDS, answer=with_article),
    "colour": [Fact((_coloured(key), _coloured(key), key), _coloured(key), value) for key, value in facts.COLOURS],
    "author": _named(facts.AUTHORS),
    "inventor": _plain(facts.INVENTORS),
    "discoverer": _plain(facts.DISCOVERERS),
    "artist": _named(facts.ARTISTS),
    "composer": _named(facts.COMPOSERS),
    "day_after": _plain(_DAYS_AFTER),
    "day_before": _plain([(after, before) for before, after in _DAYS_AFTER]),
    "month_after": _plain(_MONTHS_AFTER),
    "month_before": _plain([(after, before) for before, after in _MONTHS_AFTER]),
    "month_days": _plain(list(zip(facts.MONTHS, facts.MONTH_DAYS, strict=True))),
    "month_number": _plain(list(zip(facts.ORDINALS, facts.MONTHS, strict=True))),
    "planet_number": _plain(list(zip(facts.ORDINALS[:8], facts.PLANETS, strict=True))),
    "mix": [Fact((f"{a} and {b}", f"{b} and {a}", f"{a} with {b}"), f"{a} and {b}", c) for a, b, c in facts.MIXES],
}
FACT_WEIGHTS = {
    "capital": 22,
    "capital_of": 10,
    "continent": 8,
    "currency": 10,
    "language": 9,
    "symbol": 7,
    "element": 5,
    "opposite": 10,
    "sound": 3,
    "baby": 3,
    "legs": 3,
    "kind": 4,
    "colour": 4,
    "author": 8,
    "inventor": 4,
    "discoverer": 2,
    "artist": 2,
    "composer": 2,
    "day_after": 2,
    "day_before": 2,
    "month_after": 2,
    "month_before": 2,
    "month_days": 2,
    "month_number": 2,
    "planet_number": 2,
    "mix": 2,
    "translate": 8,
}
KNOWN_NAMES = (
    {text for kind in FACTS for fact in FACTS[kind] for text in (*fact.asked, fact.shown) if kind not in {"element"}}
    | set(facts.NAMES)
    | set(facts.CITIES)
    | set(facts.LANGUAGES)
)
ALL_CITIES = sorted({*facts.CITIES, *(row[1] for row in facts.COUNTRIES)} - {"Washington, D.C."})
