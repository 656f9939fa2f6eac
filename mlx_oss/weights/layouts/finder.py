"""Finds every canonical tensor in the tensors of a folder, and checks that nothing is missing or left over.

Knows shapes, dtypes and quantisation. Knows nothing of how names are spelt: the layout does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.errors import CheckpointError
from mlx_oss.quantization import inferred_spec
from mlx_oss.weights.layouts.description import FLOATS, CanonicalTensor, Layout, Location, RowsLeftOut
from mlx_oss.weights.layouts.mlx_folder import MLX
from mlx_oss.weights.names import Shape, can_quantize, is_expert, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import TensorInfo

_AGAIN = "download, convert or save the model again"
_LONGEST, _MOST = 300, 100  # characters of a name, and number of names, that a missing tensor is looked for in


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds what belongs to the model in the files of a folder.

    Attributes:
        folder: The folder.
        layout: Its layout.
        config: The model's config.
        files: The tensors of its files, by the names that the layout gives them.
    """

    folder: Path
    layout: Layout
    config: ModelConfig
    files: Mapping[str, TensorInfo]

    def spec(self, module: str, shape: Shape) -> QuantizationSpec | None:
        """How a module's canonical tensors are quantised.

        In an MLX folder, a module is quantised if it has `.scales`: by its own entry in the config, or else as the
        shapes of its tensors show. In every other layout, the experts are MXFP4, and nothing else is quantised.
        """
        if self.layout is not MLX:
            return MXFP4 if is_expert(module) else None
        weight, scales = (self.files.get(f"{module}.{suffix}") for suffix in ("weight", "scales"))
        if weight is None:
            return None  # which is reported as missing
        if scales is None:
            return None
        words, groups = (tensor.shape[-1] if tensor.shape else 0 for tensor in (weight, scales))
        stored = inferred_spec(shape[-1], words, groups, scales.dtype in FLOATS)
        said = self.config.quantization.said_of(module) if self.config.quantization else None
        spec = stored or said  # if the shapes are no quantisation, what the config says shows which tensor is wrong
        if spec is None or not can_quantize(module) or shape[-1] % spec.group_size:
            raise CheckpointError(
                f"{self.folder}: {module} with {shape[-1]} columns is quantised in a way that is not MLX's: a weight "
                f"{weight.shape} of {weight.dtype} has scales {scales.shape} of {scales.dtype}: {_AGAIN}"
            )
        if self.config.quantization and self.config.quantization.modules.get(module, spec) != spec:
            raise CheckpointError(
                f"{self.folder / 'config.json'}: quantization.{module} disagrees with the tensors of the module, which "
                f"are {spec.mode} with {spec.bits} bits in groups of {spec.group_size}: remove the entry"
            )
        return spec

    def tensors(self, specs: Mapping[str, QuantizationSpec | None]) -> list[CanonicalTensor]:
        """All canonical tensors, in the order in which the model uses them."""
        found = []
        for module, shape, bias in modules(self.config):
            spec = specs[module]
            for name, stored_shape in stored_tensors(module, shape, bias, spec).items():
                found.append(self._find(name, packed_dtype(name, spec), stored_shape, spec))
        found += [self._find(name, None, shape) for name, shape in plain_tensors(self.config).items()]
        used = {source.name for tensor in found for source in tensor.sources}
        if unknown := sorted((tensor.name, tensor.file) for tensor in self.files.values() if tensor.name not in used):
            name, file = unknown[0]
            raise CheckpointError(
                f"{file}: tensor {name} is not part of the gpt-oss model that config.json describes: save the "
                "model without it"
            )
        return found

    def _find(
        self, name: str, dtype: str | None, shape: Shape, spec: QuantizationSpec | None = None
    ) -> CanonicalTensor:
        """Finds a canonical tensor. Its dtype is None for floats."""
        stored = self.layout.locate(name, dtype, shape, self.config)
        sources = tuple(
            self._checked(stored.name_of(expert), stored, _dtypes(name, stored.dtype, spec))
            for expert in range(shape[0] if stored.by_expert else 1)
        )
        dtype = dtype or self.layout.dtype or sources[0].dtype
        return CanonicalTensor(name, dtype, shape, sources, stored.first, stored.step, stored.change)

    def _checked(self, name: str, stored: Location, dtypes: Collection[str]) -> TensorInfo:
        tensor = self.files.get(name)
        if tensor is None:
            raise CheckpointError(self._missing(name))
        shape = stored.shape
        if isinstance(stored.change, RowsLeftOut) and tensor.shape[0] < shape[0]:
            shape = (tensor.shape[0], *shape[1:])
        if tensor.shape != shape and not _is_same_rows(tensor, shape, dtypes):
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name} has shape {tensor.shape}, but config.json requires {shape}: "
                "check that both belong to the same model, or download or convert it again"
            )
        if tensor.dtype not in dtypes:
            remedy = "save the model in bfloat16, float16 or float32" if dtypes is FLOATS else _AGAIN
            expected = " or ".join(sorted(dtypes))
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name} is {tensor.dtype}, expected {expected}: {remedy}"
            )
        return tensor

    def _missing(self, name: str) -> str:
        """The message for a tensor that is missing: names one that may be it under another name, if there is one."""
        wanted = set()
        for module, shape, bias in modules(self.config):
            for tensor, stored_shape in stored_tensors(module, shape, bias, self.spec(module, shape)).items():
                location = self.layout.locate(tensor, None, stored_shape, self.config)
                experts = min(shape[0], len(self.files)) if location.by_expert else 1  # a config may say anything
                wanted |= {location.name_of(expert) for expert in range(experts)}
        wanted |= {*plain_tensors(self.config)}
        numbers = re.findall(r"\d+", name)  # of its layer and expert: comparing it with all names would take too long
        left = (
            tensor.name
            for stored, tensor in self.files.items()
            if stored not in wanted and len(stored) < _LONGEST and re.findall(r"\d+", stored) == numbers
        )
        if near := get_close_matches(name, islice(left, _MOST), 1):
            return (
                f"{self.folder}: tensor {name} is missing, and {near[0]}, which is there, is not part of a gpt-oss "
                "model: save the model with transformers' save_pretrained, or rename the tensor"
            )
        return f"{self.folder}: tensor {name} is missing: {_AGAIN}"


def packed_dtype(name: str, spec: QuantizationSpec | None) -> str | None:
    """The dtype of a canonical tensor of integers; None for floats."""
    if spec is not None and name.endswith(".weight"):
        return "U32"
    return "U8" if spec is not None and spec.mode != "affine" and name.endswith(".scales") else None


def _dtypes(name: str, stored: str | None, spec: QuantizationSpec | None) -> Collection[str]:
    """The dtypes that a canonical tensor may have in the files: `stored`, and others for the same bits."""
    if stored is None:
        return FLOATS
    if stored == "U32":
        return {"U32", "I32"}
    if name.endswith(".weight"):
        return {"U8", "I8", "F4"}
    return {"U8", "I8", "F8_E4M3" if spec is not None and spec.mode == "nvfp4" else "F8_E8M0"}


def _is_same_rows(tensor: TensorInfo, shape: Shape, dtypes: Collection[str]) -> bool:
    """True for MXFP4 blocks whose rows have the same bytes in another shape: of nibbles, or of the bytes of a row."""
    return (
        "F4" in dtypes
        and tensor.shape[:2] == shape[:2]
        and tensor.dtype in dtypes
        and tensor.nbytes == math.prod(shape)
    )
