"""OpenAI's gpt-oss models on Apple silicon: MLX runtime, harmony chat format, conversation API.

    import mlx_oss
    model, tokenizer = mlx_oss.load("gpt-oss-20b-mlx")
    session = mlx_oss.ChatSession(model, tokenizer)
    print(session.ask("Hi").text)

Names are imported when first used: `import mlx_oss` itself loads neither MLX nor the tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlx_oss.version import __version__

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.config import ModelConfig
    from mlx_oss.constrain import Guards
    from mlx_oss.errors import MlxOssError
    from mlx_oss.events import (
        AnswerDelta,
        Citation,
        Event,
        Finished,
        PreambleDelta,
        PrefillProgress,
        ReasoningDelta,
        ReasoningStopped,
        RepairedOutput,
        Reply,
        Stats,
        ToolCall,
        ToolResult,
        TurnsDropped,
        Usage,
        collect,
    )
    from mlx_oss.generation.generate import Step, generate_step, prefill
    from mlx_oss.generation.sampling import SamplingOptions
    from mlx_oss.harmony import Message, ToolDescription
    from mlx_oss.loader import load, load_model
    from mlx_oss.memory.plan import Plan, plan
    from mlx_oss.model.kv_cache import Cache
    from mlx_oss.model.transformer import Transformer
    from mlx_oss.tokenizer import Tokenizer, load_tokenizer

_HOME = {
    "model.kv_cache": ("Cache",),
    "chat.session": ("ChatSession",),
    "config": ("ModelConfig",),
    "constrain": ("Guards",),
    "errors": ("MlxOssError",),
    "events": (
        "AnswerDelta",
        "Citation",
        "Event",
        "Finished",
        "PreambleDelta",
        "PrefillProgress",
        "ReasoningDelta",
        "ReasoningStopped",
        "RepairedOutput",
        "Reply",
        "Stats",
        "ToolCall",
        "ToolResult",
        "TurnsDropped",
        "Usage",
        "collect",
    ),
    "generation.generate": ("Step", "generate_step", "prefill"),
    "harmony": ("Message", "ToolDescription"),
    "loader": ("load", "load_model"),
    "model.transformer": ("Transformer",),
    "memory.plan": ("Plan", "plan"),
    "generation.sampling": ("SamplingOptions",),
    "tokenizer": ("Tokenizer", "load_tokenizer"),
}
# What loads MLX, before which a fast BLAS is looked for.
_COMPUTING = ("chat.session", "generation", "loader", "memory.plan", "model")
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AnswerDelta",
    "Cache",
    "ChatSession",
    "Citation",
    "Event",
    "Finished",
    "Guards",
    "Message",
    "MlxOssError",
    "ModelConfig",
    "Plan",
    "PreambleDelta",
    "PrefillProgress",
    "ReasoningDelta",
    "ReasoningStopped",
    "RepairedOutput",
    "Reply",
    "SamplingOptions",
    "Stats",
    "Step",
    "Tokenizer",
    "ToolCall",
    "ToolDescription",
    "ToolResult",
    "Transformer",
    "TurnsDropped",
    "Usage",
    "__version__",
    "collect",
    "generate_step",
    "load",
    "load_model",
    "load_tokenizer",
    "plan",
    "prefill",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mlx_oss' has no attribute {name!r}")
    if _MODULE_OF[name].startswith(_COMPUTING):
        from mlx_oss.backend.blas import prefer_fast_blas

        prefer_fast_blas()
    value = getattr(import_module(f"mlx_oss.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
