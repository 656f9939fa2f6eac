"""The engine: from the ids of a prompt to the tokens that follow it, behind one interface.

Whoever wants tokens makes a `Request` and reads `Step`s from the `Stream` that `Engine.submit` returns. The engine owns
the model, its caches and the thread that computes. `LocalEngine` runs a model in this process, `ScriptedEngine` returns
scripted answers. Knows nothing of MLX, text and messages.
"""

from __future__ import annotations

import reprlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from operator import index
from typing import Literal, Protocol

import numpy as np

from mlx_oss.action import Wait
from mlx_oss.errors import ContextError, EngineError, OptionError
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.offload.reader import OffloadStats


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
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """The engine has read another chunk of a prompt.

    Attributes:
        done: New prompt tokens read so far.
        total: New prompt tokens in all, without those that the engine held already.
    """

    done: int
    total: int


class Constraint(Protocol):
    """Decides token by token which ids can come next.

    The engine calls it on its own thread, while the model computes. So it must not use the engine. An exception that it
    raises is raised to the reader of the stream. An engine may ignore a constraint altogether.
    """

    def allowed(self) -> np.ndarray | int | None:
        """Which ids can come next.

        Returns:
            None for every id; an id for exactly that one; or bool (V',), at least one of them True, which says for each
            of the V' ids that can be sampled whether it can come next.
        """

    def accept(self, token: int) -> None:
        """Records the token that was chosen. Called for each token, in order, before its `Step` is given."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor of a prompt cache, in a form that a file can hold.

    Attributes:
        dtype: "float32", "bfloat16" or "float16".
        shape: Its shape.
        data: Its values in row-major (C) order, little-endian.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


class PromptCache:
    """What an engine holds of one conversation, so that a request reads only what is new.

    `Engine.make_prompt_cache` makes one. A request that uses it continues at the end of the longest common beginning of
    `ids` and its prompt, or earlier: a model with a sliding window can only step back to `Request.snapshots`. The
    request leaves there what it has read and generated. If two requests use a cache at the same time, the later one
    ends the earlier one. This class holds ids only; engines with caches of their own override its methods.

    Attributes:
        ids: The ids that are held.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._stream: weakref.ref[Stream] | None = None  # the last one that used this cache

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return 0

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of the snapshots that let the cache step back; not part of `nbytes`."""
        return 0

    def shared_with(self, prompt: Sequence[int]) -> int:
        """Number of ids that the cache and a prompt have in common at their beginning."""
        pairs = zip(self.ids, prompt, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def fork(self) -> PromptCache:
        """A second cache that holds the same. Both share memory until one of them is extended.

        Raises:
            EngineError: If the engine cannot compute any more; so do `tensors` and `restore`.
        """
        forked = PromptCache()
        forked.ids = list(self.ids)
        return forked

    def frozen(self) -> PromptCache:
        """A second cache that holds the same and keeps it, for reading; the engine may forget what others hold.

        Raises:
            EngineError: As `fork`.
        """
        return self.fork()

    def take_over(self, stream: Stream) -> None:
        """Ends the stream that used the cache until now. `Stream` calls this on the thread of the engine."""
        self.end_stream()
        self._stream = weakref.ref(stream)

    def end_stream(self) -> None:
        """Ends the stream that uses the cache, if there is one; only for the thread of the engine."""
        if self._stream is not None and (stream := self._stream()) is not None:
            stream.end()

    def tensors(self) -> Iterator[tuple[str, SavedTensor]]:
        """Yields everything that is held, snapshots included, sorted by name. `restore` is the reverse."""
        return iter(())

    def check(self, length: int, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Looks at what a file says that it holds, before anything of it is read.

        Args:
            length: Number of ids.
            described: The dtype and shape of each tensor, by its name.

        Raises:
            ValueError: If this is not what a cache of this model holds for so many ids.
        """

    def restore(self, ids: Sequence[int], tensors: Iterable[tuple[str, SavedTensor]]) -> None:
        """Replaces what is held.

        Args:
            ids: `ids` of the cache that was saved.
            tensors: What its `tensors` yielded. An exception while it is read leaves this cache as it is.

        Raises:
            ValueError: If the tensors are not those of a cache of this engine that holds these ids.
        """
        for name, _ in tensors:
            raise ValueError(f"{name} is a tensor of another engine")
        self.end_stream()
        self.ids = list(ids)


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for: the tokens that follow a prompt.

    Attributes:
        prompt: The ids of the whole prompt, at least one. What `cache` holds of it is not read again.
        options: How tokens are chosen.
        max_tokens: Maximum number of tokens to generate. None means as many as the engine's context has room for, which
            is the limit in any case.
        stop_ids: Ids that end the generation. The one that does is the last `Step`.
        constraint: Restricts the choice of each token. None means no restriction.
        cache: What was read before. An empty one begins with what other requests have left of the same beginning. None
            means that the whole prompt is read, and nothing is kept.
        snapshots: Positions in the prompt, as numbers of ids, that later requests with this cache may go back to: for
            example where the answer starts, if its reasoning will not be part of the next prompt. What follows the last
            of them is read again if the cache cannot go back there yet. At earlier ones a snapshot is taken only if the
            request reads that far.
        preamble: How many ids at the beginning of the prompt are likely to be the beginning of other prompts too, such
            as instructions and descriptions of tools. A snapshot is taken there, and a request with another cache finds
            it. 0 means none.
        progress: progress(done, total) is called by the thread or task that iterates over the stream, after each chunk
            of the prompt: how many of its new tokens have been read.

    Raises:
        OptionError: If the prompt is empty or has something that is not an id, `max_tokens` is less than 1, or a
            snapshot is not inside the prompt.
    """

    prompt: Sequence[int]
    options: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop_ids: Collection[int] = ()
    constraint: Constraint | None = None
    cache: PromptCache | None = None
    snapshots: Sequence[int] = ()
    preamble: int = 0
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "prompt", tuple(map(index, self.prompt)))
        except TypeError:
            shown = reprlib.repr(self.prompt)
            raise OptionError(f"the prompt is {shown}, expected token ids: encode text first") from None
        if not self.prompt:
            raise OptionError("the prompt is empty: it needs at least one token")
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise OptionError(f"max_tokens is {self.max_tokens!r}, expected at least 1 or None")
        length = len(self.prompt)
        if bad := [position for position in self.snapshots if type(position) is not int or not 0 < position < length]:
            raise OptionError(f"a snapshot at {bad[0]!r} is not inside the prompt of {length} tokens")
        if type(self.preamble) is not int or not 0 <= self.preamble < length:
            raise OptionError(f"a preamble of {self.preamble!r} tokens is not inside the prompt of {length} tokens")

    def limit(self, context: int) -> int:
        """Maximum number of tokens to generate in a context. Raises ContextError if it has no room for one."""
        room = room_for_answer(context, len(self.prompt))
        return room if self.max_tokens is None else min(self.max_tokens, room)


Item = Step | PromptProgress
Items = Generator[Item, None, None]
Submit = Callable[[Callable[[], Item | None]], Future[Item | None]]


@dataclass(slots=True)
class Counts:
    """What a request has cost so far; the engine counts while it computes.

    Attributes:
        read_tokens: Tokens of the prompt that have been read, including the reused ones.
        reused_tokens: Tokens of the prompt that the engine held already.
        offload: What reading experts from disk has cost.
    """

    read_tokens: int = 0
    reused_tokens: int = 0
    offload: OffloadStats = field(default_factory=OffloadStats)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a `LocalEngine` is doing, and what it has done so far.

    Attributes:
        running: Requests that are being computed, those whose readers pause included.
        waiting: Requests that wait until there is room for them.
        requests: Requests that have begun.
        prompt_tokens: Tokens of their prompts, including the reused ones.
        reused_tokens: Tokens of their prompts whose keys and values were held already.
        prefixes: Conversations whose keys and values are kept although no request uses them now.
        cache_bytes: Bytes of all keys and values, and those that are set aside for the prompts being read.
        cache_limit: The most bytes that they may take.
    """

    running: int
    waiting: int
    requests: int
    prompt_tokens: int
    reused_tokens: int
    prefixes: int
    cache_bytes: int
    cache_limit: int


