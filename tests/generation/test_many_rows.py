"""Many requests at once get the answers that they get alone, and what happens to one of them happens to no other.

MANY_ROWS sets how many random sets of requests each model gets, for example 50; CI runs a small sample.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_oss import LocalEngine, Request, SamplingOptions, Step, load_tokenizer
from mlx_oss.errors import ContextError, EngineError, OptionError
from mlx_oss.generation import admission, compute_thread, row
from mlx_oss.generation.lookup import Lookup, Worth
from mlx_oss.harmony import Message, SystemContent, render_conversation
from mlx_oss.loader import load_model
from mlx_oss.memory.estimates import kv_cache_bytes, snapshot_bytes
from mlx_oss.nano import nano_folder
from tests.many import (
    LONGEST,
    Broken,
    Case,
    Outcome,
    RandomConstraint,
    alone,
    differs,
    engine_of,
    failures,
    is_exact,
    random_cases,
    together,
)

ROUNDS = int(os.environ.get("MANY_ROWS", "1"))
GREEDY = SamplingOptions(temperature=0)
CLOSE = 1e-4  # nats
CHUNK = 16  # tokens of a prompt: most prompts are read in several chunks, between which others go on
MODELS = ("tiny float32", "tiny bfloat16", "one kv head float32", "nano float32")


def engine(name: str, folder) -> LocalEngine:
    shape, dtype = name.rsplit(" ", 1)
    loaded = load_model(nano_folder() if shape == "nano" else folder(shape), dtype=dtype, context=1024)
    return LocalEngine(loaded.transformer, context=256, chunk=CHUNK)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, folder) -> LocalEngine:
    return engine(request.param, folder)


@pytest.fixture(scope="module")
def tiny(folder) -> LocalEngine:
    return engine("tiny float32", folder)


def vocabulary(model: LocalEngine) -> int:
    """Ids that requests use. Of nano's, those that text begins with."""
    return min(model.config.vocab_size, 5000)


def tokens_of(steps: Iterable[Step]) -> list[int]:
    return [step.token for step in steps]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_random_requests_at_once_get_the_answers_that_they_get_alone(model, seed):
    """Bit for bit where the native library computes. Otherwise products depend on how many rows there are."""
    if (closeness := 0.0 if is_exact(model) else None) is None and model.dtype == mx.bfloat16:
        pytest.skip("without the native library, bfloat16 rounds by the number of rows, so any token may differ")
    draw = random.Random(f"{seed} {model.config.hidden_size}")
    cases = random_cases(draw, 12 if model.config.vocab_size > 5000 else 24, vocabulary(model))
    wanted = [alone(model, case) for case in cases]
    assert sum(len(outcome.steps) for outcome in wanted) > 50 and not any(outcome.error for outcome in wanted)
    assert failures(model, cases, wanted, closeness) == []


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_requests_that_begin_alike_get_the_answers_that_they_get_alone(model, seed):
    """What one has read another may use, so that the rest is read in other chunks, which round otherwise."""
    if model.dtype == mx.bfloat16:
        pytest.skip("bfloat16 rounds by chunk, so a sampled token may differ")
    draw = random.Random(f"{seed} {model.config.hidden_size}")
    cases = random_cases(draw, 12 if model.config.vocab_size > 5000 else 24, vocabulary(model), shared=True)
    wanted = [alone(model, case) for case in cases]
    assert failures(model, cases, wanted, CLOSE if is_exact(model) else None) == []


