"""All tensors that the index of OpenAI's 20b release lists are converted, no more and no fewer.

`gpt-oss-20b.index.json` is `model.safetensors.index.json` of huggingface.co/openai/gpt-oss-20b. The weight files here
are sparse: their headers have the released names, dtypes and shapes, but there is no data.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.safetensors import ITEMSIZE
from tests.synthetic import RELEASED_20B, Draw, _hf_tensors, hf_config

INDEX = json.loads(Path(__file__).with_name("gpt-oss-20b.index.json").read_text())
DRY = ConvertOptions(dry_run=True)


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    """The folder of the release, without its 13.8 GB of data."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf_config(RELEASED_20B)))
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEX))
    dtypes_and_shapes = {name: (dtype, shape) for name, (dtype, shape, _) in _hf_tensors(RELEASED_20B, Draw(0, 0.05))}
    for file in set(INDEX["weight_map"].values()):
        entries, position = {}, 0
        for name, where in INDEX["weight_map"].items():
            if where == file:
                dtype, shape = dtypes_and_shapes[name]
                end = position + math.prod(shape) * ITEMSIZE[dtype]
                entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
                position = end
        header = json.dumps(entries).encode()
        with (folder / file).open("wb") as sparse:
            sparse.write(len(header).to_bytes(8, "little") + header)
            sparse.truncate(8 + len(header) + position)
    monkeypatch.setattr("mlx_oss.convert.run.shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 40))
    return folder


def test_every_tensor_of_the_release_is_taken_and_the_sizes_add_up(release, tmp_path):
    report = convert(release, tmp_path / "dst", DRY)
    assert len(INDEX["weight_map"]) == 459
    assert report.nbytes == INDEX["metadata"]["total_size"] == 13_761_264_768
    assert sum(kind.nbytes for kind in report.kinds) == report.nbytes


@pytest.mark.parametrize("name", ["model.layers.7.mlp.experts.down_proj_scales", "lm_head.weight"])
def test_a_tensor_that_is_missing_from_the_release_is_named(release, tmp_path, name):
    index = {**INDEX, "weight_map": {n: file for n, file in INDEX["weight_map"].items() if n != name}}
    (release / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=name):
        convert(release, tmp_path / "dst", DRY)
