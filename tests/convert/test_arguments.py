"""Wrong arguments of the conversion's functions are our errors, and say what is expected."""

from __future__ import annotations

import pytest

import mlx_oss
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.errors import OptionError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"profile": 4}, "profile is 4, expected bf16, q8, q4 or None"),
        ({"overrides": ["q4"]}, r"overrides is \['q4'\], expected patterns with their profiles, such as"),
        ({"overrides": {"lm_head": 4}}, "overrides is .*, expected patterns with their profiles"),
        ({"adapter": 5}, "adapter is 5, expected the folder of a LoRA adapter"),
        ({"force": "no"}, "force is 'no', expected True or False"),
        ({"dry_run": 1}, "dry_run is 1, expected True or False"),
        ({"shard_bytes": "2GB"}, "shard_bytes is '2GB', expected a number of bytes above 0"),
        ({"shard_bytes": 0}, "shard_bytes is 0"),
    ],
)
def test_options_are_checked_when_they_are_made(given, expected):
    with pytest.raises(OptionError, match=expected):
        ConvertOptions(**given)


def test_arguments_are_checked_before_anything_is_read(folder, tmp_path):
    target = tmp_path / "made"
    for call, expected in (
        (lambda: convert(None, target), "the path is None, expected a text or a pathlib.Path"),
        (lambda: convert(folder(), 5), "the path is 5"),
        (lambda: convert(folder(), target, {"profile": "q8"}), r"options is .*, expected ConvertOptions\(...\)"),
        (lambda: convert(folder(), target, progress="bar"), "progress is 'bar', expected a function"),
        (lambda: verify(b"folder"), "the path is b'folder'"),
        (lambda: verify(folder(), 5), "the path is 5"),
        (lambda: verify(folder(), progress=True), "progress is True, expected a function"),
        (lambda: mlx_oss.load(["20b"]), r"the model is \['20b'\], expected its folder or name, such as"),
        (lambda: mlx_oss.plan(7), "the model is 7, expected its folder or name"),
        (lambda: mlx_oss.load(folder(), progress=1), "progress is 1, expected a function"),
    ):
        with pytest.raises(OptionError, match=expected):
            call()
    assert not target.exists()


def test_an_exception_of_progress_ends_a_conversion_and_leaves_nothing(folder, tmp_path):
    class Enough(Exception):
        pass

    def progress(state: mlx_oss.convert.Progress) -> None:
        raise Enough

    with pytest.raises(Enough):
        convert(folder(), tmp_path / "made", progress=progress)
    assert list(tmp_path.iterdir()) == []
