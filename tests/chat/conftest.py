"""Fixtures for the chat tests: a small model with the real vocabulary, and a session with scripted output."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_oss import ChatSession, ModelConfig, Transformer
from mlx_oss.chat import response
from mlx_oss.generation import prompt_cache
from tests.chat.scripted import DATE, TOKENIZER, Script


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random weights, the real vocabulary, and a sliding window shorter than any prompt, so that ring caches wrap."""
    mx.random.seed(6)
    model = Transformer(
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
    mx.eval(model.parameters())  # as in a loaded model: lazy weights could not be evaluated on another thread
    return model


@pytest.fixture
def script(model, monkeypatch) -> Script:
    script = Script(model)
    monkeypatch.setattr(response, "generate_step", script.generate_step)
    monkeypatch.setattr(prompt_cache, "prefill_chunks", script.prefill_chunks)
    return script


@pytest.fixture
def session(model, script) -> ChatSession:
    return ChatSession(model, TOKENIZER, current_date=DATE)
