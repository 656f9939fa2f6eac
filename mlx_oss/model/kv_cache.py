"""Keys and values of the tokens seen so far, one cache a layer, and the snapshots that let a conversation step back.

Full layers keep every position. Sliding layers keep a ring of the last `window` positions, so old ones are gone for
good: a snapshot of the rings (3 MiB for 20b) taken at a position is the way back to it. MLX arrays never change under a
holder, so a snapshot is a reference, and costs memory only once the ring moves on. Knows nothing of attention or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import mlx.core as mx

from mlx_oss.errors import OptionError

MOST_SNAPSHOTS = 16  # of a cache, the latest; 48 MiB for 20b


def _written(buffer: mx.array, new: mx.array, start: int) -> mx.array:
    """`buffer` with `new` at position `start`: in place when nobody else holds it, a copy when a snapshot does."""
    buffer = copy(buffer)  # a second handle, so that the assignment cannot reach the snapshot's
    buffer[:, :, start : start + new.shape[2]] = new
    return buffer


class KVCache:
    """Every position of a full-attention layer, in a buffer that grows by STEP positions at a time, or at once to what
    is reserved.
    """

    STEP = 256

    def __init__(self) -> None:
        self.reserved = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends (B, K, L, D) and returns all S positions: (B, K, S, D) each."""
        start, self.offset = self.offset, self.offset + keys.shape[2]
        self.keys = self._write(self.keys, keys, start)
        self.values = self._write(self.values, values, start)
        return self.keys[:, :, : self.offset], self.values[:, :, : self.offset]

    def _write(self, buffer: mx.array | None, new: mx.array, start: int) -> mx.array:
        if buffer is None or self.offset > buffer.shape[2]:
            B, K, _, D = new.shape
            room = -(-max(self.offset, self.reserved) // self.STEP) * self.STEP - start
            fresh = mx.zeros((B, K, room, D), new.dtype)
            buffer = fresh if buffer is None else mx.concatenate([buffer[:, :, :start], fresh], axis=2)
        return _written(buffer, new, start)

    def trim_to(self, position: int) -> None:
        self.offset = position

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.keys, self.values) if a is not None]


@dataclass(frozen=True, slots=True)
class Ring:
    """A rotating cache's state at one position: what a snapshot refers to."""

    keys: mx.array | None
    values: mx.array | None
    offset: int


class RotatingKVCache:
    """The last `window` positions of a sliding layer, as a ring; position p lies in slot p % window.

    A chunk of L new tokens is attended to together with the window - 1 positions before it, in order; between calls no
    more than `window` positions are kept.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.state = Ring(None, None, 0)

    @property
    def offset(self) -> int:
        return self.state.offset

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends (B, K, L, D) and returns the positions that the new ones may see.

        One token: the ring, in any order (keys are rotated already, and all of them are visible). More: the last
        min(offset, window - 1) positions and the new ones, in order.
        """
        if keys.shape[2] == 1:
            return self._step(keys, values)
        keep = min(self.offset, self.window - 1)
        keys = self._append(self.state.keys, keys, keep)
        values = self._append(self.state.values, values, keep)
        offset = self.offset + keys.shape[2] - keep
        self.state = Ring(self._to_ring(keys, offset), self._to_ring(values, offset), offset)
        return keys, values

    def _step(self, key: mx.array, value: mx.array) -> tuple[mx.array, mx.array]:
        slot, size = self.offset % self.window, min(self.offset + 1, self.window)
        keys, values = (
            _written(
                mx.zeros((*new.shape[:2], self.window, new.shape[3]), new.dtype) if old is None else old, new, slot
            )
            for old, new in ((self.state.keys, key), (self.state.values, value))
        )
        self.state = Ring(keys, values, self.offset + 1)
        return (keys, values) if size == self.window else (keys[:, :, :size], values[:, :, :size])

    def _append(self, ring: mx.array | None, new: mx.array, keep: int) -> mx.array:
        """The last `keep` positions of the ring, in order, followed by the new ones."""
        if ring is None or keep == 0:
            return new
        start, end = (self.offset - keep) % self.window, self.offset % self.window
        parts = [ring[:, :, start:end]] if start < end else [ring[:, :, start:], ring[:, :, :end]]
        return mx.concatenate([*parts, new], axis=2)

    def _to_ring(self, ordered: mx.array, offset: int) -> mx.array:
        """The last positions before `offset`, each in its slot; slots not yet used are zero."""
        B, K, S, D = ordered.shape
        if offset < self.window:
            return mx.concatenate([ordered, mx.zeros((B, K, self.window - S, D), ordered.dtype)], axis=2)
        slot = offset % self.window
        last = ordered[:, :, S - self.window :]
        return mx.concatenate([last[:, :, self.window - slot :], last[:, :, : self.window - slot]], axis=2)

    def can_trim_to(self, position: int) -> bool:
        """True while nothing the position sees has been overwritten."""
        return position == self.offset or self.offset <= self.window

    def trim_to(self, position: int) -> None:
        self.state = Ring(self.state.keys, self.state.values, position)

    @property
    def arrays(self) -> list[mx.array]:
        return [a for a in (self.state.keys, self.state.values) if a is not None]


