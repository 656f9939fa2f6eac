"""ChatSession: a conversation with the model, turn by turn, that feeds the model only what is new.

Token-faithful: what the model wrote stays in the prompt with the ids it wrote, and the caches are kept between turns.
Once a turn is answered its reasoning leaves the prompt (harmony's rule), so the next turn steps the caches back to
where the answer began and feeds the answer again. Knows nothing of terminals and of how tools run.
"""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from mlx_oss.cache import Cache
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.events import (
    AnswerDelta,
    Event,
    Finished,
    FinishReason,
    PreambleDelta,
    ReasoningDelta,
    RepairedOutput,
    Reply,
    ToolCall,
    Usage,
)
from mlx_oss.generate import Step, generate_step, prefill, room_for_answer
from mlx_oss.harmony import (
    DeveloperContent,
    HarmonyParser,
    Header,
    Message,
    MessageFinished,
    MessageStarted,
    ParsedMessage,
    ReasoningEffort,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    ids_in_history,
    render_conversation,
    render_message,
    stays_for_next_turn,
)
from mlx_oss.harmony import Event as ParserEvent
from mlx_oss.model import Transformer
from mlx_oss.sampling import SamplingOptions
from mlx_oss.tokenizer import Tokenizer

_DELTAS: dict[str | None, type] = {"analysis": ReasoningDelta, "commentary": PreambleDelta}


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A message of the conversation and the ids it stands in the prompt with."""

    message: Message
    ids: Sequence[int]


class _Listener:
    """Turns what the parser says into what the session's caller hears, and remembers the messages."""

    def __init__(self) -> None:
        self.messages: list[ParsedMessage] = []
        self._header = Header("assistant")

    def hear(self, events: Iterable[ParserEvent]) -> list[Event]:
        return [heard for event in events for heard in self._translate(event)]

    def _translate(self, event: ParserEvent) -> list[Event]:
        if isinstance(event, MessageStarted):
            self._header = event.header
            return []
        if isinstance(event, MessageFinished):
            self.messages.append(event.message)
            heard: list[Event] = [RepairedOutput(event.message.notes)] if event.message.notes else []
            return heard + ([_call(event.message)] if _calls_tool(event.message) else [])
        # The text of a call is told as a whole, when it is complete.
        return [] if _opens_call(self._header) else [_DELTAS.get(self._header.channel, AnswerDelta)(event.text)]

    @property
    def answered(self) -> bool:
        return any(parsed.message.channel == "final" for parsed in self.messages)

    @property
    def awaits_tools(self) -> bool:
        return any(map(_calls_tool, self.messages))


def _calls_tool(parsed: ParsedMessage) -> bool:
    return parsed.is_tool_call and parsed.ending != "cut"


def _opens_call(header: Header) -> bool:
    message = Message(header.role, "", header.channel, header.recipient)
    return ParsedMessage(message, "cut", ()).is_tool_call


def _call(parsed: ParsedMessage) -> ToolCall:
    message = parsed.message
    assert message.recipient is not None and isinstance(message.content, str)
    return ToolCall(message.recipient, message.content, message.channel)


