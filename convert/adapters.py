"""LoRA adapters, which are added to a model's weights while it is converted: those of PEFT and of mlx-lm.

An adapter changes the weight W (rows, columns) of a module to W + scale * B A, with B (rows, rank), A (rank, columns).
PEFT calls the factors lora_A and lora_B and stores them so; mlx-lm calls them lora_a and lora_b and stores their
transposes. The scale is in adapter_config.json: for PEFT lora_alpha / rank, or lora_alpha / sqrt(rank) if it is
rank-stabilised; for mlx-lm `scale`.
(Hu et al., 2021, arXiv 2106.09685; Kalajdzievski, 2023, arXiv 2312.03732.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_oss.config import ModelConfig, read_json
from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.transforms import ROUNDED, Transform, float32, not_finite, read_stored, to_bfloat16
from mlx_oss.errors import CheckpointError, ConfigError, quoted
from mlx_oss.files import expanded
from mlx_oss.weights.names import Shape, is_expert, modules
from mlx_oss.weights.safetensors import ADAPTERS, TensorInfo, read_header

CONFIG = "adapter_config.json"
_FACTOR = re.compile(r"(.*)\.lora_([ABab])(?:\.default)?(?:\.weight)?")
_PREFIXES = ("base_model.model.", "base_model.", "module.")
_LARGEST_RANK = 4096
_DTYPES = {"BF16": "<u2", **ROUNDED}


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to a weight: scale * B A.

    Attributes:
        a: A, float32 (rank, columns).
        b: B, float32 (rows, rank).
        scale: The factor.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float

    def rows(self, first: int, count: int) -> np.ndarray:
        """Rows of the sum, float32 (count, columns)."""
        product: np.ndarray = self.b[first : first + count] @ self.a
        return self.scale * product


@dataclass(frozen=True, slots=True)
class Merged:
    """Adds a `Delta` to bfloat16 rows, and rounds the sums to bfloat16.

    Attributes:
        values: Gives the rows.
        columns: Values in a row.
        delta: What is added.
        loss: Measures the error of rounding.
        source: What is read, for messages.
    """

    values: Transform
    columns: int
    delta: Delta
    loss: RelativeError
    source: TensorInfo

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        first = 0
        for (piece,) in self.values.pieces():
            rows = float32(piece.view("<u2").reshape(-1, self.columns))
            total = rows + self.delta.rows(first, len(rows))
            first += len(rows)
            stored = to_bfloat16(total)
            if not self.loss.add(total, float32(stored)):
                raise not_finite(self.source)
            yield (stored.reshape(-1).view(np.uint8),)


def read_adapter(path: str | Path, config: ModelConfig) -> dict[str, Delta]:
    """The deltas of an adapter, by the path of the module.

    Args:
        path: The adapter's folder.
        config: The model's config.

    Raises:
        CheckpointError: If the folder holds no LoRA adapter of this model, or one of a kind that cannot be added.
        ConfigError: If its config is missing or damaged.
    """
    folder = expanded(path)
    file = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} holds no adapter: give the folder with {CONFIG} and {' or '.join(ADAPTERS)}")
    settings = read_json(folder / CONFIG)
    _check_kind(folder, settings)
    shapes = {module: shape for module, shape, _ in modules(config)}
    factors: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in read_header(file).items():
        module, which = _module(file, name, shapes)
        if which in factors.setdefault(module, {}):
            raise CheckpointError(f"{file}: {module} has lora_{which} twice: use an adapter that was saved once")
        factors[module][which] = tensor
    if not factors:
        raise CheckpointError(f"{file} is empty: use the adapter of a training that has finished")
    return {module: _delta(file, module, shapes[module], found, settings) for module, found in factors.items()}


def adapter_files(path: str | Path | None) -> list[Path]:
    """The files of an adapter, as far as they are there. None has none."""
    folder = None if path is None else expanded(path)
    return [] if folder is None else [folder / name for name in (CONFIG, *ADAPTERS) if (folder / name).is_file()]


def _check_kind(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises CheckpointError for what is no plain LoRA."""
    kind = settings.get("peft_type", settings.get("fine_tune_type", "lora"))
    odd = {"use_dora": "DoRA", "lora_bias": "LoRA with biases", "alora_invocation_tokens": "activated LoRA"}
    named = [text for key, text in odd.items() if settings.get(key)]
    if str(kind).lower() != "lora" or named or settings.get("bias", "none") != "none":
        named.append(quoted(kind) if str(kind).lower() != "lora" else "LoRA with trained biases")
        raise CheckpointError(
            f"{folder}: this adapter is {named[0]}, and only plain LoRA can be added here: merge it with the program "
            "that trained it (PEFT: merge_and_unload, then save_pretrained; mlx-lm: mlx_lm.fuse)"
        )


