"""MCP servers of the operator in the Responses API: who may use them, and the items of their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.server.responses import Responses, Servers
from mlx_oss.server.toolbox import BuiltinTool
from tests.server.notes import Notes
from tests.server.responses.streams import EVENTS, events_of, valid

NOTES = {"type": "mcp", "server_label": "notes", "require_approval": "never"}
ANSWER = "<|channel|>final<|message|>Done.<|return|>"


def call(recipient: str, text: str) -> str:
    return f"<|channel|>commentary to={recipient} <|constrain|>json<|message|>{text}<|call|>"


class Server:
    def __init__(self, served: Callable[..., str], *script: str, may_run: bool = True) -> None:
        self.notes, self.engine = Notes(), ScriptedEngine(*script)
        tools = {"notes": BuiltinTool(lambda: [self.notes], True, self.notes)}
        self.url = served(self.engine, [Responses(servers=Servers({"notes": self.notes}, may_run))], tools=tools)

    def post(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/responses", json={"input": "Go", "tools": [NOTES], **body})

    def plain(self, **body: Any) -> dict[str, Any]:
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return valid(answer.json())

    @property
    def prompt(self) -> str:
        return load_tokenizer().decode(list(self.engine.requests[-1].prompt))


def test_a_call_is_an_item_with_its_result_in_openai_s_form(served):
    server = Server(served, call("notes.read", '{"path": "a"}'), call("notes.read", '{"path": "gone"}'), ANSWER)
    events = events_of(server.post(stream=True).text)
    for event in events:
        EVENTS[event["type"]].model_validate(event, strict=True)
    output = valid(events[-1]["response"])["output"]
    assert [item["type"] for item in output] == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
    listed, read, failed, _ = output
    assert [tool["name"] for tool in listed["tools"]] == ["read", "write"] and listed["error"] is None
    assert listed["tools"][0]["input_schema"]["properties"] == {"path": {"type": "string"}}
    assert (read["server_label"], read["name"], read["arguments"]) == ("notes", "read", '{"path": "a"}')
    assert (read["output"], read["error"], read["status"]) == ("the note a", None, "completed")
    assert (failed["output"], failed["status"]) == (None, "failed")
    assert failed["error"]["content"] == [{"type": "text", "text": "there is no such note"}]
    kinds = [event["type"].removeprefix("response.") for event in events if event.get("item_id") == read["id"]]
    assert kinds == [
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
    ]


def test_only_the_tools_that_the_client_allows_are_described_and_run(served):
    server = Server(served, call("notes.write", "{}"), ANSWER)
    output = server.plain(tools=[{**NOTES, "allowed_tools": ["read"]}], input="Go")["output"]
    assert [tool["name"] for tool in output[0]["tools"]] == ["read"] and "write" not in server.prompt.split("Go")[0]
    assert server.notes.ran == []


@pytest.mark.parametrize(
    ("may_run", "tool", "reason"),
    [
        (True, {**NOTES, "server_label": "other"}, "there is no server 'other' here"),
        (True, {**NOTES, "server_label": "other", "server_url": "http://127.0.0.1:1/mcp"}, "there is no server"),
        (True, {"type": "mcp", "server_label": "notes"}, "send `require_approval`: `never`"),
        (True, {**NOTES, "require_approval": "always"}, "send `require_approval`: `never`"),
        (
            True,
            {**NOTES, "require_approval": {"never": {"tool_names": ["read"]}, "always": {"tool_names": ["read"]}}},
            "send `require_approval`: `never`",
        ),
        (True, {**NOTES, "allowed_tools": ["nothing"]}, "none of its tools is allowed"),
        (False, NOTES, "start `serve` with --yes"),
    ],
)
def test_a_server_that_may_not_be_used_is_an_item_that_says_why(served, may_run, tool, reason):
    server = Server(served, ANSWER, may_run=may_run)
    listed, message = server.plain(tools=[tool])["output"]
    assert listed["tools"] == [] and reason in listed["error"] and message["type"] == "message"
    assert "namespace notes" not in server.prompt and not server.notes.ran


def test_some_tools_may_need_no_approval(served):
    server = Server(served, ANSWER)
    listed, _ = server.plain(tools=[{**NOTES, "require_approval": {"never": {"tool_names": ["read"]}}}])["output"]
    assert [tool["name"] for tool in listed["tools"]] == ["read"]


def test_items_that_come_back_are_the_history_and_the_list_is_not_told_again(served):
    script = [call("notes.read", '{"path": "a"}'), call("notes.read", '{"path": "gone"}')]
    server = Server(served, *script, ANSWER, ANSWER)
    output = server.plain()["output"]
    question = {"role": "user", "content": "And now?"}
    (message,) = server.plain(input=[{"role": "user", "content": "Go"}, *output, question])["output"]
    assert message["type"] == "message" and "the note a" in server.prompt and "to=notes.read" in server.prompt
    assert "Error: there is no such note" in server.prompt


def test_one_tool_can_be_demanded(served):
    server = Server(served, call("notes.read", "{}"), ANSWER)
    server.plain(tool_choice={"type": "mcp", "server_label": "notes", "name": "read"})
    rules = server.engine.requests[0].constraint._rules  # type: ignore[union-attr]
    assert set(rules.must_call) == {"notes.read"}


def test_a_wrong_list_is_refused_with_its_place(served):
    answer = Server(served).post(tools=[{**NOTES, "allowed_tools": "read"}])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "tools[0].allowed_tools"
