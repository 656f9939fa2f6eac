"""OpenAI's Metal file converts to the same folder as the other layouts, except for the unused end of the vocabulary."""

from __future__ import annotations

import pytest

from mlx_oss.config import ModelConfig
from mlx_oss.convert import convert, verify
from mlx_oss.errors import MlxOssError
from tests.convert.test_lossless import contents
from tests.metal import UNUSED_ROWS
from tests.synthetic import TINY, write_checkpoint

# With the released vocabulary size, the file leaves out the same rows as the release does.
WHOLE = TINY | {"vocab_size": 201_088, "hidden_size": 32, "num_hidden_layers": 2}
BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def source(tmp_path):
    return write_checkpoint(tmp_path / "metal", seed=2, layout="metal")


def weight_files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors*")}


def test_hugging_face_original_and_metal_give_the_same_files_where_unused_rows_are_zero(tmp_path):
    made = []
    for layout in ("hf", "original", "metal"):
        source = write_checkpoint(tmp_path / layout, WHOLE, seed=2, layout=layout, unused_rows=UNUSED_ROWS)
        report = convert(source, tmp_path / f"{layout}-mlx")
        made.append(
            (
                weight_files(tmp_path / f"{layout}-mlx"),
                ModelConfig.from_file(tmp_path / f"{layout}-mlx" / "config.json"),
            )
        )
    assert report.layout == "OpenAI Metal"
    assert made[0] == made[1] == made[2]
    verify(tmp_path / "metal-mlx", source)


def test_without_unused_rows_too(source, tmp_path):
    convert(write_checkpoint(tmp_path / "original", seed=2, layout="original"), tmp_path / "wanted")
    convert(source, tmp_path / "dst")
    assert weight_files(tmp_path / "dst") == weight_files(tmp_path / "wanted")
    verify(tmp_path / "dst", source)


def test_unused_rows_become_zeros_and_all_else_is_that_of_the_original(tmp_path):
    for layout in ("original", "metal"):
        convert(write_checkpoint(tmp_path / layout, WHOLE, seed=2, layout=layout), tmp_path / f"{layout}-mlx")
    wanted, made = contents(tmp_path / "original-mlx"), contents(tmp_path / "metal-mlx")
    unused = 2 * UNUSED_ROWS * WHOLE["hidden_size"]
    for name in BY_TOKEN:
        dtype, shape, data = wanted[name]
        assert any(data[-unused:])
        wanted[name] = dtype, shape, data[:-unused] + bytes(unused)
    assert made == wanted


def test_damaged_file_is_refused(source, tmp_path):
    path = source / "model.bin"
    data = path.read_bytes()
    half = len(data) // 2
    damages = (b"", data[:50], data[:half], data + b"\0", b"version https://git-lfs.github.com/spec/v1\n", data[1:])
    damages += (data[:32] + b"\xff" * 68 + data[100:], data[:32] + bytes(68) + data[100:])
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(MlxOssError, match=r"model\.bin"):
            convert(source, tmp_path / "dst")
        assert not (tmp_path / "dst").exists()


def test_a_header_that_asks_for_more_than_there_is_is_refused_before_its_tensors_are_counted(source, tmp_path):
    path = source / "model.bin"
    data = bytearray(path.read_bytes())
    data[40:44] = (2**31 - 1).to_bytes(4, "little")  # number of experts: listing all tensors would fill the memory
    path.write_bytes(data)
    with pytest.raises(MlxOssError, match=r"model\.bin has .* its header describes .* or more"):
        convert(source, tmp_path / "dst")


def test_scale_below_the_offset_is_refused(source, tmp_path):
    path = source / "model.bin"
    data = bytearray(path.read_bytes())
    data[-2 * TINY["hidden_size"] - 1] = 13  # the last scale of the last expert; its bias follows
    path.write_bytes(data)
    with pytest.raises(MlxOssError, match="scale"):
        convert(source, tmp_path / "dst")
