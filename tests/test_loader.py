"""Loading: only folders with exactly what the config requires; folders quantised by mlx-lm; fused modules."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_oss import load_model
from mlx_oss.backend.device import on_gpu
from mlx_oss.convert import convert
from mlx_oss.errors import CheckpointError, ConfigError, OptionError
from mlx_oss.weights.safetensors import INDEX
from tests.synthetic import TINY, write_checkpoint

Tensors = dict[str, mx.array]

TOLERANCE = 1e-4
AFFINE_8 = {"group_size": 64, "bits": 8, "mode": "affine"}
AFFINE_4 = {"group_size": 64, "bits": 4, "mode": "affine"}
# A model in which every quantised width is a multiple of 64, as in the releases.
EVEN = TINY | {"num_hidden_layers": 2, "num_local_experts": 6, "num_experts_per_tok": 3, "vocab_size": 307}
EVEN |= {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "head_dim": 32,
}


def read(folder: Path) -> tuple[dict[str, Any], Tensors]:
    tensors: Tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(mx.load(str(file)))
    return json.loads((folder / "config.json").read_text()), tensors


def write(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    return folder


@pytest.fixture
def changed(folder, tmp_path) -> Callable[..., Path]:
    """changed(edit): a copy of the tiny folder after edit(config, tensors) has changed the two in place."""

    def make(edit: Callable[[dict[str, Any], Tensors], Any]) -> Path:
        config, tensors = read(folder("tiny"))
        edit(config, tensors)
        return write(tmp_path / "changed", config, tensors)

    return make


@pytest.fixture(scope="module")
def even(tmp_path_factory) -> Path:
    """A converted folder of the shape EVEN."""
    base = tmp_path_factory.mktemp("even")
    convert(write_checkpoint(base / "release", EVEN), base / "model")
    return base / "model"


def quantized(source: Path, target: Path, entry_of: Callable[[str], dict[str, Any] | None]) -> tuple[Path, Path]:
    """Writes two folders: modules of `source` quantised by MLX as entry_of(path) requires, and dequantised again."""
    config, tensors = read(source)
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith(".weight")]:
        path = name.removesuffix(".weight")
        if (entry := entry_of(path)) is None:
            continue
        parts = mx.quantize(tensors[name], **entry)
        tensors |= dict(zip((f"{path}.{s}" for s in ("weight", "scales", "biases")), parts, strict=True))
        plain[name] = mx.dequantize(parts[0], *(part.astype(mx.float32) for part in parts[1:]), **entry)
        config["quantization"][path] = entry
    config["quantization_config"] = config["quantization"]  # mlx-lm writes both keys
    return write(target, config, tensors), write(target.with_suffix(".plain"), read(source)[0], plain)


def logits(folder: Path, dtype: str = "float32") -> np.ndarray:
    model = load_model(folder, dtype=dtype)
    tokens = np.random.default_rng(7).integers(0, model.config.vocab_size, (1, 40))
    return np.array(model(mx.array(tokens)).astype(mx.float32))


def error_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def test_an_unchanged_copy_loads(folder, changed):
    """So what the next tests change is the only reason for the refusals they expect."""
    copied = changed(lambda config, tensors: None)
    assert np.array_equal(logits(copied), logits(folder("tiny")))


def all_tensors() -> list[str]:
    """The name of one tensor of each kind."""
    layer = "model.layers.2."
    parts = [f"self_attn.{part}" for part in ("q_proj.weight", "k_proj.bias", "v_proj.weight", "o_proj.bias", "sinks")]
    parts += [f"mlp.router.{part}" for part in ("weight", "bias")]
    parts += [f"mlp.experts.{p}_proj.{part}" for p in ("gate", "up", "down") for part in ("weight", "scales", "bias")]
    parts += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    return [*(layer + part for part in parts), "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize("name", all_tensors())
def test_a_missing_tensor_is_named(changed, name):
    path = changed(lambda config, tensors: tensors.pop(name))
    message = error_of(path)
    assert name.removesuffix(".scales") in message and str(path) in message


@pytest.mark.parametrize("name", all_tensors())
def test_a_tensor_of_another_shape_is_named_with_both_shapes(changed, name):
    shapes = []

    def lengthen(config: dict[str, Any], tensors: Tensors) -> None:
        longer = mx.concatenate([tensors[name], tensors[name][:1]])
        shapes.extend([longer.shape, tensors[name].shape])
        tensors[name] = longer

    message = error_of(changed(lengthen))
    assert f"tensor {name} has shape {shapes[0]}, but config.json requires {shapes[1]}" in message


@pytest.mark.parametrize("name", all_tensors())
def test_a_transposed_tensor_is_named(changed, name):
    """No matrix of the tiny model is square. A vector is shortened instead."""

    def transpose(config: dict[str, Any], tensors: Tensors) -> None:
        tensors[name] = (
            mx.contiguous(mx.swapaxes(tensors[name], -1, -2)) if tensors[name].ndim > 1 else tensors[name][1:]
        )

    assert f"tensor {name} has shape" in error_of(changed(transpose))


@pytest.mark.parametrize("name", all_tensors())
def test_a_tensor_of_another_dtype_is_named(changed, name):
    message = error_of(changed(lambda config, tensors: tensors.update({name: tensors[name].astype(mx.int16)})))
    assert f"tensor {name} is I16, expected" in message


@pytest.mark.parametrize(
    "name",
    ["lm_head.bias", "model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.rope"],
)
def test_an_unknown_tensor_is_named(changed, name):
    assert f"tensor {name} is not part of" in error_of(
        changed(lambda c, tensors: tensors.update({name: mx.zeros((4,))}))
    )


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("num_hidden_layers", 2, "tensor model.layers.2.input_layernorm.weight is not part of"),
        ("num_hidden_layers", 4, "tensor model.layers.3.input_layernorm.weight is missing"),
        ("vocab_size", 301, "tensor model.embed_tokens.weight has shape (300, 96), but config.json requires (301, 96)"),
        ("head_dim", 42, "tensor model.layers.0.self_attn.q_proj.weight has shape (240, 96)"),
        ("num_attention_heads", 8, "tensor model.layers.0.self_attn.q_proj.weight has shape (240, 96)"),
        ("num_local_experts", 4, "tensor model.layers.0.mlp.router.weight has shape (5, 96)"),
        (
            "intermediate_size",
            128,
            "tensor model.layers.0.mlp.experts.gate_proj.weight has shape (5, 160, 12)",
        ),
    ],
)
def test_a_config_of_another_model_is_refused(changed, key, value, named):
    def edit(config: dict[str, Any], tensors: Tensors) -> None:
        config[key] = value
        del config["layer_types"]

    assert named in error_of(changed(edit))


def test_without_a_quantization_entry_the_shapes_say_how_experts_are_quantised(changed, folder):
    path = changed(lambda config, tensors: config.pop("quantization"))
    tokens = mx.array([[5, 17, 250, 3, 9]])
    assert mx.array_equal(*(load_model(each, dtype="float32")(tokens) for each in (path, folder("tiny"))))


@pytest.mark.parametrize("projections", [("up_proj",), ("gate_proj", "up_proj"), ("down_proj",)])
def test_experts_that_are_not_quantised_give_the_same_answers(folder, changed, projections):
    """As mlx-lm fuses an adapter with `--dequantize`: in one layer, and one of gate and up without the other."""

    def dense(config: dict[str, Any], tensors: Tensors) -> None:
        for path in (f"model.layers.1.mlp.experts.{name}" for name in projections):
            packed, scales = tensors.pop(f"{path}.weight"), tensors.pop(f"{path}.scales")
            tensors[f"{path}.weight"] = mx.dequantize(packed, scales, group_size=32, bits=4, mode="mxfp4")

    tokens = mx.array([[5, 17, 250, 3, 9]])
    ours, wanted = (np.array(load_model(path, dtype="float32")(tokens)) for path in (changed(dense), folder("tiny")))
    assert np.abs(ours - wanted).max() < TOLERANCE


def test_a_quantised_norm_is_refused(changed):
    name = "model.layers.1.input_layernorm.scales"
    assert "input_layernorm with 96 columns is quantised" in error_of(
        changed(lambda c, tensors: tensors.update({name: mx.zeros((1,))}))
    )


def test_groups_that_do_not_divide_the_width_are_refused(changed):
    """Hidden size 96 in groups of 64: the shapes would match if the number of groups were rounded down."""

    def odd(config: dict[str, Any], tensors: Tensors) -> None:
        config["quantization"]["lm_head"] = AFFINE_8
        tensors |= {"lm_head.weight": mx.zeros((300, 24), mx.uint32)}
        tensors |= {f"lm_head.{part}": mx.zeros((300, 1)) for part in ("scales", "biases")}

    assert "lm_head with 96 columns is quantised in a way that is not MLX's" in error_of(changed(odd))


def test_gate_and_up_quantised_differently_give_much_the_same_answers(even, tmp_path):
    config, tensors = read(even)
    path = "model.layers.1.mlp.experts.up_proj"
    values = mx.dequantize(tensors[f"{path}.weight"], tensors[f"{path}.scales"], group_size=32, bits=4, mode="mxfp4")
    parts = mx.quantize(values, **AFFINE_8)
    tensors |= dict(zip((f"{path}.{s}" for s in ("weight", "scales", "biases")), parts, strict=True))
    config["quantization"][path] = AFFINE_8
    mixed = load_model(write(tmp_path / "mixed", config, tensors), dtype="float32")
    tokens = mx.array([[5, 17, 250, 3, 9]])
    ours, wanted = (np.array(model(tokens)) for model in (mixed, load_model(even, dtype="float32")))
    assert 0 < np.abs(ours - wanted).max() < 0.1


@pytest.mark.parametrize(("layout", "reason"), [("bf16", "experts are not quantised"), ("metal", "in another order")])
def test_a_layout_that_cannot_be_loaded_is_refused_with_the_reason_and_the_command(release, layout, reason):
    path = release("tiny", layout)
    assert reason in error_of(path) and f"`mlx-oss convert {path} DST`" in error_of(path)


def test_a_git_lfs_pointer_is_called_one(folder, tmp_path):
    copied = shutil.copytree(folder("tiny"), tmp_path / "clone")
    shard = next(copied.glob("*.safetensors"))
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4792272488\n")
    assert f"{shard} is a Git LFS pointer" in error_of(copied)


def test_a_folder_without_config_or_weights_or_existence_is_refused(folder, tmp_path):
    assert "does not exist" in error_of(tmp_path / "absent")
    assert f"is a file of a model: give its folder, {folder('tiny')}" in error_of(folder("tiny") / "config.json")
    assert "no *.safetensors" in error_of(tmp_path)
    copied = shutil.copytree(folder("tiny"), tmp_path / "bare")
    (copied / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        load_model(copied)


def test_a_truncated_shard_and_a_lying_index_are_refused(folder, tmp_path):
    copied = shutil.copytree(folder("tiny"), tmp_path / "copy")
    index = json.loads((copied / INDEX).read_text())
    (copied / INDEX).write_text(
        json.dumps(index | {"weight_map": index["weight_map"] | {"extra": "model.safetensors"}})
    )
    assert INDEX in error_of(copied)
    (copied / INDEX).unlink()
    shard = next(copied.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} is truncated" in error_of(copied)


def test_weights_are_fused_in_the_order_the_model_splits_them(folder):
    _, tensors = read(folder("tiny"))
    model = load_model(folder("tiny"), dtype="float32")
    for n, layer in enumerate(model.transformer.layers):
        attention, experts = f"model.layers.{n}.self_attn", f"model.layers.{n}.mlp.experts"
        for part in ("weight", "bias"):
            joined = mx.concatenate([tensors[f"{attention}.{x}_proj.{part}"] for x in "qkv"])
            assert mx.array_equal(layer.self_attn.qkv_proj[part], joined.astype(mx.float32))
        for part in ("weight", "scales", "bias"):
            joined = mx.concatenate([tensors[f"{experts}.{x}_proj.{part}"] for x in ("gate", "up")], axis=1)
            fused = layer.mlp.experts.gate_up_proj[part]
            assert mx.array_equal(fused, joined.astype(fused.dtype))
        assert layer.mlp.experts.gate_up_proj.weight.dtype == mx.uint32


def test_no_thread_that_may_end_draws_random_numbers(folder, monkeypatch):
    """MLX keeps their state by threads, and a thread that ends while the process exits then aborts it."""
    drawing, normal, uniform = set[str](), mx.random.normal, mx.random.uniform

    def recorded(draw):
        return lambda *args, **options: (drawing.add(threading.current_thread().name), draw(*args, **options))[1]

    monkeypatch.setattr(mx.random, "normal", recorded(normal))
    monkeypatch.setattr(mx.random, "uniform", recorded(uniform))
    loading = threading.Thread(target=load_model, args=(folder("tiny"),), name="loading")
    loading.start()
    loading.join()
    assert drawing == {"mlx-oss"}


def test_auto_is_bfloat16_on_a_gpu_and_float32_on_the_cpu(folder, request):
    expected = request.config.getoption("--gpu-branch") or ("bfloat16" if on_gpu() else "float32")
    assert load_model(folder("tiny")).dtype == getattr(mx, expected)


@pytest.mark.parametrize(("name", "dtype"), [("float32", mx.float32), ("bfloat16", mx.bfloat16)])
def test_floats_are_in_the_dtype_asked_for_and_matrices_as_stored_where_the_layer_upcasts(folder, name, dtype):
    model = load_model(folder("tiny"), dtype=name)
    matrices, others = set(), set()
    for path, array in tree_flatten(model.transformer.parameters()):
        if mx.issubdtype(array.dtype, mx.floating) and path != "embed_tokens.weight":
            is_matrix = path.endswith("weight") and array.ndim == 2
            (matrices if is_matrix else others).add(array.dtype)
    assert others == {dtype} and model.dtype == dtype
    assert matrices == {dtype if on_gpu() else mx.bfloat16}
    assert model.transformer.embed_tokens.weight.dtype == mx.bfloat16
    assert model(mx.array([[1, 2]])).dtype == dtype


def test_bfloat16_is_close_to_float32(shape, folder):
    """bfloat16 has 8 significant bits, so each of the dozen or so roundings in a layer has an error of up to 2^-9.

    The test uses the median over the positions, because rounding may route a token to another expert if two experts
    have almost the same score.
    """
    exact, rounded = logits(folder(shape)), logits(folder(shape), "bfloat16")
    errors = np.sqrt(((exact - rounded) ** 2).mean(-1)) / exact.std()
    assert 1e-6 < np.median(errors) < 0.03


@pytest.mark.parametrize("dtype", ["float16", "int8", "", None])
def test_another_dtype_is_refused(folder, dtype):
    with pytest.raises(OptionError, match="expected auto, float32 or bfloat16"):
        load_model(folder("tiny"), dtype=dtype)


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_weights_in_another_float_format_load(folder, changed, dtype):
    def cast(config: dict[str, Any], tensors: Tensors) -> None:
        tensors |= {name: a.astype(dtype) for name, a in tensors.items() if a.dtype == mx.bfloat16}

    tolerance = TOLERANCE if dtype == mx.float32 else 0.01  # float16 rounds the smallest values
    assert np.abs(logits(changed(cast)) - logits(folder("tiny"))).max() < tolerance


def is_rest(path: str) -> bool:
    """True for the modules that mlx-lm quantises in addition to the experts, which are quantised already."""
    return not path.endswith("norm") and ".experts." not in path


def test_a_folder_with_the_rest_in_8_bit_gives_the_logits_of_its_values(even, tmp_path):
    """The layout of mlx-community/gpt-oss-20b-MXFP4-Q8."""
    packed, plain = quantized(even, tmp_path / "q8", lambda path: AFFINE_8 if is_rest(path) else None)
    assert np.abs(logits(packed) - logits(plain)).max() < TOLERANCE
    model = load_model(packed, dtype="float32")
    qkv, embedding = model.transformer.layers[0].self_attn.qkv_proj, model.transformer.embed_tokens
    assert qkv.weight.dtype == embedding.weight.dtype == mx.uint32
    assert np.abs(logits(packed) - logits(even)).max() > TOLERANCE  # quantising did change the model


def test_q_and_k_in_different_bits_give_the_logits_of_their_values(even, tmp_path):
    """The scales are bfloat16, but the dequantised values need float32."""
    bits = {"q_proj": AFFINE_8, "k_proj": AFFINE_4, "lm_head": AFFINE_4, "embed_tokens": AFFINE_8}
    packed, plain = quantized(even, tmp_path / "mixed", lambda path: bits.get(path.rpartition(".")[2]))
    assert np.abs(logits(packed) - logits(plain)).max() < TOLERANCE


def test_one_quantised_layer_among_plain_ones_gives_the_logits_of_its_values(even, tmp_path):
    def entry(path: str) -> dict[str, Any] | None:
        return AFFINE_4 if path.startswith("model.layers.1.") and is_rest(path) else None

    packed, plain = quantized(even, tmp_path / "layer", entry)
    assert np.abs(logits(packed) - logits(plain)).max() < TOLERANCE


def test_experts_in_affine_bits_give_the_logits_of_their_values(even, tmp_path):
    """Compares affine experts, as mlx-lm can write them, with MXFP4 experts of the same values.

    Affine 4-bit values with scale 2^e and bias 0 are the multiples of 2^e up to 15 * 2^e. MXFP4 can represent those
    with the factors 0, 1, 2, 3, 4 and 6.
    """
    config, tensors = read(even)
    affine, mxfp4 = dict(tensors), dict(tensors)
    rng = np.random.default_rng(8)
    for path in [
        name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight") and ".experts." in name
    ]:
        shape = tensors[f"{path}.weight"].shape  # in words of eight values
        codes = rng.choice([0, 1, 2, 3, 4, 6], (*shape, 8)).astype(np.uint32)
        of_mxfp4 = np.array([0, 2, 4, 5, 6, 0, 7], np.uint32)[codes]
        places = 4 * np.arange(8, dtype=np.uint32)
        affine[f"{path}.weight"] = mx.array((codes << places).sum(-1, dtype=np.uint32))
        mxfp4[f"{path}.weight"] = mx.array((of_mxfp4 << places).sum(-1, dtype=np.uint32))
        groups = (*shape[:-1], shape[-1] // 4)
        mxfp4[f"{path}.scales"] = mx.full(groups, 127 - 6, mx.uint8)
        affine[f"{path}.scales"] = mx.full(groups, 2.0**-6, mx.bfloat16)
        affine[f"{path}.biases"] = mx.zeros(groups, mx.bfloat16)
    in_mxfp4 = logits(write(tmp_path / "mxfp4", config, mxfp4))
    config["quantization"] = {"group_size": 32, "bits": 4, "mode": "affine"}
    assert np.abs(logits(write(tmp_path / "affine", config, affine)) - in_mxfp4).max() < TOLERANCE


@pytest.mark.parametrize("name", ["mlp.experts.up_proj.bias", "self_attn.k_proj.bias", "self_attn.k_proj.weight"])
def test_parts_that_differ_in_their_float_format_only_are_joined_as_they_are(folder, changed, name):
    """Quantised parts stay quantised."""

    def widen(_: dict[str, Any], tensors: Tensors) -> None:
        tensors[f"model.layers.0.{name}"] = tensors[f"model.layers.0.{name}"].astype(mx.float32)

    path = changed(widen)
    # Products with values of another format are added up in another order.
    assert np.abs(logits(path) - logits(folder("tiny"))).max() < TOLERANCE
    held = dict(tree_flatten(load_model(path).transformer.parameters()))
    assert held["layers.0.mlp.experts.gate_up_proj.weight"].dtype == mx.uint32
    assert load_model(path).plan.weight_bytes == sum(a.nbytes for a in held.values())
