"""Sampling: each option equals its definition, and draws follow their distribution, on a GPU and on the CPU backend."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import SamplingOptions
from mlx_oss.backend import device
from mlx_oss.errors import OptionError
from mlx_oss.generation import sampling_mlx, sampling_numpy
from mlx_oss.generation.sampling import Sampler
from mlx_oss.tokenizer import LAST_TEXT_ID, N_VOCAB


@pytest.fixture(autouse=True, params=["GPU", "CPU backend"])
def arithmetic(request, monkeypatch) -> str:
    """Every test runs with MLX's arithmetic, as on a GPU, and with NumPy's, as on the CPU backend."""
    monkeypatch.setattr(device, "on_gpu", lambda: request.param == "GPU")
    return request.param


def random_logits(seed: int, size: int = 200, ties: bool = False) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)
    return np.round(values * 2) / 2 if ties else values


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def kept(logits: np.ndarray, **options: float) -> np.ndarray:
    """Which ids can be drawn."""
    filtered = Sampler(SamplingOptions(**options)).filtered(mx.array(logits) if device.on_gpu() else logits)
    return np.isfinite(np.array(filtered)) if device.on_gpu() else filtered.kept() > 0


def draws(count: int, logits: np.ndarray, options: SamplingOptions) -> list[int]:
    sampler = Sampler(options)
    prepared = sampler.logits(mx.array(logits))
    return [sampler.sample(prepared).item() for _ in range(count)]


def most_likely(logits: np.ndarray) -> np.ndarray:
    """Ids from the most to the least likely; equally likely ones by id."""
    return np.argsort(-logits, kind="stable")


def nucleus(logits: np.ndarray, top_p: float) -> np.ndarray:
    """arXiv 1904.09751: the shortest list of the most likely ids that adds up to top_p."""
    keep, total = np.zeros(logits.shape, bool), 0.0
    for token in most_likely(logits):
        if total >= top_p:
            break
        keep[token] = True
        total += softmax(logits)[token]
    return keep


@pytest.mark.parametrize("temperature", [0, 1e-6, 1e-45])
def test_temperature_zero_or_almost_takes_the_likeliest_and_of_equals_the_lowest_id(temperature):
    logits = random_logits(0)
    assert draws(3, logits, SamplingOptions(temperature=temperature)) == [logits.argmax()] * 3
    logits[[17, 90]] = 50.0
    assert draws(1, logits, SamplingOptions(temperature=0)) == [17]


@pytest.mark.parametrize("temperature", [0, 1, 100])
def test_reserved_ids_are_never_sampled(temperature):
    """However likely they are: the ids above `<|endofprompt|>` have no meaning."""
    logits = np.zeros(N_VOCAB, np.float32)
    logits[LAST_TEXT_ID + 1 :] = 1e6
    assert max(draws(20, logits, SamplingOptions(temperature=temperature, seed=0))) <= LAST_TEXT_ID
    logits[LAST_TEXT_ID] = 1e5
    assert draws(1, logits, SamplingOptions(temperature=temperature)) == [LAST_TEXT_ID]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top_k", [1, 2, 17, 199, 200, 1000])
def test_top_k_keeps_the_k_likeliest_and_what_equals_the_last_of_them(top_k, ties):
    for seed in range(5):
        logits = random_logits(seed, ties=ties)
        least = np.sort(logits)[::-1][min(top_k, logits.size) - 1]
        assert np.array_equal(kept(logits, top_k=top_k), logits >= least)
        assert ties or kept(logits, top_k=top_k).sum() == min(top_k, logits.size)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_smallest_nucleus_and_of_equals_the_lower_ids(top_p, ties):
    for seed in range(5):
        logits = random_logits(seed, ties=ties)
        keep = kept(logits, top_p=top_p)
        assert np.array_equal(keep, nucleus(logits, top_p))
        assert keep[logits.argmax()]


@pytest.mark.parametrize("min_p", [0.001, 0.1, 0.7, 1.0])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(min_p):
    for seed in range(5):
        probs = softmax(random_logits(seed))
        assert np.array_equal(kept(random_logits(seed), min_p=min_p), probs >= min_p * probs.max())


@pytest.mark.parametrize("filters", [{"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 9}])
def test_filters_see_the_probabilities_at_the_temperature(filters):
    logits = random_logits(1)
    hot = kept(logits, temperature=2.5, **filters)
    assert np.array_equal(hot, kept(logits / np.float32(2.5), **filters))
    assert "top_k" in filters or hot.sum() > kept(logits, **filters).sum()


def test_filters_apply_in_order_each_to_what_the_previous_one_kept():
    """The order is top_k, min_p, top_p: the nucleus is one of the probabilities that remain."""
    logits = random_logits(2)
    first = np.where(kept(logits, top_k=30), logits, -np.inf)
    second = np.where(kept(first, min_p=0.15), first, -np.inf)
    third = nucleus(second, 0.7)
    assert np.array_equal(kept(logits, top_k=30, min_p=0.15, top_p=0.7), third)
    assert third.sum() < np.isfinite(second).sum() < 30
    assert third.sum() != (nucleus(logits, 0.7) & np.isfinite(second)).sum()  # the order matters here


def test_without_filters_every_id_is_kept():
    assert kept(random_logits(3)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    """Pearson's chi-squared over six ids (5 degrees of freedom) is below what chance exceeds once in 100,000."""
    count, logits = 1000, np.array([0.0, 0.5, 1.0, -0.5, 0.75, 0.25], np.float32)
    seen = np.bincount(draws(count, logits, SamplingOptions(temperature=temperature, seed=1)), minlength=6)
    expected = count * softmax(logits / temperature)
    assert ((seen - expected) ** 2 / expected).sum() < 30.9


