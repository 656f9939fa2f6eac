"""The option `--long`: `pytest tests/attacks --long` also runs the attacks that take minutes."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the attacks that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: an attack that takes minutes (option --long)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long", default=False):
        for item in items:
            if "long" in item.keywords and Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest tests/attacks --long"))
