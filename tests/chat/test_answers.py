"""Stop strings, log-probabilities and several answers to one question."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Event,
    Finished,
    OptionError,
    SamplingOptions,
    ScriptedEngine,
    TokenLogprob,
    ToolCall,
    collect,
    load_tokenizer,
)
from mlx_oss.chat.answer_text import AnswerText
from tests.chat.scripted import CALL, HELLO, OPENING, THINK, TOKENIZER, ids, system, text_of, turn, user

FINAL = "<|channel|>final<|message|>"


def chat(*answers, **kwargs) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), load_tokenizer(), **kwargs)


# Stop strings


def expected_cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What stays of a text, found one character after another."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_text_is_cut_at_the_first_stop_string_however_it_comes_in_pieces(data):
    text = data.draw(st.text("ab", max_size=12))
    stops = data.draw(st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    answer, seen = AnswerText(stops), ""
    for number, piece in enumerate(pieces):
        answer.add_token(TokenLogprob(piece, -1.0, number))
        passed = answer.add(piece)
        seen += text_of(passed, AnswerDelta)
        # As early as it is certain: nothing is held back but what may begin a stop string.
        fed = "".join(pieces[: number + 1])
        held = fed[len(seen) :] if answer.stop is None else ""
        assert all(any(stop.startswith(held) for stop in stops) for _ in held[:1])
    seen += text_of(answer.end(), AnswerDelta)
    assert (seen, answer.stop) == expected_cut(text, stops)


@pytest.mark.parametrize("stop", ["you", " help y", ["zzz", "you today", "you"], "lo, how can I help you"])
def test_an_answer_is_cut_exactly_at_the_string_across_tokens(stop):
    session = chat(THINK + HELLO, "More.", stop=stop)
    events = list(session.send("Hi"))
    whole = "Hello, how can I help you today?"
    cut, found = expected_cut(whole, [stop] if isinstance(stop, str) else stop)
    assert text_of(events, AnswerDelta) == cut == session.messages[-1].content
    assert events[-1].reason == "stop" and events[-1].stop == found
    reply = session.ask("And?")
    assert (reply.text, reply.stop, reply.finish_reason) == ("More.", None, "stop")
    read = TOKENIZER.decode(session.model.requests[1].prompt)
    assert f"{FINAL}{cut}<|end|>" in read  # and nothing of what came after it


def test_the_text_before_a_stop_string_comes_as_early_as_it_is_certain():
    session = chat("One two three", stop="two four")
    deltas = [event.text for event in session.send("Count") if isinstance(event, AnswerDelta)]
    assert deltas == ["One", " ", "two three"] or deltas == ["One", " two three"]


def test_a_stop_string_ends_the_answer_at_once():
    """The model does not write on: nothing of the script is left unread but what follows the string."""
    wrote = []
    tokens = ids(FINAL + "one two three four<|return|>")
    engine = ScriptedEngine([token for id_ in tokens for token in (lambda id_=id_: wrote.append(id_), id_)])
    assert ChatSession(engine, load_tokenizer()).ask("Count", stop=" two").text == "one"
    assert TOKENIZER.decode(wrote).endswith("one two")


def test_reasoning_and_calls_may_contain_a_stop_string():
    def weather(city: str) -> str:
        """Gets the weather."""
        return f"user in {city}"

    session = chat(THINK + CALL, "No user here", tools=[weather])
    reply = session.ask("Oslo?", stop=["user", "Oslo"])
    assert reply.reasoning == "The user greets me." and len(reply.tool_calls) == 1
    assert (reply.text, reply.stop) == ("No ", "user")


def test_an_answer_may_be_cut_at_its_beginning():
    reply = chat("Stop here").ask("Hi", stop="Stop")
    assert (reply.text, reply.finish_reason, reply.stop) == ("", "stop", "Stop")


def test_what_looked_like_a_stop_string_is_given_when_the_answer_ends():
    reply = chat("The EN").ask("Hi", stop="END")
    assert (reply.text, reply.stop) == ("The EN", None)
    assert chat("The EN").ask("Hi", stop="END", max_tokens=5).text == "The EN"


def test_after_a_cut_answer_the_model_reads_what_was_shown(session, script):
    script.says(THINK + HELLO, HELLO)
    session.stop = "help"
    turn(session, script, "Hi")
    session.stop = None
    turn(session, script, "More")
    cut = [*OPENING, *ids(FINAL + "Hello, how can I <|end|>")]
    script.read(system(), user("Hi"), cut, user("More"), OPENING)


def test_a_cut_answer_without_an_event_loop_and_in_one():
    async def read() -> list[Event]:
        return [event async for event in chat("One two").asend("Count", stop="two")]

    assert collect(asyncio.run(read())).text == "One " == chat("One two").ask("Count", stop="two").text


# Log-probabilities


def test_the_tokens_of_the_answer_come_with_their_log_probabilities(session, script):
    """Those of the reasoning and the control tokens do not."""
    script.says(THINK + HELLO, THINK + HELLO)
    assert not any(isinstance(event, TokenLogprob) for event in turn(session, script, "Hi"))
    session.logprobs = True
    events = turn(session, script, "Hi")
    tokens = [event for event in events if isinstance(event, TokenLogprob)]
    assert "".join(token.token for token in tokens) == "Hello, how can I help you today?"
    assert [token.id for token in tokens] == TOKENIZER.encode("Hello, how can I help you today?")
    assert events.index(tokens[0]) == events.index(AnswerDelta(tokens[0].token)) - 1
    reply = collect(events)
    assert reply.logprobs == tuple(tokens) and all(token.logprob <= 0 for token in tokens)


def test_the_likeliest_tokens_are_those_of_the_model(model):
    """With real logits: a session's log-probabilities are those that the engine reports."""
    options = SamplingOptions(temperature=0, top_logprobs=3)
    session = ChatSession(model, TOKENIZER, reasoning_effort="none", options=options, max_tokens=4)
    reply = session.ask("Hi", logprobs=True)
    assert len(reply.logprobs) == 4
    for token in reply.logprobs:
        assert (token.top_logprobs[0].id, token.top_logprobs[0].logprob) == (token.id, token.logprob)
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
    json.dumps([[token.token, token.logprob] for token in reply.logprobs])


