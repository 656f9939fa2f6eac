"""The arguments that every command with a model has: which model, and how it samples."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_oss.generation.sampling import SamplingOptions
    from mlx_oss.model.transformer import Transformer
    from mlx_oss.tokenizer import Tokenizer

_NANO = """\
nano: a demonstration model that comes with mlx-oss, not gpt-oss. For gpt-oss-20b download openai/gpt-oss-20b from
Hugging Face, then: mlx-oss convert gpt-oss-20b gpt-oss-20b-mlx && mlx-oss chat --model gpt-oss-20b-mlx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help="converted model; without it nano, a bundled demonstration")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the activations")
    add_memory_arguments(parser)
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0 is greedy (default 1)")
    sampling.add_argument("--top-p", type=float, default=1.0, metavar="P", help="default 1: all tokens")
    sampling.add_argument("--top-k", type=int, default=0, metavar="K", help="default 0: all tokens")
    sampling.add_argument("--min-p", type=float, default=0.0, metavar="P", help="default 0: all tokens")
    sampling.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="default 1: none")
    sampling.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    sampling.add_argument("--max-tokens", type=int, metavar="N", help="generate at most N tokens")


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", metavar="SIZE", help="what the process may take, e.g. 8GB; what does not fit is read from disk"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens that a conversation has room for")


def sampling_options(args: argparse.Namespace) -> SamplingOptions:
    """Raises OptionError for a value out of range."""
    from mlx_oss.generation.sampling import SamplingOptions

    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    return SamplingOptions(**{name: getattr(args, name) for name in names})


def load(args: argparse.Namespace) -> tuple[Transformer, Tokenizer]:
    """The model that was asked for; says on stderr when it is nano."""
    import mlx_oss

    if args.model is None:
        sys.stderr.write(_NANO)
    return mlx_oss.load(args.model, dtype=args.dtype, memory=args.memory, context=args.context)
