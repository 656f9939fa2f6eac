"""Fine-tunes in bfloat16, quantised modules outside the experts, and MLX folders as input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_oss.config import ModelConfig, QuantizationSpec
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
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
        ("bf16", {"experts": "q8"}, "experts are stored as mxfp4 or bf16"),
        ("bf16", {"layers.0.mlp.experts": "q4"}, "experts are stored as mxfp4 or bf16"),
        ("bf16", {"lm_head": "mxfp4"}, "only experts are stored as mxfp4"),
        ("mxfp4", {}, "'mxfp4'|only experts"),
        ("bf16", {"expert": "bf16"}, "experts"),
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
    scales, biases = (mx.array(array(packed[f"lm_head.{part}"])) for part in ("scales", "biases"))
    wanted = mx.dequantize(weight, scales, biases, 64, 8, stream=mx.cpu).astype(mx.bfloat16).astype(mx.float32)
    np.testing.assert_array_equal(array(restored["lm_head.weight"]), np.array(wanted))
    made(tmp_path / "q8", tmp_path / "q4", "q4")
    made(tmp_path / "back", tmp_path / "q4 in two steps", "q4")
    assert contents(tmp_path / "q4")["lm_head.weight"] == contents(tmp_path / "q4 in two steps")["lm_head.weight"]


@pytest.mark.parametrize(("mode", "size", "bits"), [("affine", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)])
def test_experts_in_another_quantisation_stay_as_they_are_and_other_modules_become_any_profile(
    lossless, tmp_path, mode, size, bits
):
    """As mlx-lm may write them. What is dequantised has the values that MLX gives it, rounded once."""
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
    parts = [part.astype(mx.float32) if part.dtype == mx.bfloat16 else part for part in parts]
    wanted = mx.dequantize(*parts, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
    wanted = wanted.astype(mx.bfloat16).astype(mx.float32)
    np.testing.assert_array_equal(array(after["lm_head.weight"]), np.array(wanted))
    verify(tmp_path / "dst", tmp_path / "src")


def exact(folder: Path, path: str, spec: QuantizationSpec) -> np.ndarray:
    """The values of an affine module, by the formula."""
    stored = contents(folder)
    weight, scales, biases = (array(stored[f"{path}.{part}"]) for part in ("weight", "scales", "biases"))
    values = weight.view("u1") if spec.bits == 8 else np.stack([weight.view("u1") & 15, weight.view("u1") >> 4], -1)
    groups = values.reshape(*scales.shape, spec.group_size).astype(np.float64)
    return (groups * scales[..., None].astype(np.float64) + biases[..., None]).reshape(len(weight), -1)


def relative(values: np.ndarray, stored: np.ndarray) -> float:
    return float(np.linalg.norm(values - stored) / np.linalg.norm(values))


@pytest.fixture(scope="module")
def q8(source) -> Path:
    convert(source, source.parent / "q8", ConvertOptions("q8"))
    return source.parent / "q8"


def test_without_a_profile_an_mlx_folder_stays_as_it_is(q8, tmp_path, capsys):
    report = convert(q8, tmp_path / "dst", ConvertOptions(verify=True))
    assert contents(tmp_path / "dst") == contents(q8) and report.errors == report.losses == {}
    assert (tmp_path / "dst" / "config.json").read_bytes() == (q8 / "config.json").read_bytes()
    assert main([str(q8), str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    assert "quantised" not in shown and "rounded" not in shown


def test_a_router_of_few_bits_stays_but_is_not_made(source, q8, tmp_path):
    """mlx-lm's own conversions may have it."""
    config = json.loads((q8 / "config.json").read_text())
    tensors = {name: tensor for file in q8.glob("*.safetensors") for name, tensor in mx.load(str(file)).items()}
    router = "model.layers.0.mlp.router"
    values = mx.array(array(contents(source)[f"{router}.weight"])).astype(mx.bfloat16)
    tensors |= dict(
        zip((f"{router}.{part}" for part in ("weight", "scales", "biases")), mx.quantize(values, 64, 4), strict=True)
    )
    config["quantization"][router] = {"group_size": 64, "bits": 4}
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    report = convert(tmp_path / "src", tmp_path / "dst", ConvertOptions(overrides={"lm_head": "q4"}, verify=True))
    assert open_checkpoint(tmp_path / "dst").specs[router] == Q4
    assert report.losses == {"lm_head.weight": "requantised"}


def test_what_dequantising_loses_is_told(q8, tmp_path, capsys):
    report = convert(q8, tmp_path / "one", ConvertOptions(overrides={"lm_head": "bf16"}))
    assert report.losses == {"lm_head.weight": "dequantised"} and report.errors.keys() == report.losses.keys()
    stored = array(contents(tmp_path / "one")["lm_head.weight"])
    assert report.errors["lm_head.weight"] == pytest.approx(relative(exact(q8, "lm_head", Q8), stored), rel=1e-3)
    assert main([str(q8), str(tmp_path / "all"), "--profile", "bf16"]) == 0
    modules = len([name for name in contents(q8) if name.endswith(".biases")])
    assert f"dequantised to bfloat16: {modules} tensors, relative error 0.1" in capsys.readouterr().out


def test_what_quantising_again_loses_is_told_against_what_was_stored(q8, tmp_path, capsys):
    report = convert(q8, tmp_path / "one", ConvertOptions(overrides={"lm_head": "q4", "k_proj": "q4"}))
    assert set(report.losses.values()) == {"requantised"} and len(report.losses) == 3
    for path in ("lm_head", "model.layers.1.self_attn.k_proj"):
        error = relative(exact(q8, path, Q8), exact(tmp_path / "one", path, Q4))
        assert report.errors[f"{path}.weight"] == pytest.approx(error, rel=0.01)
    assert main([str(q8), str(tmp_path / "all"), "--profile", "q4"]) == 0
    assert "dequantised and quantised again: " in capsys.readouterr().out


def test_a_dry_run_tells_what_would_lose(q8, tmp_path, capsys):
    assert main([str(q8), str(tmp_path / "dst"), "--set", "lm_head=bf16", "--dry-run"]) == 0
    assert "dequantised to bfloat16: 1 tensor\n" in capsys.readouterr().out


@pytest.mark.parity
def test_mlx_lm_loads_a_mixed_profile(source, tmp_path):
    utils = pytest.importorskip("mlx_lm.utils")
    made(source, tmp_path / "dst", "q4", self_attn="q8", lm_head="bf16")
    model, _ = utils.load_model(tmp_path / "dst")
    released, _ = utils.load_model(source)
    tokens = mx.array([[5, 17, 250, 3]])
    ours, theirs = (np.array(m(tokens).astype(mx.float32)) for m in (model, released))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9
