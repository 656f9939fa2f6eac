"""`mlx-oss research`: answers a question from many pages, with a report whose citations are checked.

What happens is told on stderr, a line for each step; the report goes to stdout, and with notes and trace to a folder.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import model_arguments, settings, tool_arguments
from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.cli.statuses import CUT_OFF, DONE
from mlx_oss.errors import OptionError, ResearchError
from mlx_oss.files import expanded
from mlx_oss.terminal import one_line, sanitize, say
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.research import Bounds, Report
    from mlx_oss.research.state import State
    from mlx_oss.tools import BrowserTool

_LONGEST_NAME = 40  # characters of the question in the name of the folder

# What is usual is said here once more, so that the help loads nothing.
_BOUNDS = {
    "rounds": (12, "how many times the model looks for something"),
    "questions": (6, "into how many questions the plan may divide it"),
    "calls": (16, "how many times it may search, open or find in a round"),
    "tokens": (200_000, "how many tokens it may generate before the report"),
    "minutes": (60, "how long it may take before the report"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="*", help="what is to be found out")
    parser.add_argument(
        "--tool",
        metavar="TOOL",
        help="where the pages come from: browser=FOLDER, a folder of text, HTML and PDF files, or "
        "browser=https://HOST/?q={query}, the web through a search endpoint",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        help="folder for report.md, notes.md and trace.jsonl; one that has a trace of this question is continued "
        "(default: research- and the first words of the question)",
    )
    parser.add_argument("--resume", metavar="FOLDER", help="go on with the research in a folder, where it was stopped")
    parser.add_argument(
        "--replay", metavar="FOLDER", help="tell again what happened in a research, and print its report; no model"
    )
    bounds = parser.add_argument_group("bounds", "When one is reached, the report is written from the notes so far.")
    for name, (usual, meaning) in _BOUNDS.items():
        bounds.add_argument(f"--{name}", type=int, metavar="N", help=f"{meaning} (default {usual:,})")
    model_arguments.add_model_arguments(parser)
    parser.add_argument(
        "--reasoning", choices=("low", "medium", "high"), help="how much the model thinks (default medium)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="randomness (default 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the random numbers (default: a new one)")
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="how many questions of the plan are looked at at the same time (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="print what happens, and the report, as lines of JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the report. The exit status is 3 if a bound was reached, or the report cut off."""
    from mlx_oss.research import replay

    question = " ".join(args.question).strip()
    if args.replay is not None:
        if question or args.resume:
            raise OptionError("--replay takes a folder only: leave out the question, and --resume")
        return _print(args, replay(args.replay, _teller(args)), expanded(args.replay))
    folder = _folder(args, question)
    begun = _begun(args, folder)
    browser, tool = _browser(args, begun)
    name = args.model or settings.model() or NANO
    if name == NANO:
        raise OptionError("nano, the demonstration model, cannot browse: give a gpt-oss, such as --model 20b")
    from mlx_oss.generation.options import SamplingOptions
    from mlx_oss.research import Research
    from mlx_oss.research.research import MOST_AT_ONCE

    if not 1 <= args.at_once <= MOST_AT_ONCE:
        raise OptionError(f"--at-once is {args.at_once}: give 1 to {MOST_AT_ONCE}")
    options = SamplingOptions(temperature=args.temperature, seed=args.seed)
    bounds = _bounds(args, begun)
    model, tokenizer = model_arguments.load(args)
    research = Research(
        model,
        tokenizer,
        question or None,
        browser,
        folder,
        bounds=bounds,
        effort=args.reasoning,
        options=options,
        at_once=args.at_once,
        progress=_teller(args),
        about={"tool": tool},
    )
    try:
        with exiting_on_sigterm():
            return _print(args, research.run(), folder)
    except (KeyboardInterrupt, SystemExit):
        with_model = f" --model {shlex.quote(args.model)}" if args.model else ""
        say(one_line(f"interrupted: mlx-oss research --resume {shlex.quote(str(folder))}{with_model} goes on"))
        raise


def _bounds(args: argparse.Namespace, begun: State | None) -> Bounds:
    """The bounds that were given; the others are those with which the research began, or the usual ones."""
    from mlx_oss.research import Bounds

    given = {name: getattr(args, name) for name in _BOUNDS if name != "minutes"}
    given["seconds"] = None if args.minutes is None else args.minutes * 60
    usual = (Bounds() if begun is None else begun.bounds).as_dict()
    return Bounds(**usual | {name: value for name, value in given.items() if value is not None})


def _folder(args: argparse.Namespace, question: str) -> Path:
    if args.resume is not None:
        if args.output is not None:
            raise OptionError("--resume and --output both name a folder: give one of them")
        return expanded(args.resume)
    if not question:
        raise OptionError('there is no question: mlx-oss research "What is ...?" --tool browser=FOLDER')
    words = re.sub(r"[^\w]+", "-", question.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return expanded(args.output or f"research-{words or 'question'}")


def _begun(args: argparse.Namespace, folder: Path) -> State | None:
    """The research that the folder has already. Raises ResearchError if it has none, and `--resume` names it."""
    from mlx_oss.research import trace
    from mlx_oss.research.state import restored

    if args.resume is None and not (folder / trace.NAME).exists():
        return None
    state = restored(trace.read(folder))
    if state.question is not None:
        return state
    if args.resume is not None:
        raise ResearchError(f"{folder} has no research to go on with: give a question and --output")
    return None


def _browser(args: argparse.Namespace, begun: State | None) -> tuple[BrowserTool, str]:
    """The browser, and what `--tool` says, or has said when the research in the folder began."""
    from mlx_oss.tools import BrowserTool
    from mlx_oss.tools.browser import Folder

    tool = args.tool
    if tool is None and begun is not None and isinstance(begun.about.get("tool"), str):
        tool = begun.about["tool"]
    if tool is None:
        raise OptionError("say where the pages come from: --tool browser=FOLDER or browser=https://HOST/?q={query}")
    made = list(tool_arguments.made(tool)) if tool.startswith("browser=") else []
    if not made or not isinstance(made[0], BrowserTool):
        raise OptionError(f"a research cannot use the tool {tool!r}: give --tool browser=FOLDER")
    if isinstance(made[0].backend, Folder):
        tool = f"browser={made[0].backend.root}"  # `--resume` may be called elsewhere
    return made[0], tool


class _Teller:
    """Tells what happens: on stderr, or with `--json` on stdout."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, line: Mapping[str, Any]) -> None:
        from mlx_oss.research import described

        if self._as_json:
            _print_json(line)
        elif (text := described(line)) is not None:
            say(text)


def _teller(args: argparse.Namespace) -> _Teller:
    return _Teller(args.json)


def _print(args: argparse.Namespace, report: Report, folder: Path) -> int:
    """Prints the report; returns the exit status."""
    cited = sum(bool(claim.citations) for claim in report.claims)
    flagged = [{"claim": claim.text, "problems": claim.problems} for claim in report.flagged]
    if args.json:
        _print_json(
            {
                "event": "done",
                "folder": str(folder),
                "report": report.markdown,
                "claims": cited,
                "flagged": flagged,
                "stopped": report.stopped,
            }
        )
    else:
        sys.stdout.write(sanitize(report.markdown))
        sys.stdout.flush()
        marked = f"{len(flagged)} marked as not supported" if flagged else "none of them wrong"
        say(one_line(f"{folder}: {cited} claims with citations, {marked}"))
    return CUT_OFF if report.stopped is not None else DONE


def _print_json(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=sys.stdout.isatty()) + "\n")
    sys.stdout.flush()
