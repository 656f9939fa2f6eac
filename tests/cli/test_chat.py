"""Tests `mlx-oss chat` with a fake session: what is printed where, and what typed commands do."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Finished,
    Message,
    PreambleDelta,
    PrefillProgress,
    ReasoningDelta,
    RepairedOutput,
    SamplingOptions,
    Stats,
    ToolCall,
    ToolDescription,
    ToolResult,
    TurnsDropped,
    Usage,
)
from mlx_oss.chat import session_file
from mlx_oss.chat.saved import Saved
from mlx_oss.cli import main
from mlx_oss.cli.attachments import Attachment, with_attachments
from mlx_oss.cli.commands import COMMANDS
from mlx_oss.cli.conversation import converse, show_turn
from mlx_oss.cli.interrupts import interruptible
from mlx_oss.cli.live_markdown import LiveMarkdown
from mlx_oss.cli.printers import JsonPrinter, PlainPrinter, make_printer
from mlx_oss.errors import ContextError, SessionError
from mlx_oss.harmony import PYTHON, Note, Repair
from mlx_oss.terminal import sanitize

EMPTY = Saved([], [], [], SamplingOptions(), {}, Stats(), "")
DONE = Finished("stop", Usage(generated_tokens=10, prefill_seconds=0.25, generate_seconds=0.5))


class FakeSession:
    """Answers every question with the same events. An exception among the events is raised, a function is called."""

    def __init__(self, *events: Any) -> None:
        self.events, self.questions, self.cancelled = events, [], 0
        self.usage, self.stats, self.context_used, self.context_limit = DONE.usage, Stats(turns=3), 1204, 4096
        self.reasoning_effort, self.instructions, self.turns = "medium", "", 1
        self.tools, self.system_tools, self.model, self.tokenizer = (), (), None, None
        self.max_tokens: int | None = None
        self.options = SamplingOptions()
        self.saved: list[str] = []
        self.messages: list[Message] = []

    def send(self, text: str) -> Iterator[Any]:
        self.questions.append(text)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event() if callable(event) else event

    def retry(self) -> Iterator[Any]:
        return self.send("again")

    def cancel(self) -> None:
        self.cancelled += 1

    def undo(self) -> str | None:
        return self.questions.pop() if self.questions else None

    def clear(self) -> None:
        self.questions = []

    def save(self, path: Path, **_: Any) -> None:
        if str(path) == "nowhere/chat":
            raise SessionError("nowhere/chat cannot be written: give another place")
        self.saved.append(str(path))


def interrupt() -> ReasoningDelta:
    """Sends the signal of Ctrl-C while the model writes."""
    os.kill(os.getpid(), signal.SIGINT)
    return ReasoningDelta("more")


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


@pytest.fixture
def typed(monkeypatch) -> list[Any]:
    """The lines that the user types. An exception stands for Ctrl-C or Ctrl-D."""
    lines: list[Any] = []

    def read() -> str:
        line = lines.pop(0) if lines else EOFError()
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda commands, **_: read)
    return lines


@pytest.fixture
def say(typed, capsys) -> Callable[..., str]:
    """say(session, line, ...) returns what a conversation with these typed lines prints to stderr."""

    def conversation(session: FakeSession, *lines: str) -> str:
        typed[:] = lines
        converse(session, PlainPrinter())
        return capsys.readouterr().err

    return conversation


def test_a_conversation_goes_on_until_ctrl_d(typed, capsys):
    """Ctrl-C clears the line, and empty lines are ignored."""
    typed += ["Hi", "  ", KeyboardInterrupt(), " And? ", EOFError()]
    session = FakeSession(AnswerDelta("Yes."), DONE)
    converse(session, PlainPrinter())
    assert session.questions == ["Hi", "And?"]
    assert capsys.readouterr().out == "Yes.\nYes.\n"


def test_after_each_answer_a_line_tells_speed_and_context(say):
    shown = say(FakeSession(AnswerDelta("Yes."), DONE), "Hi")
    assert "20 tokens/s · first token 0.2 s · context 1,204 of 4,096 · " in shown and "GB]" in shown


def test_a_conversation_survives_ctrl_c_and_errors(say):
    assert "more\n[stopped]\n" in say(FakeSession(interrupt), "one")
    full = FakeSession(ContextError("no room"))
    assert say(full, "two", "three").count("error: no room; /undo") == 2 and full.questions == ["two", "three"]


def test_help_lists_every_command(say):
    shown = say(FakeSession(), "/help")
    for name, command in COMMANDS.items():
        assert f"/{name}" in shown and command.help in shown


@pytest.mark.parametrize("line", ["/sing", "/", "/ help", "/HELP", "/sav x"])
def test_an_unknown_command_is_told_and_not_sent(say, line):
    session = FakeSession(DONE)
    assert "unknown command /" in say(session, line) and session.questions == []


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
