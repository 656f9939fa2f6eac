"""Whatever form a conversation has, its messages come in the order in which the model would have read them."""

from __future__ import annotations

import time
from random import Random

import pytest

from mlx_oss.chat.transcript import Transcript
from mlx_oss.harmony import DeveloperContent, Message


def call(name):
    return Message("assistant", "{}", "commentary", f"functions.{name}", "<|constrain|>json")


def outline(transcript):
    return [(m.channel or m.role, m.recipient or m.name or m.content) for m in transcript.messages]


def test_instructions_at_the_head_are_joined_and_later_ones_stay_in_their_place():
    transcript = Transcript()
    for text in ("Be brief.", "", "Be kind."):
        transcript.instruct(text)
    transcript.say("Hi")
    transcript.instruct("Be loud.")
    assert transcript.instructions == "Be brief.\n\nBe kind."
    assert transcript.messages[1] == Message("developer", DeveloperContent("Be loud."))


def test_each_of_several_calls_is_followed_by_its_result():
    transcript = Transcript()
    transcript.say("Hi")
    transcript.call("1", call("a"))
    transcript.call("2", call("b"))
    transcript.result("2", "B")
    transcript.result("1", "A")
    assert outline(transcript)[1:] == [
        ("commentary", "functions.a"),
        ("commentary", "assistant"),
        ("commentary", "functions.b"),
        ("commentary", "assistant"),
    ]
    assert [message.content for message in transcript.messages] == ["Hi", "{}", "A", "{}", "B"]
    assert transcript.call_ids == [None, "1", None, "2", None]


def test_a_result_that_comes_late_stays_where_it_came():
    transcript = Transcript()
    transcript.call("1", call("a"))
    transcript.say("Are you there?")
    transcript.result("1", "A")
    assert [message.role for message in transcript.messages] == ["assistant", "user", "tool"]


def test_what_is_said_before_a_call_is_a_preamble_and_what_is_said_in_the_end_the_answer():
    transcript = Transcript()
    transcript.answer("Earlier.")
    transcript.say("Hi")
    transcript.answer("I look.")
    transcript.reason("Hm.")
    transcript.call("1", call("a"))
    transcript.result("1", "A")
    transcript.answer("Done.")
    channels = [message.channel for message in transcript.messages if message.role == "assistant"]
    assert channels == ["final", "commentary", "analysis", "commentary", "final"]


def test_a_result_needs_a_call_that_waits_for_it():
    transcript = Transcript()
    transcript.call("1", call("a"))
    assert transcript.waits("1") and not transcript.waits("2") and not transcript.waits(["1"])
    transcript.result("1", "A")
    assert not transcript.waits("1")


@pytest.mark.parametrize("order", [1, -1])
def test_thousands_of_calls_and_results_are_told_in_no_time(order):
    """Each step takes about as long as the one before: at 20,000 calls the difference would be minutes."""
    transcript, count = Transcript(), 20_000
    began = time.process_time()
    transcript.say("Hi")
    for _ in range(count):
        transcript.answer("I look.")
    for number in range(count):
        transcript.call(str(number), call("a"))
    for number in range(count)[::order]:
        transcript.result(str(number), str(number))
    assert time.process_time() - began < 30
    assert [message.content for message in transcript.messages[-2 * count + 1 :: 2]] == [*map(str, range(count))]
    assert {message.channel for message in transcript.messages[1:]} == {"commentary"}


def test_results_find_their_calls_in_whatever_order_they_come():
    for seed in range(200):
        random, transcript, waiting, told = Random(seed), Transcript(), [], 0
        for _ in range(30):
            match random.choice(["call", "call", "result", "result", "say", "answer"]):
                case "call":
                    transcript.call(str(told), Message("assistant", str(told), "commentary", "functions.a"))
                    waiting.append(told)
                    told += 1
                case "result" if waiting:
                    number = waiting.pop(random.randrange(len(waiting)))
                    before = [message.content for message in transcript.messages]
                    is_at_end = all(
                        m.role == "tool" or m.recipient for m in transcript.messages[before.index(str(number)) :]
                    )
                    transcript.result(str(number), f"of {number}")
                    place = before.index(str(number)) + 1 if is_at_end else len(before)
                    assert [m.content for m in transcript.messages] == [
                        *before[:place],
                        f"of {number}",
                        *before[place:],
                    ]
                case "say":
                    transcript.say("Hi")
                case "answer":
                    transcript.answer("Ho")
        assert len(transcript.call_ids) == len(transcript.messages)
