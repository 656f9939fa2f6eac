"""Fixtures for the chat tests: a small model with the real vocabulary, and a session with scripted output."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_oss import ChatSession, LocalEngine, ModelConfig
from tests.chat.scripted import DATE, TOKENIZER, Recording, Script
from tests.engines import as_loaded


@pytest.fixture(scope="module")
def model() -> LocalEngine:
    """Random weights, the real vocabulary, and a sliding window shorter than any prompt, so that ring caches wrap."""
    mx.random.seed(6)
    model = Recording(
        ModelConfig(
            num_hidden_layers=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            vocab_size=201088,
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            sliding_window=9,
        )
    )
    for layer in model.layers:  # so that early tokens still change the logits noticeably
        layer.self_attn.o_proj.weight = 10 * layer.self_attn.o_proj.weight
    return LocalEngine(as_loaded(model))


@pytest.fixture
def script(model) -> Script:
    return Script(model.transformer)


@pytest.fixture
def session(script) -> ChatSession:
    return ChatSession(script, TOKENIZER, current_date=DATE)
