"""Every error that the library raises on purpose, in one tree. All of them can be imported from `mlx_oss` itself.

    MlxOssError
    ├── ConfigError          config.json: a value is missing, unknown or impossible
    ├── DownloadError        a model cannot be found by its name, or not be downloaded
    ├── CheckpointError      weights: a file or tensor is missing, damaged, unknown, or of the wrong shape or dtype
    │   └── WrongFolderError     nothing is damaged: the folder does not exist, or holds something else
    ├── ConversionError      a conversion cannot start or finish: the target exists, the disk is full
    ├── TokenizerError       the vocabulary is damaged, or differs from the release's
    ├── HarmonyError         a conversation cannot be rendered, or a stream is malformed (strict mode only)
    ├── OptionError          an argument is invalid, or needs something that is not installed
    ├── ContextError         the conversation does not fit the context
    ├── EngineError          the engine cannot compute: MLX cannot be loaded, the process was forked
    │   └── DeviceError      MLX failed: no memory, no GPU, stopped by the system
    │       └── NumericalError   the model's logits are not numbers
    ├── SessionError         a saved session cannot be read or written, or a turn of the session is running
    ├── ToolError            a tool failed; the session reports the message to the model
    ├── ResearchError        the folder of a research cannot be used, or the research was cancelled
    ├── BatchError           a file of requests cannot be read, or its answers cannot be written
    ├── EvaluationError      questions of an evaluation cannot be used, or its results cannot be read or written
    └── BenchmarkError       a benchmarked engine cannot load or run the model

Each message says what is wrong, where (file, tensor, key), and how to fix it. The command line prints it after
"error: " (`cli/statuses.py` has the exit statuses). Any other exception that leaves the library is a bug.

What a message quotes may come from a file of somebody else, so `quoted` and the base class keep it short.
"""

from __future__ import annotations

import reprlib
import traceback

__all__ = [
    "BatchError",
    "BenchmarkError",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "ConversionError",
    "DeviceError",
    "DownloadError",
    "EngineError",
    "EvaluationError",
    "HarmonyError",
    "MlxOssError",
    "NumericalError",
    "OptionError",
    "ResearchError",
    "SessionError",
    "TokenizerError",
    "ToolError",
    "WrongFolderError",
]


_LONGEST = 2000  # characters of a message

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 120
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 6
_repr.maxlevel = 3


def quoted(value: object) -> str:
    """Python's spelling of a value from a file or a caller, for a message: whole if it is short, else abridged."""
    return _repr.repr(value)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text of at most `longest` characters: of a longer one the beginning and the end, which has the remedy."""
    if len(text) <= longest:
        return text
    rest = f" [{len(text) - longest:,} more characters] "
    end = longest // 3
    return text[: longest - end - len(rest)] + rest + text[-end:]


def forget_frames(error: BaseException) -> None:
    """Clears the variables in the traceback: a program that keeps errors would keep the sessions and their caches."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


class MlxOssError(Exception):
    """Base class of every error that the library raises on purpose. Its message is kept short."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(shortened(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(MlxOssError):
    """A model configuration has a missing, unknown or impossible value."""


class CheckpointError(MlxOssError):
    """A weight file or tensor is missing, damaged, unknown, or of the wrong shape or dtype."""


class WrongFolderError(CheckpointError):
    """What was named is not the folder of a model or an adapter that can be used as it is; nothing in it is damaged.

    It does not exist, is a file, holds something else, or has to be converted first.
    """


class DownloadError(MlxOssError):
    """A model cannot be found by its name, or it cannot be downloaded."""


class ConversionError(MlxOssError):
    """A conversion cannot start or finish: the target exists, the disk is full, or the source cannot be read."""


class TokenizerError(MlxOssError):
    """The bundled vocabulary is damaged, or a release's vocabulary differs from it."""


class HarmonyError(MlxOssError):
    """A conversation cannot be rendered, or, in strict mode only, a stream breaks the harmony format."""


class OptionError(MlxOssError):
    """An argument is invalid, or needs an extra that is not installed."""


class ContextError(MlxOssError):
    """A conversation does not fit the context.

    Attributes:
        tokens: How many tokens it has; None if that is not why.
        context: How many fit.
    """

    def __init__(self, message: str, tokens: int | None = None, context: int | None = None) -> None:
        super().__init__(message)
        self.tokens, self.context = tokens, context


class EngineError(MlxOssError):
    """The engine cannot compute.

    It cannot without MLX, in a forked process, from its own thread, at exit, or without a scripted answer.
    """


class DeviceError(EngineError):
    """MLX failed while it computed: the memory is used up, the system stopped the GPU, or there is no GPU.

    The engine goes on: what the failed request had read and written is forgotten. A turn of a chat session is taken
    back, unless the model has called tools in it.

    Attributes:
        took_too_long: True if the system stopped a computation because it took too long.
    """

    def __init__(self, message: str, took_too_long: bool = False) -> None:
        super().__init__(message)
        self.took_too_long = took_too_long


class NumericalError(DeviceError):
    """The model's logits are NaN or infinite: a weight is damaged, or the device computes wrong.

    No token can be chosen from them. Everything else is as for other DeviceErrors.
    """


class SessionError(MlxOssError):
    """A saved session cannot be written or read, or belongs to another model; or a turn of the session is running."""


class ToolError(MlxOssError):
    """A tool failed.

    A session reports the message to the model that called the tool, below the output.

    Attributes:
        output: What the tool printed before it failed.
    """

    def __init__(self, message: str, output: str = "") -> None:
        Exception.__init__(self, message)  # whole: tools bound what the model gets to read
        self.output = output


class ResearchError(MlxOssError):
    """The folder of a research cannot be read or written, holds another one, or the research was cancelled."""


class BatchError(MlxOssError):
    """A file of requests cannot be read, or the file of their answers cannot be read or written."""


class EvaluationError(MlxOssError):
    """Questions of an evaluation cannot be used, or its results cannot be read or written."""


class BenchmarkError(MlxOssError):
    """A benchmarked engine cannot load or run the model."""
