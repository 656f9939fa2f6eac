"""One round of a chat turn: the prompt is read where it is new, then the model writes until it has answered, calls a
tool, is cancelled, or has no room left. A turn without tools is one round.

Knows the model and what it has read; nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace

from mlx_oss.action import Action, Pause
from mlx_oss.chat.history import OPENING
from mlx_oss.chat.stream import EventTranslator, UsageTimer, begun
from mlx_oss.constrain import TurnConstraint
from mlx_oss.events import Event, FinishReason, PrefillProgress, ReasoningStopped, ToolCall, Usage
from mlx_oss.generation.generate import generate_step
from mlx_oss.generation.prompt_cache import PromptCache
from mlx_oss.generation.sampling import SamplingOptions
from mlx_oss.harmony import HarmonyParser, ParsedMessage
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload import OffloadStats, offload_stats


class Response:
    """However it ends, by an error or by closing `run` too, `messages` and `usage` tell what was written until then,
    and `cache` can be used on.

    prompt     all of it, from the system block to the opening of what the model writes
    header     what the opening has after `<|start|>assistant`
    limits     what the model may write; None: anything
    cancelled  asked after each chunk and each token whether to stop there
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
        self._new = prompt[len(cache.ids) : end]  # the opening is read in any case, for its logits
        self._reason: FinishReason = "stop"
        self._spent = OffloadStats()

    @property
    def messages(self) -> list[ParsedMessage]:
        return self._translator.messages

    @property
    def calls(self) -> list[ToolCall]:
        """The tools that the model called and waits for."""
        return self._translator.calls

    @property
    def answer(self) -> str:
        """What stands on the final channel."""
        said = [parsed.message for parsed in self.messages]
        return "".join(str(message.content) for message in said if message.channel == "final")

    @property
    def usage(self) -> Usage:
        return replace(
            self._timer.usage(),
            experts_held=self._spent.hits,
            experts_read=self._spent.misses,
            read_bytes=self._spent.nbytes,
            read_seconds=self._spent.seconds,
        )

    @property
    def reason(self) -> FinishReason:
        """Why it ended."""
        return "tool_calls" if self._translator.calls else self._reason

    def run(
        self, options: SamplingOptions, max_tokens: int, stop_ids: Iterable[int], *, snapshot: bool
    ) -> Generator[Event | Action, None, None]:
        """Yields events as the model reads and writes, and pauses where it writes what makes none; `snapshot` makes
        where it begins to write a place that the cache can come back to.
        """
        parser, rest, before = HarmonyParser(), list[Event](), offload_stats(self._model)
        try:
            yield from self._read()
            if snapshot and not self._cancelled():
                self._cache.kv.snapshot()
            yield from self._write(parser, options, max_tokens, stop_ids)
        except GeneratorExit:
            raise
        except BaseException:
            self._cache.forget()  # the layers may have stopped at different positions
            raise
        finally:
            self._timer.stop()
            self._spent = offload_stats(self._model) - before
            answered = self._translator.answered
            if not answered:  # else a message that began after the answer is none of the turn's
                rest = self._translator.translate(begun(parser.finish()))
        if self._cancelled() and not answered:
            self._reason = "cancelled"
        yield from rest

    def _read(self) -> Generator[Event, None, None]:
        """Feeds what is new of the prompt until it ends or the round is cancelled; whole chunks are kept."""
        if not self._new or self._cancelled():
            return
        before = self._timer.prompt_tokens
        for done in self._cache.read(self._new):
            self._timer.prompt_tokens = before + done
            if len(self._new) > self._model.chunk:
                yield PrefillProgress(done, len(self._new))
            if self._cancelled():
                return

    def _write(
        self, parser: HarmonyParser, options: SamplingOptions, max_tokens: int, stop_ids: Iterable[int]
    ) -> Generator[Event | Action, None, None]:
        if self._cancelled():
            return
        recent = self._cache.ids[-options.repetition_window :]
        self._cache.ids += self._opening
        self._timer.prompt_tokens += len(self._opening)
        for token in self._header:
            self._translator.translate(parser.feed(token))
        told = False
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
            heard: list[Event | Action] = [*self._translator.translate(parser.feed(step.token))]
            yield from heard or [Pause()]
            if self._translator.answered or self._translator.calls:  # they need not end with a stop id
                return
            if self._constraint is not None and self._constraint.reasoning_stopped and not told:
                told = True
                yield ReasoningStopped(self._constraint.reasoning_stopped)
            if self._constraint is not None and self._constraint.stopped:
                self._reason = self._constraint.stopped
                return
            if step.finish == "length":
                self._reason = "length"
            if self._cancelled():
                return
