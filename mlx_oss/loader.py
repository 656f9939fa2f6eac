"""MLX folder -> model, strictly: every tensor the config asks for, once, in its shape and dtype, and no other.

Knows the folder (see `layout`) and how the model fuses its projections; nothing of released checkpoints, which
`convert` turns into folders. Weights are read lazily and finished module by module, so the peak is the model and a
few of its modules.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import mlx.core as mx

from mlx_oss import layout
from mlx_oss.config import QuantizationSpec
from mlx_oss.device import activation_dtype, keep_freed_memory, keep_resident, on_core, on_gpu
from mlx_oss.errors import OptionError
from mlx_oss.folder import open_folder
from mlx_oss.model import Transformer
from mlx_oss.offload import install
from mlx_oss.planner import plan_folder

if TYPE_CHECKING:
    from mlx_oss.tokenizer import Tokenizer

DType = Literal["auto", "float32", "bfloat16"]

AT_A_TIME = 3  # modules that are read and joined while the next is taken up: both cores have work, little is held twice

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
    keep_freed_memory()
    fused = {target: folder.fused_spec(target) for target in folder.fusions}
    quantized = {target: spec for target, spec in fused.items() if spec is not None}
    model = Transformer(folder.config, quantized)
    model.plan, model.context, model.chunk = chosen, chosen.context, chosen.chunk
    files = list({tensor.file: None for tensor in folder.tensors.values()})
    by_core = [_unread(files, core) for core in (0, 1)]
    weights: list[tuple[str, mx.array]] = []
    if chosen.slots is not None:
        weights += install(model, chosen.slots, folder, by_core[0], quantized, activations)
    being_made: deque[dict[str, mx.array]] = deque()
    for number, (target, members) in enumerate(folder.fusions.items()):
        if f"{members[0]}.weight" not in by_core[0]:  # it stays on disk
            continue
        with on_core(number % 2):
            made = _module(by_core[number % 2], members, folder.specs, fused[target], activations)
            mx.async_eval(made)
        being_made.append(made)
        if len(being_made) > AT_A_TIME:
            mx.eval(being_made.popleft())
        weights += [(f"{target}.{suffix}", array) for suffix, array in made.items()]
    for name in layout.plain_tensors(folder.config):
        weights.append((name.removeprefix("model."), by_core[0].pop(name).astype(activations)))
    model.load_weights(weights, strict=True)
    mx.eval(model.parameters())
    return model


def _unread(files: list[Path], core: int) -> dict[str, mx.array]:
    """The tensors by name; each is read when it is needed, on that core."""
    arrays: dict[str, mx.array] = {}
    with on_core(core):
        for file in files:
            arrays |= cast(dict[str, mx.array], mx.load(str(file)))
    return arrays


def _upcasts(path: str, stored: mx.Dtype, dtype: mx.Dtype) -> bool:
    """Whether the layer makes `dtype` of its matrix itself: an embedding row by row, others on the CPU backend."""
    return path == "model.embed_tokens" or (not on_gpu() and dtype.size > stored.size)


def _module(
    arrays: dict[str, mx.array],
    members: Sequence[str],
    specs: Mapping[str, QuantizationSpec | None],
    spec: QuantizationSpec | None,
    dtype: mx.Dtype,
) -> dict[str, mx.array]:
    """The tensors of one module of the model by suffix, taken out of `arrays`."""
    parts = [_member(arrays, path, specs[path], keep=spec is not None, dtype=dtype) for path in members]
    fused = {
        suffix: parts[0][suffix]
        if len(parts) == 1
        else mx.concatenate([part[suffix] for part in parts], axis=-1 if suffix == "bias" else -2)
        for suffix in parts[0]
    }
    return fused


def _member(
    arrays: dict[str, mx.array], path: str, spec: QuantizationSpec | None, keep: bool, dtype: mx.Dtype
) -> dict[str, mx.array]:
    """One module's tensors by suffix; dequantised unless `keep`. Floats are in `dtype`, but for matrices that the layer
    upcasts as it goes: those stay as they are stored.
    """
    names = [f"{path}.{s}" for s in ("weight", "scales", "biases", "bias") if f"{path}.{s}" in arrays]
    part = {name.rpartition(".")[2]: arrays.pop(name) for name in names}
    for suffix, array in part.items():
        stays = spec is None and suffix == "weight" and array.ndim == 2 and _upcasts(path, array.dtype, dtype)
        if mx.issubdtype(array.dtype, mx.floating) and not stays:
            part[suffix] = array.astype(dtype)
    if spec is not None and not keep:
        weight, scales, biases = part.pop("weight"), part.pop("scales"), part.pop("biases", None)
        weight = mx.dequantize(weight, scales, biases, spec.group_size, spec.bits, spec.mode)
        part["weight"] = weight.astype(dtype)
    return part
