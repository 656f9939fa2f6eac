"""Reads and changes what has been said in a session, between its turns. Knows nothing of running and saving it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlx_oss.chat.history import Conversation, Entry
from mlx_oss.chat.message_reader import AnyMessage, from_items
from mlx_oss.chat.message_writer import to_dicts
from mlx_oss.chat.turns import Turns, question_of
from mlx_oss.errors import OptionError
from mlx_oss.events import ToolCall
from mlx_oss.harmony import Message
from mlx_oss.shield import shielded


class Editing(Turns):
    """The part of `ChatSession` that reads and changes its messages."""

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far, without the instructions at its beginning.

        May be set between turns, to harmony messages or dictionaries as in `ChatSession(messages=...)`. Messages that
        were there before keep the ids that the model wrote, so the next turn reads only what comes after the first
        change. System messages at their beginning become the instructions; without one, the instructions stay.

        Raises:
            OptionError: If something that is set is not a message.
            SessionError: If a turn of this session is running while they are set.
        """
        return tuple(self._conversation.current.messages)

    @messages.setter
    def messages(self, messages: Iterable[AnyMessage]) -> None:
        instructions, read = from_items(messages)
        self._set_messages(read)
        self.instructions = instructions or self.instructions

    def to_messages(self) -> list[dict[str, Any]]:
        """The instructions and the conversation as plain dictionaries, in the form of OpenAI's chat API.

        They can be written as JSON. `ChatSession(model, tokenizer, messages=...)` starts a session with the same
        messages: tool calls, their results and the reasoning too. Options and tools are not part of them.
        """
        return to_dicts(self._conversation.current.messages, self.instructions)

    @property
    def turns(self) -> int:
        """Number of turns in the conversation; each starts with a message of the user."""
        return len(self._conversation.current.turn_starts)

    @property
    def context_used(self) -> int:
        """Number of tokens in the next prompt, not counting the user's next message."""
        return self._settings.frame.prompt_length(self._conversation.current)

    def count(self, text: str) -> int:
        """Number of tokens that a message of the user would add to the prompt.

        Together with `context_used` this is what the model would read in the next turn.

        Args:
            text: The message.

        Raises:
            OptionError: If `text` is not a str.
        """
        return len(question_of(text, self.tokenizer).ids)

    @shielded
    def add_tool_result(self, call: ToolCall, result: str) -> None:
        """Adds the result of a tool call to the conversation. `resume` then lets the model continue.

        May be called while the turn that contains the call is still running.

        Args:
            call: The call, as the turn yielded it.
            result: What the model reads.

        Raises:
            OptionError: If `call` is not a ToolCall, or `result` is not a str.
        """
        if not isinstance(call, ToolCall):
            raise OptionError(f"call is a {type(call).__name__}, expected a ToolCall, as `Reply.tool_calls` has them")
        if not isinstance(result, str):
            raise OptionError(f"a tool result must be a str, not {type(result).__name__}: pass json.dumps(result)")
        self._conversation.add_result(Entry.from_tool_result(call, result, self.tokenizer))

    @shielded
    def undo(self) -> str | None:
        """Forgets the last turn.

        Returns:
            The user's message in that turn; None if there was no turn.

        Raises:
            SessionError: If a turn of this session is running.
        """
        with self._conversation.held():
            if not self.turns:
                return None
            self._conversation.current, question = self._conversation.current.split_before(-1)
            return str(question.message.content)

    @shielded
    def clear(self) -> None:
        """Forgets the conversation; options stay. Raises SessionError if a turn of this session is running."""
        with self._conversation.held():
            self._conversation.current = Conversation()

    def _take_messages(self, messages: Iterable[AnyMessage]) -> None:
        """Starts with these messages. Raises OptionError if their instructions and those of the session differ."""
        instructions, read = from_items(messages)
        if instructions and self.instructions not in ("", instructions):
            raise OptionError(
                "instructions are given twice, as an argument and as a system message in messages: leave out one"
            )
        self.instructions = instructions or self.instructions
        self._set_messages(read)

    @shielded
    def _set_messages(self, messages: Sequence[Message]) -> None:
        with self._conversation.held():
            current = self._conversation.current
            self._conversation.current = current.with_messages(messages, self.tokenizer)
