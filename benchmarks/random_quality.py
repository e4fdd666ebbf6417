"""Tests of the quality of `probinf.fast_key` and of what filters draw from it: p-values of uniformity, independence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks import record
from benchmarks.record import Row
from probinf.fast_random import NAME
from smc.paired_threefry import PAIRED_13


class Result(NamedTuple):
    """One test: its name and p-value."""

    name: str
    p_value: float


def quality(seed: int, log_size: int, generator: Any = NAME) -> Iterator[Result]:
    """Every test on streams of 2**log_size words.

    Under a perfect generator each p-value is uniform (up to the discreteness of the Poisson counts), so the chance that
    the smallest of n falls below a / n is at most a.
    """
    key = jax.random.key(seed, impl=generator)
    size = 2**log_size
    words = np.asarray(jax.random.bits(key, (size,), "uint32"))
    yield from _of_stream("one stream", words)
    children = np.asarray(jax.vmap(lambda k: jax.random.bits(k, (64,), "uint32"))(jax.random.split(key, size // 64)))
    yield from _of_stream("split keys, 64 words each", children.reshape(-1))
    yield from _of_stream("first words of split keys", children[:, 0].copy())
    folded = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (64,), "uint32"))(jnp.arange(size // 64))
    yield from _of_stream("folded keys, across keys", np.asarray(folded).T.reshape(-1))
    seeds = jax.vmap(lambda s: jax.random.bits(jax.random.key(s, impl=generator), (64,), "uint32"))
    yield from _of_stream("consecutive seeds, across seeds", np.asarray(seeds(jnp.arange(size // 64))).T.reshape(-1))
    yield from _avalanche(key)
    yield from _streams(key)
    for name, draw, law in (
        ("uniform", jax.random.uniform, scipy.stats.uniform),
        ("normal", jax.random.normal, scipy.stats.norm),
        ("exponential", jax.random.exponential, scipy.stats.expon),
    ):
        draws = np.asarray(draw(key, (size,), jnp.float32), np.float64)
        yield Result(f"{name}: Kolmogorov-Smirnov", float(scipy.stats.kstest(draws, law.cdf).pvalue))
    chain = [key]
    for _ in range(256):
        chain.append(jax.random.split(chain[-1])[0])
    late = np.concatenate([np.asarray(jax.random.bits(k, (256,), "uint32")) for k in chain])
    yield from _of_stream("keys split from split keys", late)


def _of_stream(where: str, words: np.ndarray) -> Iterator[Result]:
    count = words.size
    octets = words.view(np.uint8).reshape(count, 4)
    for i in range(4):
        yield Result(f"{where}: byte {i} uniform", _uniform(np.bincount(octets[:, i], minlength=256)))
    for lag in (1, 2, 64):
        for i in (0, 3):
            pair = (octets[:-lag, i].astype(np.int64) >> 2 << 6) + (octets[lag:, i] >> 2)
            # Pairs that do not overlap in either coordinate are independent.
            pair = pair.reshape(-1)[_apart(pair.size, lag)]
            yield Result(f"{where}: byte {i} beside that {lag} later", _uniform(np.bincount(pair, minlength=4096)))
    ones = np.array([np.count_nonzero(words >> np.uint32(b) & np.uint32(1)) for b in range(32)])
    yield Result(f"{where}: bits balanced", float(scipy.stats.chi2.sf(((2 * ones - count) ** 2 / count).sum(), 32)))
    weight = np.bitwise_count(words)
    expected = scipy.stats.binom.pmf(np.arange(33), 32, 0.5) * count
    yield Result(f"{where}: number of ones in a word", _chi_square(np.bincount(weight, minlength=33), expected))
    repeats = count - np.unique(words).size
    mean = count - 2.0**32 * -np.expm1(count * np.log1p(-(2.0**-32)))
    yield Result(f"{where}: repeated words", _two_sided_poisson(repeats, mean))
    runs = np.diff(np.flatnonzero(np.concatenate([[True], words[1:] < words[:-1], [True]])))
    yield Result(f"{where}: ascents", _ascents(runs, count))


def _apart(size: int, lag: int) -> np.ndarray:
    index = np.arange(size)
    return index[index // lag % 2 == 0]


def _ascents(runs: np.ndarray, count: int) -> float:
    """The number of descents of independent draws is asymptotically normal: mean (n - 1)/2, variance (n + 1)/12."""
    descents = runs.size - 1
    return float(2 * scipy.stats.norm.sf(abs(descents - (count - 1) / 2) / np.sqrt((count + 1) / 12)))


def _avalanche(key: jax.Array) -> Iterator[Result]:
    """Flipping one bit of the key flips every bit of the output half of the time, independently of which."""
    data = np.asarray(jax.random.key_data(key))
    number = 2**12

    @jax.jit
    def wrap(data: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.wrap_key_data(data, impl=jax.random.key_impl(key)), (number,), "uint32")

    base = np.asarray(wrap(data))
    worst = []
    for bit in range(64):
        flipped = data.copy()
        flipped[bit // 32] ^= np.uint32(1 << (bit % 32))
        change = base ^ np.asarray(wrap(flipped))
        ones = np.array([np.count_nonzero(change >> np.uint32(b) & np.uint32(1)) for b in range(32)])
        worst.append(((2 * ones - number) ** 2 / number).sum())
    yield Result("one bit of the key flipped", float(scipy.stats.chi2.sf(np.sum(worst), 32 * 64)))


def _streams(key: jax.Array) -> Iterator[Result]:
    """Correlations of uniform numbers between 256 streams."""
    count, number = 256, 4096
    for name, keys in (
        ("split", jax.random.split(key, count)),
        ("folded", jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))),
    ):
        u = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (number,), jnp.float32))(keys), np.float64)
        z = (u - 0.5) * np.sqrt(12)
        corr = (z @ z.T / np.sqrt(number))[np.triu_indices(count, 1)]
        most = np.abs(corr).max()
        p = -np.expm1(corr.size * np.log1p(-2 * scipy.stats.norm.sf(most)))
        yield Result(f"{name} streams: largest correlation of {corr.size}", float(p))
        spread = float((corr**2).sum())
        sided = min(scipy.stats.chi2.sf(spread, corr.size), scipy.stats.chi2.cdf(spread, corr.size))
        yield Result(f"{name} streams: all correlations", float(min(1.0, 2 * sided)))


def _uniform(counts: np.ndarray) -> float:
    return _chi_square(counts, np.full(counts.size, counts.sum() / counts.size))


def _chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Both tails: counts that are too even are as wrong as counts that are not even enough."""
    rare = expected < 10
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    statistic = ((counts - expected) ** 2 / expected).sum()
    law = scipy.stats.chi2(counts.size - 1)
    return float(min(1.0, 2 * min(law.sf(statistic), law.cdf(statistic))))


def _two_sided_poisson(count: int, mean: float) -> float:
    law = scipy.stats.poisson(mean)
    return float(min(1.0, 2 * min(law.cdf(count), law.sf(count - 1))))


def rows(quick: bool, seed: int) -> list[Row]:
    """The smallest p-value of all tests, times their number, of each generator."""
    found = []
    for name, generator in (("fast generator", NAME), ("fast generator in filters", PAIRED_13)):
        results = [r for s in range(2 if quick else 8) for r in quality(seed + s, 16 if quick else 22, generator)]
        least = min(results, key=lambda r: r.p_value)
        found.append(
            Row(
                f"{name}: smallest p-value times the number of tests",
                least.p_value * len(results),
                "probability",
                1e-3,
                better="higher",
                peer=f"{len(results)} tests on streams of 2^{16 if quick else 22} words; smallest: {least.name}",
                n=len(results),
            )
        )
    return found


def main(argv: list[str] | None = None) -> list[Row]:
    """Print every test."""
    parser: argparse.ArgumentParser = record.parser(__doc__.splitlines()[0])
    args = parser.parse_args(argv)
    found = rows(args.quick, args.seed)
    record.write(args.json, "random_quality", args.quick, found)
    return found


if __name__ == "__main__":
    main()
