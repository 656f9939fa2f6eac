"""Ids in, ids out: prefill a prompt in chunks, then one token a step, always one step ahead of the caller.

Knows nothing of text or harmony; `chat` does.
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

    token         its id
    logprob       its log-probability in nats at temperature 1, after bias and penalty, among ids that may be sampled
    top_logprobs  the likeliest ids and theirs, best first, as many as the options ask for
    finish        "stop" on a stop id, "length" on the last one allowed, None before
    """

    token: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


class Constraint(Protocol):
    """Decides, token by token, what may come next: see `generate_step`."""

    def allowed(self) -> np.ndarray | int | None:
        """What may come next: None, every id; an id, that one; bool (V',) of the ids that may be sampled, those that
        are True, which is at least one.
        """

    def accept(self, token: int) -> None:
        """The token that comes next; called for each one, in order."""


def prefill(
    model: Transformer,
    tokens: Sequence[int],
    cache: Cache,
    *,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> mx.array:
    """Feeds tokens to the model, `chunk` at a time, and returns the logits (V,) that follow the last one.

    chunk                  None: as many as the model's memory is planned for
    progress(done, total)  is called after every chunk; what it raises ends the prefill, with the cache at `done`
    """
    chunks = prefill_chunks(model, tokens, cache, chunk=chunk)
    while True:
        try:
            done = next(chunks)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(done, len(tokens))


def prefill_chunks(
    model: Transformer, tokens: Sequence[int], cache: Cache, *, chunk: int | None = None
) -> Generator[int, None, mx.array]:
    """As `prefill`, step by step: yields how many tokens are done after every chunk, returns the logits."""
    if not tokens:
        raise OptionError("there is no token to start from: a prompt holds at least one")
    chunk = model.chunk if chunk is None else chunk
    if chunk < 1:
        raise OptionError(f"chunk is {chunk}, expected at least 1 token")
    vocab = model.config.vocab_size
    if bad := next((t for t in tokens if not 0 <= t < vocab), None):
        raise OptionError(f"token id {bad} is outside the vocabulary of {vocab}")
    cache.reserve(len(tokens))
    for start in range(0, len(tokens), chunk):
        part = mx.array([list(tokens[start : start + chunk])])
        hidden = model.hidden(part, cache)
        mx.eval(hidden[:, -1], cache.arrays)
        yield start + part.shape[1]
    return model.logits(hidden[:, -1:])[0, 0]


def room_for_answer(context: int, used: int) -> int:
    """Tokens that a context leaves after `used`; raises ContextError if that is none."""
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
    """Yields a Step for each generated token, up to and including a stop id.

    prompt_ids  what follows the positions already in `cache`; ids, at least one
    recent      the last ids in `cache`, for the repetition penalty
    max_tokens  how many to generate at most; None: what the context (`model.context`) leaves
    constraint  asked before each choice and told of each token, while the model computes what follows that token; one
                that allows every id changes no token and costs no time

    While the caller looks at a token the next one is being computed, so `cache` then holds every yielded token; closing
    the generator at any point leaves it so. Raises ContextError if the prompt does not fit the context.
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
    """Chooses token after token, and starts computing each choice.

    waits  whether a choice depends on the token before it, which it must then be told first
    """

    def __init__(self, sampler: Sampler, recent: list[int], constraint: Constraint | None) -> None:
        self._sampler, self._recent, self._constraint = sampler, recent, constraint
        self.is_sequential = sampler.needs_recent or constraint is not None

    def observe(self, token: int) -> None:
        if self._sampler.needs_recent:
            self._recent.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def pick(self, logits: mx.array) -> tuple[mx.array, ...]:
        """(token,) and, if asked for, its logprob, and ids and logprobs of the likeliest."""
        allowed = None if self._constraint is None else self._constraint.allowed()
        if isinstance(allowed, int):
            self._sampler.skip()
            chosen: tuple[mx.array, ...] = (mx.array(allowed),)
            if self._sampler.options.logprobs:
                chosen += (mx.array(0.0),)  # among ids that may be sampled
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
    """A scalar's value, an int or a float by its dtype; waits until it is computed."""
    return array.item()


def _alternatives(chosen: tuple[mx.array, ...]) -> tuple[tuple[int, float], ...]:
    if len(chosen) <= 2:
        return ()
    ids: Any = chosen[2].tolist()
    logprobs: Any = chosen[3].tolist()
    return tuple((id_, logprob) for id_, logprob in zip(ids, logprobs, strict=True) if logprob > -math.inf)
