"""`LocalEngine`: runs a model in this process.

All requests share the computing thread, which switches between them after each token or chunk of a prompt. Knows
nothing of text and messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import mlx.core as mx

from mlx_oss.backend import wired
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.config import ModelConfig
from mlx_oss.errors import DeviceError, EngineError, OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Counts, Engine, Items, PromptProgress, Request, Stream
from mlx_oss.generation.generate import decode
from mlx_oss.generation.prompt_cache import KVPromptCache
from mlx_oss.generation.token_picker import TokenPicker
from mlx_oss.model.fingerprint import fingerprint
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import PREFILL_CHUNK, Transformer
from mlx_oss.offload.install import offload_stats

if TYPE_CHECKING:
    from mlx_oss.memory.plan import Plan

T = TypeVar("T")
_LEAST_CHUNK = 32  # tokens; each time the system stops the GPU because a computation took too long, chunks are halved


class LocalEngine(Engine):
    """A model that is ready to run in this process; `mlx_oss.load` returns one.

    Give it to a `ChatSession`, submit requests to it, or call it for logits: `model(tokens)`.

    Args:
        transformer: The network with its weights.
        plan: How it is held in memory; None if nothing was planned.
        context: Maximum number of tokens of a prompt and its answer together. None means what the plan has room for,
            and without a plan what the config says.
        chunk: Number of tokens of a prompt that are computed at a time. None means as planned, and 512 without a plan.
        wired_bytes: How many bytes of the weights may be wired while requests are computed. None means as planned, and
            0 without a plan.
        added_ids: Ids of text that a fine-tune has added. They are sampled too.

    Attributes:
        transformer: The network.
        context: Maximum number of tokens of a prompt and its answer together.
        chunk: Number of tokens of a prompt that are computed at a time.
        added_ids: Ids of text that a fine-tune has added.
    """

    def __init__(
        self,
        transformer: Transformer,
        plan: Plan | None = None,
        *,
        context: int | None = None,
        chunk: int | None = None,
        wired_bytes: int | None = None,
        added_ids: Collection[int] = (),
    ) -> None:
        compute_thread.mark_computing()
        planned = (plan.context, plan.chunk) if plan else (transformer.config.max_position_embeddings, PREFILL_CHUNK)
        self.transformer, self._plan, self.added_ids = transformer, plan, frozenset(added_ids)
        self.context = planned[0] if context is None else context
        self.chunk = planned[1] if chunk is None else chunk
        planned_bytes = plan.wired_bytes if plan else 0
        self._wired = wired.WiredWeights(planned_bytes if wired_bytes is None else wired_bytes)

    @property
    def plan(self) -> Plan:
        """How the model is held in memory. Raises OptionError if nothing was planned, as for a bare `Transformer`."""
        if self._plan is None:
            raise OptionError("this model was not loaded from a folder, so it has no plan: `mlx_oss.load` makes one")
        return self._plan

    @property
    def config(self) -> ModelConfig:
        """Sizes and settings of the model."""
        return self.transformer.config

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of the activations."""
        return self.transformer.dtype

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """SHA-256 of what the model computes with; see `model.fingerprint`."""

        def compute() -> str:
            with device_errors:
                return fingerprint(self.transformer)

        return compute_thread.run(compute)

    def __call__(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        """Computes logits, on the caller's thread: tokens (B, L) int -> (B, L, V).

        Args:
            tokens: Token ids below V.
            cache: The tokens before these; it is extended. None means that there are none.

        Raises:
            CheckpointError: If weights are on disk and cannot be read.
            EngineError: If this process was forked from one that has computed.
        """
        compute_thread.check_process()
        with device_errors:
            logits: mx.array = self.transformer(tokens, cache)
        return logits

    def make_cache(self) -> Cache:
        """Returns an empty KV cache, for `model(tokens, cache)` and `generate_step`."""
        return self.transformer.make_cache()

    def make_prompt_cache(self) -> KVPromptCache:
        """Returns an empty cache for one conversation, for `Request.cache`."""
        return KVPromptCache(self.transformer)

    def submit(self, request: Request) -> Stream:
        """Begins a request. Nothing is computed before the first step is asked for.

        Args:
            request: The request.

        Raises:
            ContextError: If the context has no room for a token after the prompt.
            OptionError: If the prompt cache is not of this engine.
            EngineError: If this process was forked from one that has computed.
        """
        limit = request.limit(self.context)
        compute_thread.check_process()
        cache, counts = request.cache or self.make_prompt_cache(), Counts()
        if not isinstance(cache, KVPromptCache) or cache.model is not self.transformer:
            raise OptionError("the prompt cache is of another engine: take it from `make_prompt_cache` of this one")
        return Stream(request, _generate(self, request, cache, limit, counts), counts, self._submit)

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        """`compute_thread.submit` with the weights wired. Raises EngineError where the caller would wait for ever."""
        if compute_thread.is_current():
            raise EngineError("a constraint runs on the thread of the engine, so it cannot wait for the engine")

        def compute() -> T:
            if self._wired.wire():
                compute_thread.when_idle(wired.release)
            return function()

        return compute_thread.submit(compute)


def _generate(engine: LocalEngine, request: Request, cache: KVPromptCache, limit: int, counts: Counts) -> Items:
    """Reads what the cache does not hold of the prompt, takes the snapshots, and decodes."""
    model, prompt = engine.transformer, list(request.prompt)
    read_before = offload_stats(model)
    try:
        # At least the last id is read again, for its logits.
        reused = cache.rewind(prompt[: max(request.snapshots, default=len(prompt) - 1)])
        counts.read_tokens = counts.reused_tokens = reused
        for end in sorted({*request.snapshots, len(prompt)}):
            if end > reused:
                for last in cache.read(prompt[len(cache.ids) : end], engine.chunk):  # noqa: B007
                    counts.read_tokens, counts.offload = len(cache.ids), offload_stats(model) - read_before
                    yield PromptProgress(len(cache.ids) - reused, len(prompt) - reused)
            if reused <= end < len(prompt):
                cache.kv.snapshot()
        picker = TokenPicker(request.options, len(prompt), prompt, request.constraint, engine.added_ids)
        for step in decode(model, last, cache.kv, picker, limit=limit, stop_ids=request.stop_ids):
            cache.ids.append(step.token)
            counts.offload = offload_stats(model) - read_before
            yield step
    except GeneratorExit:
        raise
    except DeviceError as error:
        cache.forget()  # it may hold arrays that were never computed
        mx.clear_cache()
        if error.took_too_long:
            engine.chunk = max(_LEAST_CHUNK, engine.chunk // 2)
        raise
    except BaseException:
        if cache.kv.offset != len(cache.ids):  # stopped in the middle of a computation: nothing in it is certain
            cache.forget()
        raise
