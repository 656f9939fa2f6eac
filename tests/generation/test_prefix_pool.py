"""What requests have read is found again, in one limit of bytes, and nobody's cache is spoiled by another request."""

from __future__ import annotations

import gc
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_oss import LocalEngine, PromptCache, Request, SamplingOptions, Stream, Transformer
from mlx_oss.errors import ContextError
from mlx_oss.generation import tick
from mlx_oss.generation.lookup import Lookup, Worth
from mlx_oss.generation.prefix_pool import bytes_for, shared_length
from mlx_oss.model.kv_cache import Cache
from tests.engines import as_loaded, small_config

WINDOW, CONTEXT = 7, 1200
GREEDY = SamplingOptions(temperature=0)
PREAMBLE = [(11 * n) % 50 for n in range(40)]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    mx.random.seed(8)
    return as_loaded(Transformer(small_config(window=WINDOW, context=CONTEXT)))


@pytest.fixture
def engine(transformer) -> LocalEngine:
    return LocalEngine(transformer, chunk=16)


def step_bytes(engine: LocalEngine, conversations: int = 1) -> int:
    """Bytes of the keys and values of so many conversations of up to 256 ids."""
    return conversations * bytes_for(engine.config, 256, engine.dtype.size, 1)


def begun(engine: LocalEngine, prompt: list[int], cache: PromptCache | None = None, count: int = 6, **more) -> Stream:
    return engine.submit(
        Request(prompt, GREEDY, count, cache=engine.make_prompt_cache() if cache is None else cache, **more)
    )


def tokens(stream: Stream) -> list[int]:
    return [step.token for step in stream]


def alone(engine: LocalEngine, prompt: list[int], count: int = 6) -> list[int]:
    """What the model says after a prompt that is read from its beginning."""
    return tokens(engine.submit(Request(prompt, GREEDY, count)))


def test_another_conversation_begins_after_the_same_preamble(engine):
    for number in range(3):
        prompt = [*PREAMBLE, number, 7, number]
        stream = begun(engine, prompt, preamble=len(PREAMBLE))
        assert tokens(stream) == alone(engine, prompt)
        assert stream.counts.reused_tokens == (len(PREAMBLE) if number else 0)
    stats = engine.stats
    assert (stats.requests, stats.running, stats.waiting, stats.prefixes) == (6, 0, 0, 3)
    assert stats.reused_tokens == 2 * len(PREAMBLE) and stats.prompt_tokens == 6 * (len(PREAMBLE) + 3)


def test_a_preamble_within_the_window_gets_no_snapshot_of_its_own(engine):
    cache = engine.make_prompt_cache()
    tokens(begun(engine, PREAMBLE, cache, preamble=WINDOW))
    assert cache.snapshot_bytes == 0


def test_a_history_that_is_sent_whole_is_read_once(engine):
    """As HTTP clients do, with a cache for each request. It is continued in place: there is one prefix."""
    history = list(PREAMBLE)
    for number in range(5):
        stream = begun(engine, history)
        history += tokens(stream)
        assert stream.counts.read_tokens - stream.counts.reused_tokens == (3 if number else len(PREAMBLE))
        assert engine.stats.prefixes == 1
        history += [number, 1, 2]


def test_a_request_that_continues_only_a_part_leaves_the_whole_as_it_was(engine):
    answer = tokens(begun(engine, [*PREAMBLE, 1, 2, 3], preamble=len(PREAMBLE)))
    title = [*PREAMBLE, 9]
    assert tokens(begun(engine, title, preamble=len(PREAMBLE))) == alone(engine, title)
    longer = [*PREAMBLE, 1, 2, 3, *answer, 4]
    stream = begun(engine, longer)
    assert stream and tokens(stream) == alone(engine, longer) and stream.counts.reused_tokens == len(longer) - 1


def test_what_a_conversation_holds_is_not_continued_by_another(engine):
    mine = engine.make_prompt_cache()
    answer = tokens(begun(engine, PREAMBLE, mine))
    held = mine.ids
    stream = begun(engine, [*PREAMBLE, *answer, 3])
    assert tokens(stream) == alone(engine, [*PREAMBLE, *answer, 3]) and stream.counts.reused_tokens == len(held)
    assert mine.ids == held
    stream = begun(engine, [*held, 4], mine)
    assert tokens(stream) == alone(engine, [*held, 4]) and stream.counts.reused_tokens == len(held)


