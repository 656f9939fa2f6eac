"""What tests ask of engines and sessions besides their public names."""

from __future__ import annotations

import math
from typing import TypeVar

import mlx.core as mx
import numpy as np

from mlx_oss import ChatSession, LocalEngine, ModelConfig, Request, Stream, Transformer
from mlx_oss.backend import device
from mlx_oss.constrain import TurnConstraint

Model = TypeVar("Model", bound=Transformer)


def small_config(*, window: int, context: int) -> ModelConfig:
    """A config of a model that computes quickly. `window` and `context` are numbers of tokens."""
    return ModelConfig(
        num_hidden_layers=3,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=53,
        hidden_size=64,
        intermediate_size=32,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=10,
        sliding_window=window,
        max_position_embeddings=context,
    )


def as_loaded(model: Model) -> Model:
    """A new model, with random weights, in the dtype that `load` would choose; its weights are computed.

    On a real GPU it is float32. The kernels there depend on how many tokens are computed together, so in bfloat16 a
    prompt in other chunks may lead to another token.
    """
    real = mx.default_device().type == mx.gpu
    model.set_dtype(mx.float32 if real else device.activation_dtype("auto"))
    mx.eval(model.parameters())  # lazy weights could not be evaluated on another thread
    return model


def rounding(logits: np.ndarray, dtype: mx.Dtype) -> float:
    """How much logits of a model of this dtype may differ from the same logits, if tokens are computed in other chunks.

    It is 1e-4 in float32. In bfloat16 it is two units in the last place of the largest logit: one because the hidden
    state may be rounded the other way, and one for the logit itself.
    """
    return 1e-4 if dtype == mx.float32 else 2 * 2.0 ** (math.floor(math.log2(np.abs(logits).max())) - 7)


class Watched(LocalEngine):
    """An engine that runs a model and keeps the requests.

    Attributes:
        requests: The requests so far.
    """

    def __init__(self, model: LocalEngine) -> None:
        super().__init__(model.transformer, context=model.context, chunk=model.chunk)
        self.requests: list[Request] = []

    def submit(self, request: Request) -> Stream:
        self.requests.append(request)
        return super().submit(request)

    @property
    def written(self) -> list[int]:
        """The ids that were generated for the last request; valid until the next one."""
        request = self.requests[-1]
        assert request.cache is not None
        return request.cache.ids[len(request.prompt) :]


def prompt_of(session: ChatSession) -> list[int]:
    """The ids of the next prompt of a session, without the user's next message."""
    return session._frame().prompt(session._conversation.current)


def constraint_of(session: ChatSession) -> TurnConstraint:
    """The constraint of the next round of a session."""
    return session._setup().constraint(session._conversation.current)
