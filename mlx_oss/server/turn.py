"""One turn of a request: the settings, the conversation so far, and the events of what comes. Knows no JSON."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

from mlx_oss.action import Action
from mlx_oss.chat.driver import AsyncIterate
from mlx_oss.chat.history import Conversation, Entry
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.settings import Settings
from mlx_oss.chat.tool_loop import ToolLoop
from mlx_oss.events import Event
from mlx_oss.generation.engine import room_for_answer
from mlx_oss.server.asked import Cost
from mlx_oss.tools.base import SystemTool


class ServedTurn:
    """A turn; iterate over `events` once.

    Args:
        settings: What it is run with.
        entries: The conversation.

    Attributes:
        prompt_tokens: Tokens of its first prompt.

    Raises:
        ContextError: If the prompt leaves no room to answer.
    """

    def __init__(self, settings: Settings, entries: Sequence[Entry]) -> None:
        conversation = Conversation(tuple(entries))
        if settings.context_policy == "drop_oldest":
            conversation = _that_fits(conversation, settings)
            settings = settings.changed({"context_policy": "refuse"})  # from now on, so that entries keep their places
        self._settings, self._before = settings, len(conversation.entries)
        self._conversation = LiveConversation(conversation)
        self.prompt_tokens = settings.frame.prompt_length(conversation)
        room_for_answer(settings.context_limit or settings.engine.context, self.prompt_tokens)
        self._loop = ToolLoop(
            settings.engine,
            settings.tokenizer,
            settings.engine.make_prompt_cache(),
            settings.toolset,
            settings.constraints,
            self._conversation,
        )

    def events(self) -> AsyncIterate[Event]:
        """The events, for `async for`. Closing it, or cancelling the task, ends the turn within a token."""
        return AsyncIterate(self._run())

    def close_tools(self) -> None:
        """Ends what its tools have started, if nobody else uses them."""
        for tool in self._settings.tools:
            if isinstance(tool, SystemTool):
                tool.close()

    def _run(self) -> Generator[Event | Action, None, None]:
        yield (yield from self._loop.run(replace(self._settings.setup, given=self._before)))

    @property
    def written(self) -> Sequence[Entry]:
        """What the turn has added to the conversation so far."""
        return self._conversation.current.entries[self._before :]

    @property
    def cost(self) -> Cost:
        """What the turn has cost so far."""
        return Cost(self._loop.usage, sum(entry.reasoned for entry in self.written))


def _that_fits(conversation: Conversation, settings: Settings) -> Conversation:
    """The conversation without its oldest turns, if all of it leaves less than a quarter of the context."""
    limits, frame = settings.limits, settings.frame
    quarter = limits.context_limit // 4
    room = limits.context_limit - min(limits.max_tokens or quarter, quarter)
    if frame.prompt_length(conversation) <= room:
        return conversation
    return conversation.without_oldest_turns(room - frame.prompt_length(Conversation()))[0]
