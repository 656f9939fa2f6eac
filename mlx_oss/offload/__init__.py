"""Experts on disk: for machines smaller than the model.

A layer holds as many experts as the memory allows, in slots; those a token needs and no slot holds are read from the
MLX folder's own files. `install` puts such experts into a model, which does not know: it computes the same bits.

    install.py    the way into a model that is being loaded
    slots.py      which expert has which slot, who makes room
    reader.py     reading parts of files into memory, several at a time
    experts.py    the model's `Experts` on slots
    embedding.py  an embedding of which only rows are read
"""

from __future__ import annotations

from mlx_oss.offload.install import install, offload_stats
from mlx_oss.offload.reader import OffloadStats

__all__ = ["OffloadStats", "install", "offload_stats"]
