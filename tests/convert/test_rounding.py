"""Fine-tunes in float32 and float16 convert as if they had been saved in bfloat16, rounded as MLX rounds."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
from mlx_oss.convert.transforms import Rounded, read
from mlx_oss.weights.safetensors import read_header
from tests.synthetic import write_checkpoint
from tests.test_loader import EVEN


def saved_in(dtype: mx.Dtype, folder: Path, which: str, layout: str) -> tuple[Path, Path]:
    """Two checkpoints: one has the tensors whose names end in `which` in `dtype`, the other has them in bfloat16."""
    noise = np.random.default_rng(3)
    wide = mx.load(str(write_checkpoint(folder / "release", EVEN, layout=layout) / "model.safetensors"))
    for name, tensor in wide.items():
        if tensor.dtype == mx.bfloat16 and name.endswith(which):
            values = np.array(tensor.astype(mx.float32))
            wide[name] = mx.array(values * noise.uniform(0.99, 1.01, values.shape)).astype(dtype)
    narrow = {n: t.astype(mx.bfloat16) if t.dtype == dtype else t for n, t in wide.items()}
    paths = []
    for name, tensors in (("wide", wide), ("narrow", narrow)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((folder / "release" / "config.json").read_bytes())
        mx.save_safetensors(str(folder / name / "model.safetensors"), tensors)
        paths.append(folder / name)
    return paths[0], paths[1]


@pytest.mark.parametrize("profile", ["bf16", "q8"])
@pytest.mark.parametrize("layout", ["hf", "bf16"])
@pytest.mark.parametrize(("dtype", "which"), [(mx.float32, ""), (mx.float16, ""), (mx.float32, "norm.weight")])
def test_other_floats_give_the_bytes_of_their_bfloat16(tmp_path, dtype, which, layout, profile):
    wide, narrow = saved_in(dtype, tmp_path, which, layout)
    for source in (wide, narrow):
        convert(source, tmp_path / f"mlx-{source.name}", ConvertOptions(profile=profile, shard_bytes=300_000))
    for file in sorted((tmp_path / "mlx-narrow").glob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "mlx-wide" / file.name).read_bytes()
    verify(tmp_path / "mlx-wide", wide)


def test_how_many_tensors_were_rounded_and_what_it_lost_is_told(tmp_path, capsys):
    wide, narrow = saved_in(mx.float32, tmp_path, "norm.weight", "hf")
    rounded = f"rounded to bfloat16: {2 * EVEN['num_hidden_layers'] + 1} tensors, relative error 0.1"
    for source, line in ((wide, rounded), (narrow, "")):
        assert main([str(source), str(tmp_path / f"mlx-{source.name}")]) == 0
        shown = capsys.readouterr().out
        assert line in shown and ("rounded" in shown) == bool(line)


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_the_error_of_rounding_is_that_of_each_tensor(tmp_path, layout):
    wide, _ = saved_in(mx.float32, tmp_path, "", layout)
    report = convert(wide, tmp_path / "dst")
    assert set(report.losses.values()) == {"rounded"} and report.errors.keys() == report.losses.keys()
    name = "model.norm.weight"
    stored = mx.load(str(wide / "model.safetensors"))[name if layout == "hf" else "norm.scale"]
    made = next(mx.load(str(file)) for file in (tmp_path / "dst").glob("*.safetensors"))[name].astype(mx.float32)
    error = float(mx.linalg.norm(stored - made) / mx.linalg.norm(stored))
    assert report.errors[name] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("size", [2, 6, 700, 1 << 22])
def test_any_part_in_pieces_of_any_size_is_the_same(tmp_path, size):
    values = np.random.default_rng(8).standard_normal(500_009).astype(np.float32)
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"a": mx.array(values)})
    (tensor,) = read_header(tmp_path / "a.safetensors").values()
    rounded = Rounded(tensor.name, tensor.file, "BF16", tensor.shape, tensor.start, tensor.end, tensor.dtype)
    expected = np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16)).view(np.uint8)
    for start, stop in ((0, rounded.nbytes), (1234, 5678), (rounded.nbytes - 2, rounded.nbytes)):
        if stop - start < 200 * size:
            parts = [piece.copy() for piece in read(rounded, start, stop, size)]
            assert np.array_equal(np.concatenate(parts), expected[start:stop])
            assert {part.nbytes for part in parts[:-1]} <= {size}
