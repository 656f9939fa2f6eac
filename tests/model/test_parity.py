"""Parity with other libraries: transformers in float32 for the mathematics, mlx-lm for the folder format."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_oss import load_model, plan
from mlx_oss.backend import device
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.model.rope import inverse_frequencies
from mlx_oss.model.transformer import Transformer
from tests import reference
from tests.reference import Tensors, read_release
from tests.shapes import SHAPES
from tests.synthetic import write_checkpoint
from tests.test_loader import EVEN

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def hugging_face_model(folder: Path, tensors: Tensors):
    """transformers' model in float32 with the dequantised tensors of a checkpoint; it stores experts transposed."""
    raw = json.loads((folder / "config.json").read_text())
    for key in ("quantization_config", "pad_token_id", "eos_token_id"):
        raw.pop(key)
    config = transformers.GptOssConfig(**raw, attn_implementation="eager")
    model = transformers.GptOssForCausalLM(config).float().eval()
    transposed = ("experts.gate_up_proj", "experts.down_proj")
    state = {n: torch.tensor(a.swapaxes(1, 2) if n.endswith(transposed) else a) for n, a in tensors.items()}
    model.load_state_dict(state, strict=True)
    return model


def tokens_of(shape: str, count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, SHAPES[shape]["vocab_size"], (1, count))


def test_logits_equal_transformers_over_300_positions(shape, release, folder):
    tokens = tokens_of(shape, 300)
    with torch.no_grad():
        expected = hugging_face_model(release(shape), read_release(release(shape)))(torch.tensor(tokens)).logits
    for layout in ("hf", "original"):
        ours = load_model(folder(shape, layout), dtype="float32")(mx.array(tokens))
        assert np.abs(np.array(ours) - expected.numpy()).max() < 1e-4


def test_logits_equal_transformers_at_position_100000(shape, release, folder, monkeypatch):
    """Equal within the error that rounding the angle causes, measured with the float64 reference.

    In float32 an angle a = position * frequency has a relative error of 2^-24 from the product, and of at most
    3 * 2^-24 from the frequency (its reciprocal is stored, and the reciprocal of that is taken): 2^-22 a in all, in
    both libraries. The allowed difference is twice the largest change of the logits in eight trials in which every
    angle is off by that much.
    """
    first, tokens = 100_000, tokens_of(shape, 40)
    tensors = read_release(release(shape))
    with torch.no_grad():
        positions = torch.arange(first, first + tokens.shape[1])[None]
        theirs = hugging_face_model(release(shape), tensors)(torch.tensor(tokens), position_ids=positions).logits
    rope = mx.fast.rope
    monkeypatch.setattr(mx.fast, "rope", lambda x, d, *, offset, **k: rope(x, d, offset=offset + first, **k))
    model = load_model(folder(shape), dtype="float32")
    ours = np.array(model(mx.array(tokens)))
    exact = reference.logits(model.config, tensors, tokens[0], first)
    rng = np.random.default_rng(11)
    moved = [
        reference.logits(
            model.config, tensors, tokens[0], first, lambda a: a * (1 + 2**-22 * rng.choice((-1, 1), a.shape))
        )
        for _ in range(8)
    ]
    allowed = 2 * max(np.abs(logits - exact).max() for logits in moved)
    assert np.abs(ours - exact).max() < allowed
    assert np.abs(ours - theirs.numpy()).max() < 2 * allowed


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The branches of a GPU, with kernels that round as a GPU's do.

    Those compute in float32 and round the result. MLX's CPU backend rounds after each operation in them, and adds up
    the products of quantised matrices in bfloat16.
    """
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    if mx.default_device().type == mx.gpu:
        return

    def wide(value):
        return value.astype(mx.float32) if isinstance(value, mx.array) and value.dtype == mx.bfloat16 else value

    def rounding_once(kernel):
        def call(x: mx.array, *others, **more) -> mx.array:
            y = kernel(wide(x), *map(wide, others), **{name: wide(value) for name, value in more.items()})
            return y.astype(x.dtype)

        return call

    monkeypatch.setattr(mx, "gather_qmm", rounding_once(mx.gather_qmm))
    for name in ("rms_norm", "rope", "scaled_dot_product_attention"):
        monkeypatch.setattr(mx.fast, name, rounding_once(getattr(mx.fast, name)))


def divergence(exact: np.ndarray, rounded: np.ndarray) -> float:
    """KL divergence in nats of the next token's distribution, as the mean over the positions. Both (..., V)."""
    p, q = (torch.tensor(logits, dtype=torch.float64).log_softmax(-1) for logits in (exact, rounded))
    return (p.exp() * (p - q)).sum(-1).mean().item()


