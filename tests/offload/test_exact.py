"""Experts on disk give the same bits as the resident model: every budget, every routing, prefill and decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import Transformer, load_model
from mlx_oss.generation.generate import generate_step, prefill
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.offload import experts as offloaded
from mlx_oss.offload.install import offload_stats
from mlx_oss.offload.reader import OffloadStats
from tests.shapes import MANY, ROUTINGS, SHAPES, dims

pytestmark = pytest.mark.skipif(
    mx.default_device().type == mx.gpu, reason="a GPU uses different kernels for different numbers of rows"
)


def ids(model: Transformer, length: int, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, length).tolist()


def run(model: Transformer) -> list[np.ndarray]:
    """Logits after prompts in chunks of several sizes, sorted and unsorted, after single tokens, and of a batch."""
    cache, made = model.make_cache(), []
    for length, chunk in ((70, 33), (5, 5), (1, 1)):
        made.append(np.array(prefill(model, ids(model, length), cache, chunk=chunk).astype(mx.float32)))
    made += [np.array(model(mx.array([[token]]), cache).astype(mx.float32)) for token in ids(model, 6, seed=4)]
    return [*made, np.array(model(mx.array([ids(model, 9), ids(model, 9, seed=5)])).astype(mx.float32))]


def budgets(shape: str) -> list[int]:
    """Numbers of slots from the minimum to one for each expert; a selection if there are many experts."""
    fewest, most = max(dims(shape)["num_experts_per_tok"], 2), dims(shape)["num_local_experts"]
    return sorted({*range(fewest, min(most, 8) + 1), fewest + 5, most - 1, most} & set(range(fewest, most + 1)))


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("shape", [*SHAPES, *MANY])
def test_logits_are_the_resident_models_bit_for_bit(routed, shape, routing):
    folder = routed(shape, routing)
    wanted = run(load_model(folder, dtype="float32"))
    for slots in budgets(shape):
        made = run(load_model(folder, dtype="float32", slots=slots))
        assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True)), slots


def test_routings_are_skewed_and_random_as_the_other_tests_expect(routed):
    """Skewed routing needs few experts, random routing nearly all."""
    needed = {}
    for routing in ROUTINGS:
        model = load_model(routed("32 experts", routing), slots=32)
        model(mx.array([ids(model, 70)]))
        needed[routing] = offload_stats(model.transformer).misses / len(model.transformer.layers)
    assert needed["skewed"] < 12 < 22 < needed["random"]


@pytest.mark.parametrize("slots", [4, 5, 8, 31])
def test_tokens_sampled_are_the_same(routed, slots):
    options = SamplingOptions(seed=5, temperature=1.0)
    resident, model = (load_model(routed("32 experts"), slots=count) for count in (None, slots))
    made = [
        [(step.token, step.logprob) for step in generate_step(m, ids(m, 40), options, max_tokens=20)]
        for m in (resident, model)
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("slots", [4, 5, 9, 20, 32])
def test_a_chunk_reads_each_expert_it_needs_at_most_once_a_layer(routed, slots, monkeypatch):
    model, begun = load_model(routed("32 experts"), slots=slots), []
    begin = offloaded.OffloadedExperts._begin

    def recorded(self, group, keep):
        begun.extend((id(self), expert) for expert in group if self._slots.of[expert] < 0)
        return begin(self, group, keep)

    monkeypatch.setattr(offloaded.OffloadedExperts, "_begin", recorded)
    for seed in range(3):
        begun.clear()
        model(mx.array([ids(model, 50, seed)]))
        assert len(begun) == len(set(begun))
        assert slots == 32 or begun


@pytest.mark.parametrize("slots", [4, 17, 32])
def test_what_is_read_is_counted(routed, slots):
    folder = routed("32 experts")
    model = load_model(folder, slots=slots)
    assert offload_stats(model.transformer).nbytes == 0 and offload_stats(model.transformer).hit_rate == 1
    for token in ids(model, 30):
        model(mx.array([[token]]))
    made, c = offload_stats(model.transformer), model.config
    values = 3 * c.hidden_size * c.intermediate_size
    assert made.hits + made.misses == 30 * c.num_hidden_layers * c.num_experts_per_tok
    assert made.nbytes == made.misses * (values // 2 + values // 32) + 30 * 2 * c.hidden_size
    assert 0 < made.hit_rate < 1 and made.seconds > 0
    assert offload_stats(load_model(folder).transformer) == OffloadStats()


def test_all_experts_in_slots_are_read_once(routed):
    model = load_model(routed("32 experts"), slots=32)
    for seed in range(4):
        model(mx.array([ids(model, 50, seed)]))
    assert offload_stats(model.transformer).misses <= 32 * len(model.transformer.layers)


def test_calls_whose_results_are_not_computed_yet_do_not_disturb_one_another(routed):
    """MLX is lazy: a call must have used its slots before the next one overwrites them."""
    resident, model = (load_model(routed("32 experts"), slots=count) for count in (None, 4))
    prompts = [mx.array([ids(model, 3, seed)]) for seed in range(6)]
    waiting = [model(prompt) for prompt in prompts]
    for prompt, logits in zip(prompts, waiting, strict=True):
        assert mx.array_equal(logits, resident(prompt))


def stored(folder: Path, target: Path, change: Callable[[dict, dict], None]) -> Path:
    """A copy of the folder, with config and tensors changed by `change`."""
    import json

    target.mkdir()
    config, tensors = json.loads((folder / "config.json").read_text()), {}
    for file in folder.glob("*.safetensors"):
        tensors |= mx.load(str(file))
    change(config, tensors)
    (target / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(target / "model.safetensors"), tensors)
    return target


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["as converted", "affine experts", "quantised embedding", "float16", "float32"])
def test_folders_in_other_formats_give_the_same_bits(routed, tmp_path, kind, dtype):
    affine = {"group_size": 32, "bits": 4, "mode": "affine"}

    def change(config, tensors):
        for name in [name for name in tensors if name.endswith(".weight")]:
            path = name.removesuffix(".weight")
            if kind == "affine experts" and ".experts." in path:
                scales = tensors.pop(f"{path}.scales")
                dense = mx.dequantize(tensors[name], scales, group_size=32, bits=4, mode="mxfp4")
            elif kind == "quantised embedding" and path == "model.embed_tokens":
                dense = tensors[name]
            else:
                continue
            parts = mx.quantize(dense.astype(mx.bfloat16), **affine)
            tensors |= dict(zip((f"{path}.{s}" for s in ("weight", "scales", "biases")), parts, strict=True))
            config["quantization"][path] = affine
        if kind.startswith("float"):
            for name in [name for name in tensors if tensors[name].dtype == mx.bfloat16]:
                tensors[name] = tensors[name].astype(getattr(mx, kind))

    folder = stored(routed("tiny"), tmp_path / "stored", change)
    wanted = run(load_model(folder, dtype=dtype))
    for slots in (3, 5):
        made = run(load_model(folder, dtype=dtype, slots=slots))
        assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))
