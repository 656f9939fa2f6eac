"""Plans how to hold a model in a given amount of memory, before any of it is loaded.

Either everything is in memory, or some experts of each layer while the others stay on disk. A plan also sets the
context and the prefill chunk. It counts the parameters of the model and adds the estimates for everything else; `load`
follows the plan. `tests/bench_memory.py` compares plans with the memory that the operating system reports for the
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlx_oss.backend import device, host_memory
from mlx_oss.backend.machine import Machine
from mlx_oss.errors import OptionError
from mlx_oss.memory.estimates import format_bytes, kv_cache_bytes, parse_bytes, prefill_bytes, snapshot_bytes
from mlx_oss.memory.footprint import Footprint
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS
from mlx_oss.model.transformer import PREFILL_CHUNK
from mlx_oss.weights.arrays import DTYPE_NAMES
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.placements import Placement, place

BASE_BYTES = 120_000_000  # Python, MLX, NumPy and the vocabulary
VOCABULARY_BYTES = 80_000_000  # the vocabulary's part of BASE_BYTES, which is loaded after the weights
CHUNKS = (PREFILL_CHUNK, 256, 128, 64, 32)
# Tokens of context if the caller gives none: at least this many with everything in memory, else at most this many.
USUAL = 8192
_SHORT = 256  # tokens of a context that is short, but long enough for a question

Verdict = Literal["everything in memory", "experts on disk", "too small"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is held in memory. `str(plan)` describes it in words.

    All sizes are in bytes.

    Attributes:
        folder: Folder of the model.
        verdict: "everything in memory", "experts on disk", or "too small" if the memory is not enough for either.
        memory: Limit for the process.
        source: Where the limit comes from, in a few words, for example "as requested".
        weights: Size of the weights with everything in memory, by kind: experts, attention, embedding, unembedding,
            other.
        context: Longest conversation, in tokens.
        chunk: Tokens of a prompt that are processed at a time.
        slots: Number of experts of each layer that are in memory at a time, with the embedding on disk. None: all
            experts and the embedding are in memory.
        experts: Number of experts of each layer.
        base_bytes: Python, MLX, NumPy and the vocabulary.
        weight_bytes: The weights that are in memory.
        kv_bytes: Keys and values of a full context, and the snapshots of a chat.
        cache_bytes: The most that keys and values of all conversations together may take: `kv_bytes`, and half of what
            is left of the limit if everything is in memory. What was read before is kept there.
        prefill_bytes: What processing a chunk needs in addition.
        peak_bytes: The most that the process uses: the sum of the four sizes above, or more if loading needs more.
        least_bytes: The smallest limit that this context fits into.
        whole_bytes: The peak with everything in memory.
        wired_bytes: Weights that may be wired while the model computes, so that macOS does not page them out. 0 on
            Macs with less than 32 GB, on other machines, and with experts on disk.
        profile: The profile of `mlx-oss convert` ("q8" or "q4") with which everything would fit into memory; if the
            verdict is "too small", with which the minimum would. None: no profile is small enough, or everything fits
            already.
        remedy: What helps if the verdict is "too small", in a few words. Otherwise empty.
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
    cache_bytes: int
    prefill_bytes: int
    peak_bytes: int
    least_bytes: int
    whole_bytes: int
    wired_bytes: int
    profile: str | None
    remedy: str = ""

    def __str__(self) -> str:
        limit, tokens = f"{format_bytes(self.memory)} ({self.source})", f"{self.context:,} tokens of context"
        peak = format_bytes(self.peak_bytes)
        if self.verdict == "too small":
            least = format_bytes(self.least_bytes, round_up=True)
            short = format_bytes(self.least_bytes - self.memory, round_up=True)
            return f"{self.folder} needs at least {least} for {tokens}, but the limit is {limit}, {short} too little"
        if self.slots is None:
            return f"{self.folder} fits in memory: it uses up to {peak} with {tokens}, and the limit is {limit}"
        placement = f"{self.slots} of the {self.experts} experts of each layer are in memory, and the others"
        placement += " are read from disk when needed"
        if self.slots == self.experts:
            placement = "the embedding stays on disk, and each expert is read from disk when it is first needed"
        sentence = (
            f"{self.folder} needs {format_bytes(self.whole_bytes)} to fit in memory, but the limit is {limit}: "
            f"{placement}. This uses up to {peak} with {tokens}"
        )
        if self.chunk < PREFILL_CHUNK:
            sentence += (
                f". Prompts are processed {self.chunk} tokens at a time, which rounds differently than {PREFILL_CHUNK}"
            )
        return sentence


def place_here(checkpoint: Checkpoint, dtype: str) -> tuple[Placement, ...]:
    """The parameters of a checkpoint's model as this machine holds them. Raises OptionError for an unknown dtype."""
    return place(checkpoint, DTYPE_NAMES[device.activation_dtype(dtype)], upcasts=not device.on_gpu())


