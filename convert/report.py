"""What a conversion or verification reports to its caller: progress, a summary, and file errors as ConversionError.

Knows nothing of formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlx_oss.errors import ConversionError, OptionError, quoted


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a conversion or verification is.

    Attributes:
        done: Bytes of tensors written (or verified) so far, in all files.
        total: Bytes of all tensors.
        shards_done: Number of finished files.
        shards: Number of all files.
        shard: Name of the file that was finished last; empty before the first.
    """

    done: int
    total: int
    shards_done: int
    shards: int
    shard: str


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A group of tensors that differ only in the number of their layer or expert.

    Attributes:
        name: Their name, with `*` in place of each number.
        dtype: Their dtype as safetensors names it.
        shape: The shape of each.
        count: How many tensors there are.
        nbytes: Bytes of all of them together.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did, or would do with `dry_run`; what a verification checked.

    `verify` fills in `folder`, `layout`, `tensors`, `shards`, `nbytes` and `compared` only.

    Attributes:
        folder: The MLX folder; for a verified download, its folder.
        layout: Layout of the source, such as "Hugging Face" or "OpenAI Metal"; that of the folder itself for `verify`
            without a source.
        tensors: Number of tensors in the folder.
        shards: Number of weight files in the folder.
        nbytes: Bytes of its tensors, without headers and other files.
        resumed_shards: Number of shards that an interrupted conversion had already finished.
        errors: Relative error of each tensor whose values are not exactly those of the source, by tensor name:
            sqrt(sum of squared differences / sum of squared values). Empty with `dry_run`.
        losses: What was done to each of these tensors, by tensor name: "quantised", "dequantised", "requantised" (the
            one after the other), or "rounded" (to bfloat16). If a tensor was rounded first, its error includes that.
        source_kinds: The tensors of the source, grouped, in the order of its files.
        kinds: The tensors of the MLX folder, grouped, in the order in which the model uses them.
        contexts: How many tokens of context fit next to the model in memory, by memory size of a Mac in GB
            (see `mlx_oss.memory`).
        compared: For a verified download: how many weight files were compared with a recorded checksum. None: it was
            not verified as a download.
    """

    folder: Path
    layout: str
    tensors: int
    shards: int
    nbytes: int
    resumed_shards: int = 0
    errors: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    source_kinds: tuple[Kind, ...] = ()
    kinds: tuple[Kind, ...] = ()
    contexts: Mapping[int, int] = field(default_factory=dict)
    compared: int | None = None


def check_progress(progress: object) -> None:
    """Raises OptionError for what cannot be called with a `Progress`."""
    if progress is not None and not callable(progress):
        raise OptionError(
            f"progress is {quoted(progress)}, expected a function that is called with a Progress, or None"
        )


class ProgressMeter:
    """Adds up progress and calls `on_progress` after every step.

    Attributes:
        shard: Name of the file that was finished last.
    """

    def __init__(self, on_progress: OnProgress | None, total: int, shards: int):
        self.on_progress, self.total, self.shards = on_progress, total, shards
        self.done = self.shards_done = 0
        self.shard = ""

    def advance(self, nbytes: int) -> None:
        """Adds bytes that are done."""
        self.done += nbytes
        if self.on_progress:
            self.on_progress(Progress(self.done, self.total, self.shards_done, self.shards, self.shard))

    def finish_shard(self, name: str) -> None:
        """Counts a finished file."""
        self.shard = name
        self.shards_done += 1
        self.advance(0)


@contextmanager
def os_errors_named() -> Iterator[None]:
    """Turns an OSError into a ConversionError that names the file or folder."""
    try:
        yield
    except OSError as error:
        what = error.filename or "a file"
        raise ConversionError(
            f"{what} cannot be used ({error.strerror}): check the path, your permissions and the disk"
        ) from None
