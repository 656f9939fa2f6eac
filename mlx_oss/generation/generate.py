"""Token ids in, token ids out: prefills a prompt in chunks, then decodes one token per step.

Decoding is one step ahead of the caller. With the native library of the CPU backend that step is complete when the
caller gets a token. Computes on the caller's thread: `LocalEngine` calls it on its own.
Knows nothing of text or harmony; `chat` does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Literal, Protocol

import mlx.core as mx

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.errors import OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Constraint, Step, room_for_answer
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.generation.token_picker import Choice, NextScores, TokenPicker
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import PREFILL_CHUNK, Transformer


class HasTransformer(Protocol):
    """The part of `LocalEngine` that these functions need; a protocol, because `local` imports this module."""

    transformer: Transformer
    context: int
    chunk: int
    added_ids: Collection[int]


def prefill(
    model: Transformer | HasTransformer,
    tokens: Sequence[int],
    cache: Cache,
    *,
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> mx.array:
    """Feeds tokens to the model in chunks.

    Args:
        model: The model, as `mlx_oss.load` returns it, or a `Transformer`.
        tokens: Token ids, at least one.
        cache: The tokens before these; it is extended chunk by chunk.
        chunk: Number of tokens in a chunk. None means `model.chunk`, and 512 for a `Transformer`.
        progress: progress(done, total) is called after every chunk. An exception that it raises ends the prefill and
            leaves the cache extended by `done` tokens.

    Returns:
        The logits (V,) of the token that follows the last one.

    Raises:
        OptionError: If there are no tokens, a token is not in the vocabulary, or `chunk` is less than 1.
        CheckpointError: If weights are on disk and cannot be read.
        DeviceError: If MLX fails: the memory is used up, or the system stopped the GPU. The cache is then of no use.
        EngineError: If this process was forked from one that has computed.
    """
    last = _prefilled(model, tokens, cache, chunk, progress)
    return _parts(model)[0].logits(last)[0, 0]


def _prefilled(
    model: Transformer | HasTransformer,
    tokens: Sequence[int],
    cache: Cache,
    chunk: int | None,
    progress: Callable[[int, int], None] | None,
) -> mx.array:
    """Like `prefill`, but returns the final hidden state (1, 1, C) of the last token."""
    transformer, _, planned = _parts(model)
    for done, last in prefill_chunks(transformer, tokens, cache, planned if chunk is None else chunk):  # noqa: B007
        if progress is not None:
            progress(done, len(tokens))
    return last


def prefill_chunks(
    model: Transformer, tokens: Sequence[int], cache: Cache, chunk: int
) -> Iterator[tuple[int, mx.array]]:
    """Feeds tokens to the model in chunks of `chunk` tokens; `prefill` has the details.

    Yields:
        After every chunk, the number of tokens done so far, and the final hidden state (1, 1, C) of the last of them.

    Raises:
        OptionError: If there are no tokens, a token is not in the vocabulary, or `chunk` is less than 1.
        CheckpointError: If weights are on disk and cannot be read.
        DeviceError: As `prefill`.
    """
    if not tokens:
        raise OptionError("the prompt is empty: it needs at least one token")
    if chunk < 1:
        raise OptionError(f"chunk is {chunk}, expected at least 1 token")
    vocab = model.config.vocab_size
    if bad := next((t for t in tokens if not 0 <= t < vocab), None):
        raise OptionError(f"token id {bad} is outside the vocabulary of {vocab}: expected 0 to {vocab - 1}")
    cache.reserve(len(tokens))
    for start in range(0, len(tokens), chunk):
        with device_errors:
            part = mx.array([list(tokens[start : start + chunk])])
            hidden = model.hidden(part, cache)
            mx.eval(hidden[:, -1], cache.arrays)
        yield start + part.shape[1], hidden[:, -1:]


def generate_step(
    model: Transformer | HasTransformer,
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
        model: The model, as `mlx_oss.load` returns it, or a `Transformer`. It computes on the caller's thread.
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
        chunk: Number of prompt tokens in a chunk of the prefill, as for `prefill`.
        progress: progress(done, total) is called after every chunk of the prefill; see `prefill`.

    Yields:
        A `Step` for each generated token.

    Raises:
        OptionError: If the prompt is empty, a token is not in the vocabulary, `max_tokens` or `chunk` is less than 1,
            or `options.logit_bias` has an id that the model does not have.
        ContextError: If the context has no room for a token after the prompt.
        CheckpointError: If weights are on disk and cannot be read.
        DeviceError: If MLX fails: the memory is used up, or the system stopped the GPU. The cache is then of no use.
        NumericalError: If logits are not numbers. The cache is then of no use.
        EngineError: If this process was forked from one that has computed.
        Exception: What the constraint raises.
    """
    if max_tokens is not None and max_tokens < 1:
        raise OptionError(f"max_tokens is {max_tokens}, expected at least 1 or None")
    transformer, context, _ = _parts(model)
    cache = transformer.make_cache() if cache is None else cache
    options, position = options or SamplingOptions(), cache.offset + len(prompt_ids)
    room = room_for_answer(context, position)
    limit = room if max_tokens is None else min(max_tokens, room)
    added_ids = () if isinstance(model, Transformer) else model.added_ids
    picker = TokenPicker(options, position, [*recent, *prompt_ids], constraint, added_ids)
    last = _prefilled(model, prompt_ids, cache, chunk, progress)
    yield from decode(transformer, last, cache, picker, limit=limit, stop_ids=frozenset(stop_ids))


