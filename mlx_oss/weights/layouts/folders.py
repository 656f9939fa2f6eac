"""Says of a folder that holds no model what it holds, and where the model is. Looks at names of files only."""

from __future__ import annotations

import json
import os
import re
import shlex
import warnings
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from mlx_oss.errors import WrongFolderError, shortened
from mlx_oss.files import CONFIG_BYTES, read_bytes
from mlx_oss.weights.layouts import metal
from mlx_oss.weights.safetensors import ADAPTERS, MLX_ADAPTER, check_folder, is_adapter, passed_over, weight_files

_DEPTH, _MOST = 3, 1000  # how far below a folder a model is looked for, and in how many folders


def refuse_what_is_no_model(folder: Path) -> None:
    """Raises WrongFolderError for what is known not to be a model's folder. Reading the files finds the rest."""
    check_folder(folder)
    weights = weight_files(folder)
    if _is_adapter(folder):
        raise WrongFolderError(adapter_refused(folder))
    if weights or metal.is_metal(folder):
        return
    found = sorted(_with_weights(folder), key=_preference, reverse=True)
    models = [path for path in found if not _is_adapter(path)]
    if found and not models:
        raise WrongFolderError(adapter_refused(found[0]))
    if models:
        names = f"{models[0].relative_to(folder)}/ does"
        if len(models) > 1:
            names = f"{len(models)} folders in it do, and one of them may be meant"
        raise WrongFolderError(f"{folder} holds no weights, but {names}: give {models[0]}")
    if weight_files(folder, "*.bin"):
        raise WrongFolderError(
            f"{folder} holds PyTorch *.bin files, which are not supported: load the model with transformers and "
            "save it with save_pretrained, which writes safetensors"
        )
    if weight_files(folder, "*.gguf"):
        raise WrongFolderError(
            f"{folder} holds GGUF files, which are not supported: use the model in Hugging Face's format "
            "(config.json and *.safetensors)"
        )


def adapters_below(folder: Path) -> list[Path]:
    """The folders below this one that hold a LoRA adapter; the one that is most likely meant comes first."""
    found = [path for path in _with_weights(folder) if _is_adapter(path)]
    return sorted(found, key=_preference, reverse=True)


def adapter_refused(folder: Path) -> str:
    """The message for a folder that holds a LoRA adapter and no model."""
    return f"{folder} holds a LoRA adapter, not a model: merge it into its model first, {_merging(folder, 'MODEL')}"


def tell_what_is_not_read(folder: Path, files: Collection[str]) -> None:
    """Issues a UserWarning that names the weight files of a folder that are not among those of the model."""
    names = passed_over(folder, files)
    if not names:
        return
    text = f"{folder}: not part of the model, and not read: {shortened(', '.join(names), 300)}"
    if any(map(is_adapter, names)):
        text += f"; to apply the LoRA adapter, merge it into its model, {_merging(folder, str(folder))}"
    warnings.warn(text, stacklevel=1)  # from one place, so that Python shows it once, however often a folder is opened


def _merging(folder: Path, model: str) -> str:
    """How an adapter is merged into its model, `model` if its config names none."""
    names = weight_files(folder)
    states = [name for name in names if name.endswith("_adapters.safetensors")]
    if not states and not any(name in ADAPTERS for name in names):
        return "with PEFT: merge_and_unload, then save_pretrained"
    base = shlex.quote(_base_of(folder) or model)
    command = f"`mlx-oss convert {base} DST --adapter {shlex.quote(str(folder))}`"
    if any(name in ADAPTERS for name in names):
        return f"with {command}"
    state, adapter = (shlex.quote(str(folder / name)) for name in (states[-1], MLX_ADAPTER))
    return f"with {command}, after `cp {state} {adapter}`"


def _is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter and no model."""
    weights = weight_files(folder) or weight_files(folder, "adapter_model.bin")
    return bool(weights) and all(is_adapter(name) for name in weights)


def _base_of(folder: Path) -> str | None:
    """The model that an adapter was trained for, as its config names it; for bitsandbytes' format, the release."""
    try:
        raw = json.loads(read_bytes(folder / "adapter_config.json", CONFIG_BYTES))
        model = raw.get("model") or raw["base_model_name_or_path"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(model, str) or not 0 < len(model) < 300 or model.startswith("-"):
        return None
    release = re.search(r"gpt-oss-(?:20|120)b(?=.*bnb)", model)  # which cannot be read here
    return f"openai/{release[0]}" if release else model


def _with_weights(folder: Path) -> Iterator[Path]:
    """Folders below this one that hold a model or an adapter, without those below them. Looks at _MOST at most."""
    level, seen = [folder], 0
    for _ in range(_DEPTH):
        below = []
        for path in (path for parent in level for path in _folders_in(parent)):
            seen += 1
            if seen > _MOST:
                return
            if weight_files(path) or metal.is_metal(path) or _is_adapter(path):
                yield path
            else:
                below.append(path)
        level = below


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in islice(entries, _MOST) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(found) if not name.startswith(".")]


def _preference(path: Path) -> tuple[bool, int, bool]:
    """The highest is the folder that is most likely meant.

    Of a download it is the revision that its `refs/main` names, of a training's checkpoints the last one, and of a
    release's layouts `original/`.
    """
    try:
        main = read_bytes(path.parent.parent / "refs" / "main", 1000).decode(errors="replace").strip()
    except OSError:
        main = ""
    number = re.fullmatch(r"checkpoint-(\d{1,9})", path.name)
    return path.name == main, int(number[1]) if number else -1, path.name == "original"
