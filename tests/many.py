"""Random requests, run alone and many at once: what tests and programs of the scheduler share."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mlx_oss import LocalEngine, Request, SamplingOptions, Step, Stream
from mlx_oss.backend import native
from mlx_oss.generation.engine import Constraint

MOST_IDS = 201_088  # in a vocabulary; masks may be longer than it
LONGEST = 120  # seconds that a thread may take: only a test that hangs takes them


@dataclass(frozen=True, eq=False)
class Case:
    """A request, and what its reader does.

    Attributes:
        request: The request, without its constraint.
        constraint: Makes the constraint, which cannot be used twice.
        delay: Seconds until it is submitted.
        pauses: After which numbers of steps its reader pauses.
        leaves: After how many steps its reader leaves; None if it reads to the end.
        how: How it leaves: it cancels the stream, from another thread; closes it; or drops it.
        is_async: Whether it is read by a task of an event loop instead of by a thread.
        is_kept: Whether it has a new cache, so that what it reads is kept, and it begins with what is held.
    """

    request: Request
    constraint: Callable[[], Constraint | None] = lambda: None
    delay: float = 0
    pauses: frozenset[int] = frozenset()
    leaves: int | None = None
    how: str = "cancel"
    is_async: bool = False
    is_kept: bool = False

    def fresh(self, model: LocalEngine) -> Request:
        """The request with a new constraint, and a new cache if what it reads is kept."""
        cache = model.make_prompt_cache() if self.is_kept else self.request.cache
        return replace(self.request, constraint=self.constraint(), cache=cache)


@dataclass(eq=False)
class Outcome:
    """What a reader has got: its steps, and the error that has ended them, if one has."""

    steps: list[Step] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def tokens(self) -> list[int]:
        """The ids of its steps."""
        return [step.token for step in self.steps]


class RandomConstraint:
    """What it allows depends on its seed and on every token that was accepted: all ids, one id, or some of them."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self.seed, self.vocabulary = seed, vocabulary
        self.accepted: list[int] = []

    def allowed(self) -> np.ndarray | int | None:
        draw = np.random.default_rng([self.seed, *self.accepted])
        kind = draw.integers(4)
        if kind == 0:
            return None
        if kind == 1:
            return int(draw.integers(self.vocabulary))
        mask = np.zeros(MOST_IDS, bool)
        mask[: self.vocabulary] = draw.random(self.vocabulary) < 0.3
        mask[draw.integers(self.vocabulary)] = True
        return mask

    def accept(self, token: int) -> None:
        self.accepted.append(token)


class Broken:
    """A constraint that misbehaves after some tokens: it raises, or it allows no id, or one that does not exist."""

    def __init__(self, how: str, after: int, vocabulary: int) -> None:
        self.how, self.left, self.vocabulary = how, after, vocabulary

    def allowed(self) -> np.ndarray | int | None:
        if self.left:
            return None
        if self.how == "raises":
            raise RuntimeError("broken on purpose")
        return np.zeros(MOST_IDS, bool) if self.how == "nothing" else MOST_IDS + self.vocabulary

    def accept(self, token: int) -> None:
        self.left -= 1


def random_options(draw: random.Random, vocabulary: int) -> SamplingOptions:
    """Options with a seed, so that they give the same tokens each time. A third of them are greedy."""
    logprobs = draw.random() < 0.7
    return SamplingOptions(
        temperature=draw.choice([0, 0.3, 1, 1.0, 2.5, 1.0]) if draw.random() < 0.8 else 0,
        top_p=draw.choice([1, 1, 0.9, 0.3]),
        top_k=draw.choice([0, 0, 5, 40]),
        min_p=draw.choice([0, 0, 0.05]),
        seed=draw.randrange(2**64),
        logit_bias={draw.randrange(vocabulary): draw.uniform(-5, 5) for _ in range(draw.choice([0, 0, 1, 6]))},
        repetition_penalty=draw.choice([1, 1, 1.3, 0.8]),
        repetition_window=draw.choice([0, 5, 64]),
        logprobs=logprobs,
        top_logprobs=draw.choice([0, 0, 1, 7]) if logprobs else 0,
    )