def test_bfloat16_loses_no_more_than_transformers_in_bfloat16(as_on_a_gpu, tmp_path):
    """As the mean over four models, whose tokens go through every expert.

    If a router chose some of them, rounding could change its choice. A single other expert would count more than all
    that rounding does otherwise.
    """
    shape, ours, theirs = "every expert", [], []
    for seed in range(4):
        release = write_checkpoint(tmp_path / str(seed), SHAPES[shape], seed=seed)
        tokens = np.random.default_rng(seed).integers(0, SHAPES[shape]["vocab_size"], (3, 40))
        model = hugging_face_model(release, read_release(release))
        with torch.no_grad():
            exact = model(torch.tensor(tokens)).logits.numpy()
            theirs.append(divergence(exact, model.bfloat16()(torch.tensor(tokens)).logits.float().numpy()))
        made = load_model(release, dtype="bfloat16")(mx.array(tokens))
        ours.append(divergence(exact, np.array(made.astype(mx.float32))))
    assert 0 < np.mean(ours) <= np.mean(theirs)


@pytest.fixture(scope="module")
def mlx_lm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mlx_lm")
        import mlx_lm.utils
    return mlx_lm


def opened_by_mlx_lm(mlx_lm, folder: Path, rope_of: Transformer | None = None):
    """mlx-lm's model in float32; given `rope_of`, with its rotary frequencies, because mlx-lm rounds YaRN's range."""
    model, _ = mlx_lm.utils.load_model(folder)
    model.set_dtype(mx.float32)
    if rope_of is not None:
        c = rope_of.config
        freqs = mx.array((1 / inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)).astype("float32"))
        for layer in model.layers:
            layer.self_attn.rope._freqs = freqs
    return model


def test_our_folder_opens_in_mlx_lm_with_the_same_logits(mlx_lm, shape, folder):
    """Over 150 positions, and with our frequencies: with those of mlx-lm the logits differ."""
    path, tokens = folder(shape), mx.array(tokens_of(shape, 150))
    ours = load_model(path, dtype="float32")
    expected = ours(tokens)
    theirs = opened_by_mlx_lm(mlx_lm, path, rope_of=ours)(tokens)
    assert mx.abs(theirs - expected).max().item() < 1e-4
    assert mx.abs(opened_by_mlx_lm(mlx_lm, path)(tokens) - expected).max().item() > 1e-4


@pytest.mark.parametrize("profile", ["q8", "q4"])
def test_a_folder_of_a_smaller_profile_opens_in_mlx_lm_with_the_same_logits(mlx_lm, tmp_path, profile):
    convert(write_checkpoint(tmp_path / "release", EVEN), tmp_path / "ours", ConvertOptions(profile=profile))
    tokens = mx.array(np.random.default_rng(9).integers(0, EVEN["vocab_size"], (1, 60)))
    ours = load_model(tmp_path / "ours", dtype="float32")
    theirs = opened_by_mlx_lm(mlx_lm, tmp_path / "ours", rope_of=ours)
    assert mx.abs(theirs(tokens) - ours(tokens)).max().item() < 1e-4


def test_our_folder_gives_mlx_lms_tokens_on_a_short_text(mlx_lm, shape, folder):
    """With mlx-lm's own frequencies: within 20 positions their difference has little effect."""
    tokens = mx.array(tokens_of(shape, 20))
    ours = load_model(folder(shape), dtype="float32")(tokens)
    theirs = opened_by_mlx_lm(mlx_lm, folder(shape))(tokens)
    assert mx.array_equal(mx.argmax(ours, axis=-1), mx.argmax(theirs, axis=-1))


