"""Chooses one token after another: starts computing its logits, restricts them as a constraint says, and samples.

Knows nothing of text, nor which model computes what.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.errors import NumericalError, OptionError
from mlx_oss.generation.engine import Constraint
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.generation.sampling import NOT_NUMBERS, Sampler
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import LAST_TEXT_ID


class NextScores:
    """The logits of the next token.

    Args:
        model: The model.
        last: The final hidden state (1, 1, C) of the last token.
        logits: The logits (V,) if they are computed already.

    Attributes:
        logits: (V,), in the dtype of the model.
    """

    def __init__(self, model: Transformer, last: mx.array, logits: mx.array | None = None) -> None:
        self.logits = model.logits(last)[0, 0] if logits is None else logits
        self._model, self._last = model, last

    @property
    def exact(self) -> Callable[[mx.array], mx.array] | None:
        """Ids (n,) -> their logits (n,), computed in float32; None if all of them are."""
        if self.logits.dtype == mx.float32:
            return None
        return lambda ids: self._model.exact_logits(self._last[0, 0], ids)


class Choice:
    """A token that a `TokenPicker` has begun to choose. What is asked of it waits, except `token` on a GPU.

    Args:
        choose: Returns (token,) and, if they are wanted, its log-probability, and the most likely ids and theirs:
            arrays of MLX or NumPy. It is called once.
        total: The sum of the logits, which is not finite if one of them is not. It is computed together with the token,
            so looking at it is not another wait. None if there is nothing to look at.
    """

    def __init__(self, choose: Callable[[], tuple[Any, ...]], total: mx.array | None = None) -> None:
        self._choose, self._total = choose, total

    @cached_property
    def arrays(self) -> tuple[Any, ...]:
        """What `choose` returns."""
        with device_errors:
            return self._choose()

    @property
    def token(self) -> mx.array:
        """The id, a scalar, for the model."""
        token = self.arrays[0]
        return token if isinstance(token, mx.array) else mx.array(token.item())

    @cached_property
    def value(self) -> int:
        """The id. Raises NumericalError if the logits are not numbers."""
        self._check()
        with device_errors:
            return int(_number(self.arrays[0]))

    @property
    def logprob(self) -> float | None:
        """Its log-probability; None if that was not asked for."""
        with device_errors:
            return float(_number(self.arrays[1])) if len(self.arrays) > 1 else None

    @property
    def alternatives(self) -> tuple[tuple[int, float], ...]:
        """The most likely ids with their log-probabilities, the most likely first."""
        if len(self.arrays) <= 2:
            return ()
        with device_errors:
            ids, logprobs = self.arrays[2].tolist(), self.arrays[3].tolist()
        return tuple((id_, logprob) for id_, logprob in zip(ids, logprobs, strict=True) if logprob > -math.inf)

    def _check(self) -> None:
        """Raises NumericalError if the sum of the logits is not finite."""
        if self._total is None:
            return
        with device_errors:
            is_finite = math.isfinite(_number(self._total))
        if not is_finite:
            raise NumericalError(NOT_NUMBERS)


class TokenPicker:
    """Chooses one token after another, and starts computing each choice.

    Args:
        options: How tokens are chosen.
        position: Position in the sequence of the first token to choose.
        recent: The ids before it, for the repetition penalty.
        constraint: Restricts each choice; None means no restriction.
        added_ids: Ids of text that a fine-tune has added.

    Attributes:
        options: How tokens are chosen.
        is_sequential: True if a choice depends on the token before it. Then `observe` must be called with that token
            before the next `pick`.
    """

    def __init__(
        self,
        options: SamplingOptions,
        position: int,
        recent: Sequence[int],
        constraint: Constraint | None,
        added_ids: Collection[int] = (),
    ) -> None:
        self.options = options
        self._sampler, self._recent, self._constraint = Sampler(options, position, added_ids), list(recent), constraint
        self._counts = Counter[int]()  # of the tokens in the message that is being written
        is_penalised = self._sampler.needs_recent or self._sampler.needs_counts
        self.is_sequential = is_penalised or constraint is not None

    def observe(self, token: int) -> None:
        """Records a chosen token, for the penalties and the constraint."""
        if self._sampler.needs_recent:
            self._recent.append(token)
        if self._sampler.needs_counts:
            if self._sampler.is_text(token):
                self._counts[token] += 1
            else:  # a header begins or ends
                self._counts.clear()
        if self._constraint is not None:
            self._constraint.accept(token)

    def pick(self, scores: NextScores) -> Choice:
        """Begins to choose a token.

        On a GPU, MLX computes everything. On the CPU backend it computes the logits, and the choice itself is made on
        the host when it is asked for; before the next call, because it depends on the state of the random numbers.
        """
        allowed = None if self._constraint is None else _checked(self._constraint.allowed(), scores.logits.shape[0])
        if isinstance(allowed, int):
            return self._forced(allowed)
        sampler = self._sampler

        def choose() -> tuple[Any, ...]:
            logits = sampler.logits(scores.logits, self._recent, allowed, scores.exact, self._counts)
            token = sampler.sample(logits)
            if not self.options.logprobs:
                return (token,)
            return (token, *sampler.log_probabilities(logits, token, self.options.top_logprobs))

        with device_errors:
            if sampler.waits:
                mx.async_eval(scores.logits)
                return Choice(choose)
            total = mx.sum(scores.logits[: sampler.last + 1])
            choice = Choice(choose, total)
            mx.async_eval(choice.arrays, total)
        return choice

    def _forced(self, token: int) -> Choice:
        """The choice of the only id that is allowed; its probability is 1."""
        with device_errors:
            self._sampler.skip()
            chosen = (mx.array(token), mx.array(0.0)) if self.options.logprobs else (mx.array(token),)
            mx.async_eval(chosen)
        return Choice(lambda: chosen)


def _checked(allowed: Any, vocab: int) -> np.ndarray | int | None:
    """What a constraint allows. Raises OptionError if it is not what `Constraint` describes: MLX would crash."""
    known = min(vocab, LAST_TEXT_ID + 1)
    if allowed is None:
        return None
    if isinstance(allowed, np.ndarray) and allowed.dtype == bool and allowed.ndim == 1:
        if len(allowed) >= known and allowed[:known].any():
            return allowed
        raise OptionError(f"the constraint gave a mask that allows none of the {known} ids: at least one must be True")
    if isinstance(allowed, int | np.integer) and 0 <= allowed < vocab:
        return int(allowed)
    raise OptionError(
        f"the constraint allows {reprlib.repr(allowed)}, expected None, an id below {vocab}, or a bool array ({known},)"
    )


def _number(array: Any) -> Any:
    """Value of a scalar, an int or a float depending on its dtype. Waits until it is computed."""
    return array.item()
