"""LoRA adapters of every kind that PEFT and mlx-lm write, in names and orientations as those programs save them.

What is expected was compared once with PEFT 0.21 (merge_and_unload), and is computed here by its formulas in NumPy.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert, run, verify
from mlx_oss.errors import CheckpointError, ConfigError, ConversionError, TokenizerError
from mlx_oss.loader import load, load_model
from mlx_oss.weights.safetensors import read_folder
from tests.convert.test_adapters import RANK, shapes, values, write_peft
from tests.synthetic import TINY, write_checkpoint
from tests.test_tokenizer_json import released
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
        ({"alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 4}}, "alpha_pattern has"),
        ({"alpha_pattern": {"(a+)+": 4}}, "alpha_pattern has"),
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
    assert main(["convert", str(source), str(tmp_path / "mlx"), "--adapter", str(tmp_path / "adapter")]) == 2
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


def test_the_values_of_an_adapter_are_not_kept_in_memory(source, tmp_path):
    shape = {"model.layers.0.self_attn.q_proj": (240, 96), "model.layers.1.self_attn.q_proj": (240, 96)}
    tensors = {}
    for path in shape:
        tensors |= {f"{path}.lora_A.weight": random(20_000, 96), f"{path}.lora_B.weight": random(240, 20_000) / 100}
    adapter = adapter_of(tmp_path / "adapter", tensors)
    size = (adapter / "adapter_model.safetensors").stat().st_size
    del tensors
    tracemalloc.start()
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, dry_run=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < size // 4


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


def test_an_adapter_that_changes_meanwhile_is_told(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ)
    file = tmp_path / "adapter" / "adapter_config.json"
    with pytest.raises(CheckpointError, match=r"adapter_config\.json was changed while it was converted"):
        convert(
            source,
            tmp_path / "mlx",
            ConvertOptions(adapter=tmp_path / "adapter"),
            progress=lambda _: file.write_text(file.read_text() + " "),
        )


def test_it_resumes_with_the_same_adapter_and_starts_anew_with_another(release, tmp_path):
    source = release("tiny", "hf")
    for name in ("one", "two"):
        write_peft(tmp_path / name, Q_PROJ, lora_alpha=len(name) + (name == "two"))

    def interrupted(now):
        if now.shards_done:
            raise KeyboardInterrupt

    options = {name: ConvertOptions(adapter=tmp_path / name, shard_bytes=1, verify=True) for name in ("one", "two")}
    for name, resumed in (("one", True), ("two", False)):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "mlx", options["one"], interrupted)
        report = convert(source, tmp_path / "mlx", options[name])
        assert (report.resumed_shards > 0) == resumed
        convert(source, tmp_path / f"whole {name}", options[name])
        made, whole = read(tmp_path / "mlx"), read(tmp_path / f"whole {name}")
        assert all(mx.array_equal(made[each], whole[each]) for each in whole)
        assert {each: report.losses[each] for each in report.losses} == dict.fromkeys(
            [f"{path}.weight" for path in Q_PROJ], "merged"
        )
        for path in [*(tmp_path / "mlx").iterdir()]:
            path.unlink()
        (tmp_path / "mlx").rmdir()


def test_verifying_says_that_an_adapter_is_missing_or_alone(source, tmp_path, capsys):
    write_peft(tmp_path / "adapter", Q_PROJ)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))
    verify(tmp_path / "mlx")
    with pytest.raises(CheckpointError, match=r"was converted with an adapter.* --adapter DIR"):
        verify(tmp_path / "mlx", source)
    with pytest.raises(ConversionError, match="give that too, --source SRC"):
        verify(tmp_path / "mlx", adapter=tmp_path / "adapter")
    assert main(["verify", str(tmp_path / "mlx"), "--adapter", str(tmp_path / "adapter")]) == 2
    assert "--source SRC" in capsys.readouterr().err


def test_an_adapter_in_pytorch_s_format_names_what_helps(source, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="load it with PEFT and save it with save_pretrained"):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))


@pytest.mark.parametrize("layout", ["hf", "metal"])
def test_tokens_that_a_training_added_beside_its_adapter_come_along(tmp_path, layout):
    source = write_checkpoint(tmp_path / "source", TINY | {"vocab_size": 201_088, "hidden_size": 32}, layout=layout)
    (source / "tokenizer.json").write_bytes(released())
    (source / "chat_template.jinja").write_text("the model's")
    write_peft(tmp_path / "adapter", {"model.layers.0.self_attn.q_proj": (240, 32)})
    own = {"id": 200_013, "content": "<own>", "special": False}
    (tmp_path / "adapter" / "tokenizer.json").write_bytes(released(own))
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
    options = ConvertOptions(adapter=tmp_path / "adapter", verify=True)
    convert(source, tmp_path / "mlx", options)
    verify(tmp_path / "mlx", source, adapter=tmp_path / "adapter")
    assert load(tmp_path / "mlx", dtype="float32")[1].encode("a<own>")[-1] == 200_013
    assert (tmp_path / "mlx" / "tokenizer_config.json").read_text() == "{}"
    if layout == "hf":
        assert (tmp_path / "mlx" / "chat_template.jinja").read_text() == "the model's"
    (tmp_path / "adapter" / "tokenizer.json").write_bytes(released(without=200_006))
    with pytest.raises(TokenizerError, match="id 200006 is missing"):
        convert(source, tmp_path / "mlx 2", options)


def test_the_record_of_a_conversion_names_the_files_of_its_adapter(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ)
    for name, adapter in (("with", tmp_path / "adapter"), ("without", None)):
        run.convert(source, tmp_path / name, ConvertOptions(adapter=adapter))
        said = json.loads((tmp_path / name / "conversion.json").read_text())
        assert set(said.get("adapter", {})) == (
            {"adapter_config.json", "adapter_model.safetensors"} if adapter else set()
        )
    assert read_folder(tmp_path / "with").keys() == read_folder(tmp_path / "without").keys()


def test_a_target_never_takes_the_place_of_the_adapter(source, tmp_path):
    """As where an adapter lies beside a model, in one folder: replacing that would delete the only copy."""
    convert(source, tmp_path / "both")
    write_peft(tmp_path / "both", Q_PROJ)
    for target in ("both", "both/inside"):
        with pytest.raises(ConversionError, match="overlap: choose a target outside the adapter"):
            convert(source, tmp_path / target, ConvertOptions(adapter=tmp_path / "both", force=True))
    assert (tmp_path / "both" / "adapter_model.safetensors").is_file()
