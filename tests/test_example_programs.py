"""The example programs of apps, with scripted answers: what they show works. (`test_typing` checks their types.)"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.util
import inspect
import io
import json
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import mlx_oss
from mlx_oss import ChatSession, ScriptedEngine, load_tokenizer
from tests.research.world import QUESTION, Answering, Researcher, write_pages

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("web", "tui", "classify", "agent", "database", "few_shot", "n_best", "research")
FINAL = "<|channel|>final<|message|>"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_and_imports_only_public_names(name):
    source = (EXAMPLES / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 90
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {each for each in imported if each and each.startswith("mlx_oss")} <= {
        "mlx_oss",
        "mlx_oss.research",
        "mlx_oss.tools",
    }


def notebook_cells() -> list[str]:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@contextlib.contextmanager
def served(*answers: str) -> Iterator[tuple[str, ScriptedEngine]]:
    """The address of the example server, and its engine."""
    engine = ScriptedEngine(*answers)
    server = module("web").Server(engine, load_tokenizer(), port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def post(address: str, body: object) -> list[tuple[str, object]]:
    request = urllib.request.Request(address, json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        events = response.read().decode().strip().split("\n\n")
    pairs = [event.split("\n") for event in events]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in pairs]


def test_the_server_streams_answers_and_reads_only_what_is_new():
    messages = [{"role": "user", "content": "Hello"}]
    with served("Hi there!", "Fine.") as (address, _):
        events = post(address, {"id": "1", "messages": messages})
        assert "".join(data for kind, data in events if kind == "delta") == "Hi there!"
        assert events[-1] == ("finished", {"reason": "stop", "reused_tokens": 0})
        messages += [{"role": "assistant", "content": "Hi there!"}, {"role": "user", "content": "How are you?"}]
        kind, finished = post(address, {"id": "1", "messages": messages})[-1]
        assert kind == "finished" and finished["reused_tokens"] > 40


@pytest.mark.parametrize("body", [{}, {"id": 1, "messages": "Hello"}, {"id": 1, "messages": [], "max_tokens": 0}, 5])
def test_the_server_refuses_what_it_cannot_use(body, capfd):
    with served() as (address, _), pytest.raises(urllib.error.HTTPError) as caught:
        post(address, body)
    assert caught.value.code == 400 and "Traceback" not in capfd.readouterr().err
    caught.value.close()


def test_the_terminal_ui_shows_an_answer():
    pytest.importorskip("textual", reason="Textual is not installed (extra `dev`)")
    tui = module("tui")
    session = ChatSession(ScriptedEngine("It is **Lisbon**."), load_tokenizer())

    async def use() -> str:
        async with tui.Chat(session).run_test() as pilot:
            pilot.app.query_one(tui.Input).value = "Capital?"
            await pilot.press("enter")
            await pilot.pause()
            await pilot.app.workers.wait_for_complete()
            await pilot.press("escape")
            return pilot.app.query_one(tui.Markdown).source

    assert asyncio.run(use()) == "It is **Lisbon**." and session.messages[0].content == "Capital?"


def test_lines_are_classified_by_examples():
    pytest.importorskip("llguidance")
    engine = ScriptedEngine("positive", "negative")
    assert list(module("classify").classify(engine, load_tokenizer(), ["Great!", "Bad."])) == [
        ("positive", "Great!"),
        ("negative", "Bad."),
    ]
    read = [load_tokenizer().decode(request.prompt) for request in engine.requests]
    assert all("What a waste of time." in prompt for prompt in read) and "Great!" not in read[1]


def test_the_agent_uses_its_tools_and_asks_before_it_deletes(tmp_path, capsys, monkeypatch):
    agent = module("agent")

    def call(tool: str, **arguments: str) -> str:
        return f"<|channel|>commentary to=functions.{tool} <|constrain|>json<|message|>{json.dumps(arguments)}<|call|>"

    calls = [call("write_task", name="milk", text="Buy milk"), call("list_tasks"), call("read_task", name="milk")]
    calls += [call("find_tasks", word="MILK"), call("today"), call("read_task", name="../secret")]
    calls += [call("delete_task", name="milk")] * 2
    answers = iter("ny")
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    engine = ScriptedEngine(*calls, "Done.")
    session = ChatSession(engine, load_tokenizer(), tools=agent.tools_for(tmp_path), confirm=agent.confirm)
    agent.run(session, "What do I have to do?")
    lines = capsys.readouterr().out.splitlines()
    assert len(session.tools) == 6 and lines[-1] == "Done."
    assert "[read_task: 'Buy milk']" in lines and lines.count("[find_tasks: '[\"milk\"]']") == 1
    assert "[read_task: 'ValueError: a name has letters, digits and dashes only']" in lines
    assert "[delete_task: 'the user refused this call: keep it']" in lines and "[delete_task: 'deleted']" in lines
    assert list(tmp_path.iterdir()) == []


def test_a_research_prints_its_report_and_what_happens(tmp_path, monkeypatch, capsys):
    lake = write_pages(tmp_path / "pages", 20)["Torvan"]
    rules = Researcher(lambda lines: [lines[0].replace("covers", "covers 5 or"), *lines[1:]])
    monkeypatch.setattr(mlx_oss, "load", lambda model: (Answering(rules), load_tokenizer()))
    module("research").main(str(tmp_path / "pages"), QUESTION, "20b", str(tmp_path / "out"))
    out, err = capsys.readouterr()
    assert f"{lake.area:,}" in out and "round 1: searches: Lake Torvan" in err
    assert err.splitlines()[-1].endswith("square kilometres. (5 is not in the cited lines)")


def test_a_conversation_comes_back_from_the_database():
    ask = module("database").ask
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        engine = ScriptedEngine("Hello Ann.", "Ann.", "Hello Bob.")
        for user, question, answer in (
            ("ann", "I am Ann.", "Hello Ann."),
            ("ann", "Who am I?", "Ann."),
            ("bob", "I am Bob.", "Hello Bob."),
        ):
            assert ask(ChatSession(engine, load_tokenizer()), connection, user, question) == answer
    second, third = (load_tokenizer().decode(request.prompt) for request in engine.requests[1:])
    assert "Hello Ann." in second and "Ann" not in third


def test_examples_are_read_before_each_question(capsys):
    engine = ScriptedEngine("Paris", "Hot")
    module("few_shot").main(engine, load_tokenizer())
    assert capsys.readouterr().out == "What is the capital of France? Paris\nWhat is the opposite of cold? Hot\n"
    second = load_tokenizer().decode(engine.requests[1].prompt)
    assert "Madrid" in second and "Answer with a single word." in second and "France" not in second


def test_the_best_of_several_answers_is_kept(capsys, monkeypatch):
    n_best = module("n_best")
    monkeypatch.setattr(n_best, "score", lambda reply: len(reply.text))
    chosen = []
    monkeypatch.setattr(ChatSession, "choose", lambda session, number: chosen.append(number))
    n_best.main(ScriptedEngine("Blue.", "Deep and blue.", "Wet.", "Salty."), load_tokenizer())
    assert chosen == [1] and capsys.readouterr().out.splitlines()[0].endswith("Deep and blue.")


def test_the_score_is_the_mean_log_probability():
    score = module("n_best").score
    tokens = tuple(mlx_oss.TokenLogprob("a", value, 1) for value in (-1.0, -2.0))
    assert score(mlx_oss.Reply("aa", "", (), "stop", mlx_oss.Usage(), logprobs=tokens)) == -1.5
    assert score(mlx_oss.Reply("", "", (), "stop", mlx_oss.Usage())) == 0


def test_the_cells_of_the_notebook_run_one_after_another():
    """On nano, with `await` outside of functions, as IPython runs them."""

    async def run() -> None:
        names: dict[str, object] = {}
        for cell in notebook_cells():
            code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if inspect.iscoroutine(result := eval(code, names)):
                await result

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        asyncio.run(run())
    assert "Paris" in out.getvalue() and "in 2 turns" in out.getvalue()
    assert any(line.split()[-1].strip("'") for line in out.getvalue().splitlines()[-3:])


@pytest.mark.parametrize(("name", "arguments"), [("few_shot", ()), ("n_best", ()), ("classify", ())])
def test_it_runs_on_nano(name, arguments):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input="I laughed.\n", timeout=300)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_no_model_or_too_few_arguments_are_told_without_a_traceback(name, tmp_path):
    if name == "tui":
        pytest.importorskip("textual", reason="Textual is not installed (extra `dev`)")
    (tmp_path / "note.md").write_text("# Note\n")
    given = {
        "agent": (str(tmp_path), "Hi"),
        "database": (str(tmp_path / "chats"), "Hi"),
        "research": (str(tmp_path), "Hi"),
    }.get(name, ())
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run([*command, *given, str(tmp_path)], capture_output=True, text=True, input="", timeout=300)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    if given:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and "python examples/" in done.stderr and "Traceback" not in done.stderr