def test_a_prompt_is_found_while_another_request_still_writes_after_it(engine):
    first = begun(engine, [*PREAMBLE, 1], count=50, preamble=len(PREAMBLE))
    given = [next(first).token]
    second = begun(engine, [*PREAMBLE, 2], preamble=len(PREAMBLE))
    assert tokens(second) == alone(engine, [*PREAMBLE, 2]) and second.counts.reused_tokens == len(PREAMBLE)
    assert given + tokens(first) == alone(engine, [*PREAMBLE, 1], 50)


def test_requests_that_come_together_read_their_preamble_once(engine):
    prompts = [[*PREAMBLE, number, 3] for number in range(4)]
    streams = [begun(engine, prompt, preamble=len(PREAMBLE)) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(tokens, streams))
    assert said == [alone(engine, prompt) for prompt in prompts]
    read = [stream.counts.read_tokens - stream.counts.reused_tokens for stream in streams]
    assert read == [len(PREAMBLE) + 2, 2, 2, 2]


def test_a_reader_that_pauses_in_a_preamble_stops_nobody(engine):
    paused = begun(engine, [*PREAMBLE, 1], preamble=len(PREAMBLE))
    paused.read().result()
    assert tokens(begun(engine, [*PREAMBLE, 2], preamble=len(PREAMBLE))) == alone(engine, [*PREAMBLE, 2])
    assert tokens(paused) == alone(engine, [*PREAMBLE, 1])


def test_the_limit_of_bytes_holds_over_random_conversations(transformer):
    """Idle prefixes go, those first that no conversation holds; what is said does not change."""
    engine = LocalEngine(transformer, chunk=64, cache_bytes=step_bytes(LocalEngine(transformer), 9))
    rng = random.Random(3)
    caches: list[PromptCache] = [engine.make_prompt_cache() for _ in range(4)]
    histories: list[list[int]] = [[] for _ in caches]
    for _ in range(30):
        number = rng.randrange(len(caches))
        if rng.random() < 0.3:
            histories[number] = []
        history = histories[number]
        history += [rng.randrange(50) for _ in range(rng.randrange(1, 200))]
        del history[600:]
        cache = caches[number] if rng.random() < 0.5 else engine.make_prompt_cache()
        said = tokens(begun(engine, history, cache, 4))
        assert said == alone(engine, history, 4)
        history += said
        stats = engine.stats
        assert stats.cache_bytes <= stats.cache_limit
    assert engine.stats.prefixes > 1


def test_a_conversation_whose_keys_were_dropped_reads_them_again(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer)))
    cache = engine.make_prompt_cache()
    answer = tokens(begun(engine, PREAMBLE, cache))
    tokens(begun(engine, PREAMBLE[::-1]))
    assert cache.ids == [] and cache.nbytes == 0
    longer = [*PREAMBLE, *answer, 1]
    assert tokens(begun(engine, longer, cache)) == alone(engine, longer)


def test_a_prompt_that_can_never_fit_is_refused(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer)))
    with pytest.raises(ContextError, match=r"300 tokens take more than the .* shorten"):
        next(begun(engine, [1] * 300))
    assert tokens(begun(engine, PREAMBLE)) == alone(engine, PREAMBLE)


def test_a_request_for_which_there_is_no_room_waits_for_another_to_end(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer)))
    streams = [begun(engine, prompt, count=200) for prompt in (PREAMBLE, PREAMBLE[::-1], PREAMBLE[::3])]
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(tokens, streams))
    prompts = (PREAMBLE, PREAMBLE[::-1], PREAMBLE[::3])
    assert said == [alone(LocalEngine(transformer), prompt, 200) for prompt in prompts]
    assert engine.stats.waiting == 0


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_a_reader_that_pauses_with_all_the_memory_lets_others_have_it(transformer, is_kept, count):
    """It goes on where it was when it comes back; in the meantime its ids may have to be read again."""
    engine = LocalEngine(transformer, chunk=16, cache_bytes=step_bytes(LocalEngine(transformer)))
    caches = [engine.make_prompt_cache() if is_kept else None for _ in range(2)]
    paused, other = (
        engine.submit(Request(prompt, GREEDY, 60, cache=cache))
        for prompt, cache in zip((PREAMBLE, PREAMBLE[::-1]), caches, strict=True)
    )
    given = [next(paused).token for _ in range(count)]
    assert tokens(other) == alone(LocalEngine(transformer), PREAMBLE[::-1], 60)
    assert given + tokens(paused) == alone(LocalEngine(transformer), PREAMBLE, 60)


