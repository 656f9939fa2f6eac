"""`mlx-oss chat`: a conversation in the terminal, one question on the command line, or questions from a pipe.

Only the answer goes to stdout, unless stdout and stderr are the same terminal. `printers` and `live_markdown` print the
events. `questions` finds out what was asked, and `conversation` is the conversation.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from mlx_oss.cli import answer_arguments, model_arguments, settings, tool_arguments
from mlx_oss.cli.attachments import Attachment
from mlx_oss.cli.conversation import Reading, converse, show_turn
from mlx_oss.cli.interrupts import exit_soon, exiting_on_sigterm, leaving_on_ctrl_d
from mlx_oss.cli.questions import asked
from mlx_oss.cli.statuses import DONE, INTERRUPTED

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_oss.chat.session import ChatSession
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "question",
        nargs="*",
        help="question to answer; text from a pipe goes with it, and - stands for that text alone (default: a "
        "conversation, or the text from a pipe)",
    )
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        dest="files",
        metavar="FILE",
        help="text file that goes with the question, or - for stdin; may be given more than once",
    )
    model_arguments.add_arguments(parser)
    answer_arguments.add_arguments(parser)
    parser.add_argument(
        "--instructions",
        default="",
        metavar="TEXT",
        help="instructions for the model in all its answers (default: none)",
    )
    tool_arguments.add_arguments(parser)
    parser.add_argument(
        "--no-history",
        action="store_true",
        help="do not keep the questions of this conversation for later ones (default: keep them, unless the "
        "environment variable MLX_OSS_HISTORY is 0)",
    )
    parser.add_argument("--hide-reasoning", action="store_true", help="show only the answer")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print each event as a line of JSON; each line of stdin is then a separate question",
    )
    parser.epilog = "`mlx-oss config` shows your own defaults, and the file in which they stand."
    settings.apply_chat_options(parser)


def run(args: argparse.Namespace) -> int:
    """Answers or converses. The exit status is 130 if Ctrl-C stopped an answer, and 3 if one was cut off."""
    questions, attached = asked(args)
    with ExitStack() as stack:
        reading: Reading = nullcontext
        if not questions:
            stack.enter_context(exiting_on_sigterm())
            reading = stack.enter_context(leaving_on_ctrl_d())
        return _answer(args, questions, attached, reading)


def _answer(args: argparse.Namespace, questions: list[str], attached: list[Attachment], reading: Reading) -> int:
    """Loads the model, and answers the questions or, if there are none, begins a conversation."""
    options, tools = model_arguments.sampling_options(args), tool_arguments.tools(args)
    answer_options = answer_arguments.session_options(args)

    def session() -> ChatSession:
        from mlx_oss.chat.session import ChatSession

        model, tokenizer = model_arguments.load(args)
        return ChatSession(
            model,
            tokenizer,
            instructions=args.instructions,
            options=options,
            max_tokens=args.max_tokens,
            **answer_options,
            **tools,
        )

    def fetch(name: str, room: int | None) -> Path:
        return model_arguments.folder_of(
            name, dtype=args.dtype, memory=room if args.memory is None else args.memory, context=args.context
        )

    def load(folder: str) -> tuple[Engine, Tokenizer]:
        args.model = folder
        return model_arguments.load(args)

    from mlx_oss.cli.printers import make_printer

    if not questions:
        printer = make_printer(as_json=args.json, hide_reasoning=args.hide_reasoning)
        keep = not args.no_history
        converse(session(), printer, tools, reading, keep_history=keep, fetch=fetch, load=load, attached=attached)
        if reading is not nullcontext:
            exit_soon()  # also if a tool that was stopped goes on
        return 0
    answering, printer = session(), make_printer(as_json=args.json, hide_reasoning=args.hide_reasoning)
    outcome = DONE
    for question in questions:
        outcome = show_turn(answering, answering.send(question), printer) or outcome
        if outcome == INTERRUPTED:
            break
    return outcome
