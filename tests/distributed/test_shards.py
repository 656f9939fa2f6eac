"""Which rows each machine holds: together all of them, each once, and where the layout stores them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.memory.plan import place_here
from mlx_oss.shards import Rank, blocks_of, owners
from mlx_oss.weights.layouts.checkpoint import open_model
from mlx_oss.weights.names import row_axis
from mlx_oss.weights.reading import open_files, read
from mlx_oss.weights.sharded import identity, sharded
from tests.synthetic import TINY, write_checkpoint

SHAPE = TINY | {"num_hidden_layers": 2, "num_local_experts": 6, "num_experts_per_tok": 2, "vocab_size": 204}
SHAPE |= {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
}


def values(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 5))
def test_every_row_has_one_owner_and_ranges_say_the_same(parts, size):
    blocks = tuple(part * size for part in parts)
    held = {}
    for number in range(size):
        rows = [row for first, end in Rank(number, size).ranges(blocks) for row in range(first, end)]
        held |= {row: (number, place) for place, row in enumerate(rows)}
    assert [held[row] for row in range(sum(blocks))] == list(owners(blocks, size, range(sum(blocks))))


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("size", [2, 4])
def test_the_rows_of_all_machines_are_those_of_one(layout, size, tmp_path):
    checkpoint = open_model(write_checkpoint(tmp_path / "model", SHAPE, layout=layout))
    whole = place_here(checkpoint, "float32")
    arrays = {placement.name: values(array) for placement, array in read(whole, open_files(whole))}
    assert sharded(whole, checkpoint.config, Rank()) == whole
    machines = []
    for number in range(size):
        part = sharded(whole, checkpoint.config, Rank(number, size))
        machines.append({placement.name: values(array) for placement, array in read(part, open_files(part))})
        assert all(placement.shape == machines[-1][placement.name].shape for placement in part)
        divided = [p for p in part if p.shape != arrays[p.name].shape]
        assert sum(p.stored_nbytes for p in divided) * size == sum(
            p.stored_nbytes for p in whole if p.name in {each.name for each in divided}
        )
    for placement in whole:
        axis, rows = row_axis(placement.module), placement.shape[row_axis(placement.module)]
        blocks = blocks_of(placement.module, placement.suffix, rows, checkpoint.config, placement.rows_alternate)
        expected = arrays[placement.name]
        if blocks is None:
            assert all((machine[placement.name] == expected).all() for machine in machines)
            continue
        for row, (number, place) in enumerate(owners(blocks, size, range(rows))):
            found = machines[number][placement.name].take(place, axis)
            assert (found == expected.take(row, axis)).all(), placement.name


def test_two_models_of_the_same_shape_and_one_of_another_are_told_apart_by_shape_only(tmp_path):
    first, second = (open_model(write_checkpoint(tmp_path / str(seed), SHAPE, seed=seed)) for seed in (1, 2))
    other = open_model(write_checkpoint(tmp_path / "other", SHAPE | {"vocab_size": 300}))
    assert identity(first) == identity(second) != identity(other)
