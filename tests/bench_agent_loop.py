"""How many tokens an engine reads for agents that send their whole history each time, over the fewest possible.

    python -m tests.bench_agent_loop [--preamble 6000] [--calls 30] [--seed 0]

Each request has the preamble, the question, and all answers and results of tools so far, as ids, and a new cache. The
model is small and random, with a sliding window of 128. `tests.agent_loop` says what the minimum counts.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import mlx.core as mx

from mlx_oss import LocalEngine, ModelConfig, Transformer
from tests.agent_loop import SCENARIOS, Agents
from tests.engines import as_loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preamble", type=int, default=6000, metavar="N", help="tokens of the preamble (default 6000)")
    parser.add_argument("--calls", type=int, default=30, metavar="N", help="calls of a tool (default 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    transformer = random_model(args.seed)
    for name, scenario in SCENARIOS.items():
        agents = Agents(LocalEngine(transformer, context=32768), random.Random(args.seed))
        started = time.perf_counter()
        scenario(agents, args.preamble, args.calls)
        reading, seconds = agents.reading, time.perf_counter() - started
        number, read, least = reading.worst
        sys.stdout.write(
            f"{name}: {reading.requests} requests, {reading.prompts:,} tokens of prompts, {reading.read:,} read, "
            f"at least {reading.least:,}: ratio {reading.ratio:.3f} "
            f"(worst: request {number} read {read:,}, at least {least:,}), {seconds:.0f} s\n"
        )
        sys.stdout.flush()


def random_model(seed: int) -> Transformer:
    mx.random.seed(seed)
    config = ModelConfig(
        num_hidden_layers=4,
        num_local_experts=5,
        num_experts_per_tok=2,
        vocab_size=997,
        hidden_size=64,
        intermediate_size=32,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        sliding_window=128,
        max_position_embeddings=32768,
    )
    return as_loaded(Transformer(config))


if __name__ == "__main__":
    main()
