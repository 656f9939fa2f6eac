"""OpenAI's chat completions: what is asked, and what writes the response."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mlx_oss.server.asked import Api, Asked, Writer
from mlx_oss.server.chat_completions.request import asked
from mlx_oss.server.chat_completions.response import ChatWriter

PATH = "/v1/chat/completions"


class ChatCompletions(Api):
    """The API.

    Args:
        own: Names of the server's own tools that may run.
    """

    path = PATH
    last = b"data: [DONE]\n\n"

    def __init__(self, own: Collection[str] = ()) -> None:
        self._own = own

    def asked(self, body: Any) -> Asked:
        return asked(body, self._own)

    def writer(self, asked: Asked, model: str) -> Writer:
        return ChatWriter(asked, model)
