"""Requests are computed together, each as if it were alone; none waits for the reader of another."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import LocalEngine, Request, SamplingOptions, Stream, Transformer
from mlx_oss.errors import DeviceError, EngineError, OptionError
from mlx_oss.generation import compute_thread, scheduler, tick
from mlx_oss.generation.engine import PromptProgress
from tests.engines import as_loaded, small_config

CONTEXT = 600
GREEDY = SamplingOptions(temperature=0)
PROMPTS = [[(number + 5 * n) % 50 for n in range(9 + 4 * number)] for number in range(6)]


class Ticks(Transformer):
    """Keeps what is computed: the number of rows of a tick, or "chunk"."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.seen = Seen()

    def hidden(self, tokens, cache=None):
        if tokens.shape[1] > 1:
            self.seen.parts.append("chunk")
        return super().hidden(tokens, cache)

    def hidden_of_each(self, tokens, caches):
        self.seen.parts.append(len(caches))
        return super().hidden_of_each(tokens, caches)


class Seen:
    def __init__(self) -> None:
        self.parts: list[int | str] = []


@pytest.fixture(scope="module")
def transformer() -> Ticks:
    mx.random.seed(9)
    return as_loaded(Ticks(small_config(window=7, context=CONTEXT)))


@pytest.fixture
def engine(transformer) -> LocalEngine:
    transformer.seen.parts.clear()
    return LocalEngine(transformer, chunk=16, guesses=False)


def begun(engine: LocalEngine, prompt: list[int], count: int = 20, **more) -> Stream:
    return engine.submit(Request(prompt, GREEDY, count, **more))


def tokens(stream: Stream) -> list[int]:
    return [step.token for step in stream]


def alone(engine: LocalEngine, prompt: list[int], count: int = 20) -> list[int]:
    return tokens(begun(LocalEngine(engine.transformer, chunk=16, guesses=False), prompt, count))


class OneAtATime:
    """A constraint that raises when it accepts a token."""

    def allowed(self) -> np.ndarray | int | None:
        return None

    def accept(self, token: int) -> None:
        raise RuntimeError("enough")


