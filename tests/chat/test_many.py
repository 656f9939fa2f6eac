"""`ask_many`: many questions at the same time, replies in order, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import signal
import threading
import weakref
from collections.abc import Iterator

import pytest

from mlx_oss import (
    ChatSession,
    ContextError,
    EngineError,
    HarmonyError,
    LocalEngine,
    Message,
    OptionError,
    Replies,
    Reply,
    Request,
    SamplingOptions,
    ScriptedEngine,
    SessionError,
    Stream,
    ask_many,
)
from mlx_oss.generation import compute_thread
from tests.chat.scripted import DATE, TOKENIZER, ids
from tests.engines import HeldEngine, wait_until

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CALL = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{}}<|call|>"


def session_of(engine: ScriptedEngine | LocalEngine, **options: object) -> ChatSession:
    return ChatSession(engine, TOKENIZER, current_date=DATE, **options)  # type: ignore[arg-type]


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("mlx-oss turns", "mlx-oss action")]


@pytest.fixture(autouse=True)
def leaves_no_thread() -> Iterator[None]:
    yield
    gc.collect()
    for thread in our_threads():
        thread.join(20)
    assert our_threads() == []


def texts(replies: Replies[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_replies_come_in_the_order_of_the_questions_though_a_later_one_is_done_first():
    engine = HeldEngine("first", "second", "third")
    engine.hold("1")
    replies = ask_many(session_of(engine), ["1", "2", "3"], at_once=3)
    threading.Thread(target=lambda: (wait_until(lambda: replies.done == 2), engine.release("1"))).start()
    assert texts(replies) == ["first", "second", "third"]


def test_a_reply_is_there_as_soon_as_the_next_in_order_is_done():
    engine = HeldEngine("first", "second")
    engine.hold("2")
    with ask_many(session_of(engine), ["1", "2"], at_once=2) as replies:
        assert next(replies).text == "first" and replies.done == 1
        engine.release("2")
        assert next(replies).text == "second"


def test_a_reply_that_is_done_does_not_wait_for_more_of_the_list():
    delivered: list[str] = []
    before_the_third: list[int] = []

    def slow() -> Iterator[str]:
        yield "1"
        wait_until(lambda: not replies._ahead or replies._ahead[0].done())
        yield "2"
        before_the_third.append(len(delivered))
        yield "3"

    replies = ask_many(session_of(ScriptedEngine(*"ABC")), slow(), at_once=2)
    for reply in replies:
        delivered.append(reply.text)
    assert delivered == list("ABC") and before_the_third[0] >= 1


@pytest.mark.parametrize("at_once", [1, 3])
def test_no_more_are_asked_at_the_same_time_than_at_once(at_once):
    engine = HeldEngine(*"abcde")
    engine.hold(*"12345")
    with ask_many(session_of(engine), list("12345"), at_once=at_once) as replies:
        reading = threading.Thread(target=lambda: next(replies))
        reading.start()
        wait_until(lambda: len(engine.begun) == at_once)
        threading.Event().wait(0.05)
        assert engine.begun == list("12345")[:at_once]
        engine.release("1")
        reading.join()
        wait_until(lambda: len(engine.begun) == at_once + 1)


def test_as_many_are_asked_at_once_as_the_engine_computes_together():
    engine = HeldEngine(*LETTERS)
    engine.at_once = 4
    engine.hold(*LETTERS)
    with ask_many(session_of(engine), LETTERS.__iter__()) as replies:
        reading = threading.Thread(target=lambda: next(replies))
        reading.start()
        wait_until(lambda: len(engine.begun) == 4)
        engine.release("a")
        reading.join()


def test_an_endless_list_is_read_a_window_ahead_and_on_the_callers_thread():
    taken: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            taken.append(threading.get_ident())
            yield f"question {number}"

    engine = HeldEngine(*"ABC")
    engine.hold("question 1")
    with ask_many(session_of(engine), endless(), at_once=2) as replies:
        assert not taken  # nothing is read before a reply is asked for
        assert next(replies).text == "A" and len(taken) <= 16
        threading.Thread(target=lambda: (wait_until(lambda: len(taken) >= 17), engine.release("question 1"))).start()
        assert next(replies).text == "B"
    assert len(taken) <= 17 and set(taken) == {threading.get_ident()}


def test_each_question_is_answered_as_in_a_session_of_its_own(model):
    questions = ["one", "two", "three", "four", "five"]
    options = SamplingOptions(seed=40)
    session = session_of(model, options=options, max_tokens=12)
    alone = []
    for number, question in enumerate(questions):
        own = session_of(model, options=SamplingOptions(seed=40 + number), max_tokens=12)
        alone.append(own.ask(question))
    for at_once in (1, 2, 5):
        together = list(ask_many(session, questions, at_once=at_once))
        assert [(reply.text, reply.reasoning) for reply in together] == [(r.text, r.reasoning) for r in alone]
    assert session.messages == () and session.options.seed == 40


def test_the_same_question_is_drawn_anew_each_time(model):
    session = session_of(model, options=SamplingOptions(seed=2**64 - 1), max_tokens=12)
    drawn = [reply.reasoning + reply.text for reply in ask_many(session, ["Hi"] * 4, at_once=2)]
    assert len({*drawn}) > 1 and drawn == [r.reasoning + r.text for r in ask_many(session, ["Hi"] * 4, at_once=4)]


def test_a_session_with_a_conversation_is_continued_by_each_question():
    engine = ScriptedEngine("Bonjour.", "Oui.", "Non.")
    session = session_of(engine, instructions="Answer in French.")
    session.ask("Hello")
    assert texts(ask_many(session, ["Yes", "No"])) == ["Oui.", "Non."]
    for request, question in zip(engine.requests[1:], ("Yes", "No"), strict=True):
        shown = TOKENIZER.decode(list(request.prompt))
        assert "Answer in French." in shown and "Bonjour." in shown and f"user<|message|>{question}<|end|>" in shown
    assert [message.content for message in session.messages] == ["Hello", "Bonjour."]


def test_every_question_has_the_format_of_the_answer():
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    engine = ScriptedEngine('{"n": 1}', '{"n": 2}')
    replies = ask_many(session_of(engine, response_format=schema), ["1", "2"])
    assert [reply.parsed for reply in replies] == [{"n": 1}, {"n": 2}]
    assert all(request.constraint is not None for request in engine.requests)


def test_a_conversation_reads_as_if_the_session_had_had_it():
    engine = ScriptedEngine("Paris.", "Rome.", "Rome.")
    had = session_of(engine, instructions="Be brief.")
    had.ask("The capital of France?")
    had.ask("Of Italy?")
    conversation = [
        Message("system", "Be brief."),
        Message("user", "The capital of France?"),
        Message("assistant", "Paris."),
        Message("user", "Of Italy?"),
    ]
    assert texts(ask_many(session_of(engine, instructions="Talk."), [conversation])) == ["Rome."]
    assert engine.requests[-1].prompt == engine.requests[-2].prompt


def test_instructions_in_the_middle_of_a_conversation_are_the_developers():
    engine = ScriptedEngine("Oui.")
    conversation = [Message("user", "Hi"), Message("system", "Now in French."), Message("user", "Yes?")]
    assert texts(ask_many(session_of(engine), [conversation])) == ["Oui."]
    shown = TOKENIZER.decode(list(engine.requests[0].prompt))
    assert "<|start|>developer<|message|># Instructions\n\nNow in French.<|end|>" in shown


def test_a_conversation_may_end_with_the_result_of_a_tool():
    engine = ScriptedEngine("Late.")
    call = Message("assistant", "{}", channel="commentary", recipient="functions.now")
    result = Message("tool", "noon", name="functions.now", recipient="assistant", channel="commentary")
    assert texts(ask_many(session_of(engine), [[Message("user", "What time?"), call, result]])) == ["Late."]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (7, "a question is 7, expected a str, or a list of Messages"),
        ({"role": "user"}, "expected a str, or a list of Messages"),
        ([{"role": "user", "content": "Hi"}], "expected a str, or a list of Messages"),
        ([], "a conversation is empty: end it with a message of the user"),
        ([Message("user", "Hi"), Message("assistant", "Hi")], "a conversation ends with a message of role 'assistant'"),
        ([Message("system", "Hi")], "ends with a message of role 'system'"),
    ],
)
def test_what_is_no_question_gets_a_sentence_in_its_place(question, reason):
    first, second = ask_many(session_of(ScriptedEngine("A", "B")), ["x", question], on_error="return")
    assert isinstance(first, Reply) and isinstance(second, OptionError) and reason in str(second)


def test_an_error_is_raised_in_its_place_and_the_others_are_not_lost():
    engine = ScriptedEngine("A", EngineError("broken"), "C", "D")
    replies = ask_many(session_of(engine), list("1234"), at_once=2)
    assert next(replies).text == "A"
    with pytest.raises(EngineError, match="broken") as raised:
        next(replies)
    assert raised.value.__notes__ == ["in question 1 of ask_many (the first is question 0)"]
    assert texts(replies) == ["C", "D"]


def test_errors_can_be_returned_in_the_place_of_replies():
    engine = ScriptedEngine("A", "C", context=400)
    questions = ["1", "x " * 500, "3", [Message("tool", "no name")]]
    replies = list(ask_many(session_of(engine), questions, on_error="return"))
    assert [type(reply) for reply in replies] == [Reply, ContextError, Reply, HarmonyError]


def test_an_error_that_is_kept_keeps_no_session(model):
    caches: list[weakref.ref[object]] = []

    class Failing(LocalEngine):
        def submit(self, request: Request) -> Stream:
            caches.append(weakref.ref(request.cache))
            if len(caches) == 2:
                raise EngineError("broken") from ValueError("why")
            return super().submit(request)

    long = "x " * 10
    session = session_of(Failing(model.transformer), max_tokens=3)
    kept = list(ask_many(session, [long, long, long], on_error="return"))
    assert isinstance(kept[1], EngineError) and kept[1].__traceback__ is not None
    gc.collect()
    compute_thread.run(lambda: None)
    assert [cache() for cache in caches] == [None, None, None]


def test_an_error_of_the_list_itself_comes_after_the_replies_before_it():
    def broken() -> Iterator[str]:
        yield "1"
        yield "2"
        raise RuntimeError("the database is gone")

    replies = ask_many(session_of(ScriptedEngine("A", "B")), broken(), at_once=2, on_error="return")
    assert [next(replies).text, next(replies).text] == ["A", "B"]
    with pytest.raises(RuntimeError, match="the database is gone"):
        next(replies)
    assert list(replies) == []


def recording(model: LocalEngine) -> tuple[LocalEngine, list[Stream]]:
    streams: list[Stream] = []

    class Recording(LocalEngine):
        def submit(self, request: Request) -> Stream:
            streams.append(super().submit(request))
            return streams[-1]

    return Recording(model.transformer), streams


def nothing_runs(engine: LocalEngine) -> bool:
    compute_thread.run(lambda: None)
    return engine.stats.running == engine.stats.waiting == 0


def test_closing_early_ends_what_is_running(model):
    engine, streams = recording(model)
    replies = ask_many(session_of(engine), ["long"] * 40, at_once=3)
    reading = threading.Thread(target=lambda: next(replies, None))
    reading.start()
    wait_until(lambda: len(streams) == 3)
    replies.close()
    reading.join(20)
    assert not reading.is_alive() and our_threads() == [] and nothing_runs(engine) and len(streams) == 3
    assert list(replies) == []


def test_letting_go_of_the_replies_ends_what_is_running(model):
    engine, streams = recording(model)
    replies = ask_many(session_of(engine), itertools.repeat("long"), at_once=2)
    replies._take()
    wait_until(lambda: len(streams) == 1)
    del replies
    gc.collect()
    for thread in our_threads():
        thread.join(20)
    assert nothing_runs(engine)


def test_leaving_a_loop_early_ends_what_is_running():
    engine = HeldEngine(*"ABCDEF")
    engine.hold("3")
    for reply in ask_many(session_of(engine), list("123456"), at_once=2):
        if reply.text == "B":
            break
    wait_until(lambda: our_threads() == [])


def test_ctrl_c_ends_everything_at_once(model):
    engine, streams = recording(model)
    replies = ask_many(session_of(engine), itertools.repeat("long"), at_once=3)
    main = threading.get_ident()
    threading.Thread(
        target=lambda: (wait_until(lambda: len(streams) == 3), signal.pthread_kill(main, signal.SIGINT))
    ).start()
    with pytest.raises(KeyboardInterrupt):
        next(replies)
    assert our_threads() == [] and nothing_runs(engine)


def test_tools_of_several_turns_run_at_the_same_time():
    both = threading.Barrier(2, timeout=20)

    def meet() -> str:
        """Waits until the tool has been called twice."""
        both.wait()
        return "met"

    call = CALL.format(name="meet")
    engine = ScriptedEngine(call, call, "A", "B")
    replies = ask_many(session_of(engine, tools=[meet]), ["1", "2"], at_once=2)
    assert sorted(texts(replies)) == ["A", "B"]


def test_closing_does_not_wait_for_a_tool():
    running, release = threading.Event(), threading.Event()

    def slow() -> str:
        """Takes its time."""
        running.set()
        release.wait(20)
        return "done"

    replies = ask_many(session_of(ScriptedEngine(CALL.format(name="slow")), tools=[slow]), ["1"])
    reading = threading.Thread(target=lambda: next(replies, None))
    reading.start()
    assert running.wait(20)
    replies.close()
    reading.join(20)
    assert not reading.is_alive() and not release.is_set()
    release.set()


def test_an_exception_of_confirm_is_that_of_its_question():
    def confirm(call: object) -> bool:
        raise LookupError("nobody to ask")

    def tool() -> str:
        """Does something."""
        return ""

    engine = ScriptedEngine(CALL.format(name="tool"), "B")
    session = session_of(engine, tools=[tool], confirm=confirm)
    first, second = ask_many(session, ["1", "2"], on_error="return")
    assert isinstance(first, LookupError) and isinstance(second, Reply)


def test_a_machine_without_room_for_a_thread_is_an_error_of_the_question(monkeypatch):
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "mlx-oss action":
            raise RuntimeError("can't start new thread")
        start(thread)

    def tool() -> str:
        """Does something."""
        return ""

    monkeypatch.setattr(threading.Thread, "start", refuse)
    session = session_of(ScriptedEngine(CALL.format(name="tool"), "B"), tools=[tool])
    first, second = ask_many(session, ["1", "2"], on_error="return")
    assert isinstance(first, RuntimeError) and isinstance(second, Reply)


def test_progress_and_costs_can_be_read_at_any_time():
    questions = list("1234")
    replies = ask_many(session_of(ScriptedEngine(*"ABCD")), questions)
    assert (replies.done, operator.length_hint(replies)) == (0, 4)
    first = next(replies)
    assert replies.done >= 1 and operator.length_hint(replies) == 3
    rest = list(replies)
    assert replies.done == 4 and operator.length_hint(replies) == 0
    assert replies.usage.generated_tokens == sum(reply.usage.generated_tokens for reply in (first, *rest)) > 0


def test_it_works_in_an_event_loop_with_async_tools_of_that_loop():
    async def answers() -> list[str]:
        loop = asyncio.get_running_loop()

        async def here() -> str:
            """Says whether it runs in the caller's loop."""
            await asyncio.sleep(0)
            return str(asyncio.get_running_loop() is loop)

        engine = ScriptedEngine(CALL.format(name="here"), "A", "B")
        session = session_of(engine, tools=[here])
        told = [reply.text async for reply in ask_many(session, ["1", "2"])]
        assert "true" in TOKENIZER.decode(list(engine.requests[1].prompt)).lower()
        return told

    assert asyncio.run(answers()) == ["A", "B"]


