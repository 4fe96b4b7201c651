"""Addressed random bits: golden values, and the statistics of dropout over every part of an address.

All seeds are fixed, so each test gives the same numbers every time; bounds are at five standard errors.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjt.core import prng, seeds
from fjt.core.seeds import make_key, permutation
from fjt.models import layers
from fjt.models.layers import Tokens

BOUND = 5.0
GOLDEN_KEY = [122353166, 2669643759]
GOLDEN_FOLD = [3135721483, 3044793833]
GOLDEN_BITS = [219208753, 3489092269, 1430712045, 1312385546]
GOLDEN_WORDS = [
    [
        [2608879776, 3633323799],
        [2481980854, 1840302029],
        [2596012450, 2606728909],
        [2049237620, 2937014861],
        [2571528156, 1549530263],
    ],
    [
        [3021373713, 76031928],
        [3552944279, 3658094479],
        [1908984107, 1174515678],
        [215081870, 1908763679],
        [3801844002, 3247660341],
    ],
    [
        [3888380388, 169601920],
        [932111176, 1460781389],
        [76447549, 1755069187],
        [462122955, 3427798136],
        [398692555, 755704902],
    ],
]
GOLDEN_ORDERS = [[3, 8, 0, 1, 5, 2, 7, 4, 9, 6], [1, 7, 2, 9, 4, 6, 8, 5, 0, 3], [9, 4, 0, 1, 2, 5, 3, 7, 6, 8]]


def words(seeds=1, steps=1, depth=0, examples=(0,), positions=(0,), heads=None, features=128):
    """u32[seed, step, layer, site, example, position(, head), feature], as the model addresses them.

    depth: layers beside the embeddings.
    """
    key = jnp.stack([jnp.asarray(make_key(seed, "dropout")) for seed in range(seeds)])
    a, b = prng.fold((key[:, :1], key[:, 1:]), jnp.arange(steps)[None])  # as in train_step
    example, position = (jnp.asarray(x) for x in np.meshgrid(examples, positions, indexing="ij"))
    tokens = Tokens(example[None], position[None], example[None])  # the segments are not read
    keys = jax.vmap(jax.vmap(lambda *key: layers.token_keys(key, tokens, depth)))(a, b)
    a, b = (k[:, :, :, :, 0, :, :, None] for k in keys)
    feature = jnp.arange(features)
    if heads is not None:  # as in attend: a feature is a key's position, and its head
        a, b, feature = a[..., None], b[..., None], feature[None] + layers.HEAD_STRIDE * jnp.arange(heads)[:, None]
    return np.asarray(prng.uniform_bits((a, b), feature))


# Two grids of about a million words each: the hidden sites, and attention with its heads.
GRIDS = {
    "hidden": dict(seeds=3, steps=4, depth=1, examples=range(8), positions=range(16), features=64),
    "attention": dict(seeds=2, steps=1, depth=1, examples=range(100, 102), positions=range(64), heads=8, features=64),
}
RATES = (0.01, 0.1, 0.5, 0.9)


@pytest.fixture(scope="module", params=GRIDS)
def grid(request):
    return words(**GRIDS[request.param])


def check_bits(bits):
    """Every one of the 32 bits is set half of the time, and any two of them agree half of the time."""
    flat = bits.ravel()
    columns = np.stack([(flat >> np.uint32(i)) & np.uint32(1) for i in range(32)]).astype(np.float32) * 2 - 1
    scale = np.sqrt(flat.size)
    assert np.abs(columns.sum(axis=1, dtype=np.float64)).max() / scale < BOUND
    products = (columns @ columns.T) / scale
    assert np.abs(products[np.triu_indices(32, 1)]).max() < BOUND


def check_dropout(bits, rate):
    """The number dropped in any part of the grid is binomial, whatever its members' addresses share.

    For each subset of the axes, the counts of the cells it spans have the variance of independent draws:
    dependence of any two words that share those coordinates, and differ in the others, would show in it.
    """
    dropped = bits < np.uint32(rate * 2**32)
    axes = [i for i in range(dropped.ndim) if dropped.shape[i] > 1]
    share = dropped.mean()
    assert abs(share - rate) < BOUND * np.sqrt(rate * (1 - rate) / dropped.size)
    for num in range(1, len(axes)):
        for kept in itertools.combinations(axes, num):
            counts = dropped.sum(axis=tuple(i for i in range(dropped.ndim) if i not in kept))
            members = dropped.size // counts.size
            if members * min(rate, 1 - rate) < 2:
                continue
            deviation = (counts - members * rate) ** 2 / (members * rate * (1 - rate))
            # The variance of a squared standardised binomial: 2 + (1 - 6 pq) / (n pq).
            spread = np.sqrt((2 + (1 / (rate * (1 - rate)) - 6) / members) * counts.size)
            assert abs(deviation.sum() - counts.size) < BOUND * spread, f"axes {kept}"


def check_neighbours(bits):
    """Words whose addresses differ by one along one axis share no bits: xor is balanced, values are uncorrelated."""
    for axis in range(bits.ndim):
        if bits.shape[axis] == 1:
            continue
        one, two = (np.take(bits, range(start, bits.shape[axis] - 1 + start), axis).ravel() for start in (0, 1))
        scale = np.sqrt(one.size)
        both = one ^ two
        for i in range(32):
            agree = np.count_nonzero((both >> np.uint32(i)) & np.uint32(1))
            assert abs(2 * agree - one.size) / scale < BOUND, f"bit {i} along axis {axis}"
        x, y = one / 2.0**32 - 0.5, two / 2.0**32 - 0.5
        assert abs(np.sum(x * y) * 12) / scale < BOUND, f"axis {axis}"
        table = np.bincount((one >> np.uint32(28)) * 16 + (two >> np.uint32(28)), minlength=256)
        assert stats.chisquare(table).pvalue > 1e-6, f"axis {axis}"


def test_bits_are_balanced(grid):
    check_bits(grid)


@pytest.mark.parametrize("rate", RATES)
def test_dropout_is_binomial_over_every_part_of_the_address(grid, rate):
    check_dropout(grid, rate)


def test_neighbouring_addresses_are_independent(grid):
    check_neighbours(grid)


def test_values_are_uniform(grid):
    counts = np.bincount(grid.ravel() >> np.uint32(20), minlength=4096)
    assert 1e-6 < stats.chisquare(counts).pvalue < 1 - 1e-6
    assert stats.kstest(grid.ravel()[:200_000] / 2.0**32, "uniform").pvalue > 1e-6
    expected = grid.size * (grid.size - 1) / 2 / 2**32  # pairs of equal words
    equal = grid.size - np.unique(grid).size
    assert abs(equal - expected) < BOUND * np.sqrt(expected)


def test_lags_along_features_and_positions():
    """Autocorrelation at every lag up to 512 over a row of features, and over positions at a feature."""
    for bits in (
        words(positions=range(32), features=2048)[:, :, :, 0],
        words(positions=range(2048), features=32)[:, :, :, 0],
    ):
        x = bits.squeeze() / 2.0**32 - 0.5
        x = x if x.shape[-1] == 2048 else x.T
        power = np.abs(np.fft.rfft(x, 4096, axis=-1)) ** 2
        lagged = np.fft.irfft(power.sum(axis=0), 4096)[1:513] * 12
        pairs = x.shape[0] * (2048 - np.arange(1, 513))
        assert np.abs(lagged / np.sqrt(pairs)).max() < BOUND


def test_queries_and_keys_do_not_mirror():
    bits = words(positions=range(64), examples=range(16), heads=4, features=64)[0, 0, 0, 1]
    x = bits / 2.0**32 - 0.5
    upper = np.triu_indices(64, 1)
    one, two = x[:, upper[0], :, upper[1]], x[:, upper[1], :, upper[0]]
    assert abs(np.sum(one * two) * 12) / np.sqrt(one.size) < BOUND


def drop_fold_word(monkeypatch):
    """Words of the address that are folded in without effect."""
    fold = prng.fold
    monkeypatch.setattr(prng, "fold", lambda key, word: fold(key, jnp.zeros_like(word)))


def add_instead_of_hash(monkeypatch):
    """key + word: seed s at step k + 1 is seed s + 1 at step k, and so for every pair of words."""

    def fold(key, word):
        a = key[0] + jnp.asarray(word).astype(jnp.uint32)
        return a, jnp.broadcast_to(key[1], a.shape)

    monkeypatch.setattr(prng, "fold", fold)


def one_multiplication(monkeypatch):
    """A linear sequence: too weak a hash of the feature."""

    def bits(key, feature):
        feature = feature.reshape((1,) * (key[0].ndim - feature.ndim) + feature.shape)
        return (key[0] + feature.astype(jnp.uint32)) * prng.GOLDEN

    monkeypatch.setattr(prng, "uniform_bits", bits)


def biased(monkeypatch):
    """The highest bit is forced in one word of twenty."""
    uniform_bits = prng.uniform_bits

    def forced(key, feature):
        bits = uniform_bits(key, feature)
        return jnp.where(bits % 20 == 0, bits | jnp.uint32(1 << 31), bits)

    monkeypatch.setattr(prng, "uniform_bits", forced)


@pytest.mark.parametrize("mutant", [drop_fold_word, add_instead_of_hash, one_multiplication, biased])
def test_weaker_bits_are_rejected(mutant, monkeypatch):
    mutant(monkeypatch)
    weak = words(seeds=2, steps=2, examples=range(8), positions=range(16))
    failed = 0
    for check in (check_bits, lambda bits: check_dropout(bits, 0.5), check_neighbours):
        try:
            check(weak)
        except AssertionError:
            failed += 1
    assert failed


def test_golden_bits():
    """The published address of bits must never change: a resumed run would draw others."""
    assert make_key(0, "dropout").tolist() == GOLDEN_KEY
    key = prng.fold(tuple(jnp.asarray(make_key(0, "dropout"))), 7)
    assert [int(k) for k in key] == GOLDEN_FOLD
    bits = prng.uniform_bits(tuple(k[None] for k in key), jnp.arange(4))
    assert np.asarray(bits).tolist() == GOLDEN_BITS
    # Seed 0, step 1; layers -1, 0 and 1; the five sites; example 12, position 3; features 0 and 5.
    full = words(steps=2, depth=2, examples=(12,), positions=(3,))[0, 1, :, :, 0, 0]
    assert full[:, :, [0, 5]].tolist() == GOLDEN_WORDS
    sites = (layers.EMBEDDINGS, layers.PROBABILITIES, layers.ATTENTION_OUTPUT, layers.OUTPUT, layers.METHODS)
    assert sites == (0, 1, 2, 3, 4)


def test_lowbias32_is_the_published_one():
    """hash-prospector's lowbias32 in plain integers."""

    def lowbias32(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    values = [0, 1, 2, 12345, 2**31, 2**32 - 1]
    assert np.asarray(seeds.mix(jnp.asarray(values, jnp.uint32))).tolist() == [lowbias32(x) for x in values]


def test_streams_and_seeds_are_separate():
    keys = {tuple(make_key(seed, stream)) for seed in range(1000) for stream in ("init", "data", "dropout")}
    assert len(keys) == 3000
    assert make_key(3, "data").dtype == np.uint32 and make_key(3, "data").shape == (2,)


def test_the_next_step_is_not_the_next_seed():
    """64 seeds x 64 steps: no key occurs twice, neither of its words by more than chance."""
    keys = np.stack([make_key(seed, "dropout") for seed in range(64)])
    a, b = prng.fold((jnp.asarray(keys[:, :1]), jnp.asarray(keys[:, 1:])), jnp.arange(64)[None])
    pairs = set(zip(np.asarray(a).ravel().tolist(), np.asarray(b).ravel().tolist(), strict=True))
    assert len(pairs) == 64 * 64
    assert np.unique(a).size > 64 * 64 - 5 and np.unique(b).size > 64 * 64 - 5


@pytest.mark.parametrize("rate", [0.0, *RATES])
def test_dropout_scales_what_it_keeps(rate):
    key = tuple(jnp.asarray(k)[None, None] for k in make_key(5, "dropout"))
    key = prng.fold(key, jnp.arange(512)[:, None])
    x = jnp.ones((512, 1024))
    y = np.asarray(jax.jit(prng.dropout)(x, key, jnp.arange(1024), jnp.float32(rate)))
    kept = np.float32(1.0) / (np.float32(1.0) - np.float32(rate))
    assert set(np.unique(y)) <= {np.float32(0.0), kept}
    assert abs((y == 0).mean() - rate) <= BOUND * np.sqrt(rate * (1 - rate) / y.size)
    assert y.mean() == pytest.approx(1.0, abs=BOUND * np.sqrt(rate / (1 - rate) / y.size) + 1e-6)


def test_dropout_at_another_rate_nests():
    """The same address has the same uniform number: what a low rate drops, a higher one drops too."""
    key = tuple(jnp.asarray(k)[None] for k in make_key(5, "dropout"))
    low, high = (
        prng.dropout(jnp.ones((1, 4096)), tuple(k[:, None] for k in key), jnp.arange(4096), jnp.float32(r))
        for r in (0.1, 0.3)
    )
    assert not np.any((np.asarray(low) == 0) & (np.asarray(high) != 0))


def test_dropout_keeps_the_dtype():
    key = tuple(jnp.asarray(k)[None, None] for k in make_key(0, "dropout"))
    for dtype in (jnp.bfloat16, jnp.float32):
        assert prng.dropout(jnp.ones((2, 8), dtype), key, jnp.arange(8), jnp.float32(0.5)).dtype == dtype


def test_permutation_is_one_and_golden():
    for n in (1, 2, 31, 1000):
        assert sorted(permutation(3, 0, n).tolist()) == list(range(n))
    assert permutation(0, 0, 10).tolist() == GOLDEN_ORDERS[0]
    assert permutation(0, 1, 10).tolist() == GOLDEN_ORDERS[1]
    assert permutation(1, 0, 10).tolist() == GOLDEN_ORDERS[2]


def test_permutation_is_uniform():
    """Each of 8 examples stands at each of 8 places equally often over 4,000 epochs and over 4,000 seeds."""
    for orders in (
        [permutation(1, e, 8) for e in range(4000)],
        [permutation(s, 1, 8) for s in range(4000)],
    ):
        table = np.stack([np.bincount(column, minlength=8) for column in np.stack(orders).T])
        assert stats.chisquare(table.ravel(), ddof=14).pvalue > 1e-6
        assert len({tuple(order) for order in orders}) > 3600  # of 40,320
