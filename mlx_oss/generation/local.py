"""`LocalEngine`: runs a model in this process.

Its scheduler computes all requests together on the computing thread, and its pool keeps what they have read. Knows
nothing of text and messages.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property, partial
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_oss.backend import native, wired
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.config import ModelConfig
from mlx_oss.errors import OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Engine, EngineStats, Request, Stream
from mlx_oss.generation.prefix_pool import PrefixPool, bytes_for
from mlx_oss.generation.prompt_cache import KVPromptCache
from mlx_oss.generation.row import Row, RowStream
from mlx_oss.generation.scheduler import Scheduler
from mlx_oss.model.fingerprint import fingerprint
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import PREFILL_CHUNK, Transformer

if TYPE_CHECKING:
    from mlx_oss.memory.plan import Plan

AT_ONCE = 16  # requests that are computed together; others wait until one of them ends or its reader pauses
_LEAST_CACHE = 1_000_000_000  # bytes for keys and values if nothing was planned


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
        cache_bytes: How many bytes the keys and values of all conversations may take: of those that are computed, and
            those that are kept for the next ones. None means as planned, and 1 GB without a plan, or one context.
        guesses: Whether to check what the text before suggests, several tokens in one step: where a passage is repeated
            that saves time, and it changes no token. None means on the CPU backend with the native library, where the
            same bits come out, and not with experts on disk.
        added_ids: Ids of text that a fine-tune has added. They are sampled too.
        fingerprint: The model's fingerprint, if it is known already. None: it is computed when it is needed.

    Attributes:
        transformer: The network.
        context: Maximum number of tokens of a prompt and its answer together.
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
        cache_bytes: int | None = None,
        guesses: bool | None = None,
        added_ids: Collection[int] = (),
        fingerprint: str | None = None,
    ) -> None:
        compute_thread.mark_computing()
        planned = (plan.context, plan.chunk) if plan else (transformer.config.max_position_embeddings, PREFILL_CHUNK)
        self.transformer, self._plan, self.added_ids = transformer, plan, frozenset(added_ids)
        self.context = planned[0] if context is None else context
        if fingerprint is not None:
            self.fingerprint = fingerprint
        planned_bytes = plan.wired_bytes if plan else 0
        weights = wired.WiredWeights(planned_bytes if wired_bytes is None else wired_bytes)
        if cache_bytes is None:
            least = transformer.shard.part(bytes_for(transformer.config, self.context, transformer.dtype.size))
            cache_bytes = max(plan.cache_bytes if plan else _LEAST_CACHE, least)
        is_offloaded = plan is not None and plan.slots is not None
        self.at_once = 1 if is_offloaded else AT_ONCE
        self._scheduler = Scheduler(
            transformer,
            PrefixPool(transformer, cache_bytes),
            chunk=planned[1] if chunk is None else chunk,
            at_once=AT_ONCE,
            together=self.at_once,
            guesses=native.computes(None) and not is_offloaded if guesses is None else guesses,
            added_ids=self.added_ids,
            prepare=partial(_wire, weights),
        )

    @property
    def chunk(self) -> int:
        """Number of tokens of a prompt that are computed at a time."""
        return self._scheduler.rows.chunk

    @chunk.setter
    def chunk(self, tokens: int) -> None:
        self._scheduler.rows.chunk = tokens

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
        return KVPromptCache(self.transformer, self._scheduler.rows.pool)

    def submit(self, request: Request) -> Stream:
        """Begins a request. Nothing is computed before the first step is asked for.

        Args:
            request: The request.

        Raises:
            ContextError: If the context has no room for a token after the prompt.
            OptionError: If the prompt cache is not of this engine.
            EngineError: If this process was forked from one that has computed.
        """
        limit, cache = request.limit(self.context), request.cache
        compute_thread.check_process()
        if cache is not None and not (isinstance(cache, KVPromptCache) and cache.pool is self._scheduler.rows.pool):
            raise OptionError("the prompt cache is of another engine: take it from `make_prompt_cache` of this one")
        return RowStream(request, Row(request, limit), self._scheduler)

    @property
    def stats(self) -> EngineStats:
        """What the engine is doing, and what it has done so far. Any thread can read this at any time."""
        rows, begun = self._scheduler.rows, self._scheduler.admission
        pool = rows.pool
        return EngineStats(
            running=len(rows.begun),
            waiting=len(rows.waiting),
            requests=begun.requests,
            prompt_tokens=begun.read_tokens,
            reused_tokens=begun.reused_tokens,
            prefixes=pool.idle,
            cache_bytes=pool.nbytes,
            cache_limit=pool.limit,
        )

    def forget_prefixes(self) -> None:
        """Frees the keys and values that earlier conversations have left, except those of sessions that still exist."""
        compute_thread.run(self._scheduler.rows.pool.clear)


def _wire(weights: wired.WiredWeights) -> None:
    """Wires the weights, until nothing is computed for a while."""
    if weights.wire():
        compute_thread.when_idle(wired.release)
