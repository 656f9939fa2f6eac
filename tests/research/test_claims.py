"""Citations checked against lines: what is found there, what is not, and where a claim begins and ends."""

from __future__ import annotations

import pytest

from mlx_oss.research import facts
from mlx_oss.research.claims import check
from mlx_oss.research.pages import Pages, Reading, renumbered

LINES = (
    "The Aral Sea covered 68,000 square kilometres in 1960 and was Asia's second",
    "largest lake. Its area is 10 % of that now.",
    "Ann Müller wrote: “the sea that is well-",
    "gone leaves 1.5 million tonnes of salt”. In 2003, three dams were built.",
)


@pytest.fixture
def pages() -> Pages:
    pages = Pages()
    pages.add(Reading("aral.md", "The Aral Sea", 2, LINES, 9))
    pages.add(Reading("", "aral", 0, ("Search Results",), 1, is_list=True))
    return pages


def problems(report: str, pages: Pages) -> list[str]:
    return [problem for claim in check(report, pages) for problem in claim.problems]


@pytest.mark.parametrize(
    "right",
    [
        "In 1960 it had 68 000 km² 【1†L2】.",
        "It covered 68.000 square kilometres 【1†L2】.",
        "It covered 68 thousand square kilometres 【1†L2】.",
        "In 1960 the Aral covered 68000 km2 【1†L2-L3】, now 10 percent of that 【1†L3】.",
        "It is in Asia 【1†L2-3】.",
        "Ann Muller says: 1,500,000 tonnes 【1†L5】.",
        'There were 3 dams; "the sea that is well-gone leaves ... of salt" 【1†L4-L5】.',
        "„The sea that is well-gone“ 【1†L4-L5】.",
        "It was about 70,000 km² then 【1†L2】.",
        "It was the 2nd largest in Asia 【1†L2】.",
        "The U.S. is not in it 【1†L2】.",
        "Nothing to look for 【1†L3】",
        "- 68,000 【1†L2】\n- 10 【1†L3】\n1. 2003 【1†L5】",
        "| area | 68,000 【1†L2】 |\n|---|---|\n| now | 10 % 【1†L3】 |",
        "## 2 headings of 2020\n\nIt is 1960 【1†L2】【1†L3】, 【1†L5】.",
        "It is a lake. It has been one.",
    ],
)
def test_what_the_lines_say_is_right(right, pages):
    assert problems(right, pages) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("In 1961 【1†L2】.", "1961 is not in the cited lines"),
        ("6,800 km 【1†L2】", "6,800 is not in the cited lines"),
        ("It was about 80,000 then 【1†L2】.", "80,000 is not in the cited lines"),
        ("It was 70,000 then 【1†L2】.", "70,000 is not in the cited lines"),
        ("It was about 67,900 then 【1†L2】.", "67,900 is not in the cited lines"),
        ("It leaves 1.5 tonnes 【1†L5】", "1.5 is not in the cited lines"),
        ("68 million 【1†L2】", "68 is not in the cited lines"),
        ("In 2003 【1†L2-L4】", "2003 is not in the cited lines"),
        ("“The sea that was well-gone” 【1†L4-L5】", "“The sea that was well-gone” is not in the cited lines"),
        ("It was Bob Smith who wrote it 【1†L4】", "Bob is not on the cited page; Smith is not on the cited page"),
        ("It was so in 1960.", "it has no citation"),
        ("It was so 【1†L2】. And 17 others were not.", "it has no citation"),
        ("So it is 【2†L0】", "it cites a list of results, not a page"),
        ("So it is 【3†L0】", "no page 3 was read"),
        ("So it is 【0†L0】", "no page 0 was read"),
        ("So it is 【1†L1】", "line 1 of page 1 was not read"),
        ("So it is 【1†L5-L6】", "line 6 of page 1 was not read"),
        ("So it is 【1†L9】", "page 1 has no line 9"),
        ("So it is 【1†L3-L2】", "lines 3 to 2 are in the wrong order"),
        ("So it is 【1】", "the citation cannot be read"),
        ("So it is 【aral.md】", "the citation cannot be read"),
        ("So it is 【1†L2】【7†L2】", "no page 7 was read"),
        ("# It is 5 【1†L2】", "5 is not in the cited lines"),
        ("- 68,000 【1†L2】\n- 5 【1†L3】", "5 is not in the cited lines"),
    ],
)
def test_what_they_do_not_say_is_told(wrong, problem, pages):
    assert "; ".join(problems(wrong, pages)) == problem


