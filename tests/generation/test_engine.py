"""An engine gives what `generate_step` gives, reads only what is new, and can be left, cancelled and shared."""

from __future__ import annotations

import asyncio
import gc
import itertools
import queue
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import (
    LocalEngine,
    ModelConfig,
    Request,
    SamplingOptions,
    ScriptedEngine,
    Step,
    Transformer,
    generate_step,
)
from mlx_oss.errors import ContextError, EngineError, OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import PromptCache
from mlx_oss.model.kv_cache import Cache
from tests.engines import as_loaded, small_config

CONTEXT = 96
WINDOW = 7
PROMPT = [3, 14, 15, 9, 2, 6, 5, 35, 8, 7, 9, 32, 38, 46, 26, 43]
GREEDY = SamplingOptions(temperature=0)


class Counting(Transformer):
    """Counts the tokens that it is given, so that a test sees what is computed, and when."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.seen = Seen()

    def hidden(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        self.seen.tokens += tokens.size
        return super().hidden(tokens, cache)


class Seen:
    tokens = 0


@pytest.fixture(scope="module")
def model() -> LocalEngine:
    """Random weights, a window shorter than the prompt, chunks of 5 tokens."""
    mx.random.seed(5)
    return LocalEngine(as_loaded(Counting(small_config(window=WINDOW, context=CONTEXT))), chunk=5)


@pytest.fixture(autouse=True)
def forgotten(model) -> None:
    """Each test begins without what others have left in the pool."""
    model.forget_prefixes()


def tokens_of(model: LocalEngine, prompt: Sequence[int] = PROMPT, count: int = 12, **more) -> list[int]:
    return [step.token for step in model.submit(Request(prompt, GREEDY, count, **more))]


class Allowing:
    """A constraint that calls a function for each token; every id is allowed."""

    def __init__(self, accepted=lambda token: None) -> None:
        self.accept = accepted

    def allowed(self) -> np.ndarray | int | None:
        return None


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        SamplingOptions(seed=7, top_logprobs=4),
        SamplingOptions(seed=8, repetition_penalty=1.5, temperature=1.7),
        SamplingOptions(seed=9, logprobs=False, top_k=9),
    ],
)
@pytest.mark.parametrize("constraint", [None, Allowing()])
def test_an_engine_gives_the_steps_of_generate_step(model, options, constraint):
    """Bit for bit, with a cache and without."""
    wanted = list(generate_step(model, PROMPT, options, max_tokens=20, constraint=constraint, stop_ids=[11]))
    for cache in (None, model.make_prompt_cache()):
        assert list(model.submit(Request(PROMPT, options, 20, [11], constraint, cache))) == wanted


def test_a_request_reads_only_what_is_new_and_says_so(model):
    cache, wanted = model.make_prompt_cache(), tokens_of(model)
    first = model.submit(Request(PROMPT, GREEDY, 12, cache=cache))
    assert [step.token for step in first] == wanted
    assert (first.counts.read_tokens, first.counts.reused_tokens) == (len(PROMPT), 0)
    longer = [*PROMPT, *wanted, 5, 6, 7]
    before = model.transformer.seen.tokens
    second = model.submit(Request(longer, GREEDY, 4, cache=cache))
    assert [step.token for step in second] == tokens_of(model, longer, 4)
    assert (second.counts.read_tokens, second.counts.reused_tokens) == (len(longer), len(longer) - 3)
    assert model.transformer.seen.tokens - before == 3 + 4 + (len(longer) + 4)  # the fresh one reads everything
    assert cache.ids[: len(longer)] == longer and len(cache.ids) == len(longer) + 4


def test_a_request_goes_back_to_a_snapshot_although_the_window_has_passed(model):
    cache = model.make_prompt_cache()
    tokens_of(model, count=2 * WINDOW, cache=cache, snapshots=[9, 13])
    for position in (13, 9):
        prompt = [*PROMPT[:position], 50, 51]
        stream = model.submit(Request(prompt, GREEDY, 5, cache=cache))
        assert [step.token for step in stream] == tokens_of(model, prompt, 5)
        assert stream.counts.reused_tokens == position


def test_the_same_prompt_again_reads_at_least_its_last_token_or_from_the_last_snapshot(model):
    cache, wanted = model.make_prompt_cache(), tokens_of(model)
    tokens_of(model, cache=cache, snapshots=[11])
    for snapshots in ([11], [], [11]):
        stream = model.submit(Request(PROMPT, GREEDY, 12, cache=cache, snapshots=snapshots))
        assert [step.token for step in stream] == wanted and stream.counts.reused_tokens == 11
    short = model.make_prompt_cache()
    tokens_of(model, PROMPT[: WINDOW - 2], 1, cache=short)
    stream = model.submit(Request(PROMPT[: WINDOW - 2], GREEDY, 1, cache=short))
    assert len(list(stream)) == 1 and stream.counts.reused_tokens == WINDOW - 3  # the window has not passed


def test_progress_comes_after_each_chunk_to_the_thread_that_reads(model):
    told: list[tuple[int, int, str]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total, threading.current_thread().name))

    tokens_of(model, progress=progress)
    me = threading.current_thread().name
    assert told == [(5, 16, me), (10, 16, me), (15, 16, me), (16, 16, me)]


def test_nothing_is_computed_before_it_is_asked_for_and_at_most_a_token_ahead(model):
    before = model.transformer.seen.tokens
    stream = model.submit(Request(PROMPT, GREEDY))
    assert model.transformer.seen.tokens == before
    for count in range(1, 6):
        next(stream)
        compute_thread.run(lambda: None)
        assert model.transformer.seen.tokens - before == len(PROMPT) + count


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_stream_that_is_cancelled_ends_and_leaves_a_usable_cache(model, taken):
    cache = model.make_prompt_cache()
    stream = model.submit(Request(PROMPT, GREEDY, cache=cache))
    given = [step.token for step in itertools.islice(stream, taken)]
    threading.Thread(target=stream.cancel).start()
    while (step := next(stream, None)) is not None:  # the thread may be late
        given.append(step.token)
    assert len(given) < CONTEXT - len(PROMPT) and next(stream, None) is None
    assert cache.ids == [*PROMPT, *given] if given else cache.ids == PROMPT[: len(cache.ids)]
    longer = [*PROMPT, *given, 4]
    assert tokens_of(model, longer, 6, cache=cache) == tokens_of(model, longer, 6)


def test_a_prompt_that_is_cancelled_keeps_the_chunks_it_has_read(model):
    cache = model.make_prompt_cache()
    stream = model.submit(Request(PROMPT, GREEDY, cache=cache, progress=lambda done, _: done < 10 or stream.cancel()))
    assert list(stream) == [] and cache.ids == PROMPT[:10]
    assert stream.counts.read_tokens == 10
    again = model.submit(Request(PROMPT, GREEDY, 12, cache=cache))
    assert [step.token for step in again] == tokens_of(model) and again.counts.reused_tokens == 10


def test_a_stream_that_nobody_uses_any_more_is_freed_without_the_garbage_collector(model):
    cache = model.make_prompt_cache()
    gc.disable()
    try:
        for _ in model.submit(Request(PROMPT, GREEDY, cache=cache)):
            break
        stream = model.submit(Request(PROMPT, GREEDY, cache=cache))
        next(stream)
        compute_thread.run(lambda: None)
        gone = [weakref.ref(stream), weakref.ref(cache)]
        del stream, cache
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_cache_is_freed_without_the_garbage_collector_after_its_stream_was(model, how):
    def refuse(token: int) -> None:
        raise RuntimeError("no more")

    async def cancelled(cache: PromptCache) -> None:
        async def listen() -> None:
            async for _ in model.submit(Request(PROMPT, GREEDY, cache=cache)):
                await asyncio.sleep(0)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    gc.collect()
    gc.disable()
    try:
        cache = model.make_prompt_cache()
        gone = weakref.ref(cache)
        if how == "cancelled":
            asyncio.run(cancelled(cache))
        else:
            with suppress(RuntimeError):
                list(model.submit(Request(PROMPT, GREEDY, cache=cache, constraint=Allowing(refuse))))
        del cache
        compute_thread.run(lambda: None)
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "allowed",
    [
        53,
        10**7,
        2**40,
        -1,
        1.5,
        "x",
        [True] * 53,
        np.zeros(53, bool),
        np.ones(52, bool),
        np.ones((1, 53), bool),
        np.ones(53),
    ],
)
def test_what_no_constraint_may_allow_is_an_error_and_not_a_crash(model, allowed):
    constraint = Allowing()
    constraint.allowed = lambda: allowed
    with pytest.raises(OptionError, match=r"the constraint (allows|gave a mask)"):
        next(model.submit(Request(PROMPT, constraint=constraint)))


def test_a_constraint_may_allow_a_numpy_id_and_a_longer_mask(model):
    masks = iter([np.int64(7), np.arange(200_000) == 9, np.arange(200_000) == 9])
    constraint = Allowing()
    constraint.allowed = lambda: next(masks)
    assert [step.token for step in model.submit(Request(PROMPT, max_tokens=2, constraint=constraint))] == [7, 9]


def test_a_request_ends_the_one_that_used_its_cache_before(model):
    cache = model.make_prompt_cache()
    first = model.submit(Request(PROMPT, GREEDY, cache=cache))
    given = [next(first).token for _ in range(3)]
    assert tokens_of(model, [*PROMPT, 1], 6, cache=cache) == tokens_of(model, [*PROMPT, 1], 6)
    assert list(first) == [] and given == tokens_of(model, count=3)


def test_a_stream_that_is_closed_before_it_begins_ends_no_other(model):
    cache = model.make_prompt_cache()
    first, second = (model.submit(Request(PROMPT, GREEDY, 6, cache=cache)) for _ in range(2))
    given = [next(first).token]
    second.close()
    assert given + [step.token for step in first] == tokens_of(model, count=6) and list(second) == []


def test_a_cache_that_is_restored_ends_the_stream_that_uses_it(model):
    saved = model.make_prompt_cache()
    tokens_of(model, count=2, cache=saved)
    cache = model.make_prompt_cache()
    stream = model.submit(Request(PROMPT[:5], GREEDY, cache=cache))
    next(stream)
    cache.restore(saved.ids, saved.tensors())
    assert list(stream) == [] and cache.ids == saved.ids
    assert tokens_of(model, [*cache.ids, 1], cache=cache) == tokens_of(model, [*saved.ids, 1])


def test_a_prompt_is_what_it_was_when_the_request_was_made(model):
    for prompt in (list(PROMPT), np.array(PROMPT), tuple(PROMPT)):
        stream = model.submit(Request(prompt, GREEDY, 12))
        if isinstance(prompt, list):
            prompt.clear()
        assert [step.token for step in stream] == tokens_of(model)


def test_streams_that_alternate_say_what_they_say_alone(model):
    prompts = [PROMPT, PROMPT[3:], PROMPT[::-1]]
    streams = [model.submit(Request(prompt, GREEDY, 10)) for prompt in prompts]
    together = list(zip(*streams, strict=True))
    assert [[step.token for step in steps] for steps in zip(*together, strict=True)] == [
        tokens_of(model, prompt, 10) for prompt in prompts
    ]


def test_streams_in_threads_and_tasks_say_what_they_say_alone(model):
    wanted, found = tokens_of(model), queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: found.put(tokens_of(model))) for _ in range(4)]

    async def tokens() -> list[int]:
        return [step.token async for step in model.submit(Request(PROMPT, GREEDY, 12))]

    async def several() -> list[list[int]]:
        return await asyncio.gather(*(tokens() for _ in range(4)))

    for thread in threads:
        thread.start()
    assert asyncio.run(several()) == 4 * [wanted]
    for thread in threads:
        thread.join()
    assert [found.get() for _ in threads] == 4 * [wanted]


def test_a_task_that_is_cancelled_ends_its_stream_and_the_cache_is_usable(model):
    cache = model.make_prompt_cache()

    async def main() -> None:
        stream = model.submit(Request(PROMPT, GREEDY, cache=cache))

        async def listen() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(listen())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])

        assert await anext(stream, None) is None

    asyncio.run(main())
    assert tokens_of(model, cache=cache) == tokens_of(model)


def test_a_fork_goes_on_independently(model):
    cache = model.make_prompt_cache()
    tokens_of(model, count=3, cache=cache, snapshots=[12])
    fork = cache.fork()
    for cache_, last in ((cache, 1), (fork, 2), (cache, 3), (fork, 4)):
        prompt = [*PROMPT[:12], last, last]
        assert tokens_of(model, prompt, 6, cache=cache_, snapshots=[12]) == tokens_of(model, prompt, 6)


def test_what_is_saved_is_restored(model):
    cache = model.make_prompt_cache()
    tokens_of(model, count=9, cache=cache, snapshots=[12])
    restored = model.make_prompt_cache()
    restored.restore(cache.ids, cache.tensors())
    assert restored.ids == cache.ids
    for prompt in ([*cache.ids, 1], [*PROMPT[:12], 5]):
        stream = model.submit(Request(prompt, GREEDY, 6, cache=restored))
        assert [step.token for step in stream] == tokens_of(model, prompt, 6)
        assert stream.counts.reused_tokens == len(prompt) - 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda named: named.pop("layers.1.keys"),
        lambda named: named.pop("snapshots.12.0.values"),
        lambda named: named.update({"layers.0.keys": named["layers.1.keys"]}),
        lambda named: named.update({"layers.9.keys": named["layers.1.keys"]}),
        lambda named: named.update({"snapshots.99.0.keys": named["layers.0.keys"]}),
        lambda named: named.update({"snapshots.-1.0.keys": named["layers.0.keys"]}),
        lambda named: named.update({"other": named["layers.0.keys"]}),
        lambda named: named.clear(),
    ],
)
def test_tensors_that_are_not_those_of_the_cache_are_refused_and_it_stays_as_it_is(model, damage):
    cache = model.make_prompt_cache()
    tokens_of(model, count=9, cache=cache, snapshots=[12])
    named = dict(cache.tensors())
    damage(named)
    kept = model.make_prompt_cache()
    tokens_of(model, count=2, cache=kept)
    held = list(kept.ids)
    with pytest.raises(ValueError, match=r"missing|position"):
        kept.restore(cache.ids, named.items())
    assert kept.ids == held and tokens_of(model, cache=kept) == tokens_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": "Hello"}, "prompt is 'Hello', expected token ids"),
        ({"prompt": [1, 2.5]}, r"prompt is \[1, 2.5\], expected token ids"),
        ({"prompt": 7}, "prompt is 7"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"snapshots": [0]}, "snapshot at 0 is not inside the prompt of 16"),
        ({"snapshots": [4, 16]}, "snapshot at 16"),
        ({"snapshots": [2.0]}, "snapshot at 2.0"),
    ],
)
def test_a_wrong_request_is_refused_when_it_is_made(change, message):
    with pytest.raises(OptionError, match=message):
        Request(**{"prompt": PROMPT} | change)


def test_a_prompt_without_room_is_refused_before_anything_is_computed(model):
    before = model.transformer.seen.tokens
    with pytest.raises(ContextError, match="96 tokens leave no room"):
        model.submit(Request([1] * CONTEXT))
    assert model.transformer.seen.tokens == before
    (step,) = model.submit(Request([1] * (CONTEXT - 1)))
    assert step.finish == "length"


def test_a_token_outside_the_vocabulary_is_refused(model):
    """So is a bias for one; what the cache holds stays there."""
    cache = model.make_prompt_cache()
    tokens_of(model, count=1, cache=cache)
    with pytest.raises(OptionError, match="token id 53 is outside"):
        next(model.submit(Request([*cache.ids, 1, 53], cache=cache)))
    assert len(cache.ids) == len(PROMPT) + 1
    with pytest.raises(OptionError, match=r"logit_bias\[53\] is outside"):
        next(model.submit(Request([*cache.ids, 1], SamplingOptions(logit_bias={53: 1}), cache=cache)))
    assert len(cache.ids) == len(PROMPT) + 2
    assert tokens_of(model, cache=cache) == tokens_of(model)


def test_a_cache_of_another_engine_is_refused(model):
    other = LocalEngine(Transformer(model.config))
    for cache in (PromptCache(), other.make_prompt_cache(), ScriptedEngine().make_prompt_cache()):
        with pytest.raises(OptionError, match="of another engine"):
            model.submit(Request(PROMPT, cache=cache))


def test_an_error_of_a_constraint_comes_to_the_reader_and_leaves_a_usable_cache(model):
    def refuse(token: int) -> None:
        raise RuntimeError("no more")

    cache = model.make_prompt_cache()
    with pytest.raises(RuntimeError, match="no more"):
        list(model.submit(Request(PROMPT, GREEDY, constraint=Allowing(refuse), cache=cache)))
    assert tokens_of(model, cache=cache) == tokens_of(model)


def test_a_constraint_that_uses_the_engine_is_refused_instead_of_waiting_for_ever(model):
    other = model.submit(Request(PROMPT))
    for use in (lambda token: next(other), lambda token: list(model.submit(Request(PROMPT)))):
        with pytest.raises(EngineError, match="cannot wait for the engine"):
            list(model.submit(Request(PROMPT, GREEDY, constraint=Allowing(use))))
    assert len(list(other)) == CONTEXT - len(PROMPT)


def test_limits_are_those_of_the_plan_or_as_given(model):
    assert (model.context, model.chunk) == (CONTEXT, 5)
    with pytest.raises(OptionError, match="has no plan"):
        model.plan  # noqa: B018
    engine = LocalEngine(model.transformer, context=20)
    assert (engine.context, engine.chunk) == (20, 512)
    assert len(list(engine.submit(Request(PROMPT)))) == 4
    assert len(list(generate_step(engine, PROMPT))) == 4
    assert len(list(generate_step(model.transformer, PROMPT))) == CONTEXT - len(PROMPT)


def test_a_model_is_called_for_logits(model):
    tokens = mx.array([PROMPT])
    assert mx.array_equal(model(tokens), model.transformer(tokens))
    cache = model.make_cache()
    model(tokens, cache)
    assert cache.offset == len(PROMPT)


def test_steps_are_plain_values(model):
    step = next(model.submit(Request(PROMPT, GREEDY)))
    assert isinstance(step, Step) and type(step.token) is int and type(step.logprob) is float
