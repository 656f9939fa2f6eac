"""Run by several processes: compares what they compute together, bit for bit, with what each computes alone.

    python whole_and_part.py FOLDER

Prints nothing if all is the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_oss import load_model
from mlx_oss.distributed import launched
from mlx_oss.memory.plan import place_here
from mlx_oss.model.fingerprint import fingerprint
from mlx_oss.model.sharding import Shard
from mlx_oss.model.transformer import Transformer
from mlx_oss.shards import Rank
from mlx_oss.weights.layouts.checkpoint import open_model
from mlx_oss.weights.placements import quantized_modules
from mlx_oss.weights.reading import open_files, read
from mlx_oss.weights.sharded import sharded


def part_of(folder: Path, shard: Shard) -> Transformer:
    checkpoint = open_model(folder)
    placements = sharded(place_here(checkpoint, "float32"), checkpoint.config, shard.rank)
    rows_alternate = any(placement.rows_alternate for placement in placements)
    model = Transformer(checkpoint.config, quantized_modules(placements), rows_alternate=rows_alternate, shard=shard)
    model.load_weights([(placement.name, array) for placement, array in read(placements, open_files(placements))])
    return model


def compare(what: str, ours: mx.array, theirs: mx.array) -> None:
    a, b = (np.array(array.astype(mx.float32)) for array in (ours, theirs))
    if a.shape != b.shape or (a.view(np.uint32) != b.view(np.uint32)).any():
        sys.stdout.write(f"{what} differs\n")


def main() -> None:
    group = launched.group()
    part = part_of(Path(sys.argv[1]), Shard(Rank(group.rank(), group.size()), group))
    whole = load_model(sys.argv[1], dtype="float32").transformer
    random = np.random.default_rng(7)

    def tokens(*shape: int) -> mx.array:
        return mx.array(random.integers(0, whole.config.vocab_size, shape))

    ours, theirs = part.make_cache(), whole.make_cache()
    for length in (70, 1, 1, 3):
        new = tokens(1, length)
        compare(f"{length} tokens", part(new, ours), whole(new, theirs))
    rows = [(part.make_cache(), whole.make_cache()) for _ in range(3)]
    for number, pair in enumerate(rows):
        new = tokens(1, 5 + number)
        compare("a row", part(new, pair[0]), whole(new, pair[1]))
    new = tokens(3)
    hidden = [model.hidden_of_each(new, [pair[at] for pair in rows]) for at, model in enumerate((part, whole))]
    compare("several rows", part.logits(hidden[0]), whole.logits(hidden[1]))
    ids = mx.array([0, whole.config.vocab_size - 1, whole.config.vocab_size // 2])
    compare("exact logits", part.exact_logits(hidden[0][0, 0], ids), whole.exact_logits(hidden[1][0, 0], ids))
    if fingerprint(part) != fingerprint(whole):
        sys.stdout.write("the fingerprint differs\n")
    launched.part()


if __name__ == "__main__":
    main()
