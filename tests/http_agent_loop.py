"""An agent that calls a tool again and again over HTTP, and sends its whole history each time, as clients do.

What becomes of the model's reasoning differs between clients: they send it back as it was (`echoed`), only in the form
that they cannot read (`sealed`), or not at all (`dropped`). Knows nothing of the server behind the address.
"""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Callable, Generator
from typing import Any, Literal

Reasoning = Literal["echoed", "sealed", "dropped"]
Json = dict[str, Any]

PLACES = ["cellar", "garden", "attic", "kitchen"]
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "enum": PLACES}},
    "required": ["place"],
    "additionalProperties": False,
}
WORDS = "the a red blue small large old new box key lamp rope map coin door wall stair and with under over near".split()


def words(draw: random.Random, count: int) -> str:
    """A text of so many words, about as many tokens."""
    return " ".join(draw.choices(WORDS, k=count))


def post(url: str, body: Json) -> Json:
    """The answer to a JSON request."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: Json = json.load(response)
        return answer


def responses(address: str, model: str, preamble: str, reasoning: Reasoning) -> Generator[None, str, None]:
    """Over OpenAI's Responses, without anything that the server stores. Each `send` of a result is a request."""
    tool = {"type": "function", "name": "look", "description": "Looks around.", "strict": True, "parameters": SCHEMA}
    body: Json = {"model": model, "instructions": preamble, "tools": [tool], "tool_choice": "required"}
    body |= {"store": False, "include": ["reasoning.encrypted_content"], "max_output_tokens": 2000}
    history: list[Json] = [{"role": "user", "content": "Look around."}]
    while True:
        output = post(f"{address}/v1/responses", {**body, "input": history})["output"]
        for item in output:
            if item["type"] != "reasoning":
                history.append(item)
            elif reasoning == "echoed":
                history.append({key: value for key, value in item.items() if key != "encrypted_content"})
            elif reasoning == "sealed":
                history.append({key: value for key, value in item.items() if key != "content"} | {"summary": []})
        call = next(item for item in output if item["type"] == "function_call")
        history.append({"type": "function_call_output", "call_id": call["call_id"], "output": (yield)})


def chat_completions(address: str, model: str, preamble: str, reasoning: Reasoning) -> Generator[None, str, None]:
    """Over Chat Completions; there is no sealed form, so the second of two names of the reasoning stands for it."""
    function = {"name": "look", "description": "Looks around.", "strict": True, "parameters": SCHEMA}
    body: Json = {"model": model, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    body |= {"max_completion_tokens": 2000}
    messages: list[Json] = [{"role": "system", "content": preamble}, {"role": "user", "content": "Look around."}]
    while True:
        message = post(f"{address}/v1/chat/completions", {**body, "messages": messages})["choices"][0]["message"]
        kept = {"echoed": "reasoning", "sealed": "reasoning_content", "dropped": None}[reasoning]
        names = ("role", "content", "tool_calls", kept)
        messages.append({name: message[name] for name in names if name is not None and name in message})
        call = message["tool_calls"][0]["id"]
        messages.append({"role": "tool", "tool_call_id": call, "content": (yield)})


def messages(address: str, model: str, preamble: str, reasoning: Reasoning) -> Generator[None, str, None]:
    """Over Anthropic's Messages; a sealed block of thinking has its signature only."""
    tool = {"name": "look", "description": "Looks around.", "input_schema": SCHEMA}
    body: Json = {"model": model, "system": preamble, "tools": [tool], "tool_choice": {"type": "any"}}
    body |= {"max_tokens": 2000, "thinking": {"type": "adaptive"}}
    history: list[Json] = [{"role": "user", "content": "Look around."}]
    while True:
        content = post(f"{address}/v1/messages", {**body, "messages": history})["content"]
        call = next(block["id"] for block in content if block["type"] == "tool_use")
        if reasoning == "dropped":
            content = [block for block in content if block["type"] != "thinking"]
        elif reasoning == "sealed":
            content = [block | ({"thinking": ""} if block["type"] == "thinking" else {}) for block in content]
        result = {"type": "tool_result", "tool_use_id": call, "content": (yield)}
        history += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]


Api = Callable[[str, str, str, Reasoning], Generator[None, str, None]]
APIS: dict[str, Api] = {"Responses": responses, "Chat Completions": chat_completions, "Messages": messages}
