"""Reads the prompt of a row, a chunk each time it is asked. Knows nothing of other rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from mlx_oss.generation.engine import PromptProgress
from mlx_oss.generation.generate import Continuation, prefill_chunks
from mlx_oss.generation.lookup import Lookup
from mlx_oss.generation.prefix_pool import Prefix
from mlx_oss.generation.row import Row
from mlx_oss.generation.token_picker import TokenPicker
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload.install import offload_stats


def read_prompt(
    model: Transformer,
    row: Row,
    prefix: Prefix,
    chunk: int,
    *,
    added_ids: Collection[int],
    guesses: bool,
) -> Iterator[PromptProgress]:
    """Reads what is not held of a prompt, and takes the snapshots. Yields after each chunk.

    When the whole prompt has been read, the row can write.

    Args:
        model: The model.
        row: The row.
        prefix: What is held of its prompt, which is extended.
        chunk: Number of tokens that are read at a time.
        added_ids: Ids of text that a fine-tune has added.
        guesses: Whether the row guesses what comes next.
    """
    reused = len(prefix.ids)
    request, prompt, before = row.request, row.prompt, offload_stats(model)
    ends = {*request.snapshots, len(prompt)}
    # A shorter preamble is soon read again. One that fits into the first chunk is not told as a chunk of its own.
    preamble = request.preamble if request.preamble > model.config.sliding_window else 0
    is_short = min(end for end in ends if end > reused) - reused <= chunk
    for end in sorted({*ends, preamble} - {0}):
        if end > reused:
            start = len(prefix.ids)
            for done, last in prefill_chunks(model, prompt[start:end], prefix.kv, chunk):
                prefix.ids[start:] = prompt[start : start + done]
                row.counts.read_tokens = len(prefix.ids)
                row.counts.offload = offload_stats(model) - before
                if len(prefix.ids) == len(prompt):
                    picker = TokenPicker(request.options, len(prompt), prompt, request.constraint, added_ids)
                    row.writing = Continuation(model, last, prefix.kv, picker, row.limit, request.stop_ids)
                    row.lookup = Lookup(prompt) if guesses else None
                elif len(prefix.ids) == end:
                    prefix.kv.snapshot()
                if end != preamble or end in ends or not is_short:
                    held = row.counts.reused_tokens
                    yield PromptProgress(max(0, len(prefix.ids) - held), len(prompt) - held)
        elif end == reused < len(prompt):
            prefix.kv.snapshot()


def reread(model: Transformer, prefix: Prefix, ids: list[int], chunk: int) -> Iterator[None]:
    """Reads what is not held any more of the ids of a suspended row. Yields after each chunk."""
    start = len(prefix.ids)
    if start < len(ids):
        for done, _ in prefill_chunks(model, ids[start:], prefix.kv, chunk):
            prefix.ids[start:] = ids[start : start + done]
            yield
