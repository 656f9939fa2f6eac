"""Folders as trainers and other programs leave them: other names, dtypes and places for the same model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError
from mlx_oss.loader import load_model
from mlx_oss.weights.layouts.checkpoint import open_checkpoint, open_model
from tests.synthetic import TINY, write_checkpoint

Tensors = dict[str, mx.array]
LAYERS = range(TINY["num_hidden_layers"])


def saved(folder: Path, config: Path, tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes(config.read_bytes())
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


def read(folder: Path) -> Tensors:
    return {name: array for file in folder.glob("*.safetensors") for name, array in mx.load(str(file)).items()}


def renamed(source: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    return saved(folder, source / "config.json", {rename(name): array for name, array in read(source).items()})


def logits(folder: Path) -> mx.array:
    return load_model(folder, dtype="float32")(mx.array([[5, 17, 250, 3, 9]]))


PREFIXES = {
    "language_model.": lambda name: f"language_model.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "module.": lambda name: f"module.{name}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "several": lambda name: f"module._orig_mod.base_model.model.{name}",
    "none, not even model.": lambda name: name.removeprefix("model."),
    "inside model., without the head": lambda name: name.replace("model.", "model.language_model."),
    "each layer compiled": lambda name: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name),
    "each module sharded": lambda name: re.sub(r"\.(self_attn|mlp)\.", r"._fsdp_wrapped_module.\1.", name),
    "router.linear": lambda name: name.replace(".mlp.router.", ".mlp.router.linear."),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["hf", "mlx"])
def test_a_prefix_of_all_names_and_wrappers_between_them_do_no_harm(release, folder, tmp_path, layout, prefix):
    source = folder("tiny") if layout == "mlx" else release("tiny", "hf")
    wrapped = renamed(source, tmp_path / "wrapped", PREFIXES[prefix])
    assert mx.array_equal(logits(wrapped), logits(source))
    convert(wrapped, tmp_path / "converted", ConvertOptions(verify=True))
    expected, made = read(folder("tiny")), read(tmp_path / "converted")
    assert set(made) == set(expected) and all(mx.array_equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_prefix_before_openai_s_names_does_no_harm_either(release, tmp_path, prefix):
    source = release("tiny", "original")
    wrapped = renamed(source, tmp_path / "wrapped", lambda name: prefix + name)
    assert mx.array_equal(logits(wrapped), logits(source))


def test_two_prefixes_are_not_one_and_a_tensor_that_is_there_is_named(release, tmp_path):
    def rename(name: str) -> str:
        return f"module.{name}" if ".layers.1." in name else name

    with pytest.raises(CheckpointError, match=r"and module\.model\.layers\.1\..*, which is there, is not part of"):
        open_model(renamed(release("tiny", "hf"), tmp_path / "two", rename))


def test_a_tensor_under_two_names_is_told(release, tmp_path):
    tensors = read(release("tiny", "hf"))
    tensors["_orig_mod.lm_head.weight"] = tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match="are one tensor of the model under two names"):
        open_model(saved(tmp_path / "twice", release("tiny", "hf") / "config.json", tensors))


def test_a_renamed_tensor_is_named_with_the_one_that_is_missing(release, tmp_path):
    wrong = renamed(release("tiny", "hf"), tmp_path / "wrong", lambda name: name.replace("sinks", "sink_logits"))
    with pytest.raises(CheckpointError, match=r"self_attn\.sinks is missing, and .*self_attn\.sink_logits, which is"):
        open_model(wrong)


def test_weights_of_an_adapter_that_is_not_merged_are_told(release, tmp_path):
    def rename(name: str) -> str:
        return f"base_model.model.{name}".replace("q_proj.weight", "q_proj.base_layer.weight")

    with pytest.raises(CheckpointError, match=r"q_proj\.base_layer\.weight belongs to a LoRA adapter"):
        open_model(renamed(release("tiny", "hf"), tmp_path / "peft", rename))


def as_layers(tensors: Tensors, names: str) -> Tensors:
    """Dense experts as a layer for each, with gate and up in one ("both") or in two ("each"), (rows, columns)."""
    made: Tensors = {}
    for name, array in tensors.items():
        if not (match := re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up|down)_proj(_bias)?", name)):
            made[name.replace(".mlp.router.", ".mlp.router.linear.") if names == "both" else name] = array
            continue
        path, kind, suffix = match[1], match[2], "bias" if match[3] else "weight"
        for expert, values in enumerate(array):
            rows = values if suffix == "bias" else mx.contiguous(values.T)
            if names == "both":
                made[f"{path}.{kind}_projs.{expert}.{suffix}"] = rows
            elif kind == "down":
                made[f"{path}.{expert}.down_proj.{suffix}"] = rows
            else:
                for first, half in enumerate(("gate", "up")):
                    made[f"{path}.{expert}.{half}_proj.{suffix}"] = mx.contiguous(rows[first::2])
    return made


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
@pytest.mark.parametrize("names", ["both", "each"])
def test_experts_that_are_single_layers_are_converted_as_if_they_were_one_tensor(
    release, tmp_path, names, dtype, prefix
):
    source = release("tiny", "bf16")
    tensors = {prefix + name: array.astype(dtype) for name, array in as_layers(read(source), names).items()}
    layers = saved(tmp_path / "layers", source / "config.json", tensors)
    with pytest.raises(CheckpointError, match=f"its experts are not quantised.*mlx-oss convert {layers} DST"):
        open_model(layers)
    reports = [convert(path, tmp_path / name) for name, path in (("one", source), ("many", layers))]
    one, many = (read(tmp_path / name) for name in ("one", "many"))
    assert set(one) == set(many) and all(mx.array_equal(one[name], many[name]) for name in one)
    assert reports[0].errors == reports[1].errors
    assert "experts not quantised" in reports[1].layout


def test_layers_partly_mxfp4_and_partly_floats_are_converted_each_as_it_is(release, folder, tmp_path):
    """Layer 0 is MXFP4, layer 1 is dense, and layer 2 has dense gate and up, and down in layers."""
    mxfp4, dense = read(release("tiny", "hf")), read(release("tiny", "bf16"))
    layers = as_layers(dense, "both")

    def keep(tensors: Tensors, pattern: str) -> Tensors:
        return {name: array for name, array in tensors.items() if re.search(pattern, name)}

    tensors = keep(mxfp4, r"^(?!.*layers)|layers\.0\.") | keep(dense, r"layers\.1\.")
    tensors |= keep(dense, r"layers\.2\.(?!.*experts\.down)") | keep(layers, r"layers\.2\..*down_projs")
    mixed = saved(tmp_path / "mixed", release("tiny", "hf") / "config.json", tensors)
    with pytest.raises(CheckpointError, match="some of its experts are not quantised"):
        open_model(mixed)
    report = convert(mixed, tmp_path / "converted", ConvertOptions(verify=True))
    expected, made = read(folder("tiny")), read(tmp_path / "converted")
    assert set(made) == set(expected) and all(mx.array_equal(made[name], expected[name]) for name in made)
    assert {name.split(".")[2] for name in report.errors} == {"1", "2"}


@pytest.mark.parametrize("every", [True, False])
def test_dense_experts_under_openai_s_names_are_converted_too(release, folder, tmp_path, every):
    """As they are in gpt_oss/torch/model.py: not transposed. Or those of one layer, beside MXFP4."""
    tensors, dense = read(release("tiny", "original")), read(release("tiny", "bf16"))
    for n in LAYERS if every else [1]:
        for name, theirs in (("gate_up", "mlp1"), ("down", "mlp2")):
            path = f"block.{n}.mlp.{theirs}_weight"
            del tensors[f"{path}.blocks"], tensors[f"{path}.scales"]
            tensors[path] = mx.contiguous(dense[f"model.layers.{n}.mlp.experts.{name}_proj"].swapaxes(1, 2))
    source = saved(tmp_path / "source", release("tiny", "original") / "config.json", tensors)
    with pytest.raises(CheckpointError, match="its experts are not quantised"):
        open_model(source)
    convert(source, tmp_path / "converted", ConvertOptions(verify=True))
    expected, made = read(folder("tiny")), read(tmp_path / "converted")
    assert set(made) == set(expected) and all(mx.array_equal(made[name], expected[name]) for name in made)


def test_an_expert_that_is_missing_among_single_layers_is_named(release, tmp_path):
    tensors = as_layers(read(release("tiny", "bf16")), "both")
    del tensors["model.layers.1.mlp.experts.gate_up_projs.3.weight"]
    source = saved(tmp_path / "short", release("tiny", "bf16") / "config.json", tensors)
    with pytest.raises(
        CheckpointError, match=r"tensor model\.layers\.1\.mlp\.experts\.gate_up_projs\.3\.weight is miss"
    ):
        open_checkpoint(source)


def test_a_tensor_is_missing_however_many_experts_a_config_names(release, tmp_path):
    tensors = as_layers(read(release("tiny", "bf16")), "both")
    del tensors["model.embed_tokens.weight"]
    source = saved(tmp_path / "many", release("tiny", "bf16") / "config.json", tensors)
    config = json.loads((source / "config.json").read_text()) | {"num_local_experts": 2**31 - 1}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"tensor model\.embed_tokens\.weight is missing"):
        open_checkpoint(source)


def with_dtypes(source: Path, folder: Path, dtypes: dict[str, str]) -> Path:
    """A copy of a checkpoint in one file in which tensors have other dtypes, by the ending of their names."""
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    data = (source / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        for ending, dtype in dtypes.items():
            if name.endswith(ending):
                entry["dtype"] = dtype
                if dtype == "F4":
                    entry["shape"][-1] *= 2
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return folder


@pytest.mark.parametrize("blocks", ["U8", "I8", "F4"])
@pytest.mark.parametrize("scales", ["U8", "I8", "F8_E8M0"])
@pytest.mark.parametrize("layout", ["hf", "original"])
def test_mxfp4_under_any_name_of_its_bits_is_read(release, folder, tmp_path, layout, blocks, scales):
    named = with_dtypes(release("tiny", layout), tmp_path / "named", {"blocks": blocks, "scales": scales})
    assert mx.array_equal(logits(named), logits(release("tiny", layout)))
    convert(named, tmp_path / "converted", ConvertOptions(verify=True))
    expected, made = read(folder("tiny")), read(tmp_path / "converted")
    assert set(made) == set(expected) and all(mx.array_equal(made[name], expected[name]) for name in made)


def test_blocks_in_rows_of_another_shape_are_read(release, tmp_path):
    tensors = read(release("tiny", "hf"))
    for name in [name for name in tensors if name.endswith("_blocks")]:
        tensors[name] = tensors[name].flatten(-2)
    flat = saved(tmp_path / "flat", release("tiny", "hf") / "config.json", tensors)
    assert mx.array_equal(logits(flat), logits(release("tiny", "hf")))


@pytest.mark.parametrize(
    ("ending", "dtype"), [("scales", "F8_E4M3"), ("blocks", "F8_E8M0"), ("sinks", "I16"), ("down_proj_bias", "U16")]
)
def test_other_bits_are_not_taken_for_the_same(release, tmp_path, ending, dtype):
    with pytest.raises(CheckpointError, match=rf"{ending} is {dtype}, expected"):
        open_model(with_dtypes(release("tiny", "hf"), tmp_path / "other", {ending: dtype}))


def test_an_mlx_folder_s_words_may_be_signed_and_its_scales_e8m0(folder, tmp_path):
    source = saved(tmp_path / "one", folder("tiny") / "config.json", read(folder("tiny")))
    dtypes = {
        f"{name}_proj.{suffix}": dtype
        for name in ("gate", "up", "down")
        for suffix, dtype in (("weight", "I32"), ("scales", "F8_E8M0"))
    }
    assert mx.array_equal(logits(with_dtypes(source, tmp_path / "named", dtypes)), logits(source))


@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_a_nan_among_nvfp4_s_scales_is_told(folder, tmp_path, byte):
    tensors = read(folder("tiny"))
    weight, scales = mx.quantize(tensors["lm_head.weight"], group_size=16, bits=4, mode="nvfp4")
    for value in (0x7E, byte):
        scales[150, 2] = value
        tensors |= {"lm_head.weight": weight, "lm_head.scales": scales}
        path = saved(tmp_path / f"{value}", folder("tiny") / "config.json", tensors)
        if value == 0x7E:
            load_model(path, dtype="float32")
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.scales holds a NaN scale: .*earlier checkpoint"):
        load_model(path, dtype="float32")


def put_below(source: Path, *parts: str) -> Path:
    below = source.joinpath(*parts)
    write_checkpoint(below)
    return below


@pytest.mark.parametrize(
    ("below", "meant"),
    [
        (["original"], "original"),
        (["metal", "original"], "original"),
        (["checkpoint-500"], "checkpoint-500"),
        (["checkpoint-500", "checkpoint-1000", "checkpoint-90"], "checkpoint-1000"),
        (["snapshots/0a1b"], "snapshots/0a1b"),
        (["snapshots/0a1b", "snapshots/9f"], "snapshots/9f"),
        (["models--openai--gpt-oss-20b/snapshots/0a1b"], "models--openai--gpt-oss-20b/snapshots/0a1b"),
        (["deep/down/below"], "deep/down/below"),
    ],
)
def test_a_folder_above_a_model_names_the_model_s(tmp_path, below, meant):
    for path in below:
        put_below(tmp_path, path)
        if "snapshots/" in path:
            (tmp_path / path).parent.parent.joinpath("refs").mkdir(exist_ok=True)
            (tmp_path / path).parent.parent.joinpath("refs", "main").write_text(Path(path).name)
    with pytest.raises(CheckpointError, match="holds no weights, but") as caught:
        open_model(tmp_path)
    given = str(caught.value).rpartition("give ")[2]
    assert given == str(tmp_path / meant)
    assert open_model(given)


def test_a_folder_that_is_a_link_to_nowhere_is_told_as_one(tmp_path):
    (tmp_path / "link").symlink_to("absent")
    with pytest.raises(CheckpointError, match=r"link is a link to 'absent', which is not there: give the folder"):
        open_model(tmp_path / "link")


def test_a_file_of_a_model_names_its_folder(release):
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(CheckpointError, match="is a file of a model") as caught:
            open_model(release("tiny", "hf") / name)
        assert open_model(str(caught.value).rpartition("give its folder, ")[2])


def test_looking_below_a_folder_ends_after_a_number_of_folders(tmp_path, monkeypatch):
    for name in ("a/x", "a/y", "b/x", "b/y", "c"):
        (tmp_path / name).mkdir(parents=True)
    put_below(tmp_path, "a/x/z")  # the eighth folder, level by level
    monkeypatch.setattr("mlx_oss.weights.layouts.folders._MOST", 8)
    with pytest.raises(CheckpointError, match=r"a/x/z/ does: give"):
        open_model(tmp_path)
    monkeypatch.setattr("mlx_oss.weights.layouts.folders._MOST", 7)
    with pytest.raises(CheckpointError, match=r"contains no \*\.safetensors"):
        open_model(tmp_path)


def test_looking_below_a_folder_ends_soon_and_follows_no_link(tmp_path):
    put_below(tmp_path / "elsewhere")
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "a" / "b" / "c").mkdir(parents=True)
    put_below(tmp_path / "top" / "a" / "b" / "c" / "d")
    with pytest.raises(CheckpointError, match=r"contains no \*\.safetensors"):
        open_model(tmp_path / "top")
