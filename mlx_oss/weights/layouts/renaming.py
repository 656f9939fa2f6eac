"""The names that a layout gives to tensors, where a program has put a prefix before them or a wrapper between them.

A model that was saved from within another object (`module.`, `base_model.model.`, `language_model.`) has one prefix
before all names; one that was saved without its head's object has none, not even `model.`. torch.compile and FSDP wrap
modules, and name the wrapper. Knows no shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.weights.safetensors import TensorInfo

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_IN_LAYER = re.compile(r"(|.*?\.)(layers|block)\.\d+\.mlp\..+")
_BODY = re.compile(r"(?:layers\.\d+|embed_tokens|norm)\..+")
_HEAD = re.compile(r"(|.*\.)(lm_head\.\w+)")
_OPENAI = re.compile(r"(?:block\.\d+|embedding|unembedding|norm)\..+")


def without_wrappers(name: str) -> str:
    """A name without those of modules that wrap others."""
    return _WRAPPERS.sub("", name)


def by_layout_name(folder: Path, files: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a folder by the names that a layout gives them. What is not recognised keeps its own name.

    Raises:
        CheckpointError: If two tensors get the same name.
    """
    plain = {name: without_wrappers(name) for name in files}
    starts = {(match[1], match[2]) for name in plain.values() if (match := _IN_LAYER.fullmatch(name))}
    prefix, kind = starts.pop() if len(starts) == 1 else (None, "")
    renamed: dict[str, TensorInfo] = {}
    for name, tensor in files.items():
        new = plain[name] if prefix is None else _renamed(plain[name], prefix, kind)
        if new in renamed:
            raise CheckpointError(
                f"{folder}: tensors {renamed[new].name} and {name} are one tensor of the model under two names: save "
                "the model without one of them"
            )
        renamed[new] = tensor
    return renamed


def _renamed(name: str, prefix: str, kind: str) -> str:
    """A name without the prefix of the layers. The head may be outside of the object that holds the layers."""
    rest = name.removeprefix(prefix)
    if kind == "block":
        return rest if name.startswith(prefix) and _OPENAI.fullmatch(rest) else name
    if name.startswith(prefix) and _BODY.fullmatch(rest):
        return f"model.{rest}".replace(".mlp.router.linear.", ".mlp.router.")
    head = _HEAD.fullmatch(name)
    return head[2] if head and prefix.startswith(head[1]) else name
