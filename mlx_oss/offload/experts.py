"""The model's experts with only some of each layer in memory, in slots. Others are read when a token needs them.

The arithmetic is that of the model's `Experts`, with slots in place of experts, so the number of slots changes no bit
of the result. Missing experts are read while those in memory are computed.
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
from mlx_oss.weights.arrays import allocated, bytes_of


@dataclass(frozen=True, slots=True)
class ExpertSource:
    """Where a tensor of all experts of a layer is stored, and where its bytes belong in a slot.

    Attributes:
        parameter: The name of the tensor in `Experts`, such as "down_proj.weight".
        origin: What to read from.
        start: First byte of expert 0 in `origin`.
        step: Bytes from an expert to the next one in `origin`.
        nbytes: Bytes of one expert.
        target: Memory of all slots.
        stride: Bytes of one slot in `target`.
        offset: Byte within a slot where the tensor starts.
    """

    parameter: str
    origin: Origin
    start: int
    step: int
    nbytes: int
    target: memoryview
    stride: int
    offset: int

    def part(self, expert: int, slot: int) -> tuple[Origin, int, memoryview]:
        """The read that fills the slot with the expert: (origin, first byte, memory to fill), as for `Reader.start`."""
        first = slot * self.stride + self.offset
        return self.origin, self.start + expert * self.step, self.target[first : first + self.nbytes]


class OffloadedExperts(Experts):
    """Experts of which `slots` are in memory. The parameters have one row for each slot.

    Call `read_from` before the first call. Only one call computes at a time, in any thread. When a call returns,
    everything that it needs from the slots is computed, so the next call can overwrite them. A call raises
    CheckpointError if an expert cannot be read; the next call tries again.
    """

    def __init__(
        self, config: ModelConfig, specs: Specs, path: str, slots: int, reader: Reader, rows_alternate: bool
    ) -> None:
        super().__init__(replace(config, num_local_experts=slots), specs, path, rows_alternate)
        self._slots, self._reader = ExpertCache(config.num_local_experts, slots), reader
        self._sources: tuple[ExpertSource, ...] = ()
        self._computing = deque[mx.array]()  # not yet evaluated; an interrupted call leaves it behind

    @property
    def reads(self) -> OffloadStats:
        """What reads have cost so far, in all layers that share the reader."""
        return self._reader.reads

    def read_from(self, sources: Sequence[ExpertSource]) -> None:
        """Sets where the experts are stored: one source for each tensor of an expert."""
        self._sources = tuple(sources)

    def outputs(self, x: mx.array, experts: mx.array) -> mx.array:
        """Like `Experts.outputs`, group by group: reads the experts of the next group while one is computed."""
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
                if number + 1 < len(groups):
                    keep = [expert for later in groups[number:] for expert in later]
                    reading = self._begin(groups[number + 1], keep)
                pairs = np.flatnonzero(np.isin(ids, group)).astype(np.uint32)
                parts.append(self._outputs_of(x, ids, pairs))
                self._computing.append(parts[-1])
                order.append(pairs)
                mx.eval(parts[-1])
                self._computing.clear()
        if len(parts) == 1:
            return parts[0]
        return mx.concatenate(parts)[mx.array(np.argsort(np.concatenate(order)).astype(np.uint32))]

    def edges_of(self, expert: int, name: str, suffix: str) -> mx.array:
        """Like `Experts.edges_of`. The expert need not be in a slot: its rows are read from where it is stored."""
        parameter = self[name][suffix]
        rows = allocated((2, *parameter.shape[2:]), parameter.dtype)
        first, last = bytes_of(rows)[: rows.nbytes // 2], bytes_of(rows)[rows.nbytes // 2 :]
        sources = [source for source in self._sources if source.parameter == f"{name}.{suffix}"]
        start, end = (sources[n].start + expert * sources[n].step for n in (0, -1))
        sources[0].origin.read(start, first)
        sources[-1].origin.read(end + sources[-1].nbytes - len(last), last)
        return rows

    def _groups(self, needed: list[int]) -> list[list[int]]:
        """The needed experts in groups, in the order in which they are computed: those in memory, then those to read.

        If more experts are needed than there are slots, a group has at most half as many experts as there are slots, so
        that two groups fit into the slots at the same time. The experts that are most likely to be needed again then
        come last, among those in memory and among those to read, because the last ones stay in memory.
        """
        held = self._slots.held(needed)
        missing = [expert for expert in needed if expert not in held]
        if len(needed) <= len(self._slots):
            return [group for group in (held, missing) if group]
        size = len(self._slots) // 2
        queue = self._slots.by_heat(held) + self._slots.by_heat(missing)
        return [queue[start : start + size] for start in range(0, len(queue), size)]

    def _outputs_of(self, x: mx.array, ids: np.ndarray, pairs: np.ndarray) -> mx.array:
        """Outputs of the (token, expert) pairs with the indices `pairs` in `ids`. Their experts must have slots."""
        slots = mx.array(self._slots.of[ids[pairs]].astype(np.uint32))
        rows = x if len(pairs) == len(ids) else x[mx.array(pairs // (len(ids) // x.shape[0]))]
        return super().outputs(rows, slots)

    def _begin(self, group: Sequence[int], keep: Collection[int]) -> Reading:
        """Starts reading the experts of the group that have no slot, into slots of experts that are not in `keep`."""
        missing = [expert for expert in group if self._slots.of[expert] < 0]
        self._reader.count(hits=len(group) - len(missing), misses=len(missing))
        filled = list(zip(self._slots.free(len(missing), keep), missing, strict=True))
        parts = [source.part(expert, slot) for slot, expert in filled for source in self._sources]
        return filled, self._reader.start(parts)

    def _end(self, reading: Reading) -> None:
        """Waits for a reading, and assigns the slots that it filled."""
        filled, futures = reading
        self._reader.finish(futures)
        for slot, expert in filled:
            self._slots.fill(slot, expert)

    def _settle(self) -> None:
        """Waits for reads and computations that an interrupted call left behind, so that nothing uses the slots."""
        self._reader.settle()
        while self._computing:
            # The computation failed, or it was never started and its stream belongs to another thread.
            with suppress(RuntimeError):
                mx.eval(self._computing.pop())


# The (slot, expert) pairs to fill, and the reads that fill them.
Reading = tuple[list[tuple[int, int]], Sequence[Future[None]]]