def test_only_tokens_that_begin_before_a_stop_string_are_reported():
    reply = chat("One two three").ask("Count", stop="o three", logprobs=True)
    assert reply.text == "One tw" and [token.token for token in reply.logprobs] == ["One", " two"]


def test_a_character_of_several_tokens_comes_after_all_of_them():
    events = list(chat("🦉!").send("Owl", logprobs=True))
    kinds = [type(event) for event in events]
    owl = len(TOKENIZER.encode("🦉"))
    assert kinds == [*[TokenLogprob] * owl, AnswerDelta, TokenLogprob, AnswerDelta, Finished]


# Several answers


def test_several_answers_leave_one_in_the_conversation():
    session = chat("One.", "Two.", "Three.", "More.", options=SamplingOptions(seed=4))
    reply = session.ask("Number?", n=3)
    assert [choice.text for choice in reply.choices] == ["One.", "Two.", "Three."] and reply.text == "One."
    assert [request.options.seed for request in session.model.requests] == [4, 5, 6]
    assert len({request.prompt for request in session.model.requests}) == 1
    assert session.turns == 1 and session.stats.turns == 3
    session.choose(2)
    assert session.messages[-1].content == "Three."
    session.choose(1)
    session.ask("More?")
    read = TOKENIZER.decode(session.model.requests[-1].prompt)
    assert "Two." in read and "One." not in read and "Three." not in read


def test_several_answers_read_the_question_once(session, script):
    script.says(THINK + HELLO, THINK + HELLO, HELLO)
    reply = session.ask("Hi", n=3)
    assert script.fed == [*system(), *user("Hi"), *OPENING * 3] and len(reply.choices) == 3


def test_several_answers_in_an_event_loop():
    session = chat("One.", "Two.")
    reply = asyncio.run(session.aask("Number?", n=2))
    assert [choice.text for choice in reply.choices] == ["One.", "Two."]
    session.choose(1)
    assert session.messages[-1].content == "Two."


def test_one_answer_is_not_a_choice():
    session = chat("One.", "Two.", "Three.")
    assert session.ask("Number?").choices == ()
    with pytest.raises(OptionError, match="no answers to choose from: call `choose` right after"):
        session.choose(0)
    reply = session.ask("Number?", n=2)
    with pytest.raises(OptionError, match=r"there is no answer 2: give its place in Reply.choices, 0 to 1"):
        session.choose(2)
    with pytest.raises(
        OptionError, match=r"there is no answer Reply\(.{,200}: give its place in Reply.choices, 0 to 1"
    ):
        session.choose(reply)
    session.undo()
    with pytest.raises(OptionError, match="no answers to choose from"):
        session.choose(1)


def test_an_answer_in_an_event_loop_can_be_cancelled():
    async def ask() -> None:
        session = chat([*ids(FINAL + "One two"), *ids(" three") * 1000, *ids("<|return|>")])
        task = asyncio.create_task(session.aask("Count"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.undo() == "Count"  # the turn has ended

    asyncio.run(ask())


def test_a_call_is_an_event_among_the_tokens():
    events = list(chat(THINK + CALL).send("Oslo?", logprobs=True))
    assert [type(event) for event in events if not isinstance(event, TokenLogprob)][-2:] == [ToolCall, Finished]
    assert not any(isinstance(event, TokenLogprob) for event in events)