def _module(file: Path, name: str, shapes: Mapping[str, Shape]) -> tuple[str, str]:
    """The module that a tensor of the adapter belongs to, and which factor it is: "a" or "b"."""
    match = _FACTOR.fullmatch(name)
    module = match.group(1) if match else name
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    if "experts" in module or (module in shapes and is_expert(module)):
        raise CheckpointError(
            f"{file}: tensor {name} changes experts, which are stored in MXFP4: merge the adapter into the model in "
            "bfloat16 with the program that trained it, and convert the result"
        )
    if match is None or module not in shapes:
        raise CheckpointError(
            f"{file}: tensor {name} is no LoRA factor of a module of this model: merge the adapter with the program "
            "that trained it (PEFT: merge_and_unload, then save_pretrained; mlx-lm: mlx_lm.fuse)"
        )
    return module, match.group(2).lower()


def _delta(
    file: Path, module: str, shape: Shape, found: Mapping[str, TensorInfo], settings: Mapping[str, Any]
) -> Delta:
    rows, columns = shape
    if found.keys() != {"a", "b"}:
        missing = ({"a", "b"} - found.keys()).pop()
        raise CheckpointError(f"{file}: {module} has no lora_{missing}: use an adapter whose saving has finished")
    a, b = found["a"], found["b"]
    is_mlx = "lora_parameters" in settings
    rank = (a.shape[-1] if is_mlx else a.shape[0]) if a.shape else 0
    wanted = ((columns, rank), (rank, rows)) if is_mlx else ((rank, columns), (rows, rank))
    if (a.shape, b.shape) != wanted or not 1 <= rank <= _LARGEST_RANK:
        raise CheckpointError(
            f"{file}: the factors of {module} have the shapes {a.shape} and {b.shape}, which do not make "
            f"({rows}, {columns}): use an adapter of this model"
        )
    first, second = _values(file, a), _values(file, b)
    if is_mlx:
        first, second = np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)
    return Delta(first, second, _scale(file.parent, module, rank, settings))


def _scale(folder: Path, module: str, rank: int, settings: Mapping[str, Any]) -> float:
    """The factor of a module's product, as PEFT and mlx-lm compute it."""
    if (parameters := settings.get("lora_parameters")) is not None:
        scale = parameters.get("scale") if isinstance(parameters, dict) else None
        where = "lora_parameters.scale"
    else:
        patterns = settings.get("alpha_pattern") or {}
        alpha = settings.get("lora_alpha")
        if isinstance(patterns, dict):
            named = [value for key, value in patterns.items() if f".{module}".endswith(f".{key}")]
            alpha = named[0] if named else alpha
        where, scale = "lora_alpha", None
        if isinstance(alpha, int | float) and not isinstance(alpha, bool):
            scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not math.isfinite(scale):
        raise ConfigError(f"{folder / CONFIG}: {where} is no number: use the config that was saved with the adapter")
    return float(scale)


def _values(file: Path, tensor: TensorInfo) -> np.ndarray:
    """A factor as float32."""
    if tensor.dtype not in _DTYPES:
        raise CheckpointError(
            f"{file}: tensor {tensor.name} is {tensor.dtype}, expected {' or '.join(sorted(_DTYPES))}: save the "
            "adapter in one of these"
        )
    stored = np.concatenate([piece.copy() for piece in read_stored(tensor, 0, tensor.nbytes, 1 << 20)])
    values = float32(stored.view("<u2")) if tensor.dtype == "BF16" else stored.view(_DTYPES[tensor.dtype])
    values = values.astype(np.float32).reshape(tensor.shape)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{file}: tensor {tensor.name} holds NaN or infinity: use another state of the training")
    return values