def test_cancelling_the_task_that_reads_ends_what_is_running(model):
    engine, streams = recording(model)

    async def read() -> None:
        async for _ in ask_many(session_of(engine), itertools.repeat("long"), at_once=2):
            pass

    async def cancel() -> None:
        task = asyncio.ensure_future(read())
        while len(streams) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    wait_until(lambda: our_threads() == [])
    assert nothing_runs(engine)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"at_once": 0}, "at_once is 0, expected 1 to 256, or None"),
        ({"at_once": 257}, "at_once is 257, expected 1 to 256"),
        ({"at_once": True}, "at_once is True"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected raise or return"),
        ({"questions": "one text"}, "questions is a str, expected a list of texts"),
        ({"questions": 7}, "questions is a int"),
        ({"session": "nano"}, "session is a str, expected a ChatSession"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, reason):
    wanted = {"session": session_of(ScriptedEngine()), "questions": ["Hi"]} | arguments
    with pytest.raises(OptionError) as raised:
        ask_many(**wanted)
    assert reason in str(raised.value)


def test_a_session_in_the_middle_of_a_turn_is_refused():
    session = session_of(ScriptedEngine(ids("<|channel|>final<|message|>Hello<|return|>")))
    turn = session.send("Hi")
    next(turn)
    with pytest.raises(SessionError, match="in the middle of a turn"):
        ask_many(session, ["Hi"])
    turn.close()
