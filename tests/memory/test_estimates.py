"""Memory estimates: compared with caches that are really allocated, and monotonic in every argument."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import pytest

from mlx_oss.backend.machine import GIB, mac
from mlx_oss.config import ModelConfig
from mlx_oss.loader import load_model
from mlx_oss.memory.estimates import (
    MAC_SIZES,
    WORKING_BYTES,
    contexts_by_mac,
    kv_cache_bytes,
    largest_context,
)
from tests.synthetic import RELEASED_20B


@pytest.fixture
def released(folder) -> ModelConfig:
    """A config with the dimensions of gpt-oss-20b."""
    config = ModelConfig.from_file(folder("tiny") / "config.json")
    names = {field.name for field in dataclasses.fields(config)}
    shapes = {name: value for name, value in RELEASED_20B.items() if name in names}
    kinds = tuple(("sliding_attention", "full_attention")[n % 2] for n in range(RELEASED_20B["num_hidden_layers"]))
    return dataclasses.replace(config, **shapes, layer_types=kinds, max_position_embeddings=131_072)


@pytest.mark.parametrize("context", [256, 512])
def test_keys_and_values_are_those_a_full_cache_holds(shape, folder, context):
    """Caches grow in steps of 256 tokens. The ring buffer of a sliding layer keeps a window, or one token less."""
    model = load_model(folder(shape), dtype="float32")
    cache = model.make_cache()
    mx.eval(model.transformer.hidden(mx.arange(context)[None] % 200, cache))
    held = sum(array.nbytes for array in cache.arrays)
    bytes_per_token_and_layer = 2 * model.config.num_key_value_heads * model.config.head_dim * 4
    difference = kv_cache_bytes(model.config, context, itemsize=4) - held
    assert 0 <= difference <= bytes_per_token_and_layer * model.config.num_hidden_layers


def test_a_released_models_cache_is_48_kib_a_token_and_a_window(released):
    """Model card, section 2.2: 24 layers with 8 KV heads of width 64. Every second layer stores 128 tokens only."""
    assert kv_cache_bytes(released, 4096) == 12 * 2 * 8 * 64 * 2 * (4096 + 128)


@pytest.mark.parametrize("size", MAC_SIZES)
def test_the_largest_context_fits_and_one_token_more_does_not(released, size):
    weights = 13_760_000_000
    context = largest_context(released, weights, size * GIB)
    room = mac(size * GIB).limit - weights - WORKING_BYTES
    if context:
        assert kv_cache_bytes(released, context) <= room
    if context < released.max_position_embeddings:
        assert kv_cache_bytes(released, context + 1) > room


def test_more_memory_or_smaller_weights_never_hold_less(released):
    for weights in (11_180_000_000, 13_760_000_000, 65_250_000_000):
        contexts = list(contexts_by_mac(released, weights).values())
        assert contexts == sorted(contexts)
        assert all(a >= b for a, b in zip(contexts, contexts_by_mac(released, weights + GIB).values(), strict=True))


def test_the_20b_fits_24_gb_with_its_whole_context_and_16_gb_not_at_all(released):
    contexts = contexts_by_mac(released, 13_760_000_000)
    assert contexts[16] == 0 and 0 < contexts[24] <= contexts[32] == 131_072
