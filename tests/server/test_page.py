"""What the page asks of the server, and what it gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mlx_oss.server.page
from mlx_oss import DeviceError, load_tokenizer
from tests.engines import wait_until
from tests.server.notes import Notes
from tests.server.page_server import FINAL, PYTHON, THINK, WEATHER, Typist, one, page_server, question, sent, text_of

FOLDER = Path(mlx_oss.server.page.__file__).parent


@pytest.fixture
def engine():
    return Typist()


def prompt(engine, number=-1):
    return load_tokenizer().decode(list(engine.requests[number].prompt))


def test_its_files_are_served_and_may_load_nothing_else(engine):
    with page_server(engine) as server:
        for path, kind in (("/", "text/html"), ("/page/page.css", "text/css"), ("/page/page.js", "text/javascript")):
            with server.send(path) as response:
                assert response.status == 200 and response.headers["Content-Type"].startswith(kind)
                policy = dict(rule.split(" ", 1) for rule in response.headers["Content-Security-Policy"].split("; "))
                assert policy.pop("img-src") == "'self' data:" and policy.pop("default-src") == "'none'"
                assert {policy.pop(f"{name}-src") for name in ("script", "style", "connect")} == {"'self'"}
                assert policy == {"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
                tag = response.headers["ETag"]
                assert response.read()
            with server.send(path, None, **{"If-None-Match": tag}) as response:
                assert response.status == 304 and not response.read()


def test_no_file_has_a_style_or_a_script_in_it_or_names_another_server():
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=\"/page/)", html)
    for name in ("index.html", "page.css", "page.js"):
        assert not re.search(r"https?://(?!www\.w3\.org)", (FOLDER / name).read_text())
    assert not re.search(
        r"\beval\(|new Function|innerHTML = (?!html;)|outerHTML|insertAdjacent", (FOLDER / "page.js").read_text()
    )


def test_the_page_is_shown_without_the_key_but_asks_with_it(engine):
    engine.says("Hello")
    with page_server(engine, key="secret") as server:
        assert server.asked("/")[0] == server.asked("/page/page.js")[0] == 200
        assert server.asked("/page/state")[0] == 401
        assert server.asked("/page/answer", {"parts": [question()]})[0] == 401
        assert server.asked("/page/state", Authorization="Bearer secret")[0] == 200


def test_the_state_has_what_can_be_chosen(engine):
    with page_server(engine, tools=True) as server:
        status, state = server.asked("/page/state")
    assert status == 200 and state["models"] == ["gpt-oss-20b"] and state["notes"] == {}
    assert state["efforts"] == ["none", "low", "medium", "high"]
    assert state["tools"] == [
        {"name": "python", "about": "runs Python code in a sandbox", "asks": True},
        {"name": "weather", "about": "Tells the weather.", "asks": False},
    ]


def test_an_answer_comes_as_text_and_html_in_order(engine):
    engine.says(THINK.format("Hm.") + FINAL.format("# Hi\n\nHow are *you*?"))
    with page_server(engine) as server:
        told = server.answer(question("Hello"), instructions="Be kind.", effort="high")
    types = [event["type"] for event in told]
    assert types[0] == "begin" and types[1] == "reasoning" and types[-1] == "done"
    assert types.index("text") > max(number for number, kind in enumerate(types) if kind == "reasoning")
    assert text_of(told) == "# Hi\n\nHow are *you*?"
    blocks = {block["index"]: block for event in told if event["type"] == "text" for block in event["blocks"]}
    assert [blocks[0]["html"], blocks[1]["html"]] == ["<h3>Hi</h3>\n", "<p>How are <em>you</em>?</p>\n"]
    assert blocks[0]["done"] and blocks[1]["done"]
    assert "Be kind." in prompt(engine) and "Reasoning: high" in prompt(engine)
    done = told[-1]
    assert done["reason"] == "stop" and done["usage"]["generated_tokens"] > 5
    assert done["context"]["limit"] == engine.context and 0 < done["context"]["used"] < 500


def test_the_conversation_is_told_to_the_model_without_the_reasoning_of_answered_questions(engine):
    engine.says("Bye")
    before = [
        question("What is the weather?"),
        {"kind": "reasoning", "text": "I look."},
        {"kind": "preamble", "text": "One moment."},
        {
            "kind": "call",
            "id": "c1",
            "to": "functions.weather",
            "channel": "commentary",
            "text": "{}",
            "result": "Rain",
        },
        {"kind": "answer", "text": "It rains."},
    ]
    with page_server(engine) as server:
        assert text_of(server.answer(*before, question("Thanks"))) == "Bye"
    said = prompt(engine)
    assert "I look." not in said
    for text in ("One moment.", "to=functions.weather", "Rain", "It rains.", "Thanks"):
        assert text in said


def test_a_call_without_a_result_has_been_stopped(engine):
    engine.says("Bye")
    with page_server(engine) as server:
        server.answer(question(), {"kind": "call", "id": "c", "to": "python", "text": "1"}, question())
    assert "Error: stopped before it was done" in prompt(engine)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "the last of the parts is no question"),
        ([question(), {"kind": "answer", "text": "Hi"}], "the last of the parts is no question"),
        ([{"kind": "question"}], "parts[0].text is None"),
        ([{"kind": "quip", "text": ""}, question()], "parts[0].kind is 'quip'"),
        ([{"text": ""}, question()], "parts[0].kind is None"),
        ([{"kind": "call", "text": "", "id": "1", "to": ""}, question()], "parts[0].to is ''"),
        ("Hi", "parts is 'Hi'"),
        ([5], "parts[0] is 5"),
    ],
)
def test_a_wrong_conversation_is_refused_in_a_sentence(engine, parts, reason):
    with page_server(engine) as server:
        status, body = server.asked("/page/answer", {"parts": parts})
    assert status == 400 and reason in body["error"]["message"]


def test_a_tool_runs_and_its_result_is_told(engine):
    engine.says(WEATHER, FINAL.format("18 degrees."))
    with page_server(engine, tools=True) as server:
        told = server.answer(question(), tools=["weather", "gone"])
    call, result = one(told, "call"), one(told, "result")
    assert (call["to"], call["text"], call["confirm"]) == ("functions.weather", '{"city": "Oslo"}', None)
    assert call["shown"] == '{\n  "city": "Oslo"\n}'
    assert (result["id"], result["text"], result["error"]) == (call["id"], "18 degrees in Oslo", None)
    assert text_of(told) == "18 degrees."


def test_a_tool_that_the_page_has_not_chosen_is_not_offered(engine):
    engine.says("Hi")
    with page_server(engine, tools=True) as server:
        server.answer(question(), tools=["weather"])
    assert "weather" in prompt(engine) and "python" not in prompt(engine)


@pytest.mark.parametrize("may_run", [True, False])
def test_code_runs_only_if_the_reader_says_so(engine, may_run):
    engine.says(PYTHON.format("print('\u202e1')"), FINAL.format("Done."))
    with page_server(engine, tools=True) as server:
        with server.begin(question(), tools=["python"]) as response:
            told = []
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                told.append(sent(line))
                if told[-1]["type"] == "call":
                    assert server.ran == [] and told[-1]["shown"] == "print('\ufffd1')"  # nothing is hidden in it
                    status, _ = server.asked("/page/confirm", {"key": told[-1]["confirm"], "run": may_run})
                    assert status == 200
        assert server.ran == (["print('\u202e1')"] if may_run else [])
        result = one(told, "result")
        assert (result["error"] is None) == may_run and text_of(told) == "Done."
        status, body = server.asked("/page/confirm", {"key": one(told, "call")["confirm"], "run": True})
        assert status == 404 and "does not wait" in body["error"]["message"]


@pytest.mark.parametrize("may_run", [True, False])
def test_a_function_of_a_server_runs_only_if_the_reader_says_so(engine, may_run):
    call = '<|channel|>commentary to=notes.read <|constrain|>json<|message|>{"path": "a\u202e"}<|call|>'
    engine.says(call, FINAL.format("Done."))
    notes = Notes()
    with page_server(engine, more=[notes]) as server:
        assert [(tool["name"], tool["about"], tool["asks"]) for tool in server.asked("/page/state")[1]["tools"]] == [
            ("notes", "read, write", True)
        ]
        told = []
        with server.begin(question(), tools=["notes"]) as response:
            for line in response:
                if line.startswith(b"data: "):
                    told.append(sent(line))
                    if told[-1]["type"] == "call":
                        assert notes.ran == [] and told[-1]["shown"] == '{\n  "path": "a\ufffd"\n}'
                        server.asked("/page/confirm", {"key": told[-1]["confirm"], "run": may_run})
    assert notes.ran == (["a\u202e"] if may_run else []) and text_of(told) == "Done."


def test_code_runs_unasked_if_the_server_was_started_so(engine):
    engine.says(PYTHON.format("1"), FINAL.format("Done."))
    with page_server(engine, tools=True, runs_unasked=True) as server:
        told = server.answer(question(), tools=["python"])
        assert server.ran == ["1"] and one(told, "call")["confirm"] is None


@pytest.mark.parametrize("run", [None, "yes", 1])
def test_only_true_lets_a_call_run(engine, run):
    with page_server(engine) as server:
        status, _ = server.asked("/page/confirm", {"key": "x", "run": run})
    assert status in (400, 404)


def test_a_conversation_keeps_its_tools_and_others_have_their_own(engine):
    engine.says(*[PYTHON.format("1"), FINAL.format("Done.")] * 3)
    with page_server(engine, tools=True, runs_unasked=True) as server:
        tools = []
        for conversation in ("a", "b", "a"):
            server.answer(question(), tools=["python"], conversation=conversation)
            tools.append(server.service.toolbox.take(["python"], conversation)[0])
    assert tools[0] is tools[2] and tools[0] is not tools[1]


def test_an_answer_ends_when_the_page_leaves(engine):
    engine.says(FINAL.format("word " * 500))
    engine.delay = 0.01
    with page_server(engine) as server:
        with server.begin(question()) as response:
            response.readline()
            wait_until(lambda: engine.written > 5)
        wait_until(lambda: server.service.metrics.running == 0)
        assert engine.written < 400


def test_a_call_that_waits_for_the_reader_ends_when_the_page_leaves(engine):
    engine.says(PYTHON.format("1"), FINAL.format("Done."))
    with page_server(engine, tools=True) as server:
        with server.begin(question(), tools=["python"]) as response:
            key = next(sent(line)["confirm"] for line in response if b'"call"' in line)
        wait_until(lambda: server.service.metrics.running == 0)
        assert server.asked("/page/confirm", {"key": key, "run": True})[0] == 404
        assert server.ran == []


def test_an_error_ends_the_stream_with_a_sentence_and_what_was_written(engine):
    ids = load_tokenizer().encode_with_specials("<|channel|>final<|message|>Hello there")
    engine.says([*ids, DeviceError("the memory is used up: close other programs")])
    with page_server(engine) as server:
        told = server.answer(question())
    assert text_of(told) == "Hello there"
    assert told[-1] == {"type": "error", "message": "the memory is used up: close other programs"}


def test_texts_that_the_page_kept_are_rendered(engine):
    with page_server(engine) as server:
        status, body = server.asked("/page/render", {"texts": ["*a*", "<b>"]})
        assert status == 200 and body == {"html": ["<p><em>a</em></p>\n", "<p>&lt;b&gt;</p>\n"]}
        assert server.asked("/page/render", {"texts": [5]})[0] == 400
        assert server.asked("/page/render", {"texts": "a"})[0] == 400


def test_many_questions_are_told_to_come_later(engine):
    engine.says("Hi")
    engine.gate.clear()
    with page_server(engine, most_requests=1) as server, server.begin(question()) as first:
        first.readline()
        with server.begin(question()) as second:
            assert second.status == 429 and int(second.headers["Retry-After"]) > 0
        engine.gate.set()
        first.read()


def test_other_pages_cannot_ask(engine):
    with page_server(engine) as server:
        for path in ("/page/answer", "/page/confirm", "/page/render"):
            assert server.asked(path, {}, Origin="https://evil.example")[0] == 403
            assert server.asked(path, b"{}", **{"Content-Type": "text/plain"})[0] == 415
