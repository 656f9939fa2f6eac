"""`mlx-oss doctor`: checks whether this machine runs mlx-oss well, and says what to do where it does not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.terminal import report, wants_plain

if TYPE_CHECKING:
    from mlx_oss.doctor import Examination, Finding

# The findings that are also shown when all is well, by group and name.
_FIGURES = (
    ("GPU", "wait"),
    ("model", "plan"),
    ("disk", "speed"),
    ("memory", "gpt-oss-20b"),
    ("memory", "gpt-oss-120b"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="NAME",
        nargs="?",
        help="name or folder of a model: what fits of it, and how fast its files are read (default: no model)",
    )
    parser.add_argument("--all", action="store_true", help="show all findings, not only notes and problems")
    parser.add_argument(
        "--quick", action="store_true", help="leave out the test of the GPU's kernels and the measurement of the disk"
    )
    parser.add_argument("--json", action="store_true", help="print all findings as one JSON object, for a bug report")


def run(args: argparse.Namespace) -> int:
    """Prints what was found. The exit status is 1 if there is a problem."""
    from mlx_oss.doctor import examine
    from mlx_oss.models import local_copy

    shows_progress = sys.stderr.isatty() and not wants_plain()
    try:
        with exiting_on_sigterm():  # so that the process that computes ends as well
            progress = {"progress": _show_progress} if shows_progress else {}
            folder = None if args.folder is None else local_copy(args.folder)
            examination = examine(folder, name=args.folder, quick=args.quick, **progress)
    finally:
        if shows_progress:
            sys.stderr.write("\r\x1b[K")
    if args.json:
        sys.stdout.write(json.dumps(examination.as_dict(), indent=2) + "\n")
    else:
        report("\n".join(lines_of(examination, everything=args.all)))
    return 1 if examination.has_problem else 0


def _show_progress(group: str) -> None:
    """Replaces the group that was shown before."""
    sys.stderr.write(f"\r\x1b[Kchecking {group} ...")
    sys.stderr.flush()


def lines_of(examination: Examination, *, everything: bool) -> Iterable[str]:
    """The examination as lines of text: the notes and problems, or with `everything` all findings."""
    findings = examination.findings
    yield examination.summary
    shown = [finding for finding in findings if everything or finding.level != "ok"]
    for finding in shown:
        yield from _lines(finding)
    others = [finding for finding in findings if (finding.group, finding.name) in _FIGURES and finding not in shown]
    notes, problems = (sum(finding.level == level for finding in findings) for level in ("note", "problem"))
    if not notes and not problems:
        yield f"All {len(findings)} checks passed."
        yield from (finding.text for finding in others)
    else:
        counts = [_count(problems, "problem"), _count(notes, "note")]
        good = len(findings) - notes - problems
        yield f"{' and '.join(filter(None, counts))}; {good} of {len(findings)} checks passed."


def _lines(finding: Finding) -> Iterable[str]:
    label = f"{finding.level}: " if finding.level != "ok" else f"ok, {finding.group}: "
    yield label + " ".join(finding.text.split())
    if finding.remedy:
        yield f"  {finding.remedy}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number > 1)}" if number else ""
