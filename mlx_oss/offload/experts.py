"""The model's experts with only some of a layer's in memory, in slots; the others are read when a token needs them.

The arithmetic is that of `model.Experts`, on slots in place of experts, so that the number of slots changes no bit.
What has to be read is read while what is there is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_oss.config import ModelConfig
from mlx_oss.model.transformer import Experts, Specs
from mlx_oss.offload.expert_cache import ExpertCache
from mlx_oss.offload.reader import OffloadStats, Origin, Reader


@dataclass(frozen=True, slots=True)
class ExpertSource:
    """Where one tensor of all experts lies, `nbytes` for each, and where a slot takes them: from byte `offset` of its
    `stride` bytes in `target`.
    """

    origin: Origin
    start: int
    nbytes: int
    target: memoryview
    stride: int
    offset: int

    def part(self, expert: int, slot: int) -> tuple[Origin, int, memoryview]:
        """What to read, from which byte on, into what."""
        first = slot * self.stride + self.offset
        return self.origin, self.start + expert * self.nbytes, self.target[first : first + self.nbytes]


class OffloadedExperts(Experts):
    """Experts of which `slots` are in memory; its parameters have one row a slot. `read_from`, which comes before the
    first call, tells where the experts' rows are.

    One call computes at a time, in whichever thread, and what it reads from slots is computed when it returns: then
    they may be overwritten. Raises CheckpointError for what cannot be read; the next call tries again.
    """

    def __init__(self, config: ModelConfig, specs: Specs, path: str, slots: int, reader: Reader) -> None:
        super().__init__(replace(config, num_local_experts=slots), specs, path)
        self._slots, self._reader = ExpertCache(config.num_local_experts, slots), reader
        self._sources: tuple[ExpertSource, ...] = ()
        self._computing = deque[mx.array]()  # what an interruption may leave going on

    @property
    def reads(self) -> OffloadStats:
        """What reading has cost, in all layers that share the reader."""
        return self._reader.reads

    def read_from(self, sources: Sequence[ExpertSource]) -> None:
        self._sources = tuple(sources)

    def outputs(self, x: mx.array, experts: mx.array, sort: bool) -> mx.array:
        ids = np.array(experts)
        with self._reader.lock:
            self._settle()
            counts = np.bincount(ids, minlength=len(self._slots.of))
            self._slots.record(counts, x.shape[0])
            groups = self._groups(np.flatnonzero(counts).tolist())
            reading = self._begin(groups[0], keep=groups[0])
            parts, order = [], []
            for number, group in enumerate(groups):
                self._end(reading)
                pairs = np.flatnonzero(np.isin(ids, group)).astype(np.uint32)
                parts.append(self._some(x, ids, pairs, sort))
                self._computing.append(parts[-1])
                order.append(pairs)
                if number + 1 < len(groups):
                    mx.async_eval(parts[-1])
                    keep = [expert for later in groups[number:] for expert in later]
                    reading = self._begin(groups[number + 1], keep)
                mx.eval(parts[-1])
                self._computing.clear()
        if len(parts) == 1:
            return parts[0]
        return mx.concatenate(parts)[mx.array(np.argsort(np.concatenate(order)).astype(np.uint32))]

    def _groups(self, needed: list[int]) -> list[list[int]]:
        """The experts in the order they are computed in: those that are there, then those to be read, the likeliest to
        be needed again last, as they will be there at the end. Two groups have room at the same time.
        """
        held = self._slots.held(needed)
        missing = [expert for expert in needed if expert not in held]
        if len(needed) <= len(self._slots):
            return [group for group in (held, missing) if group]
        each = len(self._slots) // 2
        queue = self._slots.by_heat(held) + self._slots.by_heat(missing)
        return [queue[start : start + each] for start in range(0, len(queue), each)]

    def _some(self, x: mx.array, ids: np.ndarray, pairs: np.ndarray, sort: bool) -> mx.array:
        """What the experts of some pairs, whose slots are filled, make of their rows."""
        slots = mx.array(self._slots.of[ids[pairs]].astype(np.uint32))
        rows = x if len(pairs) == len(ids) else x[mx.array(pairs // (len(ids) // x.shape[0]))]
        return super().outputs(rows, slots, sort)

    def _begin(self, group: Sequence[int], keep: Collection[int]) -> Reading:
        """Begins to read those of the group that have no slot, in place of others that are not to `keep`."""
        missing = [expert for expert in group if self._slots.of[expert] < 0]
        self._reader.count(hits=len(group) - len(missing), misses=len(missing))
        filled = list(zip(self._slots.free(len(missing), keep), missing, strict=True))
        parts = [source.part(expert, slot) for slot, expert in filled for source in self._sources]
        return filled, self._reader.start(parts)

    def _end(self, reading: Reading) -> None:
        filled, futures = reading
        self._reader.finish(futures)
        for slot, expert in filled:
            self._slots.fill(slot, expert)

    def _settle(self) -> None:
        """Waits for what an interrupted call has left going on, too: slots are read and written by nobody then."""
        self._reader.settle()
        while self._computing:
            with suppress(RuntimeError):  # it failed, or was not begun in the thread that was to compute it
                mx.eval(self._computing.pop())


# (slot, expert) to be filled, and what fills them.
Reading = tuple[list[tuple[int, int]], Sequence[Future[None]]]
