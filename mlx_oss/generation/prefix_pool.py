"""The prefix pool: keys and values that requests have left, found again by the ids they belong to.

A request that begins as an earlier one did need not read that beginning again. The pool holds what nobody uses at
present, within one limit of bytes together with what is in use. It is used on the computing thread alone. Knows nothing
of requests, and nothing of what the ids mean.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mlx_oss.config import ModelConfig
from mlx_oss.memory.estimates import kv_cache_bytes, snapshot_bytes
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS, Cache, KVCache
from mlx_oss.model.transformer import Transformer

_BLOCK = 512  # ids that are compared at a time
_WORTH_COPYING = 64  # ids; reading fewer again takes no longer than copying what precedes them
MOST_IDLE = 256  # prefixes that nobody uses; finding the longest takes about 0.1 ms for each with 6,000 ids in common


class Prefix:
    """Keys and values, and the ids that they belong to.

    Args:
        kv: The keys and values.
        ids: The ids; there are `kv.offset` of them.

    Attributes:
        kv: The keys and values.
        ids: The ids.
        owner: The prompt cache whose `prefix` it is, weakly, so that a cache that nobody uses is freed. None if there
            is no owner.
    """

    def __init__(self, kv: Cache, ids: list[int]) -> None:
        self.kv, self.ids = kv, ids
        self.owner: weakref.ref[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys, the values and the snapshots."""
        return self.kv.nbytes + self.kv.snapshot_bytes

    def reach(self, prompt: Sequence[int], snapshots: Collection[int]) -> int:
        """How many ids of a prompt it can be rewound to. The last one is read again in any case, for its logits.

        After rewinding, the last snapshot that is wanted is there, or it can still be taken.
        """
        shared = shared_length(self.ids, prompt[:-1])
        last = max(snapshots, default=shared)
        return self.kv.reachable(shared if shared <= last or self.kv.has_snapshot(last) else last)


