"""What all APIs of the server have in common: what a request asks, and how what happens is written as a response.

Knows nothing of connections, and of how a turn is run.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_oss.chat.transcript import Transcript
from mlx_oss.costs import Usage
from mlx_oss.errors import ContextError, DeviceError, EngineError, HarmonyError, OptionError
from mlx_oss.events import Event
from mlx_oss.server.fields import RequestError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from mlx_oss.generation.options import SamplingOptions
    from mlx_oss.server.service import Service
    from mlx_oss.tools.calls import Confirm

Frame = tuple[str | None, Mapping[str, Any]]  # the name of an event of a stream, if it has one, and its data


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks.

    Attributes:
        transcript: The conversation.
        model: The model that it names; None for the server's own.
        stream: Whether the response is a stream of events.
        fixed: Arguments of `Settings` that the beginning of the prompt depends on, and the restrictions of the answer:
            `tools`, `tool_choice`, `reasoning_effort`, `response_format`, `guards`.
        free: Other arguments of `Settings`: `options`, `max_tokens`, `stop`, `logprobs`.
        count: How many answers are wanted. With a seed, each uses the next higher one.
        builtin: Names of the server's own tools that the model may call.
        chosen: Of these, by the name of a server of tools: which of its functions the model may call. All, if it has no
            entry.
        conversation: Requests that name the same one share these tools. None: they are made for this request alone.
        details: What only the API itself knows of.
    """

    transcript: Transcript
    model: str | None = None
    stream: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1
    builtin: tuple[str, ...] = ()
    chosen: Mapping[str, Collection[str]] = field(default_factory=dict)
    conversation: str | None = None
    details: Any = None

    @property
    def sampling(self) -> SamplingOptions | None:
        """How to sample; None for the default."""
        options: SamplingOptions | None = self.free.get("options")
        return options


@dataclass(frozen=True, slots=True)
class Cost:
    """What a turn has cost, as responses say it.

    Attributes:
        usage: The costs.
        reasoning_tokens: Tokens of `usage.generated_tokens` that were reasoning.
    """

    usage: Usage = field(default_factory=Usage)
    reasoning_tokens: int = 0


class Writer(ABC):
    """Writes what happens in the turns of one request as a response, streamed or whole.

    Its methods return what is added to a stream. They are called in this order: `begin`, then `take` for each event of
    each answer, and `end`, or `fail` at any time. `wait` comes in between when nothing has been written for a while.

    Attributes:
        confirm: Asked before one of the server's own tools runs. None: it runs.
    """

    confirm: Confirm | None = None

    @abstractmethod
    def begin(self, prompt_tokens: int) -> Iterable[Frame]:
        """The prompt is known; nothing of it has been read."""

    @abstractmethod
    def take(self, event: Event, choice: int = 0) -> Iterable[Frame]:
        """An event of a turn. `Finished` is the last one of each answer."""

    @abstractmethod
    def call_id(self, choice: int = 0) -> str:
        """The id that `take` has given to the last call of an answer."""

    @abstractmethod
    def end(self, costs: list[Cost]) -> Iterable[Frame]:
        """All answers are finished."""

    @abstractmethod
    def wait(self) -> Iterable[Frame]:
        """Something that changes nothing, so that the client sees that the server lives. Also before `begin`."""

    @abstractmethod
    def fail(self, error: Exception) -> Iterable[Frame]:
        """The last events of a stream that cannot go on. Also before `begin`."""

    @property
    @abstractmethod
    def body(self) -> Mapping[str, Any]:
        """The whole response, after `end`."""


class Api(ABC):
    """One way to ask: reads requests and writes responses.

    Attributes:
        path: Where requests are posted.
        last: What ends a stream, after its last event.
    """

    path: str
    last: bytes = b""

    @abstractmethod
    def asked(self, body: Any) -> Asked:
        """Reads a request. Raises RequestError if it cannot be answered as it is.

        Args:
            body: The body, as read from JSON.
        """

    @abstractmethod
    def writer(self, asked: Asked, model: str) -> Writer:
        """What writes the response.

        Args:
            asked: The request.
            model: Name of the model that answers.
        """

    def routes(self, service: Service) -> Sequence[BaseRoute]:
        """Further paths.

        Args:
            service: What answers.
        """
        return ()

    def failure(self, error: Exception) -> Mapping[str, Any]:
        """The body of the response for an error."""
        return failure_body(error)


def failure_body(error: Exception) -> Mapping[str, Any]:
    """The body of the response for an error, in the form of OpenAI's APIs."""
    kind = "invalid_request_error" if status_of(error) < 500 else "server_error"
    param, code = getattr(error, "param", None), code_of(error)
    return {"error": {"message": message_of(error), "type": kind, "param": param, "code": code}}


def status_of(error: Exception) -> int:
    """The status of the response for an error: 4xx if the same request would get it again."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, OptionError | HarmonyError | ContextError):
        return 400
    return 503 if isinstance(error, EngineError | DeviceError) else 500


def code_of(error: Exception) -> str | None:
    """What kind of error it is, in the words of OpenAI's API."""
    return "context_length_exceeded" if isinstance(error, ContextError) else getattr(error, "code", None)


def message_of(error: Exception) -> str:
    """What to say of an error. Of a bug nothing is told but that it is one: the log has the rest."""
    from mlx_oss.errors import MlxOssError

    return (
        str(error) if isinstance(error, MlxOssError) else "this is a bug in mlx-oss: the server's log has the details"
    )


def new_id(kind: str) -> str:
    """An id that nobody can guess, such as `call_5f...`."""
    return f"{kind}_{secrets.token_hex(16)}"
