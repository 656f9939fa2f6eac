"""Experts that are not quantised: kept so with `--set experts=bf16`, run, read from MLX folders, and made MXFP4."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import load_model, plan
from mlx_oss.backend import device
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
from mlx_oss.weights import mxfp4
from mlx_oss.weights.layouts.checkpoint import open_checkpoint
from tests.convert.test_lossless import array, contents
from tests.synthetic import TINY, hf_config, write_checkpoint
from tests.test_loader import EVEN

TOKENS = mx.array([[5, 17, 250, 3, 9, 8, 7, 100, 200, 22, 11, 12]])
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
DENSE = ConvertOptions(overrides={"experts": "bf16"})
EXPERTS = [f"model.layers.{n}.mlp.experts.{name}" for n in range(TINY["num_hidden_layers"]) for name in PROJECTIONS]


def logits(folder: Path, **options) -> np.ndarray:
    return np.array(load_model(folder, dtype="float32", **options)(TOKENS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The same model: a fine-tune's checkpoint (bf16), and MLX folders with MXFP4 and with dense experts."""
    root = tmp_path_factory.mktemp("experts")
    source = write_checkpoint(root / "bf16", seed=4, layout="bf16")
    convert(source, root / "mxfp4")
    convert(source, root / "dense", DENSE)
    return {name: root / name for name in ("bf16", "mxfp4", "dense")}


def tuned(folder: Path, share: float = 0.1, dims: dict = TINY) -> Path:
    """A fine-tune whose experts are not MXFP4's values."""
    write_checkpoint(folder, dims, seed=4, layout="bf16")
    tensors = mx.load(str(folder / "model.safetensors"))
    for n, (name, tensor) in enumerate(sorted(tensors.items())):
        if name.endswith(("gate_up_proj", "down_proj")):
            noise = mx.random.normal(tensor.shape, key=mx.random.key(n)) * share * tensor.astype(mx.float32).std()
            tensors[name] = (tensor + noise).astype(mx.bfloat16)
    mx.eval(tensors)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


@pytest.mark.parametrize("layout", ["hf", "bf16", "original", "metal"])
def test_dense_experts_have_the_values_of_the_source_in_every_layout(folders, tmp_path, layout):
    source = write_checkpoint(tmp_path / "src", seed=4, layout=layout)
    report = convert(source, tmp_path / "dst", ConvertOptions(overrides={"experts": "bf16"}, verify=True))
    assert report.errors == report.losses == {}
    assert contents(tmp_path / "dst") == contents(folders["dense"])
    packed, dense = contents(folders["mxfp4"]), contents(tmp_path / "dst")
    for path in EXPERTS:
        scales = array(packed[f"{path}.scales"])
        blocks = array(packed[f"{path}.weight"]).view("u1").reshape(*scales.shape, 16)
        np.testing.assert_array_equal(array(dense[f"{path}.weight"]), mxfp4.dequantize(blocks, scales))
    assert "quantization" not in json.loads((tmp_path / "dst" / "config.json").read_text())
    verify(tmp_path / "dst")