class Stream(Iterator[Step], AsyncIterator[Step]):
    """The tokens of one request, each computed when it is asked for, or at most one token ahead.

    Iterate over it with `for` or `async for`, from one thread or task at a time. A stream that is no longer used ends
    by itself; `close` ends it at once. One that was cancelled, closed or replaced ends without a step that has
    `finish`.

    Args:
        request: The request.
        items: Computes the progress after each chunk of the prompt, then the steps. It must not refer to the stream,
            which would keep an unused one from ending. If it is dropped unfinished, its `finally` runs on any thread.
        counts: What `items` counts.
        submit: Runs a function later, one at a time and in order, and returns its future, like the method of
            `ThreadPoolExecutor(1)`. Raises EngineError or RuntimeError if nothing can be run any more.

    Attributes:
        counts: What the request has cost so far: tokens read and reused, reads from disk.
    """

    def __init__(self, request: Request, items: Items, counts: Counts, submit: Submit) -> None:
        self.counts = counts
        self._request, self._items, self._submit = request, items, submit
        self._has_begun = self._is_cancelled = False

    def read(self) -> Future[Item | None]:
        """Asks for the next item, without waiting for it.

        Returns:
            A future for the progress after a chunk of the prompt, for the next step, or for None at the end. Its
            exception is an OptionError if an id in the prompt or in `logit_bias` is not in the vocabulary, or a grammar
            is too complex to follow; a CheckpointError if weights on disk cannot be read.

        Raises:
            EngineError: If the engine cannot compute any more: the program is exiting, or this process was forked.
        """
        return self._submit(self._next)

    def wait(self) -> Wait[Item | None]:
        """Asks for the next item, as `read` does. The action waits for it, and cancels the stream if interrupted."""
        return Wait(self.read(), self.cancel)

    def _next(self) -> Item | None:
        if self._is_cancelled:
            self.end()
        elif not self._has_begun and self._request.cache is not None:
            self._request.cache.take_over(self)
        self._has_begun = True
        return next(self._items, None)

    def cancel(self) -> None:
        """Ends the stream after the token, or the chunk of the prompt, that is being computed. Does not wait.

        May be called from any thread. What has been read and generated until then stays in the cache.
        """
        self._is_cancelled = True

    def end(self) -> None:
        """Ends the stream at once; only for the thread of the engine."""
        self._items.close()

    def close(self) -> None:
        """Ends the stream without waiting. What is submitted to the engine later runs after that."""
        self.cancel()
        with suppress(EngineError, RuntimeError):  # the program is exiting: nothing is computed any more
            self._submit(self._next)

    def __next__(self) -> Step:
        while True:
            wait = self.wait()
            wait.perform()
            if isinstance(item := wait.result(), Step):
                return item
            if item is None:
                raise StopIteration
            self._report(item)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Step:
        while True:
            wait = self.wait()
            await wait.aperform()
            if isinstance(item := wait.result(), Step):
                return item
            if item is None:
                raise StopAsyncIteration
            self._report(item)

    def _report(self, item: PromptProgress) -> None:
        if self._request.progress is not None:
            self._request.progress(item.done, item.total)


