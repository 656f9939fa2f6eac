"""Compares the cost of long conversations here and with mlx-lm's prompt cache, on nano: the figures in the README.

    python -m tests.bench_turns

mlx-lm can trim its cache only until a sliding layer has wrapped. So once reasoning is dropped from the prompt, it reads
the whole prompt again. Its server does that, and this benchmark does the same with its functions.
"""

from __future__ import annotations

import itertools
import sys
import time
from statistics import median

import mlx.core as mx
from mlx_lm.generate import generate_step as mlx_lm_step
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import load_model

import mlx_oss
from mlx_oss.harmony import render_message
from mlx_oss.nano import nano_folder
from tests.engines import prompt_of

TURNS = 20
QUESTIONS = ("What is the capital of France?", "And of Italy?", "Tell me a joke.", "What can you do?", "What is 2 + 3?")


def main() -> None:
    model, tokenizer = mlx_oss.load()
    theirs, _ = load_model(nano_folder())
    theirs.set_dtype(mx.float32)
    mx.eval(theirs.parameters())
    session = mlx_oss.ChatSession(model, tokenizer, options=mlx_oss.SamplingOptions(temperature=0), max_tokens=120)
    held: list[int] = []
    cache = make_prompt_cache(theirs)
    ours_read = theirs_read = 0
    ours_last, theirs_last = [], []
    for number in range(TURNS):
        question = QUESTIONS[number % len(QUESTIONS)]
        prompt = prompt_of(session)[:-2] + render_message(mlx_oss.Message("user", question)) + prompt_of(session)[-2:]
        shared = sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(held, prompt, strict=False)))
        if len(held) > shared and not can_trim_prompt_cache(cache):
            cache, shared = make_prompt_cache(theirs), 0
        elif len(held) > shared:
            trim_prompt_cache(cache, len(held) - shared)
        started = time.perf_counter()
        steps = mlx_lm_step(mx.array(prompt[shared:]), theirs, max_tokens=1, prompt_cache=cache)
        next(steps)
        theirs_last.append(time.perf_counter() - started)
        theirs_read += len(prompt) - shared
        list(session.send(question))
        ours_last.append(session.usage.prefill_seconds)
        ours_read += session.usage.prompt_tokens - session.usage.reused_tokens
        assert session.usage.prompt_tokens == len(prompt)
        written = session._cache.ids[len(prompt) :]
        held = prompt + written
        for token in written:  # mlx-lm's cache contains the generated tokens, too
            mx.eval(theirs(mx.array([[token]]), cache=cache))
    ours_ms, theirs_ms = (1000 * median(seconds[-5:]) for seconds in (ours_last, theirs_last))
    sys.stdout.write(
        f"prefilled in {TURNS} turns: mlx-oss {ours_read}, mlx-lm {theirs_read} tokens, "
        f"ratio {theirs_read / ours_read:.1f}\n"
        f"first token, median of the last 5 turns: mlx-oss {ours_ms:.0f} ms, mlx-lm {theirs_ms:.0f} ms, "
        f"ratio {theirs_ms / ours_ms:.1f}\n"
    )


if __name__ == "__main__":
    main()
