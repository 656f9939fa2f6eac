"""Releases are loaded as they are: the same model, bit for bit, as the folder that they are converted to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_oss
from mlx_oss import ChatSession, SamplingOptions, load_model
from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError, SessionError
from mlx_oss.offload.install import offload_stats
from tests.offload.test_exact import run
from tests.shapes import MANY, SHAPES, dims
from tests.synthetic import TINY, write_checkpoint

AS_THEY_ARE = ("hf", "hf_sharded", "original", "original_sharded")
# A model that can chat: it has the releases' vocabulary, and a prompt fills its window several times.
CHATTING = TINY | {"vocab_size": 201_088, "hidden_size": 64, "intermediate_size": 96, "head_dim": 24}
GREEDY = SamplingOptions(temperature=0)


def fewest(shape: str) -> int:
    return max(dims(shape)["num_experts_per_tok"], 2)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory) -> dict[str, Path]:
    """The same model by layout: two releases, what the first is converted to, and two other models."""
    base = tmp_path_factory.mktemp("chatting")
    made = {layout: write_checkpoint(base / layout, CHATTING, layout=layout) for layout in ("hf", "original")}
    convert(made["hf"], base / "mlx")
    convert(made["hf"], base / "q8", ConvertOptions(overrides={"lm_head": "q8"}))
    other = write_checkpoint(base / "other", CHATTING, seed=1)
    return made | {"mlx": base / "mlx", "q8": base / "q8", "other": other}


def same(released: Path, converted: Path, **options) -> bool:
    """True if both give the same logits: of prompts in chunks of several sizes, of single tokens, and of a batch."""
    made, wanted = (run(load_model(path, **options)) for path in (released, converted))
    return all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize(
    ("shape", "dtype"), [*((shape, "float32") for shape in [*SHAPES, *MANY]), ("tiny", "bfloat16")]
)
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_logits_are_the_converted_folders_bit_for_bit(routed, tmp_path, shape, layout, dtype):
    source = write_checkpoint(tmp_path / layout, dims(shape), layout=layout)
    for slots in (None, fewest(shape), dims(shape)["num_local_experts"]):
        assert same(source, routed(shape), dtype=dtype, slots=slots), slots


@pytest.mark.parametrize("layout", AS_THEY_ARE)
def test_logits_are_the_same_however_the_release_is_split_into_files(release, folder, layout):
    for slots in (None, 3):
        assert same(release("tiny", layout), folder("tiny"), slots=slots)


def test_logits_are_the_same_on_the_branches_for_a_gpu(release, folder, shape, monkeypatch):
    monkeypatch.setattr("mlx_oss.backend.device.on_gpu", lambda: True)
    for layout in ("hf", "original"):
        assert same(release(shape, layout), folder(shape), dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [mx.float32, mx.float16])
def test_floats_of_a_fine_tune_are_rounded_as_the_converter_rounds_them(release, tmp_path, stored, dtype):
    config, tensors = (release("tiny", "hf") / "config.json").read_text(), {}
    for name, array in mx.load(str(release("tiny", "hf") / "model.safetensors")).items():
        noise = mx.random.uniform(0.999, 1.001, array.shape)
        tensors[name] = (array * noise).astype(stored) if array.dtype == mx.bfloat16 else array
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "config.json").write_text(config)
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    convert(tmp_path / "src", tmp_path / "dst")
    wanted = run(load_model(tmp_path / "dst", dtype=dtype))
    for slots in (None, 3):
        model = load_model(tmp_path / "src", dtype=dtype, slots=slots)
        assert all(np.array_equal(a, b) for a, b in zip(run(model), wanted, strict=True))
        assert model.plan.weight_bytes == load_model(tmp_path / "dst", dtype=dtype, slots=slots).plan.weight_bytes
    tensors["model.norm.weight"] = mx.full(tensors["model.norm.weight"].shape, mx.inf, stored)
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds NaN or infinity: .*earlier checkpoint"):
        load_model(tmp_path / "src", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_q_k_and_v_in_different_floats_are_held_as_in_the_converted_folder(release, tmp_path, dtype):
    source = release("tiny", "hf")
    tensors = dict(mx.load(str(source / "model.safetensors")).items())
    for letter, stored in (("q", mx.float16), ("k", mx.float32)):
        for name in [name for name in tensors if f".{letter}_proj." in name]:
            tensors[name] = tensors[name].astype(stored)
    (tmp_path / "src").mkdir()
    shutil.copy(source / "config.json", tmp_path / "src")
    mx.save_safetensors(str(tmp_path / "src" / "model.safetensors"), tensors)
    convert(tmp_path / "src", tmp_path / "dst")
    assert same(tmp_path / "src", tmp_path / "dst", dtype=dtype)
    planned = [load_model(tmp_path / name, dtype=dtype).plan.weight_bytes for name in ("src", "dst")]
    assert planned[0] == planned[1]


def damaged(source: Path, target: Path, name: str, change) -> Path:
    """A copy of a checkpoint in one file in which change(array) replaces one tensor."""
    tensors = dict(mx.load(str(source / "model.safetensors")).items())
    tensors[name] = change(tensors[name])
    target.mkdir()
    shutil.copy(source / "config.json", target)
    mx.save_safetensors(str(target / "model.safetensors"), tensors)
    return target


@pytest.mark.parametrize("part", ["q_proj.weight", "k_proj.bias", "v_proj.weight"])
def test_the_tensor_that_holds_nan_is_named_although_it_is_joined_with_others(release, tmp_path, part):
    source = release("tiny", "hf")
    for letter in "qkv":  # all three in float32, so that they are joined while they are read
        for suffix in ("weight", "bias"):
            name, base = f"model.layers.1.self_attn.{letter}_proj.{suffix}", tmp_path / f"{letter}{suffix}"
            last = f"{letter}_proj.{suffix}" == part

            def change(array: mx.array, last: bool = last) -> mx.array:
                wide = np.array(array.astype(mx.float32))
                wide.reshape(-1)[-1] = np.nan if last else wide.reshape(-1)[-1]
                return mx.array(wide)

            source = damaged(source, base, name, change)
    with pytest.raises(CheckpointError, match=rf"layers\.1\.self_attn\.{part} holds NaN"):
        load_model(source)


@pytest.mark.parametrize("name", ["gate_up_proj_scales", "down_proj_scales"])
def test_a_nan_scale_is_named(release, tmp_path, name):
    def change(scales: mx.array) -> mx.array:
        changed = np.array(scales)
        changed.reshape(-1)[-3] = 0xFF
        return mx.array(changed)

    source = damaged(release("tiny", "hf"), tmp_path / "src", f"model.layers.2.mlp.experts.{name}", change)
    with pytest.raises(CheckpointError, match=rf"layers\.2\.mlp\.experts\.{name} holds a NaN scale"):
        load_model(source)


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_a_release_is_planned_as_it_is_held_and_as_the_converted_folder_is(release, folder, shape, layout):
    source, dtype = release(shape, layout), "bfloat16" if layout == "hf" else "float32"
    for slots in (None, fewest(shape)):
        made, converted = (load_model(path, dtype=dtype, slots=slots) for path in (source, folder(shape)))
        parameters = sum(array.nbytes for _, array in tree_flatten(made.transformer.parameters()))
        assert made.plan.weight_bytes == converted.plan.weight_bytes
        assert made.plan.weight_bytes == parameters if slots is None else made.plan.weight_bytes > parameters
        assert made.plan.peak_bytes <= converted.plan.peak_bytes
        run(made)
        run(converted)
        assert offload_stats(made.transformer).nbytes == offload_stats(converted.transformer).nbytes


@pytest.mark.parametrize(("saved_by", "opened_by"), [("hf", "mlx"), ("mlx", "original"), ("original", "hf")])
@pytest.mark.parametrize("slots", [None, 4])
def test_released_and_converted_forms_open_each_others_sessions(chatting, tmp_path, saved_by, opened_by, slots):
    tokenizer = mlx_oss.load_tokenizer()
    saver, opener = load_model(chatting[saved_by], slots=slots), load_model(chatting[opened_by])
    session = ChatSession(saver, tokenizer, options=GREEDY, max_tokens=8)
    session.ask("Hi")
    session.save(tmp_path / "chat")
    loaded = ChatSession.load(tmp_path / "chat", opener, tokenizer)
    assert loaded.ask("And now?").text == session.ask("And now?").text
    assert loaded.usage.reused_tokens == session.usage.reused_tokens > 0


def test_a_model_with_other_values_does_not_open_them(chatting, tmp_path):
    tokenizer = mlx_oss.load_tokenizer()
    session = ChatSession(load_model(chatting["hf"], dtype="float32"), tokenizer, options=GREEDY, max_tokens=4)
    session.ask("Hi")
    session.save(tmp_path / "chat")
    for other in (
        load_model(chatting["q8"], dtype="float32"),
        load_model(chatting["other"], dtype="float32"),
        load_model(chatting["hf"], dtype="bfloat16"),
    ):
        with pytest.raises(SessionError, match="another model"):
            ChatSession.load(tmp_path / "chat", other, tokenizer)
    kept = ChatSession.load(tmp_path / "chat", load_model(chatting["other"]), tokenizer, text_only=True)
    assert kept.messages == session.messages


@pytest.mark.parametrize("slots", [None, 3])
def test_a_fine_tune_of_any_module_has_another_fingerprint(release, tmp_path, slots):
    source = release("tiny", "hf")
    tensors = mx.load(str(source / "model.safetensors"))
    wanted = load_model(source, slots=slots).fingerprint
    (tmp_path / "tuned").mkdir()
    shutil.copy(source / "config.json", tmp_path / "tuned")
    for name in [name for name in tensors if ".1." in name or name.count(".") < 3]:
        changed = dict(tensors) | {name: tensors[name] + mx.array(1, tensors[name].dtype)}
        mx.save_safetensors(str(tmp_path / "tuned" / "model.safetensors"), changed)
        assert load_model(tmp_path / "tuned", slots=slots).fingerprint != wanted, name
    mx.save_safetensors(str(tmp_path / "tuned" / "model.safetensors"), tensors)
    assert load_model(tmp_path / "tuned", slots=slots).fingerprint == wanted


def test_the_commands_take_a_release(chatting, capsys):
    written = {}
    for layout in ("hf", "original", "mlx"):
        path = str(chatting[layout])
        asked = ["chat", "Hi", "--model", path, "--temperature", "0", "--max-tokens", "5", "--context", "256"]
        assert main(asked) == 3
        written[layout] = capsys.readouterr().out
        assert main(["plan", path, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"] == "everything in memory"
        assert main(["verify", path]) == 0
        assert ("verified" if layout == "mlx" else "checked") in capsys.readouterr().out
    assert written["hf"] == written["original"] == written["mlx"]


def test_the_benchmark_takes_a_release(chatting, capsys, monkeypatch):
    monkeypatch.setattr("mlx_oss.bench.LOADS", 1)
    assert main(["bench", str(chatting["original"]), "--tokens", "2", "--prompt", "5", "--repeats", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("layout", "reason"), [("bf16", "not quantised"), ("metal", "another order")])
@pytest.mark.parametrize("command", ["chat", "generate", "plan", "bench"])
def test_what_has_to_be_converted_is_told_in_one_line(release, capsys, command, layout, reason):
    path = str(release("tiny", layout))
    arguments = ["Hi", "--model", path] if command in ("chat", "generate") else [path]
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert reason in err and f"`mlx-oss convert {path} DST`" in err
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