def random_cases(
    draw: random.Random,
    count: int,
    vocabulary: int,
    *,
    shared: bool = False,
    longest_prompt: int = 60,
    most_tokens: int = 24,
) -> list[Case]:
    """Requests of all kinds.

    Args:
        draw: Draws them.
        count: How many; at most `vocabulary`.
        vocabulary: Ids are below this.
        shared: Whether many prompts begin as others do, and may use what is held of them. Otherwise no two of them have
            the first id in common.
        longest_prompt: Most ids of a prompt.
        most_tokens: Most tokens of an answer.
    """
    begins = [[draw.randrange(vocabulary) for _ in range(draw.randrange(longest_prompt))] for _ in range(3)]
    firsts = [[first] for first in draw.sample(range(vocabulary), count)]
    cases = []
    for first in firsts:
        begin = draw.choice([[], *begins]) if shared else first
        begin = begin[: draw.randint(0, len(begin))] if shared and draw.random() < 0.3 else begin
        case = _random_case(draw, begin, vocabulary, longest_prompt, most_tokens)
        if shared:
            case = replace(case, is_kept=True, request=replace(case.request, preamble=draw.choice([0, len(begin)])))
        cases.append(case)
    return cases


def _random_case(draw: random.Random, begin: list[int], vocabulary: int, longest_prompt: int, most_tokens: int) -> Case:
    prompt = begin + [draw.randrange(vocabulary) for _ in range(draw.randint(1, longest_prompt - len(begin)))]
    seed, stop_ids = draw.randrange(2**32), draw.sample(range(vocabulary), draw.choice([0, 0, 1, 20]))
    is_constrained, inside = draw.random() < 0.3, range(1, len(prompt))
    snapshots = draw.sample(inside, min(len(inside), draw.choice([0, 0, 1, 2])))
    request = Request(
        prompt,
        random_options(draw, vocabulary),
        draw.randint(1, most_tokens),
        stop_ids,
        snapshots=snapshots,
    )
    return Case(
        request,
        (lambda: RandomConstraint(seed, vocabulary)) if is_constrained else lambda: None,
        delay=draw.choice([0, 0, draw.uniform(0, 0.2)]),
        pauses=frozenset(draw.sample(range(most_tokens), 3)) if draw.random() < 0.2 else frozenset(),
        leaves=draw.randint(0, most_tokens // 2) if draw.random() < 0.25 else None,
        how=draw.choice(["cancel", "close", "drop"]),
        is_async=draw.random() < 0.5,
    )


def engine_of(model: LocalEngine, *, guesses: bool | None = None) -> LocalEngine:
    """A new engine with the same model, which has read nothing yet."""
    return LocalEngine(
        model.transformer, context=model.context, chunk=model.chunk, guesses=guesses, added_ids=model.added_ids
    )


def alone(model: LocalEngine, case: Case) -> Outcome:
    """What the request gives by itself, token by token, in an engine that has read nothing before."""
    outcome = Outcome()
    try:
        outcome.steps.extend((engine := engine_of(model, guesses=False)).submit(case.fresh(engine)))
    except Exception as error:
        outcome.error = error
    return outcome


def together(model: LocalEngine, cases: Sequence[Case], patience: float = LONGEST) -> list[Outcome]:
    """Runs all requests at once: some in threads, the others in tasks of one event loop. Fails if one takes longer."""
    outcomes = [Outcome() for _ in cases]
    pairs = list(zip(cases, outcomes, strict=True))
    threads = [threading.Thread(target=_read, args=(model, *p), daemon=True) for p in pairs if not p[0].is_async]

    async def tasks() -> None:
        await asyncio.gather(*(_aread(model, *pair) for pair in pairs if pair[0].is_async))

    threads.append(threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience)
        assert not thread.is_alive(), "a reader still waits for its next step"
    return outcomes


def _read(model: LocalEngine, case: Case, outcome: Outcome) -> None:
    time.sleep(case.delay)
    try:
        stream = model.submit(case.fresh(model))
        while not _has_left(case, stream, outcome):
            if (step := next(stream, None)) is None:
                return
            outcome.steps.append(step)
            if len(outcome.steps) in case.pauses:
                time.sleep(0.01)
        if case.how == "cancel":
            outcome.steps.extend(stream)  # what was already being computed
    except Exception as error:
        outcome.error = error


async def _aread(model: LocalEngine, case: Case, outcome: Outcome) -> None:
    await asyncio.sleep(case.delay)
    try:
        stream = model.submit(case.fresh(model))
        while not _has_left(case, stream, outcome):
            if (step := await anext(stream, None)) is None:
                return
            outcome.steps.append(step)
            if len(outcome.steps) in case.pauses:
                await asyncio.sleep(0.01)
        if case.how == "cancel":
            outcome.steps.extend([step async for step in stream])
    except Exception as error:
        outcome.error = error


def _has_left(case: Case, stream: Stream, outcome: Outcome) -> bool:
    if len(outcome.steps) != case.leaves:
        return False
    if case.how == "cancel":
        threading.Thread(target=stream.cancel).start()
    elif case.how == "close":
        stream.close()
    return True


def is_exact(model: LocalEngine) -> bool:
    """Whether a token's bits depend on nothing but the tokens before it: MLX's own products depend on the batch."""
    return native.computes(None)


def differs(case: Case, got: Outcome, wanted: Outcome, closeness: float | None = 0.0) -> str:
    """What is wrong with an answer, compared with the one computed alone. Empty if nothing is.

    Args:
        case: The request.
        got: Its answer.
        wanted: Its answer alone.
        closeness: How much log-probabilities may differ; 0 if all bits have to be the same. None: only greedy ids are
            compared.
    """
    if (type(got.error), str(got.error)) != (type(wanted.error), str(wanted.error)):
        return f"ended with {got.error!r} instead of {wanted.error!r}"
    if case.leaves is None and len(got.steps) != len(wanted.steps):
        return f"{len(got.steps)} steps instead of {len(wanted.steps)}"
    if len(got.steps) < min(len(wanted.steps), case.leaves or 0):
        return f"left after {case.leaves} steps, but got {len(got.steps)}"
    if closeness is None and case.request.options.temperature:
        return ""
    for number, (a, b) in enumerate(zip(got.steps, wanted.steps, strict=False)):
        if not _are_alike(a, b, closeness):
            return f"step {number} of {len(wanted.steps)} is {a} instead of {b}"
    return ""


def _are_alike(a: Step, b: Step, closeness: float | None) -> bool:
    if not closeness:
        return a == b if closeness == 0 else a.token == b.token
    if (a.token, a.finish, a.logprob is None) != (b.token, b.finish, b.logprob is None):
        return False
    pairs = [(logprob, dict(b.top_logprobs).get(token, logprob)) for token, logprob in a.top_logprobs]
    if a.logprob is not None and b.logprob is not None:
        pairs.append((a.logprob, b.logprob))
    return len(a.top_logprobs) == len(b.top_logprobs) and all(abs(x - y) <= closeness for x, y in pairs)


def failures(
    model: LocalEngine,
    cases: Sequence[Case],
    wanted: Sequence[Outcome],
    closeness: float | None = 0.0,
    *,
    guesses: bool | None = None,
) -> list[str]:
    """Runs all requests at once, and says of each that differs from the one alone what it is and how."""
    outcomes, found = together(engine_of(model, guesses=guesses), cases), []
    for number, (case, got, expected) in enumerate(zip(cases, outcomes, wanted, strict=True)):
        if what := differs(case, got, expected, closeness):
            found.append(f"request {number}, {what}: {case}")
    return found
