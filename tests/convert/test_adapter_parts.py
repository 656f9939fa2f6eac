"""What PEFT saves beside LoRA factors: whole modules, biases, lengths for DoRA. And all of it against PEFT itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError
from mlx_oss.loader import load_model
from tests.convert.test_adapter_kinds import EVEN, HEAD, adapter_of, close, random
from tests.convert.test_adapters import RANK, values
from tests.synthetic import write_checkpoint
from tests.weights.test_fine_tunes import read

PREFIX, ATTENTION = "base_model.model.", "model.layers.1.self_attn."
ROUTER, NORM = "model.layers.1.mlp.router.", "model.layers.1.input_layernorm.weight"


@pytest.fixture
def source(release) -> Path:
    return release("tiny", "hf")


def factors(module: str, rows: int, columns: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a module as PEFT names them."""
    found = {"lora_A.weight": random(RANK, columns), "lora_B.weight": random(rows, RANK)}
    found |= {name.replace("__", "."): array for name, array in more.items()}
    return {f"{PREFIX}{module}{name}": array for name, array in found.items()}


def rounded(array: np.ndarray) -> np.ndarray:
    return np.array(mx.array(array).astype(mx.bfloat16).astype(mx.float32))


TRAINED = {
    "model.embed_tokens.weight": (300, 96),
    "lm_head.weight": (300, 96),
    "model.norm.weight": (96,),
    NORM: (96,),
    f"{ROUTER}weight": (5, 96),
    f"{ROUTER}bias": (5,),
    f"{ATTENTION}q_proj.weight": (240, 96),
    f"{ATTENTION}q_proj.bias": (240,),
    f"{ATTENTION}o_proj.weight": (96, 240),
    f"{ATTENTION}sinks": (6,),
}


@pytest.mark.parametrize("layout", ["hf", "original", "metal", "mlx"])
def test_modules_that_were_trained_themselves_take_the_place_of_the_models(release, folder, tmp_path, layout):
    source = folder("tiny") if layout == "mlx" else release("tiny", layout)
    arrays = {name: random(*shape) for name, shape in TRAINED.items()}
    adapter = adapter_of(tmp_path / "adapter", {PREFIX + name: array for name, array in arrays.items()})
    report = convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    convert(source, tmp_path / "plain")
    made, plain = read(tmp_path / "mlx"), read(tmp_path / "plain")
    for name, array in arrays.items():
        assert np.array_equal(np.array(made[name].astype(mx.float32)), rounded(array)), name
        assert report.losses[name] == "rounded"
    assert all(mx.array_equal(made[name], plain[name]) for name in plain.keys() - arrays.keys())
    assert np.isfinite(np.array(load_model(tmp_path / "mlx", dtype="float32")(mx.array([[1, 2]])))).all()


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("lm_head.", "lm_head.modules_to_save.default."),
        lambda name: name.replace("lm_head.", "lm_head.modules_to_save."),
        lambda name: name.replace(".mlp.router.", ".mlp.router.linear."),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
        lambda name: name.replace("base_model.model.", ""),
    ],
)
def test_a_trained_module_is_known_by_whatever_wraps_it(source, tmp_path, rename):
    names = ("lm_head.weight", f"{ROUTER}weight", f"{ROUTER}bias", f"{ATTENTION}sinks")
    arrays = {name: random(*TRAINED[name]) for name in names}
    adapter = adapter_of(tmp_path / "adapter", {rename(PREFIX + name): array for name, array in arrays.items()})
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))
    assert all(np.array_equal(values(tmp_path / "mlx", name), rounded(array)) for name, array in arrays.items())


