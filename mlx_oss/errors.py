"""Every error the library raises on purpose, in one tree.

    MlxOssError
    ├── ConfigError          config.json: a missing, unknown or impossible value
    ├── CheckpointError      weights: a missing, damaged, misshapen or unknown tensor or file
    ├── ConversionError      the conversion itself: target exists, disk full, unreadable source
    ├── TokenizerError       the vocabulary is damaged or disagrees with the release's
    ├── HarmonyError         a conversation cannot be rendered, or a stream is malformed in strict mode
    ├── OptionError          an argument of the caller's is out of range
    ├── ContextError         the conversation does not fit the context
    ├── SessionError         a saved session is damaged, or of another model; a session is used while it is busy
    ├── ToolError            a tool cannot do what it was asked for; a session tells it to the model
    └── BenchmarkError       an engine cannot load or run the model that is measured

A message says what is wrong, where (file, tensor, key), and what to do about it; `cli` prints it after "error: " and
exits with status 2. Anything else that escapes the library is a bug.
"""


class MlxOssError(Exception):
    """Base of every error the library raises on purpose."""


class ConfigError(MlxOssError):
    """A model configuration has a missing, unknown or impossible value."""


class CheckpointError(MlxOssError):
    """A weight file or tensor is missing, damaged, of the wrong shape or dtype, or unknown."""


class ConversionError(MlxOssError):
    """A conversion cannot start or cannot finish: the target exists, the disk is full, the source is unreadable."""


class TokenizerError(MlxOssError):
    """The vocabulary is damaged, or a release's vocabulary disagrees with the bundled one."""


class HarmonyError(MlxOssError):
    """A conversation cannot be rendered, or (strict mode only) a stream breaks the harmony format."""


class OptionError(MlxOssError):
    """An argument given by the caller is out of its range."""


class ContextError(MlxOssError):
    """A conversation does not fit into the model's context."""


class SessionError(MlxOssError):
    """A saved session is damaged or belongs to another model, or a session is asked for two turns at once."""


class ToolError(MlxOssError):
    """A tool cannot do what it was asked for. Where a model asked, a session tells it the message, below `output`, what
    the tool had to say until then.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class BenchmarkError(MlxOssError):
    """An engine cannot load or run the model that is measured."""
