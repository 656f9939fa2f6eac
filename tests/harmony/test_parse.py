"""Tests the parser on well-formed streams and single errors. The number of streams is set as in `test_render`."""

import random
import sys

import pytest
from hypothesis import given

from mlx_oss.harmony import (
    HarmonyParser,
    Message,
    Repair,
    TextDelta,
    parse_messages,
    render_conversation,
)
from mlx_oss.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    RETURN,
    STOP_IDS,
    load_tokenizer,
)

from . import oracle
from .strategies import CONVERSATIONS, examples, parsable_conversations
from .test_broken_streams import broken_stream, encode, events_of

FINAL_HEADER = "<|channel|>final<|message|>"


@examples(CONVERSATIONS // 2)
@given(parsable_conversations)
def test_rendered_conversation_comes_back_without_repair(messages):
    ids = render_conversation(messages)
    parsed = parse_messages(ids, role=None, strict=True)
    assert [item.message for item in parsed] == messages == oracle.parse(ids, None)
    assert [id_ for item in parsed for id_ in item.ids] == ids
    assert [item.ending for item in parsed] == [
        "call" if m.role == "assistant" and m.recipient else "end" for m in messages
    ]


UNITS = (
    " word",
    "🫠",
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|start|> x",
    " to=a.b",
    "\n",
)


@pytest.mark.parametrize("before", ["", FINAL_HEADER, FINAL_HEADER + "<|end|>"])
def test_work_grows_with_the_length_of_the_stream(before):
    """Counts calls instead of time, which varies. Every loop over ids in the parser makes calls."""

    def calls(ids: list[int]) -> int:
        count, parser = 0, HarmonyParser()

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counted)
        try:
            for id_ in ids:
                parser.feed(id_)
            parser.finish()
        finally:
            sys.setprofile(None)
        return count

    for unit in map(encode, [*UNITS, "<|start|>assistant<|channel|>final<|message|>x<|end|>"]):
        short, long = (calls(encode(before) + unit * times) for times in (600, 2400))
        assert long < 4.5 * short


def test_copy_goes_on_like_the_original():
    for ids in (encode(FINAL_HEADER + "a🫠b<|return|>"), encode("I refuse 🫠"), broken_stream(random.Random(2))):
        parser = HarmonyParser()
        for at, id_ in enumerate(ids):
            copy = parser.copy()
            for other in encode("something else 🫠<|end|>"):
                parser.copy().feed(other)
            rest = [event for id_ in ids[at:] for event in copy.feed(id_)] + list(copy.finish())
            assert rest == events_of(ids)[-len(rest) :]
            parser.feed(id_)


def test_character_of_several_tokens_comes_whole():
    ids = encode(FINAL_HEADER + "🫠")
    deltas = [event.text for event in events_of(ids) if isinstance(event, TextDelta)]
    assert len(encode("🫠")) == 3
    assert deltas == ["🫠"]


def test_state_and_header_follow_the_stream():
    parser = HarmonyParser()
    seen = []
    for id_ in encode("<|channel|>final<|message|>x<|end|><|start|>"):
        parser.feed(id_)
        seen.append((parser.state, parser.header and parser.header.channel))
    header, content, between = ("header", None), ("content", "final"), ("between", None)
    assert seen == [header, header, content, content, between, header]


def test_refusal_without_header_streams_before_it_ends():
    refusal = "I cannot help with that. " * 60
    parser = HarmonyParser()
    before_the_end = [event for id_ in encode(refusal) for event in parser.feed(id_)]
    text = "".join(event.text for event in before_the_end if isinstance(event, TextDelta))
    assert len(text) > len(refusal) // 2
    (finished,) = parser.feed(RETURN)
    assert finished.message.message == Message("assistant", refusal)


@pytest.mark.parametrize("words", range(120, 132))
def test_text_without_header_is_whole_wherever_the_longest_header_ends(words):
    text = "word" + " word" * (words - 1) + "🫠🫠"
    parsed = parse_messages(encode(text))
    assert [item.message.content for item in parsed] == [text]
    assert [note.repair for item in parsed for note in item.notes] == [Repair.MISSING_MESSAGE]


@pytest.mark.parametrize("words", range(120, 132))
def test_half_a_character_comes_in_its_place_wherever_the_longest_header_ends(words):
    ids = encode("word" + " word" * (words - 1)) + encode("🫠")[:2] + encode(" word" * 20)
    events = events_of(ids)
    deltas = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert deltas == events[-1].message.message.content == load_tokenizer().decode(ids)


def test_character_cut_by_the_next_message_is_replaced_once():
    half = encode("🫠")[:2]
    first, second = parse_messages([*encode("No"), *half, *encode("<|start|>assistant<|channel|>final<|message|>x")])
    assert (first.message.content, second.message.content) == ("No\N{REPLACEMENT CHARACTER}", "x")


@pytest.mark.parametrize("stop", [END, CALL, RETURN])
@pytest.mark.parametrize("recipient", ["functions.x", "python", "functions.web-search"])
@pytest.mark.parametrize("channel", ["analysis", "commentary", "wrong", None])
def test_recipient_makes_a_tool_call_on_any_channel_but_final(channel, recipient, stop):
    section = f"<|channel|>{channel}" if channel else ""
    (call,) = parse_messages([*encode(f" to={recipient}{section}<|message|>1"), stop])
    assert call.is_tool_call
    (answer,) = parse_messages([*encode(f"<|channel|>final to={recipient}<|message|>1"), stop])
    assert not answer.is_tool_call


@pytest.mark.parametrize(
    ("stream", "body"),
    [
        ('<|channel|>commentary to=functions.x <|constrain|>json{"a": 1}<|call|>', '{"a": 1}'),
        ('<|channel|>commentary to=functions.x json {"a": 1}<|call|>', '{"a": 1}'),
        ("<|channel|>commentary to=functions.x{}<|call|>", "{}"),
    ],
)
def test_call_without_message_token_keeps_its_arguments(stream, body):
    (call,) = parse_messages(encode(stream))
    assert (call.message.recipient, call.message.content, call.is_tool_call) == ("functions.x", body, True)
    assert [note.repair for note in call.notes] == [Repair.MISSING_MESSAGE]


@pytest.mark.parametrize("written", ["commentary 2?", "commentary?commentary?", "--commentary", "COMMENTARY"])
def test_garbled_channel_is_put_right(written):
    (parsed,) = parse_messages(encode(f"<|channel|>{written}<|message|>x<|end|>"))
    assert parsed.message == Message("assistant", "x", "commentary")
    assert parsed.notes


def test_no_ids_give_no_message():
    assert parse_messages([]) == []


def test_every_stop_id_ends_a_message():
    for stop in (*STOP_IDS, END):
        (parsed,) = parse_messages([*encode(FINAL_HEADER + "x"), stop])
        assert parsed.ending != "cut"
        assert parsed.ids[-1] == stop


def test_a_constrain_token_that_is_spelled_in_an_answer_without_a_header_is_text():
    (parsed,) = parse_messages([*load_tokenizer().encode("Use <|constrain|>json here."), RETURN])
    assert parsed.message.content == "Use <|constrain|>json here."


def test_a_constrain_token_in_content_that_a_spelled_message_token_opened_is_left_out():
    encode = load_tokenizer().encode
    ids = [CHANNEL, *encode("final<|message|>Hi"), CONSTRAIN, *encode(" you"), RETURN]
    (parsed,) = parse_messages(ids)
    assert parsed.message.content == "Hi you" and parsed.message.channel == "final"
    assert Repair.STRAY_CONTROL in [note.repair for note in parsed.notes]
