"""What the threads of `tests.soak` do: random changes of random sessions, and requests that go wrong.

Every turn that has ended by itself is kept, with the conversation before it, so that it can be compared with the same
turn in a session of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlx_oss import ChatSession, Event, Finished, LocalEngine, Request, SamplingOptions, Tokenizer
from mlx_oss.chat.history import Conversation
from mlx_oss.chat.live import LiveConversation
from mlx_oss.errors import ContextError, OptionError
from tests.many import Broken, Case, alone, engine_of

GREEDY = SamplingOptions(temperature=0)
DATE = "2025-08-05"
QUESTIONS = ("What can you do?", "Tell me a joke.", "What is 2 + 3?", "And of Italy?", "Why?", "Count to ten.")
SETTINGS: tuple[dict[str, object], ...] = (
    {"max_tokens": 24},
    {"max_tokens": 9, "instructions": "Answer in one word."},
    {"max_tokens": 16, "reasoning_effort": "none"},
    {"max_tokens": 20, "response_format": "(yes|no), [a-z ]{3,12}"},
)


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn that has ended by itself.

    Attributes:
        before: The conversation before it.
        question: The user's message.
        settings: Number of the session's settings, in SETTINGS.
        written: The ids of all messages that it has added.
    """

    before: Conversation
    question: str
    settings: int
    written: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> bytes:
        """The same for all turns that have to be the same."""
        told = (self.settings, self.question, [list(entry.ids) for entry in self.before.entries])
        return hashlib.blake2b(repr(told).encode()).digest()


