"""The requests of a batch are answered at the same time, and one that cannot be does not hold up the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_oss import DeviceError, EngineError, MlxOssError, Reply, ScriptedEngine, load_tokenizer
from mlx_oss.server.batch import answer
from mlx_oss.server.batch_files import BatchRequest
from tests.engines import HeldEngine, wait_until

TOKENIZER = load_tokenizer()


def request(name: str, text: str = "Hi", **body: Any) -> BatchRequest:
    body = {"messages": [{"role": "user", "content": text}]} | body
    fields = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return BatchRequest(name, f"batch_req_{name}", fields)


def outcomes(requests: Any, *answers: Any, at_once: int = 1, context: int = 4096) -> dict[str, Reply | MlxOssError]:
    engine = ScriptedEngine(*answers, context=context)
    return {done.custom_id: outcome for done, outcome in answer(requests, engine, TOKENIZER, at_once=at_once)}


def test_every_request_gets_its_own_reply():
    engine = ScriptedEngine(*"ABCDE")
    requests = [request(name, name) for name in "abcde"]
    done = {first.custom_id: outcome.text for first, outcome in answer(requests, engine, TOKENIZER, at_once=2)}  # type: ignore[union-attr]
    asked = [TOKENIZER.decode(list(one.prompt)).split("<|end|>")[-2][-1] for one in engine.requests]
    assert {name: text.lower() for name, text in done.items()} == dict(zip("abcde", asked, strict=True))


def test_what_cannot_be_answered_is_an_error_in_its_place():
    wrong_url = BatchRequest("u", "batch_req_u", {**request("u").fields, "url": "/v1/embeddings"})
    wrong_method = BatchRequest("m", "batch_req_m", {**request("m").fields, "method": "GET"})
    requests = [request("a"), request("b", n=2), wrong_url, wrong_method, request("l", "x " * 999), request("z")]
    got = outcomes(requests, "A", "Z", context=600)
    assert {name for name, outcome in got.items() if isinstance(outcome, Reply)} == {"a", "z"}
    assert "n asks for a stream, several answers" in str(got["b"]) and "leave no room" in str(got["l"])
    assert str(got["u"]) == 'url is \'/v1/embeddings\': give method "POST" and url "/v1/chat/completions"'
    assert str(got["m"]).startswith("method is 'GET'")


def test_a_schema_that_cannot_be_enforced_is_an_error_in_its_place():
    schema = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "nothing"}}}
    got = outcomes([request("a", response_format=schema), request("b")], "B")
    assert isinstance(got["a"], MlxOssError) and isinstance(got["b"], Reply)


def test_an_error_of_the_device_is_that_of_its_request():
    got = outcomes([request("a"), request("b")], DeviceError("no memory"), "B")
    assert isinstance(got["a"], DeviceError) and isinstance(got["b"], Reply)


def test_a_device_that_fails_again_and_again_ends_the_batch():
    requests = [request(f"{number}") for number in range(40)]
    with pytest.raises(DeviceError, match="no GPU"):
        outcomes(requests, *[DeviceError("no GPU")] * 40)


def test_what_is_nobodys_own_error_ends_the_batch():
    with pytest.raises(EngineError, match="broken"):
        outcomes([request("a"), request("b")], "A", EngineError("broken"))


def test_requests_are_read_only_a_few_ahead():
    taken: list[str] = []

    def many() -> Iterator[BatchRequest]:
        for number in range(1000):
            taken.append(f"{number}")
            yield request(f"{number}")

    answers = answer(many(), ScriptedEngine(*["x"] * 1000), TOKENIZER, at_once=2)
    next(answers)
    assert len(taken) <= 5
    answers.close()
    assert "mlx-oss turns" not in [thread.name for thread in threading.enumerate()]


def test_requests_that_take_long_are_not_read_further_either():
    taken: list[str] = []

    def many() -> Iterator[BatchRequest]:
        for name in "abcdefghij":
            taken.append(name)
            yield request(name, name)

    engine = HeldEngine(*"ABCDEFGHIJ")
    engine.hold(*"abcdefghij")
    answers = answer(many(), engine, TOKENIZER, at_once=2)
    reading = threading.Thread(target=lambda: next(answers))
    reading.start()
    wait_until(lambda: len(taken) == 5 and len(engine.begun) == 2)
    engine.release("a")
    reading.join(20)
    assert not reading.is_alive() and len(taken) == 5
    answers.close()


def test_instructions_and_history_reach_the_model():
    engine = ScriptedEngine("Oui.")
    messages = [
        {"role": "system", "content": "In French."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Bonjour."},
        {"role": "user", "content": "Yes?"},
    ]
    assert [done.text for _, done in answer([request("a", messages=messages)], engine, TOKENIZER)] == ["Oui."]  # type: ignore[union-attr]
    shown = TOKENIZER.decode(list(engine.requests[0].prompt))
    assert "# Instructions\n\nIn French.<|end|>" in shown
    assert "<|start|>assistant<|channel|>final<|message|>Bonjour.<|end|>" in shown
    assert shown.endswith("<|start|>user<|message|>Yes?<|end|><|start|>assistant")
