"""Tests `mlx-oss chat` with a fake session: what is printed where."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_oss import (
    AnswerDelta,
    Finished,
    PreambleDelta,
    PrefillProgress,
    ReasoningDelta,
    RepairedOutput,
    ToolCall,
    ToolResult,
    TurnsDropped,
    Usage,
)
from mlx_oss.cli import main
from mlx_oss.cli.conversation import converse, show_turn
from mlx_oss.cli.interrupts import exiting_on_sigterm, interruptible
from mlx_oss.cli.live_markdown import LiveMarkdown
from mlx_oss.cli.printers import JsonPrinter, PlainPrinter, make_printer
from mlx_oss.errors import ContextError
from mlx_oss.harmony import Note, Repair
from mlx_oss.terminal import sanitize
from tests.cli.fake_session import DONE, FakeSession, interrupt


@pytest.fixture(autouse=True, scope="module")
def default_interrupts() -> Iterator[None]:
    """Restores the default handler of SIGINT, which a shell ignores in processes that it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def show(*events: Any, max_tokens: int | None = None, **options: Any) -> int:
    """Prints a turn of these events. Returns the exit status."""
    session = FakeSession(*events)
    session.max_tokens = max_tokens
    return show_turn(session, session.send("?"), PlainPrinter(**options))


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr_a_kind_a_line(capsys):
    assert not show(
        *(ReasoningDelta("Hm, "), ReasoningDelta("[red]so[/red].")),
        PreambleDelta("Let me look."),
        ToolCall("functions.f", "{}"),
        ToolResult("functions.f", "5"),
        *(ReasoningDelta("Ah."), AnswerDelta("It is "), AnswerDelta("4."), DONE),
    )
    out, err = capsys.readouterr()
    assert out == "It is 4.\n"
    calls = "[calls functions.f: {}]\n[functions.f returns: 5]\n"
    assert err == f"Hm, [red]so[/red].\nLet me look.\n{calls}Ah.\n"


@pytest.mark.parametrize(
    ("reason", "max_tokens", "told"),
    [
        ("length", 10, "[cut off at --max-tokens]"),
        ("length", 11, "[cut off: the context is full]"),
        ("length", None, "[cut off: the context is full]"),
        ("repetition", None, "[cut off: the model repeated itself]"),
        ("no_answer", None, "[the model stopped without an answer: ask again, or ask it to go on]"),
        ("tool_calls", None, "[the model stopped at a call that is not run: ask again, or ask it to answer]"),
    ],
)
def test_an_answer_that_is_not_whole_says_why_and_is_exit_status_3(capsys, reason, max_tokens, told):
    ended = Finished(reason, Usage(generated_tokens=10))
    assert show(AnswerDelta("It is"), ended, max_tokens=max_tokens) == 3
    assert capsys.readouterr() == ("It is\n", f"{told}\n")


def test_with_several_questions_one_answer_that_is_cut_off_is_exit_status_3(fake, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    fake.events = (AnswerDelta("It"), lambda: Finished("length" if len(fake.questions) == 1 else "stop", Usage()))
    assert main(["chat", "--json"]) == 3 and fake.questions == ["one", "two"]


def test_hidden_reasoning_is_not_shown(capsys):
    show(ReasoningDelta("Hm."), AnswerDelta("4"), DONE, hide_reasoning=True)
    assert capsys.readouterr() == ("4\n", "")


def test_dropped_turns_are_told(capsys):
    show(TurnsDropped(2), AnswerDelta("4"), DONE)
    assert "2 oldest turns were dropped" in capsys.readouterr().err


def test_an_answer_that_ends_with_its_own_line_break_is_shown_as_it_is(capsys):
    show(AnswerDelta("a\n"), DONE)
    assert capsys.readouterr().out == "a\n\n"


def test_ctrl_c_cancels_the_turn_and_shows_what_is_still_said(capsys):
    session = FakeSession(AnswerDelta("It"), interrupt, Finished("cancelled", Usage()))
    assert show_turn(session, session.send("?"), PlainPrinter()) == 130 and session.cancelled >= 1
    assert capsys.readouterr() == ("It\n", "more\n[stopped]\n")


def test_a_second_ctrl_c_does_not_wait():
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt), interruptible(lambda: calls.append(1)) as interrupted:
        interrupt()
        assert interrupted() and calls == [1]
        interrupt()


def test_ctrl_c_means_again_afterwards_what_it_meant_before():
    before = signal.getsignal(signal.SIGINT)
    with interruptible(lambda: None):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


