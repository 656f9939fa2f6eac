"""Counts the bytes that a folder's weights take in memory.

Some weights stay as they are stored, some are cast, and some stay on disk. This mirrors what `loader` and `offload` do.
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
    """Sizes of one tensor, in bytes.

    Attributes:
        stored: Size in the file.
        loaded: Size in the loaded model. 0 for scales and biases of a matrix that is dequantised.
        separate: Size while its module is being joined from parts that are not stored alike: floats are in the dtype
            of the activations, everything else is as stored.
        is_converted: True if the loaded tensor is not the one that was read: it has another size, or was float16.
    """

    stored: int
    loaded: int
    separate: int
    is_converted: bool


def is_on_disk(target: str) -> bool:
    """True if this module of the model stays on disk when the model is offloaded."""
    return target == _EMBEDDING or ".experts." in target


class Footprint:
    """Counts the weights of an MLX folder as a loaded model stores them.

    Args:
        folder: The folder.
        itemsize: Bytes per activation.
        upcasts: True if layers convert their matrices to float32 while they compute, as on the CPU backend.

    Attributes:
        kinds: Bytes with everything in memory, by kind: experts, attention, embedding, unembedding, other.
        slot_bytes: Bytes of one expert slot in every layer.
    """

    def __init__(self, folder: ModelFolder, itemsize: int, *, upcasts: bool) -> None:
        self._folder, self._itemsize, self._upcasts = folder, itemsize, upcasts
        self.kinds = dict.fromkeys(("experts", "attention", "embedding", "unembedding", "other"), 0)
        for target in folder.fusions:
            self.kinds[_kind(target)] += sum(tensor.loaded for tensor in self._tensors(target))
        self.kinds["other"] += sum(math.prod(shape) * itemsize for shape in plain_tensors(folder.config).values())
        self.slot_bytes = self.kinds["experts"] // folder.config.num_local_experts

    def weights(self, slots: int | None) -> int:
        """Bytes in memory with this number of expert slots per layer, or with everything in memory if None."""
        total = sum(self.kinds.values())
        if slots is None:
            return total
        return total - self.kinds["experts"] - self.kinds["embedding"] + self._outside_slots() + slots * self.slot_bytes

    def loading(self, slots: int | None) -> int:
        """The most bytes that loading needs in addition to the weights, to convert tensors and to join parts."""
        folder = self._folder
        targets = [target for target in folder.fusions if slots is None or not is_on_disk(target)]
        alike = [tensor for target in targets if folder.is_alike(target) for tensor in self._tensors(target)]
        unlike = [tensor for target in targets if not folder.is_alike(target) for tensor in self._tensors(target)]
        excess = sum(max(tensor.stored - tensor.loaded, 0) for tensor in alike)
        largest = max((tensor.stored for tensor in alike if tensor.is_converted), default=0)
        return largest + min(excess, AHEAD) + sum(tensor.separate for tensor in unlike)

    def saved_by(self, bits: int) -> int:
        """Bytes saved if every matrix that is not quantised were stored with `bits` bits in affine groups of 64."""
        saved = 0
        for path, shape, _ in modules(self._folder.config):
            if can_quantize(path) and self._folder.specs[path] is None:
                values = math.prod(shape)
                nbytes = values * self._matrix_itemsize(path, f"{path}.weight")
                saved += nbytes - values * bits // 8 - 2 * values // 64 * self._itemsize
        return saved

    def _tensors(self, target: str) -> Iterator[_Sizes]:
        """The sizes of the stored tensors that a module of the model consists of."""
        folder, alike, spec = self._folder, self._folder.is_alike(target), self._folder.fused_spec(target)
        for name in (f"{member}.{suffix}" for member in folder.fusions[target] for suffix in SUFFIXES):
            if (tensor := folder.tensors.get(name)) is None:
                continue
            values, (member, _, suffix) = math.prod(tensor.shape), name.rpartition(".")
            floats = tensor.dtype in FLOATS
            separate = values * self._itemsize if floats else tensor.nbytes
            if (member_spec := folder.specs[member]) and spec is None and suffix != "bias":  # dequantised, to be joined
                loaded = values * 32 // member_spec.bits * self._itemsize if suffix == "weight" else 0
            elif floats and suffix == "weight" and len(tensor.shape) == 2 and alike:
                loaded = values * self._matrix_itemsize(target, name)
            else:
                loaded = separate
            is_converted = loaded != tensor.nbytes or tensor.dtype == "F16"
            yield _Sizes(stored=tensor.nbytes, loaded=loaded, separate=separate, is_converted=is_converted)

    def _matrix_itemsize(self, target: str, name: str) -> int:
        stored = ITEMSIZE[self._folder.tensors[name].dtype]
        if target.endswith(_EMBEDDING):  # never cast as a whole, only the rows that are used
            return stored
        return min(stored, self._itemsize) if self._upcasts else self._itemsize

    def _outside_slots(self) -> int:
        """Bytes that offloading keeps in memory for all experts, whether they have a slot or not.

        These are the biases, and floats that are not stored in the dtype they are computed in.
        """
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
