"""The options of a conversion. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
    """

    profile: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    adapter: str | Path | None = None
    force: bool = False
    dry_run: bool = False
    verify: bool = False
    shard_bytes: int = SHARD_BYTES
