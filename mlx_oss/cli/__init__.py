"""The `mlx-oss` command: each subcommand is a module that calls the library and prints the result.

A subcommand's module has `add_arguments(parser)` and `run(args) -> exit status`, and is imported only when the
subcommand is used. `statuses` has the exit statuses.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from mlx_oss.arguments import Parser, did_you_mean
from mlx_oss.cli import statuses
from mlx_oss.cli.model_names import guess
from mlx_oss.cli.wording import in_words
from mlx_oss.distributed import is_follower, is_launched
from mlx_oss.errors import MlxOssError, OptionError, quoted
from mlx_oss.terminal import say_exception, show_safely
from mlx_oss.version import __version__

COMMANDS = {
    "chat": ("mlx_oss.cli.chat", "chat with a model in the terminal, or ask it one question"),
    "serve": ("mlx_oss.cli.serve", "serve a model to other programs, by the APIs of OpenAI and Anthropic"),
    "mcp": ("mlx_oss.cli.mcp", "offer our tools to other programs, as an MCP server"),
    "batch": ("mlx_oss.cli.batch", "answer a file of requests in OpenAI's batch format"),
    "eval": ("mlx_oss.cli.eval", "ask a file of questions, and count the right answers"),
    "research": ("mlx_oss.cli.research", "answer a question from many pages, with a report that cites them"),
    "generate": ("mlx_oss.cli.generate", "print everything a model writes, control tokens included"),
    "render": ("mlx_oss.cli.render", "print a conversation as the model sees it"),
    "parse": ("mlx_oss.cli.parse", "print the messages in a model's output, and what had to be repaired"),
    "plan": ("mlx_oss.cli.plan", "show how much of a model fits into memory"),
    "bench": ("mlx_oss.cli.bench", "measure a model's speed and memory on this machine"),
    "compare": ("mlx_oss.cli.compare", "compare what two copies of a model predict"),
    "doctor": ("mlx_oss.cli.doctor", "check whether this machine runs mlx-oss well"),
    "hosts": ("mlx_oss.cli.hosts", "check whether several machines can compute one model together"),
    "models": ("mlx_oss.cli.models", "list the models on this disk, and what this machine can run of them"),
    "pull": ("mlx_oss.cli.pull", "download a model by its name"),
    "rm": ("mlx_oss.cli.rm", "remove a model from this disk"),
    "config": ("mlx_oss.cli.config", "show your own defaults: the model, and options of chat"),
    "completion": ("mlx_oss.cli.completion", "print what a shell needs to complete arguments with Tab"),
    "convert": ("mlx_oss.cli.convert", "convert a checkpoint to an MLX folder"),
    "verify": ("mlx_oss.cli.verify", "check that a model on disk is complete and, where checksums exist, intact"),
}


# What other programs call them.
_SYNONYMS = {
    "ask": "chat",
    "delete": "rm",
    "download": "pull",
    "evaluate": "eval",
    "evals": "eval",
    "get": "pull",
    "help": "--help",
    "info": "plan",
    "list": "models",
    "ls": "models",
    "ps": "models",
    "remove": "rm",
    "run": "chat",
    "server": "serve",
    "show": "plan",
    "version": "--version",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: The arguments after the program name. None means those of the process.

    Returns:
        The exit status.
    """
    _make_streams_writable()
    argv = list(sys.argv[1:] if argv is None else argv)
    show_safely()
    as_json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    args = None
    try:
        args = _parsed(argv)
        loads_model = hasattr(args, "no_wire")
        status: int = _together(args) if loads_model and is_launched() else args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return statuses.INTERRUPTED
    except BrokenPipeError:  # the reader of the output is gone, e.g. `| head`
        _discard_output()
        return statuses.FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return _tell(error, args, as_json)
        _discard_output()  # errors in writing other files are MlxOssErrors, so this one is about stdout
        return statuses.tell(error.strerror or str(error), statuses.FAILED, kind="OSError", as_json=False)
    except Exception as error:
        return statuses.INTERRUPTED if _follows_ctrl_c(error) else _tell(error, args, as_json)


def _together(args: argparse.Namespace) -> int:
    """Runs a command that loads a model, on one of several machines. The others are told what fails on this one."""
    from mlx_oss.cli.model_arguments import follow
    from mlx_oss.distributed.launched import ctrl_c_is_for_the_first, errors_told, meet

    with ctrl_c_is_for_the_first():
        meet()
        with errors_told():
            status: int = follow(args) if is_follower() else args.run(args)
            return status


def _follows_ctrl_c(error: Exception) -> bool:
    """True if Ctrl-C arrived between two steps of a library, which then failed with an error of its own."""
    before = error.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None and not isinstance(error, MlxOssError)


def _tell(error: Exception, args: argparse.Namespace | None, as_json: bool) -> int:
    """Tells an error, and returns the exit status."""
    message, status = _told(error, args)
    return statuses.tell(message, status, kind=type(error).__name__, as_json=as_json)


def _told(error: Exception, args: argparse.Namespace | None) -> tuple[str, int]:
    """What to say of an error, and the exit status. The traceback of a bug is shown first."""
    if isinstance(error, MlxOssError):
        return in_words(f"{error}{guess(error, args)}"), statuses.status_of(error)
    package = (getattr(error, "name", None) or "mlx_oss").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package != "mlx_oss":
        return (
            f"the package {package} is not installed in {sys.prefix}: activate the environment that mlx-oss is "
            "installed in, or run `pip install -e .` in the checkout"
        ), statuses.WRONG_USE
    if isinstance(error, PermissionError):
        return f"no permission to use {error.filename or 'a file'} ({error.strerror})", statuses.WRONG_USE
    say_exception(type(error), error, error.__traceback__)
    return "this is a bug in mlx-oss: please report it with the lines above, and what you did", statuses.FAILED


def _make_streams_writable() -> None:
    """Replaces closed streams by streams to the null device. Other streams write `?` for unknown characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Redirects stdout to the null device: flushing it when the program ends would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Parses the arguments. Raises OptionError for wrong ones."""
    parser = Parser(prog="mlx-oss", description="OpenAI's gpt-oss models on Apple silicon.", epilog=statuses.EXPLAINED)
    parser.add_argument("--version", action="version", version=f"mlx-oss {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = parser
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if argv and name == argv[0]:
            module = import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
            chosen = command
    if chosen is parser:
        _refuse_unknown_command(argv)
    args: argparse.Namespace
    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "question") and not any(word.startswith("-") and word != "-" for word in rest):
        args.question += rest  # words of a question after an option
    elif rest:
        chosen.refuse(rest)
    args.given = chosen.given
    return args


def _refuse_unknown_command(argv: list[str]) -> None:
    """Raises OptionError unless the first argument is an option of the program itself."""
    if not argv:
        raise OptionError("name a command, such as `mlx-oss chat`: `mlx-oss --help` lists them")
    first = argv[0]
    if first in ("-h", "--help", "--version"):
        return
    if first.startswith("-"):
        raise OptionError(
            f"{quoted(first)} stands before the command: write `mlx-oss COMMAND {first.split('=')[0]} ...`"
        )
    if " " in first.strip():
        raise OptionError(f'{quoted(first)} is not a command: to ask a question, `mlx-oss chat "QUESTION"`')
    meant = _SYNONYMS.get(first.lower(), "")
    question = f"did you mean {meant}?" if meant else did_you_mean(first, COMMANDS)
    raise OptionError(f"there is no command {quoted(first)}: {question or '`mlx-oss --help` lists them'}")
