"""Agents that send their whole history with each request, and how much of it an engine would have to read at least.

The minimum counts each distinct beginning once. Of a prompt, the ids that have to be read are those at positions up to
which neither an earlier prompt, nor an earlier prompt followed by its answer, was the same; at least one, because a
request reads at least its last id.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from mlx_oss import LocalEngine, Request, SamplingOptions, Stream

GREEDY = SamplingOptions(temperature=0, logprobs=False)


@dataclass(slots=True)
class Reading:
    """What requests have read, and what they had to read.

    Attributes:
        requests: How many requests.
        prompts: Ids of all prompts.
        read: Ids that the engine has read.
        least: Ids that it had to read at least.
        worst: Of the request that has read most beyond its minimum: its number, what it has read, its minimum.
    """

    requests: int = 0
    prompts: int = 0
    read: int = 0
    least: int = 0
    worst: tuple[int, int, int] = (0, 0, 0)
    _seen: set[int] = field(default_factory=set)

    def count(self, stream: Stream, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Counts a request whose answer has been read."""
        least = max(1, self._add(prompt))
        self._add([*prompt, *answer])
        read = stream.counts.read_tokens - stream.counts.reused_tokens
        if read - least > self.worst[1] - self.worst[2]:
            self.worst = (self.requests, read, least)
        self.requests, self.prompts = self.requests + 1, self.prompts + len(prompt)
        self.read, self.least = self.read + read, self.least + least

    def _add(self, ids: Sequence[int]) -> int:
        """Remembers all beginnings of the ids; returns how many are new."""
        before, beginning = len(self._seen), 0
        for token in ids:
            beginning = hash((beginning, token))
            self._seen.add(beginning)
        return len(self._seen) - before

    @property
    def ratio(self) -> float:
        """Ids read for each that had to be read."""
        return self.read / self.least


@dataclass
class Agents:
    """Conversations with an engine, whose requests are counted together.

    Args:
        model: The engine.
        draw: Draws ids and lengths.
        results: Fewest and most ids of a tool's result.
        answers: Fewest and most tokens of an answer.
    """

    model: LocalEngine
    draw: random.Random
    results: tuple[int, int] = (50, 200)
    answers: tuple[int, int] = (8, 40)
    reading: Reading = field(default_factory=Reading)

    def ids(self, count: int) -> list[int]:
        """Random ids, for example the preamble of an app."""
        return [self.draw.randrange(self.model.config.vocab_size) for _ in range(count)]

    def request(self, prompt: Sequence[int], preamble: int) -> Iterator[list[int]]:
        """A request with a new cache: yields what has been generated so far after each token, in the end all of it."""
        answer: list[int] = []
        cache = self.model.make_prompt_cache()
        request = Request(prompt, GREEDY, self.draw.randint(*self.answers), cache=cache, preamble=preamble)
        stream = self.model.submit(request)
        for step in stream:
            answer.append(step.token)
            yield answer
        self.reading.count(stream, prompt, answer)

    def ask(self, prompt: Sequence[int], preamble: int) -> list[int]:
        """The whole answer to a prompt."""
        return list(self.request(prompt, preamble))[-1]

    def call(self, history: list[int], preamble: int) -> None:
        """A request with the history so far, which is extended by the answer and the result of a tool."""
        history += self.ask(history, preamble)
        history += self.ids(self.draw.randint(*self.results))


def alone(agents: Agents, preamble: int, calls: int) -> None:
    """One agent."""
    history = agents.ids(preamble) + agents.ids(30)
    for _ in range(calls):
        agents.call(history, preamble)


def in_turn(agents: Agents, preamble: int, calls: int) -> None:
    """Two agents with the same preamble; after each call a title with it, and one with an unrelated preamble."""
    shared, unrelated = agents.ids(preamble), agents.ids(preamble // 3)
    first, second = shared + agents.ids(30), shared + agents.ids(25)
    for _ in range(calls):
        others = [lambda: agents.call(second, preamble), lambda: agents.ask(shared + agents.ids(20), preamble)]
        others.append(lambda: agents.ask(unrelated + agents.ids(15), len(unrelated)))
        agents.call(first, preamble)
        for other in agents.draw.sample(others, len(others)):
            other()


def at_once(agents: Agents, preamble: int, calls: int) -> None:
    """The same, where the others begin before the first agent's call and end after it, from the second call on."""
    shared, unrelated = agents.ids(preamble), agents.ids(preamble // 3)
    first, second = shared + agents.ids(30), shared + agents.ids(25)
    agents.call(first, preamble)
    agents.call(second, preamble)
    for _ in range(calls - 1):
        begun = [
            agents.request(list(second), preamble),
            agents.request(shared + agents.ids(20), preamble),
            agents.request(unrelated + agents.ids(15), len(unrelated)),
        ]
        answers = [next(request) for request in begun]
        agents.call(first, preamble)
        for request in begun:
            with closing(request):
                for _ in request:
                    pass
        second += answers[0] + agents.ids(agents.draw.randint(*agents.results))


SCENARIOS = {"alone": alone, "others in turn": in_turn, "others at once": at_once}
