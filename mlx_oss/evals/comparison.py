"""Compares a copy of a model with another one: how far are its predictions of the next token, and where.

Both read the same passages, a chunk at a time, and the logits of a few tokens are there at a time. What is kept of each
token are four numbers. `divergence` has the arithmetic, `passages` the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.errors import ContextError, NumericalError, OptionError
from mlx_oss.evals import passages as texts
from mlx_oss.evals.divergence import Divergence, Floats, Top, divergence, divergence_from, top_of
from mlx_oss.evals.passages import CHANNELS, KINDS, Passage, in_words
from mlx_oss.evals.stored_logits import StoredLogits, check_target
from mlx_oss.evals.stored_logits import store as store_tops
from mlx_oss.files import expanded
from mlx_oss.generation.local import LocalEngine
from mlx_oss.loader import load, plan
from mlx_oss.memory.estimates import format_bytes

_SLICE = 32  # tokens whose logits are there at a time: 26 MB for each model
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """How far the predictions of B are from those of A, for some tokens.

    Attributes:
        tokens: How many tokens these are.
        kl: KL divergence of B from A in nats, mean. With stored logits, at least this much.
        most: With stored logits, at most this much; else as `kl`.
        median: Median of the KL divergence.
        p99: Its 99th percentile.
        same: The share of tokens before which both find the same token the most likely one.
        change: By how much the log-probability of what was said is larger in B, mean.
    """

    tokens: int
    kl: float
    most: float
    median: float
    p99: float
    same: float
    change: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What `compare` found, for each token that the model has written in the passages.

    Attributes:
        labels: (n,) what each token is a part of; `in_words` of `passages` reads it.
        kl: (n,) KL divergence of B from A in nats. With stored logits, at least this much.
        missing: (n,) with stored logits, how much larger it may be; else 0.
        same: (n,) whether both find the same token the most likely one.
        change: (n,) by how much the log-probability of the token is larger in B.
    """

    labels: NDArray[np.uint8]
    kl: NDArray[np.float64]
    missing: NDArray[np.float64]
    same: NDArray[np.bool_]
    change: NDArray[np.float64]

    def figures(self, channel: str | None = None, kind: str | None = None) -> Figures | None:
        """The figures of some tokens, or None if there are none.

        Args:
            channel: Only those on this channel: analysis, commentary or final.
            kind: Only those in this kind of text, one of `passages.KINDS`.
        """
        wanted = [
            number
            for number in range(1, texts.LABELS)
            if channel in (None, in_words(number)[0]) and kind in (None, in_words(number)[1])
        ]
        chosen = np.isin(self.labels, wanted)
        if not chosen.any():
            return None
        kl = self.kl[chosen]
        return Figures(
            tokens=len(kl),
            kl=float(kl.mean()),
            most=float((kl + self.missing[chosen]).mean()),
            median=float(np.median(kl)),
            p99=float(np.percentile(kl, 99)),
            same=float(self.same[chosen].mean()),
            change=float(self.change[chosen].mean()),
        )

    @property
    def rows(self) -> list[tuple[str, Figures]]:
        """The figures of everything, of each channel, and of each kind of text, with their names."""
        rows = [("everything", self.figures())]
        rows += [(channel, self.figures(channel=channel)) for channel in CHANNELS]
        rows += [(kind, self.figures(kind=kind)) for kind in KINDS]
        return [(name, figures) for name, figures in rows if figures is not None]


def compare(
    a: str | Path | LocalEngine | StoredLogits,
    b: str | Path | LocalEngine,
    passages: Sequence[Passage] | None = None,
    *,
    dtype: str = "auto",
    memory: str | int | None = None,
    progress: OnProgress | None = None,
) -> Comparison:
    """Compares the predictions of model B with those of model A.

    Both models are in memory at the same time; where they do not fit, `store` the predictions of A first.

    Args:
        a: The reference: a model, as for `mlx_oss.load`, or as that returns it; or a file that `store` has written.
        b: The model that is compared with it.
        passages: The texts, as functions of `mlx_oss.evals.passages` read them. None means the bundled conversations,
            and those of the file if A is one.
        dtype: Dtype of the activations, as for `load`.
        memory: Limit for both models together, as for `load`.
        progress: progress(done, total) is called as tokens are compared.

    Returns:
        The figures of each token.

    Raises:
        OptionError: If the models have other vocabularies, do not fit into the memory together, or the texts are not
            those of the file.
        ContextError: If a passage is too long for a model.
        NumericalError: If logits are not numbers.
        MlxOssError: What `load` raises.
    """
    stored = _stored(a)
    if stored is not None:
        if passages is not None and not _are_equal(passages, stored.passages):
            raise OptionError(f"{stored.path} has the logits of other texts: leave the texts out, or store them again")
        passages = stored.passages
    passages, context = _checked(passages)
    if stored is not None:
        model_b = _loaded(b, dtype, memory, context)
        _check_vocabularies(stored.vocab, model_b.config.vocab_size)
        known = zip(stored.tops(), _rows(model_b, passages), strict=True)
        return _collected(passages, (divergence_from(top, q, said) for top, (q, said) in known), progress)
    assert not isinstance(a, StoredLogits)
    model_a, model_b = _both(a, b, dtype, memory, context)
    _check_vocabularies(model_a.config.vocab_size, model_b.config.vocab_size)
    pairs = zip(_rows(model_a, passages), _rows(model_b, passages), strict=True)
    return _collected(passages, (divergence(p, q, said) for (p, said), (q, _) in pairs), progress)


