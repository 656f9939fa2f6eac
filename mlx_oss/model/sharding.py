"""Joins what several machines have computed of one model: each has some rows of the outputs, and all need all of them.

`mlx_oss.shards` says which rows. Joining moves numbers and adds none, so the bits are those of one machine. Knows
nothing of how the machines agree on what to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_oss.shards import Blocks, Rank, owners


@dataclass(frozen=True)
class Shard:
    """The part of a model that this machine computes.

    Attributes:
        rank: Which of the machines it is.
        group: MLX's group of them; None for a single one.
    """

    rank: Rank = Rank()  # noqa: RUF009  (it is frozen)
    group: Any = None

    def part(self, number: int) -> int:
        """How many of so many rows, heads or dimensions this machine has."""
        return number // self.rank.size

    def joined(self, y: mx.array) -> mx.array:
        """(..., n) of each machine -> (..., size * n): those of all of them."""
        if self.rank.size == 1:
            return y
        parts = self.of_all(y)
        return mx.moveaxis(parts, 0, -2).flatten(-2)

    def looked_up(self, table: Any, tokens: mx.array, rows: int) -> mx.array:
        """Rows of a table of which each machine has some: tokens (B, L) int -> (B, L, C).

        Args:
            table: Looks up rows that this machine has, by their number here.
            tokens: Numbers of rows in the whole table.
            rows: How many rows each machine has.
        """
        if self.rank.size == 1:
            found: mx.array = table(tokens)
            return found
        return self.from_owners(table(self.here(tokens, rows)), tokens // rows)

    def here(self, numbers: mx.array, rows: int) -> mx.array:
        """Numbers of rows in the whole of a table -> their numbers here; any row, for those that are elsewhere.

        Args:
            numbers: Int.
            rows: How many rows each machine has.
        """
        return mx.clip(numbers - self.rank.number * rows, 0, rows - 1)

    def rows(self, array: mx.array, rows: Sequence[int], blocks: Blocks | None) -> mx.array:
        """Rows of a matrix by their numbers in the whole of it: (own, ...) -> (n, ...).

        Args:
            array: The rows that this machine has.
            rows: (n,) numbers.
            blocks: How it is divided.
        """
        if self.rank.size == 1 or blocks is None:
            return array[mx.array(list(rows))]
        ranks, here = zip(*owners(blocks, self.rank.size, rows), strict=True)
        return self.from_owners(array[mx.array(here)], mx.array(ranks))

    def from_owners(self, y: mx.array, ranks: mx.array) -> mx.array:
        """y (*n, ...) of each machine, ranks (*n) -> (*n, ...): each from the machine that has it."""
        if self.rank.size == 1:
            return y
        parts = self.of_all(y)
        index = ranks.reshape(1, *ranks.shape, *[1] * (y.ndim - ranks.ndim))
        return mx.take_along_axis(parts, mx.broadcast_to(index, (1, *y.shape)), axis=0)[0]

    def from_first(self, y: mx.array) -> mx.array:
        """y of each machine, all of the same shape -> that of the first."""
        return y if self.rank.size == 1 else self.of_all(y)[0]

    def heads_of_all(self, y: mx.array) -> mx.array:
        """y (B, k, S, D), the heads of this machine -> (B, K, S, D), those of all."""
        return y if self.rank.size == 1 else mx.concatenate(list(self.of_all(y)), axis=1)

    def own_heads(self, y: mx.array) -> mx.array:
        """y (B, K, S, D), the heads of all machines -> (B, k, S, D), those of this one."""
        own = self.part(y.shape[1])
        return mx.contiguous(y[:, self.rank.number * own : (self.rank.number + 1) * own])

    def of_all(self, y: mx.array) -> mx.array:
        """(...) -> (size, ...): that of each machine."""
        return mx.distributed.all_gather(y[None], group=self.group)


WHOLE = Shard()
