"""What `mlx-oss chat` was asked: by arguments, files and stdin. Knows nothing of sessions."""

from __future__ import annotations

import argparse
import sys

from mlx_oss.cli import attachments
from mlx_oss.cli.attachments import Attachment
from mlx_oss.distributed import is_launched
from mlx_oss.errors import OptionError


def asked(args: argparse.Namespace) -> tuple[list[str], list[Attachment]]:
    """The questions that arguments and stdin hold, and texts for the first question of a conversation.

    There are no questions for a conversation, and else no texts: they are part of the first question.

    Raises:
        OptionError: If there is no question, or a text cannot be read.
    """
    question = checked_text(" ".join(word for word in args.question if word != attachments.STDIN)).strip()
    attached = attachments.all_attached(args.files)
    if empty := [text.name for text in attached if not text.text.strip()]:
        raise OptionError(f"{empty[0]} is empty: give a file with text")
    from_stdin = attachments.STDIN in args.question
    # mlx.launch hands on what is typed in a terminal, through a pipe that never ends.
    typed = is_launched() or bool(sys.stdin and sys.stdin.isatty())
    if question:
        if from_stdin or (attachments.STDIN not in args.files and not typed and attachments.stdin_has_text()):
            attached.append(attachments.attached(attachments.STDIN))
        questions = [question]
    elif from_stdin or not typed:
        piped = piped_question()
        questions = [line for line in piped.splitlines() if line.strip()] if args.json else [piped]
    else:
        return [], attached
    attached = [text for text in attached if text.text.strip()]
    return [attachments.with_attachments(questions[0], attached), *questions[1:]], []


def piped_question() -> str:
    """Reads the question from stdin. Raises OptionError if it is empty, not UTF-8 or endless."""
    question = attachments.stdin_text().strip()
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
