"""Tests of apply_patch: what it changes, that it stays in its folder, and that a patch is applied all or nothing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools import patch_tool
from mlx_oss.tools.patch import apply as patch_module
from mlx_oss.tools.patch import apply_patch, renames

APP = 'import os\n\n\ndef greet():\n    print("Hi")\n\n\ndef leave():\n    print("Hi")\n'


def patch(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "src" / "app.py").write_text(APP)
    (root / "old.txt").write_text("old\n")
    (root / "windows.txt").write_bytes(b"one\r\ntwo\r\nthree")
    return root


def test_the_example_of_the_format_works(folder):
    changes = apply_patch(
        patch(
            "*** Add File: hello.txt",
            "+Hello world",
            "*** Update File: src/app.py",
            "*** Move to: src/main/main.py",
            "@@ def greet():",
            '-    print("Hi")',
            '+    print("Hello, world!")',
            "*** Delete File: old.txt",
        ),
        folder,
    )
    assert [str(change) for change in changes] == [
        "added hello.txt",
        "moved src/app.py to src/main/main.py",
        "deleted old.txt",
    ]
    assert state(folder) == {
        "hello.txt": b"Hello world\n",
        "src/main/main.py": APP.replace("Hi", "Hello, world!", 1).encode(),
        "windows.txt": b"one\r\ntwo\r\nthree",
    }


def test_a_header_decides_between_two_places(folder):
    apply_patch(patch("*** Update File: src/app.py", "@@ def leave():", '-    print("Hi")', "+    pass"), folder)
    assert (folder / "src/app.py").read_text() == APP.removesuffix('    print("Hi")\n') + "    pass\n"


def test_several_hunks_go_from_the_top_down(folder):
    hunk = ("@@", '-    print("Hi")', "+    pass")
    apply_patch(patch("*** Update File: src/app.py", *hunk, *hunk), folder)
    assert (folder / "src/app.py").read_text() == APP.replace('print("Hi")', "pass")
    with pytest.raises(ToolError, match="hunk 1 does not fit"):
        apply_patch(patch("*** Update File: src/app.py", *hunk), folder)


def test_context_stays_as_in_the_file_and_trailing_whitespace_is_ignored(folder):
    (folder / "a.txt").write_text("one  \ntwo\n")
    apply_patch(patch("*** Update File: a.txt", " one", "-two", "+2"), folder)
    assert (folder / "a.txt").read_text() == "one  \n2\n"


def test_line_endings_are_kept(folder):
    apply_patch(patch("*** Update File: windows.txt", "@@", " one", "-two", "+2", "+2.5"), folder)
    assert (folder / "windows.txt").read_bytes() == b"one\r\n2\r\n2.5\r\nthree"


@pytest.mark.parametrize(
    ("before", "hunk", "after"),
    [
        (b"a\nb\r\nc\nd\n", ("-d", "+D"), b"a\nb\r\nc\nD\n"),
        (b"a\nb\r\nc\n", (" a", "-b", "+B", " c"), b"a\nB\r\nc\n"),
        (b"a\nb\r\nc\nd\r\n", (" a", "-b", "-c", "+B", "+C", "+D", " d"), b"a\nB\r\nC\nD\nd\r\n"),
        (b"a\r\nb\nc\r\nd\n", ("-a", "+A", " b", "-c", "-d", "+D"), b"A\r\nb\nD\r\n"),
        ("a\u2013\r\nb\nc\r\n".encode(), (" a-", "-b", "+B", " c"), "a\u2013\r\nB\nc\r\n".encode()),
        (b"a\nb\r\nc\n", ("-b", "+B"), b"a\nB\r\nc\n"),
        (b"a\nb\r\nc\n", (" b", "+new"), b"a\nb\r\nnew\r\nc\n"),
        (b"a\r\nb", ("-b", "+B", "+C"), b"a\r\nB\r\nC"),
        (b"a\nb\r", ("-a", "+A"), b"A\nb\r"),
        (b"a\r\n", ("+end",), b"a\r\nend\r\n"),
        (b"a\n\r\n\n", ("-a",), b"\r\n\n"),
        (b"a", ("-a",), b""),
        (b"", ("+a", "+b"), b"a\nb\n"),
    ],
)
def test_every_line_keeps_its_ending_and_new_lines_get_that_of_the_replaced_line_or_a_neighbour(
    folder, before, hunk, after
):
    (folder / "a.txt").write_bytes(before)
    apply_patch(patch("*** Update File: a.txt", "@@", *hunk), folder)
    assert (folder / "a.txt").read_bytes() == after


def test_a_file_that_is_moved_to_its_own_name_is_only_changed(folder):
    (folder / "a.txt").write_text("x\n")
    apply_patch(patch("*** Update File: a.txt", "*** Move to: ./a.txt", "@@", "-x", "+y"), folder)
    assert (folder / "a.txt").read_text() == "y\n"
    with pytest.raises(ToolError, match="the patch changes nothing"):
        apply_patch(patch("*** Update File: a.txt", "*** Move to: a.txt"), folder)


def test_half_characters_are_written_as_question_marks(folder):
    apply_patch(patch("*** Add File: a.txt", "+a\ud800"), folder)
    apply_patch(patch("*** Update File: a.txt", "@@", " a?", "+\udfff"), folder)
    assert (folder / "a.txt").read_text() == "a?\n?\n"


@pytest.mark.parametrize("kind", ["Add", "Update", "Delete", "Move"])
def test_a_folder_that_becomes_a_link_while_a_patch_is_applied_leads_nowhere(folder, monkeypatch, kind):
    outside, write = folder.parent / "outside", patch_module.write

    def swapped(*arguments):
        (folder / "src").rename(folder.parent / "outside")
        (folder / "src").symlink_to(outside)
        before = state(outside)
        try:
            write(*arguments)
        finally:
            assert state(outside) == before

    monkeypatch.setattr(patch_module, "write", swapped)
    bodies = {
        "Add": ("*** Add File: src/new.txt", "+new"),
        "Update": ("*** Update File: src/app.py", "@@", "-import os", "+import sys"),
        "Delete": ("*** Delete File: src/app.py",),
        "Move": ("*** Update File: old.txt", "*** Move to: src/old.txt"),
    }
    with pytest.raises(ToolError, match="nothing is changed"):
        apply_patch(patch("*** Add File: first.txt", "+x", *bodies[kind]), folder)
    assert not (folder / "first.txt").exists() and (folder / "old.txt").read_text() == "old\n"


def test_changes_by_another_program_while_a_patch_is_applied_are_not_lost(folder, monkeypatch):
    write = patch_module.write

    def meanwhile(*arguments):
        (folder / "old.txt").write_text("mine\n")
        (folder / "new.txt").write_text("mine too\n")
        write(*arguments)

    monkeypatch.setattr(patch_module, "write", meanwhile)
    for body in (
        ("*** Update File: old.txt", "@@", "-old", "+new"),
        ("*** Delete File: old.txt",),
        ("*** Update File: old.txt", "*** Move to: elsewhere.txt"),
        ("*** Add File: new.txt", "+new"),
        ("*** Update File: windows.txt", "*** Move to: new.txt"),
    ):
        (folder / "old.txt").write_text("old\n")
        (folder / "new.txt").unlink(missing_ok=True)
        with pytest.raises(ToolError, match="has changed meanwhile"):
            apply_patch(patch(*body), folder)
        assert (folder / "old.txt").read_text() == "mine\n" and (folder / "new.txt").read_text() == "mine too\n"
        assert len(state(folder)) == 4


def test_patches_of_one_folder_wait_for_each_other(folder):
    lines = [f"line {number}" for number in range(30)]
    with ThreadPoolExecutor(6) as pool:
        results = pool.map(lambda line: apply_patch(patch("*** Update File: old.txt", "@@", f"+{line}"), folder), lines)
        assert len(list(results)) == len(lines)
    assert sorted((folder / "old.txt").read_text().split("\n")[1:-1]) == sorted(lines)


def test_lines_can_be_added_at_the_end(folder):
    apply_patch(patch("*** Update File: old.txt", "@@", "+new", "*** End of File"), folder)
    assert (folder / "old.txt").read_text() == "old\nnew\n"
    (folder / "a.txt").write_text("x\ny\nx\n")
    apply_patch(patch("*** Update File: a.txt", "@@", "-x", "+z", "*** End of File"), folder)
    assert (folder / "a.txt").read_text() == "x\ny\nz\n"


def test_permissions_are_kept(folder):
    (folder / "old.txt").chmod(0o750)
    apply_patch(patch("*** Update File: old.txt", "@@", "-old", "+new"), folder)
    assert (folder / "old.txt").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    "path",
    "../out.txt src/../../out.txt /tmp/out.txt src/./../../out link/out.txt link.txt .. . "
    ".git/hooks/pre-commit src/.GIT/config src\\..\\..\\out.txt a\0b".split(" "),
)
@pytest.mark.parametrize("kind", ["Add", "Update", "Delete", "Move"])
def test_no_path_leads_out_of_the_folder(folder, path, kind):
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "out.txt").write_text("old\n")
    (folder.parent / "out.txt").write_text("old\n")
    (folder / "link").symlink_to(outside)
    (folder / "link.txt").symlink_to(outside / "out.txt")
    before = state(folder.parent)
    bodies = {
        "Add": (f"*** Add File: {path}", "+new"),
        "Update": (f"*** Update File: {path}", "@@", "-old", "+new"),
        "Delete": (f"*** Delete File: {path}",),
        "Move": ("*** Update File: old.txt", f"*** Move to: {path}", "@@", "-old", "+new"),
    }
    with pytest.raises(ToolError):
        apply_patch(patch("*** Add File: first.txt", "+x", *bodies[kind]), folder)
    assert state(folder.parent) == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "begin with"),
        ("*** Begin Patch\n*** Add File: a\n+x", "end with"),
        (patch(), "names no file"),
        (patch("x", "*** Delete File: old.txt"), "line 2"),
        (patch("*** Add File: a", "x"), "begins with `+`"),
        (patch("*** Add File: old.txt", "+x"), "exists already"),
        (patch("*** Delete File: none.txt"), "cannot be read"),
        (patch("*** Delete File: src"), "no file"),
        (patch("*** Delete File: old.txt", "x"), "nothing may follow"),
        (patch("*** Update File: old.txt"), "no hunk"),
        (patch("*** Update File: old.txt", "@@ old"), "followed by no lines"),
        (patch("*** Update File: old.txt", "@@ young", "+x"), "'young'"),
        (patch("*** Update File: old.txt", "@@", "-young", "+x"), "'young'"),
        (patch("*** Update File: old.txt", "@@", "young"), "a blank, `+` or `-`"),
        (patch("*** Update File: old.txt", "*** Move to: windows.txt", "@@", "-old"), "exists already"),
        (patch("*** Update File: old.txt", "@@", "-old", "*** Delete File: old.txt"), "occurs twice"),
        (patch("*** Add File: a", "+x", "*** Add File: a/b", "+x"), "nothing is changed"),
    ],
)
def test_a_wrong_patch_is_explained_in_a_sentence_and_changes_nothing(folder, text, sentence):
    before = state(folder)
    with pytest.raises(ToolError) as caught:
        apply_patch(text, folder)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert state(folder) == before


def test_a_binary_file_is_refused(folder):
    (folder / "a.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(ToolError, match="UTF-8"):
        apply_patch(patch("*** Update File: a.bin", "@@", "+x"), folder)


@pytest.mark.parametrize("failing", range(1, 8))
def test_if_any_step_fails_everything_is_restored(folder, monkeypatch, failing):
    """Each rename and each exchange fails once. New folders and temporary files must then be deleted again."""
    text = patch(
        "*** Add File: deep/down/new.txt",
        "+x",
        "*** Update File: src/app.py",
        "*** Move to: deep/main.py",
        "*** Update File: windows.txt",
        "@@",
        "-one",
        "+1",
        "*** Delete File: old.txt",
    )
    before, folders = state(folder), sorted(path for path in folder.rglob("*") if path.is_dir())
    count, rename = 0, renames._system_rename

    def failing_rename(*arguments):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device", arguments[1])
        return rename(*arguments)

    monkeypatch.setattr(renames, "_system_rename", failing_rename)
    if failing == 7:  # there are only six
        apply_patch(text, folder)
        return
    with pytest.raises(ToolError, match="nothing is changed"):
        apply_patch(text, folder)
    assert state(folder) == before
    assert sorted(path for path in folder.rglob("*") if path.is_dir()) == folders


def test_a_folder_that_cannot_be_written_is_explained_in_a_sentence(folder):
    if os.geteuid() == 0:
        pytest.skip("root can write anywhere")
    folder.chmod(0o500)
    with pytest.raises(ToolError, match="nothing is changed"):
        apply_patch(patch("*** Add File: a", "+x"), folder)
    folder.chmod(0o700)


def test_a_dry_run_changes_nothing_and_says_what_it_would_change(folder):
    before = state(folder)
    tool = patch_tool(folder, dry_run=True)
    result = tool.handler(input=patch("*** Update File: old.txt", "@@", "-old", "+new"))
    assert "updated old.txt" in result and "dry run" in result
    (change,) = apply_patch(patch("*** Update File: old.txt", "@@", "-old", "+new"), folder, dry_run=True)
    assert (change.before, change.after) == ("old\n", "new\n")
    assert state(folder) == before


def test_the_tool_needs_a_folder(tmp_path):
    with pytest.raises(OptionError, match="not a folder"):
        patch_tool(tmp_path / "none")
