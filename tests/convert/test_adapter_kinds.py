"""LoRA adapters of every kind that PEFT and mlx-lm write, in names and orientations as those programs save them.

What is expected was compared once with PEFT 0.21 (merge_and_unload), and is computed here by its formulas in NumPy.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError, ConfigError
from mlx_oss.loader import load_model
from tests.convert.test_adapters import RANK, shapes, values, write_peft
from tests.synthetic import TINY, write_checkpoint
from tests.weights.test_fine_tunes import read, saved

HEAD = {"lm_head.lora_A.weight": (4, 96), "lm_head.lora_B.weight": (300, 4)}
EVEN = TINY | {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 64}
Q_PROJ = {"model.layers.0.self_attn.q_proj": (240, 96), "model.layers.1.self_attn.q_proj": (240, 96)}


@pytest.fixture
def source(release) -> Path:
    return release("tiny", "hf")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(0, 0.3, shape).astype(np.float32)


def adapter_of(folder: Path, tensors: dict[str, np.ndarray], mlx: bool = False, **settings: object) -> Path:
    folder.mkdir()
    save_file(tensors, folder / ("adapters.safetensors" if mlx else "adapter_model.safetensors"))
    of_mlx = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": RANK, "scale": 2.0}}
    config = of_mlx if mlx else {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def merged(source: Path, adapter: Path, target: Path, name: str) -> np.ndarray:
    report = convert(source, target, ConvertOptions(adapter=adapter, verify=True))
    assert report.losses[name] == "merged"
    return values(target, name)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 2**-8 * np.abs(expected).max())


def test_peft_stores_the_factors_of_the_embedding_the_other_way_round(source, tmp_path):
    a, b, base = random(RANK, 300), random(96, RANK), random(300, 96)
    prefix = "base_model.model.model.embed_tokens."
    tensors = {f"{prefix}lora_embedding_A": a, f"{prefix}lora_embedding_B": b}
    alone = adapter_of(tmp_path / "alone", tensors)
    name = "model.embed_tokens.weight"
    assert close(merged(source, alone, tmp_path / "one", name), values(source, name) + 2 * (b @ a).T)
    with_base = adapter_of(tmp_path / "with base", tensors | {f"{prefix}base_layer.weight": base})
    assert close(merged(source, with_base, tmp_path / "two", name), base + 2 * (b @ a).T)


def test_the_unembedding_that_peft_saves_beside_its_factors_is_what_they_are_added_to(source, tmp_path):
    a, b, base = random(RANK, 96), random(300, RANK), random(300, 96)
    prefix = "base_model.model.lm_head."
    adapter = adapter_of(
        tmp_path / "adapter",
        {f"{prefix}lora_A.weight": a, f"{prefix}lora_B.weight": b, f"{prefix}base_layer.weight": base},
    )
    assert close(merged(source, adapter, tmp_path / "mlx", "lm_head.weight"), base + 2 * b @ a)


def test_mlx_lm_s_embedding_and_unembedding(source, tmp_path):
    rows, columns, down, up = random(300, RANK), random(RANK, 96), random(96, RANK), random(RANK, 300)
    tensors = {"model.embed_tokens.lora_a": rows, "model.embed_tokens.lora_b": columns}
    adapter = adapter_of(tmp_path / "adapter", tensors | {"lm_head.lora_a": down, "lm_head.lora_b": up}, mlx=True)
    name = "model.embed_tokens.weight"
    assert close(merged(source, adapter, tmp_path / "mlx", name), values(source, name) + 2 * rows @ columns)
    assert close(values(tmp_path / "mlx", "lm_head.weight"), values(source, "lm_head.weight") + 2 * (down @ up).T)


@pytest.mark.parametrize(
    ("patterns", "module", "settings", "alpha"),
    [
        ({"^model.layers.1.self_attn.q_proj": 3, "q_proj": 5}, 1, {}, 3),
        ({"^model.layers.1.self_attn.q_proj": 3, "q_proj": 5}, 0, {}, 5),
        ({"q_proj": 5, "layers.1.self_attn.q_proj": 3}, 1, {}, 5),
        ({r"layers\.1\.self_attn\.q_proj$": 3}, 1, {}, 3),
        ({r"layers\.\d+\.self_attn\.(q|k)_proj": 3}, 1, {}, 3),
        ({r"model\.layers\.[0].*": 3, ".*1.*q_proj": 5}, 1, {}, 5),
        ({r".*layers.{3,9}[pq]_?proj": 3}, 1, {}, 2 * RANK),
        ({"(a+)+": 3, "(?:.+_)?proj": 5}, 1, {}, 5),
        ({"_proj": 3, "self_attn": 3, "^layers.1.self_attn.q_proj": 3}, 1, {}, 2 * RANK),
    ],
)
def test_the_first_pattern_that_fits_as_peft_compares_it_gives_alpha(
    source, tmp_path, patterns, module, settings, alpha
):
    added = write_peft(tmp_path / "adapter", Q_PROJ, alpha_pattern=patterns, **settings)
    path = f"model.layers.{module}.self_attn.q_proj"
    found = merged(source, tmp_path / "adapter", tmp_path / "mlx", f"{path}.weight")
    assert close(found, values(source, f"{path}.weight") + alpha / RANK * added[path])


@pytest.mark.parametrize(("pattern", "alpha"), [("router", 2 * RANK), ("mlp.router.weight", 3)])
def test_peft_knows_the_router_by_its_parameter(source, tmp_path, pattern, alpha):
    path = "model.layers.1.mlp.router"
    settings = {"target_parameters": ["mlp.router.weight"], "alpha_pattern": {pattern: 3}}
    added = write_peft(tmp_path / "adapter", {path: (5, 96)}, **settings)
    found = merged(source, tmp_path / "adapter", tmp_path / "mlx", f"{path}.weight")
    assert close(found, values(source, f"{path}.weight") + alpha / RANK * added[path])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace("base_model.", "_orig_mod.module.base_model."),
        lambda name: name.replace(".lora_", "._fsdp_wrapped_module.lora_"),
        lambda name: name.replace(".mlp.router.", ".mlp.router.linear."),
        lambda name: name.replace(".weight", ".default.weight"),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
    ],
)
def test_what_wraps_modules_is_no_part_of_their_names(source, tmp_path, rename):
    changed = {path: shape for path, shape in shapes(source).items() if path.endswith(("q_proj", "router"))}
    write_peft(tmp_path / "adapter", changed)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    adapter = adapter_of(tmp_path / "renamed", {rename(name): array for name, array in tensors.items()})
    for target, path in (("one", tmp_path / "adapter"), ("two", adapter)):
        convert(source, tmp_path / target, ConvertOptions(adapter=path))
    one, two = (read(tmp_path / target) for target in ("one", "two"))
    assert all(mx.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_how_the_factors_were_started_does_not_matter_where_the_model_stayed_as_it_was(source, tmp_path, start):
    write_peft(tmp_path / "adapter", Q_PROJ, init_lora_weights=start)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter", dry_run=True))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"init_lora_weights": "pissa"}, "was started with 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "was started with 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "was started with 'olora'"),
        ({"init_lora_weights": "loftq"}, "was started with 'loftq'"),
        ({"init_lora_weights": ["x"]}, "was started with"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "LoRA with repeated layers"),
        ({"use_qalora": True}, "is QALoRA"),
        ({"peft_type": {"a": 1}}, "this adapter is {'a': 1}"),
        ({"alpha_pattern": {"(q_proj": 4}}, "alpha_pattern has '(q_proj', which cannot be read as a regular"),
        ({"alpha_pattern": {"(?i)Q_proj": 4}}, "alpha_pattern has"),
        ({"alpha_pattern": {"(?:q_proj){e<=3}": 4}}, "alpha_pattern has"),
        ({"alpha_pattern": {"a" * 301: 4}}, "alpha_pattern has"),
        ({"alpha_pattern": {r"(.|\w|[a-z])+[A-Z]": 4}}, "or takes too long"),
        ({"alpha_pattern": {f"a{n}": 4 for n in range(501)}}, "alpha_pattern is no object"),
        ({"alpha_pattern": [1]}, "alpha_pattern is no object"),
        ({"alpha_pattern": {"q_proj": "4"}}, "alpha_pattern is no number"),
        ({"lora_alpha": 10**400}, "lora_alpha is no number"),
        ({"lora_alpha": 10**400, "use_rslora": True}, "lora_alpha is no number"),
        ({"lora_alpha": True}, "lora_alpha is no number"),
        ({"lora_alpha": 1e300}, "too large for bfloat16: use another state of the training"),
        ({"lora_alpha": 1e40}, "too large for bfloat16: use another state of the training"),
    ],
)
def test_what_factors_alone_do_not_say_is_refused_in_one_line(source, tmp_path, capsys, settings, expected):
    write_peft(tmp_path / "adapter", Q_PROJ, **settings)
    assert main(["convert", str(source), str(tmp_path / "mlx"), "--adapter", str(tmp_path / "adapter")]) == 4
    error = capsys.readouterr().err
    assert expected in error and error.startswith("error: ") and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"lm_head.lora_a": (96, 4), "lm_head.lora_b": (4, 300)}, r"lora_parameters\.scale is no number"),
        ({"lm_head.lora_A.weight": (4, 96), "lm_head.lora_b": (4, 300)}, "lm_head has no lora_a"),
        ({"lm_head.base_layer.weight": (300, 96)}, "lm_head has no lora_embedding_A"),
        ({"model.norm.lora_A.weight": (4, 96), "model.norm.lora_B.weight": (96, 4)}, "is no LoRA factor"),
        ({"lm_head.lora_A.weight": (), "lm_head.lora_B.weight": (300, 4)}, "do not make"),
        ({"lm_head.lora_A.weight": (0, 96), "lm_head.lora_B.weight": (300, 0)}, "do not make"),
        (HEAD | {"lm_head.lora_a": (96, 4), "lm_head.lora_b": (4, 300)}, "lm_head has lora_a and lora_A"),
        (
            HEAD | {"lm_head.base_layer.weight": (301, 96)},
            r"of the shape \(301, 96\), but that of the model",
        ),
        ({"lm_head.lora_A.weight": (230_000, 96), "lm_head.lora_B.weight": (300, 230_000)}, "have rank 230000, and at"),
    ],
)  # fmt: skip
def test_odd_tensors_are_refused(source, tmp_path, tensors, expected):
    adapter = adapter_of(tmp_path / "adapter", {})
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (adapter / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # zeros, which take no space
    with pytest.raises((CheckpointError, ConfigError), match=expected):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))


@pytest.mark.parametrize(
    ("mode", "group_size", "bits"),
    [("affine", 64, 8), ("affine", 32, 3), ("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)],
)
def test_a_module_stays_quantised_as_it_was_in_every_mode_of_mlx(tmp_path, mode, group_size, bits):
    convert(write_checkpoint(tmp_path / "source", EVEN), tmp_path / "plain")
    config, tensors = json.loads((tmp_path / "plain" / "config.json").read_text()), read(tmp_path / "plain")
    path = "model.layers.1.self_attn.q_proj"
    plain = np.array(tensors[f"{path}.weight"].astype(mx.float32))
    names = [f"{path}.{part}" for part in ("weight", "scales", "biases")]
    tensors |= dict(zip(names, mx.quantize(tensors[names[0]], group_size, bits, mode), strict=False))
    config["quantization"][path] = {"group_size": group_size, "bits": bits, "mode": mode}
    quantised = saved(tmp_path / "quantised", tmp_path / "plain" / "config.json", tensors)
    (quantised / "config.json").write_text(json.dumps(config))
    added = write_peft(tmp_path / "adapter", {path: plain.shape})[path]
    report = convert(quantised, tmp_path / "merged", ConvertOptions(adapter=tmp_path / "adapter", verify=True))
    assert set(report.losses.items()) == {(f"{path}.weight", "requantised")}
    parts = [read(tmp_path / "merged")[name] for name in names if name in tensors]
    found = mx.dequantize(parts[0], parts[1], *parts[2:], group_size=group_size, bits=bits, mode=mode)
    expected = plain + 2 * added
    error = np.linalg.norm(np.array(found.astype(mx.float32)) - expected) / np.linalg.norm(expected)
    assert error < {8: 0.05, 4: 0.15, 3: 0.2}[bits] and report.errors[f"{path}.weight"] == pytest.approx(error, rel=0.1)
    load_model(tmp_path / "merged", dtype="float32")(mx.array([[1, 2, 3]]))


def test_an_error_of_values_beyond_the_squares_of_float32_is_a_number(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ, lora_alpha=1e38)
    report = convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))
    assert all(0 < error < 2**-8 for error in report.errors.values()) and len(report.errors) == len(Q_PROJ)
