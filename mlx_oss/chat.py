"""ChatSession: a conversation with the model, turn by turn, that feeds the model only what is new.

Token-faithful: what the model wrote stays in the prompt with the ids it wrote, and the caches are kept between turns.
Once a turn is answered its reasoning leaves the prompt (harmony's rule), so the next turn steps the caches back to
where the answer began and feeds the answer again. Knows nothing of terminals and of how tools run.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mlx_oss import session_file, worker
from mlx_oss.cache import Cache
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.events import (
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    Reply,
    Stats,
    ToolCall,
    ToolResult,
    TurnsDropped,
    Usage,
)
from mlx_oss.generate import PREFILL_CHUNK, generate_step, prefill_chunks, room_for_answer
from mlx_oss.harmony import (
    DeveloperContent,
    HarmonyParser,
    Message,
    ReasoningEffort,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    ids_in_history,
    render_conversation,
    render_message,
    stays_for_next_turn,
)
from mlx_oss.model import Transformer
from mlx_oss.sampling import SamplingOptions
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.turn import Clock, Floor, Listener, collect

ContextPolicy = Literal["refuse", "drop_oldest"]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A message of the conversation and the ids it stands in the prompt with."""

    message: Message
    ids: Sequence[int]


class ChatSession:
    """A conversation. All methods may be called from any thread, but one turn at a time; MLX itself runs on a thread of
    the library's own (see `worker`).

    instructions      what the developer tells the model (other chats call it the system prompt)
    reasoning_effort  "low", "medium" or "high"; may be set between turns
    tools             functions the model may call; calls come as `ToolCall` events and end the turn
    system_tools      built-in tools to announce: `harmony.PYTHON`, `harmony.BROWSER`
    options           sampling; max_tokens bounds what one turn generates
    current_date      told to the model; pinned for the session, so that midnight does not invalidate the caches
    context_limit     tokens that prompt and answer may fill; None: what the model was made for
    context_policy    what a full context does: "refuse" raises ContextError; "drop_oldest" forgets the oldest turns, a
                      quarter of the context at once as what stays has to be read again, and tells with `TurnsDropped`
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
        context_limit: int | None = None,
        context_policy: ContextPolicy = "refuse",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.instructions, self.reasoning_effort = instructions, reasoning_effort
        self.tools, self.system_tools = tuple(tools), tuple(system_tools)
        self.options, self.max_tokens = options or SamplingOptions(), max_tokens
        self.current_date = current_date or datetime.date.today().isoformat()
        most = model.config.max_position_embeddings
        self.context_limit, self.context_policy = most if context_limit is None else context_limit, context_policy
        self.usage = Usage()  # of the last turn
        self._total = Stats()
        self._entries: list[_Entry] = []
        self._results: list[_Entry] = []  # of tools, given while the turn that calls them is running
        self._retries = 0  # of the last turn
        self._floor = Floor()
        self._forget_cache()
        if type(self.context_limit) is not int or not 1 <= self.context_limit <= most:
            raise OptionError(f"context_limit is {context_limit!r}, expected 1 to {most:,} tokens or None")
        if context_policy not in get_args(ContextPolicy):
            raise OptionError(f"context_policy is {context_policy!r}, expected refuse or drop_oldest")
        self._preamble()  # a wrong option is reported here, not at the first question

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, without the system and developer blocks."""
        return [entry.message for entry in self._entries]

    @property
    def turns(self) -> int:
        """How many times the user has spoken."""
        return len(self._starts())

    @property
    def context_used(self) -> int:
        """Tokens that the next turn begins with."""
        return len(self._prompt())

    @property
    def stats(self) -> Stats:
        """What all turns of this session cost, also those undone, and the memory held."""
        return replace(self._total, cache_bytes=self._cache.nbytes, snapshot_bytes=self._cache.snapshot_bytes)

    def ask(self, text: str) -> Reply:
        """One whole turn: see `send`."""
        return collect(self.send(text))

    def send(self, text: str) -> Iterator[Event]:
        """The user says `text`; yields events as the model answers, `Finished` last.

        Closing the iterator early keeps what was generated. Raises ContextError, with the conversation as before, if
        it does not fit the context.
        """
        return worker.pulled(self._say(text))

    def asend(self, text: str) -> AsyncIterator[Event]:
        """`send` for `async for`. Cancelling the task ends the turn within a token, and keeps what was generated."""
        return worker.PulledAsync(self._say(text))

    def add_tool_result(self, call: ToolCall, result: str) -> None:
        """Answers a tool call, which may be a turn's that is not finished yet; `resume` lets the model go on."""
        if not isinstance(result, str):
            raise OptionError(f"a tool result is text, not {type(result).__name__}: give json.dumps(result)")
        channel = call.channel or "commentary"
        message = Message("tool", result, name=call.recipient, recipient="assistant", channel=channel)
        (self._results if self._floor.taken else self._entries).append(_Entry(message, render_message(message)))

    def resume(self) -> Iterator[Event]:
        """The model goes on from where the conversation stands, e.g. after tool results; events as from `send`."""
        return worker.pulled(self._go_on())

    def aresume(self) -> AsyncIterator[Event]:
        """`resume` for `async for`."""
        return worker.PulledAsync(self._go_on())

    def retry(self) -> Iterator[Event]:
        """The model answers the last question once more, instead of as it did; events as from `send`.

        With a seed, each retry of a turn draws with the next higher one.
        """
        return worker.pulled(self._say(None, -1))

    def aretry(self) -> AsyncIterator[Event]:
        """`retry` for `async for`."""
        return worker.PulledAsync(self._say(None, -1))

    def edit(self, turn: int, text: str) -> Iterator[Event]:
        """The user said `text` in that turn (0 is the first, -1 the last) and nothing since; events as from `send`."""
        return worker.pulled(self._say(text, turn))

    def undo(self) -> str | None:
        """Forgets the last turn and returns what the user said in it; None if there is no turn."""
        with self._floor:
            starts = self._starts()
            if not starts:
                return None
            said = self._entries[starts[-1]].message.content
            del self._entries[starts[-1] :]
            return str(said)

    def clear(self) -> None:
        """Forgets the conversation; options stay."""
        with self._floor:
            self._entries = []

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of prompt, that is being computed: `Finished` follows
        with the reason "cancelled", and what was said is kept. For any thread or task; nothing happens between turns.
        """
        self._floor.cancel()

    def fork(self) -> ChatSession:
        """A second session that continues this one independently; both keep what is cached so far."""
        with self._floor:
            forked = copy(self)
            forked._entries, forked._cached, forked._cache = list(self._entries), list(self._cached), self._cache.fork()
            forked._results, forked._floor = [], Floor()
            return forked

    def save(self, path: str | Path) -> None:
        """Writes conversation, options and caches into one file. Raises SessionError if it cannot be written."""
        with self._floor:
            worker.run(lambda: session_file.write(path, self._saved(), self._cache.tensors()))

    def _saved(self) -> session_file.Saved:
        return session_file.Saved(
            preamble=self._preamble_messages(),
            entries=[(entry.message, entry.ids) for entry in self._entries],
            cached=self._cached,
            options=self.options,
            limits={name: getattr(self, name) for name in ("max_tokens", "context_limit", "context_policy")},
            stats=self._total,
            model=session_file.fingerprint(self.model),
        )

    @classmethod
    def load(
        cls, path: str | Path, model: Transformer, tokenizer: Tokenizer, *, text_only: bool = False
    ) -> ChatSession:
        """The session that was saved; it goes on without reading its prompt again.

        text_only  takes the conversation alone, from a damaged file or one of another model; it is read anew

        Raises SessionError for a file that is no session, is damaged, or belongs to another model.
        """
        saved = session_file.read(path, damaged=text_only)
        most = model.config.max_position_embeddings  # which another model may have less of
        limit = min(saved.limits.get("context_limit", most), most)
        session = cls(model, tokenizer, **saved.choices() | {"context_limit": limit})
        session._total = saved.stats
        session._entries = [_Entry(message, ids) for message, ids in saved.entries]
        if not text_only:
            session._cache.restore(worker.run(lambda: session_file.read_caches(path, saved, model)), len(saved.cached))
            session._cached = list(saved.cached)
        return session

    def _say(self, text: str | None, turn: int | None = None) -> Generator[Event, None, None]:
        """The user says `text`, in place of `turn` and all after it, if one is given; None is what he said then."""
        with self._floor:
            before = self._entries
            starts = self._starts()
            if turn is not None and not -len(starts) <= turn < len(starts):
                raise OptionError(f"there is no turn {turn}: the conversation has {len(starts)}")
            start = len(before) if turn is None else starts[turn]
            self._retries = self._retries + 1 if text is None else 0
            message = before[start].message if text is None else Message("user", text)
            self._entries = [*before[:start], _Entry(message, render_message(message))]
            try:
                finished = yield from self._turn(snapshot=True)
            except ContextError:
                self._entries = before
                raise
        yield finished  # the session is free again: who stops listening here may go on with it

    def _go_on(self) -> Generator[Event, None, None]:
        with self._floor:
            news = itertools.takewhile(lambda message: message.role == "tool", reversed(self.messages))
            for message in reversed(list(news)):
                yield ToolResult(message.name or "", str(message.content))
            finished = yield from self._turn(snapshot=False)
        yield finished

    def _turn(self, *, snapshot: bool) -> Generator[Event, None, Finished]:
        """Generates, and returns the last event; `snapshot` where the next turn will step back to: before the first
        reasoning of this one.
        """
        before = self._entries
        dropped = self._make_room()
        prompt = self._prompt()
        try:
            room = room_for_answer(self.context_limit, len(prompt))
        except ContextError:
            self._entries = before
            raise
        if dropped:
            yield TurnsDropped(dropped)
        parser, listener, clock = HarmonyParser(), Listener(), Clock(len(prompt), self._rewind(prompt))
        reason: FinishReason = "stop"
        rest: list[Event] = []
        try:
            yield from self._read(prompt[len(self._cached) : -len(_OPENING)])
            if snapshot and not self._floor.cancelled:
                self._cache.snapshot()
            for token, finish in self._tokens(room):
                clock.tick()
                self._cached.append(token)
                yield from listener.hear(parser.feed(token))
                if listener.answered or listener.awaits_tools:  # they need not end with a stop id
                    break
                if finish == "length":
                    reason = "length"
                if self._floor.cancelled:
                    break
        except GeneratorExit:
            raise
        except BaseException:
            self._forget_cache()  # the layers may have stopped at different positions
            raise
        finally:
            if not listener.answered:  # else a message that began after the answer is none of the turn's
                rest = listener.hear(parser.finish())
            self._entries += [_Entry(parsed.message, ids_in_history(parsed)) for parsed in listener.messages]
            self._entries, self._results = self._entries + self._results, []
            self.usage = clock.usage()
            self._total = self._total.after(self.usage)
        yield from rest
        if self._floor.cancelled and not listener.answered:
            reason = "cancelled"
        return Finished("tool_calls" if listener.awaits_tools else reason, self.usage)

    def _read(self, tokens: list[int]) -> Generator[Event, None, None]:
        """Feeds new tokens of the prompt until they end or the turn is cancelled; whole chunks are kept."""
        if not tokens or self._floor.cancelled:
            return
        start = len(self._cached)
        for done in prefill_chunks(self.model, tokens, self._cache):
            self._cached[start:] = tokens[:done]
            if len(tokens) > PREFILL_CHUNK:
                yield PrefillProgress(done, len(tokens))
            if self._floor.cancelled:
                return

    def _tokens(self, room: int) -> Iterator[tuple[int, str | None]]:
        """What the model writes, token by token, and why it ends."""
        if self._floor.cancelled:
            return
        options = replace(self.options, logprobs=False)  # a chat tells none
        if options.seed is not None:
            options = replace(options, seed=(options.seed + self._retries) % 2**64)
        self._cached += _OPENING
        for step in generate_step(
            self.model,
            _OPENING,
            options,
            cache=self._cache,
            max_tokens=room if self.max_tokens is None else min(self.max_tokens, room),
            stop_ids=self.tokenizer.stop_ids,
        ):
            yield step.token, step.finish

    def _make_room(self) -> int:
        """Drops the oldest turns where that is the policy and the context is full; gives their number."""
        if self.context_policy == "refuse":
            return 0
        wanted = min(self.max_tokens or self.context_limit // 4, self.context_limit // 4)
        if self.context_used + wanted <= self.context_limit:
            return 0
        starts, before = self._starts(), self._entries
        for count, start in enumerate(starts[1:], start=1):
            self._entries = before[start:]
            if self.context_used + wanted + self.context_limit // 4 <= self.context_limit or count == len(starts) - 1:
                return count
        return 0

    def _rewind(self, prompt: list[int]) -> int:
        """Steps the caches back to what they share with the prompt, and returns how many tokens that is."""
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self._cached, prompt, strict=False))
        # The opening is fed again in any case, for its logits.
        shared = min(sum(1 for _ in pairs), len(prompt) - len(_OPENING))
        reached = self._cache.rewind(shared)
        del self._cached[reached:]
        return reached

    def _starts(self) -> list[int]:
        """Where each turn begins: with what the user says."""
        return [number for number, entry in enumerate(self._entries) if entry.message.role == "user"]

    def _prompt(self) -> list[int]:
        stays = stays_for_next_turn(self.messages)
        turns = [id_ for entry, kept in zip(self._entries, stays, strict=True) if kept for id_ in entry.ids]
        return self._preamble() + turns + _OPENING

    def _preamble(self) -> list[int]:
        return render_conversation(self._preamble_messages())

    def _preamble_messages(self) -> list[Message]:
        """The system block and, if there is anything to say in it, the developer block."""
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
        return messages

    def _forget_cache(self) -> None:
        self._cache: Cache = self.model.make_cache()
        self._cached: list[int] = []  # the ids whose keys and values are in the cache


_OPENING = render_conversation([], next_role="assistant")