def test_a_trained_module_stays_quantised_where_the_models_was(tmp_path):
    write_checkpoint(tmp_path / "source", EVEN)
    convert(tmp_path / "source", tmp_path / "q8", ConvertOptions(profile="q8"))
    adapter = adapter_of(tmp_path / "adapter", {f"{PREFIX}lm_head.weight": random(300, 128)})
    report = convert(tmp_path / "q8", tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    made, before = read(tmp_path / "mlx"), read(tmp_path / "q8")
    assert {name: (a.shape, a.dtype) for name, a in made.items()} == {n: (a.shape, a.dtype) for n, a in before.items()}
    parts = [made[f"lm_head.{part}"] for part in ("weight", "scales", "biases")]
    found = np.array(mx.dequantize(*parts, group_size=64, bits=8).astype(mx.float32))
    assert np.abs(found - random(300, 128)).max() < 0.02
    assert set(report.losses) == {"lm_head.weight"} and 0 < report.errors["lm_head.weight"] < 0.01


@pytest.mark.parametrize("where", ["base_layer.bias", "bias"])
def test_trained_biases_take_the_place_of_the_models(source, tmp_path, where):
    module, bias = f"{ATTENTION}q_proj.", random(240)
    adapter = adapter_of(tmp_path / "adapter", factors(module, 240, 96, **{where: bias}), bias="lora_only")
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    assert np.array_equal(values(tmp_path / "mlx", f"{module}bias"), rounded(bias))
    assert not np.array_equal(values(tmp_path / "mlx", f"{module}weight"), values(source, f"{module}weight"))


def test_a_bias_of_the_factors_is_added_to_that_of_the_module(source, tmp_path):
    module, shift = f"{ATTENTION}q_proj.", random(240)
    adapter = adapter_of(tmp_path / "adapter", factors(module, 240, 96, lora_B__bias=shift), lora_bias=True)
    report = convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    name = f"{module}bias"
    assert np.array_equal(values(tmp_path / "mlx", name), rounded(values(source, name) + 2 * shift))
    assert report.losses[name] == "merged" and report.errors[name] > 0


@pytest.mark.parametrize("suffix", ["", ".weight", ".default.weight"])
def test_doras_lengths_are_those_of_the_rows(source, tmp_path, suffix):
    module, lengths = f"{ATTENTION}o_proj.", np.abs(random(96)) + 1
    tensors = factors(module, 96, 240, **{f"lora_magnitude_vector{suffix}": lengths})
    adapter = adapter_of(tmp_path / "adapter", tensors, use_dora=True)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    total = values(source, f"{module}weight") + 2 * random(96, RANK) @ random(RANK, 240)
    expected = total * (lengths / np.linalg.norm(total, axis=1))[:, None]
    assert close(values(tmp_path / "mlx", f"{module}weight"), expected)


def test_pefts_doras_lengths_of_the_embedding_are_those_of_its_columns(source, tmp_path):
    a, b, lengths = random(RANK, 300), random(96, RANK), np.abs(random(96)) + 1
    prefix = f"{PREFIX}model.embed_tokens."
    tensors = {
        f"{prefix}lora_embedding_A": a,
        f"{prefix}lora_embedding_B": b,
        f"{prefix}lora_magnitude_vector": lengths,
    }
    adapter = adapter_of(tmp_path / "adapter", tensors, use_dora=True)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, verify=True))
    total = values(source, "model.embed_tokens.weight") + 2 * (b @ a).T
    expected = total * (lengths / np.linalg.norm(total, axis=0))
    assert close(values(tmp_path / "mlx", "model.embed_tokens.weight"), expected)