def decode(
    model: Transformer,
    last: mx.array,
    cache: Cache,
    picker: TokenPicker,
    *,
    limit: int,
    stop_ids: Collection[int],
) -> Generator[Step, None, None]:
    """The second half of `generate_step`: generates tokens after a prompt that has been read.

    Args:
        model: The model.
        last: The final hidden state (1, 1, C) of the last token of the prompt.
        cache: The prompt; it is extended.
        picker: Chooses the tokens.
        limit: Maximum number of tokens to generate.
        stop_ids: Ids that end the generation.

    Yields:
        A `Step` for each generated token.

    Raises:
        NumericalError: If logits are not numbers.
    """
    sequence = Continuation(model, last, cache, picker, limit, stop_ids)
    while True:
        choice = sequence.pending
        advance(model, [sequence])
        if sequence.error is not None:
            try:
                raise sequence.error
            finally:
                sequence.error = None  # it refers to frames that hold the sequence: a cycle
        step = sequence.step_of(choice)
        yield step
        if step.finish:
            return


class Continuation:
    """A sequence that is being written: its cache, what chooses its tokens, and the choice that has begun.

    Args:
        model: The model.
        last: The final hidden state (1, 1, C) of the last token of the prompt.
        cache: The prompt; it is extended.
        picker: Chooses the tokens.
        limit: Maximum number of tokens to generate.
        stop_ids: Ids that end the generation.

    Attributes:
        cache: All tokens but the one that is being chosen.
        picker: Chooses the tokens.
        pending: The choice of the next token, which has begun.
        left: How many tokens may follow.
        guess: Tokens that may follow the next one; the next `advance` checks them.
        guessed: The steps of those that the last `advance` has found to be right. They are in the cache.
        error: Why there is no next choice, if there is none.
    """

    def __init__(
        self,
        model: Transformer,
        last: mx.array,
        cache: Cache,
        picker: TokenPicker,
        limit: int,
        stop_ids: Collection[int],
    ) -> None:
        self.cache, self.picker = cache, picker
        self.left, self._stop_ids = limit, stop_ids
        self._observed: Choice | None = None
        self._refused: Choice | None = None  # the choice that the constraint has not accepted
        self.error: Exception | None = None
        self.guess: Sequence[int] = ()
        self.guessed: list[Step] = []
        with device_errors:
            scores = NextScores(model, last)
        self.pending = picker.pick(scores)

    def step_of(self, choice: Choice) -> Step:
        """The step of a choice, which is the last one; to be called once. Waits for it.

        Raises:
            NumericalError: If logits are not numbers.
            Exception: What the constraint raises.
        """
        if choice is self._refused and self.error is not None:
            raise self.error
        self._observe(choice)
        token = choice.value
        self.left -= 1
        finish: Literal["stop", "length"] | None
        finish = "stop" if token in self._stop_ids else "length" if self.left == 0 else None
        return Step(token, choice.logprob, choice.alternatives, finish)

    def choose_after(self, choice: Choice, scores: Sequence[NextScores]) -> None:
        """Begins to choose the token that follows a choice. An exception becomes `error`.

        Args:
            choice: The choice.
            scores: Of the token after it, and of the one after each token of the guess.
        """
        guess, self.guess, self.guessed = self.guess, (), []
        try:
            self._refused = choice
            self._observe(choice)
            self._refused = None
            self.pending = self.picker.pick(scores[0])
            for token, following in zip(guess, scores[1:], strict=True):
                if self.pending.value != token:
                    break
                self.guessed.append(self.step_of(self.pending))
                if self.guessed[-1].finish:
                    break
                self.pending = self.picker.pick(following)
        except Exception as error:  # of the constraint, or an invalid option: it concerns this sequence only
            self.error = error
        if guess:
            self.cache.take_back(len(guess) - len(self.guessed))
            if not self.guessed:
                self.cache.keep_earlier(False)

    def _observe(self, choice: Choice) -> None:
        """Tells the picker a choice, once, if it has to know it."""
        if self.picker.is_sequential and choice is not self._observed:
            self._observed = choice
            self.picker.observe(choice.value)


