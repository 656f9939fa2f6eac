"""Saved sessions continue exactly where they stopped, also in another process; damaged files are refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_oss import ChatSession, LocalEngine, SamplingOptions, ToolDescription, Transformer
from mlx_oss.errors import SessionError
from mlx_oss.harmony import PYTHON
from tests.chat.scripted import CALL, DATE, HELLO, OPENING, THINK, TOKENIZER, said, system, turn, user
from tests.engines import prompt_of

EXTRAS = {
    "instructions": "Be brief.",
    "reasoning_effort": "high",
    "tools": [ToolDescription("weather", "Tells it.", {"type": "object", "properties": {"city": {"type": "string"}}})],
    "system_tools": [PYTHON],
    "options": SamplingOptions(temperature=0.5, seed=3, logit_bias={7: -1.5}),
    "max_tokens": 900,
    "context_limit": 5000,
    "context_policy": "drop_oldest",
}


@pytest.fixture
def saved(session, script, tmp_path) -> Path:
    """The file of a session with two turns, including a snapshot that the next turn steps back to."""
    script.says(THINK + HELLO, THINK + HELLO)
    turn(session, script, "Hi")
    turn(session, script, "So?")
    session.save(tmp_path / "chat")
    return tmp_path / "chat"


def test_a_saved_session_goes_on_without_reading_its_prompt_again(session, script, model, saved):
    loaded = ChatSession.load(saved, script, TOKENIZER)
    assert loaded.messages == session.messages
    held = session.stats.cache_bytes
    assert replace(loaded.stats, cache_bytes=held) == session.stats and loaded.stats.cache_bytes <= held
    for one in (session, loaded):
        script.says(HELLO)
        turn(one, script, "More")
        script.read(system(), user("Hi"), said(HELLO), user("So?"), said(HELLO), user("More"), OPENING)
        assert len(script.fed) == len(said(HELLO)) + len(user("More")) + len(OPENING)
    assert loaded.usage.reused_tokens == session.usage.reused_tokens


def test_a_saved_session_can_be_taken_back_and_goes_on_from_there(script, model, saved):
    loaded = ChatSession.load(saved, script, TOKENIZER)
    assert loaded.undo() == "So?"
    script.says(HELLO)
    turn(loaded, script, "Well?")
    script.read(system(), user("Hi"), said(HELLO), user("Well?"), OPENING)
    assert len(script.fed) < len(system())


def test_everything_that_was_chosen_comes_back(model, script, tmp_path):
    session = ChatSession(script, TOKENIZER, current_date=DATE, **EXTRAS)
    script.says(THINK + CALL)
    call = turn(session, script, "Weather?")[-2]
    session.add_tool_result(call, "rain \ud7ff \u2028 <|end|>")
    session.save(tmp_path / "chat")
    loaded = ChatSession.load(tmp_path / "chat", script, TOKENIZER)
    for name, value in EXTRAS.items():
        assert getattr(loaded, name) == (tuple(value) if isinstance(value, list) else value), name
    assert loaded.messages == session.messages and prompt_of(loaded) == prompt_of(session)


def test_an_empty_session_can_be_saved(session, script, model, tmp_path):
    session.save(tmp_path / "chat")
    loaded = ChatSession.load(tmp_path / "chat", script, TOKENIZER)
    script.says(HELLO)
    turn(loaded, script, "Hi")
    script.read(system(), user("Hi"), OPENING)


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(session, script, model, saved):
    session.undo()
    session.save(saved)
    assert ChatSession.load(saved, script, TOKENIZER).turns == 1
    assert [path.name for path in saved.parent.iterdir()] == ["chat"]


def test_a_retry_after_loading_draws_as_it_would_have_without(script, tmp_path):
    script.says(*[HELLO] * 4)
    session = ChatSession(script, TOKENIZER, options=SamplingOptions(seed=5))
    session.ask("Hi")
    list(session.retry())
    session.save(tmp_path / "chat")
    for one in (session, ChatSession.load(tmp_path / "chat", script, TOKENIZER)):
        list(one.retry())
    assert [request.options.seed for request in script.requests] == [5, 6, 7, 7]


PROGRAM = """
import os, signal, sys
import mlx_oss
model, tokenizer = mlx_oss.load()
options = mlx_oss.SamplingOptions(temperature={temperature}, seed=5)
if sys.argv[1] == "save":
    session = mlx_oss.ChatSession(model, tokenizer, options=options, current_date="2025-08-05")
    session.ask("My name is Ann.")
    session.ask("Hello!")
    session.save(sys.argv[2])
    print(session.ask("What is my name?"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
session = mlx_oss.ChatSession.load(sys.argv[2], model, tokenizer)
print(session.ask("What is my name?"), flush=True)
"""


@pytest.mark.parametrize("temperature", [0, 1])
def test_after_a_kill_the_next_answer_is_that_of_the_uninterrupted_session(tmp_path, temperature):
    """With the real model and the real sampler, greedy and seeded."""
    replies = []
    for step in ("save", "load"):
        command = [sys.executable, "-c", PROGRAM.format(temperature=temperature), step, str(tmp_path / "chat")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if step == "save" else 0), done.stderr
        replies.append(done.stdout.partition("prefill_seconds")[0])  # text, reasoning and token counts, without times
    assert replies[0] == replies[1] and "reused_tokens=" in replies[0]


def test_any_flipped_bit_is_refused_or_harmless_and_the_text_comes_back(session, model, saved):
    """Except for the message that contains the bit, if one does."""
    whole, draw, refused = saved.read_bytes(), random.Random(3), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [draw.randrange(header, len(whole)) for _ in range(15)] + [draw.randrange(header) for _ in range(80)]
    for place in (*range(8), *places):
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        saved.write_bytes(data)
        try:
            assert ChatSession.load(saved, model, TOKENIZER).messages == session.messages
        except SessionError as error:
            refused += 1
            assert str(saved) in str(error)
        recovered = ChatSession.load(saved, model, TOKENIZER, text_only=True)
        kept = [message in recovered.messages for message in session.messages]
        assert kept.count(False) <= (8 <= place < header) and len(recovered.messages) <= len(kept)
    assert refused > 80


@pytest.mark.parametrize("name", ["layers.0.keys", "layers.3.values", "snapshots."])
def test_a_damaged_name_is_refused(model, saved, name):
    """Even if all values are intact."""
    saved.write_bytes(saved.read_bytes().replace(f'"{name}'.encode(), f'"{name[:-1]}_'.encode()))
    with pytest.raises(SessionError, match="damaged caches"):
        ChatSession.load(saved, model, TOKENIZER)


def test_a_file_cut_short_still_has_its_text(session, script, model, saved):
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(SessionError, match="text_only=True"):
        ChatSession.load(saved, script, TOKENIZER)
    recovered = ChatSession.load(saved, script, TOKENIZER, text_only=True)
    assert recovered.messages == session.messages
    script.says(HELLO)
    turn(recovered, script, "More")
    script.read(system(), user("Hi"), said(HELLO), user("So?"), said(HELLO), user("More"), OPENING)


def test_a_file_of_another_model_is_refused_and_its_text_comes_back(session, model, saved):
    mx.random.seed(7)
    other = LocalEngine(Transformer(model.config))
    mx.eval(other.transformer.parameters())
    with pytest.raises(SessionError, match="another model"):
        ChatSession.load(saved, other, TOKENIZER)
    assert ChatSession.load(saved, other, TOKENIZER, text_only=True).messages == session.messages


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}", None])
def test_a_file_that_is_not_a_saved_session_is_refused(model, tmp_path, content):
    path = tmp_path / "chat"
    if content is not None:
        path.write_bytes(content)
    for text_only in (False, True):
        with pytest.raises(SessionError, match=str(path)) as caught:
            ChatSession.load(path, model, TOKENIZER, text_only=text_only)
        assert not (text_only and "text_only" in str(caught.value))  # which has just been tried


def test_a_converted_model_is_not_a_saved_session(model, folder):
    (weights,) = folder().glob("*.safetensors")
    with pytest.raises(SessionError, match="not a saved session"):
        ChatSession.load(weights, model, TOKENIZER)


def test_a_later_format_is_reported(model, saved):
    saved.write_bytes(saved.read_bytes().replace(b"mlx_oss session 1", b"mlx_oss session 2"))
    with pytest.raises(SessionError, match="session 2"):
        ChatSession.load(saved, model, TOKENIZER)


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the fields of a saved session, and corrects their checksum."""
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    fields = json.loads(header["__metadata__"]["text"])
    change(fields)
    text = json.dumps(fields)
    header["__metadata__"] |= {"text": text, "seal": hashlib.sha256(text.encode()).hexdigest()}
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + whole[end:])


IMPOSSIBLE: list[tuple[str, Any]] = [
    ("cached", ["a"]),
    ("cached", [-1]),
    ("cached", [10**9]),
    ("cached", [True]),
    ("cached", {"0": 1}),
    ("entries", [5]),
    ("entries", 5),
    ("entries.0.ids", "12"),
    ("entries.0.ids", [1.0]),
    ("entries.0.reasoned", -1),
    ("entries.0.retries", "1"),
    ("entries.0.message", {"role": "king"}),
    ("preamble", {}),
    ("preamble", []),
    ("preamble", [{"role": "king"}]),
    ("limits", {}),
    ("limits", []),
    ("limits.reasoning_effort", ["low"]),
    ("limits.max_tokens", "900"),
    ("limits.max_tokens", True),
    ("limits.context_limit", 4096.0),
    ("limits.context_limit", None),
    ("limits.context_policy", "forget"),
    ("limits.max_reasoning_tokens", -1),
    ("limits.response_format", 7),
    ("limits.response_format", {"name": "a", "code": "b"}),
    ("limits.guards", ["legal_headers"]),
    ("limits.guards", {"legal_headers": 1}),
    ("limits.guards", {"legal_headers": None}),
    ("limits.guards", {"other": True}),
    ("limits.confirm", True),
    ("limits.tools", [1]),
    ("stats", {"x": 1}),
    ("stats", 3),
    ("stats.turns", "2"),
    ("stats.turns", 1.5),
    ("stats.turns", -1),
    ("stats.seconds", None),
    ("stats.seconds", float("nan")),
    ("stats.read_bytes", 2**70),
    ("options", None),
    ("options.temperature", "hot"),
    ("options.seed", 1.5),
    ("options.logit_bias", [[1, "x"]]),
    ("options.logit_bias", 5),
    ("options.tempo", 1),
    ("model", 5),
    ("caches", None),
]


@pytest.mark.parametrize(("where", "value"), IMPOSSIBLE)
def test_a_field_of_an_impossible_value_is_named_even_if_the_checksum_is_right(model, saved, where, value):
    *path, last = where.split(".")

    def change(fields: Any) -> None:
        for key in path:
            fields = fields[int(key) if key.isdecimal() else key]
        fields[last] = value

    resealed(saved, change)
    for text_only in (False, True):
        with pytest.raises(SessionError, match=f"{saved} was not written by mlx-oss, or by another") as caught:
            ChatSession.load(saved, model, TOKENIZER, text_only=text_only)
        assert where.split(".")[0] in str(caught.value)


def test_what_is_sealed_again_unchanged_can_be_loaded(model, saved, session):
    resealed(saved, lambda fields: None)
    assert ChatSession.load(saved, model, TOKENIZER).messages == session.messages


@pytest.mark.parametrize("text", ['{"preamble": []}', "[]", "{}", '{"preamble": [{"role": "king"}]}'])
def test_json_that_is_not_a_session_is_reported_even_if_the_checksum_is_right(model, tmp_path, text):
    seal = hashlib.sha256(text.encode()).hexdigest()
    header = json.dumps({"__metadata__": {"format": "mlx_oss session 1", "text": text, "seal": seal}}).encode()
    path = tmp_path / "chat"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    for text_only in (False, True):
        with pytest.raises(SessionError, match=f"{path} is not a saved session"):
            ChatSession.load(path, model, TOKENIZER, text_only=text_only)


def test_a_path_that_cannot_be_written_is_reported_and_nothing_is_lost(session, script, saved):
    before = saved.read_bytes()
    with pytest.raises(SessionError, match=r"nowhere.*cannot be written"):
        session.save(saved.parent / "nowhere" / "chat")
    assert saved.read_bytes() == before and session.turns == 2


@pytest.mark.parametrize("name", ["chat/x", 300 * "n", "a\0b", "a\udc00b", "..", "/"])
def test_an_invalid_file_name_is_reported(session, saved, monkeypatch, name):
    monkeypatch.chdir(saved.parent)
    before = saved.read_bytes()
    with pytest.raises(SessionError, match="cannot be written"):
        session.save(name)
    if name not in ("chat/x", ".."):
        with pytest.raises(SessionError, match="cannot be read"):
            ChatSession.load(name, session.model, TOKENIZER)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["chat"]


def test_half_a_character_can_be_sent_and_saved(session, script, model, tmp_path):
    """An app may cut a text in the middle of an emoji."""
    script.says(HELLO)
    session.instructions = "Be \udfff"
    turn(session, script, "Hi \ud83d there \u2028 \\ud800 é")
    session.save(tmp_path / "chat")
    for text_only in (False, True):
        loaded = ChatSession.load(tmp_path / "chat", script, TOKENIZER, text_only=text_only)
        assert loaded.messages == session.messages and loaded.instructions == session.instructions


def test_a_full_disk_leaves_the_old_file(session, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mlx_oss.chat.session_file.os.fsync", full)
    with pytest.raises(SessionError, match="No space left"):
        session.save(saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["chat"]
