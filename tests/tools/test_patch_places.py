"""Tests of where a hunk fits: exactly, then roughly, and what is said if it does not or may fit several places."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlx_oss.errors import ToolError
from mlx_oss.tools import patch_tool
from mlx_oss.tools.patch import apply_patch
from mlx_oss.tools.patch.hunks import apply_hunks
from mlx_oss.tools.patch.line_index import plain
from mlx_oss.tools.patch.parsing import Update, parse
from tests.harmony.strategies import examples

HEADS = ["@@", "@@ -1,3 +1,3 @@", "@@ -7 +7 @@", "@@ -2,0 +3,9 @@ no such line", "@@ -1,3 +1,3"]


def patched(text: str, *lines: str) -> str:
    """The text after an update with these lines."""
    (update,) = parse("\n".join(["*** Begin Patch", "*** Update File: a.txt", *lines, "*** End Patch"]))
    assert isinstance(update, Update)
    return apply_hunks(text, update.hunks, "a.txt")


def refused(text: str, *lines: str) -> str:
    """What is said of an update that is refused."""
    with pytest.raises(ToolError) as caught:
        patched(text, *lines)
    return str(caught.value)


# What changes nothing


@pytest.mark.parametrize(
    ("text", "hunk"),
    [
        ("old\n", (" old",)),
        ("old\n", ("-old", "+old")),
        ("old  \n", ("-old", "+old")),
        ("\u201cold\u201d\r\n", ('-"old"', '+"old"')),
        ("old", ("-old", "+old", "*** End of File")),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_patch_that_changes_nothing_is_refused(tmp_path, text, hunk, dry_run):
    (tmp_path / "a.txt").write_bytes(text.encode())
    tool = patch_tool(tmp_path, dry_run=dry_run)
    with pytest.raises(ToolError, match=r"changes nothing: a\.txt would stay as before; begin"):
        tool.handler(input="\n".join(["*** Begin Patch", "*** Update File: a.txt", "@@", *hunk, "*** End Patch"]))
    assert (tmp_path / "a.txt").read_bytes() == text.encode()


def test_of_several_files_those_that_stay_are_told_and_not_written(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("old\n")
    before = (tmp_path / "a.txt").stat()
    text = "*** Begin Patch\n*** Update File: a.txt\n@@\n old\n*** Update File: b.txt\n@@\n-old\n+new\n*** End Patch"
    assert patch_tool(tmp_path).handler(input=text) == "Done: left a.txt as it was, updated b.txt."
    after = (tmp_path / "a.txt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_is_only_moved_or_empty_is_a_change(tmp_path):
    (tmp_path / "a.txt").write_text("old\n")
    apply_patch("*** Begin Patch\n*** Update File: a.txt\n*** Move to: b.txt\n@@\n old\n*** End Patch", tmp_path)
    apply_patch("*** Begin Patch\n*** Add File: c.txt\n*** End Patch", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b.txt": "old\n", "c.txt": ""}


# What unified diffs have


@pytest.mark.parametrize("head", HEADS)
def test_the_numbers_of_a_unified_diff_are_no_text_to_find(head):
    assert patched("a\nb\nc\n", head, " a", "-b", "+B", " c") == "a\nB\nc\n"


def test_the_numbers_decide_between_equal_places():
    text = "".join(f"{number}\nx\n" for number in range(1, 9))  # x is line 2, 4, ...
    for said, expected in ((1, 2), (4, 4), (5, 4), (7, 6), (9, 8), (16, 16), (999, 16)):
        lines = patched(text, f"@@ -{said},1 +{said},1 @@", "-x", "+y").split("\n")
        assert lines.index("y") + 1 == expected
    two = ("@@ -8,1 +8,1 @@", "-x", "+y", "@@ -2,1 +2,1 @@", "-x", "+z")
    assert patched(text, *two).split("\n")[7:10] == ["y", "5", "z"]  # from the top down, whatever they say


def test_the_line_behind_the_numbers_is_a_hint():
    text = "def a():\n    pass\ndef b():\n    pass\n"
    assert patched(text, "@@ -1,2 +1,2 @@ def b():", "-    pass", "+    return") == text[:-5] + "return\n"
    assert patched(text, "@@ -1,2 +1,2 @@ def c():", "-    pass", "+    return") == text.replace("pass", "return", 1)
    assert patched(text, "@@ -1,2 +1,2 @@ def b():", " def a():", "-    pass") == text.replace("    pass\n", "", 1)


def test_numbers_alone_do_not_place_new_lines():
    assert "as context" in refused("a\nb\n", "@@ -1,2 +1,3 @@", "+new")
    assert "as context" in refused("a\nb\n", "@@ -1,0 +2,1 @@", "+new")
    assert patched("a\nb\n", "@@ -2,0 +3,1 @@", "+new") == "a\nb\nnew\n"
    assert patched("", "@@ -0,0 +1,2 @@", "+a", "+b") == "a\nb\n"


def test_other_lines_of_unified_diffs_are_left_out():
    names = ("--- a/a.txt", "+++ b/a.txt")
    assert patched("a\nb", *names, "@@ -1,2 +1,2 @@", " a", "-b", "+B", "\\ No newline at end of file") == "a\nB"
    git = ("diff --git a/a.txt b/a.txt", "index 7898192..6178079 100644")
    assert patched("a\nb\n", *git, *names, "@@ -1,2 +1,2 @@", " a", "-b", "+B") == "a\nB\n"
    assert "diff --git" in refused("a\nb\n", *git, " a", "-b", "+B")
    text = "-- a/a.txt\nb\n"  # where the first of them is a line of the file, it is what the patch removes
    assert patched(text, *names, "@@ -2 +2 @@", "-b", "+B") == "++ b/a.txt\nB\n"


# The end of the file


def test_the_end_of_the_file_is_a_wish():
    assert patched("a\nb\nc\n\n", "@@", " a", "-b", "+B", "*** End of File") == "a\nB\nc\n\n"
    assert patched("b\na\nb\n", "@@", "-b", "+B", "*** End of File") == "b\na\nB\n"
    assert patched("b \na\nb \n\n", "@@", "-a", "+A", " b", "*** End of File") == "b \nA\nb \n\n"
    assert patched("x\u2013y\n\n", "@@", "-x-y", "+z", "*** End of File") == "z\n\n"


def test_away_from_the_end_it_must_fit_one_place_only():
    assert "lines 1 and 3" in refused("b\na\nb\nc\n", "@@", "-b", "+B", "*** End of File")
    assert "lines 1 and 3" in refused(
        "x-y\na\nx\u2013y\n", "@@", "-x-y", "+z", "*** End of File"
    )  # the last is only like it


# Look-alikes, encodings of accents, and lost blanks


LOOK_ALIKES = [
    ("top\u2011level", "top-level"),
    ("1990\u20131999", "1990-1999"),
    ("so \u2014 or", "so - or"),
    ("a \u2212 b", "a - b"),
    ("10\u202f000", "10 000"),
    ("10\u00a0km", "10 km"),
    ("wide\u3000blank", "wide blank"),
    ("\u201cit\u2019s\u201d", '"it\'s"'),
    ("\u201eso\u201c \u201aso\u2018", "\"so\" 'so'"),
    ("cafe\u0301", "caf\u00e9"),
    ("\u00c5ngstro\u0308m", "A\u030angstr\u00f6m"),
    ("\u1112\u1161\u11ab", "\ud55c"),
    ("zero\u200bwidth", "zerowidth"),
    ("soft\u00adhyphen", "softhyphen"),
    ("and so on\u2026", "and so on..."),
]


@pytest.mark.parametrize(("theirs", "ours"), [*LOOK_ALIKES, *[(ours, theirs) for theirs, ours in LOOK_ALIKES]])
def test_look_alikes_fit_and_the_text_of_the_file_stays(theirs, ours):
    text = f"{theirs}\r\nold\r\n{theirs} \nend"
    assert patched(text, "@@", f" {ours}", "-old", "+new", f" {ours}") == f"{theirs}\r\nnew\r\n{theirs} \nend"
    rewritten = ("@@", f"-{ours}", "-old", f"-{ours}", "+first", f"+{ours}", "+new", f"+{ours}")
    assert patched(text, *rewritten) == f"first\r\n{theirs}\r\nnew\r\n{theirs} \nend"
    assert patched(text, "@@", f"-{ours}", "+x", " old") == f"x\r\nold\r\n{theirs} \nend"


def test_look_alikes_fit_as_headers_too():
    text = "# Na\u00efve \u2013 one\nx\n# two\nx\n"
    assert patched(text, "@@ # Nai\u0308ve - one", "-x", "+y") == text.replace("x", "y", 1)
    assert "lines 1 and 3 are like it" in refused("a\u2013b\nx\na\u2014b\nx\n", "@@ a-b", "-x", "+y")


@pytest.mark.parametrize(
    ("hunk", "after"),
    [
        (("-import os", "+import sys"), "\ufeffimport sys\nb\n"),
        ((" import os", "-b"), "\ufeffimport os\n"),
        (("+# first", " import os"), "\ufeff# first\nimport os\nb\n"),
        (("-import os",), "\ufeffb\n"),
        (("-import os", "+\ufeffimport sys"), "\ufeffimport sys\nb\n"),
        (("-\ufeffimport os", "+import os"), "import os\nb\n"),
        (("-\ufeffimport os ", "+import os"), "import os\nb\n"),
        (("-b",), "\ufeffimport os\n"),
    ],
)
def test_a_byte_order_mark_stays_at_the_beginning(hunk, after):
    assert patched("\ufeffimport os\nb\n", "@@", *hunk) == after


@pytest.mark.parametrize(
    ("text", "hunk", "after"),
    [
        ("def f():\n    a\n", ("def f():", "-    a", "+    b"), "def f():\n    b\n"),
        ("    a\n    b\n", ("    a", "-    b", "+    c"), "    a\n    c\n"),
        ("\ta\n\tb\n", ("\ta", "-\tb", "+\tc"), "\ta\n\tc\n"),
        ("f:\n  a\n\n  b\n  c\n", ("f:", "   a", "", "  b", "-  c"), "f:\n  a\n\n  b\n"),
        ("   a\nx\n    a\ny\n", ("    a", "-y"), "   a\nx\n    a\n"),
        (" a\u2013b\nx\n", (" a-b", "-x"), " a\u2013b\n"),
    ],
)
def test_context_may_have_lost_its_one_leading_blank(text, hunk, after):
    assert patched(text, "@@", *hunk) == after


def test_neither_lines_to_remove_nor_new_lines_lose_a_blank():
    assert "should be" in refused(" a\n  b\n", "@@", "  a", "- b", "+ c")
    assert "does not fit" in refused("  a\n", "@@", "-a", "+b")  # nor is any other indentation overlooked


def test_a_rough_fit_in_two_places_is_refused():
    text = "x\u2013y\na\nx\u2014y\nb\n"
    assert "both at lines 1 and 3: copy more" in refused(text, "@@", "-x-y", "+z")
    assert patched(text, "@@", "-x-y", "+z", " b") == "x\u2013y\na\nz\nb\n"
    # The context, and the context with one more blank.
    assert "both at lines 1 and 3" in refused("   a\nx\u2013\n    a\nx\u2013\n", "@@", "    a", "-x-")
    assert patched("   a\nx\n    a\nx\n", "@@", "    a", "-x") == "   a\n    a\nx\n"  # as written it fits exactly


def test_a_rough_fit_is_not_taken_where_the_hunk_fits_exactly_above():
    message = refused("x\nm\nx \n", "@@", "-m", "+M", "@@", "-x", "+X")
    assert message.startswith("hunk 2 of a.txt fits line 3 only roughly, but line 1 exactly, which is above")
    assert "but line 1 exactly" in refused("x-y\nm\nx\u2013y\n", "@@ m", "-x-y", "+z")
    # What another hunk has changed does not count, and a header decides about whitespace at the end of a line.
    assert patched("x\nm\nx \n", "@@", "-x", "+1", "@@", "-x", "+2") == "1\nm\n2\n"
    assert patched("x\nm\nx \n", "@@ m", "-x", "+y") == "x\nm\ny\n"


# What is said of a hunk that does not fit


@pytest.mark.parametrize(
    ("text", "hunk", "said"),
    [
        ("a\nb\nc\n", (" a", " b", "-x", "+y"), "line 3 should be 'x', but is 'c'"),
        ("a\nb\nc\nd\n", (" a", "-x", " c", " d"), "line 2 should be 'x', but is 'b'"),
        ("a\nb\nc\nd\n", ("-x", " b", " c"), "line 1 should be 'x', but is 'a'"),
        ("a\nb\n", (" a", " b", "-c"), "its line 'c' should follow line 2, but there the file ends"),
        ("b\nc\n", (" a", " b", "-c"), "its line 'a' should be above line 1"),
        ("0\na\nb\nc\n", (" x", " b", "-y"), "line 2 should be 'x', but is 'a'"),
        ("a\n", (" x", "-y"), "its line 'x' is not there"),
        ("", ("-y",), "its line 'y' is not there"),
        ("a\n  b\n", (" a", "-b"), "line 2 should be 'b', but is '  b'"),
        ("a\u2013b\nc\n", (" a-b", "-x"), "line 2 should be 'x', but is 'c'"),
        ("a\nb\n", ("-a", "+A", "@@", "-x"), "hunk 2 does not fit a.txt: its line 'x' is not there below line 1"),
        ("a\nb\nc\n", ("-a", "+A", "@@", " b", "-x"), "line 3 should be 'x', but is 'c'"),
    ],
)
def test_a_hunk_that_does_not_fit_names_the_first_line_that_differs(text, hunk, said):
    message = refused(text, "@@", *hunk)
    assert "does not fit a.txt" in message and said in message and "\n" not in message


def test_a_long_line_is_shown_around_where_it_differs():
    message = refused(f"a\n{'x' * 5000}y{'z' * 5000}\n", "@@", " a", f"-{'x' * 5000}Y{'z' * 5000}")
    assert len(message) < 600 and "xxxYzzz" in message and "xxxyzzz" in message


def test_hunks_that_fit_above_are_told_so():
    text = "def a():\n    pass\ndef b():\n    pass\n"
    assert refused(text, "@@ def b():", "-    pass", "+    1", "@@", " def a():", "-    pass") == (
        "hunk 2 of a.txt fits line 1, which is above: give the hunks from the top down"
    )
    assert "which is above" in refused(text + "    pass\n", "@@", " def b():", "@@ def a():", "-    pass", "+    1")


def test_a_header_that_is_passed_does_not_matter_if_the_hunk_fits_below_only():
    text = "def a():\n    x\n    y\n"
    assert patched(text, "@@", " def a():", "-    x", "@@ def a():", "-    y", "+    z") == "def a():\n    z\n"
    assert "from the top down" in refused(text, "@@", " def a():", "-    x", "@@ def a():", "+    z")


def test_a_patch_that_is_applied_already_is_told_so():
    message = refused("a\nB\nc\n", "@@", " a", "-b", "+B", " c")
    assert "line 2 should be 'b', but is 'B'; its new lines are there already, from line 1 on" in message
    assert "already" not in refused("a\nx\nc\n", "@@", " a", "-b", "+B", " c")


def test_lines_without_a_mark_and_unknown_sections_are_told():
    assert "a blank, `+` or `-`, not so 'Here it is:'" in refused("a\n", "@@", "Here it is:", "-a")
    assert "'*** Rename File: b' is unknown" in refused("a\n", "@@", "-a", "*** Rename File: b")


# Any file and any patch

words = st.sampled_from(["", "a", "b", " b", "    c", "d\u2013e", '"f"', "\u201cf\u201d", "cafe\u0301", "g ", "}"])
files = st.lists(words, min_size=1, max_size=12)


def changed(lines: list[str], draw: random.Random) -> tuple[list[str], list[str]]:
    """A hunk of the whole file that changes some of its lines, and the lines after it."""
    hunk, after = [], []
    for line in lines:
        kind = draw.choice([" ", " ", "-", "+"])
        hunk += [f" {line}"] if kind == " " else [f"-{line}", "+new"] if kind == "+" else [f"-{line}"]
        after += [line] if kind == " " else ["new"] if kind == "+" else []
    return [*hunk, "+last"], [*after, "last"]


@examples(200)
@given(files, st.sampled_from(["\n", "\r\n"]), st.sampled_from(HEADS), st.randoms(use_true_random=False))
def test_an_exact_hunk_gives_exactly_its_lines(lines, ending, head, draw):
    hunk, after = changed(lines, draw)
    assert patched(ending.join([*lines, ""]), head, *hunk) == ending.join([*after, ""])
    if len(lines) > 1 and lines[-1]:
        assert patched(ending.join(lines), head, *hunk) == ending.join(after)


@examples(200)
@given(files, st.randoms(use_true_random=False))
def test_a_roughly_written_hunk_changes_the_same_lines_and_keeps_the_others(lines, draw):
    """Distinct lines, so that each fits one place only."""
    lines = [f"{number} {line}" for number, line in enumerate(lines)]
    hunk, after = changed(lines, draw)

    def rough(line: str) -> str:
        mark, text = line[0], line[1:]
        if mark == "+":
            return line
        text = unicodedata.normalize(draw.choice(["NFC", "NFD"]), text)
        for theirs, ours in (("\u2013", "-"), ("\u201c", '"'), ("\u201d", '"')):
            text = text.replace(theirs, ours)
        return ("" if mark == " " and draw.random() < 0.5 else mark) + text + draw.choice(["", " "])

    assert patched("\n".join(lines) + "\n", "@@", *map(rough, hunk)) == "\n".join(after) + "\n"


@examples(500)
@given(files, st.lists(st.tuples(st.sampled_from(["", " ", "-"]), words), min_size=1, max_size=3), st.integers(0, 11))
def test_a_hunk_is_applied_where_trying_every_place_finds_it(lines, body, at):
    """Exactly at the first place, then without whitespace at the ends of lines, then roughly at the only place."""
    near = [(mark, line if at % 2 else here) for (mark, line), here in zip(body, lines[at:], strict=False)] or body
    hunk = [mark + line for mark, line in near]
    while hunk and not hunk[-1]:
        hunk.pop()  # between sections, not context
    assume(hunk)
    old = [(line[1:] if line[:1] in ("", " ", "-") else line, line[:1]) for line in hunk]

    def places(fits: Callable[[str, str, str], bool]) -> list[int]:
        last = len(lines) - len(old)
        return [
            start for start in range(last + 1) if all(fits(lines[start + n], *wanted) for n, wanted in enumerate(old))
        ]

    def alike(theirs: str, ours: str, mark: str) -> bool:
        return plain(theirs) in ([plain(ours)] if mark == "-" else [plain(ours), plain(f" {ours}")])

    is_marked = all(mark in ("", " ", "-") for _, mark in old)
    exact = places(lambda theirs, ours, mark: is_marked and theirs == ours)
    trimmed = places(lambda theirs, ours, mark: is_marked and theirs.rstrip() == ours.rstrip())
    rough = places(alike)
    if not exact and not trimmed and len(rough) != 1:
        refused("\n".join([*lines, ""]), "@@", *hunk, "+new")
        return
    start = (exact or trimmed or rough)[0]
    kept = [lines[start + n] for n, (_, mark) in enumerate(old) if mark != "-"]
    expected = [*lines[:start], *kept, "new", *lines[start + len(old) :], ""]
    assert patched("\n".join([*lines, ""]), "@@", *hunk, "+new") == "\n".join(expected)


@examples(300)
@given(
    files,
    st.lists(
        st.sampled_from(["@@", *HEADS, "*** End of File", "@@ a"])
        | st.tuples(st.sampled_from(["", " ", "-", "+"]), words),
        max_size=9,
    ),
)
def test_whatever_the_patch_is_it_is_applied_or_explained_in_a_sentence(lines, body):
    written = [line if isinstance(line, str) else "".join(line) for line in body]
    try:
        patched("\n".join(lines), *written)
    except ToolError as error:
        assert str(error) and "\n" not in str(error)


# Hostile ones: each of these took minutes to hours when lines were compared one by one


@pytest.mark.parametrize(
    ("text", "hunk"),
    [
        ("a\n" * 100_000, ["-a"] * 10_000 + ["-b"]),
        ("a\n" * 100_000, ["-b"] + ["-a"] * 10_000),
        ("a\n" * 100_000, ["-a"] * 10_000 + ["-b"] + ["-a"] * 10_000),
        (("a\n" * 999 + "b\n") * 200, ["-a"] * 1000 + ["-b"]),
        ("\u2013\n" * 100_000, ["---"] * 10_000 + ["-b"]),
        ("e" + "\u0301\u0327" * 100_000, ["-e"]),
        ("    a\n   a\n" * 50_000, ["    a"] * 20_000),
    ],
)
def test_what_repeats_itself_takes_linear_time(text, hunk):
    refused(text, "@@", *hunk)
    refused(text, "@@ -40000,3 +40000,3 @@", *hunk)


def test_many_lines_that_may_have_lost_a_blank_are_not_fitted_roughly():
    text = "   a\n    a\n" * 2000
    assert "may have lost blanks" in refused(text, "@@", *["    a"] * 3000, "-b")


def test_many_hunks_that_fit_roughly_take_little_time():
    text = "".join(f"{number}\u2013\n" for number in range(2000))
    body = [line for number in range(2000) for line in ("@@", f"-{number}-", "+x")]
    assert patched(text, *body) == "x\n" * 2000


def test_the_size_of_a_patch_is_limited(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a\n" * 4_000)
    begin, end = "*** Begin Patch\n*** Update File: a.txt\n", "*** End Patch"
    for body in (f"@@\n-{'x' * (1 << 20)}\n", "@@\n-a\n" * 2_001):
        with pytest.raises(ToolError, match=r"more than [0-9,]* (characters|hunks): split it"):
            apply_patch(begin + body + end, tmp_path)
    apply_patch(begin + "@@\n-a\n" * 2_000 + end, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "a\n" * 2_000
