"""How many bytes a folder's weights take in memory: which stay as they are stored, which are cast, which are kept on
disk. Mirrors what `loader` and `offload` do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from mlx_oss import layout
from mlx_oss.folder import SUFFIXES, Folder
from mlx_oss.tensorfile import ITEMSIZE
from mlx_oss.weights import AHEAD

_FLOATS = ("BF16", "F16", "F32")
_EMBEDDING = "embed_tokens"


class Footprint:
    """The weights of a folder, with activations of `itemsize` bytes.

    upcasts        whether layers make float32 of their matrices as they go, as on the CPU backend
    kinds          bytes by kind with everything in memory: experts, attention, embedding, unembedding, other
    slot_bytes     of one slot in each layer
    loading_bytes  what loading everything takes at most beyond that, for what is not held as it is stored
    """

    def __init__(self, folder: Folder, itemsize: int, *, upcasts: bool) -> None:
        self._folder, self._itemsize, self._upcasts = folder, itemsize, upcasts
        self.kinds = dict.fromkeys(("experts", "attention", "embedding", "unembedding", "other"), 0)
        cast = apart = 0
        for target, members in folder.fusions.items():
            sizes = [size for member in members for size in self._sizes(target, member)]
            self.kinds[_kind(target)] += sum(held for _, held in sizes)
            if folder.is_alike(target):
                cast += sum(stored for stored, held in sizes if stored != held)
            else:
                apart += sum(stored for stored, _ in sizes)
        self.loading_bytes = apart + min(cast, 2 * AHEAD)
        self.kinds["other"] += sum(
            math.prod(shape) * itemsize for shape in layout.plain_tensors(folder.config).values()
        )
        self.slot_bytes = self.kinds["experts"] // folder.config.num_local_experts

    def weights(self, slots: int | None) -> int:
        """Bytes in memory with so many slots a layer; None: with everything."""
        total = sum(self.kinds.values())
        if slots is None:
            return total
        return total - self.kinds["experts"] - self.kinds["embedding"] + self._beside_slots() + slots * self.slot_bytes

    def saved_by(self, bits: int) -> int:
        """What storing the matrices that are not quantised in affine groups of 64 would save."""
        saved = 0
        for path, shape, _ in layout.modules(self._folder.config):
            if layout.can_quantize(path) and self._folder.specs[path] is None:
                values = math.prod(shape)
                now = values * self._matrix_itemsize(path, f"{path}.weight")
                saved += now - values * bits // 8 - 2 * values // 64 * self._itemsize
        return saved

    def _sizes(self, target: str, member: str) -> Iterator[tuple[int, int]]:
        """(bytes stored, bytes held) of the tensors of one of the folder's modules, as part of `target`."""
        folder, alike = self._folder, self._folder.is_alike(target)
        for suffix in SUFFIXES:
            if (tensor := folder.tensors.get(f"{member}.{suffix}")) is None:
                continue
            values, spec = math.prod(tensor.shape), folder.specs[member]
            if spec and not alike and suffix != "bias":  # dequantised, to be joined
                held = values * 32 // spec.bits * self._itemsize if suffix == "weight" else 0
            elif tensor.dtype not in _FLOATS:
                held = tensor.nbytes
            elif suffix == "weight" and len(tensor.shape) == 2 and alike:
                held = values * self._matrix_itemsize(target, tensor.name)
            else:
                held = values * self._itemsize
            yield tensor.nbytes, held

    def _matrix_itemsize(self, target: str, name: str) -> int:
        stored = ITEMSIZE[self._folder.tensors[name].dtype]
        if target.endswith(_EMBEDDING):  # cast row by row
            return stored
        return min(stored, self._itemsize) if self._upcasts else self._itemsize

    def _beside_slots(self) -> int:
        """What offloading keeps in memory of experts that have no slot: biases, and what is not as it is computed."""
        return sum(
            math.prod(tensor.shape) * self._itemsize
            for name, tensor in self._folder.tensors.items()
            if layout.is_expert(name)
            and tensor.dtype in _FLOATS
            and (name.endswith(".bias") or ITEMSIZE[tensor.dtype] != self._itemsize or tensor.dtype == "F16")
        )


def _kind(target: str) -> str:
    if ".experts." in target:
        return "experts"
    if ".self_attn." in target:
        return "attention"
    return {_EMBEDDING: "embedding", "lm_head": "unembedding"}.get(target, "other")
