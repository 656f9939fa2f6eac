"""Tests texts that go with a question: from stdin, from `-f FILE`, and from files that are mentioned with an @."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import AnswerDelta
from mlx_oss.cli import attachments, main
from mlx_oss.cli.attachments import Attachment, mentioned, with_attachments, without_attachments
from mlx_oss.errors import OptionError
from mlx_oss.files import TEXT_BYTES
from tests.cli.fake_session import DONE, FakeSession

NOTES = "notes.txt:\n```\nThe sky is green.\n```\n\n"


@pytest.fixture
def session(monkeypatch) -> FakeSession:
    """The session that `main(["chat", ...])` uses."""
    session = FakeSession(AnswerDelta("Green."), DONE)
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (None, None))
    monkeypatch.setattr("mlx_oss.chat.session.ChatSession", lambda *a, **k: session)
    return session


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_text("The sky is green.\n")
    (tmp_path / "my notes.txt").write_text("Mine.")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1")
    return tmp_path


@pytest.fixture
def piped(monkeypatch) -> Iterator[Callable[[bytes], None]]:
    """piped(content) makes stdin a pipe with this content."""
    stack = ExitStack()

    def pipe(content: bytes) -> None:
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        monkeypatch.setattr(sys, "stdin", stack.enter_context(os.fdopen(reading, encoding="utf-8")))

    with stack:
        yield pipe


@pytest.mark.parametrize(
    ("arguments", "stdin", "question"),
    [
        (["Which colour?"], b"The sky is green.\n", "stdin:\n```\nThe sky is green.\n```\n\nWhich colour?"),
        (["Which", "colour?", "-"], b"Red", "stdin:\n```\nRed\n```\n\nWhich colour?"),
        (["-"], b"Which colour?\n", "Which colour?"),
        (["Which", "--temperature", "0", "colour?"], b"", "Which colour?"),
        (["Which", "--temperature", "0", "colour?", "-"], b"Red", "stdin:\n```\nRed\n```\n\nWhich colour?"),
        (["--", "--which", "colour?"], b"", "--which colour?"),
        ([], b"Which colour?\n", "Which colour?"),
        (["Which colour?"], b" \n", "Which colour?"),
        (["-f", "notes.txt", "Which colour?"], b"", NOTES + "Which colour?"),
        (["--file", "notes.txt", "-f", "src/a.py", "Why?"], b"", NOTES + "src/a.py:\n```\nx = 1\n```\n\nWhy?"),
        (["-f", "~/notes.txt", "Why?"], b"", NOTES.replace("notes", "~/notes") + "Why?"),
        (["-f", "notes.txt"], b"Which colour?", NOTES + "Which colour?"),
        (["-f", "-", "-f", "notes.txt", "Why?"], b"a", "stdin:\n```\na\n```\n\n" + NOTES + "Why?"),
        (["Mail ann@notes.txt or @notes.txt?"], b"@notes.txt", None),  # only what is typed in a conversation mentions
    ],
)
def test_what_is_piped_in_and_files_go_with_the_question(session, here, piped, arguments, stdin, question):
    piped(stdin)
    assert main(["chat", *arguments]) == 0
    expected = "stdin:\n```\n@notes.txt\n```\n\nMail ann@notes.txt or @notes.txt?" if question is None else question
    assert session.questions == [expected]


def test_with_json_a_text_goes_with_the_first_of_the_piped_questions(session, here, piped):
    piped(b"one\ntwo\n")
    assert main(["chat", "--json", "-f", "notes.txt"]) == 0 and session.questions == [NOTES + "one", "two"]


def test_generate_takes_its_prompt_from_stdin(piped, monkeypatch, capsys):
    from mlx_oss import ScriptedEngine, load_tokenizer

    engine = ScriptedEngine("Fine.")
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (engine, load_tokenizer()))
    piped(b"How are you?\n")
    assert main(["generate", "-"]) == 0
    assert "How are you?" in load_tokenizer().decode(engine.requests[0].prompt)


def too_large(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(TEXT_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "x cannot be read (No such file or directory): give a text file"),
        (lambda path: path.mkdir(), "it is a folder"),
        (os.mkfifo, "it is a named pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.write_bytes(b"caf\xe9"), "x is not text in UTF-8: `iconv -f ENCODING -t UTF-8`"),
        (lambda path: path.write_bytes(b"a\0b"), "x is not text, or in UTF-16, because it has NUL characters"),
        (lambda path: path.write_bytes(b" \n"), "x is empty"),
        (too_large, "more than 16,777,216 bytes"),
    ],
)
def test_what_is_no_text_is_refused_before_it_is_read(session, here, piped, capsys, make, told):
    make(here / "x")
    piped(b"")
    assert main(["chat", "-f", "x", "Why?"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and told in err and err.count("\n") == 1 and not session.questions


@pytest.mark.parametrize(("content", "told"), [(b"\xff\xfea", "stdin is not text in UTF-8"), (b"a\0", "NUL")])
def test_bytes_from_a_pipe_that_are_no_text_are_refused(session, piped, capsys, content, told):
    piped(content)
    assert main(["chat", "Why?"]) == 2 and told in capsys.readouterr().err and not session.questions


def test_texts_are_bounded_together(here):
    half = Attachment("x", "a" * (TEXT_BYTES // 2))
    with pytest.raises(OptionError, match="attach fewer"):
        with_attachments("Why?", [half, half])


def test_files_that_are_too_long_together_are_not_all_read(here, monkeypatch):
    read = []
    monkeypatch.setattr(attachments, "TEXT_BYTES", 30)
    monkeypatch.setattr(attachments, "attached", lambda path: read.append(path) or Attachment(path, "x" * 20))
    with pytest.raises(OptionError, match="attach fewer"):
        attachments.all_attached(["a", "b", "c", "d"])
    assert read == ["a", "b"]


def test_many_blocks_take_time_in_proportion(here):
    assert without_attachments("x:\n```\n\n```\n\n" * 200_000 + "Why?") == "Why?"


def test_a_device_as_stdin_is_not_read(session, monkeypatch):
    with open("/dev/zero", encoding="utf-8") as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        assert main(["chat", "Why?"]) == 0 and session.questions == ["Why?"]


def test_who_types_the_text_is_told_how_it_ends(monkeypatch, capsys):
    keyboard = io.StringIO("Why?\n")
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)
    assert attachments.stdin_text() == "Why?" and "Ctrl-D on a line of its own" in capsys.readouterr().err


def test_who_waits_for_stdin_is_told(monkeypatch, capsys):
    reading, writing = os.pipe()
    monkeypatch.setattr(attachments, "_PATIENCE", 0.0)
    monkeypatch.setattr(attachments, "say", lambda text: (print(text), os.close(writing)))
    with os.fdopen(reading, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert attachments.stdin_text() == ""
    assert "waiting for text on stdin" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a", "```\nb\n```", "````", "", "x:\n```\ny\n```\n\nz"])
def test_no_text_looks_like_the_end_of_itself(text):
    whole = with_attachments("Why?\n\nx:\n```\n?\n```\n\n", [Attachment("x y\nz", text), Attachment("b", text)])
    assert without_attachments(whole) == "Why?\n\nx:\n```\n?\n```\n\n"
    assert whole.startswith("x y z:\n```")


@pytest.mark.parametrize(
    ("text", "files", "others"),
    [
        ("What is in @notes.txt?", ["notes.txt"], []),
        ("(@notes.txt)", [], []),
        ("@notes.txt and @src/a.py, and @notes.txt.", ["notes.txt", "src/a.py"], []),
        ('Read @"my notes.txt" now', ["my notes.txt"], []),
        ("@~/notes.txt", ["~/notes.txt"], []),
        ("ann@notes.txt", [], []),
        ("Write to ann@example.org or @ann", [], []),
        ("@property\ndef f(): ...\n@app.route('/')\n@x/y.py", [], []),
        ("Look at @note.txt", [], ["note.txt"]),
        ("Look at @src", [], ["src"]),
        ("Look at @src/b.py.", [], ["src/b.py"]),
        ("@" + "n" * 5000, [], []),
        ("@a\0b", [], []),
        ("@", [], []),
    ],
)
def test_only_a_file_that_is_there_is_mentioned(here, text, files, others):
    assert mentioned(text) == (files, others)


def test_in_a_conversation_a_file_is_attached_and_that_is_told(say, here):
    session = FakeSession(AnswerDelta("Green."), DONE)
    shown = say(session, "Which colour has it in @notes.txt?", "And @notes.md?", "Hi @ann")
    assert session.questions == [NOTES + "Which colour has it in @notes.txt?", "And @notes.md?", "Hi @ann"]
    assert "[attached: notes.txt (17 characters)]\n" in shown
    assert "[not attached: 'notes.md' is no file here]\n" in shown and shown.count("attached") == 2


def test_a_mentioned_file_that_is_no_text_is_told_and_nothing_is_sent(say, here):
    (here / "x.pdf").write_bytes(b"%PDF\xff")
    session = FakeSession(DONE)
    assert "error: x.pdf is not text in UTF-8" in say(session, "What is in @x.pdf?") and session.questions == []


def test_tab_completes_commands_and_mentioned_files(here):
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from mlx_oss.cli.completion_words import Words

    def completed(text: str) -> list[Any]:
        found = Words(["save", "stats", "undo"]).get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + each.start_position] + each.text for each in found]

    assert completed("/s") == ["/save", "/stats"] and completed("/undo s") == [] and completed("s") == []
    assert completed("/save no") == ["/save notes.txt"] and completed("/export my") == ["/export my notes.txt"]
    assert completed("Read @no") == ["Read @notes.txt"] and completed("@src/a") == ["@src/a.py"]
    assert completed("ann@no") == [] and completed("Read no") == []


def test_stdin_is_not_read_under_mlx_launch_which_never_ends_it(monkeypatch):
    monkeypatch.setenv("MLX_RANK", "0")
    with pytest.raises(
        OptionError, match="hands on stdin without its end: give the question as an argument, or name a"
    ):
        attachments.stdin_text()
