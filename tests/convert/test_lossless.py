"""All released layouts become the same MLX folder, with every bit in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mlx_oss.config import ModelConfig, QuantizationSpec
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.weights import mxfp4, names
from mlx_oss.weights.safetensors import TensorInfo, read_folder
from tests.synthetic import TINY, tokenizer_json, write_checkpoint

MXFP4 = QuantizationSpec(32, 4, "mxfp4")
RELEASED = ("hf", "hf_sharded", "original", "original_sharded")


def raw(tensor: TensorInfo) -> bytes:
    return tensor.file.read_bytes()[tensor.start : tensor.end]


def contents(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {t.name: (t.dtype, t.shape, raw(t)) for t in read_folder(folder).values()}


def array(tensor: tuple[str, tuple[int, ...], bytes]) -> np.ndarray:
    """A stored tensor; bfloat16 as float32."""
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(data, {"U8": "u1", "U32": "<u4"}[dtype]).reshape(shape)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """(source, target) of the same model, by name of the source's layout."""
    root = tmp_path_factory.mktemp("lossless")
    made = {}
    for name in RELEASED:
        src = write_checkpoint(root / name, seed=7, layout=name)
        convert(src, root / f"{name}-mlx", ConvertOptions(shard_bytes=400_000))
        made[name] = src, root / f"{name}-mlx"
    return made


def test_the_safetensors_library_reads_the_shards_as_we_do(folders):
    target = folders["hf"][1]
    ours = {tensor.name: tensor for tensor in read_folder(target).values()}
    theirs = {}
    for file in sorted(target.glob("*.safetensors")):
        with safe_open(file, framework="np") as shard:
            slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118
            theirs |= {name: (file, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            for name in theirs.keys() & ours.keys():
                if ours[name].file == file and ours[name].dtype != "BF16":  # which NumPy cannot hold
                    assert np.array_equal(shard.get_tensor(name), array(contents(target)[name]))
    assert theirs == {name: (tensor.file, tensor.dtype, tensor.shape) for name, tensor in ours.items()}


@pytest.mark.parametrize("name", RELEASED[1:])
def test_every_layout_gives_the_same_bytes(folders, name):
    first, other = folders["hf"][1], folders[name][1]
    shards = sorted(path.name for path in first.glob("*.safetensors*"))
    assert len(shards) > 2
    assert shards == sorted(path.name for path in other.glob("*.safetensors*"))
    for file in shards:
        assert (first / file).read_bytes() == (other / file).read_bytes()


def test_folder_holds_exactly_what_the_layout_asks_for(folders):
    folder = folders["original"][1]
    config = ModelConfig.from_file(folder / "config.json")
    wanted = dict(names.plain_tensors(config))
    for path, shape, bias in names.modules(config):
        wanted |= names.stored_tensors(path, shape, bias, MXFP4 if names.is_expert(path) else None)
    assert {tensor.name: tensor.shape for tensor in read_folder(folder).values()} == wanted


def test_values_equal_the_dense_model(folders, tmp_path):
    dense = contents(write_checkpoint(tmp_path / "dense", seed=7, layout="bf16"))
    made = contents(folders["original"][1])
    for layer in range(TINY["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate_up = array(dense[prefix + "gate_up_proj"]).swapaxes(1, 2)
        wanted = {
            "gate_proj": gate_up[:, 0::2],
            "up_proj": gate_up[:, 1::2],
            "down_proj": array(dense[prefix + "down_proj"]).swapaxes(1, 2),
        }
        for name, values in wanted.items():
            words, scales = (array(made[f"{prefix}{name}.{part}"]) for part in ("weight", "scales"))
            np.testing.assert_array_equal(mxfp4.dequantize(words.view("u1").reshape(*scales.shape, 16), scales), values)
        bias = array(dense[prefix + "gate_up_proj_bias"])
        np.testing.assert_array_equal(array(made[prefix + "gate_proj.bias"]), bias[:, 0::2])
        np.testing.assert_array_equal(array(made[prefix + "up_proj.bias"]), bias[:, 1::2])


def test_everything_else_keeps_name_and_bytes(folders):
    source, made = (contents(folder) for folder in folders["hf"])
    kept = {
        name for name in source if "gate_up_proj" not in name and not name.endswith(("_blocks", "_scales", "_bias"))
    }
    assert len(kept) == 3 + 13 * TINY["num_hidden_layers"]
    assert all(made[name] == source[name] for name in kept)


def test_original_config_says_what_hugging_face_s_says(folders):
    configs = [ModelConfig.from_file(folders[name][1] / "config.json") for name in ("hf", "original")]
    assert configs[0] == configs[1]
    assert configs[0].rope_scaling is not None and not configs[0].rope_scaling.truncate


@pytest.mark.parametrize("key", ["architectures", "eos_token_id", "pad_token_id", "model_type", "layer_types"])
def test_original_config_carries_the_released_constants(folders, key):
    released, ours = (json.loads((folders[name][1] / "config.json").read_text()) for name in ("hf", "original"))
    assert ours[key] == released[key]


@pytest.mark.parametrize("name", ["hf", "original"])
def test_no_gap_and_every_tensor_aligned(folders, name):
    for tensor in read_folder(folders[name][1]).values():
        assert tensor.start % {"U32": 4, "BF16": 2, "U8": 1}[tensor.dtype] == 0


def test_release_s_files_come_along(tmp_path):
    src = write_checkpoint(tmp_path / "src")
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        (src / name).write_text(f'{{"name": "{name}"}}')
    (src / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (src / "README.md").write_text("not carried")
    convert(src, tmp_path / "dst")
    carried = {path.name for path in (tmp_path / "dst").iterdir()} & {path.name for path in src.iterdir()}
    assert carried == {"config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert (tmp_path / "dst" / "tokenizer.json").read_bytes() == (src / "tokenizer.json").read_bytes()


def test_lossless_conversion_does_without_mlx(tmp_path):
    write_checkpoint(tmp_path / "src")
    program = (
        "import sys; from mlx_oss.convert import convert; convert(*sys.argv[1:]); "
        "sys.exit(any(name.split('.')[0] in ('mlx', 'torch', 'rich') for name in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "src"), str(tmp_path / "dst")]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)


def test_progress_ends_with_everything_done(tmp_path):
    seen = []
    report = convert(write_checkpoint(tmp_path / "src"), tmp_path / "dst", progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[-1].done, seen[-1].shards_done) == (report.nbytes, report.shards)
    assert {p.total for p in seen} == {report.nbytes}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["hf", "original"])
def test_mlx_lm_loads_the_folder_like_the_release(folders, name):
    mx = pytest.importorskip("mlx.core")
    utils, tree = pytest.importorskip("mlx_lm.utils"), pytest.importorskip("mlx.utils")
    released, _ = utils.load_model(folders["hf"][0])
    ours, _ = utils.load_model(folders[name][1])
    ours_flat, released_flat = (dict(tree.tree_flatten(model.parameters())) for model in (ours, released))
    assert set(ours_flat) == set(released_flat)
    for key, value in released_flat.items():
        assert mx.array_equal(ours_flat[key], value), key
