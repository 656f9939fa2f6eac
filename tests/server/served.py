"""The server of `mlx-oss serve` with all its APIs, on a thread, with an engine of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_oss import Engine, load_tokenizer
from mlx_oss.server.app import application
from mlx_oss.server.chat_completions import ChatCompletions
from mlx_oss.server.guard import Access
from mlx_oss.server.messages import Messages
from mlx_oss.server.models import Models
from mlx_oss.server.responses import Responses
from mlx_oss.server.service import Service
from tests.server.conftest import Running

MODEL = "gpt-oss-20b"


@contextmanager
def served(engine: Engine, key: str | None = None) -> Iterator[str]:
    """The address of a server that answers with an engine, and needs a key unless that is None."""
    service = Service(Models.holding(MODEL, engine, load_tokenizer()))
    running = Running(application(service, (Responses(), ChatCompletions(), Messages()), Access(key=key)))
    try:
        yield running.url
    finally:
        running.stop()