def plan_for(
    checkpoint: Checkpoint,
    placements: Sequence[Placement],
    *,
    context: int | None = None,
    memory: str | int | None = None,
    chunk: int | None = None,
    dtype: str = "auto",
    slots: int | None = None,
    machine: Machine | None = None,
    machines: int = 1,
) -> Plan:
    """Like `loader.plan`, for an open checkpoint and its `placements`, which are those for `dtype` (see `place_here`).

    With `slots`, the plan has this number of expert slots per layer, whether it fits or not. With `machine`, the plan
    is for that machine instead of this one; the placements must then be those for it. With `machines`, it is for one of
    so many that compute the model together; the placements must then be those of its part (see `sharded`).
    """
    longest = checkpoint.config.max_position_embeddings
    if context is not None and (type(context) is not int or not 1 <= context <= longest):
        raise OptionError(f"context is {context!r}, expected 1 to {longest:,} tokens or None")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise OptionError(f"chunk is {chunk!r}, expected at least 1 token or None")
    machine = host_memory.this_machine() if machine is None else machine
    source = "available"
    if memory is not None:
        machine, source = replace(machine, limit=parse_bytes(memory)), "as requested"
    elif machine.mac_memory is not None:
        left = format_bytes(machine.mac_memory - machine.limit)
        source = f"{left} of this Mac's {format_bytes(machine.mac_memory)} are left to the system"
    chunks = CHUNKS if chunk is None else (chunk,)
    planner = _Planner(checkpoint, placements, device.activation_dtype(dtype).size, machine, source, chunks, machines)
    if slots is None:
        return planner.best(context)
    experts = checkpoint.config.num_local_experts
    if type(slots) is not int or not planner.min_slots <= slots <= experts:
        raise OptionError(f"slots is {slots!r}, expected {planner.min_slots} to {experts} experts per layer")
    return planner.make("experts on disk", context or longest, chunks[0], slots)


