"""A model with random weights and the real vocabulary, small enough to generate thousands of tokens."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_oss import LocalEngine, ModelConfig, Transformer


@pytest.fixture(scope="package")
def model() -> LocalEngine:
    mx.random.seed(8)
    model = Transformer(
        ModelConfig(
            num_hidden_layers=2,
            num_local_experts=2,
            num_experts_per_tok=1,
            vocab_size=201088,
            hidden_size=32,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=8,
        )
    )
    mx.eval(model.parameters())
    return LocalEngine(model)
