"""LoRA adapters added while converting: against NumPy in float64, and against mlx-lm's own fuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_oss.config import ModelConfig
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.errors import CheckpointError, ConfigError
from mlx_oss.weights.names import is_expert, modules
from mlx_oss.weights.safetensors import read_folder

RANK = 7
TARGETS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.router", "lm_head")


def shapes(source: Path) -> dict[str, tuple[int, int]]:
    """The modules that the adapters of these tests change."""
    config = ModelConfig.from_file(source / "config.json")
    found = {path: shape for path, shape, _ in modules(config) if not is_expert(path)}
    return {path: shape for path, shape in found.items() if path.endswith(TARGETS)}


def write_peft(folder: Path, changed: dict[str, tuple[int, int]], **settings: object) -> dict[str, np.ndarray]:
    """Writes an adapter as PEFT does. Returns what it adds, in float64."""
    rng = np.random.default_rng(3)
    tensors, products = {}, {}
    for path, (rows, columns) in changed.items():
        a, b = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((RANK, columns), (rows, RANK)))
        tensors[f"base_model.model.{path}.lora_A.weight"], tensors[f"base_model.model.{path}.lora_B.weight"] = a, b
        products[path] = b.astype(np.float64) @ a
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 14,
        "bias": "none",
        "base_model_name_or_path": "x",
    } | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return products


def values(folder: Path, name: str) -> np.ndarray:
    tensor = read_folder(folder)[name]
    data = tensor.file.read_bytes()[tensor.start : tensor.end]
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)


@pytest.fixture
def source(release) -> Path:
    return release("tiny", "hf")


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 14 / RANK**0.5),
        ({"alpha_pattern": {"q_proj": 7, "mlp.router": 21}}, None),
        ({"fan_in_fan_out": False, "rank_pattern": {"q_proj": RANK}}, 2.0),
    ],
)
def test_a_pefts_adapter_is_added_with_its_scale(source, tmp_path, settings, scale):
    added = write_peft(tmp_path / "adapter", shapes(source), **settings)
    report = convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter", verify=True))
    for path, product in added.items():
        factor = scale or {"q_proj": 1.0, "router": 3.0}.get(path.rpartition(".")[2], 2.0)
        expected = values(source, f"{path}.weight") + factor * product
        assert np.abs(values(tmp_path / "mlx", f"{path}.weight") / expected - 1).max() < 2**-8
        assert report.losses[f"{path}.weight"] == "merged" and 0 < report.errors[f"{path}.weight"] < 2**-8
    assert set(report.losses) == {f"{path}.weight" for path in added}


def test_everything_else_is_as_without_the_adapter(source, tmp_path):
    changed = dict(list(shapes(source).items())[:2])
    write_peft(tmp_path / "adapter", changed)
    convert(source, tmp_path / "with", ConvertOptions(adapter=tmp_path / "adapter"))
    convert(source, tmp_path / "without")
    for name, tensor in read_folder(tmp_path / "without").items():
        other = read_folder(tmp_path / "with")[name]
        same = tensor.file.read_bytes()[tensor.start : tensor.end] == other.file.read_bytes()[other.start : other.end]
        assert same == (name.removesuffix(".weight") not in changed), name


@pytest.mark.parametrize("layout", ["hf_sharded", "original", "metal"])
def test_every_layout_gives_the_same_folder(release, source, tmp_path, layout):
    write_peft(tmp_path / "adapter", shapes(source))
    for name, path in (("one", source), ("two", release("tiny", layout))):
        convert(path, tmp_path / name, ConvertOptions(adapter=tmp_path / "adapter"))
    one, two = (read_folder(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        data, other = (t.file.read_bytes()[t.start : t.end] for t in (tensor, two[name]))
        assert data[: len(other)] == other[: len(data)], name


def test_a_profile_quantises_the_merged_values(release, tmp_path):
    source = release("heads as released", "hf")
    write_peft(tmp_path / "adapter", shapes(source))
    convert(source, tmp_path / "merged", ConvertOptions(adapter=tmp_path / "adapter"))
    convert(tmp_path / "merged", tmp_path / "two steps", ConvertOptions(profile="q8"))
    convert(source, tmp_path / "one step", ConvertOptions(profile="q8", adapter=tmp_path / "adapter"))
    two = {name: t.file.read_bytes()[t.start : t.end] for name, t in read_folder(tmp_path / "two steps").items()}
    one = {name: t.file.read_bytes()[t.start : t.end] for name, t in read_folder(tmp_path / "one step").items()}
    assert one == two


def test_verifying_needs_the_adapter(source, tmp_path):
    write_peft(tmp_path / "adapter", shapes(source))
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))
    verify(tmp_path / "mlx", source, adapter=tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="differs"):
        verify(tmp_path / "mlx", source)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_mlx_lm_adapter_is_added_as_mlx_lm_fuses_it(folder, tmp_path, kind):
    mlx_lm = pytest.importorskip("mlx_lm.utils")
    import mlx.core as mx
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import save_model

    mx.random.seed(1)
    model, _ = mlx_lm.load_model(folder("tiny"))
    parameters = {
        "rank": RANK,
        "scale": 3.0,
        "dropout": 0.0,
        "keys": ["self_attn.q_proj", "self_attn.v_proj", "mlp.router"],
    }
    model.freeze()
    linear_to_lora_layers(model, 2, parameters, use_dora=kind == "dora")
    from mlx.utils import tree_flatten, tree_map

    factors = tree_map(
        lambda value: mx.random.normal(value.shape, scale=0.3) + (value if value.ndim == 1 else 0),
        model.trainable_parameters(),
    )
    model.update(factors)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    settings = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": parameters, "model": "x"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    fused = [(name, module.fuse()) for name, module in model.named_modules() if hasattr(module, "fuse")]
    from mlx.utils import tree_unflatten

    model.update_modules(tree_unflatten(fused))
    save_model(tmp_path / "fused", model)
    report = convert(folder("tiny"), tmp_path / "mlx", ConvertOptions(adapter=adapter))
    assert len(report.losses) == len(fused) > 3
    theirs_of = {
        name: array for file in (tmp_path / "fused").glob("*.safetensors") for name, array in mx.load(str(file)).items()
    }
    for name in report.losses:  # mlx-lm computes in bfloat16, and for DoRA divides by a norm in bfloat16
        ours, theirs = values(tmp_path / "mlx", name), np.array(theirs_of[name].astype(mx.float32))
        assert np.abs(ours - theirs).max() <= (2**-6 if kind == "dora" else 2**-7) * np.abs(theirs).max()


def _damage(folder: Path, how: str) -> None:
    tensors = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((RANK, 96), np.float32)}
    good = {"base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": np.zeros((240, RANK), np.float32)}
    settings: dict[str, object] = {"peft_type": "LORA", "lora_alpha": 4}
    match how:
        case "no lora_B":
            good = {}
        case "experts":
            good["base_model.model.model.layers.0.mlp.experts.gate_up_proj.lora_A.weight"] = np.zeros(
                (1, 1), np.float32
            )
        case "no module":
            good["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = np.zeros((1, 1), np.float32)
        case "saved module":
            good["base_model.model.lm_head.weight"] = np.zeros((1, 1), np.float32)
        case "shapes":
            good = {name: np.zeros((241, RANK), np.float32) for name in good}
        case "NaN":
            good = {name: np.full((240, RANK), np.nan, np.float32) for name in good}
        case "integers":
            good = {name: np.zeros((240, RANK), np.int32) for name in good}
        case "no alpha":
            settings = {"peft_type": "LORA"}
        case "infinite alpha":
            settings["lora_alpha"] = float("inf")
        case "DoRA":
            settings["use_dora"] = True
            good |= {name.replace(".lora_A", ".lora_B"): np.zeros((240, RANK), np.float32) for name in tensors}
        case "other method":
            settings["peft_type"] = "IA3"
        case "empty":
            tensors, good = {}, {}
    save_file(tensors | good, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("no lora_B", "q_proj has no lora_B"),
        ("experts", "changes experts, which are stored in MXFP4"),
        ("no module", "is no LoRA factor of a module"),
        ("saved module", r"is F32 of the shape \(1, 1\), but that of the model"),
        ("shapes", r"do not make \(240, 96\)"),
        ("NaN", "holds NaN or infinity"),
        ("integers", "is I32, expected"),
        ("no alpha", "lora_alpha is no number"),
        ("infinite alpha", "lora_alpha is no number"),
        ("DoRA", "has no lengths for DoRA: use an adapter whose saving has finished"),
        ("other method", "is 'IA3'"),
        ("empty", "is empty"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_is_written(source, tmp_path, how, expected):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    _damage(adapter, how)
    with pytest.raises((CheckpointError, ConfigError), match=expected):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


def test_a_folder_without_an_adapter_and_a_command_line(source, tmp_path, capsys):
    from mlx_oss.cli import main

    with pytest.raises(CheckpointError, match="holds no adapter"):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=source))
    write_peft(tmp_path / "adapter", shapes(source))
    arguments = ["convert", str(source), str(tmp_path / "mlx"), "--adapter", str(tmp_path / "adapter")]
    assert main(arguments) == 0 and "merged with the adapter" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "mlx"), "--source", str(source), "--adapter", str(tmp_path / "adapter")]) == 0
    shutil.rmtree(tmp_path / "mlx")
    assert main([*arguments[:-1], str(tmp_path / "nowhere")]) == 2
