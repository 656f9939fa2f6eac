"""One round of a chat turn: prefill of the new part of the prompt, then generation.

The round ends when the model has answered or called a tool, when it is cancelled, or when a limit is reached. A turn
without tools is one round. Knows the model and its prompt cache; nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace

from mlx_oss.action import Action, Pause
from mlx_oss.chat.history import OPENING
from mlx_oss.chat.stream import EventTranslator, UsageTimer, without_bare_header
from mlx_oss.constrain import TurnConstraint
from mlx_oss.events import Event, FinishReason, PrefillProgress, ReasoningStopped, ToolCall, Usage
from mlx_oss.generation.generate import generate_step
from mlx_oss.generation.prompt_cache import PromptCache
from mlx_oss.generation.sampling import SamplingOptions
from mlx_oss.harmony import HarmonyParser, ParsedMessage
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload import OffloadStats, offload_stats


class Response:
    """One round of a turn; call `run` once.

    However the round ends, even by an error or by closing `run`, `messages` and `usage` then describe what was written,
    and the prompt cache remains usable.

    Args:
        model: The model.
        cache: The prompt cache of the session; the part of the prompt that it holds is not read again.
        prompt: All ids of the prompt, from the system message to the opening of the model's message.
        cancelled: Called after each chunk and each token; True ends the round.
        header: The ids of the opening after `<|start|>assistant`.
        constraint: Restricts what the model may write; None means no restriction.
    """

    def __init__(
        self,
        model: Transformer,
        cache: PromptCache,
        prompt: list[int],
        cancelled: Callable[[], bool],
        header: Sequence[int] = (),
        constraint: TurnConstraint | None = None,
    ) -> None:
        self._model, self._cache, self._cancelled = model, cache, cancelled
        end = len(prompt) - len(OPENING) - len(header)
        self._translator, self._timer = EventTranslator(), UsageTimer(cache.rewind(prompt[:end]))
        self._header, self._constraint, self._opening = header, constraint, prompt[end:]
        self._new = prompt[len(cache.ids) : end]  # without the opening, which `_generate` reads for its logits
        self._reason: FinishReason = "stop"
        self._offload = OffloadStats()

    @property
    def messages(self) -> list[ParsedMessage]:
        """The messages that the model wrote, including one that was cut off."""
        return self._translator.messages

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls that the model finished."""
        return self._translator.calls

    @property
    def answer(self) -> str:
        """The text on the channel `final`."""
        messages = [parsed.message for parsed in self.messages]
        return "".join(str(message.content) for message in messages if message.channel == "final")

    @property
    def usage(self) -> Usage:
        """What the round cost; the values about experts are 0 until it has ended."""
        return replace(
            self._timer.usage(),
            experts_held=self._offload.hits,
            experts_read=self._offload.misses,
            read_bytes=self._offload.nbytes,
            read_seconds=self._offload.seconds,
        )

    @property
    def reason(self) -> FinishReason:
        """Why the round ended; valid once it has."""
        return "tool_calls" if self._translator.calls else self._reason

    def run(
        self, options: SamplingOptions, max_tokens: int, stop_ids: Iterable[int], *, snapshot: bool
    ) -> Generator[Event | Action, None, None]:
        """Runs the round.

        Args:
            options: How to sample.
            max_tokens: Limit of generated tokens.
            stop_ids: Ids that end generation.
            snapshot: Whether to take a snapshot of the cache before generation, so that it can step back to there.

        Yields:
            Events as the model reads and writes, and a `Pause` for each token that causes no event.
        """
        parser, last_events, stats_before = HarmonyParser(), list[Event](), offload_stats(self._model)
        try:
            yield from self._prefill()
            if snapshot and not self._cancelled():
                self._cache.kv.snapshot()
            yield from self._generate(parser, options, max_tokens, stop_ids)
        except GeneratorExit:
            raise
        except BaseException:
            self._cache.forget()  # the layers may have stopped at different positions, so it cannot be reused
            raise
        finally:
            self._timer.stop()
            self._offload = offload_stats(self._model) - stats_before
            answered = self._translator.answered
            if not answered:  # a message that started after the answer is not part of the turn
                last_events = self._translator.translate(without_bare_header(parser.finish()))
        if self._cancelled() and not answered:
            self._reason = "cancelled"
        yield from last_events

    def _prefill(self) -> Generator[Event, None, None]:
        """Reads the new part of the prompt in chunks; if cancelled, the chunks read so far stay in the cache."""
        if not self._new or self._cancelled():
            return
        reused = self._timer.prompt_tokens
        for done in self._cache.read(self._new):
            self._timer.prompt_tokens = reused + done
            if len(self._new) > self._model.chunk:
                yield PrefillProgress(done, len(self._new))
            if self._cancelled():
                return

    def _generate(
        self, parser: HarmonyParser, options: SamplingOptions, max_tokens: int, stop_ids: Iterable[int]
    ) -> Generator[Event | Action, None, None]:
        if self._cancelled():
            return
        recent = self._cache.ids[-options.repetition_window :]
        self._cache.ids += self._opening
        self._timer.prompt_tokens += len(self._opening)
        for token in self._header:
            self._translator.translate(parser.feed(token))
        stop_reported = False
        steps = generate_step(
            self._model,
            self._opening,
            options,
            cache=self._cache.kv,
            recent=recent,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            constraint=self._constraint,
        )
        for step in steps:
            self._timer.tick()
            self._cache.ids.append(step.token)
            events: list[Event | Action] = [*self._translator.translate(parser.feed(step.token))]
            yield from events or [Pause()]
            if self._translator.answered or self._translator.calls:  # may end with `<|end|>`, which is no stop id
                return
            if self._constraint is not None and self._constraint.reasoning_stopped and not stop_reported:
                stop_reported = True
                yield ReasoningStopped(self._constraint.reasoning_stopped)
            if self._constraint is not None and self._constraint.stopped:
                self._reason = self._constraint.stopped
                return
            if step.finish == "length":
                self._reason = "length"
            if self._cancelled():
                return
