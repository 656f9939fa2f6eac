"""Token ids in, token ids out: prefills a prompt in chunks, then decodes one token per step.

Decoding is always one step ahead of the caller. Knows nothing of text or harmony; `chat` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_oss.backend.cores import side_stream
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.generation.sampling import Sampler, SamplingOptions
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token.

    Attributes:
        token: Its id.
        logprob: Its log-probability in nats at temperature 1, after logit bias and repetition penalty, among the ids
            that can be sampled. None if `SamplingOptions.logprobs` is False.
        top_logprobs: The most likely ids and their log-probabilities, most likely first: `SamplingOptions.top_logprobs`
            of them, fewer if a constraint allows fewer, and none for a token that a constraint determines.
        finish: "stop" if the token is a stop id, "length" if it is the last token allowed, None otherwise.
    """

    token: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


class Constraint(Protocol):
    """Decides token by token which ids can come next; see `generate_step`."""

    def allowed(self) -> np.ndarray | int | None:
        """Which ids can come next.

        Returns:
            None for every id; an id for exactly that one; or bool (V',), at least one of them True, which says for each
            of the V' ids that can be sampled whether it can come next.
        """

    def accept(self, token: int) -> None:
        """Records the token that was chosen. Called for each token, in order."""


def prefill(
    model: Transformer,
    tokens: Sequence[int],
    cache: Cache,
    *,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> mx.array:
    """Feeds tokens to the model in chunks.

    Args:
        model: The model.
        tokens: Token ids, at least one.
        cache: The tokens before these; it is extended chunk by chunk.
        chunk: Number of tokens in a chunk. None means `model.chunk`.
        progress: progress(done, total) is called after every chunk. An exception that it raises ends the prefill and
            leaves the cache extended by `done` tokens.

    Returns:
        The logits (V,) of the token that follows the last one.

    Raises:
        OptionError: If there are no tokens, a token is not in the vocabulary, or `chunk` is less than 1.
        CheckpointError: If weights are on disk and cannot be read.
    """
    chunks = prefill_chunks(model, tokens, cache, chunk=chunk)
    while True:
        try:
            done = next(chunks)
        except StopIteration as end:
            logits: mx.array = end.value
            return logits
        if progress is not None:
            progress(done, len(tokens))


def prefill_chunks(
    model: Transformer, tokens: Sequence[int], cache: Cache, *, chunk: int | None = None
) -> Generator[int, None, mx.array]:
    """Like `prefill`, as a generator.

    Yields:
        The number of tokens done so far, after every chunk.

    Returns:
        The logits (V,) of the token that follows the last one.

    Raises:
        OptionError: If there are no tokens, a token is not in the vocabulary, or `chunk` is less than 1.
        CheckpointError: If weights are on disk and cannot be read.
    """
    if not tokens:
        raise OptionError("the prompt is empty: it needs at least one token")
    chunk = model.chunk if chunk is None else chunk
    if chunk < 1:
        raise OptionError(f"chunk is {chunk}, expected at least 1 token")
    vocab = model.config.vocab_size
    if bad := next((t for t in tokens if not 0 <= t < vocab), None):
        raise OptionError(f"token id {bad} is outside the vocabulary of {vocab}: expected 0 to {vocab - 1}")
    cache.reserve(len(tokens))
    for start in range(0, len(tokens), chunk):
        part = mx.array([list(tokens[start : start + chunk])])
        hidden = model.hidden(part, cache)
        mx.eval(hidden[:, -1], cache.arrays)
        yield start + part.shape[1]
    return model.logits(hidden[:, -1:])[0, 0]


def room_for_answer(context: int, used: int) -> int:
    """Number of tokens that fit into the context after `used` tokens. Raises ContextError if there is no room."""
    if used >= context:
        raise ContextError(
            f"{used:,} tokens leave no room to answer in a context of {context:,}: shorten the conversation"
        )
    return context - used


def generate_step(
    model: Transformer,
    prompt_ids: Sequence[int],
    options: SamplingOptions | None = None,
    *,
    cache: Cache | None = None,
    recent: Sequence[int] = (),
    max_tokens: int | None = None,
    stop_ids: Iterable[int] = (),
    constraint: Constraint | None = None,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[Step, None, None]:
    """Generates tokens after a prompt, one step at a time, up to and including a stop id.

    While the caller handles a token, the next one is already being computed. So `cache` holds every yielded token, even
    if the generator is closed early. Arguments are checked, and computation starts, when the first step is requested.

    Args:
        model: The model.
        prompt_ids: Token ids that follow those already in `cache`; at least one.
        options: How tokens are chosen. None means `SamplingOptions()`.
        cache: The tokens before the prompt; it is extended. None means that there are none.
        recent: The last ids in `cache`, for the repetition penalty.
        max_tokens: Maximum number of tokens to generate. None means as many as `model.context` has room for, which is
            the limit in any case.
        stop_ids: Ids that end the generation.
        constraint: Restricts the choice of each token. For each token, `accept` and then `allowed` are called while the
            model computes what follows that token. A constraint that allows every id changes no token and costs no
            time.
        chunk: Number of prompt tokens in a chunk of the prefill. None means `model.chunk`.
        progress: progress(done, total) is called after every chunk of the prefill; see `prefill`.

    Yields:
        A `Step` for each generated token.

    Raises:
        OptionError: If the prompt is empty, a token is not in the vocabulary, `max_tokens` or `chunk` is less than 1,
            or `options.logit_bias` has an id that the model does not have.
        ContextError: If the context has no room for a token after the prompt.
        CheckpointError: If weights are on disk and cannot be read.
    """
    if max_tokens is not None and max_tokens < 1:
        raise OptionError(f"max_tokens is {max_tokens}, expected at least 1 or None")
    cache = model.make_cache() if cache is None else cache
    options = options or SamplingOptions()
    room = room_for_answer(model.context, cache.offset + len(prompt_ids))
    sampler, stops = Sampler(options, cache.offset + len(prompt_ids)), frozenset(stop_ids)
    picker = _TokenPicker(sampler, [*recent, *prompt_ids], constraint)
    limit = room if max_tokens is None else min(max_tokens, room)
    pending = picker.pick(prefill(model, prompt_ids, cache, chunk=chunk, progress=progress))
    for count in range(1, limit + 1):
        current = pending
        logits = model(current[0].reshape(1, 1), cache)[0, 0]
        if picker.is_sequential:
            mx.async_eval(logits)
            picker.observe(_number(current[0]))
        pending = picker.pick(logits)
        token = _number(current[0])
        finish = "stop" if token in stops else "length" if count == limit else None
        logprob = _number(current[1]) if options.logprobs else None
        yield Step(token, logprob, _alternatives(current), finish)
        if finish:
            return


class _TokenPicker:
    """Chooses one token after another, and starts computing each choice.

    Attributes:
        is_sequential: True if a choice depends on the token before it. Then `observe` must be called with that token
            before the next `pick`.
    """

    def __init__(self, sampler: Sampler, recent: list[int], constraint: Constraint | None) -> None:
        self._sampler, self._recent, self._constraint = sampler, recent, constraint
        self.is_sequential = sampler.needs_recent or constraint is not None

    def observe(self, token: int) -> None:
        """Records a chosen token, for the repetition penalty and the constraint."""
        if self._sampler.needs_recent:
            self._recent.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def pick(self, logits: mx.array) -> tuple[mx.array, ...]:
        """(token,) and, if the options request them, its logprob, and the most likely ids and their logprobs."""
        allowed = None if self._constraint is None else self._constraint.allowed()
        if isinstance(allowed, int):
            self._sampler.skip()
            chosen: tuple[mx.array, ...] = (mx.array(allowed),)
            if self._sampler.options.logprobs:
                chosen += (mx.array(0.0),)  # it is the only id that can be sampled
        else:
            mask = None if allowed is None else mx.array(allowed)
            chosen = self._sampled(self._sampler.logits(logits, self._recent, mask))
        mx.async_eval(chosen)
        return chosen

    def _sampled(self, logits: mx.array) -> tuple[mx.array, ...]:
        token = self._sampler.sample(logits)
        if not self._sampler.options.logprobs:
            return (token,)
        norm = mx.logsumexp(logits, stream=side_stream())
        chosen = (token, logits[token] - norm)
        count = min(self._sampler.options.top_logprobs, logits.shape[0])
        if count == 0:
            return chosen
        ids = mx.argpartition(-logits, kth=count - 1)[:count]
        ids = ids[mx.argsort(-logits[ids])]
        return (*chosen, ids, logits[ids] - norm)


def _number(array: mx.array) -> Any:
    """Value of a scalar, an int or a float depending on its dtype. Waits until it is computed."""
    return array.item()


def _alternatives(chosen: tuple[mx.array, ...]) -> tuple[tuple[int, float], ...]:
    if len(chosen) <= 2:
        return ()
    ids: Any = chosen[2].tolist()
    logprobs: Any = chosen[3].tolist()
    return tuple((id_, logprob) for id_, logprob in zip(ids, logprobs, strict=True) if logprob > -math.inf)
