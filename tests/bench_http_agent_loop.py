"""How many tokens nano reads for an agent that sends its whole history over HTTP, over the fewest possible.

    python -m tests.bench_http_agent_loop [--preamble 6000] [--calls 30] [--seed 0]

For each API, and for clients that send the model's reasoning back as it was, sealed, or not at all
(`tests.http_agent_loop`). `tests.agent_loop` says what the minimum counts. It takes the prompts as they are, so what
the model has lost of its reasoning is told beside it: how many prompts go on, to the id, from the one before and what
was written then. A constraint makes nano write a thought of random words and a call each time.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import mlx_oss
from mlx_oss import LocalEngine, Request, Stream, load_tokenizer
from mlx_oss.generation.engine import Constraint, Item, Step
from mlx_oss.generation.row import RowStream
from tests.agent_loop import Reading
from tests.http_agent_loop import APIS, PLACES, Reasoning, words
from tests.server.served import MODEL, served

CONTEXT = 32_768
WRITTEN = (
    "<|channel|>analysis<|message|>%s<|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"place": "%s"}<|call|>'
)
REASONING: tuple[Reasoning, ...] = ("echoed", "sealed", "dropped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preamble", type=int, default=6000, metavar="N", help="words of the preamble (default 6000)")
    parser.add_argument("--calls", type=int, default=30, metavar="N", help="calls of a tool (default 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    model, _ = mlx_oss.load()
    for name, api in APIS.items():
        for reasoning in REASONING:
            draw = random.Random(args.seed)
            engine = CountingEngine(model, draw)
            started = time.perf_counter()
            with served(engine) as address:
                agent = api(address, MODEL, words(draw, args.preamble), reasoning)
                next(agent)
                for _ in range(args.calls - 1):
                    agent.send(words(draw, draw.randint(50, 200)))
            reading, seconds = engine.finished(), time.perf_counter() - started
            number, read, least = reading.worst
            sys.stdout.write(
                f"{name}, reasoning {reasoning}: {reading.requests} requests, {reading.prompts:,} tokens of prompts, "
                f"{reading.read:,} read, at least {reading.least:,}: ratio {reading.ratio:.3f} "
                f"(worst: request {number} read {read:,}, at least {least:,}), {engine.continued} went on, "
                f"{seconds:.0f} s\n"
            )
            sys.stdout.flush()


@dataclass
class Scripted:
    """A constraint that allows certain ids only, one after the other.

    Args:
        ids: The ids.
        inner: The constraint of the request; it is told the ids.
    """

    ids: Sequence[int]
    inner: Constraint | None
    done: int = 0

    def allowed(self) -> int:
        return self.ids[self.done]

    def accept(self, token: int) -> None:
        self.done += 1
        if self.inner is not None:
            self.inner.accept(token)


class CountingEngine(LocalEngine):
    """An engine that counts what its requests read, which come one after the other.

    Args:
        model: The model.
        draw: Draws the words of thoughts.

    Attributes:
        continued: How many prompts began with the one before and its answer.
    """

    def __init__(self, model: LocalEngine, draw: random.Random) -> None:
        super().__init__(model.transformer, context=CONTEXT)
        self.continued = 0
        self._draw = draw
        self._reading = Reading()
        self._last: tuple[CountedStream, list[int]] | None = None

    def submit(self, request: Request) -> Stream:
        before = self._last[1] + self._last[0].written if self._last is not None else None
        self.finished()
        thought, place = words(self._draw, self._draw.randint(8, 40)), self._draw.choice(PLACES)
        ids = load_tokenizer().encode_with_specials(WRITTEN % (thought, place))
        request = replace(request, constraint=Scripted(ids, request.constraint))
        stream, prompt = super().submit(request), list(request.prompt)
        self.continued += before is not None and prompt[: len(before)] == before
        stream.__class__ = CountedStream
        assert isinstance(stream, CountedStream)
        stream.written = []
        self._last = stream, prompt
        return stream

    def finished(self) -> Reading:
        """What has been read, the last request included."""
        if self._last is not None:
            stream, prompt = self._last
            self._reading.count(stream, prompt, stream.written)
            self._last = None
        return self._reading


class CountedStream(RowStream):
    """Keeps what is written."""

    written: list[int]

    def read(self) -> Future[Item | None]:
        future = super().read()
        future.add_done_callback(self._keep)
        return future

    def _keep(self, future: Future[Item | None]) -> None:
        if not future.cancelled() and future.exception() is None and isinstance(item := future.result(), Step):
            self.written.append(item.token)


if __name__ == "__main__":
    main()
