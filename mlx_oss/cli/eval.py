"""`mlx-oss eval`: asks a file of questions, judges the answers, and goes on where it stopped if it is run again."""

from __future__ import annotations

import argparse
import datetime
from contextlib import closing
from typing import TYPE_CHECKING

from mlx_oss.cli import answer_arguments, model_arguments, settings
from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.cli.model_names import label
from mlx_oss.cli.progress import counted
from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, report, say
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.evals.attempts import EvalOptions
    from mlx_oss.evals.evaluation import Run

_SHOWN = 10  # wrong answers in the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task",
        metavar="TASK.jsonl",
        help='file with a question in each line, such as {"prompt": "6 * 7?", "number": 42}',
    )
    model_arguments.add_arguments(parser, seed="0")
    answer_arguments.add_arguments(parser)
    parser.add_argument(
        "-s", "--system", default="", metavar="TEXT", help="instructions for questions that have none of their own"
    )
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="how often each question is asked (default 1)"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="how many questions are asked at the same time (default: as many as the engine computes together)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="folder for the results and the report, or a file for the results (.jsonl); results that are there are "
        "continued (default: nothing is kept)",
    )
    parser.add_argument(
        "--date", metavar="YYYY-MM-DD", help="date that the model is told (default: the day on which it was begun)"
    )


def run(args: argparse.Namespace) -> int:
    from mlx_oss.chat.parallel import MOST_AT_ONCE
    from mlx_oss.evals.evaluation import Run
    from mlx_oss.evals.questions import Task

    if args.at_once is not None and not 1 <= args.at_once <= MOST_AT_ONCE:
        raise OptionError(f"--at-once is {args.at_once}: give 1 to {MOST_AT_ONCE}")
    options = _options(args)
    name = label(args.model or settings.model() or NANO)
    with closing(Run(Task(args.task), options, args.output, name)) as evaluation:
        results = evaluation.results
        try:
            with exiting_on_sigterm():
                _ask(args, evaluation)
        except (KeyboardInterrupt, SystemExit):
            kept = ", and the same command goes on with the others" if evaluation.report else ""
            say(f"interrupted: {results.done:,} of {results.total:,} answers are judged{kept}")
            raise
        found = evaluation.evaluation()
        report(found.markdown(_SHOWN))
        if evaluation.report is not None:
            evaluation.write_report(found)
            report(f"The whole report is in {one_line(str(evaluation.report))}")
        if found.unknown:
            say(
                f"error: {found.unknown:,} answers are missing: the same command asks them again, with --at-once 1 in "
                "the least memory"
            )
        return 1 if found.unknown else 0


def _options(args: argparse.Namespace) -> EvalOptions:
    from mlx_oss.evals.attempts import EvalOptions

    if args.date is not None:
        try:
            datetime.date.fromisoformat(args.date)
        except ValueError:
            raise OptionError(f"--date is {args.date!r}: give a date such as 2026-11-30") from None
    return EvalOptions(
        samples=args.samples,
        sampling=model_arguments.sampling_options(args),
        instructions=args.system,
        max_tokens=args.max_tokens,
        current_date=args.date,
        **answer_arguments.session_options(args),
    )


def _ask(args: argparse.Namespace, evaluation: Run) -> None:
    """Asks what has no result yet, and shows how far it is."""
    results, generated = evaluation.results, 0
    if results.done == results.total:
        return
    model, tokenizer = model_arguments.load(args)
    with (
        counted("answers", results.done) as show,
        closing(evaluation.attempts(model, tokenizer, args.at_once)) as attempts,
    ):
        for attempt in attempts:
            generated += attempt.usage.generated_tokens
            show(results.done, results.total, generated)
