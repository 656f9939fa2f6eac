"""What of the released models fits into a given amount of memory, without their files. Knows nothing of MLX."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_oss.config import ModelConfig, YarnScaling
from mlx_oss.memory.estimates import kv_cache_bytes, prefill_bytes, snapshot_bytes

CONTEXT, CHUNK, SNAPSHOTS = 8192, 512, 16  # what has to fit, as in `memory.plan`: tokens, tokens, snapshots of a chat
BASE_BYTES = 120_000_000  # Python, MLX, NumPy and the vocabulary


@dataclass(frozen=True, slots=True)
class Fit:
    """How a released model fits.

    Attributes:
        model: Its name.
        slots: Experts of each layer that fit; None if everything fits, 0 if not even the fewest do.
        experts: Experts of each layer.
        context: With everything in memory, the longest context that fits, in tokens.
    """

    model: str
    slots: int | None
    experts: int
    context: int

    def __str__(self) -> str:
        if self.slots is None:
            return f"{self.model} fits in memory, with up to {self.context:,} tokens of context."
        if not self.slots:
            return f"{self.model} does not fit, not even with most of its experts on disk."
        return (
            f"Of {self.model}, {self.slots} of the {self.experts} experts of each layer fit in memory; the others are "
            "read from disk when needed."
        )


def _config(layers: int, experts: int) -> ModelConfig:
    return ModelConfig(
        num_hidden_layers=layers,
        num_local_experts=experts,
        num_experts_per_tok=4,
        vocab_size=201_088,
        hidden_size=2880,
        intermediate_size=2880,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        sliding_window=128,
        rope_scaling=YarnScaling(32.0, 4096, truncate=False),
    )


RELEASED = {"gpt-oss-20b": (_config(24, 32), 13_760_000_000), "gpt-oss-120b": (_config(36, 128), 65_250_000_000)}


def what_fits(limit: int) -> list[Fit]:
    """How each released model fits into `limit` bytes, with bfloat16 activations."""
    return [_fit(name, config, nbytes, limit) for name, (config, nbytes) in RELEASED.items()]


def expert_bytes(config: ModelConfig) -> int:
    """Bytes of one expert of one layer: its MXFP4 matrices (17 bytes for 32 values) and its biases."""
    values = 3 * config.hidden_size * config.intermediate_size
    return values // 32 * 17 + 2 * (2 * config.intermediate_size + config.hidden_size)


def _fit(name: str, config: ModelConfig, nbytes: int, limit: int) -> Fit:
    experts, longest = config.num_local_experts, config.max_position_embeddings
    room = limit - nbytes - BASE_BYTES - snapshot_bytes(config, SNAPSHOTS) - prefill_bytes(config, CHUNK, CONTEXT)
    context = longest
    while context >= CONTEXT:
        if kv_cache_bytes(config, context) <= room:
            return Fit(name, None, experts, context)
        context //= 2
    slot = config.num_hidden_layers * expert_bytes(config)
    embedding = 2 * config.vocab_size * config.hidden_size  # stays on disk, too
    slots = (room - kv_cache_bytes(config, CONTEXT) + experts * slot + embedding) // slot
    return Fit(name, min(slots, experts) if slots >= config.num_experts_per_tok else 0, experts, CONTEXT)