class Cache:
    """The caches of all layers, which always stand at the same position, and snapshots to step back to.

    Make one with `model.make_cache()`. All sequences of a batch share it and are equally long.
    """

    def __init__(self, layers: Sequence[KVCache | RotatingKVCache]) -> None:
        self.layers = tuple(layers)
        self._snapshots: dict[int, list[Ring]] = {}

    @property
    def offset(self) -> int:
        """Tokens seen."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """Everything to evaluate after a chunk of prefill."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes held, snapshots not counted: they share the rings until those move on."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def snapshot_bytes(self) -> int:
        """Bytes that snapshots hold beside the caches: rings that have moved on since."""
        held = {id(array) for array in self.arrays}
        snapshots = list(self._snapshots.values())  # at once, as another thread may ask while one computes
        states = [state for snapshot in snapshots for state in snapshot]
        beside = {id(a): a.nbytes for state in states for a in (state.keys, state.values) if a is not None}
        return sum(nbytes for key, nbytes in beside.items() if key not in held)

    def reserve(self, tokens: int) -> None:
        """Says that so many will follow the present position: the full layers' buffers then grow to that at once, where
        every chunk of a long prompt would copy all that came before it.
        """
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.reserved = self.offset + tokens

    def fork(self) -> Cache:
        """Another cache at this position with these snapshots. Shares all arrays: the first of the two that moves on
        copies the full layers' buffers.
        """
        forked = Cache([copy(layer) for layer in self.layers])
        forked._snapshots = dict(self._snapshots)
        return forked

    def tensors(self) -> dict[str, mx.array]:
        """What is held, by name, for a file; `restore` takes it back."""
        named: dict[str, mx.array] = {}
        for number, layer in enumerate(self.layers):
            for part, array in zip(("keys", "values"), layer.arrays, strict=False):
                named[f"layers.{number}.{part}"] = array if layer in self._rings else array[:, :, : self.offset]
        for position, states in self._snapshots.items():
            for number, state in enumerate(states):
                if state.keys is not None and state.values is not None:
                    named[f"snapshots.{position}.{number}.keys"] = state.keys
                    named[f"snapshots.{position}.{number}.values"] = state.values
        return named

    def restore(self, named: Mapping[str, mx.array], offset: int) -> None:
        """The state that `tensors` named, at the position it was taken at. Raises KeyError if it is of other layers."""
        for number, layer in enumerate(self.layers):
            keys, values = (named.get(f"layers.{number}.{part}") for part in ("keys", "values"))
            if isinstance(layer, RotatingKVCache):
                layer.state = Ring(keys, values, offset)
            else:
                layer.keys, layer.values, layer.offset = keys, values, offset
        self._snapshots = {}
        for position in sorted({int(name.split(".")[1]) for name in named if name.startswith("snapshots.")}):
            prefixes = [f"snapshots.{position}.{number}" for number in range(len(self._rings))]
            self._snapshots[position] = [Ring(named[f"{p}.keys"], named[f"{p}.values"], position) for p in prefixes]

    def snapshot(self) -> None:
        """Makes the present position one that `rewind` can come back to; the oldest of MOST_SNAPSHOTS is given up."""
        self._snapshots[self.offset] = [layer.state for layer in self._rings]
        if len(self._snapshots) > MOST_SNAPSHOTS:
            del self._snapshots[min(self._snapshots)]

    def rewind(self, position: int) -> int:
        """Steps back to `position`, or as near before it as is possible, and returns where it stands now.

        The caller feeds the tokens from there on again. Exact while no ring has wrapped and at snapshots; otherwise the
        nearest snapshot before, or the beginning.
        """
        if not 0 <= position <= self.offset:
            raise OptionError(f"cannot rewind to position {position}: the cache holds positions 0 to {self.offset}")
        if not all(ring.can_trim_to(position) for ring in self._rings):
            position = max((p for p in self._snapshots if p <= position), default=0)
            states = self._snapshots.get(position, [Ring(None, None, 0)] * len(self._rings))
            for ring, state in zip(self._rings, states, strict=True):
                ring.state = state
        for layer in self.layers:
            layer.trim_to(position)
        self._snapshots = {p: s for p, s in self._snapshots.items() if p <= position}
        return position

    @property
    def _rings(self) -> list[RotatingKVCache]:
        return [layer for layer in self.layers if isinstance(layer, RotatingKVCache)]
