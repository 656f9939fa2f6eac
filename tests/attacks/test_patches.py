"""Attacks on apply_patch: killed at any line, other programs that write meanwhile, links swapped in, odd paths."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_oss.errors import ToolError
from mlx_oss.tools import patch_tool
from mlx_oss.tools.patch import apply, apply_patch, renames, transaction
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder
from mlx_oss.tools.patch.hunks import apply_hunks
from mlx_oss.tools.patch.parsing import parse
from tests.attacks.killed import AFTER, BEFORE, PATCH, fill, lines_until, state, without

FALLBACKS = ["", "rename"]  # without hard links too, a gap remains (.github/SECURITY.md)


@pytest.fixture
def root(tmp_path) -> Path:
    fill(tmp_path / "root")
    return tmp_path / "root"


def killed(root: Path, step: int, fallback: str) -> tuple[int, int]:
    command = [sys.executable, "-m", "tests.attacks.killed", str(root), str(step), fallback]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    kills, applied = map(int, done.stdout.split())
    return kills, applied


@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_patch_killed_at_any_line_is_applied_or_not_and_leaves_nothing(root, fallback):
    kills, applied = killed(root, 37, fallback)
    assert kills > 20 and 0 < applied < kills


@pytest.mark.long
@pytest.mark.parametrize("fallback", FALLBACKS)
def test_a_patch_killed_at_every_line_is_applied_or_not_and_leaves_nothing(root, fallback):
    kills, applied = killed(root, 1, fallback)
    assert kills > 1000 and 0 < applied < kills


def test_a_journal_without_its_end_is_not_believed(root):
    """As if killed, or the disk had been full, in the middle of writing it."""
    journal = root / f"{transaction.PREFIX}{'0' * 16}.journal"
    cut_off = '{"folders": [], "steps": [["a.txt", null'
    for content in ("", "{", cut_off, "[]\n", "null\nwritten\n", "{}\nwritten\n", "9\n" * 9, "[" * 10**5 + "\n"):
        journal.write_text(content)
        patch_tool(root)
        files, _ = state(root)
        assert {name: files[name] for name in BEFORE} == BEFORE
    journal.unlink(missing_ok=True)


def test_a_journal_cannot_reach_out_of_the_folder_or_touch_other_files(root):
    """A folder from elsewhere may hold a journal that was made up."""
    outside = root.parent / "outside.txt"
    outside.write_text("x")
    (root / "link").symlink_to(root.parent)
    digest = transaction._digest(b"x")
    paths = [
        "../outside.txt",
        "link/outside.txt",
        str(outside),
        ".git/config",
        "sub/../../outside.txt",
        "a\0",
        5,
        None,
        [],
    ]
    for line in ("written\n", "done\n", ""):
        for path in paths:
            plan = {"folders": ["../x", "/", ".."], "steps": [[path, None, digest]]}
            (root / f"{transaction.PREFIX}{'0' * 16}.journal").write_text(f"{json.dumps(plan)}\n{line}")
            patch_tool(root)
            assert outside.read_text() == "x" and state(root)[0].items() >= BEFORE.items()


def test_a_patch_that_is_being_applied_is_not_taken_for_a_killed_one(root, monkeypatch):
    done = transaction._clean

    def meanwhile(works: object) -> None:
        subprocess.run(
            [sys.executable, "-c", f"from mlx_oss.tools import patch_tool; patch_tool({str(root)!r})"], check=True
        )
        done(works)

    check = transaction._Work.check
    calls: list[int] = []

    def looked(self: transaction._Work) -> None:
        if not calls:
            calls.append(1)
            meanwhile([])
        check(self)

    monkeypatch.setattr(transaction, "_clean", meanwhile)
    monkeypatch.setattr(transaction._Work, "check", looked)
    apply_patch(PATCH, root)
    assert state(root)[0] == AFTER and calls


def test_patches_of_several_processes_that_are_killed_now_and_then_follow_one_another(root):
    """Each patch counts up in one file and adds a line to another, so the two files tell how many were applied."""
    (root / "n.txt").write_text("0\n")
    (root / "log.txt").write_text("")
    command = [sys.executable, "-m", "tests.attacks.counting", str(root)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(3)]

    def counted() -> int:
        with contextlib.suppress(OSError, ValueError):  # it is being replaced
            return int((root / "n.txt").read_text())
        return 0

    for number in range(12):
        seen, end = counted(), time.monotonic() + 60
        while counted() <= seen and time.monotonic() < end:
            time.sleep(random.uniform(0, 0.1))
        running[number % 3].kill()
        running[number % 3].wait()
        running[number % 3] = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    for process in running:
        process.kill()
        process.wait()
    patch_tool(root)
    count = int((root / "n.txt").read_text())
    assert (root / "log.txt").read_text().splitlines() == [f"line {number}" for number in range(1, count + 1)]
    assert state(root)[0].keys() == {*BEFORE, "n.txt", "log.txt"} and count


def test_a_file_system_without_hard_links_and_new_renames_is_written_to(root, monkeypatch):
    monkeypatch.setattr(os, "link", os.link)
    monkeypatch.setattr(renames, "_function", renames._function)
    without("link")
    apply_patch(PATCH, root)
    assert state(root)[0] == AFTER


def test_a_folder_that_another_process_keeps_locked_is_not_waited_for_without_end(root, monkeypatch):
    monkeypatch.setattr(apply, "_LOCK_SECONDS", 0.1)
    with transaction.locked(root, 0) as is_free:
        assert is_free
        with pytest.raises(ToolError, match="another program"):
            apply_patch(PATCH, root)
        patch_tool(root)
    apply_patch(PATCH, root)


# What another program does to a file, at any moment.
def replaces(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name("beside")
    beside.write_bytes(b"mine\n")
    beside.rename(path)


def overwrites(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine\n")


def appends(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"mine\n")


def interrupted(root: Path, path: str, act: Callable[[Path], None], count: int, fails: bool = False) -> bool:
    """Applies the patch while another program acts on one file at one line. Returns False if there are fewer lines.

    If `fails` is set, the last step of the patch fails, so that all is undone.
    """
    read: list[str] = []
    read_before: list[list[str]] = []  # what the patch had read when the other program acted
    read_file = apply._read

    def recorded(folder: AnchoredFolder, name: str) -> str:
        text = read_file(folder, name)
        read.append(name)
        return text

    def at_once() -> None:
        read_before.append(list(read))
        act(root / path)

    check = transaction._Work.check

    def failing(self: transaction._Work) -> None:
        check(self)
        if self.path == "d.txt":
            raise ToolError("nothing is changed: d.txt has changed meanwhile")

    fill(root)
    transaction._Work.check = failing if fails else check
    apply._read = recorded
    sys.settrace(lines_until(count, at_once))
    try:
        apply_patch(PATCH, root)
        applied = True
    except ToolError as error:
        assert "half applied" not in str(error)
        applied = False
    finally:
        sys.settrace(None)
        apply._read, transaction._Work.check = read_file, check
    if not read_before:
        return False
    files, _ = state(root)
    assert not [name for name in files if transaction.PREFIX in name], (count, files)
    if path in BEFORE and path not in read_before[0]:
        return True  # the patch is made for what the other program wrote
    assert any(b"mine\n" in content for content in files.values()), f"line {count}: what was written is lost: {files}"
    expected = AFTER if applied else BEFORE
    for name in expected.keys() - {path}:
        assert files.get(name) == expected[name], (count, name, files)
    return True


PATHS = ["a.txt", "c.txt", "deep/down/new.txt", "sub/b.txt", "other/b.txt"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("act", [replaces, overwrites, appends])
def test_what_another_program_writes_at_any_line_is_kept(root, path, act):
    begin = random.Random(path + act.__name__).randrange(1, 60)
    assert any([interrupted(root, path, act, count) for count in range(begin, 2500, 61)])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("act", [replaces, overwrites, appends])
def test_undoing_a_patch_keeps_what_another_program_writes_at_any_line(root, path, act):
    begin = random.Random(path + act.__name__).randrange(500, 530)
    assert any([interrupted(root, path, act, count, fails=True) for count in range(begin, 2500, 31)])


@pytest.mark.long
@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("act", [replaces, overwrites, appends])
@pytest.mark.parametrize("fails", [False, True])
def test_what_another_program_writes_at_every_seventh_line_is_kept(root, path, act, fails, fallback, monkeypatch):
    monkeypatch.setattr(renames, "_function", renames._function)
    without(fallback)
    begin = random.Random(path + act.__name__ + fallback).randrange(1, 8)
    assert sum([interrupted(root, path, act, count, fails) for count in range(begin, 3000, 7)]) > 150


def test_what_a_program_writes_to_a_file_that_it_had_open_before_is_kept(root, monkeypatch):
    apply_step = transaction._Work.apply
    with (root / "a.txt").open("ab") as file:

        def meanwhile(self: transaction._Work) -> None:
            apply_step(self)
            if self.path == "c.txt":  # a.txt has been replaced by now
                file.write(b"mine\n")
                file.flush()

        monkeypatch.setattr(transaction._Work, "apply", meanwhile)
        with pytest.raises(ToolError, match=r"a\.txt has changed meanwhile"):
            apply_patch(PATCH, root)
    assert state(root) == ({**BEFORE, "a.txt": b"one\nmine\n"}, ["sub"])


def test_a_file_that_was_changed_after_it_was_patched_stays_and_the_old_version_is_kept_beside_it(root, monkeypatch):
    apply_step = transaction._Work.apply

    def meanwhile(self: transaction._Work) -> None:
        apply_step(self)
        if self.path == "d.txt":
            replaces(root / "a.txt")
            appends(root / "deep/down/new.txt")
            overwrites(root / "c.txt")
            raise ToolError("nothing is changed: d.txt has changed meanwhile")

    monkeypatch.setattr(transaction._Work, "apply", meanwhile)
    with pytest.raises(ToolError, match=r"older versions are kept as c\.txt\.saved, a\.txt\.saved"):
        apply_patch(PATCH, root)
    changed = {"a.txt": b"mine\n", "a.txt.saved": b"one\n", "c.txt": b"mine\n", "c.txt.saved": b"c\n"}
    assert state(root)[0] == {**BEFORE, **changed, "deep/down/new.txt": b"new\nmine\n"}


def test_files_written_while_patches_run_are_never_lost(root):
    """Another program writes numbered versions all the time; a patch must be made for exactly one of them."""
    path, stopped, written = root / "n.txt", threading.Event(), [0]

    def write(number: int) -> None:
        beside = root / "beside"
        beside.write_text(f"{number}\n")
        beside.rename(path)
        written[0] = number

    def other_program() -> None:
        while not stopped.is_set():
            write(written[0] + 1)

    write(1)
    running = threading.Thread(target=other_program, daemon=True)
    running.start()
    last = 0
    for _ in range(200):
        number = path.read_text().strip()
        with contextlib.suppress(ToolError):
            apply_patch(f"*** Begin Patch\n*** Update File: n.txt\n@@\n-{number}\n+patched\n*** End Patch", root)
        seen = path.read_text().strip()
        assert seen == "patched" or int(seen) >= last, "an older version has come back"
        last = last if seen == "patched" else int(seen)
    stopped.set()
    running.join()
    assert not [name for name in state(root)[0] if transaction.PREFIX in name]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a" * 300,
            "a/" * 600 + "b",
            "ä" * 200,
            "\ud800",
            "x/\udfff",
            "a\0",
            ".g\u200cit/hooks/x",
            ".GIT\ufeff/config",
        ),
        *(f"{transaction.PREFIX}{'0' * 16}.journal", f"sub/{transaction.PREFIX}0-0.old"),
    ],
)
@pytest.mark.parametrize("kind", ["Add", "Update", "Delete", "Move"])
def test_an_odd_path_is_refused_with_a_sentence(root, path, kind):
    bodies = {
        "Add": f"*** Add File: {path}\n+x",
        "Update": f"*** Update File: {path}\n@@\n-x\n+y",
        "Delete": f"*** Delete File: {path}",
        "Move": f"*** Update File: a.txt\n*** Move to: {path}",
    }
    with pytest.raises(ToolError, match="is refused") as caught:
        apply_patch(f"*** Begin Patch\n{bodies[kind]}\n*** End Patch", root)
    assert len(str(caught.value)) < 600 and state(root)[0] == BEFORE


def test_a_file_with_the_longest_name_can_be_patched(root):
    name = "ä" * 127
    apply_patch(f"*** Begin Patch\n*** Add File: {name}\n+x\n*** End Patch", root)
    apply_patch(f"*** Begin Patch\n*** Update File: {name}\n@@\n-x\n+y\n*** End Patch", root)
    assert (root / name).read_text() == "y\n"


@pytest.mark.parametrize("swapped", ["a.txt", "sub"])
def test_a_link_swapped_in_before_a_file_is_read_leads_nowhere(root, monkeypatch, swapped):
    outside = root.parent / "outside"
    outside.mkdir()
    for name in ("a.txt", "b.txt"):
        (outside / name).write_text("one\nb\n")
    read = apply._read

    def later(folder: AnchoredFolder, name: str) -> str:
        (root / swapped).rename(root.parent / "moved")
        (root / swapped).symlink_to(outside / swapped if swapped == "a.txt" else outside)
        return read(folder, name)

    monkeypatch.setattr(apply, "_read", later)
    path, line = ("a.txt", "one") if swapped == "a.txt" else ("sub/b.txt", "b")
    with pytest.raises(ToolError, match="refused"):
        apply_patch(f"*** Begin Patch\n*** Update File: {path}\n@@\n-{line}\n+x\n*** End Patch", root)
    assert (outside / "a.txt").read_text() == (outside / "b.txt").read_text() == "one\nb\n"


def test_pipes_and_huge_files_are_refused_before_they_are_read(root):
    os.mkfifo(root / "pipe")
    with (root / "huge").open("wb") as file:
        file.truncate(8 << 30)
    for name, sentence in (("pipe", "no file"), ("huge", "64 MB")):
        with pytest.raises(ToolError, match=sentence):
            apply_patch(f"*** Begin Patch\n*** Delete File: {name}\n*** End Patch", root)


def test_what_cannot_be_undone_is_said_and_undone_later(root, monkeypatch):
    def refuses(*_: object) -> bool:
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as broken:
        clean = transaction._Work.apply

        def fails(self: transaction._Work) -> None:
            clean(self)
            if self.path == "other/b.txt":
                broken.setattr(renames, "_system_rename", refuses)
                raise OSError(28, "No space left on device")

        broken.setattr(transaction._Work, "apply", fails)
        with pytest.raises(ToolError, match="half applied"):
            apply_patch(PATCH, root)
    patch_tool(root)
    assert state(root) == (BEFORE, ["sub"])


def seconds(work: Callable[[], object]) -> float:
    """The processor's time that it takes, the least of three times, so that other programs do not count."""

    def once() -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    return min(once() for _ in range(3))


