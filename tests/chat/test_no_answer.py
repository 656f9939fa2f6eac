"""Turns that the model ends without an answer: with the guards it may go on once, and then the answer is opened."""

from __future__ import annotations

import asyncio

import pytest

from mlx_oss import (
    ChatSession,
    DeviceError,
    Event,
    Finished,
    Guards,
    PreambleDelta,
    SamplingOptions,
    ScriptedEngine,
    ToolCall,
    ToolResult,
    collect,
)
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.cli.remarks import ending
from mlx_oss.events import FinishReason
from mlx_oss.tokenizer import CALL, ENDOFTEXT, RETURN
from tests.chat.scripted import DATE, OPENING, TOKENIZER, contents, ids, said, system, turn, user
from tests.engines import constraint_of

FREE = Guards(legal_headers=False)
LOOK = "<|channel|>commentary<|message|>Let me look.<|return|>"
HM = "<|channel|>analysis<|message|>Hm.<|return|>"
YES = "<|channel|>final<|message|>Yes.<|return|>"
FINAL = ids("<|channel|>final<|message|>")
CALLS = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"


def look() -> str:
    """Looks."""
    return "seen"


def session_of(*answers: object, **more: object) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), TOKENIZER, current_date=DATE, **more)


def after(*written: str) -> list[int]:
    """The prompt after a question and what the model wrote, each message with the end that it has in a prompt."""
    return system() + user("Hi") + [id_ for text in written for id_ in said(text)] + OPENING


def test_the_reply_has_the_preamble():
    preamble = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant"
    session = session_of(preamble + CALLS, YES, tools=[look])
    reply = session.ask("Hi")
    assert (reply.preamble, reply.text, reply.finish_reason) == ("Let me look.", "Yes.", "stop")
    assert session_of("Yes.").ask("Hi").preamble == ""


