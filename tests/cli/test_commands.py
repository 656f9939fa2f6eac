"""Tests what typed commands do, with a fake session."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Message,
    ReasoningDelta,
    SamplingOptions,
    Stats,
    ToolDescription,
)
from mlx_oss.chat import session_file
from mlx_oss.chat.saved import Saved
from mlx_oss.cli.attachments import Attachment, with_attachments
from mlx_oss.cli.commands import COMMANDS
from mlx_oss.cli.conversation import converse
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.errors import SessionError
from mlx_oss.harmony import PYTHON
from tests.cli.fake_session import DONE, FakeSession

EMPTY = Saved([], [], [], SamplingOptions(), {}, Stats(), "")


def test_help_lists_every_command(say):
    shown = say(FakeSession(), "/help")
    for name, command in COMMANDS.items():
        assert f"/{name}" in shown and command.help in shown


@pytest.mark.parametrize("line", ["/sing", "/", "/ help", "/HELP", "/sav x"])
def test_an_unknown_command_is_told_and_not_sent(say, line):
    session = FakeSession(DONE)
    assert "unknown command /" in say(session, line) and session.questions == []


def test_under_mlx_launch_help_names_only_keys_that_it_hands_on(say, monkeypatch):
    for module in ("commands", "conversation"):
        monkeypatch.setattr(f"mlx_oss.cli.{module}.is_launched", lambda: True)
    shown = say(FakeSession(), "/help")
    assert "Each line is a question; Ctrl-C or exit leaves." in shown and "Ctrl-D" not in shown and "Tab" not in shown


@pytest.mark.parametrize(
    ("line", "meant"), [("/HELP", "/help"), ("/sav x", "/save"), ("/quite", "/quit"), ("/st", "/set")]
)
def test_the_command_that_was_probably_meant_is_named(say, line, meant):
    assert f"did you mean {meant}?" in say(FakeSession(DONE), line)


@pytest.mark.parametrize(
    ("line", "told", "kept"),
    [
        ("/set temperature 0.7", "temperature 0.7", {"temperature": 0.7}),
        ("/set --top_p=0.5", "top-p 0.5", {"top_p": 0.5}),
        ("/set top-k 40", "top-k 40", {"top_k": 40}),
        ("/set seed 7", "seed 7", {"seed": 7}),
        ("/set seed off", "seed off", {"seed": None}),
        ("/set", "temperature 1\ntop-p 1\ntop-k 0\nmin-p 0\nrepetition-penalty 1\nseed off\nmax-tokens off\n", {}),
        ("/set temperatur 1", "error: there is no option 'temperatur': did you mean temperature?\n", {}),
        ("/set loudness 1", "error: there is no option 'loudness': give temperature, top-p, ", {}),
        ("/set temperature hot", "error: temperature is 'hot': give a number, such as 0.7\n", {}),
        ("/set temperature -1", "error: temperature is -1.0, expected", {}),
        ("/set top-p 0", "error: top-p is 0, which keeps no token: to always pick the most likely one", {}),
        ("/set top-k 1.5", "error: top-k is '1.5': give a whole number\n", {}),
        ("/set seed x", "error: seed is 'x': give a whole number, or off\n", {}),
    ],
)
def test_set_shows_and_changes_options(say, line, told, kept):
    session = FakeSession()
    shown = say(session, line)
    assert told in shown and session.options == SamplingOptions(**kept)
    assert "None" not in shown


def test_set_limits_the_tokens_of_an_answer(say):
    session = FakeSession()
    assert "max-tokens 100\n" in say(session, "/set max-tokens 100") and session.max_tokens == 100
    assert "error: max-tokens is 0: give at least 1, or off\n" in say(session, "/set max-tokens 0")
    assert session.max_tokens == 100
    assert "max-tokens off\n" in say(session, "/set max-tokens none") and session.max_tokens is None


def test_two_slashes_send_a_question_with_one(say):
    session = FakeSession(DONE)
    say(session, "//help is a command?")
    assert session.questions == ["/help is a command?"]


def test_reasoning_sets_effort_and_whether_it_is_shown(say):
    session = FakeSession(ReasoningDelta("Hm."), AnswerDelta("4"), DONE)
    shown = say(session, "/reasoning high", "a", "/reasoning hide", "b", "/reasoning loud", "/reasoning")
    assert session.reasoning_effort == "high" and shown.count("Hm.") == 1
    assert "loud is not one of none, low, medium, high, show, hide" in shown and "effort high, hidden" in shown


def test_hidden_reasoning_can_be_unfolded_after_the_answer(say):
    session = FakeSession(ReasoningDelta("Hm."), AnswerDelta("4"), DONE)
    thoughts = [Message("assistant", text, "analysis") for text in ("Long ago.", "Hm.", "Let me see.")]
    call = Message("assistant", "{}", "commentary", "functions.f")
    session.messages = [thoughts[0], Message("user", "2 + 2?"), thoughts[1], call, thoughts[2]]
    shown = say(session, "/reasoning hide", "2 + 2?", "/reasoning show")
    assert shown.count("Hm.\nLet me see.\nreasoning effort medium, shown") == 1 and "Long ago" not in shown


def test_system_sets_the_instructions(say):
    session = FakeSession()
    shown = say(session, "/system", "/system Be brief.", "/system")
    assert session.instructions == "Be brief."
    assert "no instructions" in shown and shown.count("instructions: Be brief.") == 2


def test_undo_retry_and_clear(say):
    session = FakeSession(AnswerDelta("4"), DONE)
    shown = say(session, "2 + 2?", "/retry", "/undo", "/undo", "/undo", "/clear")
    assert "removed: again\n" in shown and "removed: 2 + 2?" in shown and "nothing to undo" in shown
    assert session.questions == []
    session.turns = 0
    assert "nothing to retry" in say(session, "/retry")


def test_undo_shows_the_first_line_that_was_typed(say):
    session = FakeSession(DONE)
    session.questions = [with_attachments("\nWhat is it?\nSay it.\nPlease.", [Attachment("a.txt", "long\n" * 50)])]
    assert "removed: What is it? ... (3 lines)\n" in say(session, "/undo")


def test_tools_and_stats(say):
    session = FakeSession()
    assert "no tools" in say(session, "/tools")
    session.tools, session.system_tools = (ToolDescription("weather", "Tells it."),), (PYTHON,)
    shown = say(session, "/tools", "/stats")
    assert "weather: Tells it." in shown and "python (built in)" in shown and "answers 3" in shown


def test_save_and_load(say, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").touch()
    session, other = FakeSession(), FakeSession(AnswerDelta("4"), DONE)
    monkeypatch.setattr(ChatSession, "load", lambda *_, **__: other)
    shown = say(session, "/save", "/save chat", "/save nowhere/chat", "/load", "/load other", "2 + 2?")
    assert session.saved == ["chat"] and "saved to chat" in shown and "error: nowhere/chat cannot" in shown
    assert "name a file" in shown and "name a conversation" in shown and other.questions == ["2 + 2?"]


def test_a_file_that_is_no_conversation_is_not_written_over(say, tmp_path, monkeypatch):
    notes, session = tmp_path / "notes.txt", FakeSession()
    notes.write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = say(session, f"/save {notes}", "/save ~/notes.txt", "/save ~/chat")
    assert shown.count("exists and is not a saved conversation") == 2 and notes.read_text() == "mine"
    assert session.saved == [str(tmp_path / "chat")]


@pytest.mark.parametrize(
    "place",
    ["~nobody-of-this-name", "~nobody-of-this-name/x", 300 * "n", "notes.txt/x", "a\0b", "nowhere/x"],
)
def test_a_place_that_cannot_be_is_told_in_a_line(place, say, tmp_path, monkeypatch):
    """Except `~user` of an unknown user, which is an ordinary file name, as in a shell."""

    class Saving(FakeSession):
        def save(self, path: Path) -> None:
            session_file.write(path, EMPTY, lambda: ())

    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    shown = say(Saving(), f"/save {place}", f"/load {place}")
    saved = place == "~nobody-of-this-name"
    assert shown.count("saved to") == saved and shown.count("error: ") == 2 - saved
    assert Path("notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"notes.txt", "~nobody-of-this-name"}


def test_a_folder_that_may_not_be_read_is_told_in_a_line(say, tmp_path, monkeypatch):
    def stat(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr("os.stat", stat)
        shown = say(FakeSession(), "/save nowhere/chat")
    assert "error: nowhere/chat cannot be written" in shown


def test_a_damaged_conversation_is_loaded_as_text(say, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("chat", "lost"):
        (tmp_path / name).touch()

    def load(path: Path, *_: Any, text_only: bool = False) -> FakeSession:
        if str(path) == "lost" or not text_only:
            raise SessionError(f"{path} has damaged caches: `text_only=True` recovers the conversation")
        return FakeSession()

    monkeypatch.setattr(ChatSession, "load", load)
    shown = say(FakeSession(), "/load chat", "/load lost")
    assert "chat has damaged caches: only the text was loaded" in shown and "loaded chat, turns: 1" in shown
    assert "error: lost has damaged caches" in shown


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye", "exit", "quit", "bye", "Exit", " quit "])
def test_words_that_leave(typed, word):
    typed += [word, "never read"]
    session = FakeSession(DONE)
    converse(session, PlainPrinter())
    assert typed == ["never read"] and session.questions == []


def test_a_question_about_leaving_is_a_question(say):
    session = FakeSession(DONE)
    say(session, "exit code?", "quit.")
    assert session.questions == ["exit code?", "quit."]
