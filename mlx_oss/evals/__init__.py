"""How good a copy of the model is. Knows nothing of HTTP or terminals.

comparison     how far a copy's predictions of the next token are from another's
divergence     the arithmetic of that, for one token
passages       the texts: conversations as the model reads them
stored_logits  predictions in a file
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_oss.evals.comparison import Comparison, Figures, compare, store
    from mlx_oss.evals.passages import Passage, bundled, read_conversations, read_text

_NAMES = {
    "comparison": "Comparison Figures compare store",
    "passages": "Passage bundled read_conversations read_text",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["Comparison", "Figures", "Passage", "bundled", "compare", "read_conversations", "read_text", "store"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mlx_oss.evals' has no attribute {name!r}")
    return getattr(import_module(f"mlx_oss.evals.{_HOME[name]}"), name)