class ChatSession:
    """A conversation. Not for use from several threads at once.

    instructions      what the developer tells the model (other chats call it the system prompt)
    reasoning_effort  "low", "medium" or "high"; may be set between turns
    tools             functions the model may call; calls come as `ToolCall` events and end the turn
    system_tools      built-in tools to announce: `harmony.PYTHON`, `harmony.BROWSER`
    options           sampling; max_tokens bounds what one turn generates
    current_date      told to the model; pinned for the session, so that midnight does not invalidate the caches
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        instructions: str = "",
        reasoning_effort: ReasoningEffort = "medium",
        tools: Sequence[ToolDescription] = (),
        system_tools: Sequence[ToolNamespace] = (),
        options: SamplingOptions | None = None,
        max_tokens: int | None = None,
        current_date: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.instructions, self.reasoning_effort = instructions, reasoning_effort
        self.tools, self.system_tools = tuple(tools), tuple(system_tools)
        self.options, self.max_tokens = options or SamplingOptions(), max_tokens
        self.current_date = current_date or datetime.date.today().isoformat()
        self.usage = Usage()  # of the last turn
        self._turns: list[_Entry] = []
        self._forget_cache()
        self._preamble()  # a wrong option is reported here, not at the first question

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, without the system and developer blocks."""
        return [entry.message for entry in self._turns]

    @property
    def context_used(self) -> int:
        """Tokens that the next turn begins with."""
        return len(self._prompt())

    def clear(self) -> None:
        """Forgets the conversation; options stay."""
        self._turns = []

    def ask(self, text: str) -> Reply:
        """One whole turn: see `send`."""
        return collect(self.send(text))

    def send(self, text: str, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Event]:
        """The user says `text`; yields events as the model answers, `Finished` last.

        progress(done, total) is called as the prompt is read. Closing the iterator early keeps what was generated.
        Raises ContextError, with the conversation as before, if the conversation does not fit the context.
        """
        entry = self._add(Message("user", text))
        try:
            yield from self._turn(progress, snapshot=True)
        except ContextError:
            self._turns.remove(entry)
            raise

    def add_tool_result(self, call: ToolCall, result: str) -> None:
        """Answers a tool call; `resume` lets the model go on."""
        if not isinstance(result, str):
            raise OptionError(f"a tool result is text, not {type(result).__name__}: give json.dumps(result)")
        channel = call.channel or "commentary"
        self._add(Message("tool", result, name=call.recipient, recipient="assistant", channel=channel))

    def resume(self, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Event]:
        """The model goes on from where the conversation stands, e.g. after tool results; events as from `send`."""
        return self._turn(progress, snapshot=False)

    def _turn(self, progress: Callable[[int, int], None] | None, *, snapshot: bool) -> Iterator[Event]:
        """Generates; `snapshot` where the next turn will step back to: before the first reasoning of this one."""
        prompt = self._prompt()
        room_for_answer(self.model, len(prompt))
        parser, listener, clock = HarmonyParser(), _Listener(), _Clock(len(prompt), self._rewind(prompt))
        reason: FinishReason = "stop"
        rest: list[Event] = []
        try:
            for step in self._steps(prompt, progress, snapshot):
                clock.tick()
                self._cached.append(step.token)
                yield from listener.hear(parser.feed(step.token))
                if listener.answered or listener.awaits_tools:  # they need not end with a stop id
                    break
                if step.finish == "length":
                    reason = "length"
        except GeneratorExit:
            raise
        except BaseException:
            self._forget_cache()  # the layers may have stopped at different positions
            raise
        finally:
            if not listener.answered:  # else a message that began after the answer is none of the turn's
                rest = listener.hear(parser.finish())
            self._turns += [_Entry(parsed.message, ids_in_history(parsed)) for parsed in listener.messages]
            self.usage = clock.usage()
        yield from rest
        yield Finished("tool_calls" if listener.awaits_tools else reason, self.usage)

    def _steps(self, prompt: list[int], progress: Callable[[int, int], None] | None, snapshot: bool) -> Iterator[Step]:
        """Reads what of the prompt is new and generates; a snapshot is taken where the model's own words begin."""
        new = prompt[len(self._cached) :]
        body, opening = new[: -len(_OPENING)], new[-len(_OPENING) :]
        if body:
            prefill(self.model, body, self._cache, progress=progress)
            self._cached += body
        if snapshot:
            self._cache.snapshot()
        self._cached += opening
        yield from generate_step(
            self.model,
            opening,
            replace(self.options, logprobs=False),  # a chat tells none
            cache=self._cache,
            max_tokens=self.max_tokens,
            stop_ids=self.tokenizer.stop_ids,
        )

    def _rewind(self, prompt: list[int]) -> int:
        """Steps the caches back to what they share with the prompt, and returns how many tokens that is."""
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self._cached, prompt, strict=False))
        shared = min(sum(1 for _ in pairs), len(prompt) - 1)  # the last token is fed again, for its logits
        reached = self._cache.rewind(shared)
        del self._cached[reached:]
        return reached

    def _prompt(self) -> list[int]:
        stays = stays_for_next_turn(self.messages)
        turns = [id_ for entry, kept in zip(self._turns, stays, strict=True) if kept for id_ in entry.ids]
        return self._preamble() + turns + _OPENING

    def _preamble(self) -> list[int]:
        """Ids of the system block and, if there is anything to say in it, the developer block."""
        system = SystemContent(
            reasoning_effort=self.reasoning_effort, conversation_start_date=self.current_date, tools=self.system_tools
        )
        if self.reasoning_effort not in get_args(ReasoningEffort):
            wanted = ", ".join(get_args(ReasoningEffort))
            raise OptionError(f"reasoning_effort is {self.reasoning_effort!r}, expected one of {wanted}")
        messages = [Message("system", system)]
        if self.instructions or self.tools:
            developer = DeveloperContent.with_functions(self.instructions or None, self.tools)
            messages.append(Message("developer", developer))
        return render_conversation(messages)

    def _add(self, message: Message) -> _Entry:
        entry = _Entry(message, render_message(message))
        self._turns.append(entry)
        return entry

    def _forget_cache(self) -> None:
        self._cache: Cache = self.model.make_cache()
        self._cached: list[int] = []  # the ids whose keys and values are in the cache


_OPENING = render_conversation([], next_role="assistant")


class _Clock:
    """Takes the times and counts of a turn."""

    def __init__(self, prompt_tokens: int, reused_tokens: int) -> None:
        self.prompt_tokens, self.reused_tokens, self.generated = prompt_tokens, reused_tokens, 0
        self.started = self.first = time.perf_counter()

    def tick(self) -> None:
        if self.generated == 0:
            self.first = time.perf_counter()
        self.generated += 1

    def usage(self) -> Usage:
        now = time.perf_counter()
        first = self.first if self.generated else now
        return Usage(self.prompt_tokens, self.reused_tokens, self.generated, first - self.started, now - first)


def collect(events: Iterable[Event]) -> Reply:
    """The reply that a turn's events add up to."""
    text: dict[type, list[str]] = {ReasoningDelta: [], PreambleDelta: [], AnswerDelta: []}
    calls: list[ToolCall] = []
    for event in events:
        if isinstance(event, (ReasoningDelta, PreambleDelta, AnswerDelta)):
            text[type(event)].append(event.text)
        elif isinstance(event, ToolCall):
            calls.append(event)
        elif isinstance(event, Finished):
            answer, reasoning = "".join(text[AnswerDelta]), "".join(text[ReasoningDelta])
            return Reply(answer, reasoning, tuple(calls), event.reason, event.usage)
    raise OptionError("the events end without Finished: give all events of one turn")
