"""Which files of a repository or a folder make up a model. Knows their names, and reads the index.

A repository may hold the same model several times: the released ones have Hugging Face's layout at the top, OpenAI's in
`original/` and another in `metal/`. One is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from mlx_oss.files import INDEX_BYTES, read_bytes
from mlx_oss.weights.safetensors import INDEX as INDEX
from mlx_oss.weights.safetensors import chosen_files

FOLDERS = ("", "original/", "metal/")  # in the order of preference
METAL_FILE = "model.bin"
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")
_COMPANIONS = re.compile(r"[\w.-]+\.(?:json|jinja|txt|model)", re.ASCII)
_SAFE = re.compile(r"(?:original/|metal/)?[\w][\w.-]*", re.ASCII)


def model_folder(names: Collection[str], preferred: str = "") -> str | None:
    """The folder of a repository to use, "" or one that ends in a slash; None if no folder holds weights."""
    for folder in (preferred, *FOLDERS):
        here = inside(names, folder)
        if any(name.endswith(".safetensors") for name in here) or (folder == "metal/" and METAL_FILE in here):
            return folder
    return None


def weights(names: Iterable[str], indexed: Collection[str] | None) -> list[str]:
    """The weight files of the model, of the names in one folder.

    Args:
        names: The names of the files in the folder.
        indexed: The files that the folder's index names. None if it has no index.
    """
    found = sorted(name for name in names if name.endswith(".safetensors"))
    return chosen_files(found, indexed)[0] if found or indexed else [METAL_FILE]


def index_files(path: Path) -> set[str] | None:
    """The files that an index names. None if there is no index that can be read: opening the model says why."""
    try:
        names = json.loads(read_bytes(path, INDEX_BYTES).decode())["weight_map"].values()
        return {name for name in names if isinstance(name, str) and is_safe(name)}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def missing_shards(names: Collection[str]) -> bool:
    """True if some of a numbered set of files, such as `model-00001-of-00003.safetensors`, are not there."""
    sets: dict[tuple[str, str], int] = {}
    for name in names:
        if shard := _SHARD.fullmatch(name):
            key = shard.group(1), shard.group(2)
            sets[key] = sets.get(key, 0) + 1
    return any(count < int(number) for (_, number), count in sets.items())


def companions(names: Iterable[str]) -> list[str]:
    """The small files beside the weights: config, index, tokenizer, templates."""
    return sorted(name for name in names if _COMPANIONS.fullmatch(name))


def is_safe(name: str) -> bool:
    """True for a path in a repository that can be a path below a folder of ours."""
    return bool(_SAFE.fullmatch(name)) and ".." not in name


def inside(names: Iterable[str], folder: str) -> set[str]:
    """The names of the files directly in a folder, without the folder."""
    return {name.removeprefix(folder) for name in names if name.startswith(folder) and "/" not in name[len(folder) :]}