@pytest.fixture
def guessing(monkeypatch) -> Callable[..., list[int]]:
    """guessing(draw, cases, wanted): guesses are right, or right up to some token; returns how long they were."""

    def install(draw: random.Random, cases: Sequence[Case], wanted: Sequence[Outcome]) -> list[int]:
        texts = {(*case.request.prompt, *outcome.tokens) for case, outcome in zip(cases, wanted, strict=True)}
        guessed: list[int] = []

        def guess(self: Lookup, most: int = 16) -> list[int]:
            known = tuple(self._ids)
            (right,) = list({text for text in texts if text[: len(known)] == known})[:1] or [known]
            following = list(right[len(known) :][:most])
            if following and draw.random() < 0.5:
                following[draw.randrange(len(following))] = draw.randrange(200)
            guessed.append(len(following))
            return following

        monkeypatch.setattr(Lookup, "guess", guess)
        monkeypatch.setattr(Worth, "is_worth_it", lambda self: draw.random() < 0.8)
        return guessed

    return install


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_guesses_right_and_wrong_change_no_answer(model, seed, guessing):
    """Whatever the options: a guess is checked token by token, and what follows a wrong one is taken back."""
    if (closeness := 0.0 if is_exact(model) else None) is None and model.dtype == mx.bfloat16:
        pytest.skip("without the native library, bfloat16 rounds by the number of rows, so any token may differ")
    draw = random.Random(f"guesses {seed} {model.config.hidden_size}")
    cases = random_cases(draw, 12 if model.config.vocab_size > 5000 else 24, vocabulary(model), most_tokens=60)
    wanted = [alone(model, case) for case in cases]
    guessed = guessing(draw, cases, wanted)
    assert failures(model, cases, wanted, closeness, guesses=True) == []
    assert sum(guessed) > 50


@pytest.mark.parametrize("how", ["raises", "nothing", "outside"])
def test_what_was_right_before_a_constraint_broke_is_given_although_it_was_guessed(tiny, how, guessing):
    request = Request([5, 6, 7], GREEDY, 40)
    free = alone(tiny, Case(request))
    cases = [Case(request, lambda n=n: Broken(how, n, vocabulary(tiny))) for n in range(30)]
    wanted = [alone(tiny, case) for case in cases]
    assert [len(outcome.steps) for outcome in wanted] == list(range(30))
    guessing(random.Random(2), [Case(request)], [free])
    for case, expected in zip(cases, wanted, strict=True):
        assert failures(tiny, [case], [expected], 0.0 if is_exact(tiny) else None, guesses=True) == []


def test_the_cache_of_a_stream_that_is_left_holds_no_guess_that_nobody_has_read(tiny, guessing):
    request = Request([5, 6, 7, 8], GREEDY, 60)
    free = alone(tiny, Case(request))
    guessing(random.Random(4), [Case(request)], [free])
    engine = engine_of(tiny, guesses=True)
    for taken in range(12):
        cache = engine.make_prompt_cache()
        stream = engine.submit(replace(request, cache=cache))
        got = [next(stream).token for _ in range(taken)]
        stream.cancel()
        got += tokens_of(stream)
        assert got == free.tokens[: len(got)] and cache.ids in (
            [*request.prompt, *got],
            [*request.prompt[: len(cache.ids)]],
        )
        longer = Request([*request.prompt, *got, 9, 9], GREEDY, 9)
        wanted = alone(tiny, Case(longer)).tokens
        assert tokens_of(engine.submit(replace(longer, cache=cache))) == wanted


def test_rings_to_take_guesses_back_are_kept_only_until_these_are_read(tiny, guessing):
    """For 20b a ring costs 3 MiB, and a reader may pause for long."""
    request = Request([5, 6, 7, 8], GREEDY, 60)
    guessing(random.Random(4), [Case(request)], [alone(tiny, Case(request))])
    engine = engine_of(tiny, guesses=True)
    cache, seen = engine.make_prompt_cache(), set()

    def look(read: int) -> tuple[bool, bool]:
        return len(cache.ids) > len(request.prompt) + read, cache.kv.can_take_back(1)

    for number, _ in enumerate(engine.submit(replace(request, cache=cache)), 1):
        seen.add(compute_thread.run(lambda number=number: look(number)))
    assert seen == {(False, False), (True, True)}