@pytest.mark.parametrize(("bits", "recipe"), [(8, None), (4, None), (4, "mixed_4_6")])
def test_a_folder_quantized_by_mlx_lm_opens_here_with_the_same_logits(mlx_lm, tmp_path, bits, recipe):
    """Converted by mlx-lm from the released layout, its other weights in 8 or 4 bits, or v in more than q and k."""
    release = write_checkpoint(tmp_path / "release", EVEN)
    model, config = mlx_lm.utils.load_model(release)
    recipes = importlib.import_module("mlx_lm.convert")  # the package has a function of the same name
    predicate = recipe and recipes.mixed_quant_predicate_builder(recipe, model, 64)
    model, config = mlx_lm.utils.quantize_model(model, config, 64, bits, quant_predicate=predicate)
    entries = config["quantization"]
    v, q = (entries[f"model.layers.1.self_attn.{name}_proj"]["bits"] for name in "vq")
    assert v - q == (2 if recipe else 0)
    mlx_lm.utils.save_model(tmp_path / "theirs", model)
    mlx_lm.utils.save_config(config, tmp_path / "theirs" / "config.json")
    ours = load_model(tmp_path / "theirs", dtype="float32")
    tokens = mx.array(np.random.default_rng(9).integers(0, EVEN["vocab_size"], (1, 60)))
    theirs = opened_by_mlx_lm(mlx_lm, tmp_path / "theirs", rope_of=ours)(tokens)
    assert mx.abs(theirs - ours(tokens)).max().item() < 1e-4
    plain = opened_by_mlx_lm(mlx_lm, release, rope_of=ours)(tokens)
    assert mx.abs(plain - theirs).max().item() > 1e-4  # quantising did change the model


def unlike(path: str, module: object) -> bool | dict[str, object]:
    """Gate unlike up, q unlike v, and k not quantised."""
    modes = {"q_proj": ("nvfp4", 16, 4), "gate_proj": ("mxfp8", 32, 8), "up_proj": ("affine", 64, 5)}
    mode, size, bits = modes.get(path.rpartition(".")[2], ("affine", 64, 4))
    return not path.endswith("k_proj") and {"group_size": size, "bits": bits, "mode": mode}


@pytest.mark.parametrize(
    ("mode", "size", "bits", "predicate", "entry"),
    [
        ("nvfp4", 16, 4, None, None),
        ("mxfp8", 32, 8, None, None),
        ("mxfp4", 32, 4, lambda path, module: True, None),
        ("affine", 64, 4, unlike, None),
        ("affine", 64, 4, lambda path, module: True, {"group_size": None, "bits": 4}),
        ("affine", 32, 6, lambda path, module: True, {"group_size": 64, "bits": 4, "mode": "affine"}),
        ("nvfp4", 16, 4, lambda path, module: True, {"group_size": None, "bits": None, "mode": "mxfp4"}),
    ],
    ids=["nvfp4", "mxfp8", "mxfp4", "unlike", "null", "another top entry", "another mode"],
)
def test_what_mlx_lm_quantizes_and_opens_opens_here_with_the_same_logits(
    mlx_lm, tmp_path, mode, size, bits, predicate, entry
):
    """In MLX's modes, and with a top entry that says little, or what is true of no module: then the shapes say it."""
    model, config = mlx_lm.utils.load_model(write_checkpoint(tmp_path / "release", EVEN))
    model = mlx_lm.utils.dequantize_model(model)
    config = {key: value for key, value in config.items() if not key.startswith("quantization")}
    model, config = mlx_lm.utils.quantize_model(model, config, size, bits, mode=mode, quant_predicate=predicate)
    mlx_lm.utils.save_model(tmp_path / "theirs", model)
    del config["quantization_config"]
    mlx_lm.utils.save_config(config | ({"quantization": entry} if entry else {}), tmp_path / "theirs" / "config.json")
    ours, few = (load_model(tmp_path / "theirs", dtype="float32", slots=slots) for slots in (None, 3))
    tokens = mx.array(np.random.default_rng(9).integers(0, EVEN["vocab_size"], (1, 60)))
    theirs = opened_by_mlx_lm(mlx_lm, tmp_path / "theirs", rope_of=ours)(tokens)
    assert mx.abs(theirs - ours(tokens)).max().item() < 3e-5
    assert mx.array_equal(few(tokens), ours(tokens))
    held = sum(array.nbytes for _, array in tree_flatten(ours.transformer.parameters()))
    assert plan(tmp_path / "theirs", dtype="float32").weight_bytes == held
