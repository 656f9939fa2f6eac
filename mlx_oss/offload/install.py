"""Puts offloaded experts and an offloaded embedding into a model that is being loaded.

Knows where the contents of a slot are stored. The loader loads all other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from mlx_oss.model.transformer import Transformer
from mlx_oss.offload.embedding import EmbeddingOnDisk
from mlx_oss.offload.experts import ExpertSource, OffloadedExperts
from mlx_oss.offload.reader import Memory, OffloadStats, Reader
from mlx_oss.weights.arrays import MLX_DTYPES, allocated, bytes_of
from mlx_oss.weights.placements import EMBEDDING, Placement, quantized_modules
from mlx_oss.weights.reading import Files, read


def install(
    model: Transformer, slots: int, placements: Sequence[Placement], files: Files
) -> list[tuple[str, mx.array]]:
    """Replaces the experts of every layer by offloaded ones with `slots` slots, and the embedding by one on disk.

    Args:
        model: The model to change.
        slots: Number of experts of each layer that are in memory.
        placements: All parameters of the model.
        files: The open files that they are read from.

    Returns:
        The parameters of the slots, with their paths in the model.

    Raises:
        CheckpointError: If a tensor that stays in memory cannot be read.
    """
    reader = Reader()
    embedding = [placement for placement in placements if placement.module == EMBEDDING]
    model.embed_tokens = EmbeddingOnDisk(embedding, files, reader)  # type: ignore[assignment]
    specs = quantized_modules(placements)
    parameters = []
    for number, layer in enumerate(model.layers):
        path = f"layers.{number}.mlp.experts"
        experts = OffloadedExperts(model.config, specs, path, slots, reader, layer.mlp.experts.rows_alternate)
        sources: list[ExpertSource] = []
        for placement in (placement for placement in placements if placement.module.startswith(f"{path}.")):
            array = allocated((slots, *placement.shape[1:]), MLX_DTYPES[placement.dtype])
            name = placement.module.removeprefix(f"{path}.")
            experts[name][placement.suffix] = array
            parameters.append((placement.name, array))
            sources += _sources(f"{name}.{placement.suffix}", placement, bytes_of(array), slots, files)
        experts.read_from(sources)
        layer.mlp.experts = experts
    return parameters


def offload_stats(model: Transformer) -> OffloadStats:
    """What reading weights from disk has cost since the model was loaded."""
    experts = model.layers[0].mlp.experts
    return experts.reads if isinstance(experts, OffloadedExperts) else OffloadStats()


def _sources(
    parameter: str, placement: Placement, target: memoryview, slots: int, files: Files
) -> Iterator[ExpertSource]:
    """Where the contents of a parameter's slots, which are at `target`, are read from."""
    slot, offset = len(target) // slots, 0
    if not placement.is_read_on_demand:
        ((_, whole),) = read([placement], files)
        yield ExpertSource(
            parameter=parameter,
            origin=Memory(bytes_of(whole)),
            start=0,
            step=slot,
            nbytes=slot,
            target=target,
            stride=slot,
            offset=0,
        )
        return
    for span in placement.parts[0].array.spans:
        yield ExpertSource(
            parameter=parameter,
            origin=files[span.tensor.file],
            start=span.start(0),
            step=span.start(1) - span.start(0),
            nbytes=span.nbytes,
            target=target,
            stride=slot,
            offset=offset,
        )
        offset += span.nbytes
