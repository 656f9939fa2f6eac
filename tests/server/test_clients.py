"""What real clients send is answered, and whatever else it may become is never an error of the server.

clients/ has requests as they were sent, with every text replaced by its length.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import MlxOssError, ScriptedEngine, load_tokenizer
from mlx_oss.server.asked import Api, status_of
from mlx_oss.server.chat_completions import ChatCompletions
from mlx_oss.server.messages import Messages
from mlx_oss.server.models import Loaded, Models
from mlx_oss.server.service import Service
from tests.server.echo import asked, streamed
from tests.server.messages.streams import built, events_of
from tests.server.scripts import ANSWER, REASONING

APIS: list[Api] = [ChatCompletions(), Messages()]
FILES = sorted((Path(__file__).parent / "clients").glob("*.json"))
REQUESTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FILES}
PATHS = {api.path: api for api in APIS}


def of(request: dict[str, Any]) -> Api | None:
    return PATHS.get(request["path"].partition("?")[0])


ASKING = [name for name, request in REQUESTS.items() if of(request) is not None]


@pytest.mark.parametrize("name", ASKING)
def test_what_clients_send_is_answered(served, name):
    request = REQUESTS[name]
    url, body = served(ScriptedEngine(REASONING + ANSWER), APIS), request["body"]
    if body.get("stream"):
        assert "18" in streamed(url, request["path"], body)
    else:
        status, response = asked(url, request["path"], body)
        assert status == 200 and "It is 18" in json.dumps(response)


LOOKING = [name for name, request in REQUESTS.items() if request["method"] != "POST"]


@pytest.mark.parametrize("name", LOOKING)
def test_what_clients_look_for_first_is_there(served, name):
    request = REQUESTS[name]
    assert asked(served(ScriptedEngine(), APIS), request["path"], method=request["method"])[0] == 200


def test_tokens_are_counted_as_clients_ask_for_it(served):
    counting = [request for request in REQUESTS.values() if request["path"].startswith("/v1/messages/count_tokens")]
    assert counting
    for request in counting:
        assert asked(served(ScriptedEngine(), APIS), request["path"], request["body"])[1]["input_tokens"] > 50


def test_an_agent_that_asks_again_changes_nothing_before_its_new_messages(served):
    """The line that changes each time is not in the prompt, and the rest of it is the same."""
    request = copy.deepcopy(REQUESTS["claude-code-002"])
    body, prompts = request["body"], []
    for number in range(2):
        engine = ScriptedEngine(REASONING + ANSWER)
        line = f"x-anthropic-billing-header: cc_version=2.1.{number}; cch={number}af;"
        body["system"] = [{"type": "text", "text": line}, *REQUESTS["claude-code-002"]["body"]["system"]]
        assert built(events_of(streamed(served(engine, APIS), request["path"], body)))
        prompts.append(list(engine.requests[0].prompt))
    assert prompts[0] == prompts[1] and "billing" not in load_tokenizer().decode(prompts[0])


def is_answered_or_refused(body: Any, api: Api) -> bool:
    """Whether a body is one that can be answered. Raises whatever is not an error of the client."""
    service = Service(Models.holding("gpt-oss-20b", engine := ScriptedEngine(), load_tokenizer()))
    try:
        wanted = api.asked(body)
        service.models.name_of(wanted.model)
        assert service.count_tokens(Loaded("gpt-oss-20b", engine, load_tokenizer()), wanted) > 0
        assert json.dumps(api.writer(wanted, "gpt-oss-20b").body)
    except MlxOssError as error:
        assert status_of(error) < 500 and len(str(error)) < 2100
        assert json.dumps(api.failure(error))
        return False
    return True


ODD: list[Any] = [None, True, 0, -1, 1.5, 10**30, "", "x", "auto", [], {}, [[]], [{}], {"type": "x"}, {"type": []}]


def changed(value: Any, pick: random.Random, pool: list[Any]) -> Any:
    """The value with something in it dropped, replaced or nested."""
    if isinstance(value, dict | list) and value and pick.random() < 0.85:
        copied = copy.copy(value)
        place: Any = pick.choice([*value] if isinstance(value, dict) else range(len(value)))
        if pick.random() < 0.15:
            del copied[place]
        else:
            copied[place] = changed(copied[place], pick, pool)
        return copied
    kind = pick.random()
    if kind < 0.5:
        return pick.choice(ODD)
    return pick.choice(pool) if kind < 0.8 else [value] if kind < 0.9 else {"type": "text", "text": value}


def parts(value: Any) -> list[Any]:
    """The value and everything in it."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for inner in inside for part in parts(inner))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ASKING)
def test_a_changed_request_is_answered_or_refused(name, seed):
    pick, request = random.Random(f"{name} {seed}"), REQUESTS[name]
    api, pool = of(request), parts(request["body"])
    assert api is not None
    outcomes = set()
    for _ in range(25):
        body = request["body"]
        for _ in range(pick.randint(1, 4)):
            body = changed(body, pick, pool)
        outcomes.add(is_answered_or_refused(body, api))
    assert outcomes
