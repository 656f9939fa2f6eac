"""The command-line arguments of every command that loads a model: which model, and how it samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import settings
from mlx_oss.cli.progress import shown
from mlx_oss.distributed import is_launched
from mlx_oss.errors import OptionError
from mlx_oss.terminal import say
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.generation.local import LocalEngine
    from mlx_oss.generation.options import SamplingOptions
    from mlx_oss.tokenizer import Tokenizer
    from mlx_oss.weights.layouts.checkpoint import Checkpoint

NANO_NOTE = """\
This is nano, a small demonstration model that comes with mlx-oss. It is not gpt-oss. For gpt-oss-20b (13.8 GB):
mlx-oss {command} --model openai/gpt-oss-20b"""
_MODEL_HELP = (
    "20b, 120b, a name on huggingface.co such as openai/gpt-oss-20b, or a folder, as downloaded or converted (default: "
    "that of `mlx-oss config`, else nano, a small demonstration model that comes with mlx-oss)"
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is loaded."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        help=_MODEL_HELP,
    )
    add_dtype_argument(parser)
    add_memory_arguments(parser)
    add_wire_argument(parser)


def add_arguments(parser: argparse.ArgumentParser, *, seed: str = "a new seed each time") -> None:
    """The model, and how it is sampled; `seed` says which seed is the default one."""
    add_model_arguments(parser)
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="randomness; 0 always takes the most likely token (default 1)",
    )
    sampling.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most likely tokens that add up to probability P (default 1: all tokens)",
    )
    sampling.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample from the K most likely tokens (default 0: all tokens)"
    )
    sampling.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="sample from tokens at least P times as likely as the most likely one (default 0: all tokens)",
    )
    sampling.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1, tokens among the last 64 become less likely (default 1: no penalty)",
    )
    sampling.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"seed of the random numbers; the same seed gives the same answer (default: {seed})",
    )
    sampling.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum tokens to generate in a turn (default: what the context has room for)",
    )


def add_folder_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="NAME",
        nargs="?",
        help=_MODEL_HELP,
    )


def folder_of(
    name: str | None, *, dtype: str = "auto", memory: str | int | None = None, context: int | None = None
) -> Path:
    """The folder of a model, which is downloaded if it is not here. None: the user's default, or nano.

    Args:
        name: What `add_folder_argument` parsed, for example.
        dtype: As for `mlx_oss.load`.
        memory: As for `mlx_oss.load`.
        context: As for `mlx_oss.load`.

    Raises:
        OptionError: If it is not here, and too large for the memory.
        DownloadError: If it is not here, and cannot be downloaded.
    """
    from mlx_oss import models

    def check(checkpoint: Checkpoint) -> str:
        return use_here(checkpoint, dtype=dtype, memory=memory, context=context)

    with shown() as progress:
        return models.folder_of(name or settings.model() or NANO, progress=progress, check=check)


def use_here(checkpoint: Checkpoint, **options: Any) -> str:
    """Calls `loader.use_here`. Raises EngineError without MLX, or as that does."""
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()
    from mlx_oss.loader import use_here

    return use_here(checkpoint, **options)


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="data type of the activations (default auto: bfloat16 on a GPU, float32 on the CPU)",
    )


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory limit, e.g. 8GB; experts that do not fit stay on disk (default: what the system can spare)",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="length of the longest conversation, in tokens (default: as many as fit)",
    )


def add_wire_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wire",
        action="store_true",
        help="let macOS page weights out while the model computes (default: it may not, on Macs with 32 GB or more and "
        "everything in memory)",
    )


def wire(args: argparse.Namespace) -> bool | None:
    """What `add_wire_argument` parsed, as `load` takes it: without the option, the environment decides."""
    return False if args.no_wire else None


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """Returns the sampling options. Raises OptionError for a value out of range."""
    from mlx_oss.generation.options import SamplingOptions

    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    return SamplingOptions(**{name: getattr(args, name) for name in names})


def load(args: argparse.Namespace) -> tuple[LocalEngine, Tokenizer]:
    """Loads the model and its tokenizer. If none is named, it loads nano and writes a note about it to stderr."""
    name = args.model or settings.model()
    if name is None:
        say(NANO_NOTE.format(command="chat"))
    return load_named(args, name)


def load_named(args: argparse.Namespace, name: str | None) -> tuple[LocalEngine, Tokenizer]:
    """Loads a model, together with other machines if `mlx.launch` has started several.

    Args:
        args: What `add_model_arguments` parsed, or the same attributes.
        name: The model; None for nano.

    Raises:
        OptionError: If it is the second one, and there are several machines.
        MlxOssError: What `mlx_oss.load` raises.
    """
    import mlx_oss

    with shown() as progress:
        return mlx_oss.load(
            name,
            dtype=args.dtype,
            memory=args.memory,
            context=args.context,
            wire=wire(args),
            progress=progress,
            group=_group(),
        )


def follow(args: argparse.Namespace) -> int:
    """On the machines after the first: computes what that one tells, until it ends."""
    try:
        load_named(args, (args.model if hasattr(args, "model") else args.folder) or settings.model())
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


_has_joined = False


def _group() -> Any:
    """The machines that compute together; None if there is one."""
    global _has_joined
    if not is_launched():
        return None
    if _has_joined:
        raise OptionError("several machines compute one model only: start them again with another --model")
    _has_joined = True
    from mlx_oss.distributed import group

    return group()
