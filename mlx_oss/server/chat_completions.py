"""OpenAI's chat completions: a request as the arguments of a session, and its reply as a response.

A field of a request that this model or this version cannot follow is an error, so nothing is ignored silently. Knows
the JSON of requests and responses; nothing of files and connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_oss.chat.history import EFFORTS
from mlx_oss.constrain import Guards
from mlx_oss.errors import ContextError, HarmonyError, OptionError, quoted
from mlx_oss.events import Reply
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, ToolDescription
from mlx_oss.server.messages import FUNCTION_NAME, RequestError, messages_from

PATH = "/v1/chat/completions"

_SAMPLING = ("temperature", "top_p", "seed", "top_k", "min_p", "repetition_penalty")  # the last three are not OpenAI's
_READ = (
    "messages logit_bias max_completion_tokens max_tokens parallel_tool_calls reasoning_effort response_format "
    "tool_choice tools"
).split()
# What says nothing about the answer. `model`: the caller knows which one it runs.
_WITHOUT_INFLUENCE = (
    "metadata model prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier "
    "service_tier store user"
).split()
# What cannot be done, with the values that ask for nothing.
_UNAVAILABLE: dict[str, Sequence[Any]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "stop": ([], ""),
    "stream": (False,),
    "verbosity": ("medium",),
}
_FINISH_REASONS = {"tool_calls": "tool_calls", "stop": "stop", "no_answer": "stop"}  # others: the answer was cut off


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request, ready for a session.

    Attributes:
        messages: The conversation, which ends with what the model is to answer.
        options: Keyword arguments of `ChatSession`.
    """

    messages: Sequence[Message]
    options: Mapping[str, Any]


def request_from(body: Any) -> ChatRequest:
    """Reads the body of a request.

    Args:
        body: The body, as read from JSON.

    Raises:
        RequestError: If something in it is wrong or cannot be done.
    """
    if not isinstance(body, Mapping):
        raise RequestError(f"the body is {quoted(body)}: give an object with messages")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in _UNAVAILABLE and value not in _UNAVAILABLE[name]:
            raise RequestError(f"{name} is {quoted(value)}, which is not available here: leave it out", name)
        if name not in (*_READ, *_SAMPLING, *_WITHOUT_INFLUENCE, *_UNAVAILABLE):
            raise RequestError(f"{quoted(name)} is not available here: leave it out", name)
    options = {
        "options": _sampling(given),
        "max_tokens": _max_tokens(given),
        "reasoning_effort": _one_of("reasoning_effort", given.get("reasoning_effort", "medium"), EFFORTS),
        "response_format": _response_format(given.get("response_format")),
        **_tools(given),
    }
    return ChatRequest(messages_from(given.get("messages")), options)


def completion(reply: Reply, *, id: str, created: int, model: str) -> dict[str, Any]:
    """The response for a reply: a `chat.completion`, with the reasoning in `message.reasoning`.

    Args:
        reply: The reply of a session that `request_from` described.
        id: Identifies the response; the ids of its calls are made from it.
        created: Seconds since 1970.
        model: Name of the model that has answered.
    """
    calls = [
        {
            "id": f"call_{id.removeprefix('chatcmpl-')}_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(reply.tool_calls)
    ]
    content = (reply.text or reply.preamble or None) if calls else reply.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reply.reasoning:
        message["reasoning"] = reply.reasoning
    if calls:
        message["tool_calls"] = calls
    finish = _FINISH_REASONS.get(reply.finish_reason, "length")
    usage = reply.usage
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.generated_tokens,
            "total_tokens": usage.prompt_tokens + usage.generated_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.reused_tokens},
        },
    }


def is_of_request(error: BaseException) -> bool:
    """Whether an error is the request's own: the same request would get it again."""
    return isinstance(error, OptionError | HarmonyError | ContextError)


def failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body of the response for an error: 400 if it is the request's own, else 500."""
    kind = "invalid_request_error" if is_of_request(error) else "server_error"
    code = "context_length_exceeded" if isinstance(error, ContextError) else None
    fields = {"message": str(error), "type": kind, "param": getattr(error, "param", None), "code": code}
    return 400 if is_of_request(error) else 500, {"error": fields}


def _sampling(given: Mapping[str, Any]) -> SamplingOptions:
    values = {name: given[name] for name in _SAMPLING if name in given}
    if type(values.get("seed")) is int and -(2**63) <= values["seed"] < 0:  # OpenAI's seeds have a sign
        values["seed"] += 2**64
    if "logit_bias" in given:
        values["logit_bias"] = _logit_bias(given["logit_bias"])
    try:
        return SamplingOptions(**values)
    except OptionError as error:
        name = str(error).split(maxsplit=1)[0].partition("[")[0]
        raise RequestError(str(error), name if name in given else None) from None


def _logit_bias(biases: Any) -> dict[int, Any]:
    if not isinstance(biases, Mapping) or not all(key.isdecimal() and len(key) < 8 for key in biases):
        raise RequestError(
            f'logit_bias is {quoted(biases)}: give an object from token ids to biases, such as {{"1234": -5}}',
            "logit_bias",
        )
    return {int(key): bias for key, bias in biases.items()}


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    limits = {name: given[name] for name in ("max_completion_tokens", "max_tokens") if name in given}
    for name, limit in limits.items():
        if type(limit) is not int or limit < 1:
            raise RequestError(f"{name} is {quoted(limit)}: give a whole number of at least 1", name)
    return min(limits.values(), default=None)


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    if value not in allowed:
        raise RequestError(f"{name} is {quoted(value)}: give one of {', '.join(allowed)}", name)
    return value


def _response_format(wanted: Any) -> Any:
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is not None and kind not in ("text", "json_object", "json_schema"):
        raise RequestError(
            f"response_format is {quoted(wanted)}: give an object with type text, json_object or json_schema",
            "response_format",
        )
    return None if kind == "text" else wanted


def _tools(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a session for the functions that may be called."""
    tools = given.get("tools", [])
    if not isinstance(tools, list):
        raise RequestError(f"tools is {quoted(tools)}: give a list of functions", "tools")
    described = [_described(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    choice = given.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        raise RequestError(f"tool_choice is {quoted(choice)}, but only auto and none are available", "tool_choice")
    if not isinstance(given.get("parallel_tool_calls", True), bool):
        raise RequestError("parallel_tool_calls is neither true nor false", "parallel_tool_calls")
    if not described or choice == "none":
        return {}
    is_strict = any(tool["function"].get("strict") for tool in tools)
    return {"tools": described} | ({"guards": Guards(strict_arguments=True)} if is_strict else {})


def _described(tool: Any, where: str) -> ToolDescription:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    if not isinstance(function, Mapping):
        raise RequestError(f'{where} is {quoted(tool)}: give {{"type": "function", "function": {{...}}}}', where)
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
        raise RequestError(f"{where} is called {quoted(name)}: use up to 64 letters, digits, _ and -", where)
    if not isinstance(description, str | None) or not isinstance(parameters, Mapping | None):
        raise RequestError(f"{where} {quoted(name)}: description is a text, and parameters is a JSON schema", where)
    if not isinstance(strict, bool | None) or function.keys() - {"name", "description", "parameters", "strict"}:
        raise RequestError(f"{where} {quoted(name)}: give name, description, parameters, and strict, a bool", where)
    return ToolDescription(name, description or "", parameters)
