"""The `mlx-oss` command: subcommands, one module each, that call the library and print what it says.

A module has `add_arguments(parser)` and `run(args) -> exit status`, and is imported only when its subcommand is asked
for. Exit status: 0 done, 1 the answer could not be given, 2 wrong use or bad input (one line on stderr), 130
interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from mlx_oss.errors import MlxOssError
from mlx_oss.version import __version__

COMMANDS = {
    "chat": ("mlx_oss.cli.chat", "talk to a model in the terminal, or ask it one question"),
    "generate": ("mlx_oss.cli.generate", "show everything a model writes, control tokens included"),
    "render": ("mlx_oss.cli.render", "show a conversation as the model sees it"),
    "parse": ("mlx_oss.cli.parse", "show what the parser makes of a model's output"),
    "plan": ("mlx_oss.cli.plan", "tell what of a model fits into how much memory"),
    "bench": ("mlx_oss.cli.bench", "measure a model's speed and memory on this machine"),
    "convert": ("mlx_oss.convert.command", "turn a released checkpoint into an MLX folder"),
    "verify": ("mlx_oss.cli.verify", "check a converted model, byte by byte"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; gives the exit status."""
    _mend_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _show_warning
    try:
        args = _parser(chosen=argv[0] if argv else None).parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except MlxOssError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        _silence()
        return 1
    except PermissionError as error:
        sys.stderr.write(f"error: {error.filename or 'a file'} may not be used ({error.strerror})\n")
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        _silence()  # what is written to a file is an error of the library's own, so this is the output
        sys.stderr.write(f"error: {error.strerror or error}\n")
        return 1


def _mend_streams() -> None:
    """A stream that was closed swallows what it is given; one that knows few characters writes `?` for the others."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _silence() -> None:
    """Nothing more is written to stdout, which would fail again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx-oss", description="OpenAI's gpt-oss models on Apple silicon.")
    parser.add_argument("--version", action="version", version=f"mlx-oss {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (home, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:
            module = import_module(home)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