class PrefixPool:
    """The prefixes of an engine.

    Args:
        model: The model.
        limit: Bytes that all keys and values may take. The keys and values of one full context should fit.

    Attributes:
        limit: Bytes that all keys and values may take.
    """

    def __init__(self, model: Transformer, limit: int) -> None:
        self.limit = limit
        self._model = model
        self._idle: dict[Prefix, int] = {}  # their bytes, those first that have not been used for longest
        self._used: dict[Prefix, int] = {}  # the bytes that are set aside for them

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, with those that are set aside. What two prefixes share counts once.

        Any thread can read this at any time.
        """
        idle = list(self._idle)  # a copy: the computing thread may change the dict now
        return sum(self._used.values()) + (_nbytes_of(idle) if self._may_share else sum(self._idle.values()))

    @property
    def idle(self) -> int:
        """Number of prefixes that nobody uses."""
        return len(self._idle)

    def take(self, prompt: list[int], snapshots: Collection[int], own: Prefix | None) -> Prefix | None:
        """The longest beginning of a prompt that is held, for a request that will read the rest.

        Args:
            prompt: All ids of the prompt.
            snapshots: Where the request wants snapshots; those that are there already need not be taken.
            own: What the request may rewind, whatever else it holds. Of other prefixes only one that nobody owns and
                that the prompt continues entirely is continued in place; the others are copied.

        Returns:
            A prefix that is in use until `put` or `drop`, with bytes set aside for the prompt. None if they do not fit.
        """
        source, length = self._longest(prompt, snapshots, own)
        is_free = source in self._idle and (source is own or (not _owned(source) and length == len(source.ids)))
        wanted = 1 + len(snapshots)  # one more after the preamble
        needed = self._bytes(len(prompt), wanted + (0 if source is None else source.kv.snapshots))
        held = self._idle.pop(source) if source is not None and is_free else None
        if not self._make_room(needed, keep=source):
            if source is not None and held is not None:
                self._idle[source] = held
                return None
            needed = self._bytes(len(prompt), wanted)
            if source is None or not self._make_room(needed):
                return None
            source, length = None, 0
        if source is None or not length:
            taken = own if source is own and own is not None else Prefix(self._model.make_cache(), [])
            taken.kv, taken.ids = self._model.make_cache(), []
        elif is_free:
            taken = source
            del taken.ids[taken.kv.rewind(length) :]
        else:
            taken = Prefix(source.kv.copied(length), source.ids[:length])
        if source is not None and source in self._idle:  # it was used just now
            self._idle[source] = self._idle.pop(source)
        self._used[taken] = max(needed, taken.nbytes)
        return taken

    def take_new(self, prompt: list[int], snapshots: int) -> Prefix | None:
        """An empty prefix for a request that reads all of its prompt, with so many snapshots; otherwise like `take`."""
        needed = self._bytes(len(prompt), 1 + snapshots)
        if not self._make_room(needed):
            return None
        taken = Prefix(self._model.make_cache(), [])
        self._used[taken] = needed
        return taken

    def grow(self, prefix: Prefix, tokens: int) -> bool:
        """Sets bytes aside for more ids of a prefix in use. Returns False if they do not fit."""
        more = self._bytes(len(prefix.ids) + tokens, prefix.kv.snapshots) - self._used[prefix]
        if more <= 0:  # also for ids that were set aside for a guess, and taken back
            return True
        if not self._make_room(more):
            return False
        self._used[prefix] += more
        return True

    def put(self, prefix: Prefix) -> None:
        """Takes back what is no longer in use. The caller may keep it: `drop` is called when the bytes are needed."""
        prefix.kv.keep_earlier(False)
        self._used.pop(prefix, None)
        if prefix.ids:
            self._idle[prefix] = prefix.nbytes
            self._make_room(0, most=MOST_IDLE)
        else:
            self.drop(prefix)

    def drop(self, prefix: Prefix) -> None:
        """Forgets a prefix; its owner then holds nothing."""
        self._used.pop(prefix, None)
        self._idle.pop(prefix, None)
        if prefix.owner is not None and (owner := prefix.owner()) is not None and owner.prefix is prefix:
            owner.prefix = None

    def clear(self) -> None:
        """Forgets all prefixes that nobody uses and nobody owns."""
        for prefix in [prefix for prefix in self._idle if not _owned(prefix)]:
            self.drop(prefix)

    def _longest(self, prompt: list[int], snapshots: Collection[int], own: Prefix | None) -> tuple[Prefix | None, int]:
        """The prefix that saves the most reading, and how many ids of it can be used."""
        best, length = own, 0 if own is None else own.reach(prompt, snapshots)
        enough = length + (_WORTH_COPYING if length else 0)
        for prefix in [*self._used, *reversed(self._idle)]:
            if prefix.ids[:8] == prompt[:8] and (reach := prefix.reach(prompt, snapshots)) > enough:
                best, length, enough = prefix, reach, reach
        return best, length

    def _make_room(self, nbytes: int, *, keep: Prefix | None = None, most: int | None = None) -> bool:
        """Drops idle prefixes until so many more bytes fit: first those that nobody owns. Returns False if in vain."""
        droppable = [prefix for prefix in self._idle if prefix is not keep]
        droppable.sort(key=_owned)
        for prefix in droppable:
            if self.nbytes + nbytes <= self.limit and (most is None or len(self._idle) <= most):
                break
            self.drop(prefix)
        return self.nbytes + nbytes <= self.limit

    def _bytes(self, ids: int, snapshots: int = 0) -> int:
        """Bytes of the keys and values of so many ids, with the room at the end of buffers, and of snapshots."""
        return self._model.shard.part(bytes_for(self._model.config, ids, self._model.dtype.size, snapshots))

    @property
    def _may_share(self) -> bool:
        """True if it is worth looking for shared memory: only forks share, and only when bytes become scarce."""
        return sum(self._used.values()) + sum(self._idle.values()) > self.limit


def bytes_for(config: ModelConfig, ids: int, itemsize: int, snapshots: int = MOST_SNAPSHOTS) -> int:
    """Bytes of the keys and values of a conversation, with the room at the end of its buffers, and of its snapshots."""
    room = -(-max(ids, 1) // KVCache.STEP) * KVCache.STEP
    kept = min(snapshots, MOST_SNAPSHOTS)
    return kv_cache_bytes(config, room, itemsize) + snapshot_bytes(config, kept, itemsize)


def shared_length(ids: Sequence[int], prompt: Sequence[int]) -> int:
    """Number of ids that two sequences have in common at their beginning."""
    most = min(len(ids), len(prompt))
    start = 0
    while start < most and ids[start : start + _BLOCK] == prompt[start : start + _BLOCK]:
        start += _BLOCK
    while start < most and ids[start] == prompt[start]:
        start += 1
    return min(start, most)


def _owned(prefix: Prefix) -> bool:
    """True if a prompt cache that is still used holds it."""
    return prefix.owner is not None and prefix.owner() is not None


def _nbytes_of(prefixes: Iterable[Prefix]) -> int:
    """Bytes of all arrays, each counted once."""
    return sum({id(array): array.nbytes for prefix in prefixes for array in prefix.kv.all_arrays}.values())
