"""`mlx-oss chat`: a conversation in the terminal, one question on the command line, or questions from a pipe.

The answer goes to stdout and nothing else does, unless both are the same terminal; `show` has how it looks, `commands`
what can be typed besides questions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import answer_arguments, model_arguments, tool_arguments
from mlx_oss.cli.interrupts import interruptible, terminable, unechoed
from mlx_oss.errors import ContextError, MlxOssError, OptionError

if TYPE_CHECKING:
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import Printer
    from mlx_oss.events import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="*", help="ask this and leave; without it a conversation, or stdin if piped")
    model_arguments.add_arguments(parser)
    answer_arguments.add_arguments(parser)
    parser.add_argument("--instructions", default="", metavar="TEXT", help="what the model should keep to")
    tool_arguments.add_arguments(parser)
    parser.add_argument("--hide-reasoning", action="store_true", help="show the answer only")
    parser.add_argument("--json", action="store_true", help="each event as a line of JSON; each line piped in is asked")


def run(args: argparse.Namespace) -> int:
    question = text(" ".join(args.question))
    questions = [question] if question else []
    if not question and not (sys.stdin and sys.stdin.isatty()):
        piped = piped_question()
        questions = [line for line in piped.splitlines() if line.strip()] if args.json else [piped]
    options, tools = model_arguments.sampling_options(args), tool_arguments.tools(args)
    bounds = answer_arguments.bounds(args)
    model, tokenizer = model_arguments.load(args)
    from mlx_oss.chat.session import ChatSession
    from mlx_oss.cli.printers import printer

    session = ChatSession(
        model,
        tokenizer,
        instructions=args.instructions,
        options=options,
        max_tokens=args.max_tokens,
        **bounds,
        **tools,
    )
    show = printer(as_json=args.json, hide_reasoning=args.hide_reasoning)
    if not questions:
        with terminable():
            converse(session, show, tools)
        return 0
    return 130 if any(answer(session, session.send(question), show) for question in questions) else 0


def piped_question() -> str:
    """Raises OptionError if there is none."""
    try:
        question = text(sys.stdin.read()).strip() if sys.stdin else ""
    except UnicodeDecodeError:
        raise OptionError("the question is not UTF-8: give text") from None
    if not question:
        raise OptionError('there is no question: `mlx-oss chat "..."`, or pipe one in')
    return question


def text(question: str) -> str:
    """The question, if it is text: Python lets through bytes that are none, each as a surrogate."""
    try:
        question.encode()
    except UnicodeEncodeError:
        raise OptionError("the question is not UTF-8: give text") from None
    return question


def converse(session: ChatSession, show: Printer, tools: dict[str, Any] | None = None) -> None:
    """Question and answer until Ctrl-D; Ctrl-C stops an answer, or clears the line. A session that is loaded gets the
    tools.
    """
    from mlx_oss.cli import prompt
    from mlx_oss.cli.commands import COMMANDS, ChatState, dispatch

    def reply(events: Iterable[Event]) -> None:
        with unechoed():
            answer(conversation.session, events, show)
        say(status(conversation.session))

    say = show.say
    conversation = ChatState(session, show, say, reply, tools or {})
    read = prompt.reader(tuple(COMMANDS))
    say("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    while not conversation.over:
        try:
            typed = read().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        except UnicodeDecodeError:
            typed = "\udc80"  # as other locales let through what is no text
        try:
            text(typed)
            if typed.startswith("/") and not typed.startswith("//"):
                dispatch(conversation, typed)
            elif typed:
                reply(conversation.session.send(typed[1:] if typed.startswith("//") else typed))
        except ContextError as error:
            say(f"error: {error}" + ("; /undo and /clear make room" if conversation.session.turns else ""))
        except MlxOssError as error:
            say(f"error: {error}")


def status(session: ChatSession) -> str:
    """The last turn in a line: speed, time to the first token, context and memory used."""
    from mlx_oss.backend.host_memory import memory_bytes

    usage = session.usage
    parts = [f"{usage.tokens_per_second:.0f} tokens/s", f"first token {usage.prefill_seconds:.1f} s"]
    parts = parts if usage.generated_tokens else ["no token"]
    parts.append(f"context {session.context_used:,} of {session.context_limit:,}")
    parts.append(f"{memory_bytes() / 1e9:.1f} GB")
    return f"[{' · '.join(parts)}]"


def answer(session: ChatSession, events: Iterable[Event], show: Printer) -> bool:
    """Shows a turn as it comes; True if Ctrl-C stopped it."""
    with interruptible(session.cancel) as interrupted:
        stopped = False
        try:
            for event in events:
                show(event)
                if interrupted():
                    session.cancel()  # which the signal may have come too early for
        except KeyboardInterrupt:  # the second, or the first where the user was asked something
            stopped = True
        finally:
            stopped = stopped or interrupted()
            show.end(stopped=stopped)
        return stopped
