"""How many bytes a folder's weights take in memory: which stay as they are stored, which are cast, which are kept on
disk. Mirrors what `loader` and `offload` do.
"""

from __future__ import annotations

import math

from mlx_oss import layout
from mlx_oss.folder import Folder
from mlx_oss.tensorfile import ITEMSIZE

_FLOATS = ("BF16", "F16", "F32")
_EMBEDDING = "embed_tokens"


class Footprint:
    """The weights of a folder, with activations of `itemsize` bytes.

    upcasts        whether layers make float32 of their matrices as they go, as on the CPU backend
    kinds          bytes by kind with everything in memory: experts, attention, embedding, unembedding, other
    slot_bytes     of one slot in each layer
    loading_bytes  what loading everything takes at most beyond that, as parts are fused
    """

    def __init__(self, folder: Folder, itemsize: int, *, upcasts: bool) -> None:
        self._folder, self._itemsize, self._upcasts = folder, itemsize, upcasts
        self.kinds = dict.fromkeys(("experts", "attention", "embedding", "unembedding", "other"), 0)
        done = peak = before = 0
        for target, members in folder.fusions.items():
            held = sum(self._held(target, member) for member in members)
            now = 2 * held if len(members) > 1 else held  # with its parts, and with the module before it
            peak = max(peak, done + before + now)
            done, before = done + held, now - held
            self.kinds[_kind(target)] += held
        self.kinds["other"] += sum(
            math.prod(shape) * itemsize for shape in layout.plain_tensors(folder.config).values()
        )
        self.loading_bytes = max(0, peak - sum(self.kinds.values()))
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

    def _held(self, target: str, member: str) -> int:
        """Of one of the folder's modules, as part of `target`."""
        folder, total = self._folder, 0
        names = [f"{member}.{s}" for s in ("weight", "scales", "biases", "bias") if f"{member}.{s}" in folder.tensors]
        if len({folder.specs[part] for part in folder.fusions[target]}) > 1:  # dequantised, to be joined
            spec = folder.specs[member]
            stored = folder.tensors[f"{member}.scales" if spec else f"{member}.weight"]
            total += math.prod(stored.shape) * (spec.group_size if spec else 1) * self._itemsize
            names = [name for name in names if name.endswith(".bias")]
        for name in names:
            tensor = folder.tensors[name]
            each = ITEMSIZE[tensor.dtype]
            if tensor.dtype in _FLOATS:
                matrix = name.endswith(".weight") and len(tensor.shape) == 2
                each = self._matrix_itemsize(target, name) if matrix else self._itemsize
            total += math.prod(tensor.shape) * each
        return total

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