def store(
    model: str | Path | LocalEngine,
    path: str | Path,
    passages: Sequence[Passage] | None = None,
    *,
    dtype: str = "auto",
    memory: str | int | None = None,
    progress: OnProgress | None = None,
) -> None:
    """Writes the predictions of a model to a file, for `compare`.

    Args:
        model: The model, as for `compare`.
        path: The file. One that is there is replaced when the new one is whole.
        passages: The texts, as for `compare`.
        dtype: As for `compare`.
        memory: Limit for the model, as for `load`.
        progress: As for `compare`.

    Raises:
        OptionError: If the file cannot be written.
        MlxOssError: As `compare`.
    """
    passages, context = _checked(passages)
    check_target(path)
    engine = _loaded(model, dtype, memory, context)
    store_tops(path, passages, _tops(engine, passages, progress), engine.config.vocab_size)


def _checked(passages: Sequence[Passage] | None) -> tuple[list[Passage], int]:
    """The texts, and how many tokens the longest has. Raises OptionError if there is nothing to compare in them."""
    passages = texts.bundled_conversations() if passages is None else list(passages)
    if not any(len(passage.counted) for passage in passages):
        raise OptionError("the texts have nothing that the model has written: give conversations with answers")
    return passages, max(len(passage.ids) for passage in passages)


def _tops(model: LocalEngine, passages: Sequence[Passage], progress: OnProgress | None) -> Iterator[Top]:
    total = sum(len(passage.counted) for passage in passages)
    for done, (logits, said) in enumerate(_rows(model, passages), 1):
        yield top_of(logits, said)
        _tell(progress, done, total)


def _check_vocabularies(a: int, b: int) -> None:
    if a != b:
        raise OptionError(
            f"the models have {a:,} and {b:,} tokens in their vocabularies: compare two copies of one model"
        )


def _stored(a: str | Path | LocalEngine | StoredLogits) -> StoredLogits | None:
    if isinstance(a, str | Path):
        return StoredLogits(a) if expanded(a).is_file() else None
    return a if isinstance(a, StoredLogits) else None


def _are_equal(some: Sequence[Passage], others: Sequence[Passage]) -> bool:
    return len(some) == len(others) and all(
        np.array_equal(one.ids, other.ids) and np.array_equal(one.labels, other.labels)
        for one, other in zip(some, others, strict=True)
    )


def _loaded(model: str | Path | LocalEngine, dtype: str, memory: str | int | None, context: int) -> LocalEngine:
    if isinstance(model, LocalEngine):
        return model
    return load(model, dtype=dtype, memory=memory, context=context)[0]  # type: ignore[arg-type]


def _both(
    a: str | Path | LocalEngine, b: str | Path | LocalEngine, dtype: str, memory: str | int | None, context: int
) -> tuple[LocalEngine, LocalEngine]:
    if isinstance(a, LocalEngine) or isinstance(b, LocalEngine):
        return _loaded(a, dtype, memory, context), _loaded(b, dtype, memory, context)
    first = plan(a, context=context, memory=memory, dtype=dtype)
    second = plan(b, context=context, memory=max(1, first.memory - first.peak_bytes), dtype=dtype)
    if second.verdict == "too small":
        needed = format_bytes(first.peak_bytes + second.least_bytes, round_up=True)
        raise OptionError(
            f"{a} and {b} need at least {needed} together, but the limit is {format_bytes(first.memory)}: store the "
            f"logits of the one first, `mlx-oss compare {a} --store FILE`, and then `mlx-oss compare FILE {b}`"
        )
    return _loaded(a, dtype, memory, context), _loaded(b, dtype, second.memory, context)


def _rows(model: LocalEngine, passages: Sequence[Passage]) -> Iterator[tuple[Floats, int]]:
    """For each token that counts: the logits (V,) that the model has for its place, and the token."""
    for passage in passages:
        if len(passage.ids) > model.context:
            raise ContextError(
                f"a text has {len(passage.ids):,} tokens, but the model has room for {model.context:,}: split it"
            )
        if (largest := int(passage.ids.max(initial=0))) >= model.config.vocab_size:
            raise OptionError(f"the text has the token {largest}, but the model only {model.config.vocab_size:,}")
        before = passage.counted - 1
        for start, hidden in _read(model, passage.ids[: int(before[-1]) + 1] if len(before) else passage.ids[:0]):
            places = before[(before >= start) & (before < start + hidden.shape[1])]
            for at in range(0, len(places), _SLICE):
                some = places[at : at + _SLICE]
                with device_errors:
                    picked = hidden[:, mx.array(some - start)]
                    logits = model.transformer.logits(picked)[0].astype(mx.float32)
                    mx.eval(logits)
                rows = np.array(logits, copy=False)
                if not np.isfinite(rows).all():
                    raise NumericalError("the logits are not numbers: `mlx-oss verify` checks the weights")
                yield from zip(rows, map(int, passage.ids[some + 1]), strict=True)


def _read(model: LocalEngine, ids: NDArray[np.int32]) -> Iterator[tuple[int, mx.array]]:
    """The final hidden states (1, n, C) of each chunk of a text, with the position of its first token."""
    cache = model.make_cache()
    cache.reserve(len(ids))
    for start in range(0, len(ids), model.chunk):
        with device_errors:
            hidden = model.transformer.hidden(mx.array(ids[None, start : start + model.chunk]), cache)
            mx.eval(hidden, cache.arrays)
        yield start, hidden


def _collected(passages: Sequence[Passage], found: Iterator[Divergence], progress: OnProgress | None) -> Comparison:
    labels = np.concatenate([passage.labels[passage.counted] for passage in passages])
    kl, missing, change = (np.empty(len(labels)) for _ in range(3))
    same = np.empty(len(labels), bool)
    for n, one in enumerate(found):
        kl[n], missing[n], same[n], change[n] = one.kl, one.missing, one.is_same, one.change
        _tell(progress, n + 1, len(labels))
    return Comparison(labels, kl, missing, same, change)


def _tell(progress: OnProgress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
