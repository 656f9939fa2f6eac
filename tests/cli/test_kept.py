"""Tests conversations that are kept: where, how many, for whom, and how one goes on."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import ChatSession, SamplingOptions, ScriptedEngine, load_tokenizer
from mlx_oss.cli import kept, main
from mlx_oss.cli.conversation import converse
from mlx_oss.cli.kept import Keeper
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.errors import OptionError, SessionError

TOKENIZER = load_tokenizer()


def session(*answers: str, **options: Any) -> ChatSession:
    return ChatSession(ScriptedEngine(*(answers or ("Yes.",) * 5)), TOKENIZER, **options)


@pytest.fixture
def chat(typed, capsys) -> Callable[..., str]:
    """chat(session, line, ...) returns what a conversation with these typed lines prints to stderr."""

    def conversation(answering: ChatSession, *lines: str, keeper: Keeper | None = None) -> str:
        typed[:] = lines
        keeper = keeper or Keeper()
        converse(answering, PlainPrinter(), keeper=keeper)
        keeper.end()
        return capsys.readouterr().err

    return conversation


@pytest.fixture
def loading(monkeypatch) -> Callable[..., ScriptedEngine]:
    """loading(answer, ...) lets `main(["chat", ...])` use an engine with these answers; stderr is a terminal."""

    def load(*answers: str) -> ScriptedEngine:
        engine = ScriptedEngine(*answers)
        monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (engine, TOKENIZER))
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        return engine

    return load


@pytest.fixture(autouse=True)
def history_variable(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv("MLX_OSS_HISTORY", raising=False)
    yield


def texts(name: str | None = None) -> list[str]:
    """The messages of a kept conversation, by default of the last one."""
    found = kept.last() if name is None else next(one for one in kept.all_kept() if one.name == name)
    return [str(entry.message.content) for entry in found.read().entries]


def modes(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_conversation_is_kept_after_each_answer_for_the_user_alone(chat, state_folder):
    keeper = Keeper()
    chat(session(), "Hi", "And?", keeper=keeper)
    assert texts() == ["Hi", "Yes.", "And?", "Yes."]
    (file,) = (state_folder / "conversations").iterdir()  # the lock is gone
    assert modes(file) == 0o600 and modes(file.parent) == 0o700 and modes(state_folder) == 0o700
    assert keeper.name is None


def test_a_folder_that_others_can_read_is_closed(chat, state_folder):
    (state_folder / "conversations").mkdir(parents=True, mode=0o755)
    chat(session(), "Hi")
    assert modes(state_folder / "conversations") == 0o700


def test_what_is_undone_is_not_kept_and_clear_begins_another_one(chat):
    chat(session(), "Hi", "And?", "/undo")
    assert texts() == ["Hi", "Yes."]
    chat(session(), "One", "/undo")
    assert len(kept.all_kept()) == 1
    chat(session(), "One", "/clear", "Two")
    assert sorted(map(texts, [one.name for one in kept.all_kept()])) == [
        ["Hi", "Yes."],
        ["One", "Yes."],
        ["Two", "Yes."],
    ]


@pytest.mark.parametrize("how", ["--no-history", "MLX_OSS_HISTORY"])
def test_nothing_is_kept_if_the_user_does_not_want_it(loading, monkeypatch, state_folder, how):
    loading("Yes.")
    if how == "MLX_OSS_HISTORY":
        monkeypatch.setenv(how, "0")
    assert main(["chat", "Hi", *([how] if how.startswith("-") else [])]) == 0 and not state_folder.exists()


def test_the_last_conversation_goes_on_with_its_options_except_those_that_are_given(loading, chat, capsys):
    options = SamplingOptions(temperature=0.5, top_k=7)
    chat(session(options=options, instructions="Be brief.", reasoning_effort="low", max_tokens=50), "My name is Ann.")
    engine = loading("Ann.", "Still Ann.")
    assert main(["chat", "-c", "What is my name?"]) == 0
    assert engine.requests[0].options.temperature == 0.5 and engine.requests[0].max_tokens == 50
    prompt = TOKENIZER.decode(engine.requests[0].prompt)
    assert "My name is Ann." in prompt and "Be brief." in prompt and "Reasoning: low" in prompt
    given = ["--temperature", "1", "-s", "Be long.", "--reasoning", "high", "--max-tokens", "60"]
    assert main(["chat", "--continue", "And now?", *given]) == 0
    assert engine.requests[1].options.temperature == 1 and engine.requests[1].options.top_k == 7
    prompt = TOKENIZER.decode(engine.requests[1].prompt)
    assert "Be long." in prompt and "Reasoning: high" in prompt and engine.requests[1].max_tokens == 60
    assert texts() == ["My name is Ann.", "Yes.", "What is my name?", "Ann.", "And now?", "Still Ann."]
    assert len(kept.all_kept()) == 1 and "turns: 2]" in capsys.readouterr().err


def test_a_single_question_is_kept_where_a_user_is_there(loading, monkeypatch):
    loading("One.", "Two.", "Three.")
    assert main(["chat", "1"]) == 0 and texts() == ["1", "One."]
    assert main(["chat", "--json", "2"]) == 0 and len(kept.all_kept()) == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert main(["chat", "3"]) == 0 and len(kept.all_kept()) == 1


def test_without_a_conversation_there_is_none_to_go_on_with(loading, capsys):
    loading()
    assert (
        main(["chat", "-c", "Hi"]) == 2 and "error: no conversation is kept yet: begin one" in capsys.readouterr().err
    )
    assert main(["chat", "-c", "--max-reasoning-tokens", "9", "Hi"]) == 2
    assert "--max-reasoning-tokens cannot change" in capsys.readouterr().err


def test_two_programs_never_write_to_the_same_conversation(chat, capsys):
    chat(session(), "Hi")
    (one,) = kept.all_kept()
    first, second = Keeper(), Keeper()
    assert first.go_on(one) and not second.go_on(one)
    second.keep(answered("Other"))
    first.keep(answered("Hi", "More"))
    assert sorted(texts(each.name)[0] for each in kept.all_kept()) == ["Hi", "Other"]
    assert first.name != second.name and len(texts(one.name)) == 4
    first.end()
    assert second.go_on(one)
    second.end()


def answered(*questions: str) -> ChatSession:
    answering = session()
    for question in questions:
        answering.ask(question)
    return answering


def test_conversations_that_begin_in_the_same_minute_have_names_of_their_own():
    keepers = [Keeper() for _ in range(4)]
    for keeper in keepers:
        keeper.keep(answered("Hi"))
    assert len({keeper.name for keeper in keepers}) == 4 == len(kept.all_kept())
    for keeper in keepers:
        keeper.end()


def test_a_conversation_that_another_program_goes_on_with_is_kept_as_a_new_one(chat):
    chat(session(), "Hi")
    (one,), other = kept.all_kept(), Keeper()
    assert other.go_on(one)
    shown = chat(session(), f"/load {one.name}", "And?")
    assert f"another program goes on with {one.name}, so this is kept as a new conversation" in shown
    assert sorted(len(texts(each.name)) for each in kept.all_kept()) == [2, 4]
    other.end()


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1 << 30), (100, 10_000)])
def test_the_oldest_conversations_go_when_there_are_too_many(monkeypatch, most, most_bytes):
    monkeypatch.setattr(kept, "MOST", most)
    monkeypatch.setattr(kept, "MOST_BYTES", most_bytes)
    held = Keeper()
    held.keep(answered("held"))
    os.utime(kept.last().path, (0, 0))
    for number in range(8):
        keeper = Keeper()
        keeper.keep(answered(f"question {number}"))
        os.utime(next(one.path for one in kept.all_kept() if one.name == keeper.name), (number + 1, number + 1))
        keeper.end()
    found = kept.all_kept()
    assert [texts(one.name)[0] for one in found[:2]] == ["question 7", "question 6"]
    assert texts(found[-1].name)[0] == "held"  # it is being written
    assert len(found) <= 6 and not list(found[0].path.parent.glob("*question*"))
    held.end()


def test_a_file_of_terabytes_is_neither_read_nor_in_the_way_of_others(chat, state_folder):
    chat(session(), "Hi")
    huge = kept.last().path.with_name("2020-01-01-0000.session")
    with open(huge, "wb") as file:
        file.truncate(1 << 42)
    assert "2020-01-01-0000, cannot be read" in chat(session(), "/sessions")
    chat(session(), "And?")
    assert sorted(texts(one.name)[0] for one in kept.all_kept()) == ["And?", "Hi"] and not huge.exists()


def test_a_killed_program_leaves_no_lock_that_stops_others(chat, state_folder):
    chat(session(), "Hi")
    (one,) = kept.all_kept()
    (one.path.parent / f".{one.name}.lock").touch()
    keeper = Keeper()
    assert keeper.go_on(one)
    keeper.end()


def test_interrupted_writing_loses_nothing(chat, monkeypatch):
    chat(session(), "Hi")
    (one,), keeper = kept.all_kept(), Keeper()
    assert keeper.go_on(one)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(SessionError, match="No space left"):
            keeper.keep(answered("Hi", "More"))
    keeper.end()
    assert texts() == ["Hi", "Yes."] and len(list(one.path.parent.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_told_once_and_the_chat_goes_on(chat, state_folder):
    state_folder.mkdir()
    (state_folder / "conversations").write_text("")
    shown = chat(session(), "Hi", "And?")
    assert shown.count("error: ") == 1 and "so this conversation is not kept: check the folder" in shown
    assert shown.count("tokens/s") == 2


def test_an_answer_that_cannot_be_kept_is_an_answer_all_the_same(loading, state_folder, capsys):
    state_folder.mkdir()
    (state_folder / "conversations").write_text("")
    loading("Fine.")
    assert main(["chat", "Hi"]) == 0
    shown = capsys.readouterr()
    assert "Fine." in shown.out and shown.err.count("warning: ") == 1
    assert "so this conversation is not kept: check the folder, or use --no-history\n" in shown.err


def test_sessions_lists_them_and_load_goes_on_by_name(chat, state_folder):
    assert f"kept in {state_folder / 'conversations'}; /load NAME" in chat(session(), "/sessions")
    chat(session(), "What\x1b[2J is it?\nSay it.")
    (one,) = kept.all_kept()
    damaged = one.path.with_name("2020-01-01-0000.session")
    damaged.write_bytes(b"\0" * 100)
    shown = chat(session(), "/sessions", f"/load {one.name[:12]}", "And?", "/sessions")
    assert f"{one.name} (today), 1 question: What\ufffd[2J is it? Say it.\n" in shown
    assert "2020-01-01-0000, cannot be read" in shown and f"loaded {one.name[:12]}, turns: 1" in shown
    assert f"{one.name} (today), 2 questions, open: What" in shown
    assert len(texts(one.name)) == 4
    shown = chat(session(), "/load 2020-01-01-0000", "/load 2", "/load nothing")
    assert "error: " in shown and "2 conversations begin like 2: " in shown and "; type more of the name\n" in shown
    assert "error: 'nothing' is neither a file nor a kept conversation: /sessions lists those\n" in shown


def test_what_can_be_read_of_a_damaged_conversation_is_loaded_and_that_is_told(chat):
    chat(session(), "Hi", "And?")
    (one,) = kept.all_kept()
    content = one.path.read_bytes()
    one.path.write_bytes(content.replace(b"And?", b"And!"))
    assert "only what can be read was loaded" in chat(session(), f"/load {one.name}")


def test_of_a_conversation_that_cannot_be_read_at_all_it_is_told_what_to_do(chat, loading, capsys):
    chat(session(), "Hi")
    (one,) = kept.all_kept()
    one.path.write_bytes(b"nothing")
    assert f"error: nothing in {one.path} can be read: remove it, or /load" in chat(session(), f"/load {one.name}")
    loading()
    assert main(["chat", "-c", "Hi"]) == 4 and "remove it, or /load another" in capsys.readouterr().err


def test_tab_completes_the_names_of_conversations(chat):
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from mlx_oss.cli.completion_words import Words

    chat(session(), "Hi")
    (one,) = kept.all_kept()
    found = Words([]).get_completions(Document(f"/load {one.name[:7]}"), CompleteEvent())
    assert [each.text for each in found] == [one.name]


def test_tools_that_are_not_run_now_are_named(chat):
    def get_weather(place: str) -> str:
        """Gets the weather."""
        return "sun"

    chat(session(tools=[get_weather]), "Hi")
    shown = chat(session(), f"/load {kept.last().name}")
    assert "tools that are not run now: get_weather; --tool or --mcp gives them again\n" in shown


def test_many_are_listed_as_a_number(chat, monkeypatch):
    monkeypatch.setattr("mlx_oss.cli.conversation_commands._SHOWN", 1)
    chat(session(), "One", "/clear", "Two")
    assert "and 1 older ones\n" in chat(session(), "/sessions")


def test_other_files_and_links_in_the_folder_are_left_alone(chat, state_folder, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 1)
    home = state_folder / "conversations"
    home.mkdir(parents=True)
    (home / "notes.session").write_text("mine")
    (home / "2020-01-01-0000.session").symlink_to(home / "notes.session")
    os.mkfifo(home / "2020-01-01-0001.session")
    chat(session(), "Hi")
    assert len(kept.all_kept()) == 1 and len(list(home.iterdir())) == 4
    with pytest.raises(OptionError):
        kept.find("2020-01-01-0001")


def test_a_saved_file_goes_on_in_a_new_kept_conversation(chat, tmp_path):
    file = tmp_path / "mine"
    chat(session(), "Hi", f"/save {file}")
    before = file.read_bytes()
    chat(session(), f"/load {file}", "And?")
    assert file.read_bytes() == before and sorted(len(texts(one.name)) for one in kept.all_kept()) == [2, 4]


def test_a_conversation_is_exported_as_markdown_and_as_json_that_render_reads(chat, tmp_path, capsys):
    md, as_json = tmp_path / "a.md", tmp_path / "a.json"
    reasoned = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>*Yes.*<|return|>"
    shown = chat(session(reasoned), "Is it?", f"/export {md}", f"/export {as_json}", f"/export {md}", "/export a.txt")
    assert md.read_text() == "## Question\n\nIs it?\n\n## Answer\n\n*Yes.*\n" and modes(md) == 0o600
    written = [message["content"][0]["text"] for message in json.loads(as_json.read_text())["messages"]]
    assert written == ["Is it?", "Hm.", "*Yes.*"]
    assert f"error: {md} is there already: give another name" in shown
    assert "error: a.txt ends with neither .md nor .json" in shown
    assert main(["render", str(as_json)]) == 0 and "Is it?" in capsys.readouterr().out
    shown = chat(session(), "/export", f"/export {tmp_path}/nowhere/a.md")
    assert "name a file: /export FILE.md or /export FILE.json" in shown and "directory): choose another path\n" in shown


def test_the_context_of_another_model_does_not_limit_a_conversation_that_goes_on(chat, monkeypatch):
    small = session()
    small.context_limit = 1000
    chat(small, "Hi")
    large = session()
    chat(large, f"/load {kept.last().name}", "And?")
    (one,) = kept.all_kept()
    assert one.read().limits["context_limit"] == large.model.context


def test_piped_questions_go_on_with_a_conversation_too(chat, loading, monkeypatch):
    chat(session(), "Hi")
    loading("Fine.")
    monkeypatch.setattr(sys, "stdin", io.StringIO("How are you?\n"))
    assert main(["chat", "-c"]) == 0 and texts() == ["Hi", "Yes.", "How are you?", "Fine."]