@dataclass
class Record:
    """What all threads have seen; each of its methods may be called by any of them.

    Attributes:
        turns: One turn of each key.
        requests: Requests without a session: their ids, by prompt and number of tokens.
        wrong: What was not as it should be.
        counts: How often each action was done.
        waits: The longest wait for an event, in seconds, by thread.
        alive: When each thread has last seen an event.
        doing: What each thread is doing.
    """

    turns: dict[bytes, Turn] = field(default_factory=dict)
    requests: dict[tuple[tuple[int, ...], int], list[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    waits: dict[int, float] = field(default_factory=dict)
    alive: dict[int, float] = field(default_factory=dict)
    doing: dict[int, str] = field(default_factory=dict)
    finished: int = 0
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, turn: Turn) -> None:
        key = turn.key
        with self._lock:
            self.finished += 1
            self.tokens += sum(map(len, turn.written))
            if self.turns.setdefault(key, turn).written != turn.written:
                self.wrong.append(f"the same turn was answered in two ways: {turn} and {self.turns[key]}")

    def add_request(self, prompt: list[int], tokens: list[int], most: int) -> None:
        with self._lock:
            self.finished += 1
            self.tokens += len(tokens)
            if self.requests.setdefault((tuple(prompt), most), tokens) != tokens:
                self.wrong.append(f"the same prompt was answered in two ways: {prompt}, {tokens}")

    def count(self, thread: int, action: str) -> None:
        with self._lock:
            self.counts[action] = self.counts.get(action, 0) + 1
        self.doing[thread], self.alive[thread] = action, time.monotonic()

    def seen(self, thread: int, since: float) -> None:
        self.alive[thread] = now = time.monotonic()
        self.waits[thread] = max(self.waits.get(thread, 0.0), now - since)


class Chatter:
    """One thread's session, and what can be done with it.

    Args:
        number: The thread's number.
        model: The engine that all threads share.
        tokenizer: The tokenizer.
        record: Where everything is noted.
        folder: For saved sessions.
        seed: What it does follows from this, as far as it does not depend on time.
    """

    def __init__(
        self, number: int, model: LocalEngine, tokenizer: Tokenizer, record: Record, folder: Path, seed: int
    ) -> None:
        self.number, self.model, self.tokenizer, self.record = number, model, tokenizer, record
        self.draw = random.Random(f"{seed} {number}")
        self.file = folder / f"{number}.session"
        self.settings = number % len(SETTINGS)
        self.session = self.fresh()
        self.actions: dict[str, tuple[Callable[[], None], int]] = {
            "ask": (self.ask, 12),
            "slow": (self.slow, 2),
            "leave": (self.leave, 4),
            "cancel": (self.cancel, 4),
            "in a loop": (self.in_a_loop, 4),
            "fork": (self.fork, 2),
            "save": (self.save, 1),
            "clear": (self.clear, 3),
            "undo": (self.undo, 3),
            "edit": (self.edit, 2),
            "retry": (self.retry, 1),
            "request": (self.request, 3),
            "broken": (self.broken, 2),
            "drop": (self.drop, 2),
        }

    def fresh(self) -> ChatSession:
        return new_session(self.model, self.tokenizer, self.settings)

    def act(self) -> None:
        """Does one thing at random. An error that should not be is noted."""
        names, weights = list(self.actions), [weight for _, weight in self.actions.values()]
        (name,) = self.draw.choices(names, weights)
        self.record.count(self.number, name)
        try:
            self.actions[name][0]()
        except ContextError:
            self.session.clear()
        except Exception as error:
            self.record.wrong.append(f"{name}: {error!r}\n{traceback.format_exc()}")
            self.session = self.fresh()
        if self.session.turns > 5:
            self.session = self.fresh()

    def read(self, events: Iterator[Event], pause: float = 0) -> bool:
        """Reads a turn to its end; returns whether it has ended by itself."""
        since, last = time.monotonic(), None
        for last in events:  # noqa: B007
            self.record.seen(self.number, since)
            time.sleep(pause)
            since = time.monotonic()
        return isinstance(last, Finished) and last.reason != "cancelled"

    def turn(self, question: str, before: Conversation, events: Iterator[Event], pause: float = 0) -> None:
        if self.read(events, pause):
            self.note(self.session, question, before)

    def note(self, session: ChatSession, question: str, before: Conversation) -> None:
        entries = session._conversation.current.entries[len(before.entries) + 1 :]
        self.record.add(Turn(before, question, self.settings, tuple(tuple(entry.ids) for entry in entries)))

    def question(self) -> str:
        return self.draw.choice(QUESTIONS)

    def ask(self) -> None:
        question, before = self.question(), self.session._conversation.current
        self.turn(question, before, self.session.send(question))

    def slow(self) -> None:
        question, before = self.question(), self.session._conversation.current
        self.turn(question, before, self.session.send(question), pause=self.draw.uniform(0.01, 0.2))

    def leave(self) -> None:
        events, since = self.session.send(self.question()), time.monotonic()
        for count, _ in enumerate(events):
            self.record.seen(self.number, since)
            since = time.monotonic()
            if count == self.draw.randint(0, 8):
                break
        events.close()  # type: ignore[attr-defined]

    def cancel(self) -> None:
        question, before = self.question(), self.session._conversation.current
        timer = threading.Timer(self.draw.uniform(0, 0.5), self.session.cancel)
        timer.start()
        try:
            self.turn(question, before, self.session.send(question))
        finally:
            timer.cancel()
            timer.join()

    def in_a_loop(self) -> None:
        """Three sessions in one event loop; one of the tasks is cancelled."""
        sessions = [self.session.fork(), self.fresh(), self.fresh()]

        async def chat(session: ChatSession) -> None:
            question, before = self.question(), session._conversation.current
            since, last = time.monotonic(), None
            async for last in session.asend(question):  # noqa: B007
                self.record.seen(self.number, since)
                since = time.monotonic()
            if isinstance(last, Finished):
                self.note(session, question, before)

        async def several() -> None:
            tasks = [asyncio.create_task(chat(session)) for session in sessions]
            await asyncio.sleep(self.draw.uniform(0, 0.5))
            tasks[2].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [result for result in results if isinstance(result, Exception)]
            if errors:
                raise errors[0]

        asyncio.run(several())

    def fork(self) -> None:
        other, kept = self.session.fork(), self.session
        self.ask()
        self.session = other
        self.ask()
        self.session = self.draw.choice([kept, other])

    def save(self) -> None:
        self.session.save(self.file)
        conversation = self.session._conversation
        self.session = ChatSession.load(self.file, self.model, self.tokenizer)
        self.session._conversation = conversation  # the same entries, so that turns can be compared
        self.ask()

    def clear(self) -> None:
        if self.draw.random() < 0.5:
            self.session.clear()
        else:
            self.settings = self.draw.randrange(len(SETTINGS))
            self.session = self.fresh()
        self.ask()

    def undo(self) -> None:
        self.session.undo()
        self.ask()

    def edit(self) -> None:
        if self.session.turns:
            turn, question = self.draw.randrange(self.session.turns), self.question()
            before, _ = self.session._conversation.current.split_before(turn)
            self.turn(question, before, self.session.edit(turn, question))

    def retry(self) -> None:
        if self.session.turns:
            before, question = self.session._conversation.current.split_before(-1)
            self.turn(str(question.message.content), before, self.session.retry())

    def prompt(self) -> list[int]:
        """The ids of a prompt of a client that has no session: one of many that begin alike."""
        text = " ".join(self.draw.choice(QUESTIONS) for _ in range(self.draw.randint(1, 4)))
        return self.tokenizer.encode(text)

    def request(self) -> None:
        prompt, most, tokens = self.prompt(), self.draw.choice([4, 20]), []
        since = time.monotonic()
        cache = self.draw.choice([None, self.model.make_prompt_cache()])
        for step in self.model.submit(Request(prompt, GREEDY, most, cache=cache)):
            tokens.append(step.token)
            self.record.seen(self.number, since)
            since = time.monotonic()
        self.record.add_request(prompt, tokens, most)

    def broken(self) -> None:
        how, after, got = self.draw.choice(["raises", "nothing", "outside"]), self.draw.randint(0, 6), 0
        try:
            for _ in self.model.submit(Request(self.prompt(), GREEDY, 30, constraint=Broken(how, after, 1))):
                got += 1
        except (OptionError, RuntimeError) as error:
            if isinstance(error, OptionError) == (how == "raises") or got > after:
                raise
        else:
            raise AssertionError(f"a constraint that {how} has ended nothing")

    def drop(self) -> None:
        stream = self.model.submit(
            Request(self.prompt(), GREEDY, 500, constraint=self.draw.choice([None, Broken("", 999, 1)]))
        )
        for _ in range(self.draw.randint(0, 5)):
            next(stream)


def new_session(model: LocalEngine, tokenizer: Tokenizer, settings: int) -> ChatSession:
    return ChatSession(model, tokenizer, current_date=DATE, options=GREEDY, **SETTINGS[settings])  # type: ignore[arg-type]


def replayed(model: LocalEngine, tokenizer: Tokenizer, turn: Turn) -> tuple[tuple[int, ...], ...]:
    """What the turn writes in a session of its own, in an engine that has read nothing."""
    session = new_session(engine_of(model), tokenizer, turn.settings)
    session._conversation = LiveConversation(turn.before)
    session.ask(turn.question)
    entries = session._conversation.current.entries[len(turn.before.entries) + 1 :]
    return tuple(tuple(entry.ids) for entry in entries)


def answered(model: LocalEngine, prompt: tuple[int, ...], most: int) -> list[int]:
    """What a prompt gives alone, in an engine that has read nothing."""
    return alone(model, Case(Request(prompt, GREEDY, most))).tokens
