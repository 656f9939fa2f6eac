"""OpenAI's gpt-oss models on Apple silicon: MLX runtime, harmony chat format, conversation API.

    import mlx_oss

    model, tokenizer = mlx_oss.load("openai/gpt-oss-20b")
    session = mlx_oss.ChatSession(model, tokenizer)
    print(session.ask("Hi").text)

Names are imported when they are first used, so `import mlx_oss` itself loads neither MLX nor the vocabulary. The same
holds for the modules `mlx_oss.harmony`, `mlx_oss.tools`, `mlx_oss.research`, `mlx_oss.errors` and `mlx_oss.convert`,
which need no MLX, and for `mlx_oss.evals` and `mlx_oss.distributed`.

What the library does is logged, by the logger `mlx_oss` and those below it, and nothing is printed.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING

# Old Pythons have to be able to read this file up to here: further imports fail there with a SyntaxError or TypeError.
if sys.version_info < (3, 11):  # noqa: UP036
    raise ImportError(
        f"mlx-oss needs Python 3.11 or later, but {sys.executable} is Python {sys.version.split()[0]}: install a newer "
        "one (from python.org, or with `brew install python`), and install mlx-oss in a virtual environment of it"
    )

from mlx_oss.errors import (
    BatchError,
    BenchmarkError,
    CheckpointError,
    ConfigError,
    ContextError,
    ConversionError,
    DeviceError,
    DownloadError,
    EngineError,
    EvaluationError,
    HarmonyError,
    MlxOssError,
    NumericalError,
    OptionError,
    ResearchError,
    SessionError,
    TokenizerError,
    ToolError,
    WrongFolderError,
)
from mlx_oss.version import __version__

logging.getLogger("mlx_oss").addHandler(logging.NullHandler())  # an app that sets up no logging gets nothing printed

if TYPE_CHECKING:
    from mlx_oss import convert as convert
    from mlx_oss import distributed as distributed
    from mlx_oss import errors as errors
    from mlx_oss import evals as evals
    from mlx_oss import harmony as harmony
    from mlx_oss import research as research
    from mlx_oss import tools as tools
    from mlx_oss.chat.many import Replies, ask_many
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.chat.settings import TurnOptions
    from mlx_oss.chat.subtasks import SubtaskLimits, Subtasks, add_subtasks
    from mlx_oss.config import ModelConfig
    from mlx_oss.constrain import Guards
    from mlx_oss.costs import Stats, Usage
    from mlx_oss.events import (
        AnswerDelta,
        Attachment,
        Citation,
        Event,
        Finished,
        PreambleDelta,
        PrefillProgress,
        ReasoningDelta,
        ReasoningStopped,
        RepairedOutput,
        Reply,
        TokenLogprob,
        ToolCall,
        ToolProgress,
        ToolResult,
        TurnsDropped,
        collect,
    )
    from mlx_oss.generation.engine import (
        Constraint,
        Counts,
        Engine,
        EngineStats,
        PromptCache,
        PromptProgress,
        Request,
        Step,
        Stream,
    )
    from mlx_oss.generation.generate import generate_step, prefill
    from mlx_oss.generation.local import LocalEngine
    from mlx_oss.generation.options import SamplingOptions
    from mlx_oss.generation.scripted import ScriptedEngine
    from mlx_oss.harmony import Message, ToolDescription
    from mlx_oss.loader import load, load_model, plan
    from mlx_oss.memory.plan import Plan
    from mlx_oss.model.kv_cache import Cache
    from mlx_oss.model.transformer import Transformer
    from mlx_oss.tokenizer import Tokenizer, load_tokenizer

_MODULES = ("convert", "distributed", "errors", "evals", "harmony", "research", "tools")  # public modules
_NAMES = {  # the names of each module that are public here
    "chat.many": "Replies ask_many",
    "chat.session": "ChatSession",
    "chat.settings": "TurnOptions",
    "chat.subtasks": "SubtaskLimits Subtasks add_subtasks",
    "config": "ModelConfig",
    "constrain": "Guards",
    "costs": "Stats Usage",
    "events": "AnswerDelta Attachment Citation Event Finished PreambleDelta PrefillProgress ReasoningDelta "
    "ReasoningStopped RepairedOutput Reply TokenLogprob ToolCall ToolProgress ToolResult TurnsDropped collect",
    "generation.engine": "Constraint Counts Engine EngineStats PromptCache PromptProgress Request Step Stream",
    "generation.generate": "generate_step prefill",
    "generation.local": "LocalEngine",
    "generation.options": "SamplingOptions",
    "generation.scripted": "ScriptedEngine",
    "harmony": "Message ToolDescription",
    "loader": "load load_model plan",
    "memory.plan": "Plan",
    "model.kv_cache": "Cache",
    "model.transformer": "Transformer",
    "tokenizer": "Tokenizer load_tokenizer",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
# Modules that import MLX, which `load_mlx` has to load before.
_COMPUTING = ("generation.generate", "generation.local", "loader", "memory.plan", "model")

__all__ = [
    "AnswerDelta",
    "Attachment",
    "BatchError",
    "BenchmarkError",
    "Cache",
    "ChatSession",
    "CheckpointError",
    "Citation",
    "ConfigError",
    "Constraint",
    "ContextError",
    "ConversionError",
    "Counts",
    "DeviceError",
    "DownloadError",
    "Engine",
    "EngineError",
    "EngineStats",
    "EvaluationError",
    "Event",
    "Finished",
    "Guards",
    "HarmonyError",
    "LocalEngine",
    "Message",
    "MlxOssError",
    "ModelConfig",
    "NumericalError",
    "OptionError",
    "Plan",
    "PreambleDelta",
    "PrefillProgress",
    "PromptCache",
    "PromptProgress",
    "ReasoningDelta",
    "ReasoningStopped",
    "RepairedOutput",
    "Replies",
    "Reply",
    "Request",
    "ResearchError",
    "SamplingOptions",
    "ScriptedEngine",
    "SessionError",
    "Stats",
    "Step",
    "Stream",
    "SubtaskLimits",
    "Subtasks",
    "TokenLogprob",
    "Tokenizer",
    "TokenizerError",
    "ToolCall",
    "ToolDescription",
    "ToolError",
    "ToolProgress",
    "ToolResult",
    "Transformer",
    "TurnOptions",
    "TurnsDropped",
    "Usage",
    "WrongFolderError",
    "__version__",
    "add_subtasks",
    "ask_many",
    "collect",
    "generate_step",
    "load",
    "load_model",
    "load_tokenizer",
    "plan",
    "prefill",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"mlx_oss.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'mlx_oss' has no attribute {name!r}")
    if _HOME[name].startswith(_COMPUTING):
        from mlx_oss.backend.mlx_library import load_mlx

        load_mlx()
    value: object = getattr(import_module(f"mlx_oss.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
