"""Tests the parser on the streams of the table, and against openai-harmony 0.0.8 where no repair is needed."""

import re

import pytest

from mlx_oss.harmony import Message, ParsedMessage, parse_messages
from mlx_oss.tokenizer import load_tokenizer

from . import oracle
from .oddities import ODDITIES
from .streams import STREAMS, Stream

# These need no repair, but openai-harmony raises, or reads a content type as the recipient.
DIFFERS = {
    "call: recipient in both sections",
    "call: content type before recipient",
    "tool message without recipient",
    "user message with name",
    "stop token twice",
    "<|return|> after <|call|>",
    "final json, no recipient",
    "final with <|constrain|>json, no recipient",
}


def is_read_alike(stream: Stream) -> bool:
    repaired = re.search(r"\) [A-Z]", stream.ours)
    return not repaired and stream.case not in DIFFERS


def to_ids(stream: str) -> list[int]:
    """Returns the ids of a stream. Control tokens are written as usual, unusual parts in braces."""
    tokenizer = load_tokenizer()
    oddities = {
        "{half emoji}": tokenizer.encode("🫠")[:1],
        "{300000}": [300000],
        "{spelled channel}": tokenizer.encode("<|channel|>"),
        "{spelled message}": tokenizer.encode("<|message|>"),
    }
    parts = re.split("(" + "|".join(map(re.escape, oddities)) + ")", stream)
    return [id_ for part in parts for id_ in oddities.get(part) or tokenizer.encode_with_specials(part)]


def shown(parsed: ParsedMessage) -> str:
    """`role[name] channel to=recipient type=content_type: text (ending) REPAIRS`, without the fields that are None."""
    message = parsed.message
    repairs = ", ".join(note.repair.name for note in parsed.notes)
    return f"{_header(message)}: {message.content} ({parsed.ending}){repairs and f' {repairs}'}"


def _header(message: Message) -> str:
    author = f"{message.role}[{message.name}]" if message.name else message.role
    recipient = message.recipient and f"to={message.recipient}"
    content_type = message.content_type and f"type={message.content_type}"
    return " ".join(filter(None, (author, message.channel, recipient, content_type)))


def by_case(stream: Stream) -> str:
    return stream.case


@pytest.mark.parametrize("stream", STREAMS, ids=by_case)
def test_stream_gives_what_the_table_says(stream):
    parsed = parse_messages(to_ids(stream.stream), role=stream.role)
    assert " | ".join(map(shown, parsed)) == stream.ours


@pytest.mark.parametrize("oddity", ODDITIES, ids=[oddity.stream for oddity in ODDITIES])
def test_oddity_gives_what_its_table_says(oddity):
    parsed = parse_messages(to_ids(oddity.stream), role=oddity.role)
    assert " | ".join(map(shown, parsed)) == oddity.ours


def test_text_cut_anywhere_ends_in_a_replacement_character_or_whole():
    ids = load_tokenizer().encode("aé🫠 👩🏽\u200d🚀日本𓀀")
    for header in ("<|channel|>final<|message|>", ""):
        for end in range(1, len(ids) + 1):
            (parsed,) = parse_messages(to_ids(header) + ids[:end])
            assert parsed.message.content == load_tokenizer().decode(ids[:end])


@pytest.mark.parametrize("stream", [*filter(is_read_alike, STREAMS)], ids=by_case)
def test_stream_without_repair_is_read_as_openai_harmony_reads_it(stream):
    ids = to_ids(stream.stream)
    assert [parsed.message for parsed in parse_messages(ids, role=stream.role)] == oracle.parse(ids, stream.role)


def test_the_table_holds_every_case_once():
    assert len({stream.case for stream in STREAMS}) == len(STREAMS) == 52
