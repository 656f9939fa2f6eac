"""What a caller may choose about a conversion, and what is told while it runs and after it. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlx_oss.errors import ConversionError

SHARD_BYTES = 2_000_000_000  # a layer of 120b is 1.8 GB; an interruption costs a shard for each of a few threads


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """profile: how modules other than experts are stored: "bf16" as released, "q8" or "q4" in MLX's affine
    quantisation by groups of 64. overrides: exceptions, a profile by a run of path components as in {"self_attn":
    "q8"}, `*` and `?` allowed, the last match counts. The router never goes below 8 bits.
    force: replace the target where it is a model folder. dry_run: check everything, write nothing. verify: before the
    folder gets its name, read it and the source again and compare them.
    shard_bytes: the size shards are filled up to; a layer is never split, so one may be as large as a layer.
    """

    profile: str = "bf16"
    overrides: Mapping[str, str] = field(default_factory=dict)
    force: bool = False
    dry_run: bool = False
    verify: bool = False
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a conversion or verification stands: bytes done of all, files finished of all, the last one's name."""

    done: int
    total: int
    shards_done: int
    shards: int
    shard: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Tensors that are alike but for their layer or expert: `name` has `*` for the number. nbytes counts them all."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did, or would do (dry_run).

    nbytes counts tensors; resumed_shards were there from an interrupted run; errors holds, by tensor that was
    quantised, the root of the summed squared differences over that of the summed squared values. source_kinds are the
    tensors of the source in the order of its files, kinds those of the MLX folder in the order of use; contexts says
    how many tokens of context a Mac holds beside the latter, by its memory in GB (`mlx_oss.memory`).
    """

    folder: Path
    layout: str
    tensors: int
    shards: int
    nbytes: int
    resumed_shards: int = 0
    errors: Mapping[str, float] = field(default_factory=dict)
    source_kinds: tuple[Kind, ...] = ()
    kinds: tuple[Kind, ...] = ()
    contexts: Mapping[int, int] = field(default_factory=dict)


@contextmanager
def readable() -> Iterator[None]:
    """A file or folder that the system refuses becomes a ConversionError that names it."""
    try:
        yield
    except OSError as error:
        what = error.filename or "a file"
        raise ConversionError(
            f"{what} cannot be used ({error.strerror}): check its name, your rights, the disk"
        ) from None


OnProgress = Callable[[Progress], None]


class Meter:
    """Counts what is done and tells it; `shard` is the file that was finished last."""

    def __init__(self, tell: OnProgress | None, total: int, shards: int):
        self.tell, self.total, self.shards = tell, total, shards
        self.done = self.shards_done = 0
        self.shard = ""

    def advance(self, nbytes: int) -> None:
        self.done += nbytes
        if self.tell:
            self.tell(Progress(self.done, self.total, self.shards_done, self.shards, self.shard))

    def finish_shard(self, name: str) -> None:
        self.shard = name
        self.shards_done += 1
        self.advance(0)
