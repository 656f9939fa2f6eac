"""`mlx-oss batch`: answers a file of requests, and goes on where it stopped if it is run again."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from mlx_oss.cli import model_arguments, settings
from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.cli.model_names import label
from mlx_oss.cli.progress import counted
from mlx_oss.errors import BatchError, DeviceError, MlxOssError, OptionError
from mlx_oss.files import expanded
from mlx_oss.terminal import one_line, report, say
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.server.batch_files import BatchRequest, ResponseFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "requests",
        metavar="IN.jsonl",
        help="file with a request in each line, in OpenAI's batch format: custom_id, method, url and body",
    )
    parser.add_argument(
        "responses",
        metavar="OUT.jsonl",
        help="file for the responses, each added when it is there; a file with some of them is continued",
    )
    model_arguments.add_model_arguments(parser)
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="how many requests are answered at the same time (default: as many as the engine computes together)",
    )


def run(args: argparse.Namespace) -> int:
    from mlx_oss.chat.parallel import MOST_AT_ONCE
    from mlx_oss.server.batch_files import ResponseFile, read_requests

    if args.at_once is not None and not 1 <= args.at_once <= MOST_AT_ONCE:
        raise OptionError(f"--at-once is {args.at_once}: give 1 to {MOST_AT_ONCE}")
    with suppress(OSError, ValueError):
        if os.path.samefile(expanded(args.requests), expanded(args.responses)):
            raise BatchError(f"{args.responses} is the file of the requests itself: give another for the responses")
    wanted = {request.custom_id: request.id for request in read_requests(args.requests)}
    if not wanted:
        raise BatchError(f"{args.requests} has no requests: give a file with a request in each line")
    with closing(ResponseFile(args.responses, wanted, label(args.model or settings.model() or NANO))) as responses:
        try:
            with exiting_on_sigterm():
                return _answer(args, wanted, responses)
        except (KeyboardInterrupt, SystemExit):
            done = f"{len(responses.answered):,} of {len(wanted):,} requests are answered"
            say(f"interrupted: {done}, and the same command goes on with the others")
            raise


def _answer(args: argparse.Namespace, wanted: Mapping[str, str], responses: ResponseFile) -> int:
    generated, started, failed = 0, time.monotonic(), 0
    first_failure: MlxOssError | None = None
    if len(responses.answered) < len(wanted):
        from mlx_oss.events import Reply
        from mlx_oss.server.batch import answer

        model, tokenizer = model_arguments.load(args)
        started = time.monotonic()
        requests = _unanswered(args.requests, wanted, frozenset(responses.answered))
        with (
            counted("requests", len(responses.answered)) as show,
            closing(answer(requests, model, tokenizer, at_once=args.at_once)) as answers,
        ):
            for request, outcome in answers:
                if isinstance(outcome, DeviceError):  # it may go well another time, so it is left for then
                    failed, first_failure = failed + 1, first_failure or outcome
                    continue
                responses.write(request, outcome)
                generated += outcome.usage.generated_tokens if isinstance(outcome, Reply) else 0
                show(len(responses.answered), len(wanted), generated)
    seconds = time.monotonic() - started
    refused = f", {responses.refused:,} of them with an error in its line" if responses.refused else ""
    report(
        f"{args.responses}: {len(responses.answered):,} of {len(wanted):,} requests answered{refused}; "
        f"{generated:,} tokens in {seconds:.1f} s"
    )
    if first_failure is not None:
        say(one_line(f"error: {failed:,} of the requests failed, the first with: {first_failure}"))
        say("the same command asks them again; with --at-once 1 each of them takes the least memory")
    return 1 if responses.refused or failed else 0


def _unanswered(path: str, wanted: Mapping[str, str], answered: frozenset[str]) -> Iterator[BatchRequest]:
    from mlx_oss.server.batch_files import read_requests

    for request in read_requests(path):
        if wanted.get(request.custom_id) != request.id:
            raise BatchError(f"{path} was changed while it was read: give the same command again")
        if request.custom_id not in answered:
            yield request