def test_the_same_request_many_times_at_once_gets_the_same_answer_each_time(model):
    (case,) = random_cases(random.Random(3), 1, vocabulary(model))
    case = replace(
        case, request=replace(case.request, max_tokens=12, stop_ids=()), leaves=None, delay=0, is_async=False
    )
    wanted = alone(model, case)
    assert failures(model, [case] * 9, [wanted] * 9, CLOSE if is_exact(model) else None) == []


@pytest.mark.parametrize("how", ["raises", "nothing", "outside"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_broken_constraint_ends_its_own_request_only(tiny, how, after):
    size = vocabulary(tiny)
    cases = [replace(case, leaves=None) for case in random_cases(random.Random(after), 10, size)]
    wanted = [alone(tiny, case) for case in cases]
    plain = Request([5, 6, 7], GREEDY, 20)
    broken = [Case(plain, lambda: Broken(how, after, size), is_async=bool(n % 2)) for n in range(2)]
    expected = alone(tiny, broken[0])
    assert isinstance(expected.error, RuntimeError if how == "raises" else OptionError)
    assert len(expected.steps) <= after
    cases, wanted = [*cases[:5], *broken, *cases[5:]], [*wanted[:5], expected, expected, *wanted[5:]]
    assert failures(tiny, cases, wanted, 0.0 if is_exact(tiny) else None) == []


@pytest.mark.parametrize(
    "wrong",
    [
        Request([5, 6], SamplingOptions(temperature=0, logit_bias={190_000: 1.0}), 9),
        Request([5, 190_000, 6], GREEDY, 9),
        Request([190_000], GREEDY, 9),
    ],
)
def test_an_id_outside_the_vocabulary_ends_its_own_request_only(tiny, wrong):
    cases = [replace(case, leaves=None) for case in random_cases(random.Random(8), 10, vocabulary(tiny))]
    wanted = [alone(tiny, case) for case in cases]
    outcomes = together(engine_of(tiny), [Case(wrong), *cases, Case(wrong, is_async=True)])
    for outcome in (outcomes[0], outcomes[-1]):
        assert isinstance(outcome.error, OptionError) and "190000" in str(outcome.error) and outcome.steps == []
    pairs = zip(outcomes[1:-1], wanted, strict=True)
    assert not is_exact(tiny) or all(outcome.steps == expected.steps for outcome, expected in pairs)


@pytest.mark.parametrize("read", [0, 1, 3])
def test_readers_that_stop_reading_hold_up_nobody_and_may_go_on_later(tiny, read):
    requests = [Request([n, 3, 8, n], GREEDY, 24) for n in range(8)]
    wanted = [alone(tiny, Case(request)).tokens for request in requests]
    slow = [tiny.submit(request) for request in requests[:3]]
    begun = [[next(stream) for _ in range(read)] for stream in slow]
    outcomes = together(tiny, [Case(request) for request in requests[3:]])
    assert [outcome.tokens for outcome in outcomes] == wanted[3:]
    assert [tokens_of([*steps, *stream]) for steps, stream in zip(begun, slow, strict=True)] == wanted[:3]


def test_a_reader_that_pauses_with_most_of_the_bytes_holds_up_nobody(tiny):
    ids = [n % 290 for n in range(700)]
    limit = kv_cache_bytes(tiny.config, 1024, tiny.dtype.size) + snapshot_bytes(tiny.config, 16, tiny.dtype.size)
    engine = LocalEngine(tiny.transformer, context=1024, chunk=256, cache_bytes=limit)
    wanted = [alone(engine, Case(Request([n, *ids], GREEDY, 9))).tokens for n in range(2)]
    paused = engine.submit(Request([0, *ids], GREEDY, 9))
    got = [next(paused)]
    assert together(engine, [Case(Request([1, *ids], GREEDY, 9))], patience=20)[0].tokens == wanted[1]
    assert tokens_of([*got, *paused]) == wanted[0]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_with_little_room_every_answer_is_the_one_alone_or_ends_with_an_error_that_says_so(tiny, seed, monkeypatch):
    """Rows wait, give up what they hold while their readers pause, and read it again."""
    monkeypatch.setattr(admission, "PAUSE", 0.005)
    monkeypatch.setattr(row, "PAUSE", 0.005)
    draw = random.Random(f"room {seed}")
    limit = kv_cache_bytes(tiny.config, 1024, tiny.dtype.size) + snapshot_bytes(tiny.config, 16, tiny.dtype.size)
    engine = LocalEngine(tiny.transformer, context=1024, chunk=100, cache_bytes=limit)
    begins = [[draw.randrange(300) for _ in range(400)] for _ in range(2)]
    cases = []
    for _ in range(16):
        prompt = draw.choice([[], *begins]) + [draw.randrange(300) for _ in range(draw.randint(1, 300))]
        pauses = frozenset(range(0, 40, draw.choice([1, 7, 50])))
        request = Request(prompt, GREEDY, draw.randint(5, 40), preamble=draw.choice([0, len(prompt) // 2]))
        case = Case(request, delay=draw.uniform(0, 0.2), pauses=pauses, is_kept=draw.random() < 0.5)
        cases.append(replace(case, is_async=draw.random() < 0.5, leaves=draw.choice([None, None, None, 3])))
    wanted = [alone(engine, case) for case in cases]
    for case, got, expected in zip(cases, together(engine, cases), wanted, strict=True):
        if isinstance(got.error, ContextError):
            assert got.tokens == expected.tokens[: len(got.tokens)]
        else:
            assert differs(case, got, expected, CLOSE) == ""
    assert engine.stats.running == engine.stats.waiting == 0


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_reader_that_pauses_in_the_middle_of_its_prompt_gets_its_answer_later(tiny, is_kept):
    ids = [n % 290 for n in range(700)]
    limit = kv_cache_bytes(tiny.config, 1024, tiny.dtype.size) + snapshot_bytes(tiny.config, 16, tiny.dtype.size)
    engine = LocalEngine(tiny.transformer, context=1024, chunk=256, cache_bytes=limit)
    wanted = [alone(engine, Case(Request([n, *ids], GREEDY, 9))).tokens for n in range(2)]
    cache = engine.make_prompt_cache() if is_kept else None
    paused = engine.submit(Request([0, *ids], GREEDY, 9, cache=cache))
    assert paused.read().result(LONGEST).done == 256
    assert together(engine, [Case(Request([1, *ids], GREEDY, 9))], patience=20)[0].tokens == wanted[1]
    assert tokens_of(paused) == wanted[0]
    assert engine.stats.requests == 2 and engine.stats.prompt_tokens == 2 * 701
    assert engine.stats.reused_tokens == paused.counts.reused_tokens == 0


def test_forks_that_part_stay_within_the_bytes(tiny):
    """As long as two share memory it counts once; one that goes on needs its own."""
    ids = [n % 290 for n in range(700)]
    probe = engine_of(LocalEngine(tiny.transformer, context=1024))
    kept = probe.make_prompt_cache()
    tokens_of(probe.submit(Request(ids, GREEDY, 2, cache=kept)))
    engine = LocalEngine(tiny.transformer, context=1024, cache_bytes=3 * probe.stats.cache_bytes // 2)
    cache = engine.make_prompt_cache()
    tokens_of(engine.submit(Request(ids, GREEDY, 2, cache=cache)))
    fork = cache.fork()
    for each, last in ((cache, 1), (fork, 2), (cache, 3)):
        stream = engine.submit(Request([*ids, last, last], GREEDY, 4, cache=each))
        for _ in stream:
            assert engine.stats.cache_bytes <= engine.stats.cache_limit
        assert engine.stats.cache_bytes <= engine.stats.cache_limit


def test_a_read_that_could_not_begin_may_be_repeated(tiny, monkeypatch):
    def refuse(function):
        raise EngineError("not now")

    engine = engine_of(tiny)
    wanted = alone(tiny, Case(Request([4, 5], GREEDY, 9))).tokens
    stream = engine.submit(Request([4, 5], GREEDY, 9))
    got = [next(stream)]
    with monkeypatch.context() as patch:
        patch.setattr(compute_thread, "submit", refuse)
        for _ in range(2):
            with pytest.raises(EngineError, match="not now"):
                stream.read()
    assert together(engine, [Case(Request([4, 5], GREEDY, 9))], patience=20)[0].tokens == wanted
    got += stream
    assert tokens_of(got) == wanted[: len(got)]


def test_a_row_is_at_most_one_token_ahead_of_its_reader_however_many_there_are(tiny):
    seen = [RandomConstraint(n, vocabulary(tiny)) for n in range(4)]
    streams = [tiny.submit(Request([n, 2, 3], GREEDY, 30, constraint=watched)) for n, watched in enumerate(seen)]
    for count in range(1, 8):
        for stream in streams:
            next(stream)
        others = together(tiny, [Case(Request([9, 9], GREEDY, 5))] * 2)  # the engine has time to run ahead
        assert all(len(outcome.steps) == 5 for outcome in others)
        assert all(count <= len(watched.accepted) <= count + 1 for watched in seen)


def eventually(happens) -> bool:
    """Waits until it is so; what takes LONGEST seconds never happens."""
    end = time.monotonic() + LONGEST
    while not happens() and time.monotonic() < end:
        compute_thread.run(lambda: None)
        time.sleep(0.005)
    return happens()


@pytest.mark.parametrize("how", ["drop", "close", "cancel"])
def test_streams_that_are_left_end_by_themselves_while_others_go_on(tiny, how):
    wanted = alone(tiny, Case(Request([4, 4, 4], GREEDY, 40))).tokens
    staying = tiny.submit(Request([4, 4, 4], GREEDY, 40))
    got = [next(staying)]
    left = [
        tiny.submit(Request([n, 1], GREEDY, 200, constraint=RandomConstraint(n, vocabulary(tiny)))) for n in range(4)
    ]
    gone = [weakref.ref(stream._request.constraint) for stream in left]
    for count, stream in enumerate(left):
        for _ in range(count):
            next(stream)
    for stream in left if how != "drop" else ():
        getattr(stream, how)()
        if how == "cancel":
            list(stream)
    gc.disable()
    try:
        del stream, left
        got += [next(staying) for _ in range(10)]
        assert eventually(lambda: not any(reference() for reference in gone))
    finally:
        gc.enable()
    assert tokens_of(got + list(staying)) == wanted


def test_a_request_is_cancelled_before_its_first_token_while_many_are_being_read(tiny):
    long = [n % 200 for n in range(200)]
    cases = [Case(Request([n, *long], GREEDY, 8)) for n in range(4)]
    cases += [Case(Request([9 + n, *long], GREEDY, 8), leaves=0, how=how) for n, how in enumerate(("cancel", "close"))]
    wanted = [alone(tiny, case) for case in cases]
    assert failures(tiny, cases, wanted, 0.0 if is_exact(tiny) else None) == []


def test_the_caches_of_requests_at_once_hold_what_each_has_read_and_written(tiny):
    caches = [tiny.make_prompt_cache() for _ in range(6)]
    prompts = [[7, 7, *range(n, n + 20 + 9 * n)] for n in range(6)]
    for more in ([], [1, 2, 3], [50]):
        prompts = [[*prompt, *more] for prompt in prompts]
        wanted = [alone(tiny, Case(Request(prompt, GREEDY, 9))).tokens for prompt in prompts]
        cases = [Case(Request(p, GREEDY, 9, cache=cache)) for p, cache in zip(prompts, caches, strict=True)]
        assert [outcome.tokens for outcome in together(tiny, cases)] == wanted
        prompts = [[*p, *tokens] for p, tokens in zip(prompts, wanted, strict=True)]
        assert [cache.ids for cache in caches] == prompts


def test_two_requests_at_once_with_one_cache_the_later_ends_the_earlier(tiny):
    cache = tiny.make_prompt_cache()
    wanted = alone(tiny, Case(Request([1, 2, 3], GREEDY, 40))).tokens
    first = tiny.submit(Request([1, 2, 3], GREEDY, 40, cache=cache))
    got = [next(first) for _ in range(3)]
    other = together(tiny, [Case(Request([1, 2, 3], GREEDY, 40, cache=cache)), Case(Request([9], GREEDY, 40))])
    assert other[0].tokens == wanted and len(other[1].steps) == 40
    got += first
    assert tokens_of(got) == wanted[: len(got)] and len(got) < 40


def test_an_engine_that_got_many_errors_at_once_answers_as_before(tiny):
    wanted = alone(tiny, Case(Request([1, 2, 3], GREEDY, 20))).tokens
    size = vocabulary(tiny)
    broken = [
        Case(Request([n, 2], GREEDY, 30), lambda n=n: Broken(("raises", "nothing")[n % 2], n % 4, size))
        for n in range(16)
    ]
    outcomes = together(tiny, broken)
    assert all(outcome.error is not None for outcome in outcomes)
    assert tokens_of(tiny.submit(Request([1, 2, 3], GREEDY, 20))) == wanted


def questions(count: int) -> list[list[int]]:
    """Different prompts of chats, as ids."""
    words = ("France", "a cat", "the moon", "seven", "music", "rain", "Python", "tea", "the sea", "a friend")
    forms = (
        "What is {}?",
        "Tell me about {}.",
        "Write a poem on {}.",
        "Do you like {}?",
        "{}",
        "Is {} larger than {}?",
    )
    texts = [
        form.format(a, b) for form in forms for a in words for b in (words if form.count("{}") == 2 else words[:1])
    ]
    texts += [f"{text} Answer in {n} words." for n in range(3, 9) for text in texts]
    system, tokenizer = Message("system", SystemContent(conversation_start_date="2025-08-05")), load_tokenizer()
    return [
        render_conversation([system, Message("user", text)], next_role="assistant", tokenizer=tokenizer)
        for text in texts[:count]
    ]


def answers_of(model: LocalEngine, prompts: Sequence[list[int]], at_once: int, tokens: int) -> list[list[int]]:
    """The greedy answers, this many computed at once."""
    answers: list[list[int]] = [[] for _ in prompts]
    waiting, lock = iter(enumerate(prompts)), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number, prompt = next(waiting, (-1, None))
            if prompt is None:
                return
            answers[number] = tokens_of(model.submit(Request(prompt, GREEDY, tokens, [200002])))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * LONGEST)
        assert not thread.is_alive()
    return answers


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.long)])
def test_nano_gives_the_same_greedy_answers_eight_at_once_as_alone(count):
    prompts = questions(count)
    assert len({tuple(prompt) for prompt in prompts}) == count
    model = load_model(nano_folder())
    wanted = [alone(model, Case(Request(prompt, GREEDY, 16, [200002]))).tokens for prompt in prompts]
    assert answers_of(model, prompts, 8, 16) == wanted


def test_an_outcome_that_differs_is_told():
    """So that the tests above can fail."""
    case = Case(Request([1], GREEDY, 3))
    step, other = Step(5, -1.0), Step(5, -1.0000001)
    assert differs(case, Outcome([step]), Outcome([step])) == ""
    assert "step 0" in differs(case, Outcome([other]), Outcome([step]))
    assert differs(case, Outcome([other]), Outcome([step]), 1e-6) == ""
    assert "steps instead" in differs(case, Outcome([]), Outcome([step]))
    assert "ended with" in differs(case, Outcome([step], ValueError("x")), Outcome([step]))
    errors = Outcome([], ValueError("x")), Outcome([step], ValueError("x"))
    assert "steps instead" in differs(case, *errors)
    assert "left after" in differs(replace(case, leaves=1), Outcome([]), Outcome([step]))
    assert "step 0" in differs(case, Outcome([other]), Outcome([step]), 1e-9)
    assert "step 0" in differs(case, Outcome([Step(6, -1.0)]), Outcome([step]), None)
