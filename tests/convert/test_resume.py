"""A conversion killed at any moment resumes to the same bytes, and replaces a folder completely or not at all."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
from mlx_oss.errors import ConversionError
from tests.synthetic import write_checkpoint

OPTIONS = ConvertOptions(shard_bytes=200_000)
KILLS = 30
NEVER = 10**9


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("resume") / "src", seed=9, layout="hf_sharded")


@pytest.fixture(scope="module")
def finished(source) -> Path:
    convert(source, source.parent / "dst", OPTIONS)
    return source.parent / "dst"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Simulates a kill: no handler of the converter runs after it."""


@pytest.fixture
def dying(monkeypatch) -> Callable[[int], Callable[[], int]]:
    """dying(limit) simulates a kill after `limit` system calls that change the disk, counted from now.

    It returns a function that returns the number of such calls so far.
    """
    names = ("pwrite", "fsync", "rename", "unlink", "mkdir", "rmdir")
    real = {name: getattr(os, name) for name in names}
    calls, limit = 0, NEVER

    def counted(name):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise Killed
            return real[name](*args, **options)

        return call

    def install(at: int) -> Callable[[], int]:
        nonlocal calls, limit
        calls, limit = 0, at
        return lambda: calls

    for name in names:
        monkeypatch.setattr(os, name, counted(name))
    monkeypatch.setattr("mlx_oss.convert.staging.Staging.discard", lambda self: None)  # a kill runs no handler
    return install


def test_killed_anywhere_it_resumes_to_the_same_bytes(source, finished, tmp_path, dying):
    """Thirty random moments; every second kill can hit a conversion that was killed before."""
    count = dying(NEVER)
    convert(source, tmp_path / "whole", OPTIONS)
    whole, draw, resumed = count(), random.Random(1), 0
    for run in range(KILLS):
        dying(draw.randrange(whole))
        target = tmp_path / f"dst{run // 2}"
        try:
            convert(source, target, OPTIONS)
        except Killed:
            assert not target.exists()
        except ConversionError as error:
            assert "exists" in str(error)  # an earlier run finished it
        if run % 2 and not target.exists():
            dying(NEVER)
            resumed += convert(source, target, OPTIONS).resumed_shards > 0
        if target.exists():
            assert files(target) == files(finished)
    assert resumed > 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore:.* is restored")
def test_killed_while_it_replaces_a_folder_one_of_the_two_is_there_whole(source, finished, tmp_path, dying):
    """Kills at each of the last 40 system calls; publication is among them."""
    other = write_checkpoint(tmp_path / "other", seed=10, layout="hf_sharded")
    convert(other, tmp_path / "old", OPTIONS)
    old, target, force = files(tmp_path / "old"), tmp_path / "dst", replace(OPTIONS, force=True)
    shutil.copytree(tmp_path / "old", target)
    count = dying(NEVER)
    convert(source, target, force)
    whole, aside = count(), 0
    for moment in range(whole - 40, whole):
        dying(NEVER)
        shutil.rmtree(target)
        shutil.copytree(tmp_path / "old", target)
        dying(moment)
        with pytest.raises(Killed):
            convert(source, target, force)
        dying(NEVER)
        aside += not target.exists()
        with pytest.raises(ConversionError, match="--force"):  # and restores it
            convert(source, target, OPTIONS)
        assert files(target) in (old, files(finished))
        convert(source, target, force)
        assert files(target) == files(finished)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert aside


def test_what_a_kill_moved_aside_is_put_back_with_a_warning(source, finished, tmp_path):
    shutil.copytree(finished, tmp_path / ".dst.replaced")
    with pytest.warns(UserWarning, match="dst is restored"), pytest.raises(ConversionError, match="exists"):
        convert(source, tmp_path / "dst", OPTIONS)
    assert files(tmp_path / "dst") == files(finished)


