"""Renders messages to token ids: the text and control tokens that the model reads.

Token-identical to openai-harmony 0.0.8, which encodes each part of a message separately. The format is described in
openai/harmony `docs/format.md`. Response formats follow that document alone, because openai-harmony cannot render them.
The text of a message can never become a control token. Knows nothing of turns: `history` decides which earlier messages
remain in the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import get_args

from mlx_oss.errors import HarmonyError, quoted
from mlx_oss.harmony.messages import (
    Content,
    DeveloperContent,
    Message,
    ResponseFormat,
    Role,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)
from mlx_oss.harmony.typescript import compact_json, type_of
from mlx_oss.tokenizer import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START, Tokenizer, load_tokenizer

CONSTRAIN_TEXT = "<|constrain|>"


def render_conversation(
    messages: Iterable[Message], *, next_role: Role | None = None, tokenizer: Tokenizer | None = None
) -> list[int]:
    """Renders a conversation to the token ids of a prompt.

    Args:
        messages: The messages, in order.
        next_role: Role of the message that the model should write next. `<|start|>` and this role are appended. None
            appends nothing.
        tokenizer: The tokenizer of the model, as `mlx_oss.load` returns it. None means that of the releases.

    Returns:
        The token ids.

    Raises:
        HarmonyError: If a message cannot be rendered, see `render_message`.
    """
    messages = list(messages)
    functions = any(offers_functions(message) for message in messages if isinstance(message, Message))
    ids = [id_ for message in messages for id_ in render_message(message, functions=functions, tokenizer=tokenizer)]
    if next_role is not None:
        ids += [START, *_encode_word(next_role)]
    return ids


def render_message(message: Message, *, functions: bool = False, tokenizer: Tokenizer | None = None) -> list[int]:
    """Renders one message to token ids.

    Args:
        message: The message.
        functions: Whether a developer message of the conversation offers functions. If so, a system message tells the
            model to call them on the commentary channel.
        tokenizer: The tokenizer of the model, as `mlx_oss.load` returns it. None means that of the releases.

    Returns:
        The token ids, from `<|start|>` to `<|end|>`, or to `<|call|>` for an assistant message with a recipient.

    Raises:
        HarmonyError: If a tool message has no name, the content does not fit the role, two tool namespaces or two
            response formats have the same name, or a tool or response format cannot be described.
    """
    if not isinstance(message, Message):
        raise HarmonyError(
            f"{quoted(message)} is not a message: give Message(role, text), or message_from_dict(...) of a dict"
        )
    ids = [START, *_author(message)]
    if message.recipient is not None and message.recipient != "all":
        ids += _encode_word(f" to={message.recipient}")
    if message.channel is not None:
        ids += [CHANNEL, *_encode_word(message.channel)]
    if message.content_type is not None:
        ids += _content_type(message.content_type)
    ids.append(MESSAGE)
    for content in message.contents:
        ids += (tokenizer or load_tokenizer()).encode(_content_text(content, message.role, functions))
    ids.append(CALL if message.role == "assistant" and message.recipient is not None else END)
    return ids


def _author(message: Message) -> list[int]:
    if message.role not in get_args(Role):
        raise HarmonyError(
            f"a message has the role {quoted(message.role)}, expected one of {', '.join(get_args(Role))}"
        )
    if message.role == "tool":
        if not message.name:
            raise HarmonyError("a tool message has no name: set Message.name to the name of the tool that was called")
        return _encode_word(message.name)
    return _encode_word(message.role) + (_encode_word(f":{message.name}") if message.name is not None else [])


def _content_type(content_type: str) -> list[int]:
    if not content_type.startswith(CONSTRAIN_TEXT):
        return _encode_word(f" {content_type}")
    return [*_encode_word(" "), CONSTRAIN, *_encode_word(content_type.removeprefix(CONSTRAIN_TEXT))]


@lru_cache(maxsize=1024)
def _word_ids(word: str) -> tuple[int, ...]:
    return tuple(load_tokenizer().encode(word))


def _encode_word(word: str) -> list[int]:
    """Encodes a short text of a header. The ids are cached, because these texts are often the same."""
    return list(_word_ids(word))


def _content_text(content: Content, role: Role, functions: bool) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, SystemContent | DeveloperContent):
        raise HarmonyError(f"a message of role {role!r} has the content {quoted(content)}, expected a text")
    expected = "system" if isinstance(content, SystemContent) else "developer"
    if role != expected:
        raise HarmonyError(
            f"{type(content).__name__} in a message of role {role!r}: put it into a message of role {expected!r}"
        )
    return "\n\n".join(_system(content, functions) if isinstance(content, SystemContent) else _developer(content))


def _system(content: SystemContent, functions: bool) -> Iterator[str]:
    top = (
        content.model_identity,
        content.knowledge_cutoff and f"Knowledge cutoff: {content.knowledge_cutoff}",
        content.conversation_start_date and f"Current date: {content.conversation_start_date}",
    )
    if any(top):
        yield "\n".join(filter(None, top))
    if content.reasoning_effort:
        yield f"Reasoning: {content.reasoning_effort}"
    yield from _tools(content.tools)
    if content.valid_channels:
        channels = f"# Valid channels: {', '.join(content.valid_channels)}. Channel must be included for every message."
        yield (
            f"{channels}\nCalls to these tools must go to the commentary channel: 'functions'."
            if functions
            else channels
        )


def _developer(content: DeveloperContent) -> Iterator[str]:
    if content.instructions:
        yield "# Instructions"
        yield content.instructions
    yield from _tools(content.tools)
    yield from _response_formats(content.response_formats)


def _tools(namespaces: Iterable[ToolNamespace]) -> Iterator[str]:
    by_name: dict[str, ToolNamespace] = {}
    for namespace in namespaces:
        if by_name.setdefault(namespace.name, namespace) is not namespace:
            raise HarmonyError(f"two tool namespaces are called {namespace.name!r}: put their tools into one namespace")
    if by_name:
        yield "# Tools"
    for name in sorted(by_name):
        yield "\n".join(_namespace(by_name[name]))


def _namespace(namespace: ToolNamespace) -> Iterator[str]:
    yield f"## {namespace.name}\n"
    mark = "// " if namespace.tools else ""
    for line in _lines(namespace.description or ""):
        yield mark + line
    if namespace.tools:
        yield f"namespace {namespace.name} {{\n"
        for tool in namespace.tools:
            yield from _tool(tool)
        yield f"}} // namespace {namespace.name}"


def _tool(tool: ToolDescription) -> Iterator[str]:
    for line in _lines(tool.description):
        yield f"// {line}"
    try:
        arguments = "" if tool.parameters is None else f"_: {type_of(tool.parameters)}"
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise HarmonyError(
            f"tool {tool.name!r}: its parameters are not a JSON schema ({error}): correct ToolDescription.parameters"
        ) from error
    yield f"type {tool.name} = ({arguments}) => any;\n"


def _response_formats(formats: Iterable[ResponseFormat]) -> Iterator[str]:
    """The section "Structured output" of the format document; its only example lacks the heading of the format."""
    seen: set[str] = set()
    for format_ in formats:
        if format_.name in seen:
            raise HarmonyError(f"two response formats are called {format_.name!r}: give each a name of its own")
        if not seen:
            yield "# Response Formats"
        seen.add(format_.name)
        yield f"## {format_.name}"
        try:
            schema = compact_json(format_.schema)
        except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
            raise HarmonyError(
                f"response format {format_.name!r}: its schema is not JSON ({error}): correct ResponseFormat.schema"
            ) from error
        yield "\n".join([*(f"// {line}" for line in _lines(format_.description or "")), schema])


def _lines(text: str) -> list[str]:
    """Splits `text` as Rust's `str::lines` does: at \\n and \\r\\n only, without an empty last line."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def offers_functions(message: Message) -> bool:
    blocks = (content for content in message.contents if isinstance(content, DeveloperContent))
    return any(space.name == "functions" and space.tools for block in blocks for space in block.tools)
