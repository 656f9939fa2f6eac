"""What of a model fits into how much memory, before any of it is loaded: everything, or some experts of each layer with
the others on disk; with which context, and which chunk of a prompt at a time.

Counts the tensors of a folder and adds up `memory`'s arithmetic; `load` does as planned. What the process then takes by
the operating system is compared in `tests/bench_memory.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_oss.backend import device, host_memory
from mlx_oss.errors import OptionError
from mlx_oss.memory.estimates import format_bytes, kv_cache_bytes, parse_bytes, prefill_bytes, snapshot_bytes
from mlx_oss.memory.footprint import Footprint
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS
from mlx_oss.model.transformer import PREFILL_CHUNK
from mlx_oss.weights.folder import ModelFolder, open_folder

BASE_BYTES = 120_000_000  # Python, MLX, NumPy and the vocabulary
VOCABULARY_BYTES = 80_000_000  # of these, which comes after the weights
CHUNKS = (PREFILL_CHUNK, 256, 128, 64, 32)
# Tokens of context where none is asked for: with everything in memory at least these, else at most these.
USUAL = 8192

Verdict = Literal["everything in memory", "experts on disk", "too small"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be held.

    memory         bytes that the process may take; source: where that number is from
    weights        bytes by kind with everything in memory: experts, attention, embedding, unembedding, other
    context        tokens of a conversation; chunk: of a prompt, that are read at a time
    slots          of each layer's `experts`, how many are in memory; None: all, and the embedding, too
    base_bytes     Python, MLX and the vocabulary
    weight_bytes   what is in memory of the weights
    kv_bytes       keys and values of a full context, and the snapshots of a chat
    prefill_bytes  what reading a chunk takes beside
    peak_bytes     the most that the process takes: these, or what loading does
    least_bytes    the least that this context can be held with
    whole_bytes    the peak with everything in memory
    profile        of `mlx-oss convert`: with which everything would be in memory; None: with none, or it is already
    """

    folder: Path
    verdict: Verdict
    memory: int
    source: str
    weights: Mapping[str, int]
    context: int
    chunk: int
    slots: int | None
    experts: int
    base_bytes: int
    weight_bytes: int
    kv_bytes: int
    prefill_bytes: int
    peak_bytes: int
    least_bytes: int
    whole_bytes: int
    profile: str | None

    def __str__(self) -> str:
        """In a sentence."""
        had, tokens = f"{format_bytes(self.memory)} ({self.source})", f"{self.context:,} tokens of context"
        if self.verdict == "too small":
            least = format_bytes(self.least_bytes, round_up=True)
            return f"{self.folder} needs at least {least} for {tokens}, but the limit is {had}"
        if self.slots is None:
            return f"{self.folder} is in memory: {format_bytes(self.peak_bytes)} with {tokens}, of {had}"
        held = f"{self.slots} of the {self.experts} experts of each layer are in memory, the others are"
        if self.slots == self.experts:
            held = "all but the embedding comes to be in memory, experts are"
        said = (
            f"{self.folder} needs {format_bytes(self.whole_bytes)} with everything in memory, but the limit is {had}: "
            f"{held} read from disk when they are needed; {format_bytes(self.peak_bytes)} with {tokens}"
        )
        if self.chunk < PREFILL_CHUNK:
            said += f"; prompts are read {self.chunk} tokens at a time, which rounds otherwise than {PREFILL_CHUNK}"
        return said


def plan(
    path: str | Path,
    *,
    context: int | None = None,
    memory: str | int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
) -> Plan:
    """What of the model in an MLX folder fits.

    context  tokens that have to fit; None: as many as do beside all weights, else 8,192 if they do
    memory   bytes, or a size like "8GB", that the process may take; None: what the device recommends
    chunk    tokens of a prompt that are read at a time; None: as many as fit, at most 512
    dtype    of the activations, as for `load`

    Raises OptionError for an argument out of range, ConfigError and CheckpointError for the folder.
    """
    return plan_folder(open_folder(path), context=context, memory=memory, chunk=chunk, dtype=dtype)


