"""Loads a model from an MLX folder.

The folder is checked first: it must contain every tensor that the config requires, once, in its shape and dtype, and no
other. Weights are read directly into the model's arrays, so the peak memory of loading is about the size of the model.
Knows the folder and how the model fuses its projections. Knows nothing of released checkpoints: `convert` turns those
into folders.
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
    """Loads a model and the tokenizer.

    `model.plan` describes how the model is held in memory. It is also logged (logger "mlx_oss"): as a warning if
    weights stay on disk, or if no `context` was given and the model's full context does not fit.

    Args:
        path: Folder of the model, written by `mlx-oss convert` or downloaded from mlx-community. None: nano, the
            bundled demonstration model.
        dtype: Dtype of the activations: "float32", "bfloat16" or "auto". "auto" is bfloat16 on a GPU, and float32 on
            the CPU backend, where it is faster.
        memory: Limit for the process, in bytes or as text like "8GB". None: what the device recommends. If the weights
            do not fit, the embedding and the experts that are used least stay on disk. The answers are the same.
        context: Tokens that a conversation needs room for. None: chosen as `plan` describes.

    Returns:
        The model and the tokenizer.

    Raises:
        OptionError: If an argument is out of range, or the memory is too small even with experts on disk.
        ConfigError: If config.json is missing or wrong; names the file and key.
        CheckpointError: If a weight file or tensor is missing or wrong; names it.
        ConversionError: If `path` is None and nano cannot be written to the cache folder.
        TokenizerError: If the bundled vocabulary is missing or damaged.
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
    """Loads a model without the tokenizer.

    Args:
        path: Folder of the model.
        dtype: Dtype of the activations, as for `load`.
        memory: Limit for the process, as for `load`.
        context: Tokens that a conversation needs room for, as for `load`.
        slots: Number of experts of each layer to keep in memory. None: as many as `memory` has room for.

    Returns:
        The model. `model.plan` describes how it is held in memory.

    Raises:
        OptionError: If an argument is out of range, or the memory is too small even with experts on disk.
        ConfigError: If config.json is missing or wrong; names the file and key.
        CheckpointError: If a weight file or tensor is missing or wrong; names it.
    """
    activations = activation_dtype(dtype)
    folder = open_folder(path)
    chosen = plan_folder(folder, context=context, memory=memory, dtype=dtype, slots=slots)
    if chosen.verdict == "too small":
        raise OptionError(
            f"{chosen}: allow more memory, use a shorter context, or convert the model with a smaller profile"
        )
    reduced = chosen.slots is not None or chosen.context < (context or folder.config.max_position_embeddings)
    _log.log(logging.WARNING if reduced and slots is None else logging.INFO, "%s", chosen)
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
    """Reads the weights of `targets`, modules of the model, and yields (name in the model, array).

    A module that consists of several modules of the folder is joined. Floats are cast to `dtype`, except matrices that
    the layer casts while it computes: they stay as they are stored.
    """
    # Key: module of the model; module of the folder if it is read separately, else ""; suffix.
    wanted: dict[tuple[str, str, str], Concat] = {}
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
    separate: dict[str, dict[tuple[str, str], mx.array]] = {}
    for (target, member, suffix), array in read(wanted, files):
        if member:
            separate.setdefault(target, {})[member, suffix] = _cast(array, dtype)
        else:
            if not (suffix == "weight" and array.ndim == 2 and _upcasts(target, array.dtype, dtype)):
                array = _cast(array, dtype)
            yield f"{target}.{suffix}", array
    for target, parts in separate.items():
        yield from _joined(folder, target, parts, dtype)


def _joined(
    folder: ModelFolder, target: str, parts: Mapping[tuple[str, str], mx.array], dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """Joins a module whose parts are not stored alike. Parts that are quantised differently are dequantised first."""
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
    """Casts a float array immediately, so that the stored one can be freed. Packed integers stay as they are."""
    if mx.issubdtype(array.dtype, mx.floating) and array.dtype != dtype:
        array = array.astype(dtype)
        mx.eval(array)
    return array


def _upcasts(target: str, stored: mx.Dtype, dtype: mx.Dtype) -> bool:
    """True if the layer itself casts its matrix to `dtype`: the embedding row by row, others on the CPU backend."""
    return target == "embed_tokens" or (not on_gpu() and dtype.size > stored.size)
