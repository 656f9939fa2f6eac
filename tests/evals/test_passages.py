"""The texts of comparisons: which tokens count, and as what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_oss.errors import MlxOssError, OptionError
from mlx_oss.evals.passages import (
    CHANNELS,
    KINDS,
    PIECE,
    Passage,
    bundled_conversations,
    in_words,
    label,
    read_conversations,
    read_text,
)
from mlx_oss.harmony import parse_messages
from mlx_oss.tokenizer import START, load_tokenizer

WEATHER = {"type": "function", "function": {"name": "weather", "description": "", "parameters": None}}
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add 2 and 2."},
    {"role": "assistant", "content": "Here:\n```python\nprint(2 + 2)\n```\nThat is 4.", "reasoning": "A sum."},
    {"role": "user", "content": "And the weather?"},
    {"role": "assistant", "content": "I look.", "reasoning": "I call it.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "18 degrees"},
    {"role": "assistant", "content": "18 degrees."},
]


def lines(tmp_path: Path, *conversations: object) -> Path:
    file = tmp_path / "conversations.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in conversations), encoding="utf-8")
    return file


def said(passage: Passage) -> dict[tuple[str, str], str]:
    """The text of each label of a passage."""
    texts: dict[tuple[str, str], str] = {}
    for id_, number in zip(passage.ids.tolist(), passage.labels.tolist(), strict=True):
        if number:
            texts[in_words(number)] = texts.get(in_words(number), "") + load_tokenizer().decode([id_])
    return texts


def test_each_token_is_what_the_conversation_says(tmp_path):
    first, second = map(said, read_conversations(lines(tmp_path, {"messages": MESSAGES, "tools": [WEATHER]})))
    assert first == {
        ("analysis", "headers"): "<|channel|>analysis<|message|><|end|>",
        ("analysis", "reasoning"): "A sum.",
        ("final", "headers"): "<|channel|>final<|message|><|return|>",
        ("final", "answers"): "Here:\n```python\n```\nThat is 4.",
        ("final", "code"): "print(2 + 2)\n",
    }
    assert second[("commentary", "JSON")] == '{"city": "Rome"}' and second[("commentary", "preambles")] == "I look."
    assert second[("analysis", "reasoning")] == "I call it." and second[("final", "answers")] == "18 degrees."
    assert second[("commentary", "headers")].endswith("<|constrain|>json<|message|><|call|>")


def test_a_turn_is_read_without_the_reasoning_of_earlier_turns(tmp_path):
    _, second = read_conversations(lines(tmp_path, {"messages": MESSAGES, "tools": [WEATHER]}))
    text = load_tokenizer().decode(second.ids.tolist())
    assert "A sum." not in text and "That is 4." in text and "# Instructions\n\nBe brief." in text


def test_harmony_messages_are_read_with_their_own_system_message(tmp_path):
    system = {"role": "system", "content": [{"type": "system_content", "reasoning_effort": "High"}]}
    code = {"role": "assistant", "channel": "analysis", "recipient": "python", "content_type": "code", "content": "1+1"}
    (passage,) = read_conversations(lines(tmp_path, {"messages": [system, {"role": "user", "content": "?"}, code]}))
    assert "Reasoning: high" in load_tokenizer().decode(passage.ids.tolist())
    assert said(passage)["analysis", "code"] == "1+1"


def test_bundled_conversations_have_every_kind_of_text_but_plain_text():
    passages = bundled_conversations()
    found = {in_words(int(n))[1] for passage in passages for n in np.unique(passage.labels) if n}
    assert found == set(KINDS) - {"text"}
    assert 3000 < sum(len(passage.counted) for passage in passages) < 10_000


def test_bundled_conversations_are_written_as_the_model_would():
    for passage in bundled_conversations():
        parse_messages(passage.ids.tolist(), role=None, strict=True)
        assert passage.labels[0] == 0 and passage.ids[0] == START


def test_a_plain_text_is_split_into_pieces_that_all_count(tmp_path):
    text = " ".join(f"word{n}" for n in range(2000))
    file = tmp_path / "text.txt"
    file.write_text(text)
    passages = read_text(file)
    pieces = [said(passage)["final", "text"] for passage in passages]
    assert "".join(pieces) == text and len(pieces) == -(-len(load_tokenizer().encode(text)) // PIECE) > 1


def test_a_label_says_its_channel_and_its_kind():
    assert all(in_words(label(channel, kind)) == (channel, kind) for channel in CHANNELS for kind in KINDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is no conversation"),
        ('{"messages": {}}', "is no conversation"),
        ('{"messages": [], "model": "x"}', "the key 'model' has no meaning"),
        ('{"messages": [{"role": "robot", "content": ""}]}', "has the role 'robot'"),
        ('{"messages": [], "reasoning_effort": "huge"}', "expected low, medium or high"),
        ('{"messages": [], "tools": {}}', "expected a list of functions"),
        ('{"messages": [], "tools": [{"type": "function"}]}', "is not a tool: give"),
        ('{"messages": [], "tools": ["f"]}', "expected a list of functions"),
        ('{"messages": [], "tools": [{"name": "f"}, {"name": "f"}]}', "two tools are called 'f'"),
        ('{"messages": [], "tools": [{"name": "a b"}]}', "name the tool in letters, digits, _ and -"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "gpt-oss reads only text"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(line, message, tmp_path):
    file = tmp_path / "conversations.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(OptionError, match=message) as raised:
        read_conversations(file)
    assert "line 2" in str(raised.value)


def test_what_editors_and_models_leave_in_a_file_is_no_mistake(tmp_path):
    file, turn = tmp_path / "conversations.jsonl", [{"role": "user", "content": "a"}]
    file.write_text(json.dumps({"messages": [*turn, {"role": "assistant", "content": "b\ud800"}]}))
    (passage,) = read_conversations(file)
    assert said(passage)["final", "answers"] == "b?"
    file.write_text("\ufeff" + file.read_text())
    assert (read_conversations(file)[0].ids == passage.ids).all()
    (tmp_path / "text").write_text("\ufeffabc")
    assert said(read_text(tmp_path / "text")[0])["final", "text"] == "abc"


def test_tools_are_described_as_in_a_chat(tmp_path):
    weather = {"name": "weather", "parameters": {"$ref": "#/$defs/w", "$defs": {"w": {"properties": {"city": {}}}}}}
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file = tmp_path / "conversations.jsonl"
    file.write_text(json.dumps({"messages": turn, "tools": [{"type": "function", "function": weather}]}))
    (passage,) = read_conversations(file)
    assert "type weather = (_: {\ncity" in load_tokenizer().decode(passage.ids.tolist())


@pytest.mark.parametrize("read", [read_conversations, read_text])
def test_files_that_cannot_be_read_are_refused_in_a_sentence(read, tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing", ".", "a\0b"):
        with pytest.raises(MlxOssError, match=r": (give|save)"):
            read(tmp_path / name)