def test_more_lines_than_a_claim_needs_are_too_many():
    pages = Pages()
    pages.add(Reading("long.md", "Long", 0, tuple(map(str, range(500))), 500))
    assert problems("It is 77 【1†L0-L400】", pages) == ["it cites 401 lines at once"]


def test_names_are_not_looked_for_where_all_nouns_have_capitals(pages):
    german = "Der große See hat laut der Quelle eine Fläche von 68.000 Quadratkilometern 【1†L2】."
    assert not facts.can_tell_names(german) and problems(german, pages) == []
    assert problems(german.replace("68", "86"), pages) == ["86.000 is not in the cited lines"]


CHINESE = ("咸海在1960年的面积为6.8万平方公里", "记录说「海水不会再回来」。")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ("咸海的面积为68,000平方公里【1†L0】。", ""),
        ("1960年面积是6.8万平方公里【1†L0】 有人说「海水不会再回来」【1†L1】。", ""),
        ("咸海的面积为99999平方公里【1†L0】。", "99999 is not in the cited lines"),
        ("面积为6.8亿平方公里【1†L0】。", "6.8 is not in the cited lines"),
        ("面积为6.8平方公里【1†L0】。", "6.8 is not in the cited lines"),
        ("有人说「海水已经回来了」【1†L1】。", "“海水已经回来了” is not in the cited lines"),
        ("「海水不会再回来」", "it has no citation"),
        ("아랄해는 1961년에【1†L0】", "1961 is not in the cited lines"),
        ("アラル海は5つ【1†L0】", "5 is not in the cited lines"),
        ("ทะเลมี7เกาะ【1†L0】", "7 is not in the cited lines"),
    ],
)
def test_numbers_and_quotations_are_found_where_no_blanks_set_words_off(report, problem):
    pages = Pages()
    pages.add(Reading("aral.md", "咸海", 0, CHINESE, 2))
    assert "; ".join(problems(report, pages)) == problem


def test_endings_and_accents_of_names_do_not_matter():
    assert facts.missing_names(["European", "Italian", "Müllers", "Zürich"], "Zurich, Europe: Muller of Italy") == []
    assert facts.missing_names(["Europa", "Müller"], "Zurich, Europe: Mulligan") == ["Europa", "Müller"]


def test_a_claim_without_facts_says_that_little_was_checked(pages):
    (claim,) = check("It is shrinking 【1†L3】.", pages)
    assert not claim.is_checked and claim.problems == ()


def test_the_same_page_has_one_number_and_a_changed_page_another():
    pages = Pages()
    assert pages.add(Reading("a.md", "A", 0, ("one", "two"), 9)) == 1
    assert pages.add(Reading("a.md", "A", 1, ("two", "three"), 9)) == 1
    assert pages.add(Reading("a.md", "A", 0, ("other",), 9)) == 2
    assert pages.add(Reading("", "a", 0, ("result",), 1, is_list=True)) == 3
    page = pages.get(1)
    assert page is not None and page.lines == {0: "one", 1: "two", 2: "three"}


def test_cursors_become_numbers_of_pages_and_unknown_ones_are_left_out():
    assert renumbered("a【0†L1-L2】b【3†L4】c【9†L1】", {0: 5, 3: 6}) == "a【5†L1-L2】b【6†L4】c"


@pytest.mark.parametrize(
    "text", ["1" * 2_000_000, "1,234" * 30_000, '"' * 50_000, "【" * 50_000, "Aa " * 50_000, "- " * 50_000]
)
def test_long_texts_take_no_long_time(text, pages):
    check(text + " 【1†L2】", pages)
