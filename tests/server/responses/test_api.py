"""The paths of the API, as OpenAI's own client uses them."""

from __future__ import annotations

import argparse
import json
import stat
from typing import Any

import httpx2 as httpx
import openai
import pydantic
import pytest

from mlx_oss import OptionError, ScriptedEngine, load_tokenizer
from mlx_oss.cli import serve
from mlx_oss.server import connection
from mlx_oss.server.models import Models
from mlx_oss.server.responses import Responses, Store
from mlx_oss.server.service import Service
from tests.engines import HeldEngine, wait_until
from tests.server.conftest import Running
from tests.server.responses.streams import check, events_of

START = "<|start|>assistant"
THINK = "<|channel|>analysis<|message|>Let me see.<|end|>"
CALL = f'{THINK}{START}<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{"a": 1}}<|call|>'
ANSWER = f"{THINK}{START}<|channel|>final<|message|>It is dry.<|return|>"
F: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture
def client(asking):
    with openai.OpenAI(base_url=f"{asking.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_text_is_answered(asking, client):
    asking.engine.says(ANSWER)
    response = client.responses.create(model="gpt-oss-20b", input="Is it dry?")
    assert response.output_text == "It is dry." and response.status == "completed"


def test_a_stream_can_be_followed(asking, client):
    asking.engine.says(ANSWER)
    with client.responses.stream(model="gpt-oss-20b", input="Is it dry?", reasoning={"summary": "auto"}) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "It is dry."
    assert "response.reasoning_summary_text.delta" in kinds and kinds[-1] == "response.completed"


def test_an_answer_can_be_parsed(asking, client):
    class City(pydantic.BaseModel):
        name: str

    look = f"{START}<|channel|>commentary<|message|>I look.<|end|>"  # which is no JSON
    asking.engine.says(THINK + look + START + '<|channel|>final<|message|>{"name": "Oslo"}<|return|>')
    parsed = client.responses.parse(
        model="gpt-oss-20b", input="Which city?", text_format=City, tools=[F | {"strict": True}]
    )
    assert parsed.output_parsed == City(name="Oslo")


def test_a_tool_is_called_and_its_result_answered(asking, client):
    asking.engine.says(CALL, ANSWER)
    first = client.responses.create(model="gpt-oss-20b", input="Is it dry?", tools=[F])
    call = first.output[-1]
    assert call.type == "function_call" and json.loads(call.arguments) == {"a": 1}
    items: Any = [{"role": "user", "content": "Is it dry?"}, *first.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "yes"})
    assert client.responses.create(model="gpt-oss-20b", input=items, tools=[F]).output_text == "It is dry."


def test_a_stored_response_is_read_continued_and_deleted(asking, client):
    asking.engine.says(ANSWER, ANSWER)
    first = client.responses.create(model="gpt-oss-20b", input="Is it dry?")
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    second = client.responses.create(model="gpt-oss-20b", input="Sure?", previous_response_id=first.id)
    assert "Is it dry?<|end|>" in asking.prompt
    items = client.responses.input_items.list(second.id).data
    assert [item.to_dict()["content"] for item in items] == [[{"type": "input_text", "text": "Sure?"}]]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as told:
        client.responses.create(model="gpt-oss-20b", input="Sure?", previous_response_id=second.id)
    assert told.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)


def test_a_response_that_is_not_to_be_stored_is_not(asking, client):
    asking.engine.says(ANSWER)
    response = client.responses.create(model="gpt-oss-20b", input="Is it dry?", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(response.id)


def test_the_items_of_a_request_are_listed_page_by_page(asking, client):
    asking.engine.says(ANSWER)
    texts = [f"{n}" for n in range(25)]
    response = client.responses.create(model="gpt-oss-20b", input=[{"role": "user", "content": text} for text in texts])
    for order, wanted in (("asc", texts), ("desc", texts[::-1])):
        pages = client.responses.input_items.list(response.id, limit=10, order=order)
        assert [item.to_dict()["content"][0]["text"] for item in pages] == wanted
    newest = client.responses.input_items.list(response.id)
    assert len(newest.data) == 20 and newest.has_more
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(response.id, limit=101)
    with pytest.raises(openai.BadRequestError):
        client.responses.input_items.list(response.id, extra_query={"limit": "9" * 5000})


def test_the_tokens_of_a_prompt_are_counted(asking, client):
    count = client.responses.input_tokens.count(model="gpt-oss-20b", input="Is it dry?", tools=[F])
    asking.engine.says(ANSWER)
    response = client.responses.create(model="gpt-oss-20b", input="Is it dry?", tools=[F])
    assert response.usage is not None
    assert count.input_tokens == response.usage.input_tokens == len(asking.engine.requests[-1].prompt)


def test_what_is_not_offered_is_told(asking):
    for path, method in (("/x/cancel", "POST"), ("/compact/now", "POST"), ("", "GET"), ("/x", "PATCH")):
        answer = asking.client.request(method, f"{asking.url}/v1/responses{path}", json={})
        assert answer.status_code in (404, 405) and answer.json()["error"]["message"]
    assert asking.client.post(f"{asking.url}/v1/responses/compact", json={}).status_code == 404


def test_a_file_of_responses_outlives_the_server(served, tmp_path):
    path = tmp_path / "responses"
    url = served(ScriptedEngine("It is dry."), [Responses(Store(path))])
    first = httpx.post(f"{url}/v1/responses", json={"input": "Is it dry?"}).json()
    engine = ScriptedEngine("Yes.")
    url = served(engine, [Responses(Store(path))])
    body = {"input": "Sure?", "previous_response_id": first["id"]}
    assert httpx.post(f"{url}/v1/responses", json=body).json()["status"] == "completed"
    assert "It is dry.<|end|>" in load_tokenizer().decode(list(engine.requests[-1].prompt))
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())