def test_rows_whose_readers_wait_share_a_tick(engine):
    streams = [begun(engine, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(streams)) as pool:
        said = list(pool.map(tokens, streams))
    ticks = [part for part in engine.transformer.seen.parts if part != "chunk"]
    assert said == [alone(engine, prompt) for prompt in PROMPTS]
    assert sum(ticks) == 20 * len(PROMPTS) and max(ticks) > 2 and len(ticks) < 100


def test_a_reader_that_pauses_holds_up_nobody(engine):
    paused = begun(engine, PROMPTS[0])
    given = [next(paused).token]
    assert tokens(begun(engine, PROMPTS[1])) == alone(engine, PROMPTS[1])
    assert engine.transformer.seen.parts.count(2) == 0
    assert given + tokens(paused) == alone(engine, PROMPTS[0])


def test_a_token_is_computed_between_two_chunks_of_a_long_prompt(engine):
    writing = begun(engine, PROMPTS[0], 100)
    given = [next(writing).token]
    reading = begun(engine, [(7 * n) % 50 for n in range(160)], 1)
    engine.transformer.seen.parts.clear()
    with ThreadPoolExecutor(2) as pool:
        read, written = pool.submit(tokens, reading), pool.submit(tokens, writing)
        assert len(read.result()) == 1
        assert given + written.result() == alone(engine, PROMPTS[0], 100)
    parts = engine.transformer.seen.parts
    last = len(parts) - parts[::-1].index("chunk")
    between = [parts[n : n + 3] for n in range(last - 2)]
    assert parts[:last].count("chunk") >= 10 and ["chunk"] * 3 not in between


def test_the_error_of_a_row_ends_this_row_only(engine):
    wrong = {
        "constraint": {"constraint": OneAtATime()},
        "bias": {"options": SamplingOptions(logit_bias={60: 1})},
    }
    streams = [begun(engine, prompt) for prompt in PROMPTS[:3]]
    bad = [engine.submit(Request(**{"prompt": PROMPTS[3], "options": GREEDY} | more)) for more in wrong.values()]
    with ThreadPoolExecutor(5) as pool:
        said = [pool.submit(tokens, stream) for stream in [*streams, *bad]]
        assert [future.result() for future in said[:3]] == [alone(engine, prompt) for prompt in PROMPTS[:3]]
        assert isinstance(said[3].exception(), RuntimeError) and isinstance(said[4].exception(), OptionError)
    for stream in bad:
        assert next(stream, None) is None  # an error comes once


def test_an_error_that_comes_while_nobody_reads_is_raised_at_the_next_step(engine):
    class Later(OneAtATime):
        count = 0

        def allowed(self):
            self.count += 1
            if self.count == 3:
                raise RuntimeError("enough")

        def accept(self, token: int) -> None:
            pass

    stream = begun(engine, PROMPTS[0], constraint=Later())
    given = [next(stream).token]
    with pytest.raises(RuntimeError, match="enough"):
        while True:
            time.sleep(0.02)
            given.append(next(stream).token)
    assert given == alone(engine, PROMPTS[0])[: len(given)] and next(stream, None) is None


class Forbids:
    """A constraint that allows everything, and raises when it has accepted three tokens."""

    def __init__(self) -> None:
        self.accepted = 0

    def allowed(self) -> np.ndarray | int | None:
        if self.accepted == 3:
            raise RuntimeError("no more")

    def accept(self, token: int) -> None:
        self.accepted += 1


@pytest.fixture
def caches(monkeypatch, transformer) -> list[weakref.ref]:
    """The caches that are made in the test, which is without the garbage collector."""
    made: list[weakref.ref] = []

    def make_cache():
        cache = Ticks.make_cache(transformer)
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(transformer, "make_cache", make_cache)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


class Refuses:
    """Allows one id, and does not accept it."""

    def __init__(self, after: int) -> None:
        self.left = after

    def allowed(self) -> int:
        return 7

    def accept(self, token: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("not this one")


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_token_that_the_constraint_does_not_accept_is_never_given(engine, monkeypatch, after, on_gpu):
    monkeypatch.setattr(tick, "device", SimpleNamespace(on_gpu=lambda: on_gpu))
    stream, got = begun(engine, PROMPTS[0], constraint=Refuses(after)), list[int]()
    with pytest.raises(RuntimeError, match="not this one"):
        for step in stream:
            got.append(step.token)
    assert got == [7] * after


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("fails", ["constraint", "device"])
def test_a_failed_request_keeps_no_keys_and_values(engine, transformer, monkeypatch, caches, fails, is_read):
    stream = begun(engine, PROMPTS[0], constraint=Forbids() if fails == "constraint" else None)
    got = [next(stream), next(stream)]
    if fails == "device":
        monkeypatch.setattr(transformer, "hidden_of_each", mx_fails)
    with suppress(RuntimeError, DeviceError):  # on a GPU the third token is asked for together with the fourth
        got.append(next(stream))
        if is_read:
            got.append(next(stream))
    assert len(got) < 4
    del stream
    compute_thread.run(lambda: None)
    assert len(caches) == 1 and caches[0]() is None


def test_each_reader_gets_an_error_of_its_own_if_a_tick_fails(engine, transformer, monkeypatch):
    """A note that one adds to it, such as `ask_many` does, is not seen by another."""
    streams = [begun(engine, prompt) for prompt in PROMPTS]
    for stream in streams:
        next(stream)
    reading = [stream.read() for stream in streams]
    monkeypatch.setattr(transformer, "hidden_of_each", mx_fails)
    errors = [error for stream, future in zip(streams, reading, strict=True) for error in errors_of(stream, future)]
    assert len(errors) == len({id(error) for error in errors}) == len(streams)
    assert {(type(error), str(error), str(error.__cause__)) for error in errors} == {
        (DeviceError, str(errors[0]), "Unable to allocate 5 bytes")
    }


def errors_of(stream: Stream, future: Future) -> list[BaseException]:
    while (error := future.exception(30)) is None:
        if future.result() is None:
            return []
        future = stream.read()
    return [error]


def mx_fails(*_: object) -> None:
    raise RuntimeError("Unable to allocate 5 bytes")


def test_an_error_of_the_device_that_a_program_keeps_keeps_no_keys_and_values(engine, transformer, monkeypatch, caches):
    kept = []
    for function in ("hidden_of_each", "hidden"):
        with monkeypatch.context() as patch:
            patch.setattr(transformer, function, mx_fails)
            with pytest.raises(DeviceError) as error:
                tokens(begun(engine, PROMPTS[0]))
        kept.append(error)
    compute_thread.run(lambda: None)
    assert len(caches) == 2 and [cache() for cache in caches] == [None, None]


def test_ctrl_c_while_one_reader_asks_is_no_reason_for_another_to_wait_for_ever(engine, monkeypatch):
    asking, other = begun(engine, PROMPTS[0]), begun(engine, PROMPTS[1])
    asked = []

    def interrupt(function):
        monkeypatch.undo()
        asked.append(other.read())  # on another thread, just before
        raise KeyboardInterrupt

    monkeypatch.setattr(compute_thread, "submit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        asking.read()
    assert isinstance(asked[0].result(30), PromptProgress)


def test_more_requests_than_are_computed_at_once_take_turns(engine, transformer, monkeypatch):
    monkeypatch.setattr("mlx_oss.generation.local.AT_ONCE", 2)
    engine = LocalEngine(transformer, chunk=16, guesses=False)
    assert engine.at_once == 2
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        said = list(pool.map(tokens, [begun(engine, prompt) for prompt in PROMPTS]))
    assert said == [alone(engine, prompt) for prompt in PROMPTS]
    assert engine.stats.running == engine.stats.waiting == 0


def test_paused_readers_are_not_counted_among_those_computed_at_once(transformer, monkeypatch):
    monkeypatch.setattr("mlx_oss.generation.local.AT_ONCE", 2)
    engine = LocalEngine(transformer, chunk=16, guesses=False)
    paused = [begun(engine, prompt) for prompt in PROMPTS[:3]]
    for stream in paused:
        next(stream)
    assert tokens(begun(engine, PROMPTS[3])) == alone(engine, PROMPTS[3])
    assert engine.stats.running == 3


def test_a_request_that_waits_can_be_cancelled(transformer, monkeypatch):
    monkeypatch.setattr(scheduler, "MOST_WAITING", 1)
    engine = LocalEngine(transformer, chunk=16, guesses=False, cache_bytes=1)
    held = threading.Event()
    compute_thread.submit(held.wait)  # nothing begins before
    engine._scheduler.rows.pool.limit = 0
    first, second, third = (begun(engine, prompt) for prompt in PROMPTS[:3])
    engine._scheduler.admission.at_once = 0
    futures = [first.read(), second.read()]
    held.set()
    with pytest.raises(EngineError, match="1 requests are waiting already"):
        futures[1].result()
    first.cancel()
    assert futures[0].result() is None and next(first, None) is None
    engine._scheduler.admission.at_once, engine._scheduler.rows.pool.limit = 2, 10**9
    assert tokens(third) == alone(engine, PROMPTS[2])


def test_experts_on_disk_are_computed_for_one_row_at_a_time(transformer):
    engine = LocalEngine(transformer, chunk=16, guesses=False)
    engine._scheduler._together = 1  # as for a plan with slots
    transformer.seen.parts.clear()
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(tokens, [begun(engine, prompt) for prompt in PROMPTS[:3]]))
    assert {part for part in transformer.seen.parts if part != "chunk"} == {1}
    assert said == [alone(engine, prompt) for prompt in PROMPTS[:3]]
