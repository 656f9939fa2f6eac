"""The KV cache: keys and values of the tokens seen so far, and snapshots that let a conversation rewind.

Each layer has a cache of its own. Full layers keep every position. Sliding layers keep a ring of the last `window`
positions and lose older ones. So the only way back to an older position is a snapshot of the rings (3 MiB for 20b) that
was taken there. An MLX array never changes while something else refers to it. A snapshot is therefore just a reference,
and costs memory only once the ring has changed. Knows nothing of attention or text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import mlx.core as mx

from mlx_oss.errors import OptionError

MOST_SNAPSHOTS = 16  # that a cache keeps: the earliest, and those at the latest positions; 48 MiB for 20b


def _written(buffer: mx.array, new: mx.array, start: int) -> mx.array:
    """`buffer` with `new` at position `start`: written in place, or into a copy if a snapshot holds the buffer."""
    buffer = copy(buffer)  # a second handle, so that the assignment does not change the snapshot's
    buffer[:, :, start : start + new.shape[2]] = new
    return buffer


class KVCache:
    """Cache of a full-attention layer: keeps every position, in buffers that grow by STEP positions at a time.

    Attributes:
        reserved: Number of positions that the buffers have room for after they next grow; see `Cache.reserve`.
        keys: (B, K, room, D), of which the first `offset` positions are used; None before the first `update`.
        values: Like `keys`.
        offset: Number of positions held.
    """

    STEP = 256

    def __init__(self) -> None:
        self.reserved = 0
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends keys and values (B, K, L, D); returns those of all S positions, (B, K, S, D) each."""
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
        """Drops the positions from `position` on."""
        self.offset = position

    def copied(self, position: int) -> KVCache:
        """A cache with the first `position` positions, in memory of its own."""
        new = KVCache()
        if position and self.keys is not None and self.values is not None:
            new.keys, new.values = (mx.contiguous(a[:, :, :position]) for a in (self.keys, self.values))
            new.offset = position
        return new

    @property
    def arrays(self) -> list[mx.array]:
        """The buffers of keys and values, if there are any yet."""
        return [a for a in (self.keys, self.values) if a is not None]


@dataclass(frozen=True, slots=True)
class Ring:
    """State of a `RotatingKVCache` at one position. A snapshot holds one for each sliding layer.

    Attributes:
        keys: (B, K, window, D) in ring order, or None if no position has been seen.
        values: Like `keys`.
        offset: Number of positions seen.
    """

    keys: mx.array | None
    values: mx.array | None
    offset: int


