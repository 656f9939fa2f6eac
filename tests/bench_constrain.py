"""What constraints cost: `python -m tests.bench_constrain [RUNS]`.

Per token: the time on the host to compute which ids may come next, and the time to choose one with a mask. For nano:
the tokens per second of a turn with and without guards, measured alternately.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

import mlx_oss
from mlx_oss.constrain import Grammar, Rules, TurnConstraint
from mlx_oss.generation.sampling import Sampler
from mlx_oss.tokenizer import N_VOCAB, RETURN

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "temperatures": {"type": "array", "items": {"type": "number"}},
        "sky": {"enum": ["sunny", "cloudy", "rainy"]},
    },
    "required": ["city", "days"],
}
ANSWER = json.dumps(
    {"city": "Reykjavík", "days": 12, "temperatures": [1.5, -2, 3.25], "sky": "cloudy"}, indent=2, ensure_ascii=False
)
HEADER = "<|channel|>commentary to=functions.f7 <|constrain|>json<|message|>"


def milliseconds(function: Callable[[], object], runs: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def times_per_token(constraint: TurnConstraint, tokens: list[int]) -> list[float]:
    """Milliseconds to feed each token and compute the ids that may follow it."""
    times = []
    for token in tokens:
        start = time.perf_counter()
        constraint.accept(token)
        constraint.allowed()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def main(runs: int) -> None:
    tokenizer = mlx_oss.load_tokenizer()
    grammar, tools = Grammar.of_schema("bench", SCHEMA), tuple(f"functions.f{number}" for number in range(50))
    grammar.matcher(RETURN)  # builds llguidance's tokenizer before the measurement
    header = tokenizer.encode_with_specials("<|channel|>final<|message|>")
    body = [
        times_per_token(TurnConstraint(Rules(answer=grammar), header), tokenizer.encode(ANSWER)) for _ in range(runs)
    ]
    call = tokenizer.encode_with_specials(HEADER)
    heads = [times_per_token(TurnConstraint(Rules(tools)), call) for _ in range(runs)]
    free = [times_per_token(TurnConstraint(Rules(tools), header), tokenizer.encode(ANSWER)) for _ in range(runs)]
    for name, times in (("a token of JSON", body), ("a token of a header, 50 tools", heads), ("a free token", free)):
        flat = [value for run in times[1:] for value in run]
        print(f"{name:32} median {statistics.median(flat):7.3f} ms, most {max(flat):7.3f} ms on the host")

    sampler, mask = Sampler(mlx_oss.SamplingOptions(seed=0)), np.ones(200019, bool)
    logits = mx.random.normal((N_VOCAB,))
    plain = milliseconds(lambda: sampler.sample(sampler.logits(logits)).item(), runs)
    held = milliseconds(lambda: sampler.sample(sampler.logits(logits, (), mask)).item(), runs)
    print(f"{'choosing from 200,019 ids':32} {plain:.3f} ms, with a mask {held:.3f} ms")

    model = mlx_oss.load()[0]
    speeds: dict[str, list[float]] = {"without guards": [], "with guards": []}
    for number in range(2 * runs):
        name = ("without guards", "with guards")[number % 2]
        guards = mlx_oss.Guards() if number % 2 else mlx_oss.Guards(False, False, False)
        options = mlx_oss.SamplingOptions(temperature=0)
        session = mlx_oss.ChatSession(model, tokenizer, options=options, guards=guards)
        speeds[name].append(session.ask("What can you do?").usage.tokens_per_second)
    for name, values in speeds.items():
        print(f"nano {name:27} {statistics.median(values):.1f} tokens a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
