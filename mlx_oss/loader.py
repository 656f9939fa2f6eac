"""MLX folder -> model, strictly: every tensor the config asks for, once, in its shape and dtype, and no other.

Knows the folder (see `layout`) and how the model fuses its projections; nothing of released checkpoints, which
`convert` turns into folders. Weights are read lazily and finished module by module, so the peak is the model and its
largest module.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import mlx.core as mx

from mlx_oss import layout
from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.device import keep_freed_memory, keep_resident, on_core, on_gpu
from mlx_oss.errors import CheckpointError, OptionError
from mlx_oss.model import Transformer
from mlx_oss.offload import install
from mlx_oss.tensorfile import TensorInfo, read_folder

if TYPE_CHECKING:
    from mlx_oss.tokenizer import Tokenizer

DType = Literal["auto", "float32", "bfloat16"]

# What the model holds as one matrix, stacked by rows in this order.
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_FLOATS = frozenset({"BF16", "F16", "F32"})


def load(path: str | Path | None = None, *, dtype: DType = "auto") -> tuple[Transformer, Tokenizer]:
    """The model in an MLX folder, and the tokenizer.

    path   a folder written by `mlx-oss convert` or one of mlx-community's; None: nano, the bundled demonstration model
    dtype  of the activations: "auto" is bfloat16 on a GPU and float32 on the CPU backend, where that is the faster one

    Raises ConfigError and CheckpointError, naming the file, key or tensor that is wrong.
    """
    from mlx_oss.tokenizer import load_tokenizer

    if path is None:
        from mlx_oss.nano import nano_folder

        path = nano_folder()
    return load_model(path, dtype=dtype), load_tokenizer()


def load_model(path: str | Path, *, dtype: DType = "auto", slots: int | None = None) -> Transformer:
    """The model alone; see `load`.

    slots  how many experts of each layer are in memory, the others being read when they are needed; None: all of them
    """
    activations = _activation_dtype(dtype)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder: give the folder of a converted model")
    tensors = read_folder(folder)
    _refuse_release(folder, tensors)  # before the config, which OpenAI's own layout spells otherwise
    config = ModelConfig.from_file(folder / "config.json")
    specs = _specs(config, folder, tensors)
    _check(config, folder, tensors, specs)
    keep_resident()
    keep_freed_memory()
    fused = {target: _fused_spec([specs[m] for m in members]) for target, members in _fusions(config)}
    quantized = {target: spec for target, spec in fused.items() if spec is not None}
    model = Transformer(config, quantized)
    files = list({tensor.file: None for tensor in tensors.values()})
    by_core = [_unread(files, core) for core in (0, 1)]
    weights: list[tuple[str, mx.array]] = []
    if slots:
        weights += install(model, slots, tensors, by_core[0], specs, quantized, activations)
    before: dict[str, mx.array] = {}
    for number, (target, members) in enumerate(_fusions(config)):
        if f"{members[0]}.weight" not in by_core[0]:  # it stays on disk
            continue
        with on_core(number % 2):  # so that two modules are read and joined at a time
            made = _module(by_core[number % 2], members, specs, fused[target], activations)
            mx.async_eval(made)
        mx.eval(before)
        before = made
        weights += [(f"{target}.{suffix}", array) for suffix, array in made.items()]
    for name in layout.plain_tensors(config):
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


def _activation_dtype(dtype: str) -> mx.Dtype:
    known = {"float32": mx.float32, "bfloat16": mx.bfloat16}
    if dtype == "auto":
        dtype = "bfloat16" if on_gpu() else "float32"
    if dtype not in known:
        hint = ": float16 overflows in the residual stream" if dtype == "float16" else ""
        raise OptionError(f"dtype is {dtype!r}, expected auto, float32 or bfloat16{hint}")
    return known[dtype]


def _refuse_release(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    for name in tensors:
        if name.endswith(("_blocks", "gate_up_proj", ".blocks")) or name.startswith("block."):
            raise CheckpointError(
                f"{folder} holds a checkpoint as released (tensor {name}): turn it into an MLX folder first, "
                f"`mlx-oss convert {folder} DST`"
            )


def _specs(config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo]) -> dict[str, QuantizationSpec | None]:
    """How each module is stored: quantised if its `.scales` are there, by its own entry or the default."""
    specs: dict[str, QuantizationSpec | None] = {}
    for path, shape, _ in layout.modules(config):
        spec = None
        if f"{path}.scales" in tensors:
            spec = config.quantization.for_module(path) if config.quantization else None
            if spec is None or not layout.can_quantize(path):
                raise CheckpointError(f"{folder}: {path} is quantised, but config.json has no `quantization` for it")
            if shape[-1] % spec.group_size:
                raise CheckpointError(
                    f"{folder}: {path} has {shape[-1]} columns, in groups of {spec.group_size} by config.json: "
                    "convert the release again"
                )
        elif layout.is_expert(path) and f"{path}.weight" in tensors:
            raise CheckpointError(f"{folder}: {path} is not quantised: convert the release with `mlx-oss convert`")
        specs[path] = spec
        if path.endswith(".up_proj") and specs[path.replace("up_proj", "gate_proj")] not in (None, spec):
            raise CheckpointError(
                f"{folder}: {path} is stored otherwise than its gate_proj: convert the release with `mlx-oss convert`"
            )
    return specs


def _check(
    config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo], specs: dict[str, QuantizationSpec | None]
) -> None:
    """Names, shapes and dtypes: exactly what the config asks for."""
    expected = layout.plain_tensors(config)
    for path, shape, bias in layout.modules(config):
        expected |= layout.stored_tensors(path, shape, bias, specs[path])
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{folder}: tensor {name} is missing: fetch or convert the model again")
        found = tensors[name]
        if found.shape != shape:
            raise CheckpointError(f"{found.file}: tensor {name} has shape {found.shape}, config.json asks for {shape}")
        allowed = _dtypes(name, specs)
        if found.dtype not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise CheckpointError(f"{found.file}: tensor {name} is {found.dtype}, expected {wanted}")
    if unknown := sorted(set(tensors) - set(expected)):
        raise CheckpointError(f"{tensors[unknown[0]].file}: tensor {unknown[0]} is not part of a gpt-oss model")


def _dtypes(name: str, specs: dict[str, QuantizationSpec | None]) -> frozenset[str]:
    path, _, suffix = name.rpartition(".")
    spec = specs.get(path)
    if spec is not None and suffix == "weight":
        return frozenset({"U32"})
    if spec is not None and suffix == "scales" and spec.mode == MXFP4.mode:
        return frozenset({"U8"})
    return _FLOATS


def _fusions(config: ModelConfig) -> Iterator[tuple[str, list[str]]]:
    """(module path in the model, the folder's modules it is made of, in the order of their rows)."""

    def target(path: str) -> str:
        parent, _, name = path.removeprefix("model.").rpartition(".")
        return f"{parent}.{_FUSED.get(name, name)}".removeprefix(".")

    for path, members in groupby((path for path, _, _ in layout.modules(config)), key=target):
        yield path, list(members)


def _upcasts(path: str, stored: mx.Dtype, dtype: mx.Dtype) -> bool:
    """Whether the layer makes `dtype` of its matrix itself: an embedding row by row, others on the CPU backend."""
    return path == "model.embed_tokens" or (not on_gpu() and dtype.size > stored.size)


def _fused_spec(specs: list[QuantizationSpec | None]) -> QuantizationSpec | None:
    """Modules that are stored alike stay so; others are dequantised (exactly) to be held as one matrix."""
    return specs[0] if len(set(specs)) == 1 else None


def _module(
    arrays: dict[str, mx.array],
    members: list[str],
    specs: dict[str, QuantizationSpec | None],
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
