"""The counts of attacks at the end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many attacks of each file were tried, and how many held. A test that tries several is one."""
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            file = Path(report.nodeid.partition("::")[0])
            if report.when == "call" and file.parent.name == HERE.name:
                tried[file.stem] += 1
                held[file.stem] += outcome == "passed"
    for file, count in sorted(tried.items()):
        terminalreporter.write_line(f"{file.removeprefix('test_')}: {count} tried, {held[file]} held")