def advance(model: Transformer, sequences: Sequence[Continuation]) -> None:
    """Feeds to each sequence the token that was chosen, with its guess, and begins to choose the next one.

    Each matrix of the model is read once for all sequences. A guess changes no token: after each position the token is
    chosen as without it, and what was fed after the first wrong one is taken back. What fails for one sequence becomes
    its `error`.

    Args:
        model: The model.
        sequences: At least one, each with a cache of its own.

    Raises:
        DeviceError: If MLX fails. The caches are then of no use; neither are they after any other exception.
        CheckpointError: If weights are on disk and cannot be read.
    """
    choices, caches = [sequence.pending for sequence in sequences], list[Cache]()
    with device_errors:
        tokens = []
        for sequence, choice in zip(sequences, choices, strict=True):
            sequence.cache.keep_earlier(bool(sequence.guess))
            tokens += [choice.token.reshape(1), mx.array(list(sequence.guess), mx.int32)][: 1 + bool(sequence.guess)]
            caches += [sequence.cache] * (1 + len(sequence.guess))
        hidden = model.hidden_of_each(tokens[0] if len(caches) == 1 else mx.concatenate(tokens), caches)
        logits = model.logits(hidden)[:, 0]
        scores = [NextScores(model, hidden[n : n + 1], logits[n]) for n in range(len(caches))]
        if any(sequence.picker.is_sequential for sequence in sequences):
            mx.async_eval(logits)  # computed while the token before is waited for
    for sequence, choice in zip(sequences, choices, strict=True):
        count = 1 + len(sequence.guess)
        sequence.choose_after(choice, scores[:count])
        del scores[:count]


def _parts(model: Transformer | HasTransformer) -> tuple[Transformer, int, int]:
    """The transformer, its context and its chunk; a `Transformer` alone has the limits of its config.

    Raises EngineError if this process was forked from one that has computed.
    """
    compute_thread.check_process()
    if isinstance(model, Transformer):
        return model, model.config.max_position_embeddings, PREFILL_CHUNK
    return model.transformer, model.context, model.chunk
