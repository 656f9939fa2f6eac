"""`mlx-oss hosts check`: whether several machines can compute one model together, and what to do where they cannot."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from mlx_oss.cli import settings
from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, report
from mlx_oss.weights.hub.names import NANO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("check",), metavar="check", help="what to do: check the machines")
    parser.add_argument(
        "hostfile", metavar="HOSTS.JSON", help="the file that names the machines, as for `mlx.launch --hostfile`"
    )
    parser.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        help="name or folder of the model that they are to compute (default: that of `mlx-oss config`, else nano)",
    )
    parser.add_argument(
        "--python", metavar="PATH", help="the Python with mlx-oss on all machines (default: the one of this command)"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="the first port over which they exchange numbers (default 32323)"
    )
    parser.add_argument("--json", action="store_true", help="print all findings as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints what each step has found. The exit status is 1 if there is a problem."""
    from mlx_oss.hosts.check import PORT, Check
    from mlx_oss.hosts.hostfile import read
    from mlx_oss.models import hub_model

    hostfile = read(args.hostfile)
    port = PORT if args.port is None else args.port
    if not 1024 <= port <= 65000:
        raise OptionError(f"--port is {port}, expected 1,024 to 65,000")
    model = args.model or settings.model() or NANO
    if model != NANO:
        hub_model(model)  # a name that is none is refused before a machine is asked
    found = []
    with exiting_on_sigterm():  # so that what runs on the machines ends as well
        for finding in Check(hostfile, model, args.python or sys.executable, port).steps():
            found.append(finding)
            if not args.json:
                report(one_line(f"{finding.level}: {finding.text}"))
                if finding.remedy:
                    report(one_line(f"  {finding.remedy}"))
    has_problem = any(finding.level == "problem" for finding in found)
    if args.json:
        report(json.dumps({"ok": not has_problem, "findings": [asdict(finding) for finding in found]}))
    return 1 if has_problem else 0