def test_successive_draws_are_independent():
    """Pairs of draws follow their joint distribution, too (15 degrees of freedom)."""
    count, logits = 600, np.array([0.0, 0.5, 1.0, 0.2], np.float32)
    drawn = np.array(draws(2 * count, logits, SamplingOptions(seed=2))).reshape(count, 2)
    seen = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    expected = count * np.outer(softmax(logits), softmax(logits)).reshape(-1)
    assert ((seen - expected) ** 2 / expected).sum() < 50.0


def test_what_is_filtered_out_is_never_drawn():
    logits = random_logits(4, size=20)
    options = SamplingOptions(top_k=5, temperature=100.0, seed=3)
    assert set(draws(300, logits, options)) == set(most_likely(logits)[:5].tolist())


def test_a_seed_decides_the_draws_and_no_seed_draws_anew():
    logits = random_logits(5)
    assert draws(30, logits, SamplingOptions(seed=7)) == draws(30, logits, SamplingOptions(seed=7))
    others = [draws(30, logits, SamplingOptions(seed=seed)) for seed in (7, 8, 2**64 - 1, None, None)]
    assert len({tuple(drawn) for drawn in others}) == 5


def test_draws_do_not_depend_on_mlxs_global_seed():
    logits = random_logits(6)
    mx.random.seed(1)
    first = draws(20, logits, SamplingOptions(seed=7))
    mx.random.seed(2)
    assert draws(20, logits, SamplingOptions(seed=7)) == first
    assert draws(20, logits, SamplingOptions()) != first


def test_logit_bias_is_added_and_bans_and_forces():
    logits = random_logits(7)
    biased = Sampler(SamplingOptions(logit_bias={3: 2.5, 8: -1, 0: 0.0})).logits(mx.array(logits))
    expected = logits.copy()
    expected[3] += 2.5
    expected[8] -= 1
    assert np.array_equal(np.array(biased), expected)
    best = int(logits.argmax())
    assert best not in draws(200, logits, SamplingOptions(logit_bias={best: -100}, seed=0))
    assert set(draws(50, logits, SamplingOptions(logit_bias={11: 100}, seed=0))) == {11}