@pytest.mark.parametrize("inside", [(), (".DS_Store", "._dst")], ids=["empty", "only what a Mac adds"])
def test_an_empty_folder_made_since_the_kill_does_not_cost_the_old_one(source, finished, tmp_path, inside):
    shutil.copytree(finished, tmp_path / ".dst.replaced")
    (tmp_path / ".dst.partial").mkdir()
    (tmp_path / "dst").mkdir()
    for name in inside:
        (tmp_path / "dst" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    with pytest.warns(UserWarning, match="dst is restored"), pytest.raises(ConversionError, match="exists"):
        convert(source, tmp_path / "dst", OPTIONS)
    assert files(tmp_path / "dst") == files(finished)


def test_it_resumes_on_a_disk_on_which_macos_keeps_a_second_file_for_each(
    source, finished, tmp_path, dying, monkeypatch
):
    """As on exFAT: `._NAME` beside each file NAME, and deleting NAME deletes both."""
    count = dying(NEVER)
    convert(source, tmp_path / "whole", OPTIONS)
    dying(count() * 4 // 5)  # some shards are finished
    with pytest.raises(Killed):
        convert(source, tmp_path / "dst", OPTIONS)
    dying(NEVER)
    for path in list((tmp_path / ".dst.partial").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    unlink = Path.unlink

    def unlink_both(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok)
        unlink(self.with_name(f"._{self.name}"), missing_ok=True)

    monkeypatch.setattr(Path, "unlink", unlink_both)
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards
    assert {name: data for name, data in files(tmp_path / "dst").items() if name[0] != "."} == files(finished)


def test_something_else_under_the_name_costs_neither(source, finished, tmp_path):
    shutil.copytree(finished, tmp_path / ".dst.replaced")
    (tmp_path / ".dst.partial").mkdir()
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "mine").write_text("kept")
    with pytest.raises(ConversionError, match=r"\.dst\.replaced holds"):
        convert(source, tmp_path / "dst", replace(OPTIONS, force=True))
    assert files(tmp_path / "dst") == {"mine": b"kept"}
    assert files(tmp_path / ".dst.replaced") == files(finished)


def test_a_dry_run_moves_nothing_back(source, finished, tmp_path):
    shutil.copytree(finished, tmp_path / ".dst.replaced")
    convert(source, tmp_path / "dst", replace(OPTIONS, dry_run=True))
    assert [path.name for path in tmp_path.iterdir()] == [".dst.replaced"]


def test_killed_process_leaves_no_target_and_can_be_resumed(source, finished, tmp_path):
    program = (
        "import os, signal, sys; from mlx_oss.convert import ConvertOptions, convert\n"
        "def stop(now):\n if now.shards_done == 2 and now.done > now.total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"convert(sys.argv[1], sys.argv[2], ConvertOptions(shard_bytes={OPTIONS.shard_bytes}), stop)"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "dst")]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".dst.partial"]
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards >= 2
    assert files(tmp_path / "dst") == files(finished)
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_finished_shards_are_not_written_again(source, tmp_path):
    interrupt(source, tmp_path / "dst", after=2)
    shard = min((tmp_path / ".dst.partial").glob("*.safetensors"))
    before = shard.stat().st_ino
    convert(source, tmp_path / "dst", OPTIONS)
    assert (tmp_path / "dst" / shard.name).stat().st_ino == before


def interrupt(source: Path, target: Path, after: int) -> None:
    def stop(now):
        if now.shards_done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, target, OPTIONS, stop)


def test_another_source_or_choice_starts_anew(source, tmp_path):
    interrupt(source, tmp_path / "dst", after=3)
    other = write_checkpoint(tmp_path / "other", seed=10, layout="hf_sharded")
    assert convert(source, tmp_path / "dst", ConvertOptions(shard_bytes=300_000, dry_run=True)).resumed_shards == 0
    assert convert(source, tmp_path / "dst", ConvertOptions(shard_bytes=200_000, dry_run=True)).resumed_shards == 3
    assert convert(other, tmp_path / "dst", OPTIONS).resumed_shards == 0
    verify(tmp_path / "dst", other)


def test_source_touched_in_between_starts_anew(tmp_path):
    source = write_checkpoint(tmp_path / "src", layout="hf_sharded")
    interrupt(source, tmp_path / "dst", after=3)
    os.utime(next(source.glob("*.safetensors")), (1, 1))
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards == 0


def test_damaged_record_starts_anew(source, finished, tmp_path):
    interrupt(source, tmp_path / "dst", after=2)
    (tmp_path / ".dst.partial" / ".conversion.json").write_text('{"plan": ')
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards == 0
    assert files(tmp_path / "dst") == files(finished)


def test_two_conversions_to_one_target_do_not_mix(source, tmp_path):
    def second(now):
        with pytest.raises(ConversionError, match="another conversion"):
            convert(source, tmp_path / "dst", OPTIONS)

    convert(source, tmp_path / "dst", OPTIONS, second)
    verify(tmp_path / "dst", source)


def test_ctrl_c_leaves_what_the_same_command_goes_on_from_and_says_so(source, finished, tmp_path):
    program = (
        "import functools, os, sys, time; from mlx_oss.convert import command\n"
        f"command.ConvertOptions = functools.partial(command.ConvertOptions, shard_bytes={OPTIONS.shard_bytes})\n"
        "write = os.pwrite\n"
        "os.pwrite = lambda *args: (time.sleep(0.02), write(*args))[1]\n"
        "sys.exit(command.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "dst")]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / ".dst.partial" / ".conversion.json").exists():  # a shard is finished
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith(
        "interrupted: the finished shards are kept, and the same command continues"
    )
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == [".dst.partial"]
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards > 0
    assert files(tmp_path / "dst") == files(finished)


def test_an_error_of_a_thread_is_told_at_once_and_nothing_is_left(source, tmp_path, monkeypatch):
    write = os.pwrite

    def refused(*args):
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(*args)

    monkeypatch.setattr(os, "pwrite", refused)
    with pytest.raises(ConversionError, match="Input/output error"):
        convert(source, tmp_path / "dst", OPTIONS)
    assert not any(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_progress_comes_in_the_callers_thread_and_nothing_is_printed(source, tmp_path, capfd):
    threads = set()
    convert(source, tmp_path / "dst", OPTIONS, lambda now: threads.add(threading.current_thread()))
    assert threads == {threading.current_thread()}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_takes_the_name_meanwhile_is_kept_and_the_conversion_too(source, finished, tmp_path, what):
    """Both are kept, and the command continues when the name is free again."""
    target = tmp_path / "dst"

    def take(_: object) -> None:
        if not target.exists():
            target.mkdir() if what == "folder" else target.write_text("kept")
            if what == "folder":
                (target / "mine").write_text("kept")

    with pytest.raises(ConversionError, match=r"exists.*kept in .*\.dst\.partial.*same command continues"):
        convert(source, target, OPTIONS, take)
    assert (target / "mine" if what == "folder" else target).read_text() == "kept"
    target.rename(tmp_path / "away")
    report = convert(source, target, OPTIONS)
    assert report.resumed_shards == report.shards and files(target) == files(finished)


def test_a_folder_that_cannot_get_its_name_is_kept_and_so_is_the_old_one(source, finished, tmp_path, monkeypatch):
    target = shutil.copytree(finished, tmp_path / "dst")
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if path.name == ".dst.partial":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ConversionError, match=r"cannot be put in place.*same command continues"):
        convert(source, target, replace(OPTIONS, force=True))
    assert files(target) == files(finished)
    monkeypatch.setattr(Path, "rename", rename)
    report = convert(source, target, replace(OPTIONS, force=True))
    assert report.resumed_shards == report.shards and files(target) == files(finished)


def test_half_a_folder_that_was_being_deleted_is_not_put_back(source, finished, tmp_path):
    (tmp_path / ".dst.deleted").mkdir()
    (tmp_path / ".dst.deleted" / "config.json").write_text("{}")
    convert(source, tmp_path / "dst", OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["dst"] and files(tmp_path / "dst") == files(finished)


def test_what_a_kill_left_unfinished_counts_as_free_space(source, tmp_path, monkeypatch):
    convert(source, tmp_path / "whole", OPTIONS)
    (tmp_path / ".dst.partial").mkdir()
    (tmp_path / ".dst.partial" / "model-00001-of-00009.safetensors.unfinished").write_bytes(bytes(50_000_000))
    usual = shutil.disk_usage
    needed = sum(path.stat().st_size for path in (tmp_path / "whole").glob("*.safetensors")) + (64 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usual(path)._replace(free=needed - 49_000_000))
    convert(source, tmp_path / "dst", OPTIONS)
    with pytest.raises(ConversionError, match="free"):
        convert(source, tmp_path / "other", OPTIONS)


def test_a_reader_of_the_progress_who_leaves_does_not_end_the_conversion(source, finished, tmp_path, monkeypatch):
    class Closed:
        def isatty(self) -> bool:
            return False

        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert main([str(source), str(tmp_path / "dst")]) == 0
    assert verify(tmp_path / "dst", source)


def test_another_attempt_in_the_same_process_can_have_the_lock_after_one_that_failed(source, tmp_path):
    (tmp_path / ".dst.partial" / "folder").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ConversionError, match="cannot be written"):
            convert(source, tmp_path / "dst", OPTIONS)
    (tmp_path / ".dst.partial" / "folder").rmdir()
    convert(source, tmp_path / "dst", OPTIONS)


def test_a_file_system_without_locks_is_written_to_and_told_of(source, tmp_path, monkeypatch):
    """On NFS, flock fails for a folder: it requires a file that is open for writing."""

    def refuse(*_: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("mlx_oss.convert.staging.fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"):
        convert(source, tmp_path / "dst", OPTIONS)
    assert verify(tmp_path / "dst", source)
