"""The options of a conversion. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlx_oss.errors import OptionError, quoted

SHARD_BYTES = 2_000_000_000  # a layer of 120b is 1.8 GB; an interruption loses one unfinished shard per thread


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert a checkpoint.

    Attributes:
        profile: How modules other than the experts are stored. "bf16" means not quantised; "q8" and "q4" are MLX's
            affine quantisation in groups of 64. With "q4" the router gets 8 bits: it is never stored in fewer. None:
            as in the source. Experts that are not quantised in the source become MXFP4; others stay as they are.
        overrides: Exceptions to `profile`, as {pattern: profile}. A pattern is one or more consecutive components of a
            module path, such as {"self_attn": "q8"} or {"layers.0.mlp": "bf16"}, and may contain `*` and `?`. If
            several patterns match a module, the last one wins. Only patterns that name `experts` apply to them, with
            "mxfp4" or "bf16", as in {"experts": "bf16"} or {"layers.0.mlp.experts": "bf16"}.
        adapter: Folder of a LoRA adapter of PEFT or mlx-lm that is added to the weights. It may change the modules of
            attention, the router, the embedding and the unembedding, not the experts. None: no adapter.
        force: Replace the target if it is already a model folder.
        dry_run: Check everything, write nothing.
        verify: Before the finished folder gets its name, read it and the source again and compare them.
        shard_bytes: Size up to which shards are filled. A layer is never split, so a shard can be as large as a layer
            even if that is more.

    Raises:
        OptionError: If a value has the wrong type.
    """

    profile: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    adapter: str | Path | None = None
    force: bool = False
    dry_run: bool = False
    verify: bool = False
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        overrides = self.overrides
        is_mapping = isinstance(overrides, Mapping) and all(
            isinstance(text, str) for pair in overrides.items() for text in pair
        )
        flags = ("force", "dry_run", "verify")
        for name, is_right, expected in (
            ("profile", isinstance(self.profile, str | None), "bf16, q8, q4 or None"),
            ("overrides", is_mapping, 'patterns with their profiles, such as {"lm_head": "q4"}'),
            ("adapter", isinstance(self.adapter, str | Path | None), "the folder of a LoRA adapter, or None"),
            ("shard_bytes", type(self.shard_bytes) is int and self.shard_bytes > 0, "a number of bytes above 0"),
            *((flag, isinstance(getattr(self, flag), bool), "True or False") for flag in flags),
        ):
            if not is_right:
                raise OptionError(f"{name} is {quoted(getattr(self, name))}, expected {expected}")
