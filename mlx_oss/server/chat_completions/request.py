"""Reads a request of chat completions. Fields that it does not know are ignored.

Knows nothing of responses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_oss.chat.message_reader import USUAL, read
from mlx_oss.chat.transcript import Transcript
from mlx_oss.errors import quoted
from mlx_oss.harmony import Message, ToolDescription
from mlx_oss.server import options
from mlx_oss.server.asked import Asked
from mlx_oss.server.custom import as_function, wrapped
from mlx_oss.server.fields import Fields, RequestError

_SAMPLING = (
    "temperature top_p seed frequency_penalty presence_penalty logit_bias "
    "top_k min_p repetition_penalty"  # these are not OpenAI's
).split()
_MOST_CHOICES = 128
_BROWSER = "browser"


@dataclass(frozen=True, slots=True)
class Details:
    """What only the response needs to know.

    Attributes:
        include_usage: Whether a stream says what it has cost.
        custom: Names of tools that take a text.
        has_format: Whether the answer has a format, so that nothing else may stand beside it.
    """

    include_usage: bool = False
    custom: Collection[str] = ()
    has_format: bool = False


def asked(body: Any, own: Collection[str] = ()) -> Asked:
    """Reads the body of a request.

    Args:
        body: The body, as read from JSON.
        own: Names of the server's own tools that may run.

    Raises:
        RequestError: If something in it is wrong or cannot be done.
    """
    fields = Fields(body)
    _refuse_what_is_not_there(fields)
    tools, custom = _tools(fields)
    answer = _response_format(fields)
    logprobs = fields.flag("logprobs")
    top = fields.integer("top_logprobs", least=0, most=100) if logprobs else None
    stream_options = fields.fields("stream_options")
    return Asked(
        _transcript(fields, custom),
        model=fields.optional_text("model"),
        stream=fields.flag("stream"),
        fixed={
            "tools": [described for described, _ in tools],
            "tool_choice": _tool_choice(fields, [described.name for described, _ in tools]),
            **options.effort(fields, "reasoning_effort", has_tools=bool(tools)),
            **options.strict_arguments(any(is_strict for _, is_strict in tools)),
            **({} if answer is None else {"response_format": answer}),
        },
        free={
            "options": options.sampling(fields, _SAMPLING, top_logprobs=top or 0),
            "max_tokens": _max_tokens(fields),
            "stop": options.stop_texts(fields, "stop"),
            "logprobs": logprobs,
        },
        count=fields.integer("n", least=1, most=_MOST_CHOICES) or 1,
        builtin=(_BROWSER,) if fields.get("web_search_options") is not None and _BROWSER in own else (),
        details=Details(
            include_usage=stream_options is not None and stream_options.flag("include_usage"),
            custom=custom,
            has_format=answer is not None,
        ),
    )


def _refuse_what_is_not_there(fields: Fields) -> None:
    for old, new in (("functions", "tools"), ("function_call", "tool_choice")):
        if fields.get(old) not in (None, [], "auto", "none"):
            raise RequestError(f"{old} is the older form of {new}, and not available here: give {new}", old)
    modalities = fields.list("modalities")
    if modalities and "text" not in modalities:
        raise RequestError(
            f"modalities is {quoted(modalities)}, but the model writes text only: leave it out", "modalities"
        )


def _transcript(fields: Fields, custom: Collection[str]) -> Transcript:
    transcript, messages = Transcript(), fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise fields.wrong("messages", "a list with at least one message")
    read(messages, transcript, from_others=True)
    for place, message in enumerate(transcript.messages):
        if message.recipient in custom or (message.role == "tool" and message.name in custom):
            transcript.messages[place] = _as_call_of_function(message)
    return transcript


def _as_call_of_function(message: Message) -> Message:
    """A call of a tool that takes a text, or its result, in the form in which the model makes it."""
    channel, kind = USUAL["function"]
    if message.role == "tool":
        return replace(message, name=f"functions.{message.name}", channel=channel)
    text = wrapped(str(message.content))
    return replace(
        message, content=text, channel=channel, recipient=f"functions.{message.recipient}", content_type=kind
    )


def _max_tokens(fields: Fields) -> int | None:
    names = ("max_completion_tokens", "max_tokens")
    limits = [fields.integer(name, least=1) for name in names if fields.get(name) != -1]  # no limit, as others say it
    return min((limit for limit in limits if limit is not None), default=None)


def _response_format(fields: Fields) -> Mapping[str, Any] | None:
    wanted = fields.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is not None and kind not in ("text", "json_object", "json_schema"):
        raise fields.wrong("response_format", "an object with type text, json_object or json_schema")
    return None if kind in (None, "text") else wanted


def _tools(fields: Fields) -> tuple[list[tuple[ToolDescription, bool]], frozenset[str]]:
    """The functions and whether they are strict, and the names of those that take a text."""
    tools, custom = list[tuple[ToolDescription, bool]](), set[str]()
    for tool in fields.each("tools"):
        kind = tool.get("type") or "function"
        if kind == "function":
            inner = tool.fields("function")
            if inner is None:
                raise tool.wrong("function", "an object with name, description and parameters")
            tools.append((options.function(inner), inner.flag("strict")))
        elif kind == "custom":
            inner = tool.fields("custom")
            if inner is None:
                raise tool.wrong("custom", "an object with name and description")
            described = as_function(inner)
            tools.append((described, False))
            custom.add(described.name)
        elif not isinstance(kind, str):
            raise tool.wrong("type", "function or custom")
    return tools, frozenset(custom)


def _tool_choice(fields: Fields, names: Collection[str]) -> Any:
    choice = fields.get("tool_choice")
    if choice in (None, "auto", "none") or (choice == "required" and names):
        return choice or "auto"
    inner = fields.fields("tool_choice") if isinstance(choice, Mapping) else None
    kind = inner.get("type") if inner is not None else None
    if inner is not None and kind in ("function", "custom"):
        if (name := _name_in(choice)) in names:
            return name
    elif inner is not None and kind == "allowed_tools":
        allowed = inner.fields("allowed_tools") or inner
        mode = allowed.one_of("mode", ("auto", "required"), "auto")
        chosen = [{"name": name} for tool in allowed.each("tools") if (name := _name_in(tool.raw)) in names]
        if chosen:
            return {"type": "allowed_tools", "mode": mode, "tools": chosen}
    known = f"one of the tools {', '.join(names)}" if names else "leave it out, as there are no tools"
    raise fields.wrong("tool_choice", f"auto, none, required, or {known}" if names else f"auto or none, or {known}")


def _name_in(tool: Mapping[str, Any]) -> Any:
    inner = next((tool[kind] for kind in ("function", "custom") if isinstance(tool.get(kind), Mapping)), tool)
    name = inner.get("name")
    return name if isinstance(name, str) else None