class _Planner:
    """The arithmetic for one model and one machine.

    Args:
        checkpoint: The checkpoint of the model.
        placements: The parameters of the model.
        itemsize: Bytes per activation.
        machine: The machine, with the memory limit.
        source: Where the limit comes from.
        chunks: Prefill chunks to choose from, in tokens, the largest first.
        machines: Between how many machines the model is divided.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        placements: Sequence[Placement],
        itemsize: int,
        machine: Machine,
        source: str,
        chunks: Sequence[int],
        machines: int,
    ) -> None:
        self._machines = machines
        self.folder, self.config = checkpoint.folder, checkpoint.config
        self.itemsize, self.machine, self.limit = itemsize, machine, machine.limit
        self.source, self.chunks = source, chunks
        self.footprint = Footprint(placements, self.config.num_local_experts, itemsize)
        c = self.config
        # At least two: one is read while the other one computes.
        self.min_slots = min(max(c.num_experts_per_tok, 2), c.num_local_experts)

    def best(self, context: int | None) -> Plan:
        longest, chunks = self.config.max_position_embeddings, self.chunks
        for tokens in _halved(longest, USUAL) if context is None else [context]:
            if self.peak(None, tokens, chunks[0]) <= self.limit:
                return self.make("everything in memory", tokens, chunks[0], None)
        for chunk in chunks:  # smaller chunks only if nothing else helps, because they round differently
            for tokens in _halved(min(longest, USUAL), 1024) if context is None else [context]:
                if self.peak(self.min_slots, tokens, chunk) <= self.limit:
                    return self.make("experts on disk", tokens, chunk, self.slots(tokens, chunk))
        tokens = min(longest, 1024) if context is None else context
        return self.make("too small", tokens, chunks[-1], self.min_slots)

    def slots(self, context: int, chunk: int) -> int:
        """The number of slots per layer that fit, at most one for each expert."""
        room = self.limit - self.peak(0, context, chunk)
        return min(room // self.footprint.slot_bytes, self.config.num_local_experts)

    def peak(self, slots: int | None, context: int, chunk: int) -> int:
        running = self.kv(context) + self.prefill(context, chunk)
        loading = self.footprint.loading(slots) - VOCABULARY_BYTES
        return BASE_BYTES + self.footprint.weights(slots) + max(loading, running)

    def kv(self, context: int) -> int:
        config = self.config
        whole = kv_cache_bytes(config, context, self.itemsize) + snapshot_bytes(config, MOST_SNAPSHOTS, self.itemsize)
        return whole // self._machines  # each has the heads of its own

    def prefill(self, context: int, chunk: int) -> int:
        chunk = min(chunk, context)
        return prefill_bytes(self.config, chunk, self.itemsize, cpu=not self.machine.gpu)

    def make(self, verdict: Verdict, context: int, chunk: int, slots: int | None) -> Plan:
        whole, least = self.peak(None, context, chunk), self.peak(self.min_slots, context, self.chunks[-1])
        is_small = verdict == "too small"
        needed = least if is_small else whole
        saved = {name: self.footprint.saved_by(bits, everything=not is_small) for name, bits in (("q8", 8), ("q4", 4))}
        fitting = [name for name, nbytes in saved.items() if nbytes and needed - nbytes <= self.limit]
        return Plan(
            folder=self.folder,
            verdict=verdict,
            memory=self.limit,
            source=self.source,
            weights=self.footprint.kinds,
            context=context,
            chunk=chunk,
            slots=slots,
            experts=self.config.num_local_experts,
            base_bytes=BASE_BYTES,
            weight_bytes=self.footprint.weights(slots),
            kv_bytes=self.kv(context),
            cache_bytes=self.kv(context) + (max(0, self.limit - whole) // 2 if slots is None else 0),
            prefill_bytes=self.prefill(context, chunk),
            peak_bytes=self.peak(slots, context, chunk),
            least_bytes=least,
            whole_bytes=whole,
            wired_bytes=self.machine.wired(self.footprint.weights(None)) if slots is None else 0,
            profile=fitting[0] if fitting and slots is not None else None,
            remedy=self.remedy(context, fitting) if is_small else "",
        )

    def remedy(self, context: int, profiles: Sequence[str]) -> str:
        """What helps against too little memory for a context; `profiles` are those with which it would be enough."""
        helps = ["allow more memory"]
        if context > _SHORT and self.peak(self.min_slots, _SHORT, self.chunks[-1]) <= self.limit:
            helps.append("use a shorter context")
        helps += [f"convert the model with --profile {name}" for name in profiles[:1]]
        if len(helps) == 1:
            helps.append("use a smaller model")
        return f"{', '.join(helps[:-1])} or {helps[-1]}"


def _halved(largest: int, smallest: int) -> Sequence[int]:
    """`largest`, half of it, a quarter and so on, as long as the result is at least `smallest`."""
    sizes = [largest]
    while sizes[-1] // 2 >= smallest:
        sizes.append(sizes[-1] // 2)
    return sizes
