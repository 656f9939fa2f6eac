"""Counts the bytes that a model's weights take in memory: adds up its placements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlx_oss.config import MXFP4
from mlx_oss.weights.names import can_quantize, is_expert
from mlx_oss.weights.placements import EMBEDDING, Placement
from mlx_oss.weights.reading import AHEAD

_GROUP = 64  # values that share a scale and a bias in the converter's profiles


class Footprint:
    """Counts the weights of a model as they are held in memory.

    Args:
        placements: All parameters of the model.
        experts: Number of experts of each layer.
        itemsize: Bytes per activation.

    Attributes:
        kinds: Bytes with everything in memory, by kind: experts, attention, embedding, unembedding, other.
        slot_bytes: Bytes of one expert slot in every layer.
    """

    def __init__(self, placements: Sequence[Placement], experts: int, itemsize: int) -> None:
        self._placements, self._itemsize = placements, itemsize
        self.kinds = dict.fromkeys(("experts", "attention", "embedding", "unembedding", "other"), 0)
        for placement in self._placements:
            self.kinds[_kind(placement.module)] += placement.nbytes
        self.slot_bytes = self.kinds["experts"] // experts

    def weights(self, slots: int | None) -> int:
        """Bytes in memory with this number of expert slots per layer, or with everything in memory if None."""
        if slots is None:
            return sum(self.kinds.values())
        return slots * self.slot_bytes + sum(
            placement.nbytes for placement in self._placements if not placement.is_read_on_demand
        )

    def loading(self, slots: int | None) -> int:
        """The most bytes that loading needs in addition to the weights, to convert tensors and to join parts."""
        loaded = [placement for placement in self._placements if slots is None or not placement.can_stay_on_disk]
        excess = sum(max(placement.stored_nbytes - placement.nbytes, 0) for placement in loaded)
        return max(placement.loading_nbytes for placement in loaded) + min(excess, AHEAD)

    def saved_by(self, bits: int, *, everything: bool = True) -> int:
        """Bytes saved by converting the model with a profile of this many bits.

        With `everything`, those of all weights, else only of those that cannot stay on disk.

        Every matrix that is not quantised is then stored in affine groups of 64, and the experts in MXFP4. 0 if that is
        not possible, because the columns of a matrix are not a multiple of 64.
        """
        saved = 0
        for placement in self._placements:
            if placement.suffix == "weight" and placement.spec is None and can_quantize(placement.module):
                on_disk = placement.is_read_on_demand and not everything
                values = math.prod(placement.shape)
                if is_expert(placement.module):
                    saved += 0 if on_disk else placement.nbytes - values * MXFP4.bits // 8 - values // MXFP4.group_size
                    continue
                if placement.shape[-1] % _GROUP:
                    return 0
                saved += 0 if on_disk else placement.nbytes - values * bits // 8 - 2 * values // _GROUP * self._itemsize
        return saved


def _kind(module: str) -> str:
    if is_expert(module):
        return "experts"
    if ".self_attn" in module:
        return "attention"
    return {EMBEDDING: "embedding", "lm_head": "unembedding"}.get(module, "other")
