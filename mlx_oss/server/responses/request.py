"""Reads a request of the Responses API. Knows nothing of how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_oss.chat.transcript import Transcript
from mlx_oss.errors import quoted
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.server import options
from mlx_oss.server.asked import Asked
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.responses.items import Item, ItemReader
from mlx_oss.server.responses.servers import Servers
from mlx_oss.server.responses.tools import Tools, read_tools

_SAMPLING = (
    "temperature top_p frequency_penalty presence_penalty "
    "seed logit_bias top_k min_p repetition_penalty"  # these are not OpenAI's here
).split()
_SUMMARIES = ("auto", "concise", "detailed", "none")
_VERBOSITIES = ("low", "medium", "high")
_MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Details:
    """What only this API knows of a request.

    Attributes:
        tools: The tools.
        echo: Fields of the response that repeat the request.
        include: What of the items is wanted besides the usual.
        has_summary: Whether the reasoning is streamed as its summary.
        items: The items of this request.
        is_stored: Whether the response is to be stored.
    """

    tools: Tools
    echo: Mapping[str, Any]
    include: Collection[str] = ()
    has_summary: bool = False
    items: Sequence[Item] = ()
    is_stored: bool = True


@dataclass(frozen=True, slots=True)
class History:
    """What is stored, as a reader of requests asks for it.

    Attributes:
        before: The items of a response and of those that it continues, from their beginning. Raises RequestError if
            it is not stored.
        item: An item by its id; None if it is not stored.
    """

    before: Callable[[str], Sequence[Item]]
    item: Callable[[str], Item | None]


def read_request(value: Any, own: Collection[str], history: History, servers: Servers | None = None) -> Asked:
    """Reads the body of a request.

    Args:
        value: The body, as read from JSON.
        own: The server's own tools that may run.
        history: What is stored.
        servers: The MCP servers that there are.

    Raises:
        RequestError: If something in it is wrong.
    """
    body = Fields(value)
    for name in ("background", "conversation", "prompt"):
        if body.get(name):
            raise RequestError(f"{name} is not available here: leave it out, and send the whole conversation", name)
    tools, items = read_tools(body, own, servers), _items(body)
    text = body.fields("text") or Fields({}, "text")
    reasoning = body.fields("reasoning") or Fields({}, "reasoning")
    include = frozenset(name for name in body.list("include") if isinstance(name, str))
    fixed: dict[str, Any] = {
        "tools": tools.functions,
        "groups": tools.groups,
        "response_format": _response_format(text),
        **options.effort(reasoning, "effort", has_tools=not tools.is_empty),
    }
    top = body.integer("top_logprobs", least=0, most=_MOST_LOGPROBS) or 0
    free: dict[str, Any] = {
        "options": options.sampling(body, _SAMPLING, top_logprobs=top),
        "logprobs": "message.output_text.logprobs" in include or top > 0,
        **_limits(body),
    }
    (free if tools.builtin else fixed)["tool_choice"] = tools.choice  # own tools are made for each turn
    summary = _summary(reasoning)
    echo = _echo(body, text, free["options"]) | {
        "max_output_tokens": free.get("max_tokens"),
        "max_tool_calls": free.get("max_rounds"),
        "reasoning": {"effort": reasoning.get("effort") or "medium", "summary": summary},
    }
    return Asked(
        _transcript(body, items, tools, history),
        model=body.optional_text("model"),
        stream=body.flag("stream"),
        fixed=fixed,
        free=free,
        builtin=tools.builtin,
        chosen=tools.chosen,
        details=Details(tools, echo, include, summary is not None, items, body.flag("store", True)),
    )


def _transcript(body: Fields, items: Sequence[Item], tools: Tools, history: History) -> Transcript:
    transcript, previous = Transcript(), body.optional_text("previous_response_id")
    transcript.instruct(body.text("instructions", ""))
    reader = ItemReader(transcript, tools, history.item)
    for name, told in (("previous", history.before(previous) if previous else ()), ("input", items)):
        for number, item in enumerate(told):
            reader.read(Fields(item, f"{name}[{number}]"))
    return transcript


def _limits(body: Fields) -> dict[str, Any]:
    """The arguments of `Settings` for how much is read and written, and how often own tools run."""
    given = {
        "max_tokens": body.integer("max_output_tokens", least=1),
        "max_rounds": body.integer("max_tool_calls", least=0),
        "context_policy": {"auto": "drop_oldest", "disabled": None}[_truncation(body)],
    }
    return {name: value for name, value in given.items() if value is not None}


def _truncation(body: Fields) -> str:
    return body.one_of("truncation", ("auto", "disabled"), "disabled")


def _echo(body: Fields, text: Fields, sampling: SamplingOptions) -> dict[str, Any]:
    """What a response repeats of its request."""
    format_, metadata = text.get("format"), body.fields("metadata")
    return {
        "background": False,
        "instructions": body.optional_text("instructions"),
        "parallel_tool_calls": body.flag("parallel_tool_calls", True),
        "previous_response_id": body.optional_text("previous_response_id"),
        "prompt_cache_key": _echoed(body, "prompt_cache_key"),
        "safety_identifier": _echoed(body, "safety_identifier"),
        "service_tier": "default",
        "store": body.flag("store", True),
        "temperature": sampling.temperature,
        "text": {"format": format_ or {"type": "text"}, "verbosity": text.one_of("verbosity", _VERBOSITIES, "medium")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_echoed_tool(tool) for tool in body.list("tools")],
        "top_logprobs": sampling.top_logprobs,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "truncation": _truncation(body),
        "user": _echoed(body, "user"),
        "metadata": {} if metadata is None else metadata.raw,
    }


def _items(body: Fields) -> list[Item]:
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if given is None and body.get("previous_response_id") is None:
        raise RequestError("input is missing: give a text, or a list of items", "input")
    if given is not None and not isinstance(given, list):
        raise body.wrong("input", "a text, or a list of items")
    return [dict(item.raw) for item in body.each("input")]


def _summary(reasoning: Fields) -> str | None:
    name = "summary" if reasoning.get("summary") is not None else "generate_summary"
    summary = reasoning.one_of(name, _SUMMARIES, "none")
    return None if summary == "none" else summary


def _response_format(text: Fields) -> Any:
    format_ = text.fields("format") or Fields({}, text.where("format"))
    kind = format_.one_of("type", ("text", "json_schema", "json_object"), "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    inner = format_.fields("json_schema") or format_  # as chat completions have it
    if not isinstance(inner.get("schema"), Mapping):
        raise inner.wrong("schema", "a JSON schema")
    described = {"name": inner.text("name", "answer"), "schema": inner.get("schema"), "strict": inner.flag("strict")}
    if (description := inner.optional_text("description")) is not None:
        described["description"] = description
    return {"type": "json_schema", "json_schema": described}


def _echoed(body: Fields, name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def _echoed_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as responses have it: clients expect each key of a function."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": False, **tool}


def not_stored(id_: str) -> RequestError:
    """The error for a response that is not, or no longer, stored."""
    return RequestError(
        f"the response {quoted(id_)} is not stored here: send the whole conversation as `input`, without "
        "previous_response_id",
        "previous_response_id",
        code="previous_response_not_found",
    )
