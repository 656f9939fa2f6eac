"""A conversation as another program tells it, in the order in which the model reads it.

Each API has messages of its own form. Whoever reads one tells a `Transcript` item by item what was said, and gets
harmony's messages. Knows nothing of those forms, of sessions and of tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace

from mlx_oss.harmony import DeveloperContent, Message

OWN_CALL = Message("assistant", "", recipient="server")  # stands for a call that the server has run, and its result


class Transcript:
    """A conversation that is told from its beginning to its end.

    Text of the assistant is an answer, or a preamble if a call comes after it. If several calls come one after the
    other, each is followed by its result: that is how the model makes them.

    Attributes:
        messages: What was said after the instructions at the head.
        call_ids: The id of the call at each place of `messages`; None for other messages.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.call_ids: list[str | None] = []
        self._instructions: list[str] = []
        self._calls = 0  # from here on there are only calls and their results
        self._answers: list[int] = []  # places of answers after which only the assistant has spoken
        # Calls without a result: the call, where it stood when it was told, and whether the result belongs behind it.
        self._waiting: dict[str, tuple[Message, int, bool]] = {}
        self._filled: list[int] = []  # sorted places of calls, as above, behind which a result was put later

    @property
    def instructions(self) -> str:
        """The instructions at the head."""
        return "\n\n".join(self._instructions)

    def instruct(self, text: str) -> None:
        """Instructions of the developer. After the head they stay in their place, as a message of the developer."""
        if text and not self.messages:
            self._instructions.append(text)
        elif text:
            self.add(Message("developer", DeveloperContent(text)))

    def say(self, text: str, name: str | None = None) -> None:
        """A message of the user."""
        self.add(Message("user", text, name=name))

    def reason(self, text: str) -> None:
        """Reasoning of the assistant."""
        if text:
            self.add(Message("assistant", text, "analysis"))

    def answer(self, text: str) -> None:
        """Text of the assistant."""
        self.add(Message("assistant", text, "final"))

    def call(self, id: str | None, message: Message) -> None:
        """A call of the assistant. What it has said in this turn becomes a preamble."""
        for place in self._answers:
            self.messages[place] = replace(self.messages[place], channel="commentary")
        self._answers = []
        self.add_call(id, message)

    def add_call(self, id: str | None, message: Message, *, has_others: bool = True) -> None:
        """A call of the assistant, after what is known to be a preamble or an answer.

        Args:
            id: Its id, if it has one.
            message: The call.
            has_others: Whether other calls may have been made at the same time. Its result then belongs right behind
                it, wherever it is told.
        """
        place = len(self.messages) - len(self._filled)
        self.add(message, id)
        if id is not None:
            self._waiting[id] = message, place, has_others

    def own_call(self, id: str) -> None:
        """A call that the server has run, of which the client knows only the id.

        In a turn that is answered it is left out, like the reasoning: the pages and variables that it was about are
        gone.
        """
        self.add(OWN_CALL, id)

    def waits(self, id: object) -> bool:
        """Whether there is a call with this id that has no result yet."""
        return isinstance(id, str) and id in self._waiting

    def result(self, id: str, text: str) -> None:
        """The result of the call with this id, which `waits`."""
        call, told, has_others = self._waiting.pop(id)
        channel = call.channel or "commentary"
        message = Message("tool", text, name=call.recipient, recipient="assistant", channel=channel)
        place = told + bisect_left(self._filled, told) + 1
        if not has_others or place <= self._calls:
            self.add(message)
            return
        insort(self._filled, told)
        self.messages.insert(place, message)
        self.call_ids.insert(place, None)
        self._answers = []  # they stand before it

    def add(self, message: Message, call_id: str | None = None) -> None:
        """Any other message."""
        if message.role != "assistant":
            self._answers = []
        elif message.channel == "final":
            self._answers.append(len(self.messages))
        self.messages.append(message)
        if not _belongs_to_call(message):
            self._calls = len(self.messages)
        self.call_ids.append(call_id)


def _belongs_to_call(message: Message) -> bool:
    return message.role == "tool" or (message.role == "assistant" and message.recipient is not None)