def test_a_bias_for_an_id_the_model_does_not_have_is_an_error():
    sampler = Sampler(SamplingOptions(logit_bias={2: 1.0, 300: 1.0}))
    with pytest.raises(OptionError, match=r"logit_bias\[300\].*of 200 ids"):
        sampler.logits(mx.array(random_logits(0)))


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_divides_positive_logits_and_multiplies_others_once_each(penalty):
    """The formula of arXiv 1909.05858 as transformers applies it; repeated tokens count once."""
    logits = random_logits(8)
    logits[5] = 0.0
    recent = [*range(40), 3, 3, 199]
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty))
    expected = logits.copy()
    for token in set(recent):
        expected[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    np.testing.assert_allclose(np.array(sampler.logits(mx.array(logits), recent)), expected, rtol=1e-6)


def test_repetition_penalty_looks_back_as_far_as_its_window():
    logits = random_logits(9)
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0, repetition_window=3))
    changed = np.array(sampler.logits(mx.array(logits), [1, 2, 3, 4, 5])) != logits
    assert np.flatnonzero(changed).tolist() == [3, 4, 5]
    whole = Sampler(SamplingOptions(repetition_penalty=2.0)).logits(mx.array(logits), [1, 2])
    assert np.flatnonzero(np.array(whole) != logits).tolist() == [1, 2]


def test_repetition_penalty_ignores_ids_that_cannot_be_sampled():
    """A prompt can contain reserved ids; the logits end before them."""
    logits = random_logits(10)
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    changed = np.array(sampler.logits(mx.array(logits), [4, 200, 10**6])) != logits
    assert np.flatnonzero(changed).tolist() == [4]
    assert np.array_equal(np.array(sampler.logits(mx.array(logits), [200])), logits)


@pytest.mark.parametrize(("penalty", "window", "needed"), [(1.0, 64, False), (1.1, 0, False), (1.1, 1, True)])
def test_recent_tokens_are_needed_only_when_they_matter(penalty, window, needed):
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty, repetition_window=window))
    logits = random_logits(11)
    assert sampler.needs_recent == needed
    assert np.array_equal(np.array(sampler.logits(mx.array(logits), [1, 2])), logits) != needed


def test_frequency_and_presence_penalties_are_openais_formula():
    """logit - count * frequency_penalty - (count > 0) * presence_penalty; ids that cannot be sampled do not matter."""
    logits, counts = random_logits(13), {3: 1, 5: 4, 199: 2, 10**6: 9}
    for frequency, presence in ((0.5, 0.0), (0.0, 1.5), (-2.0, 2.0), (0.25, -0.75)):
        sampler = Sampler(SamplingOptions(frequency_penalty=frequency, presence_penalty=presence))
        expected = logits.copy()
        for token in (3, 5, 199):
            expected[token] -= counts[token] * frequency + presence
        assert sampler.needs_counts and not sampler.needs_recent
        np.testing.assert_allclose(np.array(sampler.logits(mx.array(logits), counts=counts)), expected, rtol=1e-6)
        assert np.array_equal(np.array(sampler.logits(mx.array(logits), counts={})), logits)
    assert not Sampler(SamplingOptions()).needs_counts


def test_logits_are_left_alone_and_come_back_in_float32():
    logits = mx.array(random_logits(12)).astype(mx.bfloat16)
    before = np.array(logits.astype(mx.float32))
    sampler = Sampler(SamplingOptions(logit_bias={1: 5.0}, repetition_penalty=2.0))
    assert sampler.logits(logits, [1, 2, 3]).dtype == (mx.float32 if device.on_gpu() else np.float32)
    assert np.array_equal(np.array(logits.astype(mx.float32)), before)


