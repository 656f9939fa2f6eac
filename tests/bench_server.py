"""What the server adds to the engine: time for each request and for each token, by all its APIs.

    python -m tests.bench_server [--tokens 2000] [--prompt 8000]

The engine is scripted, so nothing is computed: what is measured is reading the body, rendering the prompt, following
the format, writing events, and the way through uvicorn to a client of the same process. A request is one of an agent:
its conversation of messages with 200 tokens has grown by a short one each time. The first one, whose texts are all new,
is told by itself. All times are of the processor, so that other programs do not count; those of the client do.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from mlx_oss import ScriptedEngine, load_tokenizer
from mlx_oss.generation.engine import Request
from mlx_oss.server.app import application
from mlx_oss.server.chat_completions import ChatCompletions
from mlx_oss.server.guard import Access
from mlx_oss.server.messages import Messages
from mlx_oss.server.models import Models
from mlx_oss.server.responses import Responses
from mlx_oss.server.service import Service
from tests.server.conftest import Running

REQUESTS, AT_ONCE = 20, 8
WORDS = "the model reads a long conversation about weather in cities and writes what it thinks of each of them ".split()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "The city."}}}

Body = Callable[[list[str]], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000, help="tokens of an answer")
    parser.add_argument("--prompt", type=int, default=8000, help="tokens of a prompt")
    args = parser.parse_args()
    alone = engine_alone(args.tokens)
    sys.stdout.write(f"the engine alone: {1e3 * alone:.3f} ms a token\n")
    for path, body in (
        ("/v1/chat/completions", chat_body),
        ("/v1/messages", messages_body),
        ("/v1/responses", responses_body),
    ):
        engine = ScriptedEngine(context=1 << 20)
        apis = [ChatCompletions(), Messages(), Responses()]
        running = Running(application(Service(Models.holding("gpt-oss-20b", engine, load_tokenizer())), apis, Access()))
        try:
            sys.stdout.write(f"{path}: {measured(running.url, engine, path, body, args, alone)}\n")
        finally:
            running.stop()


def measured(url: str, engine: ScriptedEngine, path: str, body: Body, args: argparse.Namespace, alone: float) -> str:
    host = urlsplit(url).netloc
    texts = [" ".join(WORDS * 9) + f" {number}." for number in range(args.prompt // (9 * len(WORDS) + 9))]
    seconds = []
    for number in range(REQUESTS + 1):
        texts.append(f"And in city {number}?")
        engine.says("Rain.")
        seconds.append(seconds_of(host, path, body(texts) | {"stream": True}))
        texts.append("Rain.")
    first, later = seconds[0], median(seconds[1:])
    engine.says(long_answer(args.tokens))
    one = (seconds_of(host, path, body(["Hi"]) | {"stream": True}) - later) / args.tokens - alone
    engine.says(*[long_answer(args.tokens)] * AT_ONCE)
    threads = [
        threading.Thread(target=seconds_of, args=(host, path, body(["Hi"]) | {"stream": True})) for _ in range(AT_ONCE)
    ]
    started = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    many = (time.process_time() - started) / args.tokens / AT_ONCE - alone
    prompt = len(engine.requests[REQUESTS].prompt)
    return (
        f"{1e3 * later:.1f} ms a request of {prompt:,} tokens, {1e3 * first:.0f} ms the first; "
        f"{1e3 * one:.2f} ms a token, {1e3 * many:.2f} ms with {AT_ONCE} at once"
    )


def long_answer(tokens: int) -> list[int]:
    """What the model writes: half of it reasoning."""
    tokenizer = load_tokenizer()
    header, middle, end = (
        tokenizer.encode_with_specials(text)
        for text in (
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            "<|return|>",
        )
    )
    words = tokenizer.encode(" ".join(WORDS * (tokens // len(WORDS) + 1)))
    return [*header, *words[: tokens // 2], *middle, *words[: tokens // 2], *end]


def engine_alone(tokens: int) -> float:
    """Seconds of the scripted engine for each token."""
    stop = load_tokenizer().stop_ids
    started = time.process_time()
    stream = ScriptedEngine(long_answer(tokens)).submit(Request([1, 2, 3], stop_ids=stop))
    count = sum(1 for _ in stream)
    return (time.process_time() - started) / count


def seconds_of(host: str, path: str, body: dict[str, Any]) -> float:
    """Seconds from a request to the end of its response."""
    data = json.dumps(body).encode()
    connection = http.client.HTTPConnection(host, timeout=600)
    started = time.process_time()
    connection.request("POST", path, data, {"Content-Type": "application/json"})
    with connection.getresponse() as response:
        assert response.status == 200, response.read()
        response.read()
    passed = time.process_time() - started
    connection.close()
    return passed


def turns(texts: list[str], **user: Any) -> list[dict[str, Any]]:
    roles = ["assistant" if text == "Rain." else "user" for text in texts]
    return [{"role": role, "content": text, **user} for role, text in zip(roles, texts, strict=True)]


def chat_body(texts: list[str]) -> dict[str, Any]:
    function = {"name": "get_weather", "description": "Gets the weather.", "parameters": SCHEMA}
    return {"messages": turns(texts), "tools": [{"type": "function", "function": function}]}


def messages_body(texts: list[str]) -> dict[str, Any]:
    tool = {"name": "get_weather", "description": "Gets the weather.", "input_schema": SCHEMA}
    return {"messages": turns(texts), "tools": [tool], "max_tokens": 32_000, "thinking": {"type": "adaptive"}}


def responses_body(texts: list[str]) -> dict[str, Any]:
    tool = {"type": "function", "name": "get_weather", "description": "Gets the weather.", "parameters": SCHEMA}
    return {"input": turns(texts), "tools": [tool], "store": False}


if __name__ == "__main__":
    main()
