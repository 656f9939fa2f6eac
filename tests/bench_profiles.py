"""Measures how far the profiles for weights outside the experts are from the lossless folder: nano, and random weights.

    python -m tests.bench_profiles

nano is compared on the bundled conversations, which it was not trained for, and on dialogues that it writes itself.
Random weights have no structure that rounding could preserve or damage, so theirs show the size of the rounding error
and say nothing about the quality of a real model.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mlx_oss
from mlx_oss import ChatSession, SamplingOptions
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.evals import Comparison, Passage, bundled_conversations, compare, store
from mlx_oss.evals.passages import label, passages_of
from mlx_oss.harmony import DeveloperContent, Message, SystemContent, ToolNamespace
from mlx_oss.nano import nano_folder
from mlx_oss.tools.toolset import Toolset
from tests.synthetic import write_checkpoint

SHAPE = {
    "num_hidden_layers": 8,
    "num_local_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 4096,
    "hidden_size": 576,
    "intermediate_size": 512,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "sliding_window": 128,
}
HELD_OUT = Path(__file__).parent.parent / "examples" / "nano" / "held_out.txt"
CITIES = "Oslo Lima Cairo Rome Tokyo Madrid Paris Berlin Vienna Dublin Athens Lisbon".split()


def get_weather(city: str) -> str:
    """Get the weather of a place."""
    return '{"temperature": 17, "condition": "light rain"}'


def dialogues() -> list[Passage]:
    """What nano answers greedily to questions that it has not been trained on, some of them with a call."""
    model, tokenizer = mlx_oss.load("nano", dtype="float32")
    greedy = SamplingOptions(temperature=0)

    def turns(questions: list[str], tools: list[Callable[..., str]]) -> list[Passage]:
        session = ChatSession(model, tokenizer, tools=tools, options=greedy, max_tokens=200, current_date="2026-11-23")
        for question in questions:
            session.ask(question)
        space = (ToolNamespace("functions", None, Toolset(tools).functions),) if tools else ()
        content = SystemContent(reasoning_effort="medium", conversation_start_date="2026-11-23")
        head = [Message("developer", DeveloperContent(None, space))] if tools else []
        return list(passages_of([Message("system", content), *head, *session.messages]))

    found: list[Passage] = []
    lines = [line.split("|") for line in HELD_OUT.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    plain = [parts for parts in lines if len(parts) > 2 and not parts[1].strip()]
    for parts in plain[::4]:
        found += turns([turn.partition("->")[0].strip() for turn in parts[2:]], [])
    for city in CITIES:
        found += turns([f"What is the weather like in {city}?"], [get_weather])
    return found


def random_passages() -> list[Passage]:
    ids = np.random.default_rng(7).integers(0, SHAPE["vocab_size"], 256).astype(np.int32)
    return [Passage(ids, np.full(256, label("final", "text"), np.uint8))]


def show(name: str, profile: str, found: Comparison) -> None:
    for row, f in found.rows:
        kl = f"KL {f.kl:.2g} to {f.most:.2g}, median {f.median:.2g}, 99 % {f.p99:.2g}"
        sys.stdout.write(
            f"{name}, {profile}, {row}: {f.tokens} tokens, {kl}, same {f.same:.1%}, said {f.change:+.4f}\n"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        texts: dict[str, tuple[Path, Callable[[], list[Passage]]]] = {
            "random": (write_checkpoint(work / "release", SHAPE, layout="hf"), random_passages),
            "nano, bundled conversations": (nano_folder(), bundled_conversations),
            "nano, its own dialogues": (nano_folder(), dialogues),
        }
        for name, (source, make) in texts.items():
            passages, folder = make(), work / name.replace(", ", "-")
            folder.mkdir()
            for profile in ("bf16", "q8", "q4"):
                convert(source, folder / profile, ConvertOptions(profile=profile))
            store(folder / "bf16", folder / "stored", passages, dtype="float32")
            for profile in ("q8", "q4"):
                show(name, profile, compare(folder / "bf16", folder / profile, passages, dtype="float32"))
                show(f"{name}, stored", profile, compare(folder / "stored", folder / profile, dtype="float32"))


if __name__ == "__main__":
    main()