@pytest.mark.parametrize("stop", ["<|return|>", "<|call|>", "<|endoftext|>"])
@pytest.mark.parametrize(
    ("written", "preamble", "reasoning"),
    [
        ("<|channel|>commentary<|message|>Let me look.", "Let me look.", ""),
        ("<|channel|>analysis<|message|>Hm.", "", "Hm."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>So.", "So.", "Hm."),
        ("<|channel|>analysis<|message|>Hm.<|end|>", "", "Hm."),
        ("<|channel|>analysis", "", ""),
        ("", "", ""),
    ],
)
def test_without_the_guards_a_turn_without_an_answer_says_so(written, preamble, reasoning, stop):
    session = session_of(written + stop, guards=FREE)
    reply = session.ask("Hi")
    assert (reply.text, reply.finish_reason) == ("", "no_answer")
    assert (reply.preamble, reply.reasoning) == (preamble, reasoning)
    assert len(session.model.requests) == 1


@pytest.mark.parametrize(
    "written",
    [
        YES,
        "<|channel|>final<|message|><|return|>",
        "<|channel|>final<|message|>Yes.<|end|>",
        "<|message|>Yes.<|return|>",
    ],
)
@pytest.mark.parametrize("guards", [None, FREE])
def test_an_answer_is_one_also_if_it_is_empty_or_on_no_channel(written, guards):
    session = session_of(written, guards=guards)
    assert session.ask("Hi").finish_reason == "stop" and len(session.model.requests) == 1


@pytest.mark.parametrize("first", [LOOK, HM, HM.replace("return", "call"), HM.replace("return", "endoftext")])
def test_a_model_that_stops_without_an_answer_goes_on_in_another_message(session, script, first):
    """On a real engine, whose caches go back to where the message ends otherwise."""
    script.says(first, YES)
    events = turn(session, script, "Hi")
    script.read(system(), user("Hi"), said(first[: first.rindex("<|")] + "<|end|>"), OPENING)
    reply = collect(events)
    assert (reply.text, reply.finish_reason) == ("Yes.", "stop")
    assert reply.usage.generated_tokens == len(ids(first)) + len(ids(YES))
    assert [channel for _, channel, _ in contents(session)[1:]] == [
        "commentary" if first == LOOK else "analysis",
        "final",
    ]


def test_it_may_call_a_tool_then():
    session = session_of(LOOK, CALLS, YES, tools=[look], max_rounds=1)
    events = list(session.send("Hi"))
    kinds = [type(event) for event in events if isinstance(event, (ToolCall, ToolResult, Finished))]
    assert kinds == [ToolCall, ToolResult, Finished]  # the message without an answer is none of the rounds
    assert collect(events).text == "Yes." and not [event for event in events if getattr(event, "error", None)]


def test_at_the_second_time_the_answer_is_opened(session, script):
    script.says(HM, LOOK, "Yes.<|return|>")
    reply = collect(turn(session, script, "Hi"))
    script.read(system(), user("Hi"), said(HM), said(LOOK), OPENING, FINAL)
    assert (reply.reasoning, reply.preamble, reply.text) == ("Hm.", "Let me look.", "Yes.")
    assert reply.finish_reason == "stop"
    assert contents(session)[-1] == ("assistant", "final", "Yes.")
    script.says(YES)
    turn(session, script, "So?")
    script.read(system(), user("Hi"), said(LOOK), said(YES), user("So?"), OPENING)


def test_the_times_are_counted_in_a_turn_also_across_calls():
    session = session_of(LOOK, CALLS, HM, "Yes.", "Fine.", tools=[look])
    assert session.ask("Hi").text == "Yes."
    assert [list(request.prompt[-len(FINAL) :]) == FINAL for request in session.model.requests] == [
        False,
        False,
        False,
        True,
    ]
    session.ask("So?")
    assert list(session.model.requests[-1].prompt[-len(OPENING) :]) == OPENING


def test_an_opened_answer_to_which_the_model_writes_nothing_is_none():
    session = session_of(HM, HM, [RETURN])
    reply = session.ask("Hi")
    assert (reply.text, reply.finish_reason) == ("", "no_answer") and len(session.model.requests) == 3
    assert session_of(HM, HM, [RETURN], response_format="a?").ask("Hi").finish_reason == "stop"


def test_send_asend_and_ask_agree():
    async def events_of(session: ChatSession) -> list[Event]:
        return [event async for event in session.asend("Hi")]

    for answers in ((HM, LOOK, "Yes."), (HM, LOOK, [RETURN])):
        sync, asynchronous = list(session_of(*answers).send("Hi")), asyncio.run(events_of(session_of(*answers)))
        assert [repr(event) for event in sync[:-1]] == [repr(event) for event in asynchronous[:-1]]
        reply, whole = collect(sync), session_of(*answers).ask("Hi")
        for other in (collect(asynchronous), whole):
            assert (other.text, other.reasoning, other.preamble) == (reply.text, reply.reasoning, reply.preamble)
            assert other.finish_reason == reply.finish_reason


@pytest.mark.parametrize(
    ("answers", "how"),
    [
        ((HM, YES), {"max_tokens": len(ids(HM))}),
        ((HM, YES), {"max_tokens": len(ids(HM)) + 3}),
        ((HM, HM, "Yes, of course."), {"context_limit": len(after(HM, HM)) + 1}),
    ],
)
def test_limits_hold_between_the_messages(answers, how):
    reply = session_of(*answers, **how).ask("Hi")
    assert (
        reply.finish_reason == "length"
        and reply.text == ""
        and reply.usage.generated_tokens <= how.get("max_tokens", 99)
    )


def test_a_turn_is_cancelled_between_the_messages():
    session = session_of([*ids(HM)[:-1], lambda: session.cancel(), RETURN], YES)
    reply = session.ask("Hi")
    assert (reply.finish_reason, reply.reasoning) == ("cancelled", "Hm.") and session.turns == 1
    assert len(session.model.requests) == 1
    assert collect(session.resume()).text == "Yes."


def test_a_device_error_then_takes_the_turn_back_unless_a_tool_has_run():
    session = session_of(HM, DeviceError("no memory"), YES)
    with pytest.raises(DeviceError):
        session.ask("Hi")
    assert session.messages == () and session.ask("Hi").text == "Yes."
    session = session_of(CALLS, HM, DeviceError("no memory"), tools=[look])
    with pytest.raises(DeviceError):
        session.ask("Hi")
    assert [channel for _, channel, _ in contents(session)] == [None, "commentary", "commentary", "analysis"]


def test_an_iterator_that_is_closed_then_keeps_what_was_written():
    session = session_of(LOOK, LOOK)
    events = session.send("Hi")
    count = 0
    for event in events:
        count += isinstance(event, PreambleDelta)
        if count == len(TOKENIZER.encode("Let me look.")) + 1:
            break
    events.close()
    assert contents(session)[1:] == [("assistant", "commentary", "Let me look."), ("assistant", "commentary", "Let")]


def test_a_saved_session_keeps_such_a_turn_and_goes_on(tmp_path):
    session = session_of(LOOK, guards=FREE)
    assert session.ask("Hi").finish_reason == "no_answer"
    session.save(tmp_path / "chat")
    for text_only in (False, True):
        engine = ScriptedEngine(YES, "Fine.")
        loaded = ChatSession.load(tmp_path / "chat", engine, TOKENIZER, text_only=text_only)
        assert contents(loaded) == contents(session) and loaded.context_used == session.context_used
        reply = collect(loaded.resume())
        assert reply.text == "Yes." and list(engine.requests[0].prompt) == after(LOOK)
        assert loaded.ask("So?").text == "Fine." and loaded.undo() == "So?" and loaded.undo() == "Hi"


def test_such_a_turn_can_be_asked_again():
    session = session_of(LOOK, YES, guards=FREE)
    session.ask("Hi")
    assert collect(session.retry()).text == "Yes." and session.turns == 1
    assert session.model.requests[1].prompt == session.model.requests[0].prompt


@pytest.mark.parametrize(
    ("reason", "said_"), [("no_answer", "without an answer"), ("repetition", "repeated itself"), ("stop", "")]
)
def test_the_terminal_shows_why_there_is_no_more(capsys, reason: FinishReason, said_):
    printer, finished = PlainPrinter(), Finished(reason, session_of().usage)
    printer(finished)
    printer.end_turn(ending(finished))
    shown = capsys.readouterr()
    assert shown.out == "" and (said_ in shown.err if said_ else shown.err == "")


def test_without_tools_no_preamble_can_be_written_and_with_tools_it_can():
    for tools, expected in (([], False), ([look], True)):
        constraint = constraint_of(session_of(tools=tools))
        constraint.accept(FINAL[0])
        allowed = constraint.allowed()
        assert [bool(allowed[ids(channel)[0]]) for channel in ("analysis", "final", "commentary")] == [
            True,
            True,
            expected,
        ]
    free = constraint_of(session_of(guards=FREE))
    free.accept(FINAL[0])
    assert free.allowed() is None


def test_random_weights_that_tend_to_stop_give_an_answer_or_say_that_there_is_none(model):
    reasons = set()
    for seed in range(12):
        options = SamplingOptions(temperature=2, seed=seed, logit_bias=dict.fromkeys([RETURN, CALL, ENDOFTEXT], 22.0))
        session = ChatSession(model, TOKENIZER, options=options, max_tokens=60)
        reply = session.ask("Hi")
        reasons.add(reply.finish_reason)
        assert reply.finish_reason in ("length", "no_answer") or session.messages[-1].channel == "final"
        assert not reply.preamble
    assert "stop" in reasons