HUNKS: dict[str, Callable[[int], tuple[str, str]]] = {
    "equal lines": lambda size: ("a\n" * size, "@@\n" + "-a\n" * (size // 2) + "-b\n+c"),
    "lines that fit at the end": lambda size: ("a\n" * size + "b\n", "@@\n" + " a\n" * (size // 2) + "-b\n+c"),
    "hunks that fit without blanks": lambda size: ("a \nb \n" * size, "@@\n-a\n-b\n+c\n" * (size // 4)),
    "many hunks": lambda size: ("a\nb\n" * size, "@@\n-a\n+c\n" * (size // 4)),
    "many headers": lambda size: ("h\n" * size, "@@ h\n" * (size - 1) + " h\n+c"),
    "many insertions": lambda size: ("h\n" * size, "@@ h\n+c\n" * (size // 4)),
}


@pytest.mark.parametrize("kind", HUNKS)
def test_the_time_for_hunks_is_about_in_proportion_to_the_file(kind):
    """16 times as much may take at most 128 times as long: comparing each line with each would take 256 times."""

    def work(size: int) -> None:
        text, body = HUNKS[kind](size)
        (update,) = parse(f"*** Begin Patch\n*** Update File: a\n{body}\n*** End Patch")
        with contextlib.suppress(ToolError):
            apply_hunks(text, update.hunks, "a")

    small, large = seconds(lambda: work(120)), seconds(lambda: work(1920))
    assert large < 128 * small or large < 0.1, f"{small:.4f} s, 16 times that: {large:.4f} s"


def test_files_are_not_read_before_it_is_known_that_each_is_named_once(root, monkeypatch):
    monkeypatch.setattr(apply, "_read", lambda *_: pytest.fail("it was read"))
    for paths in (["a.txt", "a.txt"], ["a.txt", "./a.txt"], ["a.txt"] * 1000):
        body = "\n".join(f"*** Update File: {path}\n@@\n-one\n+two" for path in paths)
        with pytest.raises(ToolError, match="occurs twice"):
            apply_patch(f"*** Begin Patch\n{body}\n*** End Patch", root)


def test_the_files_of_a_patch_together_are_bounded(root, monkeypatch):
    monkeypatch.setattr(apply, "_MAX_CHARACTERS", 8)
    one = "*** Update File: a.txt\n@@\n-one\n+two\n"
    apply_patch(f"*** Begin Patch\n{one}*** End Patch", root, dry_run=True)
    with pytest.raises(ToolError, match="too large together"):
        apply_patch(
            f"*** Begin Patch\n{one}*** Delete File: sub/b.txt\n*** Update File: d.txt\n@@\n+d\n*** End Patch", root
        )
    assert state(root)[0] == BEFORE
