"""Finds the other files of a checkpoint that belong into its MLX folder: the tokenizer, the licence, and so on."""

from __future__ import annotations

from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.files import open_regular
from mlx_oss.tokenizer_json import check_tokenizer_json
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.safetensors import LFS_POINTER

# Files of a release that are copied into the MLX folder.
_NAMES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja generation_config.json LICENSE "
    "USAGE_POLICY"
).split()


def companions(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Paths of the files of a checkpoint that are copied into its MLX folder.

    Raises:
        CheckpointError: If one cannot be read.
        TokenizerError: If tokenizer.json is another tokenizer than that of gpt-oss.
    """
    if checkpoint.layout is METAL:  # the file is a model on its own
        return ()
    paths = (checkpoint.folder / name for name in _NAMES)
    found = tuple(path for path in paths if path.is_file() or path.is_symlink())  # a link may lead nowhere
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
