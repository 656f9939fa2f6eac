"""Caches: what they hold, how much memory they take, and that rewinding leaves no trace of what is dropped."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import ModelConfig, Transformer
from mlx_oss.config import FULL, SLIDING
from mlx_oss.errors import OptionError
from mlx_oss.generation.generate import prefill
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS, Cache, KVCache, RotatingKVCache

TOLERANCE = 1e-4
WINDOW = 7


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A model with random weights, small enough for hundreds of forward passes."""
    mx.random.seed(1)
    return Transformer(tiny_config())


def tiny_config(*layer_types: str) -> ModelConfig:
    return ModelConfig(
        num_hidden_layers=len(layer_types) or 3,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=51,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=10,
        sliding_window=WINDOW,
        layer_types=layer_types,
    )


def positions(first: int, count: int) -> mx.array:
    """Keys (2, 3, count, 4) in which every number is the position."""
    return mx.broadcast_to(mx.arange(first, first + count, dtype=mx.float32)[:, None], (2, 3, count, 4))


def held(keys: mx.array) -> list[int]:
    """The positions in an array made of `positions`, which must be the same in each batch, head and dimension."""
    array = np.array(keys)
    assert (array == array[:1, :1, :, :1]).all()
    return array[0, 0, :, 0].astype(int).tolist()


def feed(cache: KVCache | RotatingKVCache, count: int) -> list[int]:
    """Appends the next `count` positions, with negative values; returns the positions that `update` returns."""
    new = positions(cache.offset, count)
    keys, values = cache.update(new, -new - 1)
    assert held(-values - 1) == held(keys)
    return held(keys)


def last_logits(model: Transformer, tokens: list[int], cache: Cache | None = None) -> np.ndarray:
    return np.array(model(mx.array([tokens]), cache)[0, -1])


def test_a_full_layer_gives_back_every_position_in_order_however_it_is_fed():
    cache = KVCache()
    for count in (3, 1, 250, 1, 1, 300, 1, 700):
        assert feed(cache, count) == list(range(cache.offset))


def test_a_full_layer_grows_in_steps_and_wastes_less_than_one():
    cache = KVCache()
    for count in (1, 255, 1, 600, 1):
        feed(cache, count)
        for buffer in cache.arrays:
            assert buffer.shape[2] % KVCache.STEP == 0
            assert 0 <= buffer.shape[2] - cache.offset < KVCache.STEP


def test_buffers_for_a_long_prompt_are_allocated_once(model, monkeypatch):
    """Otherwise each chunk would copy everything before it."""
    made: list[int] = []
    real = mx.zeros
    monkeypatch.setattr(mx, "zeros", lambda shape, *rest: made.append(shape[2]) or real(shape, *rest))
    cache = model.make_cache()
    last_logits(model, [1] * 5, cache)
    prefill(model, [1] * 1000, cache, chunk=90)
    full = sum(isinstance(layer, KVCache) for layer in cache.layers)
    # Keys and values of each full layer: once for the first tokens, and once for the prompt.
    assert len([length for length in made if length > WINDOW]) == 2 * full * 2
    assert {layer.keys.shape[2] for layer in cache.layers if isinstance(layer, KVCache)} == {1024}


def test_a_trimmed_full_layer_writes_over_what_came_after():
    cache = KVCache()
    feed(cache, 300)
    cache.trim_to(100)
    assert feed(cache, 1) == list(range(101))
    assert feed(cache, 400) == list(range(501))


@pytest.mark.parametrize(
    "sizes", [[1] * 30, [30], [3, 4, 1, 1, 20], [7, 1, 7, 2], [6, 2, 1], [2, 5, 3, 1, 1], [8, 6, 8]]
)
def test_a_ring_gives_each_query_the_window_before_it(sizes):
    """A chunk comes back in order, after the window - 1 positions before it; a single token with them, in any order."""
    cache = RotatingKVCache(WINDOW)
    for size in sizes:
        first = cache.offset
        visible = list(range(max(first - WINDOW + 1, 0), first + size))
        got = feed(cache, size)
        assert (sorted(got) if size == 1 else got) == visible


