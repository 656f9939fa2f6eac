"""Fine-tunes in bfloat16, quantised modules outside the experts, and MLX folders as input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_oss.config import ModelConfig, QuantizationSpec
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.errors import OptionError
from mlx_oss.weights import mxfp4
from mlx_oss.weights.layouts.checkpoint import open_checkpoint
from tests.convert.test_lossless import array, contents
from tests.synthetic import TINY, write_checkpoint

mx = pytest.importorskip("mlx.core")

# Every input dimension is a multiple of 64, the group size of affine quantisation.
DIMS = TINY | {"hidden_size": 192, "head_dim": 64, "num_hidden_layers": 2}
Q8, Q4 = QuantizationSpec(64, 8), QuantizationSpec(64, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("profiles") / "src", DIMS, seed=3)


@pytest.fixture(scope="module")
def lossless(source) -> Path:
    convert(source, source.parent / "bf16")
    return source.parent / "bf16"


def made(source: Path, target: Path, profile: str, **overrides: str) -> ModelConfig:
    convert(source, target, ConvertOptions(profile, overrides))
    return ModelConfig.from_file(target / "config.json")


def spec(config: ModelConfig, folder: Path, path: str) -> QuantizationSpec | None:
    assert config.quantization is not None
    return open_checkpoint(folder).specs[path]


def test_fine_tune_with_mxfp4_values_gives_the_released_bits(tmp_path):
    for layout in ("hf", "bf16"):
        write_checkpoint(tmp_path / layout, seed=4, layout=layout)
        report = convert(tmp_path / layout, tmp_path / f"{layout}-mlx")
    assert contents(tmp_path / "hf-mlx") == contents(tmp_path / "bf16-mlx")
    assert len(report.errors) == 3 * TINY["num_hidden_layers"]
    assert set(report.errors.values()) == {0.0}


def test_fine_tune_is_quantised_by_the_ocp_rules_and_its_error_told(tmp_path):
    source = write_checkpoint(tmp_path / "src", seed=4, layout="bf16")
    prefix = "model.layers.1.mlp.experts."
    data = contents(source)[prefix + "gate_up_proj"]
    moved = np.frombuffer(data[2], "<u2") ^ np.random.default_rng(0).integers(0, 0x80, len(data[2]) // 2, "<u2")
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(data[2], moved.tobytes()))
    report = convert(source, tmp_path / "dst")
    values = array(("BF16", data[1], moved.tobytes())).swapaxes(1, 2)
    result = contents(tmp_path / "dst")
    for name, rows in (("gate_proj", values[:, 0::2]), ("up_proj", values[:, 1::2])):
        blocks, scales = mxfp4.quantize(rows)
        assert result[f"{prefix}{name}.weight"][2] == blocks.tobytes()
        assert result[f"{prefix}{name}.scales"][2] == scales.tobytes()
        error = np.linalg.norm(rows - mxfp4.dequantize(blocks, scales)) / np.linalg.norm(rows)
        assert report.errors[f"{prefix}{name}.weight"] == pytest.approx(error, rel=1e-4)
        assert 0.02 < error < 0.2


@pytest.mark.parametrize(("profile", "wanted"), [("q8", Q8), ("q4", Q4)])
def test_profile_covers_all_but_experts_norms_and_the_router(source, lossless, tmp_path, profile, wanted):
    config = made(source, tmp_path / "dst", profile)
    lossless_tensors, tensors = contents(lossless), contents(tmp_path / "dst")
    for path in ("model.embed_tokens", "lm_head", "model.layers.1.self_attn.o_proj", "model.layers.0.mlp.router"):
        assert spec(config, tmp_path / "dst", path) == (Q8 if path.endswith("router") else wanted)
    for name in lossless_tensors:
        if ".experts." in name or "norm" in name or name.endswith((".bias", "sinks")):
            assert tensors[name] == lossless_tensors[name]


def test_affine_parts_are_mlx_s_own(source, lossless, tmp_path):
    made(source, tmp_path / "dst", "q4")
    lossless_tensors, tensors = contents(lossless), contents(tmp_path / "dst")
    for path in ("lm_head", "model.layers.1.self_attn.k_proj"):
        values = mx.array(array(lossless_tensors[f"{path}.weight"])).astype(mx.bfloat16)
        parts = mx.quantize(values, 64, 4, stream=mx.cpu)
        for part, wanted in zip(("weight", "scales", "biases"), parts, strict=True):
            raw = wanted if part == "weight" else wanted.view(mx.uint16)
            assert tensors[f"{path}.{part}"][2] == np.array(raw).tobytes()


def test_more_bits_lose_less_and_the_report_says_how_much(source, tmp_path):
    errors = {
        profile: convert(source, tmp_path / profile, ConvertOptions(profile)).errors for profile in ("bf16", "q8", "q4")
    }
    assert errors["bf16"] == {}
    assert errors["q8"].keys() == errors["q4"].keys()
    for name, error in errors["q4"].items():
        assert 0 < errors["q8"][name] < 0.01
        assert error > 10 * errors["q8"][name] or "router" in name


def test_last_matching_override_counts(source, tmp_path):
    overrides = {"self_attn": "q4", "layers.1.self_attn.?_proj": "q8", "lm_head": "bf16"}
    config = made(source, tmp_path / "dst", "q8", **overrides)
    found = {path: spec(config, tmp_path / "dst", path) for path in ("lm_head", "model.embed_tokens")}
    assert found == {"lm_head": None, "model.embed_tokens": Q8}
    for layer, wanted in enumerate((Q4, Q8)):
        assert spec(config, tmp_path / "dst", f"model.layers.{layer}.self_attn.v_proj") == wanted


@pytest.mark.parametrize(
    ("profile", "overrides", "words"),
    [
        ("q3", {}, "q3"),
        ("bf16", {"self_attn": "q5"}, "q5"),
        ("bf16", {"attention": "q8"}, "attention"),
        ("bf16", {"experts": "q8"}, "experts stay MXFP4"),
        ("bf16", {"router": "q4"}, "router"),
    ],
)
def test_impossible_profile_is_refused(source, tmp_path, profile, overrides, words):
    with pytest.raises(OptionError, match=words):
        convert(source, tmp_path / "dst", ConvertOptions(profile, overrides))
    assert not any(tmp_path.iterdir())


def test_module_whose_columns_do_not_divide_is_refused(tmp_path):
    source = write_checkpoint(tmp_path / "src")
    with pytest.raises(OptionError, match=r"model.embed_tokens has 96 columns"):
        convert(source, tmp_path / "dst", ConvertOptions("q8"))


def test_mlx_folder_changes_its_profile_as_the_release_would(source, lossless, tmp_path):
    made(source, tmp_path / "direct", "q4", lm_head="q8")
    made(lossless, tmp_path / "again", "q4", lm_head="q8")
    assert contents(tmp_path / "again") == contents(tmp_path / "direct")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("direct", "again")]
    assert configs[0] == configs[1]
    made(tmp_path / "direct", tmp_path / "same", "q4", lm_head="q8")
    assert contents(tmp_path / "same") == contents(tmp_path / "direct")


def test_affine_folder_is_dequantised_for_another_profile(source, lossless, tmp_path):
    made(source, tmp_path / "q8", "q8")
    made(tmp_path / "q8", tmp_path / "back", "bf16")
    original, restored, packed = (contents(folder) for folder in (lossless, tmp_path / "back", tmp_path / "q8"))
    shapes = [{name: tensor[:2] for name, tensor in tensors.items()} for tensors in (original, restored)]
    assert shapes[0] == shapes[1]
    weight = mx.array(array(packed["lm_head.weight"]))
    scales, biases = (mx.array(array(packed[f"lm_head.{part}"])).astype(mx.bfloat16) for part in ("scales", "biases"))
    wanted = mx.dequantize(weight, scales, biases, 64, 8, stream=mx.cpu).astype(mx.float32)
    np.testing.assert_array_equal(array(restored["lm_head.weight"]), np.array(wanted))
    made(tmp_path / "q8", tmp_path / "q4", "q4")
    made(tmp_path / "back", tmp_path / "q4 in two steps", "q4")
    assert contents(tmp_path / "q4")["lm_head.weight"] == contents(tmp_path / "q4 in two steps")["lm_head.weight"]


@pytest.mark.parametrize(("mode", "size", "bits"), [("affine", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)])
def test_experts_in_another_quantisation_stay_as_they_are_and_other_modules_become_any_profile(
    lossless, tmp_path, mode, size, bits
):
    """As mlx-lm may write them. What is dequantised has the values that MLX gives it."""
    config, how = json.loads((lossless / "config.json").read_text()), {"group_size": size, "bits": bits, "mode": mode}
    tensors = {name: array for file in lossless.glob("*.safetensors") for name, array in mx.load(str(file)).items()}
    experts = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    for path in [*experts, "lm_head", "model.layers.0.self_attn.k_proj"]:
        values = tensors[f"{path}.weight"]
        if path in experts:
            values = mx.dequantize(values, tensors[f"{path}.scales"], group_size=32, bits=4, mode="mxfp4")
        parts = mx.quantize(values.astype(mx.bfloat16), **how)
        tensors |= dict(zip((f"{path}.{suffix}" for suffix in ("weight", "scales", "biases")), parts, strict=False))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "config.json").write_text(json.dumps(config | {"quantization": how}))
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    convert(
        tmp_path / "src", tmp_path / "dst", ConvertOptions(overrides={"lm_head": "bf16", "k_proj": "q8"}, verify=True)
    )
    before, after = contents(tmp_path / "src"), contents(tmp_path / "dst")
    for path in experts:
        assert all(after[name] == tensor for name, tensor in before.items() if name.startswith(f"{path}."))
    opened = open_checkpoint(tmp_path / "dst")
    assert {opened.specs[path] for path in experts} == {QuantizationSpec(size, bits, mode)}
    assert (opened.specs["lm_head"], opened.specs["model.layers.0.self_attn.k_proj"]) == (None, Q8)
    parts = [
        tensors[f"lm_head.{suffix}"] for suffix in ("weight", "scales", "biases") if f"lm_head.{suffix}" in tensors
    ]
    wanted = mx.dequantize(*parts, group_size=size, bits=bits, mode=mode).astype(mx.float32)
    np.testing.assert_array_equal(array(after["lm_head.weight"]), np.array(wanted))
    verify(tmp_path / "dst", tmp_path / "src")


@pytest.mark.parity
def test_mlx_lm_loads_a_mixed_profile(source, tmp_path):
    utils = pytest.importorskip("mlx_lm.utils")
    made(source, tmp_path / "dst", "q4", self_attn="q8", lm_head="bf16")
    model, _ = utils.load_model(tmp_path / "dst")
    released, _ = utils.load_model(source)
    tokens = mx.array([[5, 17, 250, 3]])
    ours, theirs = (np.array(m(tokens).astype(mx.float32)) for m in (model, released))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