def test_the_answer_that_finds_no_more_room_ends_and_the_others_go_on(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer), 2))
    long = [(3 * n) % 50 for n in range(250)]
    cache = engine.make_prompt_cache()
    other = begun(engine, PREAMBLE, count=30)
    given, got = [next(other).token], []
    with pytest.raises(ContextError, match="are used up by 2"):
        got += [step.token for step in begun(engine, long, cache, 30)]
    assert given + tokens(other) == alone(LocalEngine(transformer), PREAMBLE, 30)
    ids = cache.ids
    assert len(ids) == 256 and ids[:250] == long
    assert tokens(begun(engine, [*ids, 1], cache)) == alone(LocalEngine(transformer), [*ids, 1])


@pytest.mark.parametrize("on_gpu", [False, True])
def test_an_answer_gets_every_token_up_to_where_the_room_ends(transformer, monkeypatch, on_gpu):
    """Where it ends there by itself, it is whole."""
    monkeypatch.setattr(tick, "device", SimpleNamespace(on_gpu=lambda: on_gpu))
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer)), guesses=False)
    long = [(3 * n) % 50 for n in range(250)]
    wanted = alone(LocalEngine(transformer, guesses=False), long, 9)
    assert tokens(begun(engine, long, count=7)) == wanted[:7]
    engine.forget_prefixes()
    stream = begun(engine, long, count=9)
    assert [next(stream).token for _ in range(7)] == wanted[:7]
    with pytest.raises(ContextError, match="used up"):
        next(stream)


def test_wrong_guesses_take_no_bytes(transformer, monkeypatch):
    """Each guess near the end of a buffer sets bytes aside for the next buffer, once."""
    monkeypatch.setattr(Lookup, "guess", lambda self, most=16: [3] * most)
    monkeypatch.setattr(Worth, "is_worth_it", lambda self: True)
    engine = LocalEngine(transformer, guesses=True)
    stream = begun(engine, PREAMBLE, count=400)
    for _ in range(300):
        next(stream)
    assert engine.stats.cache_bytes == bytes_for(engine.config, 340, engine.dtype.size, 0)


def test_forgetting_frees_what_no_conversation_holds(engine):
    cache = engine.make_prompt_cache()
    tokens(begun(engine, PREAMBLE, cache))
    tokens(begun(engine, PREAMBLE[::-1]))
    gc.collect()
    assert engine.stats.prefixes == 2
    engine.forget_prefixes()
    assert engine.stats.prefixes == 1 and cache.ids[: len(PREAMBLE)] == PREAMBLE


def test_what_forks_share_counts_once_when_bytes_are_scarce(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer), 3) + 40_000)
    cache = engine.make_prompt_cache()
    tokens(begun(engine, PREAMBLE, cache))
    forks = [cache.fork() for _ in range(5)]
    assert engine.stats.cache_bytes <= 2 * cache.nbytes
    prompt = [*cache.ids, 3]
    assert tokens(begun(engine, PREAMBLE[::-1])) == alone(engine, PREAMBLE[::-1])
    assert [fork.ids for fork in forks] == 5 * [cache.ids] != 5 * [[]]
    assert tokens(begun(engine, prompt, forks[0])) == alone(engine, prompt)


def test_statistics_can_be_read_while_prefixes_come_and_go(transformer, monkeypatch):
    engine = LocalEngine(transformer)
    cache = engine.make_prompt_cache()
    tokens(begun(engine, PREAMBLE, cache))
    forks = [cache.fork() for _ in range(3)]
    engine._scheduler.rows.pool.limit = 1  # so that it looks for what they share
    pool, all_arrays = cache.pool, Cache.all_arrays.fget

    def looked_at(kv):  # meanwhile the computing thread drops one
        if len(forks) == 3:
            pool.drop(forks.pop().prefix)
        return all_arrays(kv)

    monkeypatch.setattr(Cache, "all_arrays", property(looked_at))
    assert engine.stats.cache_bytes == cache.nbytes and engine.stats.prefixes == 3


def test_what_is_frozen_stays_although_the_engine_forgets_it(transformer):
    engine = LocalEngine(transformer, cache_bytes=step_bytes(LocalEngine(transformer)))
    cache = engine.make_prompt_cache()
    tokens(begun(engine, PREAMBLE, cache))
    frozen, ids = cache.frozen(), cache.ids
    tokens(begun(engine, PREAMBLE[::-1]))
    assert cache.ids == [] and frozen.ids == ids
    cache.restore(frozen.ids, frozen.tensors())
    assert tokens(begun(engine, [*ids, 1], cache)) == alone(engine, [*ids, 1])


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 1025])
def test_the_shared_length_is_where_two_sequences_first_differ(length):
    ids = list(range(2000))
    assert shared_length(ids, [*ids[:length], -1, *ids[length + 1 :]]) == length
    assert shared_length(ids[:length], ids) == shared_length(ids, ids[:length]) == length
