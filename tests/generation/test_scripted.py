"""`ScriptedEngine` says what it was told, and nothing else: a chat on it needs no model and no MLX."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Finished,
    PreambleDelta,
    PromptCache,
    ReasoningDelta,
    Request,
    SamplingOptions,
    ScriptedEngine,
    ToolCall,
    ToolResult,
    load_tokenizer,
)
from mlx_oss.errors import ContextError, EngineError, OptionError, SessionError
from mlx_oss.tokenizer import RETURN

TOKENIZER = load_tokenizer()
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
CALL = '<|channel|>commentary to=functions.double <|constrain|>json<|message|>{"x": 21}<|call|>'


def chat(*answers, **options) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), TOKENIZER, current_date="2025-08-05", **options)


def double(x: int) -> int:
    """Doubles a number."""
    return 2 * x


def test_a_text_is_the_answer():
    reply = chat("Paris.").ask("What is the capital of France?")
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("Paris.", "", "stop")


def test_a_text_with_control_tokens_is_what_the_model_writes():
    preamble = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant"
    events = list(chat(THINK + preamble + FINAL + "Yes.<|return|>").send("Really?"))
    joined = {
        kind: "".join(event.text for event in events if isinstance(event, kind))
        for kind in (ReasoningDelta, PreambleDelta, AnswerDelta)
    }
    assert list(joined.values()) == ["Hm.", "Let me see.", "Yes."]


def test_ids_are_said_as_they_are():
    ids = TOKENIZER.encode_with_specials(FINAL + "Hi<|return|>")
    assert chat(ids).ask("Hello").text == "Hi"


def test_without_reasoning_a_text_continues_the_answer_that_the_prompt_opens():
    session = chat("Paris.", "Rome.", reasoning_effort="none")
    assert [session.ask(text).text for text in ("France?", "Italy?")] == ["Paris.", "Rome."]


def test_tools_are_run_between_the_answers():
    session = chat(THINK + CALL, "It is 42.", tools=[double])
    events = list(session.send("Twice 21?"))
    assert [event for event in events if isinstance(event, ToolCall | ToolResult)] == [
        ToolCall("functions.double", '{"x": 21}'),
        ToolResult("functions.double", "42"),
    ]
    assert isinstance(events[-1], Finished) and session.messages[-1].content == "It is 42."
    first, second = session.model.requests
    assert second.prompt[: len(first.prompt)] == first.prompt and "42" in TOKENIZER.decode(second.prompt)


def test_the_requests_are_kept():
    session = chat("One.", "Two.", options=SamplingOptions(seed=4), max_tokens=50)
    session.ask("First?")
    session.ask("Second?")
    requests = session.model.requests
    assert [request.options.seed for request in requests] == [4, 4] and requests[0].max_tokens == 50
    assert "First?" in TOKENIZER.decode(requests[1].prompt) and "One." in TOKENIZER.decode(requests[1].prompt)


def test_what_earlier_turns_have_read_counts_as_reused():
    session = chat("One.", "Two.")
    first, second = session.ask("First?").usage, session.ask("Second?").usage
    assert first.reused_tokens == 0 and second.reused_tokens > first.prompt_tokens
    assert second.reused_tokens < second.prompt_tokens and second.generated_tokens == 6


def test_exceptions_are_raised_where_they_stand():
    ids = TOKENIZER.encode_with_specials(FINAL + "Hello")
    session = chat(RuntimeError("no memory"), [*ids, RuntimeError("unplugged")], "Fine.")
    with pytest.raises(RuntimeError, match="no memory"):
        session.ask("One")
    with pytest.raises(RuntimeError, match="unplugged"):
        session.ask("Two")
    assert session.messages[-1].content == "Hello" and session.ask("Three").text == "Fine."


def test_an_answer_too_few_is_reported():
    session = chat("One.")
    session.ask("First?")
    with pytest.raises(EngineError, match="request 2 has no answer"):
        session.ask("Second?")
    session.model.says("Two.")
    assert session.ask("Second?").text == "Two."


def test_an_answer_without_an_end_is_reported():
    with pytest.raises(EngineError, match=r"has ended.*<\|return\|>"):
        chat(FINAL + "Hello").ask("Hi")


@pytest.mark.parametrize("answer", [7, ["Hello"], [1.5], None, [[1]], b"Hi", [-1], [999_999]])
def test_what_is_no_answer_is_refused_when_it_is_given(answer):
    with pytest.raises(OptionError, match="is not a str, a sequence of ids, or an exception"):
        ScriptedEngine("Fine.", answer)


def test_a_function_among_the_ids_is_called_there():
    """So a test can cancel a turn from another thread at a certain token, or wait."""
    ids = TOKENIZER.encode_with_specials(FINAL + "One two three<|return|>")
    reached, go_on = threading.Event(), threading.Event()
    session = chat([*ids[:5], reached.set, go_on.wait, *ids[5:]])

    def cancel() -> None:
        reached.wait()
        session.cancel()
        go_on.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    reply = session.ask("Count.")
    thread.join()
    assert reply.finish_reason == "cancelled" and "One two three".startswith(reply.text) and reply.text


def test_a_cache_of_a_model_is_refused():
    class Other(PromptCache):
        pass

    with pytest.raises(OptionError, match="of another engine"):
        ScriptedEngine("Hi").submit(Request([1], cache=Other()))


def test_limits_hold():
    session = chat("A long answer with many words.", max_tokens=5)
    reply = session.ask("Hi")
    assert reply.finish_reason == "length" and reply.usage.generated_tokens == 5
    with pytest.raises(ContextError):
        ScriptedEngine("x", context=3).submit(Request([1, 2, 3]))


def test_finish_and_logprobs_are_those_of_a_model():
    steps = list(ScriptedEngine([5, 6, RETURN]).submit(Request([1], stop_ids=[RETURN])))
    assert [(step.token, step.logprob, step.finish) for step in steps] == [
        (5, 0.0, None),
        (6, 0.0, None),
        (RETURN, 0.0, "stop"),
    ]
    (step,) = ScriptedEngine([5, 6]).submit(Request([1], SamplingOptions(logprobs=False), 1))
    assert (step.logprob, step.finish) == (None, "length")


def test_async_turns_and_cancelling_work():
    session = chat("One two three four.", "Fine.")

    async def talk() -> list[object]:
        events = []
        async for event in session.asend("Hi"):
            events.append(event)
            if len(events) == 2:
                session.cancel()
        return events

    events = asyncio.run(talk())
    assert events[-1].reason == "cancelled" and session.messages[-1].content == "One two"
    assert session.ask("Go on").text == "Fine."


def test_a_session_is_saved_and_loaded(tmp_path):
    session = chat("One.", "Two.")
    session.ask("First?")
    session.save(tmp_path / "chat")
    loaded = ChatSession.load(tmp_path / "chat", session.model, TOKENIZER)
    assert loaded.messages == session.messages
    assert loaded.ask("Second?").usage.reused_tokens > 0


def test_a_session_of_a_model_is_not_opened_with_a_script(tmp_path):
    import mlx_oss

    model, tokenizer = mlx_oss.load()
    session = ChatSession(model, tokenizer, max_tokens=3)
    session.ask("Hi")
    session.save(tmp_path / "chat")
    with pytest.raises(SessionError, match="another model"):
        ChatSession.load(tmp_path / "chat", ScriptedEngine(), TOKENIZER)
    assert ChatSession.load(tmp_path / "chat", ScriptedEngine(), TOKENIZER, text_only=True).turns == 1


def test_what_is_no_engine_is_refused():
    with pytest.raises(OptionError, match=r"model is a str, expected an engine: model, tokenizer = mlx_oss.load"):
        ChatSession("gpt-oss-20b", TOKENIZER)


def test_a_chat_needs_no_mlx(tmp_path):
    """Turns with tools, saving and loading."""
    program = f"""
import sys
import mlx_oss

def double(x: int) -> int:
    "Doubles a number."
    return 2 * x

engine = mlx_oss.ScriptedEngine({CALL!r}, "It is 42.", "Fine.")
session = mlx_oss.ChatSession(engine, mlx_oss.load_tokenizer(), tools=[double])
assert session.ask("Twice 21?").text == "It is 42."
session.fork().save({str(tmp_path / "chat")!r})
session = mlx_oss.ChatSession.load({str(tmp_path / "chat")!r}, engine, mlx_oss.load_tokenizer())
assert session.ask("And?").text == "Fine."
assert not [name for name in sys.modules if name.partition(".")[0] == "mlx"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
