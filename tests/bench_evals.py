"""How much faster an evaluation is that asks several questions at once: python -m tests.bench_evals [MODEL]"""

from __future__ import annotations

import argparse
import time

import mlx_oss
from mlx_oss import SamplingOptions
from mlx_oss.evals import EvalOptions, evaluate

COUNTRIES = "France Italy Spain Japan Peru Portugal Denmark Norway Austria Canada Egypt Greece India Kenya".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--questions", type=int, default=len(COUNTRIES))
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, help="of each answer, for models that never end")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    model, tokenizer = mlx_oss.load(arguments.model)
    questions = [
        {"prompt": f"What is the capital of {one}?", "regex": "^The capital"}
        for one in COUNTRIES[: arguments.questions]
    ]
    sampling = SamplingOptions(temperature=arguments.temperature, seed=1)
    options = EvalOptions(samples=arguments.samples, sampling=sampling, max_tokens=arguments.max_tokens)
    alone = 0.0
    for at_once in arguments.at_once:
        times = []
        for _ in range(arguments.repeats):
            model.forget_prefixes()
            started = time.perf_counter()
            found = evaluate(questions, model, tokenizer, options=options, at_once=at_once)
            times.append(time.perf_counter() - started)
        best = min(times)
        alone = alone or best
        tokens = found.generated_tokens
        rate = f"{tokens / best:.0f} tokens/s, {alone / best:.2f} times as fast as one"
        print(f"{at_once:2} at once: {best:.2f} s for {tokens:,} tokens, {rate}; {found.score.right} right")


if __name__ == "__main__":
    main()
