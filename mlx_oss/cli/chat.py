"""`mlx-oss chat`: a conversation in the terminal, one question on the command line, or questions from a pipe.

Only the answer goes to stdout, unless stdout and stderr are the same terminal. `printers` and `live_markdown` print the
events. `questions` finds out what was asked, and `conversation` is the conversation.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from mlx_oss.cli import answer_arguments, kept, model_arguments, resuming, settings, tool_arguments
from mlx_oss.cli.attachments import Attachment
from mlx_oss.cli.conversation import Reading, converse, show_turn
from mlx_oss.cli.interrupts import exit_soon, exiting_on_sigterm, leaving_on_ctrl_d
from mlx_oss.cli.questions import asked
from mlx_oss.cli.statuses import DONE, INTERRUPTED
from mlx_oss.cli.wording import in_words
from mlx_oss.errors import SessionError
from mlx_oss.terminal import one_line, say

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.kept import Keeper
    from mlx_oss.cli.printers import Printer
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
        "-c",
        "--continue",
        action="store_true",
        dest="go_on",
        help="go on with the last conversation; its options stay, except those that are given",
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
        "-s",
        "--system",
        dest="instructions",
        default="",
        metavar="TEXT",
        help="instructions for the model in all its answers; --instructions is the same (default: none)",
    )
    parser.add_argument(
        "--instructions", dest="instructions", default=argparse.SUPPRESS, metavar="TEXT", help=argparse.SUPPRESS
    )
    tool_arguments.add_arguments(parser)
    parser.add_argument(
        "--no-history",
        action="store_true",
        help="do not keep this conversation and its questions (default: keep them, unless the environment variable "
        "MLX_OSS_HISTORY is 0)",
    )
    parser.add_argument(
        "--web", action="store_true", help="chat in the browser: start a server on this machine, and open its page"
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
    if args.web:
        from mlx_oss.cli import web

        return web.run(args)
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
    found = resuming.last_kept(args) if args.go_on else None
    keeper = resuming.keeper(args, has_questions=bool(questions))

    def session() -> ChatSession:
        from mlx_oss.chat.session import ChatSession

        model, tokenizer = model_arguments.load(args)
        if found is not None:
            return resuming.resumed(found, model, tokenizer, args, tools, keeper)
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

    printer = make_printer(as_json=args.json, hide_reasoning=args.hide_reasoning)
    if tools["confirm"] is not None:
        printer.is_reviewed = tools["confirm"].asks
    try:
        if questions:
            return _answers(session(), questions, printer, keeper)
        converse(
            session(),
            printer,
            tools,
            reading,
            keep_history=kept.is_wanted(args.no_history),
            fetch=fetch,
            load=load,
            attached=attached,
            keeper=keeper,
        )
    finally:
        if keeper is not None:
            keeper.end()
    if reading is not nullcontext:
        exit_soon()  # also if a tool that was stopped goes on
    return DONE


def _answers(session: ChatSession, questions: list[str], printer: Printer, keeper: Keeper | None) -> int:
    """Answers the questions one after the other, until Ctrl-C. Returns the exit status."""
    outcome = DONE
    for question in questions:
        outcome = show_turn(session, session.send(question), printer) or outcome
        if keeper is not None:
            try:
                keeper.keep(session)
            except SessionError as error:  # the answer is there all the same
                keeper = None
                say(one_line(f"warning: {in_words(str(error), dashes=False)}"))
        if outcome == INTERRUPTED:
            break
    return outcome
