"""Puts offloaded experts and an offloaded embedding into a model that is being loaded.

Knows the tensors of the folder, and how the model fuses gate and up. The loader loads all other weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_oss.model.linear import ExpertLinear
from mlx_oss.model.transformer import Specs, Transformer
from mlx_oss.offload.embedding import EmbeddingOnDisk
from mlx_oss.offload.experts import ExpertSource, OffloadedExperts
from mlx_oss.offload.reader import Memory, OffloadStats, Origin, Reader
from mlx_oss.weights.arrays import STORED, allocated, bytes_of
from mlx_oss.weights.folder import SUFFIXES, ModelFolder
from mlx_oss.weights.names import layer_prefix
from mlx_oss.weights.reading import Files
from mlx_oss.weights.safetensors import TensorInfo

_EMBEDDING = "model.embed_tokens"
_MEMBERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def install(
    model: Transformer, slots: int, folder: ModelFolder, files: Files, fused: Specs, dtype: mx.Dtype
) -> list[tuple[str, mx.array]]:
    """Replaces the experts of every layer by offloaded ones with `slots` slots, and the embedding by one on disk.

    Args:
        model: The model to change.
        slots: Number of experts of each layer that are in memory.
        folder: The folder that the model is loaded from.
        files: The open weight files of the folder.
        fused: How the model's modules are quantised, by path.
        dtype: Dtype of the activations.

    Returns:
        The parameters of the slots, with their paths in the model.

    Raises:
        CheckpointError: If a tensor that stays in memory cannot be read.
    """
    tensors = folder.tensors
    reader = Reader()
    stored = {s: tensors[f"{_EMBEDDING}.{s}"] for s in SUFFIXES if f"{_EMBEDDING}.{s}" in tensors}
    model.embed_tokens = EmbeddingOnDisk(stored, files, folder.specs[_EMBEDDING], dtype, reader)  # type: ignore[assignment]
    parameters = []
    for number, layer in enumerate(model.layers):
        experts = OffloadedExperts(model.config, fused, f"layers.{number}.mlp.experts", slots, reader)
        sources = []
        for module, members in _MEMBERS.items():
            paths = [f"{layer_prefix(number)}mlp.experts.{member}" for member in members]
            sources += _sources(experts[module], slots, paths, tensors, files, dtype)
        experts.read_from(sources)
        layer.mlp.experts = experts
        named: Any = tree_flatten(experts.parameters())
        parameters += [(f"layers.{number}.mlp.experts.{name}", array) for name, array in named]
    return parameters


def offload_stats(model: Transformer) -> OffloadStats:
    """What reading weights from disk has cost since the model was loaded."""
    experts = model.layers[0].mlp.experts
    return experts.reads if isinstance(experts, OffloadedExperts) else OffloadStats()


def _sources(
    module: ExpertLinear,
    slots: int,
    paths: Sequence[str],
    tensors: Mapping[str, TensorInfo],
    files: Files,
    dtype: mx.Dtype,
) -> list[ExpertSource]:
    """Allocates the slots of a module, and returns where their contents are stored.

    A slot holds the rows of the modules at `paths`, one after the other.
    """
    sources = []
    for suffix in SUFFIXES:
        names = [f"{path}.{suffix}" for path in paths if f"{path}.{suffix}" in tensors]
        if not names:
            continue
        infos = [tensors[name] for name in names]
        as_stored = STORED[infos[0].dtype]
        slot_dtype = dtype if mx.issubdtype(as_stored, mx.floating) else as_stored
        shapes = [(info.shape[1], *info.shape[2:]) for info in infos]
        array = allocated((slots, sum(rows for rows, *_ in shapes), *shapes[0][1:]), slot_dtype)
        module[suffix] = array
        target, stride, offset = bytes_of(array), array.nbytes // slots, 0
        for info, (rows, *_) in zip(infos, shapes, strict=True):
            nbytes = stride * rows // array.shape[1]
            origin: Origin = files[info.file]
            start = info.start
            if suffix == "bias" or STORED[info.dtype] != slot_dtype:  # small, or to be cast: kept in memory
                tensor = _read(info, files).astype(slot_dtype)
                mx.eval(tensor)
                origin, start = Memory(bytes_of(tensor)), 0
            sources.append(ExpertSource(origin, start, nbytes, target, stride, offset))
            offset += nbytes
    return sources


def _read(info: TensorInfo, files: Files) -> mx.array:
    """Reads a whole tensor, as it is stored."""
    array = allocated(info.shape, STORED[info.dtype])
    files[info.file].read(info.start, bytes_of(array))
    return array
