"""Whatever cannot be converted is refused with one sentence that names the file, and nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_oss import files
from mlx_oss.config import ModelConfig
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
from mlx_oss.errors import CheckpointError, ConfigError, ConversionError, MlxOssError, TokenizerError
from mlx_oss.weights.layouts.metal import read_metal
from mlx_oss.weights.safetensors import INDEX, TensorInfo, read_folder
from tests.synthetic import hf_config, openai_config, tokenizer_json, write_checkpoint

SMALL = {
    "num_hidden_layers": 1,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 41,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "sliding_window": 5,
}
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "in" / "src", SMALL, layout="hf_sharded")


def refuses(source: Path, *words: str, error: type[MlxOssError], target: Path | None = None, **options) -> None:
    """Converting fails with this error and these words in one line, and the target's parent folder does not change."""
    target = target or source.parent.parent / "dst"
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(error) as caught:
        convert(source, target, ConvertOptions(**options))
    for word in words:
        assert word in str(caught.value), caught.value
    assert "\n" not in str(caught.value)
    assert sorted(target.parent.rglob("*")) == before


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes the header of SHARD, not its data, and updates the index."""
    path = folder / SHARD
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != SHARD} | dict.fromkeys(header, SHARD)
    (folder / INDEX).write_text(json.dumps(index))


def in_shard(folder: Path, ending: str) -> str:
    return next(t.name for t in read_folder(folder).values() if t.file.name == SHARD and t.name.endswith(ending))


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_missing_shard(source):
    (source / SHARD).unlink()
    refuses(source, SHARD, "missing", error=CheckpointError)


def test_truncated_shard(source):
    with (source / SHARD).open("r+b") as file:
        file.truncate((source / SHARD).stat().st_size - 1)
    refuses(source, SHARD, "truncated", error=CheckpointError)


def test_index_and_shard_disagree(source):
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = SHARD
    (source / INDEX).write_text(json.dumps(index))
    refuses(source, INDEX, "lm_head.weight", error=CheckpointError)


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_git_lfs_pointer(source, name):
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuses(source, name, "git lfs pull", error=CheckpointError)


def test_tokenizer_that_disagrees_with_the_vocabulary(source):
    data = tokenizer_json()
    data["added_tokens"][0]["content"] = "<|other|>"
    (source / "tokenizer.json").write_text(json.dumps(data))
    refuses(source, "tokenizer.json", "<|other|>", error=TokenizerError)


def test_missing_tensor(source):
    name = in_shard(source, "o_proj.bias")
    rewrite(source, lambda header: header.update({name + "_": header.pop(name)}))
    refuses(source, name, "missing", error=CheckpointError)


def test_unknown_tensor(source):
    with (source / SHARD).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        end = (source / SHARD).stat().st_size - 8 - size
    extra = {"dtype": "BF16", "shape": [0], "data_offsets": [end, end]}
    rewrite(source, lambda header: header.update({"model.layers.0.extra": extra}))
    refuses(source, SHARD, "model.layers.0.extra", "is not part of", error=CheckpointError)


def test_tensor_twice(source):
    (source / INDEX).unlink()
    (source / "model-again.safetensors").write_bytes((source / SHARD).read_bytes())
    refuses(source, "model-again.safetensors", SHARD, error=CheckpointError)


def test_wrong_shape(source):
    name = in_shard(source, "o_proj.weight")
    rewrite(source, lambda header: header[name]["shape"].reverse())
    refuses(source, name, "(40, 64)", "(64, 40)", error=CheckpointError)


def test_wrong_dtype(source):
    name = in_shard(source, "o_proj.weight")
    rewrite(source, lambda header: header[name].update(dtype="U16"))
    refuses(source, name, "U16", "BF16", error=CheckpointError)


def test_an_index_left_over_beside_a_model_in_one_file(source):
    """transformers leaves such an index when it saves one file into the folder of a sharded model."""
    tensors = {name: array for file in source.glob("*.safetensors") for name, array in mx.load(str(file)).items()}
    for path in source.glob("*.safetensors"):
        path.unlink()
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    with pytest.warns(UserWarning, match=f"not part of the model, and not read: {INDEX}"):
        convert(source, source.parent / "dst")


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE"])
def test_a_companion_that_is_a_link_to_nowhere_is_told_as_one(source, name):
    (source / name).symlink_to("../blobs/absent")
    refuses(source, name, "it is a link to '../blobs/absent', which is not there", error=CheckpointError)


def test_what_lies_beside_the_model_is_passed_over_and_told_once(source):
    for name in ("consolidated.safetensors", "adapters.safetensors", "optimizer.safetensors"):
        (source / name).write_bytes(b"anything")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as Python has it outside of pytest
        convert(source, source.parent / "dst", ConvertOptions(verify=True))
        verify(source.parent / "dst", source)
    (told,) = (str(warning.message) for warning in caught)
    assert re.search(rf"not read: adapters.*consolidated.*optimizer.*mlx-oss convert {source} DST --adapter", told)


def test_a_lora_adapter(source):
    """A folder with an adapter alone is refused; an adapter_config.json left beside a merged model does no harm."""
    (source / "adapter_config.json").write_text("{}")
    convert(source, source.parent / "whole")
    adapter = source.parent.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (source / SHARD).rename(adapter / "adapter_model.safetensors")
    refuses(adapter, "LoRA adapter", "merge", error=CheckpointError, target=source.parent / "dst")


@pytest.mark.parametrize(("file", "word"), [("pytorch_model-00001-of-00002.bin", "safetensors"), ("m.gguf", "GGUF")])
def test_weights_of_another_format(tmp_path, file, word):
    folder = tmp_path / "in" / "src"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(hf_config(SMALL)))
    (folder / file).write_bytes(b"x")
    refuses(folder, str(folder), word, error=CheckpointError)


def test_a_gguf_file_instead_of_a_folder(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model.gguf"
    path.write_bytes(b"GGUF")
    refuses(path, "is not a folder", "GGUF", error=CheckpointError)


def test_weights_quantised_by_others(source):
    edit_config(source, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refuses(source, "bitsandbytes", "bfloat16", error=ConfigError)


@pytest.mark.parametrize("stored", [mx.float32, mx.float16])
def test_infinity_in_a_float_tensor_that_is_rounded(tmp_path, stored):
    source = write_checkpoint(tmp_path / "in" / "src", SMALL, layout="bf16")
    tensors = mx.load(str(source / "model.safetensors"))
    norm = mx.array(np.where(np.arange(SMALL["hidden_size"]) == 5, np.inf, 1.0))
    tensors["model.norm.weight"] = norm.astype(stored)
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    refuses(source, "model.norm.weight", "holds NaN or infinity", error=CheckpointError)


@pytest.mark.parametrize("ending", ["gate_up_proj_scales", "down_proj_scales"])
def test_nan_scale_in_the_middle_of_the_conversion(source, ending):
    tensor = next(t for t in read_folder(source).values() if t.name.endswith(ending))
    with tensor.file.open("r+b") as file:
        file.seek(tensor.end - 1)
        file.write(b"\xff")
    refuses(source, tensor.name, tensor.file.name, "0xFF", error=CheckpointError)


def test_nan_in_a_fine_tune(tmp_path):
    source = write_checkpoint(tmp_path / "in" / "src", SMALL, layout="bf16")
    tensor = read_folder(source)["model.layers.0.mlp.experts.down_proj"]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.end - 2)
        file.write(np.array([0x7FC0], "<u2").tobytes())
    refuses(source, tensor.name, "NaN", error=CheckpointError)


# The first NaN and the infinities of each sign, and other NaNs, as bfloat16 bits.
NOT_FINITE = [0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7F81, 0xFFFF]
FLOATS = [
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.bias",
    "model.layers.0.self_attn.sinks",
    "model.layers.0.mlp.router.weight",
    "model.layers.0.mlp.router.bias",
    "model.layers.0.mlp.experts.gate_up_proj_bias",
    "model.layers.0.mlp.experts.down_proj_bias",
]


def write_value(tensor: TensorInfo, position: int, bits: int) -> None:
    """Replaces a bfloat16 value of a stored tensor; a negative position counts from the end."""
    with tensor.file.open("r+b") as file:
        file.seek((tensor.start if position >= 0 else tensor.end) + 2 * position)
        file.write(np.array([bits], "<u2").tobytes())


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", FLOATS)
def test_nan_outside_the_experts_matrices(source, name, position):
    write_value(tensor := read_folder(source)[name], position, 0x7FC0)
    refuses(source, f"{tensor.file}: tensor {name} holds NaN or infinity", "earlier checkpoint", error=CheckpointError)
    with pytest.raises(CheckpointError, match=f"{name} holds NaN"):
        verify(source)


@pytest.mark.parametrize("bits", NOT_FINITE)
def test_every_kind_of_nan_and_infinity(source, bits):
    write_value(read_folder(source)["lm_head.weight"], 17, bits)
    refuses(source, "lm_head.weight holds NaN or infinity", error=CheckpointError)


def test_the_largest_values_are_no_infinity(source, tmp_path):
    for position, bits in enumerate((0x7F7F, 0xFF7F, 0x8000, 0x0001)):
        write_value(read_folder(source)["model.norm.weight"], position, bits)
    convert(source, tmp_path / "dst", ConvertOptions(verify=True))
    verify(source)


@pytest.mark.parametrize("layout", ["original", "metal", "bf16"])
def test_nan_in_other_layouts(tmp_path, layout):
    source = write_checkpoint(tmp_path / "in" / "src", SMALL, layout=layout)
    tensors = read_metal(source)[1] if layout == "metal" else read_folder(source)
    floats = [tensor for tensor in tensors.values() if tensor.dtype == "BF16" and "experts.gate" not in tensor.name]
    for tensor in floats[:: len(floats) // 5]:
        kept = tensor.file.read_bytes()
        write_value(tensor, -1, 0xFF80)
        refuses(source, f"tensor {tensor.name} holds NaN or infinity", error=CheckpointError)
        with pytest.raises(CheckpointError, match="holds NaN"):
            verify(source)
        tensor.file.write_bytes(kept)


@pytest.mark.parametrize("profile", [None, "q8", "q4"])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.o_proj.weight"])
def test_nan_in_what_is_quantised(tmp_path, profile, name):
    source = write_checkpoint(tmp_path / "in" / "src", SMALL | {"head_dim": 16})
    write_value(read_folder(source)[name], 5, 0x7FC0)
    refuses(source, f"{name} holds NaN or infinity", error=CheckpointError, profile=profile)


@pytest.mark.parametrize("profile", [None, "bf16", "q4"])
@pytest.mark.parametrize("part", ["scales", "biases"])
def test_nan_in_the_scales_and_biases_of_an_mlx_folder(tmp_path, profile, part):
    (tmp_path / "in").mkdir()
    convert(
        write_checkpoint(tmp_path / "release", SMALL | {"head_dim": 16}), tmp_path / "in" / "src", ConvertOptions("q8")
    )
    write_value(read_folder(tmp_path / "in" / "src")[f"lm_head.{part}"], 3, 0x7F80)
    refuses(tmp_path / "in" / "src", f"lm_head.{part} holds NaN", error=CheckpointError, profile=profile)


@pytest.mark.parametrize(
    ("mode", "size", "bits", "part", "byte", "is_nan"),
    [
        ("nvfp4", 16, 4, "scales", 0x7F, True),
        ("nvfp4", 16, 4, "scales", 0xFF, True),
        ("nvfp4", 16, 4, "scales", 0x7E, False),
        ("nvfp4", 16, 4, "weight", 0xFF, False),
        ("mxfp8", 32, 8, "weight", 0x7F, True),
        ("mxfp8", 32, 8, "weight", 0xFF, True),
        ("mxfp8", 32, 8, "weight", 0xFE, False),
        ("mxfp8", 32, 8, "scales", 0xFF, True),
        ("mxfp4", 32, 4, "scales", 0xFF, True),
        ("mxfp4", 32, 4, "weight", 0xFF, False),
    ],
)
def test_the_bytes_that_are_nan_in_each_of_mlx_s_modes(tmp_path, mode, size, bits, part, byte, is_nan):
    import mlx.core as mx

    (tmp_path / "in").mkdir()
    folder = tmp_path / "in" / "src"
    convert(write_checkpoint(tmp_path / "release", SMALL | {"head_dim": 16}), folder)
    (file,) = folder.glob("*.safetensors")
    tensors = mx.load(str(file))
    packed = dict(zip(("weight", "scales"), mx.quantize(tensors["lm_head.weight"], size, bits, mode), strict=True))
    stored = np.array(packed[part])
    stored.view(np.uint8)[3, 1] = byte
    packed[part] = mx.array(stored)
    mx.save_safetensors(str(file), tensors | {f"lm_head.{name}": array for name, array in packed.items()})
    values = mx.dequantize(*packed.values(), group_size=size, bits=bits, mode=mode)
    assert mx.isfinite(values.astype(mx.float32)).all().item() == (not is_nan)
    for name in ("conversion.json", "model.safetensors.index.json"):
        (folder / name).unlink()
    edit_config(folder, quantization={"group_size": 32, "bits": 4, "mode": "mxfp4"})
    if is_nan:
        refuses(folder, f"lm_head.{part} holds ", "NaN", error=CheckpointError)
    else:
        convert(folder, tmp_path / "dst", ConvertOptions(verify=True))
    with pytest.raises(CheckpointError, match=rf"lm_head\.{part} holds NaN" if is_nan else "--source SRC"):
        verify(folder)


def test_nan_in_a_folder_that_an_earlier_version_has_converted(source, tmp_path, monkeypatch):
    """Its manifest was made with the NaN, so only the values can tell."""
    write_value(read_folder(source)["lm_head.weight"], 0, 0x7FC0)
    with monkeypatch.context() as patch:
        patch.setattr("mlx_oss.convert.transforms.is_finite", lambda bits: True)
        convert(source, tmp_path / "dst")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight holds NaN"):
        verify(tmp_path / "dst")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight holds NaN"):
        verify(tmp_path / "dst", source)


@pytest.mark.parametrize("part", ["lm_head.weight", "model.layers.0.mlp.experts.down_proj.scales"])
def test_nan_in_an_mlx_folder_of_another_program(source, tmp_path, part):
    """`verify` cannot compare it with anything, but names the tensor."""
    convert(source, tmp_path / "dst")
    (tmp_path / "dst" / "conversion.json").unlink()
    with pytest.raises(CheckpointError, match="--source SRC"):
        verify(tmp_path / "dst")
    tensor = read_folder(tmp_path / "dst")[part]
    write_value(tensor, 0, 0xFFFF)
    with pytest.raises(CheckpointError, match=f"{re.escape(part)} holds NaN"):
        verify(tmp_path / "dst")


def test_another_kind_of_model(source):
    edit_config(source, model_type="llama")
    refuses(source, "config.json", "llama", error=ConfigError)


def test_config_of_a_larger_model(source):
    edit_config(source, num_local_experts=4)
    refuses(source, "config.json", "(4, 64)", error=CheckpointError)


def test_rope_key_that_would_change_the_mathematics(source):
    rope = hf_config(SMALL)["rope_scaling"] | {"mscale": 2.0}
    edit_config(source, rope_scaling=rope)
    refuses(source, "config.json", "mscale", error=ConfigError)


def test_unknown_key_of_openai_s_config(tmp_path):
    source = write_checkpoint(tmp_path / "in" / "src", SMALL, layout="original")
    edit_config(source, qk_norm=True)
    refuses(source, "config.json", "qk_norm", error=ConfigError)


def test_source_that_is_no_checkpoint(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("")
    refuses(tmp_path / "in" / "file", "is not a folder", error=CheckpointError)
    refuses(tmp_path / "in" / "nowhere", "does not exist", error=CheckpointError)
    (tmp_path / "in" / "empty").mkdir()
    refuses(tmp_path / "in" / "empty", "contains no *.safetensors", error=CheckpointError)


def test_repository_without_its_root_weights_points_to_original(source):
    for path in source.glob("*.safetensors"):
        path.unlink()
    write_checkpoint(source / "original", SMALL, layout="original")
    refuses(source, str(source / "original"), error=CheckpointError)


def test_target_and_source_inside_one_another(source):
    refuses(source, "overlap", error=ConversionError, target=source / "dst")
    refuses(source, "overlap", error=ConversionError, target=source)
    refuses(source, "overlap", error=ConversionError, target=source.parent, force=True)


def test_existing_target_needs_force(source, tmp_path):
    convert(source, tmp_path / "dst")
    refuses(source, "dst already exists", "--force", error=ConversionError)
    other = write_checkpoint(tmp_path / "other", SMALL, seed=5)
    convert(other, tmp_path / "dst", ConvertOptions(force=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "in", "other"]
    convert(other, tmp_path / "fresh")
    weights = "model-00001-of-00001.safetensors"
    assert (tmp_path / "dst" / weights).read_bytes() == (tmp_path / "fresh" / weights).read_bytes()


def test_a_target_that_holds_only_what_a_mac_adds_to_folders_is_empty(source, tmp_path):
    (tmp_path / "dst").mkdir()
    for name in (".DS_Store", "._dst"):
        (tmp_path / "dst" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    convert(source, tmp_path / "dst", ConvertOptions(verify=True))
    assert (tmp_path / "dst" / "config.json").is_file() and not (tmp_path / "dst" / ".DS_Store").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "in"]


def test_what_a_mac_adds_to_folders_spoils_neither_source_nor_result(source, tmp_path):
    added = (".DS_Store", "._config.json", "._model.safetensors", "._pytorch_model.bin", "._model.gguf")
    for name in added:
        (source / name).write_bytes(b"\0\5\x16\7Mac OS X")
    convert(source, tmp_path / "dst")
    assert not [path.name for path in (tmp_path / "dst").iterdir() if path.name.startswith(".")]
    for name in added:
        (tmp_path / "dst" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    verify(tmp_path / "dst", source)
    convert(tmp_path / "dst", tmp_path / "again")
    for path in (*source.glob("[!.]*.safetensors"), source / INDEX):
        path.unlink()
    refuses(source, "contains no *.safetensors", error=CheckpointError, target=tmp_path / "third")


def test_force_spares_what_is_no_model_folder(source, tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "thesis.txt").write_text("years of work")
    refuses(source, "not a model folder", error=ConversionError, force=True)


def test_target_that_is_a_link(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "dst").symlink_to(tmp_path / "elsewhere")
    refuses(source, "is a symbolic link", error=ConversionError)


def test_target_that_is_a_link_to_itself(source, tmp_path):
    (tmp_path / "dst").symlink_to(tmp_path / "dst")
    refuses(source, "is a symbolic link", error=ConversionError)


def test_force_is_offered_only_where_it_would_work(source, tmp_path):
    (tmp_path / "dst").write_text("a file")
    with pytest.raises(ConversionError) as caught:
        convert(source, tmp_path / "dst")
    assert "already exists: choose another target" in str(caught.value) and "--force" not in str(caught.value)


def test_target_without_a_parent(source, tmp_path):
    refuses(source, "create it first", error=ConversionError, target=tmp_path / "no" / "dst")


def test_read_only_target(source, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("mlx_oss.convert.staging.Path.mkdir", refuse)
    refuses(source, "Read-only file system", error=ConversionError)


def test_too_little_space_is_seen_before_the_first_byte(source, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    monkeypatch.setattr("mlx_oss.convert.shards.write", lambda *_: pytest.fail("wrote"))
    refuses(source, "10.00 kB free", error=ConversionError)


def test_disk_full_in_the_middle(source, monkeypatch):
    write, room = os.pwrite, 40_000

    def limited(descriptor, data, position):
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, position)

    monkeypatch.setattr("os.pwrite", limited)
    refuses(source, "No space left on device", error=ConversionError, shard_bytes=20_000)


def test_a_file_may_not_grow_beyond_a_limit(source):
    """Unlike in the test above, the operating system itself refuses to write in the middle of a shard."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, usual[1]))
    try:
        refuses(source, "File too large", "nothing was left behind", error=ConversionError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_something_else_under_the_hidden_name(source, tmp_path):
    (tmp_path / ".dst.partial" / "mine").mkdir(parents=True)
    refuses(source, ".dst.partial", "choose another target", error=ConversionError)


def test_config_nested_beyond_reason(source):
    (source / "config.json").write_text("[" * 100_000)
    refuses(source, "config.json", error=ConfigError)


def test_command_line_says_it_in_one_line_and_exits_with_2(source, tmp_path, capsys):
    (source / SHARD).unlink()
    assert main([str(source), str(tmp_path / "dst")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just([{}]), st.just({"rope_type": "yarn"}), st.just(10**400),
)  # fmt: skip


@given(st.sampled_from([hf_config, openai_config]), st.data(), _ODD)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_the_config_is_an_error_of_ours_or_none(tmp_path, config, data, value):
    raw = config(SMALL)
    raw[data.draw(st.sampled_from(sorted(raw)))] = value
    folder = tmp_path / "src"
    if not folder.exists():
        write_checkpoint(folder, SMALL, layout="hf")
    (folder / "config.json").write_text(json.dumps(raw))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert(folder, tmp_path / "dst", ConvertOptions(dry_run=True))
    except MlxOssError:
        pass
    assert not (tmp_path / "dst").exists()


def test_a_companion_that_cannot_be_read_is_named_not_the_target(source, monkeypatch):
    (source / "LICENSE").write_text("terms")
    read = files.read_bytes

    def refuse(path: Path, limit: int) -> bytes:
        if path.name == "LICENSE":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path, limit)

    monkeypatch.setattr("mlx_oss.convert.run.read_bytes", refuse)
    refuses(source, "LICENSE cannot be read", error=CheckpointError)


def test_a_target_name_that_is_too_long_is_a_sentence(source, tmp_path):
    refuses(source, "cannot be used", error=ConversionError, target=tmp_path / ("n" * 250))


def test_a_mount_point_is_no_target(source, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: str(path).endswith("dst"))
    refuses(source, "mount point", error=ConversionError)


def test_the_source_under_another_spelling_is_no_target(source, tmp_path):
    """As on a file system that does not distinguish upper and lower case."""
    (tmp_path / "SRC").mkdir()
    alias = tmp_path / "SRC"
    same = os.path.samefile

    def samefile(a, b):
        names = {Path(a).name.lower(), Path(b).name.lower()}
        return names == {"src"} or same(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "samefile", lambda self, other: samefile(self, other))
        refuses(source, "overlap", error=ConversionError, target=alias, force=True)


def test_the_folder_that_a_conversion_works_in_is_no_source(source):
    hidden = source.rename(source.parent / ".dst.partial")
    refuses(hidden, "hidden folder of the conversion", error=ConversionError, target=source.parent / "dst")


def test_an_endlessly_nested_tokenizer_is_refused(source):
    (source / "tokenizer.json").write_text("[" * 100_000)
    refuses(source, "tokenizer.json", error=TokenizerError)


def test_the_last_of_repeated_overrides_counts(source, tmp_path):
    repeated = ["--set", "self_attn=q4", "--set", "q_proj=q8", "--set", "self_attn=bf16"]
    assert main([str(source), str(tmp_path / "dst"), *repeated]) == 0
    assert "model.layers.0.self_attn.q_proj.scales" not in read_folder(tmp_path / "dst")


def test_a_release_with_plain_rope_converts_to_a_folder_that_opens(tmp_path):
    config = hf_config(SMALL)
    theta = config.pop("rope_theta", 150000.0)
    config.pop("rope_scaling", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    source = write_checkpoint(tmp_path / "src", SMALL)
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "dst")
    assert ModelConfig.from_file(tmp_path / "dst" / "config.json").rope_scaling is None
    openai = openai_config(SMALL) | {"rope_scaling_factor": 1.0}
    source = write_checkpoint(tmp_path / "original", SMALL, layout="original")
    (source / "config.json").write_text(json.dumps(openai))
    convert(source, tmp_path / "dst2")
    assert ModelConfig.from_file(tmp_path / "dst2" / "config.json").rope_scaling is None
