"""OpenAI's Metal file gives the same folder as `original/`, but for the vocabulary's unused end."""

from __future__ import annotations

import dataclasses

import pytest

from convert import convert, verify
from mlx_oss.config import ModelConfig
from mlx_oss.errors import MlxOssError
from tests.convert.test_lossless import contents
from tests.metal import UNUSED_ROWS
from tests.synthetic import TINY, write_checkpoint


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "metal", seed=2, layout="metal")


def test_every_tensor_is_that_of_the_original(source, tmp_path):
    convert(write_checkpoint(tmp_path / "original", seed=2, layout="original"), tmp_path / "wanted")
    report = convert(source, tmp_path / "dst")
    assert report.layout == "OpenAI Metal"
    wanted, made = contents(tmp_path / "wanted"), contents(tmp_path / "dst")
    assert set(made) == set(wanted)
    for name, (dtype, shape, data) in wanted.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            shape = (shape[0] - UNUSED_ROWS, shape[1])
            data = data[: 2 * shape[0] * shape[1]]
        assert made[name] == (dtype, shape, data), name
    verify(tmp_path / "dst", source)


def test_config_is_that_of_the_original(source, tmp_path):
    convert(write_checkpoint(tmp_path / "original", seed=2, layout="original"), tmp_path / "wanted")
    convert(source, tmp_path / "dst")
    wanted, made = (ModelConfig.from_file(tmp_path / name / "config.json") for name in ("wanted", "dst"))
    assert made == dataclasses.replace(wanted, vocab_size=TINY["vocab_size"] - UNUSED_ROWS)


def test_damaged_file_is_refused(source, tmp_path):
    path = source / "model.bin"
    data = path.read_bytes()
    half = len(data) // 2
    damages = (b"", data[:50], data[:half], data + b"\0", b"version https://git-lfs.github.com/spec/v1\n", data[1:])
    damages += (data[:32] + b"\xff" * 68 + data[100:], data[:32] + bytes(68) + data[100:])
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(MlxOssError, match=r"model\.bin|config\.json"):
            convert(source, tmp_path / "dst")
        assert not (tmp_path / "dst").exists()


def test_scale_below_the_offset_is_refused(source, tmp_path):
    path = source / "model.bin"
    data = bytearray(path.read_bytes())
    data[-2 * TINY["hidden_size"] - 1] = 13  # the last expert's last scale stands before its bias
    path.write_bytes(data)
    with pytest.raises(MlxOssError, match="scale"):
        convert(source, tmp_path / "dst")
