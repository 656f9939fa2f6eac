"""What tests ask of engines and sessions besides their public names."""

from __future__ import annotations

from mlx_oss import ChatSession, LocalEngine, Request, Stream
from mlx_oss.constrain import TurnConstraint


class Watched(LocalEngine):
    """An engine that runs a model and keeps the requests.

    Attributes:
        requests: The requests so far.
    """

    def __init__(self, model: LocalEngine) -> None:
        super().__init__(model.transformer, context=model.context, chunk=model.chunk)
        self.requests: list[Request] = []

    def submit(self, request: Request) -> Stream:
        self.requests.append(request)
        return super().submit(request)

    @property
    def written(self) -> list[int]:
        """The ids that were generated for the last request; valid until the next one."""
        request = self.requests[-1]
        assert request.cache is not None
        return request.cache.ids[len(request.prompt) :]


def prompt_of(session: ChatSession) -> list[int]:
    """The ids of the next prompt of a session, without the user's next message."""
    return session._frame().prompt(session._conversation.current)


def constraint_of(session: ChatSession) -> TurnConstraint:
    """The constraint of the next round of a session."""
    return session._setup().constraint(session._conversation.current)