class HalfHeldLock:
    """Fails when it is released, as locks of libraries do if a signal comes between their two steps."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("release unlocked lock")


def test_sigterm_ends_the_program_even_if_a_library_fails_because_of_it():
    with pytest.raises(SystemExit) as ended, exiting_on_sigterm(), HalfHeldLock():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_an_error_without_sigterm_stays_what_it_is():
    with pytest.raises(RuntimeError, match="release unlocked lock"), exiting_on_sigterm(), HalfHeldLock():
        pass


def test_an_error_of_a_library_because_of_ctrl_c_is_no_bug(monkeypatch, capsys):
    def run(args: object) -> int:
        with HalfHeldLock():
            raise KeyboardInterrupt

    monkeypatch.setattr("mlx_oss.cli.parse.run", run)
    assert main(["parse", "1"]) == 130
    assert "bug" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\x9b2J", "\x7f\r\b", "\x00\x1f"])
def test_control_characters_of_the_model_never_reach_a_terminal(text, monkeypatch, capsys):
    assert not set(sanitize(text)) & {chr(n) for n in (*range(32), *range(127, 160))}
    assert sanitize("a\r\nb\rc") == "a\nb\N{SYMBOL FOR CARRIAGE RETURN}c"
    assert sanitize("a\n\tb 漢 é \N{ZERO WIDTH JOINER}") == "a\n\tb 漢 é \N{ZERO WIDTH JOINER}"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show(ReasoningDelta(text), ToolCall("python", text), AnswerDelta(text), DONE)
    out, err = capsys.readouterr()
    assert sanitize(out) == out and sanitize(err) == err


def test_a_pipe_gets_the_answer_as_it_is(capsys):
    show(AnswerDelta("\x1b[1mbold\x1b[0m"), DONE)
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m\n"


@pytest.mark.parametrize(
    ("variables", "terminals", "kind"),
    [
        ({"TERM": "xterm"}, (True, True), LiveMarkdown),
        ({"TERM": "xterm"}, (False, True), PlainPrinter),
        ({"TERM": "xterm"}, (True, False), PlainPrinter),
        ({"TERM": "xterm", "NO_COLOR": "1"}, (True, True), PlainPrinter),
        ({"TERM": "xterm", "NO_COLOR": ""}, (True, True), LiveMarkdown),
        ({"TERM": "dumb"}, (True, True), PlainPrinter),
        ({}, (True, True), PlainPrinter),
    ],
)
def test_only_a_terminal_that_can_is_drawn_on(variables, terminals, kind, monkeypatch):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for stream, terminal in zip((sys.stdout, sys.stderr), terminals, strict=True):
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal, raising=False)
    assert type(make_printer()) is kind and type(make_printer(as_json=True)) is JsonPrinter


def test_json_has_a_line_for_every_event(capsys):
    session = FakeSession(PrefillProgress(5, 9), ReasoningDelta("Hm"), ToolCall("functions.f", "{}"), DONE)
    show_turn(session, session.send("?"), JsonPrinter())
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in entries] == ["prefill_progress", "reasoning_delta", "tool_call", "finished"]
    assert entries[0] == {"type": "prefill_progress", "done": 5, "total": 9}
    assert entries[2]["arguments"] == "{}" and entries[3]["usage"]["generated_tokens"] == 10


@pytest.mark.parametrize("kind", [PlainPrinter, LiveMarkdown])
def test_what_the_model_says_in_anothers_role_is_shown_as_a_remark(kind, capsys):
    repaired = RepairedOutput((Note(Repair.EXTRA_WORDS, "x"), Note(Repair.OTHER_ROLE, "And \x1b now?")))
    session = FakeSession(AnswerDelta("Yes."), RepairedOutput((Note(Repair.EXTRA_WORDS, "y"),)), repaired, DONE)
    show_turn(session, session.send("?"), kind())
    out, err = capsys.readouterr()
    assert "[in another role: And \ufffd now?]" in out + err and (out + err).count("[") == 1 + (out + err).count(
        "\x1b["
    )


def test_an_error_in_a_conversation_is_json_with_json(typed, capsys):
    typed += ["two", "/set top-p 0"]
    converse(FakeSession(ContextError("no room")), JsonPrinter())
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "type": "error",
        "kind": "ContextError",
        "message": "no room; /undo and /clear make room",
        "status": 2,
    }
    assert second["kind"] == "OptionError" and second["message"].startswith("top-p is 0")


def test_json_tells_what_had_to_be_repaired(capsys):
    session = FakeSession(RepairedOutput((Note(Repair.MISSPELT_CHANNEL, "finl"),)), DONE)
    show_turn(session, session.send("?"), JsonPrinter())
    entries = json.loads(capsys.readouterr().out.splitlines()[0])
    assert entries == {"type": "repaired_output", "notes": [{"repair": "misspelt_channel", "text": "finl"}]}


def test_a_conversation_goes_on_until_ctrl_d(typed, capsys):
    """Ctrl-C clears the line, and empty lines are ignored."""
    typed += ["Hi", "  ", KeyboardInterrupt(), " And? ", EOFError()]
    session = FakeSession(AnswerDelta("Yes."), DONE)
    converse(session, PlainPrinter())
    assert session.questions == ["Hi", "And?"]
    assert capsys.readouterr().out == "Yes.\nYes.\n"


@pytest.mark.parametrize("line", [["one"], [KeyboardInterrupt()]])
def test_ctrl_c_ends_a_conversation_under_mlx_launch_which_hands_on_nothing_after_it(line, typed, monkeypatch):
    monkeypatch.setattr("mlx_oss.cli.conversation.is_launched", lambda: True)
    typed += [*line, "more", EOFError()]
    session = FakeSession(interrupt)
    with pytest.raises(KeyboardInterrupt):
        converse(session, PlainPrinter())
    assert "more" not in session.questions


def test_after_each_answer_a_line_tells_speed_and_context(say):
    shown = say(FakeSession(AnswerDelta("Yes."), DONE), "Hi")
    assert "20 tokens/s · first token 0.2 s · context 1,204 of 4,096 · " in shown and "GB]" in shown


def test_a_conversation_survives_ctrl_c_and_errors(say):
    assert "more\n[stopped]\n" in say(FakeSession(interrupt), "one")
    full = FakeSession(ContextError("no room"))
    assert say(full, "two", "three").count("error: no room; /undo") == 2 and full.questions == ["two", "three"]


def test_a_terminal_without_a_question_converses(typed, monkeypatch, capsys):
    typed += ["Hi", EOFError()]
    session = FakeSession(AnswerDelta("Hello."), DONE)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (None, None))
    monkeypatch.setattr("mlx_oss.chat.session.ChatSession", lambda *a, **k: session)
    assert main(["chat"]) == 0
    assert session.questions == ["Hi"] and capsys.readouterr().out == "Hello.\n"


def test_lines_piped_in_are_asked_one_by_one_with_json(monkeypatch, capsys):
    session = FakeSession(AnswerDelta("Hello."), DONE)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n"))
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (None, None))
    monkeypatch.setattr("mlx_oss.chat.session.ChatSession", lambda *a, **k: session)
    assert main(["chat", "--json"]) == 0
    assert session.questions == ["one", "two"]
    entries = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert entries == ["answer_delta", "finished"] * 2


@pytest.fixture
def fake(monkeypatch) -> FakeSession:
    """The session that `main(["chat", ...])` uses."""
    session = FakeSession(AnswerDelta("Hello."), DONE)
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (None, None))
    monkeypatch.setattr("mlx_oss.chat.session.ChatSession", lambda *a, **k: session)
    return session


@pytest.mark.parametrize(
    "errors", ["strict", "surrogateescape"]
)  # how Python opens stdin in most locales, and in the C locale
def test_bytes_that_are_no_text_are_refused(fake, monkeypatch, capsys, errors):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi \xff\xfe"), encoding="utf-8", errors=errors))
    assert main(["chat"]) == 2 and "error: stdin is not text in UTF-8" in capsys.readouterr().err
    assert main(["chat", "Hi \udcff"]) == 2 and "error: the question is not UTF-8" in capsys.readouterr().err
    assert fake.questions == []


def test_a_full_disk_is_told_in_a_line(fake, capsys, monkeypatch):
    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys.stdout, "write", full)
    monkeypatch.setattr("mlx_oss.cli._discard_output", lambda: None)  # it would redirect the stdout of pytest
    assert main(["chat", "Hi"]) == 1 and "error: No space left on device" in capsys.readouterr().err


def test_characters_that_the_locale_does_not_know_are_replaced(fake, monkeypatch):
    fake.events, out = (AnswerDelta("漢 é"), DONE), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="latin-1"))
    assert main(["chat", "Hi"]) == 0 and out.getvalue() == "? é\n".encode("latin-1")


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_stream_that_was_closed_is_no_obstacle(fake, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert main(["chat", "Hi"]) == 0 and fake.questions == ["Hi"]
    if name != "stdin":
        getattr(sys, name).close()  # the stream that replaced it


def test_after_a_cancelled_prompt_the_status_tells_no_speed(say):
    session = FakeSession(Finished("cancelled", Usage()))
    session.usage = Usage()
    assert "[no tokens · context 1,204" in say(session, "Hi")
