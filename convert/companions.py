"""Finds the other files that belong into an MLX folder: the tokenizer, the licence, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.files import expanded, open_regular
from mlx_oss.tokenizer import N_VOCAB
from mlx_oss.tokenizer_files import TOKENIZER_FILES
from mlx_oss.tokenizer_json import check_tokenizer_json
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.layouts.openai import OPENAI
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


def bundled_files(checkpoint: Checkpoint, copied: Iterable[Path]) -> dict[str, Callable[[], bytes]]:
    """What writes the tokenizer files of an MLX folder whose source has none, by their names.

    OpenAI's layouts come without a tokenizer, and their models can only have that of gpt-oss.

    Args:
        checkpoint: The source.
        copied: `companions` of it.
    """
    without = checkpoint.layout is METAL or checkpoint.layout.name.startswith(OPENAI.name)
    names = {path.name for path in copied}
    if not without or "tokenizer.json" in names or checkpoint.config.vocab_size != N_VOCAB:
        return {}
    return {name: write for name, write in TOKENIZER_FILES.items() if name not in names}


def _is_there(path: Path) -> bool:
    return path.is_file() or path.is_symlink()  # a link may lead nowhere
