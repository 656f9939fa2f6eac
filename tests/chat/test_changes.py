"""Undo, retry, edit, fork, cancel and dropped turns: afterwards the model reads the right prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    SamplingOptions,
    ToolCall,
    ToolResult,
    TurnsDropped,
    collect,
)
from mlx_oss.chat.live import LiveConversation
from mlx_oss.errors import ContextError, OptionError, SessionError
from mlx_oss.harmony import Message, render_message
from mlx_oss.tokenizer import END
from tests.chat.scripted import (
    CALL,
    DATE,
    HELLO,
    OPENING,
    THINK,
    TOKENIZER,
    contents,
    ids,
    said,
    system,
    text_of,
    turn,
    user,
)

FINE = HELLO.replace("Hello", "Fine")


def test_undo_returns_the_message_and_the_model_never_reads_it(session, script):
    script.says(THINK + HELLO, THINK + FINE, HELLO)
    turn(session, script, "Hi")
    before = session.messages
    turn(session, script, "How are you?")
    assert session.turns == 2 and session.undo() == "How are you?"
    assert session.turns == 1 and session.messages == before
    turn(session, script, "Who are you?")
    script.read(system(), user("Hi"), said(HELLO), user("Who are you?"), OPENING)


def test_undo_takes_a_whole_tool_loop(session, script):
    script.says(THINK + HELLO, CALL, FINE)
    turn(session, script, "Hi")
    before = session.messages
    call = turn(session, script, "Weather?")[0]
    session.add_tool_result(call, "rain")
    turn(session, script, None)
    assert session.undo() == "Weather?" and session.messages == before


def test_undo_without_turns_is_none(session):
    assert session.undo() is None and session.turns == 0


def test_retry_asks_the_same_without_the_answer_given(session, script):
    script.says(THINK + HELLO, THINK + FINE, HELLO)
    turn(session, script, "Hi")
    script.forget_fed()
    events = list(session.retry())
    assert text_of(events, AnswerDelta).startswith("Fine") and session.turns == 1
    script.read(system(), user("Hi"), OPENING)
    assert script.fed == OPENING  # the rest was in the cache already
    turn(session, script, "More")
    script.read(system(), user("Hi"), said(FINE), user("More"), OPENING)


def test_a_retry_draws_anew_with_a_seed_and_the_same_way_each_time(script):
    script.says(*[HELLO] * 5)
    session = ChatSession(script, TOKENIZER, options=SamplingOptions(seed=2**64 - 2))
    for text in ("Hi", None, None, "So", None):
        list(session.retry() if text is None else session.send(text))
    assert [request.options.seed for request in script.requests] == [2**64 - 2, 2**64 - 1, 0, 2**64 - 2, 2**64 - 1]
    script.says(HELLO)
    session.undo()
    list(session.retry())  # the third retry of the first turn
    assert script.requests[-1].options.seed == 1


@pytest.mark.parametrize(("number", "from_the_end"), [(0, -3), (1, -2), (2, -1)])
def test_an_edited_turn_replaces_itself_and_all_after_it(session, script, number, from_the_end):
    for which in (number, from_the_end):
        session.clear()
        script.says(*[THINK + HELLO] * 4)
        for text in ("one", "two", "three"):
            turn(session, script, text)
        list(session.edit(which, "other"))
        earlier = [part for text in ("one", "two", "three")[:number] for part in (user(text), said(HELLO))]
        script.read(system(), *earlier, user("other"), OPENING)
        assert session.turns == number + 1


@pytest.mark.parametrize("number", [-2, 1])
def test_a_turn_that_is_not_there_cannot_be_edited(session, script, number):
    script.says(HELLO)
    turn(session, script, "Hi")
    before = session.messages
    with pytest.raises(OptionError, match=f"no turn {number}, the conversation has 1: expected -1 to 0"):
        session.edit(number, "x")
    assert session.messages == before


def test_there_is_nothing_to_retry_in_an_empty_conversation(session):
    with pytest.raises(OptionError, match="no turn -1"):
        list(session.retry())


def test_forks_go_on_independently_from_a_shared_prefix(session, script):
    script.says(THINK + HELLO)
    turn(session, script, "Hi")
    fork = session.fork()
    for number in range(3):  # alternating, so that one could overwrite the caches of the other
        for one, text in ((session, f"left {number}"), (fork, f"right {number}")):
            script.says(THINK + FINE)
            turn(one, script, text)
            earlier = [part for n in range(number) for part in (user(f"{text[:-1]}{n}"), said(FINE))]
            script.read(system(), user("Hi"), said(HELLO), *earlier, user(text), OPENING)
    assert session.messages[:2] == fork.messages[:2] and session.messages[2:] != fork.messages[2:]


def test_a_tool_result_given_at_the_very_end_of_its_turn_is_not_lost(session, script):
    """Added by another thread after the last round, but before the turn lock is released."""

    class Late(LiveConversation):
        @contextmanager
        def held(self) -> Iterator[None]:
            with super().held():
                yield
                session.add_tool_result(ToolCall("functions.weather", "{}"), "rain")

    script.says(CALL)
    session._conversation = Late()
    turn(session, script, "Weather?")
    assert [message.role for message in session.messages] == ["user", "assistant", "tool"]


def test_a_tool_result_added_before_its_turn_is_closed_comes_after_the_call(session, script):
    script.says(THINK + CALL, HELLO)
    events = session.send("Weather?")
    call = next(event for event in events if isinstance(event, ToolCall))
    session.add_tool_result(call, "rain")
    events.close()
    assert [message.role for message in session.messages] == ["user", "assistant", "assistant", "tool"]
    assert turn(session, script, None)[-1].reason == "stop"


@pytest.mark.parametrize("text", [5, b"Hi", ["Hi"], None])
def test_a_message_that_is_not_a_str_is_refused(session, script, text):
    with pytest.raises(OptionError, match="the user's message must be a str, not"):
        next(session.send(text))
    assert session.messages == ()
    script.says(HELLO, HELLO)
    turn(session, script, "Hi")
    turn(session, script, "So?")
    with pytest.raises(OptionError, match="the user's message must be a str, not"):
        next(session.edit(0, text))
    assert session.turns == 2


def test_a_result_for_one_fork_never_reaches_the_other(session, script):
    """Even if the other one finishes a turn while the turn with the call is still running."""
    script.says(CALL, HELLO)
    fork = session.fork()
    calling = session.send("Weather?")
    session.add_tool_result(next(calling), "rain")
    assert fork.ask("Hi").text and "tool" not in [message.role for message in fork.messages]
    list(calling)
    assert session.messages[-1].role == "tool"


def test_a_fork_reads_only_what_is_new(session, script):
    script.says(HELLO, FINE)
    turn(session, script, "Hi")
    fork = session.fork()
    turn(fork, script, "So?")
    assert len(script.fed) <= len(said(HELLO)) + len(user("So?")) + len(OPENING)


def test_cancelled_between_tokens_a_turn_keeps_what_was_said(session, script):
    script.says(THINK + HELLO, HELLO)
    received = []
    for event in session.send("Hi"):
        received.append(event)
        if len(received) == 2:
            session.cancel()
    assert received[-1] == Finished("cancelled", session.usage)
    text = text_of(received, ReasoningDelta)
    assert text and contents(session) == [("user", None, "Hi"), ("assistant", "analysis", text)]
    assert session.usage.generated_tokens == 5
    turn(session, script, "Go on")
    script.read(system(), user("Hi"), OPENING, ids(THINK)[:5], [END], user("Go on"), OPENING)


@pytest.mark.parametrize("effort", ["medium", "none"])
def test_an_answer_that_is_cut_by_cancelling_is_not_said_to_be_whole(model, script, effort):
    session = ChatSession(script, TOKENIZER, current_date=DATE, reasoning_effort=effort)
    script.says(HELLO if effort == "medium" else HELLO.partition("<|message|>")[2])
    received = []
    for event in session.send("Hi"):
        received.append(event)
        if isinstance(event, AnswerDelta):
            session.cancel()
    assert received[-1].reason == "cancelled" and len(received) == 2
    assert contents(session)[-1] == ("assistant", "final", received[0].text)


def test_cancelled_while_the_prompt_is_read_whole_chunks_are_kept(session, script):
    script.chunk = 7
    script.says(HELLO, HELLO)
    received = []
    for event in session.send("a b c d e f g h i j k l m n o p"):
        received.append(event)
        if len(received) == 2:
            session.cancel()
    total = received[0].total
    assert received == [PrefillProgress(7, total), PrefillProgress(14, total), Finished("cancelled", session.usage)]
    assert session.usage.generated_tokens == 0
    assert session.usage.prompt_tokens == session.stats.prefilled_tokens == 14  # the tokens that were read
    script.forget_fed()
    list(session.retry())
    assert len(script.fed) == total - 14 + len(OPENING)
    script.read(system(), user("a b c d e f g h i j k l m n o p"), OPENING)


def test_cancelling_between_turns_does_nothing(session, script):
    script.says(HELLO, HELLO)
    session.cancel()
    assert turn(session, script, "Hi")[-1].reason == "stop"
    session.cancel()
    assert turn(session, script, "Hi")[-1].reason == "stop"


def test_a_session_in_the_middle_of_a_turn_refuses_another(session, script):
    script.says(THINK + HELLO)
    events = session.send("Hi")
    next(events)
    for other in (
        lambda: next(session.send("x")),
        session.undo,
        session.clear,
        session.fork,
        lambda: session.save("x"),
    ):
        with pytest.raises(SessionError, match="middle of a turn"):
            other()
    assert list(events)[-1].reason == "stop" and session.turns == 1
    session.clear()


def test_a_session_is_free_once_its_turn_is_finished(session, script):
    script.says(HELLO, HELLO)
    events = session.send("Hi")
    assert collect(events).finish_reason == "stop"  # `events` is not exhausted, and not closed
    assert session.ask("So?").text and next(events, None) is None


def test_a_tool_result_given_while_its_turn_runs_comes_after_the_call(session, script):
    script.says(THINK + CALL, HELLO)
    for event in session.send("Weather?"):
        if not isinstance(event, (ReasoningDelta, Finished)):
            session.add_tool_result(event, "rain")
    assert [message.role for message in session.messages] == ["user", "assistant", "assistant", "tool"]
    events = turn(session, script, None)
    assert events[0] == ToolResult("functions.weather", "rain")


def test_long_prompts_report_how_far_they_are_read(session, script):
    script.chunk = 10
    script.says(HELLO)
    events = turn(session, script, "word " * 30)
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    total = len(script.fed) - len(OPENING)
    start = len(system())  # a chunk ends there, so that other conversations can begin there
    assert [event.done for event in progress] == [*range(10, start, 10), start, *range(start + 10, total, 10), total]
    assert {event.total for event in progress} == {total}


def limited(model, limit: int, policy: str = "drop_oldest", **more) -> ChatSession:
    return ChatSession(model, TOKENIZER, current_date=DATE, context_limit=limit, context_policy=policy, **more)


def test_a_full_context_is_refused_by_default(model, script):
    script.says(HELLO)
    session = limited(script, len(system()) + 60, "refuse")
    turn(session, script, "Hi")
    before = session.messages
    with pytest.raises(ContextError, match="leave no room"):
        list(session.send("long " * 50))
    assert session.messages == before and session.stats.turns == 1


def test_an_answer_ends_where_the_context_does(model, script):
    script.says(HELLO)
    session = limited(script, len(system()) + len(user("Hi")) + len(OPENING) + 5, "refuse")
    assert turn(session, script, "Hi")[-1].reason == "length" and session.usage.generated_tokens == 5


def test_the_oldest_turns_are_dropped_whole_and_the_others_read_as_if_they_had_never_been(model, script):
    one = len(user("turn 0")) + len(said(HELLO))
    session = limited(script, 2 * (len(system()) + 4 * one))
    dropped = []
    for number in range(18):
        script.says(THINK + HELLO)
        events = turn(session, script, f"turn {number}")
        dropped += [event.count for event in events if isinstance(event, TurnsDropped)]
        first = int(session.messages[0].content.split()[1])
        assert first == sum(dropped) and session.turns == number - first + 1
        earlier = [part for n in range(first, number) for part in (user(f"turn {n}"), said(HELLO))]
        script.read(system(), *earlier, user(f"turn {number}"), OPENING)
        assert session.usage.prompt_tokens + session.usage.generated_tokens <= session.context_limit
    assert len(dropped) >= 2 and min(dropped) > 1  # several at once, because each drop means reading the rest again


def test_what_does_not_fit_even_alone_is_refused_and_nothing_is_dropped(model, script):
    script.says(HELLO)
    session = limited(script, len(system()) + 100)
    turn(session, script, "Hi")
    before = session.messages
    with pytest.raises(ContextError):
        list(session.send("long " * 200))
    assert session.messages == before


def test_what_does_not_fit_after_a_tool_result_is_refused_and_nothing_is_dropped_or_reported(model, script):
    script.says(HELLO, CALL)
    session = limited(script, len(system()) + 120)
    turn(session, script, "Hi")
    session.add_tool_result(turn(session, script, "Weather?")[0], "rain " * 300)
    before, events = session.messages, []
    with pytest.raises(ContextError):
        events.extend(session.resume())
    assert session.messages == before and not any(isinstance(event, TurnsDropped) for event in events)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_limit": 0},
        {"context_limit": 10**9},
        {"context_policy": "forget"},
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"max_rounds": None},
    ],
)
def test_a_wrong_limit_or_policy_is_reported_when_the_session_is_made(model, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        ChatSession(model, TOKENIZER, **wrong)


def test_stats_add_up_all_turns(session, script):
    script.says(THINK + HELLO, FINE)
    usages = [turn(session, script, text)[-1].usage for text in ("Hi", "So")]
    stats = session.stats
    assert stats.turns == 2 and stats.prompt_tokens == sum(usage.prompt_tokens for usage in usages)
    assert stats.reused_tokens == usages[1].reused_tokens > 0
    assert stats.prefilled_tokens == stats.prompt_tokens - stats.reused_tokens
    assert stats.generated_tokens == len(ids(THINK + HELLO)) + len(ids(FINE)) and stats.seconds > 0
    model = session.model
    a_token = 2 * model.config.num_key_value_heads * model.config.head_dim * model.dtype.size
    window = model.config.sliding_window
    assert stats.cache_bytes == a_token * 2 * (256 + window)  # two full layers, in a step of 256, and two rings
    assert 0 < stats.snapshot_bytes <= 3 * a_token * 2 * window


def test_results_of_several_tools_are_yielded_before_the_model_continues(session, script):
    script.says(CALL, HELLO)
    call = turn(session, script, "Weather?")[0]
    for text in ("rain", "snow"):
        session.add_tool_result(call, text)
    events = turn(session, script, None)
    assert events[:2] == [ToolResult("functions.weather", "rain"), ToolResult("functions.weather", "snow")]
    tool = [
        render_message(Message("tool", text, name=call.recipient, recipient="assistant", channel="commentary"))
        for text in ("rain", "snow")
    ]
    script.read(system(), user("Weather?"), said(CALL), *tool, OPENING)
