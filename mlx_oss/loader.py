"""MLX folder -> model, strictly: every tensor the config asks for, once, in its shape and dtype, and no other.

Knows the folder (see `layout`) and how the model fuses its projections; nothing of released checkpoints, which
`convert` turns into folders. Weights are read straight into their place, so that the peak is the model itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx

from mlx_oss.backend.device import activation_dtype, on_gpu
from mlx_oss.backend.host_memory import keep_freed_memory, keep_resident
from mlx_oss.errors import OptionError
from mlx_oss.memory.footprint import is_on_disk
from mlx_oss.memory.plan import plan_folder
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload import install
from mlx_oss.weights.folder import SUFFIXES, ModelFolder, open_folder
from mlx_oss.weights.names import plain_tensors
from mlx_oss.weights.reading import Concat, Files, open_files, read

if TYPE_CHECKING:
    from mlx_oss.tokenizer import Tokenizer

DType = Literal["auto", "float32", "bfloat16"]

_log = logging.getLogger("mlx_oss")


def load(
    path: str | Path | None = None,
    *,
    dtype: DType = "auto",
    memory: str | int | None = None,
    context: int | None = None,
) -> tuple[Transformer, Tokenizer]:
    """The model in an MLX folder, and the tokenizer.

    path     a folder written by `mlx-oss convert` or one of mlx-community's; None: nano, the bundled demonstration
    dtype    of the activations: "auto" is bfloat16 on a GPU and float32 on the CPU backend, where that is faster
    memory   bytes, or a size like "8GB", that the process may take; None: what the device recommends. What does not fit
             stays on disk: the experts that are not used most, and the embedding. The answers are the same
    context  tokens that a conversation should have room for; None: see `plan`

    `model.plan` says what was chosen; the log (`logging`, "mlx_oss") does, too, where that is not everything. Raises
    OptionError where even the least does not fit; ConfigError and CheckpointError, naming the file, key or tensor that
    is wrong.
    """
    from mlx_oss.tokenizer import load_tokenizer

    if path is None:
        from mlx_oss.nano import nano_folder

        path = nano_folder()
    return load_model(path, dtype=dtype, memory=memory, context=context), load_tokenizer()


def load_model(
    path: str | Path,
    *,
    dtype: DType = "auto",
    memory: str | int | None = None,
    context: int | None = None,
    slots: int | None = None,
) -> Transformer:
    """The model alone; see `load`.

    slots  how many experts of each layer are in memory, instead of as many as `memory` has room for
    """
    activations = activation_dtype(dtype)
    folder = open_folder(path)
    chosen = plan_folder(folder, context=context, memory=memory, dtype=dtype, slots=slots)
    if chosen.verdict == "too small":
        raise OptionError(f"{chosen}: give it more memory or a shorter context, or convert it with a smaller profile")
    less = chosen.slots is not None or chosen.context < (context or folder.config.max_position_embeddings)
    _log.log(logging.WARNING if less and slots is None else logging.INFO, "%s", chosen)
    keep_resident()
    keep_freed_memory(chosen.memory - chosen.peak_bytes)
    fused = {target: folder.fused_spec(target) for target in folder.fusions}
    quantized = {target: spec for target, spec in fused.items() if spec is not None}
    model = Transformer(folder.config, quantized)
    model.plan, model.context, model.chunk = chosen, chosen.context, chosen.chunk
    files, targets, weights = open_files(folder.tensors.values()), list(folder.fusions), []
    if chosen.slots is not None:
        weights += install(model, chosen.slots, folder, files, quantized, activations)
        targets = [target for target in targets if not is_on_disk(target)]
    weights += _read(folder, targets, files, activations)
    model.load_weights(weights, strict=True)
    mx.eval(model.parameters())
    return model


def _read(folder: ModelFolder, targets: Sequence[str], files: Files, dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """The model's tensors by name: modules that are made of several in the folder, joined; floats in `dtype`, but for
    matrices that the layer upcasts as it goes: those stay as they are stored.
    """
    wanted: dict[tuple[str, str, str], Concat] = {}  # (module of the model, of the folder if it is apart, suffix)
    for target in targets:
        members = folder.fusions[target]
        for suffix in SUFFIXES:
            tensors = {m: folder.tensors[f"{m}.{suffix}"] for m in members if f"{m}.{suffix}" in folder.tensors}
            if tensors and folder.is_alike(target):
                wanted[target, "", suffix] = Concat(list(tensors.values()), suffix == "bias")
            else:
                wanted |= {(target, m, suffix): Concat([tensor], suffix == "bias") for m, tensor in tensors.items()}
    for name in plain_tensors(folder.config):
        target, _, suffix = name.removeprefix("model.").rpartition(".")
        wanted[target, "", suffix] = Concat([folder.tensors[name]], bias=True)
    apart: dict[str, dict[tuple[str, str], mx.array]] = {}
    for (target, member, suffix), array in read(wanted, files):
        if member:
            apart.setdefault(target, {})[member, suffix] = _cast(array, dtype)
        else:
            if not (suffix == "weight" and array.ndim == 2 and _upcasts(target, array.dtype, dtype)):
                array = _cast(array, dtype)
            yield f"{target}.{suffix}", array
    for target, parts in apart.items():
        yield from _joined(folder, target, parts, dtype)


def _joined(
    folder: ModelFolder, target: str, parts: Mapping[tuple[str, str], mx.array], dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """A module whose parts are not stored alike; where they are quantised in different ways, they are dequantised."""
    members = []
    for member in folder.fusions[target]:
        part = {suffix: array for (name, suffix), array in parts.items() if name == member}
        if (spec := folder.specs[member]) and folder.fused_spec(target) is None:
            scales, offsets = part.pop("scales"), part.pop("biases", None)
            weight = mx.dequantize(part["weight"], scales, offsets, spec.group_size, spec.bits, spec.mode)
            part["weight"] = weight.astype(dtype)
        members.append(part)
    for suffix in members[0]:
        axis = -1 if suffix == "bias" else -2
        yield f"{target}.{suffix}", mx.concatenate([part[suffix] for part in members], axis)


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """At once, so that what was stored goes; packed integers as they are."""
    if mx.issubdtype(array.dtype, mx.floating) and array.dtype != dtype:
        array = array.astype(dtype)
        mx.eval(array)
    return array


def _upcasts(target: str, stored: mx.Dtype, dtype: mx.Dtype) -> bool:
    """Whether the layer makes `dtype` of its matrix itself: an embedding row by row, others on the CPU backend."""
    return target == "embed_tokens" or (not on_gpu() and dtype.size > stored.size)
