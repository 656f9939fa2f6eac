"""How many bytes a folder's weights take in memory: which stay as they are stored, which are cast, which are kept on
disk. Mirrors what `loader` and `offload` do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_oss.weights.folder import FLOATS, SUFFIXES, ModelFolder
from mlx_oss.weights.names import can_quantize, is_expert, modules, plain_tensors
from mlx_oss.weights.reading import AHEAD
from mlx_oss.weights.safetensors import ITEMSIZE

_EMBEDDING = "embed_tokens"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a tensor: as it is stored, as part of a module, in the dtype of the activations; and whether it is cast
    where it can be joined as it is stored.
    """

    stored: int
    held: int
    apart: int
    cast: bool


def is_on_disk(target: str) -> bool:
    """Whether that module of the model is offloaded where anything is."""
    return target == _EMBEDDING or ".experts." in target


class Footprint:
    """The weights of a folder, with activations of `itemsize` bytes.

    upcasts        whether layers make float32 of their matrices as they go, as on the CPU backend
    kinds          bytes by kind with everything in memory: experts, attention, embedding, unembedding, other
    slot_bytes     of one slot in each layer
    """

    def __init__(self, folder: ModelFolder, itemsize: int, *, upcasts: bool) -> None:
        self._folder, self._itemsize, self._upcasts = folder, itemsize, upcasts
        self.kinds = dict.fromkeys(("experts", "attention", "embedding", "unembedding", "other"), 0)
        for target in folder.fusions:
            self.kinds[_kind(target)] += sum(tensor.held for tensor in self._tensors(target))
        self.kinds["other"] += sum(math.prod(shape) * itemsize for shape in plain_tensors(folder.config).values())
        self.slot_bytes = self.kinds["experts"] // folder.config.num_local_experts

    def weights(self, slots: int | None) -> int:
        """Bytes in memory with so many slots a layer; None: with everything."""
        total = sum(self.kinds.values())
        if slots is None:
            return total
        return total - self.kinds["experts"] - self.kinds["embedding"] + self._beside_slots() + slots * self.slot_bytes

    def loading(self, slots: int | None) -> int:
        """Bytes that loading takes at most beyond the weights, for what is not held as it is stored."""
        folder = self._folder
        targets = [target for target in folder.fusions if slots is None or not is_on_disk(target)]
        alike = [tensor for target in targets if folder.is_alike(target) for tensor in self._tensors(target)]
        apart = [tensor for target in targets if not folder.is_alike(target) for tensor in self._tensors(target)]
        shrinks = sum(max(tensor.stored - tensor.held, 0) for tensor in alike)
        largest = max((tensor.stored for tensor in alike if tensor.cast), default=0)
        return largest + min(shrinks, AHEAD) + sum(tensor.apart for tensor in apart)

    def saved_by(self, bits: int) -> int:
        """What storing the matrices that are not quantised in affine groups of 64 would save."""
        saved = 0
        for path, shape, _ in modules(self._folder.config):
            if can_quantize(path) and self._folder.specs[path] is None:
                values = math.prod(shape)
                now = values * self._matrix_itemsize(path, f"{path}.weight")
                saved += now - values * bits // 8 - 2 * values // 64 * self._itemsize
        return saved

    def _tensors(self, target: str) -> Iterator[_Sizes]:
        """What a module of the model is made of."""
        folder, alike, spec = self._folder, self._folder.is_alike(target), self._folder.fused_spec(target)
        for name in (f"{member}.{suffix}" for member in folder.fusions[target] for suffix in SUFFIXES):
            if (tensor := folder.tensors.get(name)) is None:
                continue
            values, (member, _, suffix) = math.prod(tensor.shape), name.rpartition(".")
            floats = tensor.dtype in FLOATS
            cast = values * self._itemsize if floats else tensor.nbytes
            if (own := folder.specs[member]) and spec is None and suffix != "bias":  # dequantised, to be joined
                held = values * 32 // own.bits * self._itemsize if suffix == "weight" else 0
            elif floats and suffix == "weight" and len(tensor.shape) == 2 and alike:
                held = values * self._matrix_itemsize(target, name)
            else:
                held = cast
            stays = held == tensor.nbytes and tensor.dtype != "F16"
            yield _Sizes(tensor.nbytes, held, cast, not stays)

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
            if is_expert(name)
            and tensor.dtype in FLOATS
            and (name.endswith(".bias") or ITEMSIZE[tensor.dtype] != self._itemsize or tensor.dtype == "F16")
        )


def _kind(target: str) -> str:
    if ".experts." in target:
        return "experts"
    if ".self_attn." in target:
        return "attention"
    return {_EMBEDDING: "embedding", "lm_head": "unembedding"}.get(target, "other")
