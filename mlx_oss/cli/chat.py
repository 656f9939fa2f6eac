"""`mlx-oss chat`: a conversation in the terminal, one question on the command line, or one from a pipe.

The answer goes to stdout and nothing else does; reasoning goes dimmed to stderr, as does everything about the program.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_oss.cli import model as model_arguments
from mlx_oss.errors import ContextError, OptionError

if TYPE_CHECKING:
    from mlx_oss.chat import ChatSession
    from mlx_oss.events import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="*", help="ask this and leave; without it a conversation, or stdin if piped")
    model_arguments.add_arguments(parser)
    parser.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium", help="effort")
    parser.add_argument("--instructions", default="", metavar="TEXT", help="what the model should keep to")
    parser.add_argument("--hide-reasoning", action="store_true", help="show the answer only")


def run(args: argparse.Namespace) -> int:
    question = " ".join(args.question)
    if not question and not (sys.stdin and sys.stdin.isatty()):
        question = piped_question()
    options = model_arguments.sampling_options(args)
    model, tokenizer = model_arguments.load(args)
    from mlx_oss.chat import ChatSession

    session = ChatSession(
        model,
        tokenizer,
        instructions=args.instructions,
        reasoning_effort=args.reasoning,
        options=options,
        max_tokens=args.max_tokens,
    )
    show = Printer(hide_reasoning=args.hide_reasoning)
    if question:
        return 130 if answer(session, question, show) else 0
    converse(session, show)
    return 0


def piped_question() -> str:
    """Raises OptionError if there is none, or no text."""
    try:
        question = sys.stdin.read().strip() if sys.stdin else ""
    except UnicodeDecodeError:
        raise OptionError("the question is not UTF-8: pipe in text") from None
    if not question:
        raise OptionError('there is no question: `mlx-oss chat "..."`, or pipe one in')
    return question


def converse(session: ChatSession, show: Printer) -> None:
    """Question and answer until Ctrl-D; Ctrl-C stops an answer, or clears the line."""
    from prompt_toolkit import PromptSession

    prompt: PromptSession[str] = PromptSession()
    sys.stderr.write("Ctrl-C stops an answer, Ctrl-D leaves.\n")
    while True:
        try:
            question = prompt.prompt("> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if question:
            try:
                answer(session, question, show)
            except ContextError as error:
                sys.stderr.write(f"error: {error}\n")


def answer(session: ChatSession, question: str, show: Printer) -> bool:
    """Prints the answer as it comes; True if Ctrl-C stopped it."""
    with interruptible() as interrupted:
        try:
            for event in session.send(question):
                show(event)
                if interrupted():
                    session.cancel()
        except KeyboardInterrupt:
            pass
        show.end(stopped=interrupted())
        return interrupted()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C is remembered, not raised, so that it strikes between two tokens; a second one raises."""
    hits = 0

    def remember(number: int, frame: object) -> None:
        nonlocal hits
        hits += 1
        if hits > 1:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: hits > 0
    finally:
        signal.signal(signal.SIGINT, previous)


class Printer:
    """Writes a turn's events: the answer to stdout, the rest to stderr, dim where the terminal can (NO_COLOR
    respected).
    """

    def __init__(self, hide_reasoning: bool = False) -> None:
        from rich.console import Console

        self.hide_reasoning = hide_reasoning
        self._aside = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._last: type | None = None

    def __call__(self, event: Event) -> None:
        from mlx_oss import events

        kind = type(event)
        if isinstance(event, events.AnswerDelta):
            self._separate(kind)
            sys.stdout.write(event.text)
            sys.stdout.flush()
        elif isinstance(event, events.ReasoningDelta) and not self.hide_reasoning:
            self._separate(kind)
            self._aside.print(event.text, style="dim", end="")
        elif isinstance(event, events.PreambleDelta):
            self._separate(kind)
            self._aside.print(event.text, end="")
        elif isinstance(event, events.ToolCall):
            self._separate(kind)
            self._aside.print(f"[calls {event.recipient}: {event.arguments}]", style="dim", end="")

    def end(self, stopped: bool) -> None:
        """After the last event of a turn."""
        self._separate(None)
        if stopped:
            self._aside.print("[stopped]", style="dim")

    def _separate(self, kind: type | None) -> None:
        """A new line wherever another kind of text begins; the answer ends with one, whatever the terminal."""
        from mlx_oss.events import AnswerDelta

        if self._last not in (None, kind):
            (sys.stdout if self._last is AnswerDelta else sys.stderr).write("\n")
            sys.stdout.flush()
        self._last = kind
