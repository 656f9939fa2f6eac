"""What the page asks: a question, with the conversation before it as the page keeps it.

    {"parts": [{"kind": "question", "text": "Hello"},
               {"kind": "reasoning", "text": ...},
               {"kind": "call", "id": ..., "to": "python", "channel": "analysis", "text": ..., "result": ...},
               {"kind": "answer", "text": ...},
               {"kind": "question", "text": ...}],
     "instructions": "", "effort": "medium", "tools": ["python"], "model": null, "conversation": "a key of the page's"}

"preamble" is a kind too. Knows nothing of how it is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute

from mlx_oss.chat.history import EFFORTS
from mlx_oss.chat.transcript import Transcript
from mlx_oss.harmony import Message
from mlx_oss.server.asked import Api, Asked, Writer
from mlx_oss.server.fields import Fields, RequestError
from mlx_oss.server.page.approvals import Approvals
from mlx_oss.server.page.routes import page_routes
from mlx_oss.server.page.writer import PageWriter
from mlx_oss.server.service import Service
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.reviews import Review, reviews_of


class PageApi(Api):
    """The way in which the page asks.

    Args:
        service: What answers.
        effort: The reasoning effort of new conversations.
        instructions: Those of new conversations.
        free: Arguments of `Settings` for all answers, as `Asked.free`.
    """

    path = "/page/answer"

    def __init__(
        self,
        service: Service,
        *,
        effort: str = "medium",
        instructions: str = "",
        free: Mapping[str, Any] | None = None,
    ) -> None:
        self._service, self._approvals, self._free = service, Approvals(), free or {}
        self._usual = {"effort": effort, "instructions": instructions}

    def routes(self, service: Service) -> Sequence[BaseRoute]:
        """The files of the page, and what it asks besides questions."""
        return page_routes(service, self._approvals, self._usual)

    def asked(self, body: Any) -> Asked:
        fields = Fields(body)
        tools = fields.list("tools")
        return Asked(
            _transcript(fields),
            model=fields.optional_text("model"),
            stream=True,
            fixed={"reasoning_effort": fields.one_of("effort", EFFORTS, "medium")},
            free=self._free,
            builtin=tuple(name for name in self._service.tools if name in tools),  # some may have gone since
            conversation=fields.optional_text("conversation"),
        )

    def writer(self, asked: Asked, model: str) -> Writer:
        def reviews() -> Mapping[str, Review]:
            if self._service.runs_unasked or not asked.builtin:
                return {}
            return reviews_of(self._service.toolbox.take(asked.builtin, asked.conversation))

        def context() -> int | None:
            return next((loaded.engine.context for loaded in self._service.models.loaded if loaded.name == model), None)

        return PageWriter(self._approvals, reviews, context)


def _transcript(fields: Fields) -> Transcript:
    transcript = Transcript()
    transcript.instruct(fields.text("instructions", ""))
    kind = ""
    for part in fields.each("parts"):
        kind = part.one_of("kind", ("question", "reasoning", "preamble", "answer", "call"), "")
        text = part.text("text")
        match kind:
            case "question":
                transcript.say(text)
            case "reasoning":
                transcript.reason(text)
            case "preamble":
                transcript.add(Message("assistant", text, "commentary"))
            case "answer":
                transcript.answer(text)
            case "call":
                _call(transcript, part, text)
            case _:
                raise part.wrong("kind", "question, reasoning, preamble, answer or call")
    if kind != "question":
        raise RequestError("the last of the parts is no question: end with one", "parts")
    return transcript


def _call(transcript: Transcript, part: Fields, text: str) -> None:
    """A call and its result; one that was interrupted has none."""
    key, recipient = part.text("id"), part.text("to")
    if not recipient or transcript.waits(key):
        raise part.wrong("to" if not recipient else "id", "the name of a tool" if not recipient else "an id of its own")
    is_function = "." in recipient and not recipient.startswith("browser.")
    channel = part.one_of("channel", ("analysis", "commentary", "final"), "commentary")
    content_type = "<|constrain|>json" if is_function else "code"
    transcript.call(key, Message("assistant", text, channel, recipient, content_type))
    transcript.result(key, part.text("result", f"Error: {STOPPED}"))