class RotatingKVCache:
    """Cache of a sliding-window layer: a ring of the last `window` positions, with position p at index p % window.

    During `update`, the attention of L new tokens also needs the window - 1 positions before them, in order. Between
    calls only `window` positions are kept.

    Attributes:
        window: Number of positions that are kept.
        state: The ring.
        earlier: The rings before each of the last single tokens, so that these can be taken back; None if they are not
            kept. Each costs the memory of a ring.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.state = Ring(None, None, 0)
        self.earlier: list[Ring] | None = None

    @property
    def offset(self) -> int:
        """Number of positions seen."""
        return self.state.offset

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Appends keys and values (B, K, L, D); returns those of the positions that the new ones can see.

        For one token this is the ring, in ring order: keys are already rotated and all of them are visible, so the
        order does not matter. For several tokens it is the last min(offset, window - 1) positions and the new ones, in
        order.
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
        index, size = self.offset % self.window, min(self.offset + 1, self.window)
        if self.earlier is not None:
            self.earlier.append(self.state)
        keys, values = (
            _written(
                mx.zeros((*new.shape[:2], self.window, new.shape[3]), new.dtype) if old is None else old, new, index
            )
            for old, new in ((self.state.keys, key), (self.state.values, value))
        )
        self.state = Ring(keys, values, self.offset + 1)
        return (keys, values) if size == self.window else (keys[:, :, :size], values[:, :, :size])

    def _append(self, ring: mx.array | None, new: mx.array, keep: int) -> mx.array:
        """The last `keep` positions of the ring in order, followed by the new ones."""
        if ring is None or keep == 0:
            return new
        start, end = (self.offset - keep) % self.window, self.offset % self.window
        parts = [ring[:, :, start:end]] if start < end else [ring[:, :, start:], ring[:, :, :end]]
        return mx.concatenate([*parts, new], axis=2)

    def _to_ring(self, ordered: mx.array, offset: int) -> mx.array:
        """The ring of the last positions before `offset`, each at its index; unused positions are zero."""
        B, K, S, D = ordered.shape
        if offset < self.window:
            return mx.concatenate([ordered, mx.zeros((B, K, self.window - S, D), ordered.dtype)], axis=2)
        index = offset % self.window
        last = ordered[:, :, S - self.window :]
        return mx.concatenate([last[:, :, self.window - index :], last[:, :, : self.window - index]], axis=2)

    def copied(self, state: Ring) -> RotatingKVCache:
        """A cache in that state. Both share memory until one of them is extended."""
        new = RotatingKVCache(self.window)
        new.state = state
        return new

    def can_trim_to(self, position: int) -> bool:
        """True if no position that a token at `position` sees has been overwritten."""
        return position == self.offset or self.offset <= self.window

    def trimmed(self, position: int) -> Ring:
        """The state without the positions from `position` on; only where `can_trim_to` is True."""
        return Ring(self.state.keys, self.state.values, position)

    @property
    def arrays(self) -> list[mx.array]:
        """The rings of keys and values, if there are any yet."""
        return [a for a in (self.state.keys, self.state.values) if a is not None]


class Cache:
    """The KV cache of a whole model: one cache for each layer, all at the same position, and snapshots to rewind to.

    Create one with `model.make_cache()`. The sequences of a batch share it and are equally long.

    Attributes:
        layers: The caches of the layers, a `KVCache` for a full layer and a `RotatingKVCache` for a sliding one.
    """

    def __init__(self, layers: Sequence[KVCache | RotatingKVCache]) -> None:
        self.layers = tuple(layers)
        self._snapshots: dict[int, list[Ring]] = {}

    @property
    def offset(self) -> int:
        """Number of tokens seen: the position of the next token."""
        return self.layers[0].offset

    @property
    def arrays(self) -> list[mx.array]:
        """All buffers, to be evaluated after each chunk of a prefill."""
        return [array for layer in self.layers for array in layer.arrays]

    @property
    def nbytes(self) -> int:
        """Bytes held by the layers. Snapshots share these until the rings change; see `snapshot_bytes`."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def snapshot_bytes(self) -> int:
        """Bytes held only by snapshots: rings that have changed since. Any thread can read this at any time."""
        current = {id(array) for array in self.arrays}
        return sum({id(a): a.nbytes for a in self.all_arrays if id(a) not in current}.values())

    @property
    def all_arrays(self) -> list[mx.array]:
        """All buffers, and those of the snapshots; some of them more than once."""
        snapshots = list(self._snapshots.values())  # a copy: the computing thread may change the dict now
        states = [state for snapshot in snapshots for state in snapshot]
        return self.arrays + [a for state in states for a in (state.keys, state.values) if a is not None]

    def reserve(self, tokens: int) -> None:
        """Announces that `tokens` more tokens follow, so that the buffers of full layers grow to that size at once.

        Otherwise every chunk of a long prompt would copy everything before it.
        """
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.reserved = self.offset + tokens

    def fork(self) -> Cache:
        """A second cache at the same position, with the same snapshots.

        Both share all arrays. The first of the two that is extended copies the buffers of the full layers.
        """
        forked = Cache([copy(layer) for layer in self.layers])
        forked.keep_earlier(False)
        forked._snapshots = dict(self._snapshots)
        return forked

    def tensors(self) -> dict[str, mx.array]:
        """All keys and values, snapshots included, by name, for saving to a file. `restore` is the reverse."""
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
        """Restores a state that `tensors` returned.

        Args:
            named: What `tensors` returned.
            offset: The position of the cache at that time.

        Raises:
            KeyError: If a snapshot has fewer sliding layers than this model.
        """
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
        """Lets `rewind` return to the current position.

        Of more than MOST_SNAPSHOTS, the second is dropped: other conversations are likely to begin like the first.
        """
        self._snapshots[self.offset] = [layer.state for layer in self._rings]
        if len(self._snapshots) > MOST_SNAPSHOTS:
            del self._snapshots[sorted(self._snapshots)[1]]

    def keep_earlier(self, is_kept: bool) -> None:
        """Lets `take_back` take back the single tokens that follow, or no longer those that came before."""
        for ring in self._rings:
            ring.earlier = [] if is_kept else None

    def can_take_back(self, tokens: int) -> bool:
        """True if so many single tokens have come since `keep_earlier(True)`."""
        return all(ring.earlier is not None and len(ring.earlier) >= tokens for ring in self._rings)

    def take_back(self, tokens: int) -> None:
        """Takes back the last single tokens, at most as many as have come since `keep_earlier(True)`."""
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.trim_to(layer.offset - tokens)
            elif tokens and layer.earlier is not None:
                layer.state = layer.earlier[-tokens]
                del layer.earlier[-tokens:]

    @property
    def snapshots(self) -> int:
        """Number of snapshots."""
        return len(self._snapshots)

    def has_snapshot(self, position: int) -> bool:
        """True if there is a snapshot at this position."""
        return position in self._snapshots

    def reachable(self, position: int) -> int:
        """Where `rewind(position)` would arrive."""
        if all(ring.can_trim_to(position) for ring in self._rings):
            return position
        return max((p for p in self._snapshots if p <= position), default=0)

    def copied(self, position: int) -> Cache:
        """A second cache at a position that is `reachable`, with the snapshots up to it.

        It has the memory of its full layers for itself, so that both can be extended without copying.
        """
        states = self._states(position)
        rings = iter(states)
        copied = Cache(
            [
                layer.copied(next(rings)) if isinstance(layer, RotatingKVCache) else layer.copied(position)
                for layer in self.layers
            ]
        )
        copied._snapshots = {p: s for p, s in self._snapshots.items() if p <= position}
        mx.eval(copied.arrays)
        return copied

    def rewind(self, position: int) -> int:
        """Rewinds to `position`, or to the nearest earlier position that is possible.

        Any position can be reached until a ring has wrapped. After that only the current position, the snapshots and
        the beginning can be reached exactly; any other position rewinds to the last snapshot before it, or else to the
        beginning. Snapshots after the returned position are dropped. The caller must feed the tokens from there on
        again.

        Args:
            position: Number of tokens to keep.

        Returns:
            The position reached, at most `position`.

        Raises:
            OptionError: If `position` is negative or greater than `offset`.
        """
        if not 0 <= position <= self.offset:
            raise OptionError(f"cannot rewind to position {position}: the cache holds positions 0 to {self.offset}")
        position = self.reachable(position)
        for ring, state in zip(self._rings, self._states(position), strict=True):
            ring.state = state
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.trim_to(position)
        self._snapshots = {p: s for p, s in self._snapshots.items() if p <= position}
        return position

    def _states(self, position: int) -> list[Ring]:
        """The states of the rings at a position that is `reachable`."""
        if all(ring.can_trim_to(position) for ring in self._rings):
            return [ring.trimmed(position) for ring in self._rings]
        return self._snapshots.get(position, [Ring(None, None, 0)] * len(self._rings))

    @property
    def _rings(self) -> list[RotatingKVCache]:
        return [layer for layer in self.layers if isinstance(layer, RotatingKVCache)]
