"""What a turn of a chat, and a whole session, cost: tokens, times and reads from disk. Plain frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn cost.

    A turn with tool calls has several rounds of prefill and generation: every value is the sum over all of them. The
    last four values are 0 unless experts are offloaded to disk.

    Attributes:
        prompt_tokens: Tokens of the prompt, including the reused ones. If the turn was cancelled during prefill, only
            the tokens read until then.
        reused_tokens: Prompt tokens that were already in the KV cache.
        generated_tokens: Tokens that the model wrote, including reasoning and control tokens.
        prefill_seconds: Time until the first generated token.
        generate_seconds: Time from the first generated token to the end.
        experts_held: Experts that were already in memory when the model needed them.
        experts_read: Experts that were read from disk.
        read_bytes: Bytes read from disk for them.
        read_seconds: Time that the model waited for these reads.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    generate_seconds: float = 0.0
    experts_held: int = 0
    experts_read: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0

    def plus(self, more: Usage) -> Usage:
        """The sum of both, field by field."""
        return Usage(*(getattr(self, field.name) + getattr(more, field.name) for field in fields(self)))

    @property
    def tokens_per_second(self) -> float:
        """Generation speed; 0 if nothing was generated."""
        return self.generated_tokens / self.generate_seconds if self.generate_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a session cost so far, over all its turns, and how much cache memory it holds.

    Attributes:
        turns: Turns that were run, including those undone since. A retry, an edit and a `resume` count as one each.
        prompt_tokens: Tokens of all prompts together, including the reused ones.
        reused_tokens: Prompt tokens that were already in the KV cache.
        generated_tokens: Tokens that the model wrote.
        seconds: Time spent on prefill and generation.
        cache_bytes: Memory of the KV cache.
        snapshot_bytes: Memory of the snapshots that let the cache step back to earlier positions; not part of
            `cache_bytes`.
        experts_held: As in `Usage`, like the next three; 0 unless experts are offloaded to disk.
        experts_read: Experts that were read from disk.
        read_bytes: Bytes read from disk for them.
        read_seconds: Time that the model waited for these reads.
    """

    turns: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    cache_bytes: int = 0
    snapshot_bytes: int = 0
    experts_held: int = 0
    experts_read: int = 0
    read_bytes: int = 0
    read_seconds: float = 0.0

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that the model read because they were not in the cache."""
        return self.prompt_tokens - self.reused_tokens

    @property
    def hit_rate(self) -> float:
        """Share of the needed experts that was already in memory, from 0 to 1; 1 if none was needed."""
        needed = self.experts_held + self.experts_read
        return self.experts_held / needed if needed else 1.0

    @property
    def read_bytes_per_token(self) -> float:
        """Bytes read from disk for each token that the model read or wrote."""
        return self.read_bytes / max(1, self.prefilled_tokens + self.generated_tokens)

    def after(self, usage: Usage) -> Stats:
        """These stats plus one more turn; `cache_bytes` and `snapshot_bytes` are 0."""
        return Stats(
            turns=self.turns + 1,
            prompt_tokens=self.prompt_tokens + usage.prompt_tokens,
            reused_tokens=self.reused_tokens + usage.reused_tokens,
            generated_tokens=self.generated_tokens + usage.generated_tokens,
            seconds=self.seconds + usage.prefill_seconds + usage.generate_seconds,
            experts_held=self.experts_held + usage.experts_held,
            experts_read=self.experts_read + usage.experts_read,
            read_bytes=self.read_bytes + usage.read_bytes,
            read_seconds=self.read_seconds + usage.read_seconds,
        )