def test_a_row_of_zeros_stays_one(tmp_path):
    """As those of the releases' embedding and unembedding that no token uses."""
    source = write_checkpoint(tmp_path / "source", unused_rows=9)
    head = factors("lm_head.", 300, 96, lora_magnitude_vector=np.ones(300, np.float32))
    head[f"{PREFIX}lm_head.lora_B.weight"][-9:] = 0
    adapter = adapter_of(tmp_path / "adapter", head, use_dora=True)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))
    made = values(tmp_path / "mlx", "lm_head.weight")
    assert not made[-9:].any() and np.allclose(np.linalg.norm(made[:-9], axis=1), 1, rtol=0.01)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"model.layers.0.mlp.experts.down_proj": (5, 160, 96)}, "changes experts, which are stored in MXFP4"),
        ({"model.layers.0.mlp.experts.gate_up_proj_bias": (5, 320)}, "changes experts"),
        ({"model.layers.9.self_attn.sinks": (6,)}, "is no LoRA factor of a module"),
        ({"model.norm.bias": (96,)}, "is no LoRA factor of a module"),
        ({"model.embed_tokens.token_adapter.trainable_tokens_delta": (3, 96)}, "is no LoRA factor of a module"),
        ({"lm_head.weight": (301, 96)}, r"is F32 of the shape \(301, 96\), but that of the model .* \(300, 96\)"),
        ({"lm_head.weight": (300, 96), "lm_head.modules_to_save.weight": (300, 96)}, "lm_head.weight is there twice"),
        ({"lm_head.base_layer.weight": (300, 96)}, "lm_head has no lora_embedding_A: use an adapter whose saving"),
        ({"lm_head.lora_magnitude_vector": (300,)}, "lm_head has no lora_embedding_A"),
        (
            HEAD | {"lm_head.lora_B.bias": (300,)},
            "which the model does not have there: use an adapter that was trained without",
        ),
        (
            HEAD | {"lm_head.lora_magnitude_vector": (96,)},
            r"has the shape \(96,\), and the model needs \(300,\): use an adapter of this model",
        ),
    ],
)  # fmt: skip
def test_parts_that_fit_no_tensor_of_the_model_are_refused(source, tmp_path, tensors, expected):
    adapter = adapter_of(tmp_path / "adapter", {PREFIX + name: np.ones(of, np.float32) for name, of in tensors.items()})
    with pytest.raises(CheckpointError, match=expected):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


@pytest.mark.parametrize("name", ["lm_head.weight", f"{ATTENTION}q_proj.bias"])
def test_a_trained_tensor_that_is_not_finite_is_refused_by_its_name(source, tmp_path, name):
    array = random(*TRAINED[name])
    array[-1] = np.nan
    adapter = adapter_of(tmp_path / "adapter", {PREFIX + name: array})
    with pytest.raises(CheckpointError, match=f"tensor {PREFIX}{name} holds NaN or infinity"):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter))


PEFT_CASES = {
    "biases of all modules": {"target_modules": ["q_proj", "o_proj"], "bias": "all"},
    "biases of its modules": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.router.weight"],
        "bias": "lora_only",
    },
    "embedding and unembedding": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "router and norms": {"target_modules": ["q_proj"], "modules_to_save": ["router", "norm", "input_layernorm"]},
    "a whole attention": {"target_modules": ["lm_head"], "modules_to_save": ["self_attn"]},
    "DoRA": {"target_modules": ["q_proj", "lm_head", "embed_tokens"], "use_dora": True},
    "DoRA with biases": {"target_modules": ["o_proj"], "use_dora": True, "use_rslora": True, "bias": "all"},
    "LoRA with biases": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "use_rslora": True},
    "patterns": {
        "target_modules": r".*layers\.\d+\.self_attn\.(q|v)_proj",
        "rank_pattern": {r".*\.1\..*q_proj": 6},
        "alpha_pattern": {r".*layers\.[01]\.self_attn\.q_proj": 7, r"layers\.\d+\.self_attn\.(k|v)_proj": 3},
    },
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PEFT_CASES)
def test_an_adapter_is_merged_as_peft_merges_it(tmp_path, case):
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    config = transformers.GptOssConfig(
        **{name: EVEN[name] for name in EVEN if name != "num_hidden_layers"},
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model = transformers.GptOssForCausalLM(config).to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if "bias" in name or "sinks" in name:
                parameter.data.normal_(0, 0.3)
        model.save_pretrained(tmp_path / "base")
        trained = peft.get_peft_model(model.float(), peft.LoraConfig(r=4, lora_alpha=8, **PEFT_CASES[case]))
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape) * 0.2
                parameter.data += noise.abs() * parameter.data if "magnitude" in name else noise
        trained.save_pretrained(tmp_path / "adapter")
        base = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    convert(tmp_path / "base", tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter", verify=True))
    made = read(tmp_path / "mlx")
    for name, expected in merged.items():
        if ".experts." not in name:
            found, theirs = np.array(made[name].astype(mx.float32)), rounded(expected.numpy())
            assert np.abs(found - theirs).max() <= 2**-8 * np.abs(theirs).max(), name
            assert (found != theirs).mean() < 0.01, name  # sums in another order may fall on the other side of a tie