@pytest.mark.parametrize("window", [1, 2, WINDOW])
def test_a_ring_holds_a_windows_positions_and_no_more(window):
    """This holds between calls. `update` returns up to window - 1 positions more than the chunk has."""
    cache = RotatingKVCache(window)
    for size in (1, 2, 1, 1, 5, 40, 1, 1, 1, 6):
        keys, _ = cache.update(positions(cache.offset, size), positions(cache.offset, size))
        assert keys.shape[2] <= window - 1 + size
        ring = np.array(cache.state.keys)[0, 0, :, 0]
        assert ring.shape == (window,) and all(buffer.shape[2] == window for buffer in cache.arrays)
        last = range(max(cache.offset - window, 0), cache.offset)
        assert {p % window: p for p in last} == {p % window: int(ring[p % window]) for p in last}


def test_memory_of_a_long_sequence_is_that_of_its_full_layers_and_one_window_a_sliding_layer(model):
    cache, config = model.make_cache(), model.config
    for length in (1000, 1, 1, 23):
        mx.eval(model(mx.zeros((1, length), mx.int32), cache))
        assert {layer.offset for layer in cache.layers} == {cache.offset}
        position = 2 * config.num_key_value_heads * config.head_dim * 4  # keys and values in float32, in bytes
        full = -(-cache.offset // KVCache.STEP) * KVCache.STEP
        assert cache.nbytes == position * (full + 2 * WINDOW)


def test_a_snapshot_does_not_change_when_the_sequence_goes_on(model):
    """The ring is written in place, but never the one that a snapshot holds."""
    cache = model.make_cache()
    tokens = list(range(20))
    last_logits(model, tokens, cache)
    cache.snapshot()
    rings = [ring for layer in cache.layers if isinstance(layer, RotatingKVCache) for ring in layer.arrays]
    before = [np.array(ring) for ring in rings]
    for token in range(2 * WINDOW):
        last_logits(model, [token], cache)
    last_logits(model, tokens, cache)
    assert all(np.array_equal(np.array(ring), old) for ring, old in zip(rings, before, strict=True))
    assert cache.rewind(20) == 20
    expected = last_logits(model, [*tokens, 5])
    assert np.abs(last_logits(model, [5], cache) - expected).max() < TOLERANCE


def test_a_snapshot_can_be_returned_to_repeatedly(model):
    cache, tokens = model.make_cache(), list(range(30, 50))
    last_logits(model, tokens, cache)
    cache.snapshot()
    for other in (3, 11, 4):
        assert cache.rewind(20) == 20
        branch = [other] * 9
        assert np.abs(last_logits(model, branch, cache) - last_logits(model, tokens + branch)).max() < TOLERANCE


def test_rewind_goes_to_the_nearest_snapshot_before_and_else_to_the_beginning(model):
    cache = model.make_cache()
    for length in (20, 10, 10):
        last_logits(model, [1] * length, cache)
        cache.snapshot()
    last_logits(model, [1], cache)
    assert cache.rewind(41) == 41  # the current position
    assert cache.rewind(39) == 30
    last_logits(model, [2] * 20, cache)
    assert cache.rewind(45) == 30  # the snapshot at 40 belonged to another continuation and was dropped
    assert cache.rewind(29) == 20
    assert cache.rewind(19) == 0 and cache.offset == 0
    assert cache.rewind(0) == 0


def test_no_more_than_the_earliest_and_the_latest_snapshots_are_kept(model):
    cache = model.make_cache()
    last_logits(model, [1] * 20, cache)
    for _ in range(MOST_SNAPSHOTS + 2):
        cache.snapshot()
        last_logits(model, [1], cache)
    assert cache.rewind(23) == 23  # of the snapshots at 20, 21, 22 and so on, those at 21 and 22 were dropped
    assert cache.rewind(22) == 20
    assert cache.rewind(19) == 0


def test_a_copy_goes_on_from_any_reachable_position_and_leaves_the_original_alone(model):
    ids = [(7 * n) % 40 for n in range(60)]
    cache = model.make_cache()
    last_logits(model, ids[:30], cache)
    cache.snapshot()
    last_logits(model, ids[30:50], cache)
    for position in (30, 50):
        assert cache.reachable(position) == position
        copied = cache.copied(position)
        wanted = model.make_cache()
        last_logits(model, ids[:30], wanted)
        if position > 30:
            last_logits(model, ids[30:position], wanted)
        before = [mx.array(array) for array in cache.arrays]
        assert np.allclose(last_logits(model, [3, 4], copied), last_logits(model, [3, 4], wanted), atol=1e-5)
        assert copied.rewind(31) == 30
        assert all(mx.array_equal(a, b) for a, b in zip(before, cache.arrays, strict=True)) and cache.offset == 50
    assert cache.reachable(49) == 30 and cache.reachable(29) == 0 and cache.copied(0).offset == 0
    assert cache.has_snapshot(30) and not cache.has_snapshot(31)


def test_rewind_is_exact_while_nothing_has_left_the_window(model):
    cache = model.make_cache()
    last_logits(model, list(range(WINDOW)), cache)
    assert cache.rewind(3) == 3
    last_logits(model, list(range(WINDOW - 2)), cache)
    assert cache.offset == WINDOW + 1
    assert cache.rewind(WINDOW) == 0


def test_a_model_without_sliding_layers_rewinds_anywhere():
    mx.random.seed(2)
    model = Transformer(tiny_config(FULL, FULL))
    cache, tokens = model.make_cache(), list(range(40))
    last_logits(model, tokens, cache)
    assert cache.rewind(17) == 17
    assert np.abs(last_logits(model, [9], cache) - last_logits(model, [*tokens[:17], 9])).max() < TOLERANCE


def test_a_model_of_sliding_layers_only_counts_and_rewinds():
    mx.random.seed(3)
    model = Transformer(tiny_config(SLIDING, SLIDING))
    cache, tokens = model.make_cache(), list(range(40))
    last_logits(model, tokens, cache)
    assert cache.offset == 40 and cache.rewind(17) == 0
    assert np.abs(last_logits(model, tokens[:9], cache) - last_logits(model, tokens[:9])).max() < TOLERANCE


@pytest.mark.parametrize("position", [-1, 6])
def test_rewinding_to_where_the_cache_never_was_is_an_error(model, position):
    cache = model.make_cache()
    last_logits(model, [1, 2, 3, 4, 5], cache)
    with pytest.raises(OptionError, match=f"cannot rewind to position {position}.*0 to 5"):
        cache.rewind(position)
    assert cache.offset == 5


ACTIONS = st.lists(
    st.tuples(st.just("feed"), st.integers(1, 2 * WINDOW + 2))
    | st.tuples(st.just("feed"), st.just(1))
    | st.tuples(st.just("snapshot"), st.just(0))
    | st.tuples(st.just("rewind"), st.integers(0, 1000)),
    min_size=2,
    max_size=14,
)


@settings(max_examples=60, deadline=None, database=None)
@given(ACTIONS, st.integers(0, 2**32))
def test_any_way_of_feeding_and_stepping_back_gives_the_logits_of_a_fresh_model(model, actions, seed):
    """After every feed, the last logits equal those of all tokens fed at once; `rewind` goes where it promises."""
    rng = np.random.default_rng(seed)
    cache, tokens, snapshots = model.make_cache(), [], set()
    for action, amount in actions:
        if action == "feed":
            new = rng.integers(0, model.config.vocab_size, amount).tolist()
            tokens += new
            assert np.abs(last_logits(model, new, cache) - last_logits(model, tokens)).max() < TOLERANCE
        elif action == "snapshot":
            cache.snapshot()
            snapshots.add(len(tokens))
        else:
            wanted = amount % (len(tokens) + 1)
            exact = wanted == len(tokens) or len(tokens) <= WINDOW
            reached = cache.rewind(wanted)
            assert reached == (wanted if exact else max({0} | {p for p in snapshots if p <= wanted}))
            tokens = tokens[:reached]
            snapshots = {p for p in snapshots if p <= reached}
        assert cache.offset == len(tokens)
