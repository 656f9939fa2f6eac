"""Puts experts on slots, and an embedding on disk, into a model that is being loaded.

Knows the folder's tensors and how the model fuses gate and up; the loader brings everything else into the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_oss.folder import Folder
from mlx_oss.layout import layer_prefix
from mlx_oss.model import ExpertLinear, Specs, Transformer
from mlx_oss.offload.buffers import STORED, allocated, bytes_of
from mlx_oss.offload.embedding import EmbeddingOnDisk
from mlx_oss.offload.experts import OffloadedExperts, Source
from mlx_oss.offload.reader import File, Memory, Origin, Reader, Reads
from mlx_oss.tensorfile import TensorInfo

_EMBEDDING = "model.embed_tokens"
_MEMBERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_SUFFIXES = ("weight", "scales", "biases", "bias")

Arrays = dict[str, mx.array]


def install(
    model: Transformer,
    slots: int,
    folder: Folder,
    arrays: Arrays,
    fused: Specs,
    dtype: mx.Dtype,
) -> list[tuple[str, mx.array]]:
    """Gives every layer `slots` slots, whose experts are read from the folder. Returns the slots' parameters.

    arrays  the folder's tensors, not yet read: those that are dealt with here are taken out
    fused   how the model's modules are quantised; dtype  of its activations
    """
    tensors = folder.tensors
    reader = Reader()
    files = {path: File(path) for path in {tensor.file for tensor in tensors.values()}}
    stored = {s: tensors[f"{_EMBEDDING}.{s}"] for s in _SUFFIXES if f"{_EMBEDDING}.{s}" in tensors}
    model.embed_tokens = EmbeddingOnDisk(stored, files, folder.specs[_EMBEDDING], dtype, reader)  # type: ignore[assignment]
    for suffix in stored:
        del arrays[f"{_EMBEDDING}.{suffix}"]
    parameters = []
    for number, layer in enumerate(model.layers):
        experts = OffloadedExperts(model.config, fused, f"layers.{number}.mlp.experts", slots, reader)
        sources = []
        for module, members in _MEMBERS.items():
            paths = [f"{layer_prefix(number)}mlp.experts.{member}" for member in members]
            sources += _sources(experts[module], slots, paths, tensors, arrays, files, dtype)
        experts.read_from(sources)
        layer.mlp.experts = experts
        named: Any = tree_flatten(experts.parameters())
        parameters += [(f"layers.{number}.mlp.experts.{name}", array) for name, array in named]
    return parameters


def reads(model: Transformer) -> Reads:
    """What weights on disk have cost since the model was loaded."""
    experts = model.layers[0].mlp.experts
    return experts.reads if isinstance(experts, OffloadedExperts) else Reads()


def _sources(
    module: ExpertLinear,
    slots: int,
    paths: Sequence[str],
    tensors: Mapping[str, TensorInfo],
    arrays: Arrays,
    files: Mapping[Path, File],
    dtype: mx.Dtype,
) -> list[Source]:
    """Makes the module's slots, and says where what belongs there lies: the modules at `paths`, by rows."""
    made = []
    for suffix in _SUFFIXES:
        names = [f"{path}.{suffix}" for path in paths if f"{path}.{suffix}" in tensors]
        if not names:
            continue
        infos = [tensors[name] for name in names]
        as_stored = STORED[infos[0].dtype]
        held = dtype if mx.issubdtype(as_stored, mx.floating) else as_stored
        shapes = [(info.shape[1], *info.shape[2:]) for info in infos]
        array = allocated((slots, sum(rows for rows, *_ in shapes), *shapes[0][1:]), held)
        module[suffix] = array
        target, stride, offset = bytes_of(array), array.nbytes // slots, 0
        for name, info, (rows, *_) in zip(names, infos, shapes, strict=True):
            nbytes = stride * rows // array.shape[1]
            origin: Origin = files[info.file]
            start, taken = info.start, arrays.pop(name)
            if suffix == "bias" or STORED[info.dtype] != held:  # small, or not as it is computed with
                kept = mx.contiguous(taken.astype(held))
                mx.eval(kept)
                origin, start = Memory(bytes_of(kept)), 0
            made.append(Source(origin, start, nbytes, target, stride, offset))
            offset += nbytes
    return made