class Engine(ABC):
    """Generates tokens for requests. One engine serves any number of conversations, from any thread or task.

    To write one: set `context` and `fingerprint`. `make_prompt_cache` may return a `PromptCache()`. `submit` returns a
    `Stream` of a generator that yields a `PromptProgress` after each chunk of the prompt, if it reads in chunks, and
    then a `Step` for each token, up to and including one of `request.stop_ids` or the last of `request.limit(context)`,
    with `finish` set. Before the first step it sets `read_tokens` and `reused_tokens` of the stream's `Counts`, and it
    keeps `request.cache.ids` up to date. It calls `accept` of the constraint before it yields the token's step, or
    ignores the constraint. `ScriptedEngine` is a short example.

    Attributes:
        context: Maximum number of tokens of a prompt and its answer together.
        fingerprint: Identifies what the engine computes. A saved cache can only be restored by an engine with the same
            fingerprint.
        at_once: How many requests it computes together. More of them are computed in turns.
    """

    context: int
    fingerprint: str
    at_once: int = 1

    @abstractmethod
    def submit(self, request: Request) -> Stream:
        """Begins a request. Nothing is computed before the first step is asked for.

        Args:
            request: The request.

        Raises:
            ContextError: If the context has no room for a token after the prompt.
            EngineError: If the engine has shut down, or cannot be used in this process or thread.
        """

    @abstractmethod
    def make_prompt_cache(self) -> PromptCache:
        """Returns an empty cache for one conversation."""


def room_for_answer(context: int, used: int) -> int:
    """Number of tokens that fit into the context after `used` tokens. Raises ContextError if there is no room."""
    if used >= context:
        raise ContextError(
            f"{used:,} tokens leave no room to answer in a context of {context:,}: shorten the conversation",
            used,
            context,
        )
    return context - used
