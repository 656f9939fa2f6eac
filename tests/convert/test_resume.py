"""A conversion killed at any moment goes on to the same bytes; verification finds every changed bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert import ConvertOptions, convert, verify
from convert.command import main
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.tensorfile import read_folder
from tests.synthetic import TINY, write_checkpoint

OPTIONS = ConvertOptions(shard_bytes=200_000)
KILLS = 30


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
    """Stands for a kill: nothing of the converter's runs after it."""


def test_killed_anywhere_it_resumes_to_the_same_bytes(source, finished, tmp_path, monkeypatch):
    """Every system call that changes the disk is a place to die; 30 of them drawn at random, some in one conversion."""
    names = ("write", "fsync", "rename", "unlink", "mkdir")
    real = {name: getattr(os, name) for name in names}
    calls = limit = 0

    def counted(name):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > limit:
                raise Killed
            return real[name](*args, **options)

        return call

    for name in names:
        monkeypatch.setattr(os, name, counted(name))
    monkeypatch.setattr("convert.partial.Partial.discard", lambda self: None)  # a kill runs no handler
    limit = 10**9
    convert(source, tmp_path / "whole", OPTIONS)
    whole, draw, resumed = calls, random.Random(1), 0
    for run in range(KILLS):
        calls, limit = 0, draw.randrange(whole)
        target = tmp_path / f"dst{run // 2}"
        try:
            convert(source, target, OPTIONS)
        except Killed:
            assert not target.exists()
        except ConversionError as error:
            assert "exists" in str(error)  # a run before it got through
        if run % 2 and not target.exists():
            limit = 10**9
            resumed += convert(source, target, OPTIONS).resumed_shards > 0
        if target.exists():
            assert files(target) == files(finished)
    assert resumed > 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_killed_process_leaves_no_target_and_can_be_resumed(source, finished, tmp_path):
    program = (
        "import os, signal, sys; from convert import ConvertOptions, convert\n"
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
    (tmp_path / ".dst.partial" / "record.json").write_text('{"plan": ')
    assert convert(source, tmp_path / "dst", OPTIONS).resumed_shards == 0
    assert files(tmp_path / "dst") == files(finished)


def test_two_conversions_to_one_target_do_not_mix(source, tmp_path):
    def second(now):
        with pytest.raises(ConversionError, match="another conversion"):
            convert(source, tmp_path / "dst", OPTIONS)

    convert(source, tmp_path / "dst", OPTIONS, second)
    verify(tmp_path / "dst", source)


def test_interrupted_command_says_how_to_go_on(source, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("convert.shards.write", stop)
    assert main([str(source), str(tmp_path / "dst")]) == 130
    assert "same command" in capsys.readouterr().err


def test_dry_run_writes_nothing(source, tmp_path):
    report = convert(source, tmp_path / "dst", ConvertOptions(dry_run=True))
    assert not any(tmp_path.iterdir())
    assert report.tensors == 3 + 22 * TINY["num_hidden_layers"]


def test_verify_passes_what_convert_wrote(source, finished, tmp_path):
    report = verify(finished, source)
    assert report.nbytes == sum(tensor.nbytes for tensor in read_folder(finished).values())
    assert verify(finished).tensors == report.tensors


@pytest.mark.parametrize("with_source", [True, False])
def test_verify_finds_a_flipped_bit_in_any_tensor(source, finished, with_source):
    draw = random.Random(2)
    for tensor in draw.sample(sorted(read_folder(finished).values(), key=lambda t: t.name), 8):
        data = bytearray(tensor.file.read_bytes())
        data[draw.randrange(tensor.start, tensor.end)] ^= 1 << draw.randrange(8)
        kept = tensor.file.read_bytes()
        tensor.file.write_bytes(data)
        with pytest.raises(CheckpointError, match=tensor.name):
            verify(finished, source if with_source else None)
        tensor.file.write_bytes(kept)


def test_verify_finds_another_source(finished, tmp_path):
    other = write_checkpoint(tmp_path / "src", seed=10)
    with pytest.raises(CheckpointError, match="differs from"):
        verify(finished, other)


def test_verify_needs_a_manifest_or_a_source(source, finished, tmp_path):
    for name, data in files(finished).items():
        if name != "conversion.json":
            (tmp_path / name).write_bytes(data)
    verify(tmp_path, source)
    with pytest.raises(CheckpointError, match=r"conversion.json"):
        verify(tmp_path)


def test_command_reports_as_json(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "dst"), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["outcome"] == "written" and outcome["layout"] == "Hugging Face"
    assert main([str(source), str(tmp_path / "dst"), "--verify"]) == 0
    assert "verified" in capsys.readouterr().out