def test_the_defaults_are_openais():
    assert SamplingOptions() == SamplingOptions(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, 101, math.nan, math.inf, True, "1", None]),
        ("top_p", [0, -0.1, 1.1, math.nan, False, "0.9"]),
        ("min_p", [-0.1, 1.1, math.nan, True]),
        ("repetition_penalty", [0, -1, 101, math.nan, True]),
        ("frequency_penalty", [-2.1, 3, math.nan, True, "1"]),
        ("presence_penalty", [-2.1, 3, math.nan, None]),
        ("top_k", [-1, 1.0, True, LAST_TEXT_ID + 1, "5"]),
        ("top_logprobs", [-1, 101, 2.0, True]),
        ("repetition_window", [-1, 1.5, True]),
        ("seed", [-1, 2**64, 1.0, True, "0"]),
        ("logit_bias", [None, [1]]),
        ("logit_bias", [{-1: 1.0}, {LAST_TEXT_ID + 1: 1.0}, {"a": 1.0}, {1.0: 1.0}, {True: 1.0}]),
        ("logit_bias", [{1: math.nan}, {1: math.inf}, {1: 1e9}, {1: "x"}, {1: None}, {1: True}]),
    ],
)
def test_an_option_out_of_range_is_named(name, values):
    for value in values:
        with pytest.raises(OptionError, match=f"^{name}"):
            SamplingOptions(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    SamplingOptions(temperature=100, top_p=1e-9, top_k=LAST_TEXT_ID, min_p=1, seed=2**64 - 1, top_logprobs=100)
    SamplingOptions(repetition_penalty=0.01, repetition_window=0, logit_bias={0: -1000, LAST_TEXT_ID: 1000.0})
    SamplingOptions(frequency_penalty=-2, presence_penalty=2)


@pytest.mark.parametrize("options", [{}, {"top_k": 20, "min_p": 0.01}, {"top_p": 0.8, "temperature": 0.6}])
def test_compiled_as_on_a_gpu_the_same_tokens_are_drawn(monkeypatch, options):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    logits, options = random_logits(2), SamplingOptions(seed=3, **options)
    plain = draws(30, logits, options)
    compiled: list[object] = []
    monkeypatch.setattr(sampling_mlx, "compiled", lambda f: compiled.append(f) or mx.compile(f))
    assert draws(30, logits, options) == plain and compiled


def test_draws_at_different_positions_are_independent():
    first, second, again = (Sampler(SamplingOptions(seed=7), position) for position in (10, 11, 10))
    logits = first.logits(mx.zeros((50,)))
    pairs = [(first.sample(logits).item(), second.sample(logits).item()) for _ in range(600)]
    same = sum(a == b for a, b in pairs)
    assert same < 600 / 50 * 3  # about 12 by chance
    assert [again.sample(logits).item() for _ in range(5)] == [a for a, _ in pairs[:5]]


SHAPES = ["normal", "peaked", "narrow", "flat", "halves", "falling", "underflowing"]


def shaped(shape: str, size: int, seed: int) -> np.ndarray:
    """Logits (size,) of a kind that sorting or adding up may find hard."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(0, 3, size),
        "peaked": lambda: rng.normal(0, 1, size) + 30 * (np.arange(size) % 700 == 3),
        "narrow": lambda: rng.normal(0, 1e-3, size),
        "flat": lambda: np.full(size, -2.5),
        "halves": lambda: rng.integers(-6, 6, size) / 2,
        "falling": lambda: np.linspace(9, -9, size),
        "underflowing": lambda: rng.uniform(-200, 0, size),
    }
    return values[shape]().astype(np.float32)


def definition(logits: np.ndarray, options: SamplingOptions, slack: float) -> np.ndarray:
    """Which ids can be drawn, in float64, where min_p and top_p keep a little more (`slack` above 0) or less."""
    logits = (logits / np.float32(options.temperature)).astype(np.float64)
    if 0 < options.top_k < logits.size:
        logits = np.where(logits < np.sort(logits)[-options.top_k], -np.inf, logits)
    logits = np.where(softmax(logits) < options.min_p * softmax(logits).max() * (1 - slack), -np.inf, logits)
    order, keep = most_likely(logits), np.ones(logits.shape, bool)
    if options.top_p < 1:
        probs = softmax(logits)[order]
        keep[order] = np.cumsum(probs) - probs < options.top_p + slack
    return keep & np.isfinite(logits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 6000, 50_021])
def test_both_ways_to_compute_keep_the_ids_that_the_options_say(shape, size):
    """Whatever the distribution is. Sizes are around the blocks that NumPy adds up, and one is split in halves."""
    if device.on_gpu() and size > 6000:
        pytest.skip("MLX's running sum is off by more than the tolerance after so many")
    rng = np.random.default_rng(size)
    for seed in range(6):
        options = SamplingOptions(
            temperature=float(rng.choice([0.1, 0.7, 1.0, 3.0])),
            top_k=int(rng.choice([0, 1, 9, size // 2, size - 1])),
            min_p=float(rng.choice([0, 1e-3, 0.3])),
            top_p=float(rng.choice([1e-6, 0.3, 0.95, 0.9999, 1.0])),
        )
        logits = shaped(shape, size, seed)
        keep = kept(logits, **{name: getattr(options, name) for name in ("temperature", "top_k", "min_p", "top_p")})
        likely = softmax(logits / options.temperature) > 1e-35  # the others are never drawn, kept or not
        assert not (definition(logits, options, -1e-5) & likely & ~keep).any(), options
        assert not (keep & likely & ~definition(logits, options, 1e-5)).any(), options
        assert keep[logits.argmax()]


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 1500}, {"min_p": 0.05, "temperature": 1.5}])
@pytest.mark.parametrize("shape", ["normal", "flat", "falling", "peaked"])
def test_draws_from_thousands_of_ids_follow_their_probabilities(shape, options):
    """Chi-squared over 20 groups of ids (19 degrees of freedom) is below what chance exceeds once in 100,000."""
    count, logits, options = 1500, shaped(shape, 3000, 1), SamplingOptions(seed=5, **options)
    drawn = np.array(draws(count, logits, options))
    keep = definition(logits, options, 0)
    assert keep[drawn].all()
    probs = softmax(np.where(keep, logits / options.temperature, -np.inf))
    group = np.minimum(np.cumsum(probs) * 20, 19.999).astype(int)  # neighbours, about as likely together as the others
    expected = count * np.bincount(group, probs, minlength=20)
    seen = np.bincount(group[drawn], minlength=20)
    some = expected > 0
    assert ((seen - expected)[some] ** 2 / expected[some]).sum() < 56 and not seen[~some].any()


@pytest.mark.parametrize("size", [1, 5, 512, 513, 2000])
def test_no_random_number_leads_to_an_id_of_weight_zero(size):
    """Not even the smallest and the largest that there are."""
    rng = np.random.default_rng(size)
    for zeros in (0.0, 0.5, 0.99):
        weights = rng.random(size).astype(np.float32) * (rng.random(size) >= zeros)
        weights[size // 2] = 1e-30
        for share in (2.0**-53, 0.25, 0.5, 1 - 2.0**-53, 1.0):
            assert weights[sampling_numpy._reaching(weights, share)] > 0
            assert weights[sampling_numpy._reaching(weights, share, 1.001 * float(weights.sum()))] > 0


@pytest.mark.parametrize("count", [1, 7, 100])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [100, 1300])
def test_alternatives_are_the_most_likely_ids_best_first(shape, size, count):
    logits, sampler = shaped(shape, size, 3), Sampler(SamplingOptions())
    prepared = sampler.logits(mx.array(logits))
    chosen, ids, logprobs = (
        np.array(part) for part in sampler.log_probabilities(prepared, sampler.sample(prepared), count)
    )
    assert len(set(ids.tolist())) == count and chosen <= logprobs[0]
    assert np.array_equal(logits[ids], np.sort(logits)[::-1][:count])
    assert device.on_gpu() or np.array_equal(ids, most_likely(logits)[:count])  # of equal ones the lowest id first
    expected = logits - np.logaddexp.reduce(logits.astype(np.float64))
    np.testing.assert_allclose(logprobs, expected[ids], atol=2e-4)
    (alone,) = sampler.log_probabilities(prepared, 5, 0)
    assert alone.item() == pytest.approx(expected[5], abs=2e-4)


def test_masks_ban_the_ids_that_they_do_not_allow():
    logits = random_logits(11, size=3000)
    for number, allowed in enumerate((np.arange(3000) == 7, np.random.default_rng(1).random(3000) < 0.5)):
        sampler = Sampler(SamplingOptions(seed=number, temperature=100))
        prepared = sampler.logits(mx.array(logits), (), allowed)
        assert np.array_equal(np.array(prepared), np.where(allowed, logits, -np.inf))
        assert all(allowed[sampler.sample(prepared).item()] for _ in range(100))
        assert np.array_equal(kept(np.array(prepared)), allowed)
    short = Sampler(SamplingOptions()).logits(mx.array(logits), (), np.ones(10, bool))
    assert np.isfinite(np.array(short)).sum() == 10