def plan_folder(
    folder: ModelFolder,
    *,
    context: int | None = None,
    memory: str | int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
    slots: int | None = None,
) -> Plan:
    """As `plan`, of a folder that is open; or with so many `slots` whatever they take."""
    most = folder.config.max_position_embeddings
    if context is not None and (type(context) is not int or not 1 <= context <= most):
        raise OptionError(f"context is {context!r}, expected 1 to {most:,} tokens or None")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise OptionError(f"chunk is {chunk!r}, expected at least 1 token or None")
    limit, source = (parse_bytes(memory), "as asked for") if memory is not None else host_memory.memory_limit()
    chunks = CHUNKS if chunk is None else (chunk,)
    planner = _Planner(folder, device.activation_dtype(dtype).size, limit, source, chunks)
    if slots is None:
        return planner.best(context)
    experts = folder.config.num_local_experts
    if type(slots) is not int or not planner.least <= slots <= experts:
        raise OptionError(f"slots is {slots!r}, expected {planner.least} to {experts} experts a layer")
    return planner.made("experts on disk", context or most, chunks[0], slots)


class _Planner:
    """The arithmetic for one folder and one limit. `chunks` may be chosen from, the largest first."""

    def __init__(self, folder: ModelFolder, itemsize: int, limit: int, source: str, chunks: Sequence[int]) -> None:
        self.folder, self.itemsize, self.limit, self.source, self.chunks = folder, itemsize, limit, source, chunks
        self.footprint = Footprint(folder, itemsize, upcasts=not device.on_gpu())
        c = folder.config
        self.least = min(max(c.num_experts_per_tok, 2), c.num_local_experts)  # two: one is read, one computed

    def best(self, context: int | None) -> Plan:
        most, chunks = self.folder.config.max_position_embeddings, self.chunks
        for tokens in _halved(most, USUAL) if context is None else [context]:
            if self.peak(None, tokens, chunks[0]) <= self.limit:
                return self.made("everything in memory", tokens, chunks[0], None)
        for k in chunks:  # a smaller one, which rounds otherwise, where nothing else helps
            for tokens in _halved(min(most, USUAL), 1024) if context is None else [context]:
                if self.peak(self.least, tokens, k) <= self.limit:
                    return self.made("experts on disk", tokens, k, self.slots(tokens, k))
        tokens = min(most, 1024) if context is None else context
        return self.made("too small", tokens, chunks[-1], self.least)

    def slots(self, context: int, chunk: int) -> int:
        """As many as fit, with one for each expert at most."""
        room = self.limit - self.peak(0, context, chunk)
        return min(room // self.footprint.slot_bytes, self.folder.config.num_local_experts)

    def peak(self, slots: int | None, context: int, chunk: int) -> int:
        running = self.kv(context) + self.prefill(context, chunk)
        loading = self.footprint.loading(slots) - VOCABULARY_BYTES
        return BASE_BYTES + self.footprint.weights(slots) + max(loading, running)

    def kv(self, context: int) -> int:
        config = self.folder.config
        return kv_cache_bytes(config, context, self.itemsize) + snapshot_bytes(config, MOST_SNAPSHOTS, self.itemsize)

    def prefill(self, context: int, chunk: int) -> int:
        chunk = min(chunk, context)
        return prefill_bytes(self.folder.config, chunk, context, self.itemsize, cpu=not device.on_gpu())

    def made(self, verdict: Verdict, context: int, chunk: int, slots: int | None) -> Plan:
        whole = self.peak(None, context, chunk)
        saved = {name: self.footprint.saved_by(bits) for name, bits in (("q8", 8), ("q4", 4))}
        fits = [name for name, fewer in saved.items() if fewer and whole - fewer <= self.limit]
        return Plan(
            folder=self.folder.path,
            verdict=verdict,
            memory=self.limit,
            source=self.source,
            weights=self.footprint.kinds,
            context=context,
            chunk=chunk,
            slots=slots,
            experts=self.folder.config.num_local_experts,
            base_bytes=BASE_BYTES,
            weight_bytes=self.footprint.weights(slots),
            kv_bytes=self.kv(context),
            prefill_bytes=self.prefill(context, chunk),
            peak_bytes=self.peak(slots, context, chunk),
            least_bytes=self.peak(self.least, context, self.chunks[-1]),
            whole_bytes=whole,
            profile=fits[0] if fits and slots is not None else None,
        )


def _halved(most: int, least: int) -> Sequence[int]:
    """From `most` down in halves, as far as `least`."""
    sizes = [most]
    while sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)
    return sizes
