"""Reads a request to Anthropic's Messages. Fields that it does not know are ignored.

Knows nothing of responses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlx_oss.chat.transcript import Transcript
from mlx_oss.harmony import ToolDescription
from mlx_oss.server import options
from mlx_oss.server.asked import Asked
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.messages.blocks import read_message, system_text
from mlx_oss.server.messages.thinking import thinking

NO_THREADS = "thread_unsupported_request"  # of an error, in the words of Anthropic's API
_SAMPLING = ("temperature", "top_p", "top_k")
_BROWSER = "browser"
_OF_THE_BROWSER = ("web_search", "web_fetch")


@dataclass(frozen=True, slots=True)
class Details:
    """What only the response needs to know.

    Attributes:
        model: The model that the request names; the response repeats it.
        shown: What the response has of the reasoning; None for no block at all.
        own: Names of the server's own tools that the model may call.
    """

    model: str | None = None
    shown: Literal["text", "signature"] | None = None
    own: Collection[str] = ()


def asked(body: Any, own: Collection[str] = ()) -> Asked:
    """Reads the body of a request.

    Args:
        body: The body, as read from JSON.
        own: Names of the server's own tools that may run.

    Raises:
        RequestError: If something in it is wrong or cannot be done.
    """
    fields = Fields(body)
    if fields.get("thread") is not None:  # the SDK's tool runner asks for one, and does without it after this error
        raise RequestError("thread is not available: send all messages", "thread", code=NO_THREADS)
    transcript = _transcript(fields)
    tools, builtin = _tools(fields, own)
    reasoning = thinking(fields)
    model = fields.optional_text("model")
    format_ = _response_format(fields)
    return Asked(
        transcript,
        # Clients of Anthropic ask with these names even if they are told another one, for small things.
        model=None if model is not None and model.startswith("claude") else model,
        stream=fields.flag("stream"),
        fixed={
            "tools": [described for described, _ in tools],
            "tool_choice": _tool_choice(fields, [described.name for described, _ in tools], bool(builtin)),
            **reasoning.settings,
            **options.strict_arguments(any(is_strict for _, is_strict in tools)),
            **({} if format_ is None else {"response_format": format_}),
        },
        free={
            "options": options.sampling(fields, _SAMPLING),
            "max_tokens": fields.integer("max_tokens", least=1),
            "stop": options.stop_texts(fields, "stop_sequences"),
        },
        builtin=builtin,
        details=Details(model, reasoning.shown, builtin),
    )


def _transcript(fields: Fields) -> Transcript:
    transcript, messages = Transcript(), [*fields.each("messages")]
    if not messages:
        raise fields.wrong("messages", "a list with at least one message")
    transcript.instruct(system_text(fields))
    for message in messages:
        read_message(message, transcript)
    if messages[-1].get("role") == "assistant":
        raise RequestError(
            f"{messages[-1].path} is of the assistant, but the model does not continue a text that was begun for it: "
            "end with a message of the user",
            messages[-1].path,
        )
    return transcript


def _tools(fields: Fields, own: Collection[str]) -> tuple[list[tuple[ToolDescription, bool]], tuple[str, ...]]:
    """The functions and whether they are strict, and the server's own tools. Tools of other types are left out."""
    tools, builtin = list[tuple[ToolDescription, bool]](), set[str]()
    for tool in fields.each("tools"):
        kind = tool.get("type")
        if kind in (None, "custom") or isinstance(tool.get("input_schema"), Mapping):
            tools.append((options.function(tool, parameters="input_schema"), tool.flag("strict")))
        elif isinstance(kind, str) and kind.startswith(_OF_THE_BROWSER) and _BROWSER in own:
            builtin.add(_BROWSER)
    return tools, tuple(builtin)


def _tool_choice(fields: Fields, names: Collection[str], has_own: bool) -> Any:
    choice = fields.fields("tool_choice")
    kind = choice.one_of("type", ("auto", "any", "tool", "none"), "auto") if choice is not None else "auto"
    if choice is None or kind in ("auto", "none"):
        return kind
    if kind == "any" and names:
        return "required"
    if kind == "tool" and (name := choice.text("name")) in names:
        return name
    if has_own:  # which cannot be asked for
        return "auto"
    known = f"one of the tools {', '.join(names)}" if names else "leave it out, as there are no tools"
    raise fields.wrong("tool_choice", f"the type auto, any or none, or {known}" if names else f"tools, or {known}")


def _response_format(fields: Fields) -> Mapping[str, Any] | None:
    config = fields.fields("output_config")
    wanted = config.fields("format") if config is not None else None
    wanted = wanted or fields.fields("output_format")  # as it was called before
    if wanted is None or wanted.get("type") != "json_schema":
        return None
    if not isinstance(wanted.get("schema"), Mapping):
        raise wanted.wrong("schema", "a JSON schema, which is an object")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.get("schema")}}
