"""`mlx-oss chat`: a conversation in the terminal, one question on the command line, or questions from a pipe.

Only the answer goes to stdout, unless stdout and stderr are the same terminal. `printers` and `live_markdown` print the
events, `commands` has the commands that can be typed in a conversation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import answer_arguments, model_arguments, settings, tool_arguments
from mlx_oss.cli.interrupts import echo_disabled, exit_soon, exiting_on_sigterm, interruptible, leaving_on_ctrl_d
from mlx_oss.cli.statuses import CUT_OFF, DONE, INTERRUPTED
from mlx_oss.errors import ContextError, DeviceError, MlxOssError, OptionError
from mlx_oss.files import TEXT_BYTES
from mlx_oss.terminal import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event
    from mlx_oss.generation.engine import Engine
    from mlx_oss.tokenizer import Tokenizer

Reading = Callable[[], AbstractContextManager[None]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "question",
        nargs="*",
        help="question to answer (default: a conversation; if stdin is not a terminal, its text is the question)",
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
    question = checked_text(" ".join(args.question))
    questions = [question] if question else []
    if not question and not (sys.stdin and sys.stdin.isatty()):
        piped = piped_question()
        questions = [line for line in piped.splitlines() if line.strip()] if args.json else [piped]
    with ExitStack() as stack:
        reading: Reading = nullcontext
        if not questions:
            stack.enter_context(exiting_on_sigterm())
            reading = stack.enter_context(leaving_on_ctrl_d())
        return _answer(args, questions, reading)


def _answer(args: argparse.Namespace, questions: list[str], reading: Reading) -> int:
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
        converse(session(), printer, tools, reading, keep_history=not args.no_history, fetch=fetch, load=load)
        if reading is not nullcontext:
            exit_soon()  # also if a tool that was stopped goes on
        return 0
    asked, printer = session(), make_printer(as_json=args.json, hide_reasoning=args.hide_reasoning)
    outcome = DONE
    for question in questions:
        outcome = show_turn(asked, asked.send(question), printer) or outcome
        if outcome == INTERRUPTED:
            break
    return outcome


def piped_question() -> str:
    """Reads the question from stdin. Raises OptionError if it is empty, not UTF-8 or endless."""
    try:
        read = sys.stdin.read(TEXT_BYTES + 1) if sys.stdin else ""
    except UnicodeDecodeError:
        raise OptionError("the question is not UTF-8: give UTF-8 text") from None
    except OSError as error:  # such as stdin that was opened for writing
        raise OptionError(
            f"stdin cannot be read ({error.strerror or error}): give the question as an argument"
        ) from None
    if len(read) > TEXT_BYTES:
        raise OptionError(f"the question has more than {TEXT_BYTES:,} characters: give a shorter one")
    question = checked_text(read).strip()
    if not question:
        raise OptionError('there is no question: run `mlx-oss chat "QUESTION"`, or write it to stdin')
    return question


def checked_text(question: str) -> str:
    """Returns the question. Raises OptionError if it is not text: Python reads invalid bytes as surrogates."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise OptionError("the question is not UTF-8: give UTF-8 text") from None
    return question


def converse(
    session: ChatSession,
    printer: Printer,
    tools: dict[str, Any] | None = None,
    reading: Reading = nullcontext,
    keep_history: bool = True,
    fetch: Callable[[str, int | None], Path] | None = None,
    load: Callable[[str], tuple[Engine, Tokenizer]] | None = None,
) -> None:
    """Reads questions and prints answers until Ctrl-D. Ctrl-C stops an answer, or clears the line that is being typed.

    Args:
        session: The session that answers.
        printer: Prints the events of each turn.
        tools: Keyword arguments of `ChatSession` for its tools, for sessions that the user loads. None means no tools.
        reading: The context in which lines are read, as `leaving_on_ctrl_d` yields it.
        keep_history: Whether questions are kept for later conversations.
        fetch: Finds or downloads a model, as `commands.ChatState` describes. None: the model cannot be changed.
        load: Loads a model and its tokenizer from a folder, for /model. None: the model cannot be changed.
    """
    from mlx_oss.cli import prompt
    from mlx_oss.cli.commands import COMMANDS, ChatState, dispatch

    def reply(events: Iterable[Event]) -> None:
        with echo_disabled():
            show_turn(state.session, events, printer)
        printer.notice(status(state.session))

    state = ChatState(session, printer, reply, tools or {}, fetch, load)
    del session  # the state alone holds it, so that another model can take its place in memory
    read_line = prompt.make_reader(tuple(COMMANDS), keep_history=keep_history)
    printer.notice("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    while not state.is_over:
        try:
            with reading():
                typed = read_line().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        except UnicodeDecodeError:
            typed = "\udc80"  # a surrogate, as in locales where Python does not raise
        turns, is_command = state.session.turns, typed.startswith("/") and not typed.startswith("//")
        try:
            checked_text(typed)
            if is_command:
                dispatch(state, typed)
            elif typed:
                reply(state.session.send(typed[1:] if typed.startswith("//") else typed))
        except ContextError as error:
            remedy = "; /undo and /clear make room" if state.session.turns else ""
            printer.notice(one_line(f"error: {error}{remedy}"))
        except DeviceError as error:
            is_taken_back = not is_command and state.session.turns == turns
            taken_back = "; the question was taken back" if is_taken_back else ""
            printer.notice(one_line(f"error: {error}{taken_back}"))
        except MlxOssError as error:
            printer.notice(one_line(f"error: {error}"))


def status(session: ChatSession) -> str:
    """Returns a line about the last turn: speed, time to the first token, used context and memory."""
    from mlx_oss.backend.host_memory import memory_bytes

    usage = session.usage
    parts = [f"{usage.tokens_per_second:.0f} tokens/s", f"first token {usage.prefill_seconds:.1f} s"]
    parts = parts if usage.generated_tokens else ["no tokens"]
    parts.append(f"context {session.context_used:,} of {session.context_limit:,}")
    parts.append(f"{memory_bytes() / 1e9:.1f} GB")
    return f"[{' · '.join(parts)}]"


def show_turn(session: ChatSession, turn: Iterable[Event], printer: Printer) -> int:
    """Prints the events of a turn as they come.

    Returns:
        The exit status: 0, 130 if Ctrl-C stopped the turn, or 3 if the answer is not whole for another reason.
    """
    from mlx_oss.cli.remarks import ending
    from mlx_oss.events import Finished

    with interruptible(session.cancel) as interrupted:
        stopped, remark = False, ""
        try:
            for event in turn:
                printer(event)
                if isinstance(event, Finished):
                    remark = ending(event, session.max_tokens)
                if interrupted():
                    session.cancel()  # again: Ctrl-C may have been pressed before the turn began
        except KeyboardInterrupt:  # the second Ctrl-C, or the first during a question to the user
            stopped = True
        finally:
            stopped = stopped or interrupted()
            printer.end_turn("[stopped]" if stopped else remark)
        return INTERRUPTED if stopped else CUT_OFF if remark else DONE