def test_every_bit_of_a_fine_tune_is_kept(tmp_path):
    source = tuned(tmp_path / "src")
    report = convert(source, tmp_path / "dst", DENSE)
    before, after = contents(source), contents(tmp_path / "dst")
    for layer in range(TINY["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate_up = array(before[prefix + "gate_up_proj"]).swapaxes(1, 2)
        np.testing.assert_array_equal(array(after[prefix + "gate_proj.weight"]), gate_up[:, 0::2])
        np.testing.assert_array_equal(array(after[prefix + "up_proj.weight"]), gate_up[:, 1::2])
        down = array(before[prefix + "down_proj"]).swapaxes(1, 2)
        np.testing.assert_array_equal(array(after[prefix + "down_proj.weight"]), down)
    assert report.errors == {}


def test_dense_experts_answer_as_mxfp4_with_the_same_values(folders):
    wanted, ours = logits(folders["mxfp4"]), logits(folders["dense"])
    assert np.abs(ours - wanted).max() < 1e-5
    assert load_model(folders["dense"]).fingerprint == load_model(folders["mxfp4"]).fingerprint


@pytest.mark.parametrize("slots", [3, 5])
def test_dense_experts_can_stay_on_disk(folders, slots):
    np.testing.assert_array_equal(logits(folders["dense"], slots=slots), logits(folders["dense"]))


def test_a_plan_counts_dense_experts_and_what_mxfp4_would_save(folders):
    packed, dense = (plan(folders[name], context=64, dtype="bfloat16") for name in ("mxfp4", "dense"))
    values = 3 * TINY["num_hidden_layers"] * TINY["num_local_experts"] * TINY["hidden_size"] * TINY["intermediate_size"]
    assert dense.weights["experts"] - packed.weights["experts"] == values * 2 - values * 17 // 32
    assert {name: size for name, size in dense.weights.items() if name != "experts"} == {
        name: size for name, size in packed.weights.items() if name != "experts"
    }


def test_a_plan_offers_a_profile_that_fits_because_it_makes_the_experts_mxfp4(tmp_path):
    convert(write_checkpoint(tmp_path / "src", EVEN, layout="bf16"), tmp_path / "dense", DENSE)
    convert(tmp_path / "src", tmp_path / "q8", ConvertOptions("q8"))
    least = plan(tmp_path / "q8", context=64, dtype="bfloat16").peak_bytes
    tight = plan(tmp_path / "dense", memory=least + 20_000, context=64, dtype="bfloat16")
    assert tight.slots is not None and tight.profile == "q8"


@pytest.mark.parametrize("layout", ["bf16", "hf", "original", "metal"])
@pytest.mark.parametrize(
    ("pattern", "dense"),
    [
        ("layers.1.mlp.experts", [path for path in EXPERTS if ".1." in path]),
        ("experts.down_proj", [path for path in EXPERTS if path.endswith("down_proj")]),
        ("experts.up_proj", [path for path in EXPERTS if path.endswith("up_proj")]),
        ("layers.1.mlp", []),
        ("layers.*", []),
    ],
)
def test_some_experts_are_dense_and_others_mxfp4(folders, tmp_path, layout, pattern, dense):
    source = write_checkpoint(tmp_path / "src", seed=4, layout=layout)
    convert(source, tmp_path / "dst", ConvertOptions(overrides={pattern: "bf16"}, verify=True))
    opened, made = open_checkpoint(tmp_path / "dst"), contents(tmp_path / "dst")
    assert [path for path in EXPERTS if opened.specs[path] is None] == dense
    for path in EXPERTS:
        wanted = contents(folders["dense" if path in dense else "mxfp4"])
        assert made[f"{path}.weight"] == wanted[f"{path}.weight"]
    assert np.abs(logits(tmp_path / "dst") - logits(folders["mxfp4"])).max() < 1e-5


def test_an_mlx_folder_with_dense_experts_becomes_what_its_source_becomes(tmp_path):
    source = tuned(tmp_path / "src")
    convert(source, tmp_path / "dense", DENSE)
    direct = convert(source, tmp_path / "direct")
    report = convert(tmp_path / "dense", tmp_path / "mxfp4", ConvertOptions(verify=True))
    assert contents(tmp_path / "mxfp4") == contents(tmp_path / "direct")
    assert report.errors.keys() == direct.errors.keys() == {f"{path}.weight" for path in EXPERTS}
    assert list(report.errors.values()) == pytest.approx(list(direct.errors.values()), rel=1e-5)
    assert set(report.losses.values()) == {"quantised"}
    convert(tmp_path / "dense", tmp_path / "again", DENSE)
    assert contents(tmp_path / "again") == contents(tmp_path / "dense")


def test_experts_become_affine_in_no_way_but_from_affine_to_mxfp4(folders, tmp_path):
    """Affine experts, as mlx-lm may write them, stay as they are unless MXFP4 or bf16 is asked for."""
    config, tensors = json.loads((folders["dense"] / "config.json").read_text()), {}
    for file in folders["dense"].glob("*.safetensors"):
        tensors |= mx.load(str(file))
    for path in EXPERTS:
        parts = mx.quantize(tensors[f"{path}.weight"], 32, 8)
        tensors |= dict(zip((f"{path}.{suffix}" for suffix in ("weight", "scales", "biases")), parts, strict=True))
    (tmp_path / "src").mkdir()
    affine = {"group_size": 32, "bits": 8, "mode": "affine"}
    (tmp_path / "src" / "config.json").write_text(json.dumps(config | {"quantization": affine}))
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    for name, how in (("mxfp4", "requantised"), ("bf16", "dequantised")):
        report = convert(tmp_path / "src", tmp_path / name, ConvertOptions(overrides={"experts": name}, verify=True))
        assert report.losses == {f"{path}.weight": how for path in EXPERTS}
        assert all(0 < error < 0.1 for error in report.errors.values())
    report = convert(tmp_path / "src", tmp_path / "same")
    assert report.errors == {} and contents(tmp_path / "same") == contents(tmp_path / "src")


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_dense_experts_of_other_floats_are_rounded_and_that_is_told(tmp_path, dtype):
    source = tuned(tmp_path / "src")
    tensors = mx.load(str(source / "model.safetensors"))
    for name, tensor in tensors.items():
        if name.endswith("down_proj"):
            noise = mx.random.uniform(0.999, 1.001, tensor.shape, key=mx.random.key(1))
            tensors[name] = (tensor * noise).astype(dtype)
    mx.eval(tensors)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    dense = convert(source, tmp_path / "dense", DENSE)
    assert dense.losses == {f"{path}.weight": "rounded" for path in EXPERTS if path.endswith("down_proj")}
    assert all(0.0005 < error < 0.003 for error in dense.errors.values())
    packed = convert(source, tmp_path / "packed")
    path = EXPERTS[-1]
    wanted = np.array(tensors[path].astype(mx.float32)).swapaxes(1, 2)
    made = contents(tmp_path / "packed")
    scales = array(made[f"{path}.scales"])
    stored = mxfp4.dequantize(array(made[f"{path}.weight"]).view("u1").reshape(*scales.shape, 16), scales)
    error = np.linalg.norm(wanted - stored) / np.linalg.norm(wanted)
    assert packed.errors[f"{path}.weight"] == pytest.approx(error, rel=2e-3)


@pytest.mark.parity
def test_mlx_lm_answers_alike_from_the_same_folder(folders):
    utils = pytest.importorskip("mlx_lm.utils")
    if device.on_gpu():
        pytest.skip("MLX's CPU backend multiplies gathered matrices in float32 only")
    theirs, _ = utils.load_model(folders["dense"])
    theirs.set_dtype(mx.float32)
    assert np.abs(np.array(theirs(TOKENS)) - logits(folders["dense"])).max() < 1e-3


@pytest.mark.parity
def test_a_folder_that_mlx_lm_fused_and_dequantised_is_loaded_and_converted(folders, tmp_path, capsys):
    """What `mlx_lm.fuse --dequantize` does: it dequantises the model, saves it, and leaves `quantization` out."""
    utils = pytest.importorskip("mlx_lm.utils")
    convert(write_checkpoint(tmp_path / "src", EVEN, seed=4), tmp_path / "mlx")
    model, config = utils.load_model(tmp_path / "mlx")
    model = utils.dequantize_model(model)
    utils.save_model(tmp_path / "fused", model)
    config = {key: value for key, value in config.items() if key not in ("quantization", "quantization_config")}
    utils.save_config(config, tmp_path / "fused" / "config.json")
    assert np.abs(logits(tmp_path / "fused") - logits(tmp_path / "mlx")).max() < 1e-5
    assert main([str(tmp_path / "fused"), str(tmp_path / "dst"), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "quantised: 6 tensors, relative error 0.00% on average" in shown
    packed, made = contents(tmp_path / "mlx"), contents(tmp_path / "dst")
    for name, tensor in made.items():
        if ".experts." in name:
            assert tensor == packed[name]
    assert np.abs(logits(tmp_path / "dst") - logits(tmp_path / "mlx")).max() < 1e-5


def test_the_config_of_a_folder_without_quantisation_has_no_entry(tmp_path):
    source = write_checkpoint(tmp_path / "src", seed=4)
    (source / "config.json").write_text(json.dumps(hf_config(TINY) | {"quantization": None}))
    convert(source, tmp_path / "dst", DENSE)
    assert "quantization" not in json.loads((tmp_path / "dst" / "config.json").read_text())
