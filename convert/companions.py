"""Finds the other files that belong into an MLX folder: the tokenizer, the licence, and so on."""

from __future__ import annotations

from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.files import expanded, open_regular
from mlx_oss.tokenizer_json import check_tokenizer_json
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.safetensors import LFS_POINTER

# Files of a release that are copied into the MLX folder.
_TOKENIZER = "tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja".split()
_NAMES = [*_TOKENIZER, *"generation_config.json LICENSE USAGE_POLICY".split()]


def companions(checkpoint: Checkpoint, adapter: str | Path | None = None) -> tuple[Path, ...]:
    """Paths of the files of a checkpoint that are copied into its MLX folder.

    A training that adds tokens saves its tokenizer beside the adapter; then the files of the tokenizer are taken from
    there.

    Args:
        checkpoint: The checkpoint.
        adapter: Folder of the adapter that is added to it. None: none.

    Raises:
        CheckpointError: If one cannot be read.
        TokenizerError: If tokenizer.json is another tokenizer than that of gpt-oss.
    """
    of_model = [] if checkpoint.layout is METAL else _NAMES  # a Metal file is a model on its own
    chosen = {name: checkpoint.folder / name for name in of_model if _is_there(checkpoint.folder / name)}
    if adapter is not None and _is_there((trained := expanded(adapter)) / "tokenizer.json"):
        chosen |= {name: trained / name for name in _TOKENIZER if _is_there(trained / name)}
    found = tuple(chosen.values())
    for path in found:
        try:
            with open_regular(path) as file:
                head = file.read(len(LFS_POINTER))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): download it again") from None
        if head == LFS_POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its folder")
        if path.name == "tokenizer.json":
            check_tokenizer_json(path)
    return found


def _is_there(path: Path) -> bool:
    return path.is_file() or path.is_symlink()  # a link may lead nowhere
