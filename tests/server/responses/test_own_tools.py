"""Tools that the server runs: their items in the stream, and what of them stands in later prompts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.errors import ToolError
from mlx_oss.harmony import PYTHON
from mlx_oss.server.responses import Responses
from mlx_oss.server.toolbox import BuiltinTool
from mlx_oss.tools import BrowserTool
from mlx_oss.tools.base import SystemTool
from tests.engines import HeldEngine, wait_until
from tests.server.responses.streams import check, events_of

TOKENIZER = load_tokenizer()
START = "<|start|>assistant"
THINK = "<|channel|>analysis<|message|>I look.<|end|>"
ANSWER = f"{START}<|channel|>final<|message|>It is dry【0†L0】【1†L0-L1】.<|return|>"
F = {"type": "function", "name": "f"}
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}


def call(recipient: str, text: str, channel: str = "analysis") -> str:
    return f"{THINK}{START} to={recipient}<|channel|>{channel} code<|message|>{text}<|call|>"


class Python(SystemTool):
    namespace = PYTHON

    def call(self, function: str, text: str) -> str:
        if text == "1/0":
            raise ToolError("division by zero")
        return str(eval(text))


class Server:
    def __init__(self, served: Any, folder: Path, *script: str) -> None:
        (folder / "weather.txt").write_text("The weather in Lisbon\nIt is dry.\n")
        self.engine = ScriptedEngine(*script)
        tools = {
            "browser": BuiltinTool(lambda: [BrowserTool(folder)]),
            "python": BuiltinTool(lambda: [Python()], needs_confirmation=True),
        }
        self.url = served(self.engine, [Responses(own=["browser", "python"])], tools=tools)

    def stream(self, **body: Any) -> dict[str, Any]:
        body = {"input": "Is it dry?", "tools": [{"type": "web_search"}, CODE, F], **body}
        return check(events_of(httpx.post(f"{self.url}/v1/responses", json={**body, "stream": True}).text))

    @property
    def prompt(self) -> str:
        return TOKENIZER.decode(list(self.engine.requests[-1].prompt))


def test_a_search_is_an_item_and_the_answer_cites_what_was_found(served, tmp_path):
    server = Server(
        served,
        tmp_path,
        call("browser.search", '{"query": "weather"}'),
        call("browser.open", '{"id": 0}'),
        THINK + ANSWER,
    )
    output = server.stream()["output"]
    assert [item["type"] for item in output] == ["reasoning", "web_search_call"] * 2 + ["reasoning", "message"]
    assert output[1]["action"] == {"type": "search", "query": "weather", "queries": ["weather"]}
    assert output[1]["status"] == output[3]["status"] == "completed"
    assert output[3]["action"] == {"type": "open_page", "url": "weather.txt"}
    (part,) = output[-1]["content"]
    (cited,) = part["annotations"]
    assert cited["type"] == "url_citation" and cited["url"] and cited["title"]
    assert part["text"][cited["start_index"] : cited["end_index"]] == "【1†L0-L1】"
    assert "## browser" in server.prompt and "## python" in server.prompt


def test_code_is_an_item_with_its_code_and_what_it_printed(served, tmp_path):
    script = [call("python", "6*7"), THINK + ANSWER]
    output = Server(served, tmp_path, *script).stream(include=["code_interpreter_call.outputs"])["output"]
    assert output[1]["code"] == "6*7" and output[1]["outputs"] == [{"type": "logs", "logs": "42"}]
    assert Server(served, tmp_path, *script).stream()["output"][1]["outputs"] is None


def test_what_is_looked_for_in_a_page_names_the_page(served, tmp_path):
    look = [call("browser.search", '{"query": "dry"}'), call("browser.open", '{"id": 0}')]
    server = Server(served, tmp_path, *look, call("browser.find", '{"pattern": "dry"}'), THINK + ANSWER)
    action = server.stream()["output"][5]["action"]
    assert action == {"type": "find_in_page", "pattern": "dry", "url": "weather.txt"}


def test_a_search_that_fails_is_one_that_failed(served, tmp_path):
    output = Server(served, tmp_path, call("browser.find", '{"pattern": "x"}'), THINK + ANSWER).stream()["output"]
    assert output[1]["status"] == "failed"
    assert output[1]["action"] == {"type": "find_in_page", "pattern": "x", "url": ""}


@pytest.mark.parametrize("tool", [{"type": "web_search_preview"}, {"type": "web_search_2025_08_26"}])
def test_each_version_of_the_tool_is_the_browser(served, tmp_path, tool):
    server = Server(served, tmp_path, call("browser.search", '{"query": "dry"}'), THINK + ANSWER)
    assert (
        server.stream(tools=[tool], tool_choice={"type": "web_search_preview"})["output"][1]["type"]
        == "web_search_call"
    )
    rules = server.engine.requests[0].constraint._rules  # type: ignore[union-attr]
    assert set(rules.must_call) == {"browser.search", "browser.open", "browser.find"}


def test_tools_that_the_server_has_not_or_the_user_does_not_allow_are_left_out(served, tmp_path):
    server = Server(served, tmp_path, "Yes.", "Yes.")
    server.stream(tools=[{"type": "web_search", "external_web_access": False}])
    assert "## browser" not in server.prompt
    server = Server(served, tmp_path, "Yes.")
    url = served(server.engine, [Responses(own=[])])
    answer = httpx.post(f"{url}/v1/responses", json={"input": "Hi", "tools": [CODE]})
    assert answer.status_code == 200 and "## python" not in server.prompt


@pytest.mark.parametrize("stored", [True, False])
def test_what_the_server_found_stands_in_the_prompt_until_the_turn_is_answered(served, tmp_path, stored):
    search = call("browser.search", '{"query": "weather"}')
    use = f"{THINK}{START}<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{}}<|call|>"
    server = Server(served, tmp_path, search, use, THINK + ANSWER, "Yes.")
    first = server.stream()
    assert [item["type"] for item in first["output"]] == ["reasoning", "web_search_call", "reasoning", "function_call"]
    before = list(server.engine.requests[-1].prompt) + TOKENIZER.encode_with_specials(use)
    items: list[dict[str, Any]] = [{"role": "user", "content": "Is it dry?"}, *first["output"]]
    result = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "3"}
    more = {"previous_response_id": first["id"], "input": [result]} if stored else {"input": [*items, result]}
    second = server.stream(**more)
    assert list(server.engine.requests[-1].prompt)[: len(before)] == before
    items += [result, *second["output"], {"role": "user", "content": "Sure?"}]
    server.stream(input=items)
    assert "browser.search<|channel|>" not in server.prompt and "functions.f to=assistant" in server.prompt


def test_a_search_of_another_server_is_passed_over(served, tmp_path):
    server = Server(served, tmp_path, "Yes.")
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
    server.stream(input=[{"role": "user", "content": "Hi"}, item, {"role": "user", "content": "Go on."}])
    assert server.prompt.endswith("Hi<|end|><|start|>user<|message|>Go on.<|end|><|start|>assistant")


def test_a_limit_of_calls_is_kept(served, tmp_path):
    server = Server(served, tmp_path, call("python", "1+1"), call("python", "2+2"), THINK + ANSWER)
    server.stream(max_tool_calls=1)
    assert "a turn may call tools 1 times" in server.prompt


@pytest.mark.parametrize("leaves", [False, True])
def test_what_a_tool_has_started_ends_with_the_request(served, leaves):
    closed = threading.Event()

    class Started(Python):
        def close(self) -> None:
            closed.set()

    engine = HeldEngine(call("python", "40 + 2"), THINK + ANSWER)
    engine.hold("42")
    tools = {"python": BuiltinTool(lambda: [Started()])}
    url = served(engine, [Responses(own=["python"])], tools=tools)
    body = {"input": "Is it dry?", "tools": [CODE], "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=30) as answer:
        wait_until(lambda: "42" in engine.begun)
        assert not closed.is_set()
        if not leaves:
            engine.release("42")
            assert check(events_of(answer.read().decode()))["status"] == "completed"
    assert closed.wait(20)
