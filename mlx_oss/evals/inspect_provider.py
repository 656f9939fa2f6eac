"""The models for inspect-ai, computed in this process: `inspect eval TASK --model mlx-oss/20b`.

inspect-ai finds this module by the entry point `inspect_ai`. What stands behind `mlx-oss/` is a model as everywhere in
mlx-oss; `-M` takes `memory`, `context`, `dtype` and `date`. Requests that are made at the same time are computed
together. Needs the extra `evals`.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo

from mlx_oss import json_text
from mlx_oss.backend.mlx_library import load_mlx
from mlx_oss.chat.history import Conversation
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.session import ChatSession
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.events import Reply, TokenLogprob, collect
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import ToolDescription
from mlx_oss.tokenizer import Tokenizer

_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}  # others are the model's own
_REASONS: dict[str, StopReason] = {"stop": "stop", "no_answer": "stop", "tool_calls": "tool_calls"}
_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "logit_bias", "top_logprobs")
_MOST_CALLS = 2_000  # whose conversations are remembered


class MlxOss(ModelAPI):
    """A model of mlx-oss for inspect-ai.

    Args:
        model_name: The name of the model, or its folder.
        base_url: Not used: the model runs in this process.
        api_key: Not used.
        config: Defaults for all requests.
        memory: As for `mlx_oss.load`.
        context: As for `mlx_oss.load`.
        dtype: As for `mlx_oss.load`.
        date: The date that the model is told; None means today.
        engine: An engine in place of the named model, such as a `ScriptedEngine`; with `tokenizer`.
        tokenizer: Its tokenizer.

    Raises:
        MlxOssError: If the model cannot be loaded.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        memory: str | int | None = None,
        context: int | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        date: str | None = None,
        engine: Engine | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if engine is None or tokenizer is None:
            load_mlx()
            from mlx_oss.loader import load

            engine, tokenizer = load(model_name, memory=memory, context=context, dtype=dtype)
        self._engine, self._tokenizer, self._date = engine, tokenizer, None if date is None else str(date)
        # By the id of a call: its arguments as the model wrote them, and the conversation with its ids up to there.
        self._written: OrderedDict[str, tuple[str, Conversation]] = OrderedDict()

    def max_connections(self) -> int:
        """As many requests at the same time as the engine computes together."""
        return self._engine.at_once

    def connection_key(self) -> str:
        """Requests to the same model share the connections."""
        return self.model_name

    async def count_text_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self._tokenizer.encode(text))

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answers a conversation.

        Args:
            input: The conversation.
            tools: What the model may call.
            tool_choice: Whether it may, must or must not call something.
            config: How to answer.

        Raises:
            MlxOssError: If the conversation or an option cannot be used, or the model cannot compute.
        """
        if not input or input[-1].role == "assistant":
            raise OptionError("the conversation ends with an answer: end it with the user, or with a tool's result")
        session = ChatSession(
            self._engine,
            self._tokenizer,
            tools=[ToolDescription(tool.name, tool.description, _schema(tool.parameters)) for tool in tools],
            tool_choice=_choice(tool_choice) if tools else "auto",
            current_date=self._date,
            **_options(config, has_tools=bool(tools)),
        )
        for message in reversed(input):
            if isinstance(message, ChatMessageAssistant) and message.tool_calls:
                if (written := self._written.get(message.tool_calls[-1].id)) is not None:
                    session._conversation = LiveConversation(written[1])
                break
        session.messages = [*self._messages(input)]  # what was there before keeps its ids
        try:
            answers = await asyncio.gather(*(self._reply(session, k) for k in range(config.num_choices or 1)))
        except ContextError as error:
            return ModelOutput.from_content(self.model_name, str(error), stop_reason="model_length")
        choices = [self._choice(reply, conversation, config) for reply, conversation in answers]
        usage = self._usage([reply for reply, _ in answers])
        return ModelOutput(model=self.model_name, choices=choices, usage=usage)

    async def _reply(self, session: ChatSession, number: int) -> tuple[Reply, Conversation]:
        """One of several answers, and the conversation with it. With a seed, each has the next higher one."""
        session = session.fork()
        if session.options.seed is not None:
            session.options = replace(session.options, seed=(session.options.seed + number) % 2**64)
        reply = collect([event async for event in session.aresume()])
        return reply, session._conversation.current

    def _messages(self, input: Iterable[ChatMessage]) -> Iterator[dict[str, Any]]:
        """The conversation in the form of OpenAI's API."""
        for message in input:
            said: dict[str, Any] = {"role": message.role, "content": _text(message.content)}
            if isinstance(message, ChatMessageAssistant):
                said["reasoning"] = _reasoning(message.content)
                said["tool_calls"] = [
                    {
                        "id": call.id,
                        "function": {
                            "name": call.function,
                            "arguments": self._arguments(call),
                        },
                    }
                    for call in message.tool_calls or ()
                ]
            elif isinstance(message, ChatMessageTool):
                said |= {"tool_call_id": message.tool_call_id, "name": message.function}
                if message.error is not None:
                    said["content"] = f"Error: {message.error.message}"
            yield said

    def _arguments(self, call: ToolCall) -> str:
        written = self._written.get(call.id)
        return json.dumps(call.arguments, ensure_ascii=False) if written is None else written[0]

    def _choice(self, reply: Reply, conversation: Conversation, config: GenerateConfig) -> ChatCompletionChoice:
        content: list[Content] = [ContentReasoning(reasoning=reply.reasoning)] if reply.reasoning else []
        content += [ContentText(text=text) for text in (reply.preamble, reply.text) if text]
        calls = [self._call(call.name, call.arguments, conversation) for call in reply.tool_calls]
        message = ChatMessageAssistant(
            content=content or "", tool_calls=calls or None, model=self.model_name, source="generate"
        )
        stop: StopReason = _REASONS.get(reply.finish_reason, "unknown")
        if reply.finish_reason == "length":
            is_limit = config.max_tokens is not None and reply.usage.generated_tokens >= config.max_tokens
            stop = "max_tokens" if is_limit else "model_length"
        logprobs = Logprobs(content=[*map(_logprob, reply.logprobs)]) if config.logprobs else None
        return ChatCompletionChoice(message=message, stop_reason=stop, logprobs=logprobs)

    def _call(self, name: str, text: str, conversation: Conversation) -> ToolCall:
        id_ = f"call_{uuid.uuid4().hex}"
        self._written[id_] = text, conversation
        while len(self._written) > _MOST_CALLS:
            self._written.popitem(last=False)
        try:
            arguments, problem = json_text.loads(text or "{}"), None
            if not isinstance(arguments, dict):
                raise ValueError("they are no JSON object")
        except (ValueError, RecursionError) as error:
            arguments, problem = {}, f"the arguments of {name} cannot be read ({error}): {text[:500]}"
        return ToolCall(id=id_, function=name, arguments=arguments, parse_error=problem)

    def _usage(self, replies: Sequence[Reply]) -> ModelUsage:
        """What all answers cost. They share the prompt."""
        prompt, reused = replies[0].usage.prompt_tokens, replies[0].usage.reused_tokens
        written = sum(reply.usage.generated_tokens for reply in replies)
        return ModelUsage(
            input_tokens=prompt - reused,
            input_tokens_cache_read=reused,
            output_tokens=written,
            total_tokens=prompt + written,
            reasoning_tokens=sum(len(self._tokenizer.encode(reply.reasoning)) for reply in replies),
        )


