"""What tests ask of engines and sessions besides their public names."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import mlx.core as mx
import numpy as np

from mlx_oss import (
    ChatSession,
    LocalEngine,
    ModelConfig,
    Request,
    ScriptedEngine,
    Stream,
    Transformer,
    load_tokenizer,
)
from mlx_oss.backend import device
from mlx_oss.constrain import TurnConstraint
from mlx_oss.generation.engine import Item

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
    return session._settings.frame.prompt(session._conversation.current)


def constraint_of(session: ChatSession) -> TurnConstraint:
    """The constraint of the next round of a session."""
    return session._settings.setup.constraint(session._conversation.current)


class HeldEngine(ScriptedEngine):
    """Keeps back the tokens of prompts that contain a word, until `release(word)` or the request is cancelled."""

    def __init__(self, *answers: str) -> None:
        super().__init__(*answers)
        self.held: dict[str, list[Callable[[], None]]] = {}
        self.begun: list[str] = []
        self._guard = threading.Lock()

    def submit(self, request: Request) -> Stream:
        stream = super().submit(request)
        word = load_tokenizer().decode(list(request.prompt)).split("<|message|>")[-1].split("<|end|>")[0]
        self.begun.append(word)
        at_once, cancel = stream._submit, stream.cancel

        def later(function: Callable[[], Item | None]) -> Future[Item | None]:
            outer: Future[Item | None] = Future()

            def compute() -> None:
                if not outer.done():
                    inner = at_once(function)
                    error = inner.exception()
                    outer.set_exception(error) if error else outer.set_result(inner.result())

            with self._guard:
                if word in self.held and not stream._is_cancelled:
                    self.held[word].append(compute)
                    return outer
            compute()
            return outer

        def end() -> None:
            cancel()
            self.release(word)

        stream._submit, stream.cancel = later, end  # type: ignore[method-assign]
        return stream

    def hold(self, *words: str) -> None:
        self.held.update({word: [] for word in words})

    def release(self, word: str) -> None:
        with self._guard:
            waiting = self.held.pop(word, [])
        for compute in waiting:
            compute()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never happened")