def test_a_response_that_cannot_be_stored_is_a_response(served, tmp_path, caplog):
    store = Store()
    url = served(ScriptedEngine("It is dry."), [Responses(store)])
    store._file.execute("DROP TABLE items")
    assert httpx.post(f"{url}/v1/responses", json={"input": "Is it dry?"}).json()["status"] == "completed"
    assert "a response is not stored: no such table" in caplog.text


def test_stored_responses_that_cannot_be_read_are_told_in_a_sentence(served, caplog):
    store = Store()
    url = f"{served(ScriptedEngine('It is dry.', 'Yes.'), [Responses(store)])}/v1/responses"
    id_ = httpx.post(url, json={"input": "Is it dry?"}).json()["id"]
    store._file.execute("DROP TABLE items")
    answers = [
        httpx.post(url, json={"input": "Sure?", "previous_response_id": id_}),
        httpx.post(f"{url}/input_tokens", json={"input": "Sure?", "previous_response_id": id_}),
        httpx.get(f"{url}/{id_}"),
        httpx.get(f"{url}/{id_}/input_items"),
        httpx.delete(f"{url}/{id_}"),
    ]
    for answer in answers:
        assert answer.status_code == 503
        assert "cannot be used now (no such table: items): ask again" in answer.json()["error"]["message"]
    assert "Traceback" not in caplog.text
    assert httpx.post(url, json={"input": "Sure?"}).json()["status"] == "completed"


def test_a_client_is_told_that_the_server_lives(served, monkeypatch):
    monkeypatch.setattr(connection, "_QUIET_SECONDS", 0.0)
    engine = HeldEngine(ANSWER)
    engine.hold("Hi")
    url = served(engine, [Responses()])
    with httpx.stream("POST", f"{url}/v1/responses", json={"input": "Hi", "stream": True}, timeout=30) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            if text.count("event: response.in_progress") >= 3:
                engine.release("Hi")
    events = events_of(text)
    assert check(events)["status"] == "completed"
    assert [event["type"] for event in events[:4]] == ["response.created", *["response.in_progress"] * 3]


def test_a_client_that_leaves_ends_its_response(served):
    engine = HeldEngine(ANSWER, "Yes.")
    engine.hold("Hi")
    url = served(engine, [Responses()])
    with httpx.stream("POST", f"{url}/v1/responses", json={"input": "Hi", "stream": True}, timeout=30) as answer:
        next(answer.iter_text())
    wait_until(lambda: httpx.get(f"{url}/health").json()["running"] == 0)
    assert httpx.post(f"{url}/v1/responses", json={"input": "Again"}).json()["status"] == "completed"


def test_serve_takes_a_file_for_responses(tmp_path):
    path = tmp_path / "responses"
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)

    def running(*given: str) -> Running:
        engine = ScriptedEngine("It is dry.")
        service = Service(Models.holding("gpt-oss-20b", engine, load_tokenizer()))
        return Running(serve.make_application(parser.parse_args(given), service))

    first, second = running("--store", str(path)), running("--store", str(path))
    try:
        answer = httpx.post(f"{first.url}/v1/responses", json={"input": "Is it dry?"}).json()
        assert httpx.get(f"{second.url}/v1/responses/{answer['id']}").json() == answer
    finally:
        first.stop()
        second.stop()
    with pytest.raises(OptionError, match="responses cannot be stored in"):
        running("--store", str(tmp_path / "no" / "folder"))