@modelapi(name="mlx-oss")
def provider() -> type[ModelAPI]:
    """What inspect-ai finds under the name `mlx-oss`."""
    return MlxOss


def _options(config: GenerateConfig, *, has_tools: bool) -> dict[str, Any]:
    """What `ChatSession` is to be told of how to answer."""
    sampling = {name: value for name in _SAMPLING if (value := getattr(config, name)) is not None}
    wanted, most, schema = config.reasoning_effort or "medium", config.reasoning_tokens, config.response_schema
    effort = _EFFORTS.get(wanted, wanted)
    if effort == "none" and has_tools:  # "none" would open the answer, and no tool could be called
        effort, most = "low", 0
    return {
        "options": SamplingOptions(**sampling, seed=config.seed, logprobs=bool(config.logprobs)),
        "logprobs": bool(config.logprobs),
        "max_tokens": config.max_tokens,
        "stop": config.stop_seqs,
        "reasoning_effort": effort,
        "max_reasoning_tokens": most,
        "response_format": None if schema is None else _schema(schema.json_schema),
    }


def _schema(schema: Any) -> dict[str, Any]:
    """A JSON schema from inspect-ai's object."""
    plain: dict[str, Any] = schema.model_dump(exclude_none=True, mode="json")
    return plain


def _choice(choice: ToolChoice) -> str:
    return choice.name if isinstance(choice, ToolFunction) else "required" if choice == "any" else choice


def _text(content: str | list[Content]) -> str:
    """The text of a message, without its reasoning. Raises OptionError for pictures and the like."""
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, ContentText | ContentReasoning):
            raise OptionError(
                f"a message has a part of the type {part.type}, but gpt-oss reads only text: leave it out"
            )
    return "\n\n".join(part.text for part in content if isinstance(part, ContentText))


def _reasoning(content: str | list[Content]) -> str:
    parts = [] if isinstance(content, str) else content
    return "\n\n".join(part.reasoning for part in parts if isinstance(part, ContentReasoning) and not part.redacted)


def _logprob(token: TokenLogprob) -> Logprob:
    tops = [TopLogprob(token=top.token, logprob=top.logprob) for top in token.top_logprobs]
    return Logprob(token=token.token, logprob=token.logprob, top_logprobs=tops or None)
