"""Resampling schemes: their deterministic halves at the edges, unbiased offspring exactly, and their enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from probinf.errors import ArgumentError, UnknownNameError
from probinf.transformations.branching import ssp_ancestors
from probinf.transformations.conditional import Conditional
from probinf.transformations.killing import killing_ancestors
from probinf.transformations.resampling import (
    SCHEMES,
    Residual,
    Systematic,
    ancestors_from_run_ends,
    effective_sample_size,
    multinomial_ancestors,
    prefix_sum,
    residual_ancestors,
    scheme,
    stratified_ancestors,
    systematic_ancestors,
    weights_from_log,
)

SIZE, CHILDREN = 6, 5
EPS = float(np.finfo(float).eps)
LIVE = st.floats(-700, 700) | st.sampled_from([0.0, -1.0, 1e-9])
LOG_WEIGHTS = st.lists(LIVE | st.just(-np.inf), min_size=SIZE, max_size=SIZE).map(np.array)
EDGES = st.sampled_from([0.0, 1 - EPS / 2, 0.5]) | st.floats(0, 1, exclude_max=True)
UNIFORMS = st.lists(EDGES, min_size=CHILDREN, max_size=CHILDREN).map(np.array)
HALVES = {
    "systematic": lambda u, lw, m: systematic_ancestors(u[0], lw, m),
    "stratified": stratified_ancestors,
    "multinomial": multinomial_ancestors,
    "residual": residual_ancestors,
    "ssp": lambda u, lw, m: ssp_ancestors(jnp.resize(u, lw.shape), lw, m),
    "killing": lambda u, lw, m: killing_ancestors(u if len(lw) == m else jnp.stack([u, u[::-1]]), lw, m),
}
COMPILED_ESS = jax.jit(effective_sample_size)
RUN_ENDS = jax.jit(ancestors_from_run_ends, static_argnums=2)
COMPILED = {name: jax.jit(half, static_argnums=2) for name, half in HALVES.items()}


def run(name, uniforms, log_weights, num=CHILDREN):
    return np.asarray(COMPILED[name](jnp.asarray(uniforms), jnp.asarray(log_weights), num))


def weights_of(log_weights):
    w = np.exp(log_weights - log_weights.max())
    return w / w.sum()


def test_every_scheme_has_its_deterministic_half_tested():
    assert set(HALVES) == set(SCHEMES)


@pytest.mark.parametrize("name", HALVES)
@given(log_weights=LOG_WEIGHTS, uniforms=UNIFORMS)
def test_ancestors_are_live_and_in_range(name, log_weights, uniforms):
    """A particle of weight zero has no offspring, wherever it stands; with none alive indices are still legal."""
    ancestors = run(name, uniforms, log_weights)
    assert ancestors.shape == (CHILDREN,)
    assert ancestors.dtype == np.int32
    assert np.all((ancestors >= 0) & (ancestors < SIZE))
    if np.isfinite(log_weights).any():
        alive = np.exp(log_weights - log_weights.max()) > 0
        assert alive[ancestors].all()


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("u", [0.0, 1 - EPS / 2])
@pytest.mark.parametrize("live", [[0], [5], [2], [0, 5], [2, 3]])
def test_leading_and_trailing_dead_particles_have_no_offspring(name, u, live):
    log_weights = np.full(SIZE, -np.inf)
    log_weights[live] = np.linspace(-1, 1, len(live))
    assert set(run(name, np.full(CHILDREN, u), log_weights)) <= set(live)


@pytest.mark.parametrize("name", ["systematic", "stratified", "ssp"])
@given(log_weights=LOG_WEIGHTS, uniforms=UNIFORMS)
def test_ancestors_are_sorted(name, log_weights, uniforms):
    assert np.all(np.diff(run(name, uniforms, log_weights)) >= 0)


@pytest.mark.parametrize("name", HALVES)
@given(log_weights=LOG_WEIGHTS, uniforms=UNIFORMS, shift=st.sampled_from([-512.0, 64.0]))
def test_a_common_factor_of_the_weights_changes_nothing(name, log_weights, uniforms, shift):
    exact = np.round(log_weights * 256) / 256  # so that the shift is exact in floating point
    np.testing.assert_array_equal(run(name, uniforms, exact), run(name, uniforms, exact + shift))


@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()))
def test_systematic_is_unbiased_exactly(log_weights):
    """Offspring counts are piecewise constant in the one uniform: integrate them."""
    weights = weights_of(log_weights)
    knots = np.unique(np.concatenate([[0.0, 1.0], (CHILDREN * np.cumsum(weights)) % 1.0]))
    mean = np.zeros(SIZE)
    for a, b in itertools.pairwise(knots):
        mean += (b - a) * np.bincount(run("systematic", np.full(CHILDREN, (a + b) / 2), log_weights), minlength=SIZE)
    np.testing.assert_allclose(mean, CHILDREN * weights, atol=1e-9)


@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()))
def test_stratified_is_unbiased_exactly(log_weights):
    """The child of stratum k depends on its own uniform only: integrate the strata one by one."""
    weights = weights_of(log_weights)
    ends = CHILDREN * np.cumsum(weights)
    mean = np.zeros(SIZE)
    for k in range(CHILDREN):
        inside = ends[(ends > k) & (ends < k + 1)] - k
        knots = np.unique(np.concatenate([[0.0, 1.0], inside]))
        for a, b in itertools.pairwise(knots):
            uniforms = np.full(CHILDREN, 0.5)
            uniforms[k] = (a + b) / 2
            mean[run("stratified", uniforms, log_weights)[k]] += b - a
    np.testing.assert_allclose(mean, CHILDREN * weights, atol=1e-9)


@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()))
def test_multinomial_is_unbiased_exactly(log_weights):
    """Each child is the same function of its own uniform, constant between the cumulative weights."""
    weights = weights_of(log_weights)
    knots = np.unique(np.concatenate([[0.0, 1.0], np.cumsum(weights)]).clip(0, 1))
    mean = np.zeros(SIZE)
    for a, b in itertools.pairwise(knots):
        children = run("multinomial", np.full(CHILDREN, (a + b) / 2), log_weights)
        mean += (b - a) * np.bincount(children, minlength=SIZE)
    np.testing.assert_allclose(mean, CHILDREN * weights, atol=1e-9)


@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()))
def test_residual_is_unbiased_exactly(log_weights):
    """The sure children do not depend on the uniforms, every spare one on its own: integrate the spare ones."""
    weights = weights_of(log_weights)
    rest = CHILDREN * weights - np.floor(CHILDREN * weights + 1e-12)
    knots = np.unique(
        np.concatenate([[0.0, 1.0], np.cumsum(rest.clip(0)) / max(rest.clip(0).sum(), 1e-300)]).clip(0, 1)
    )
    mean = np.zeros(SIZE)
    for a, b in itertools.pairwise(knots):
        children = run("residual", np.full(CHILDREN, (a + b) / 2), log_weights)
        mean += (b - a) * np.bincount(children, minlength=SIZE)
    np.testing.assert_allclose(mean, CHILDREN * weights, atol=1e-9)


@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()), uniforms=UNIFORMS)
def test_residual_gives_every_particle_its_whole_part(log_weights, uniforms):
    counts = np.bincount(run("residual", uniforms, log_weights), minlength=SIZE)
    assert np.all(counts >= np.floor(CHILDREN * weights_of(log_weights) - 1e-9))


@pytest.mark.parametrize("name", ["systematic", "ssp"])
@given(log_weights=LOG_WEIGHTS.filter(lambda lw: np.isfinite(lw).any()), uniforms=UNIFORMS)
def test_counts_are_within_one_of_their_expectation(name, log_weights, uniforms):
    counts = np.bincount(run(name, uniforms, log_weights), minlength=SIZE)
    assert np.all(np.abs(counts - CHILDREN * weights_of(log_weights)) < 1 + 1e-9)


@pytest.mark.parametrize("name", ["systematic", "residual", "ssp", "killing"])
def test_equal_weights_give_every_particle_one_child(name):
    for u in (0.0, 0.3, 1 - 16 * EPS):  # nearer to one, k - u is rounded
        np.testing.assert_array_equal(run(name, np.full(7, u), np.zeros(7), 7), np.arange(7))


# -- float32 and large populations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_float32_systematic_counts_at_a_hundred_thousand_particles(u):
    """Counts stay within one of N w (plus the rounding of a float32 sum); a plain running sum in float32 does not."""
    num = 100_000
    log_weights = np.random.default_rng(3).normal(0, 2, num).astype(np.float32)
    log_weights[::7] = -np.inf
    ancestors = run("systematic", np.full(1, u, np.float32), log_weights, num)
    weights = np.exp(log_weights.astype(float) - float(log_weights.max()))
    expected = num * weights / weights.sum()
    counts = np.bincount(ancestors, minlength=num)
    # Positions are integers up to N: the run ends carry the rounding of N C_i in float32, half a unit at 2^17.
    slack = num * np.finfo(np.float32).eps
    assert np.abs(counts - expected).max() < 1 + slack
    assert counts[::7].sum() == 0


@pytest.mark.parametrize("name", HALVES)
def test_float32_offspring_of_a_million_particles(name):
    """No child for the dead; floor or ceiling where the scheme has it; else six standard deviations of a binomial.

    Expected numbers of children in float32 are off by a few units in the last place and by the rounding of positions
    up to N (2^-4 at 2^20); systematic counts are at most one more off. False alarms: below 1e-8 for all blocks.
    """
    num = 1_000_000
    rng = np.random.default_rng(4)
    log_weights = rng.normal(0, 1.5, num).astype(np.float32)
    log_weights[::7] = -np.inf
    log_weights[1::7] = -1e4
    uniforms = rng.random(num, np.float32)
    counts = np.bincount(run(name, uniforms, log_weights, num), minlength=num)
    assert counts.sum() == num
    assert counts[::7].sum() == counts[1::7].sum() == 0
    expected = num * weights_of(log_weights.astype(float))
    if name in ("systematic", "ssp"):
        assert np.abs(counts - expected).max() < 1 + 0.2
    blocks, share = counts.reshape(-1, 10_000).sum(1), expected.reshape(-1, 10_000).sum(1)
    if name in ("systematic", "ssp", "stratified"):  # the runs of neighbours add up
        assert np.abs(blocks - share).max() < {"systematic": 2, "ssp": 2, "stratified": 3}[name]
    else:
        assert np.abs(blocks - share).max() < 6.5 * np.sqrt(share.max())


@pytest.mark.parametrize("name", HALVES)
def test_float32_keeps_dtypes_and_live_ancestors(name):
    log_weights = np.array([-np.inf, 0.0, -1.0, -np.inf], np.float32)
    for u in (0.0, float(np.nextafter(np.float32(1), np.float32(0)))):
        ancestors = run(name, np.full(4, u, np.float32), log_weights, 4)
        assert ancestors.dtype == np.int32
        assert set(ancestors) <= {1, 2}


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 1023, 1024, 1025, 2048, 2049, 40_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prefix_sums_agree_with_numpy(length, dtype):
    x = np.random.default_rng(length).exponential(size=length).astype(dtype)
    out = np.asarray(jax.jit(prefix_sum)(jnp.asarray(x)))
    assert out.dtype == dtype
    assert out.shape == (length,)
    # Blocks of 16: at most 16 additions per level and log_16(n) levels.
    np.testing.assert_allclose(out, np.cumsum(x.astype(np.longdouble)).astype(float), rtol=128 * np.finfo(dtype).eps)


@given(ends=st.lists(st.integers(0, 9), min_size=4, max_size=4), dead=st.lists(st.booleans(), min_size=4, max_size=4))
def test_run_ends_say_whose_child_stands_where(ends, dead):
    """Against the definition: position k belongs to the last live particle whose run starts at k or before."""
    ends, weights = np.sort(ends), np.where(dead, 0.0, 1.0)
    live = [i for i in range(4) if weights[i] > 0]
    starts = [0, *ends[:-1]]
    out = np.asarray(RUN_ENDS(jnp.asarray(ends), jnp.asarray(weights), 9))
    for k in range(9):
        earlier = [i for i in live if starts[i] <= k]
        if live:
            assert out[k] == (earlier[-1] if earlier else live[0])


# -- laws -------------------------------------------------------------------------------------------------------------

CASES = [
    np.log([0.5, 0.3, 0.2]),
    np.log([0.1, 0.1, 0.8]),
    np.array([-np.inf, 0.0, -1.0]),
    np.array([0.0, -np.inf, -np.inf]),
    np.zeros(3),
]


def law(distribution):
    vectors, log_probs = distribution.enumerate()
    return {tuple(int(i) for i in v): float(np.exp(p)) for v, p in zip(vectors, log_probs, strict=True)}


def grid_law(distribution, points):
    """The law of the deterministic half over a midpoint grid of its uniform numbers."""
    middles = (np.arange(points) + 0.5) / points
    shape = distribution.num_uniforms()
    uniforms = np.array(list(itertools.product(middles, repeat=int(np.prod(shape))))).reshape(-1, *shape)
    half = jax.jit(jax.vmap(lambda u: distribution.from_uniforms(u, distribution.log_weights)))
    codes = np.asarray(half(jnp.asarray(uniforms))) @ (10 ** np.arange(distribution.num)[::-1])
    vectors, counts = np.unique(codes, return_counts=True)
    width = distribution.num
    return {tuple(map(int, f"{v:0{width}d}")): c / len(uniforms) for v, c in zip(vectors, counts, strict=True)}


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("name", SCHEMES)
def test_the_enumeration_is_the_law_of_the_deterministic_half(name, case):
    """A grid of G points per uniform is off by at most one point per jump and uniform (here at most four jumps)."""
    points = {"systematic": 20_000, "ssp": 60, "killing": 60}.get(name, 100)
    distribution = scheme(name)(jnp.asarray(CASES[case]), 3 if name in ("systematic", "killing") else 2)
    exact, seen = law(distribution), grid_law(distribution, points)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-12)
    for vector in set(exact) | set(seen):
        assert abs(exact.get(vector, 0.0) - seen.get(vector, 0.0)) <= 2 * 4 / points, vector


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("num", [3, 4, 5])
def test_draws_follow_the_enumerated_law(name, num):
    """Chi-square of 40,000 draws at 1e-7: 18 tests raise a false alarm with probability below 2e-6."""
    distribution = scheme(name)(jnp.log(jnp.array([0.17, 0.31, 0.08, 0.44])), num)
    exact, n = law(distribution), 40_000
    draws = np.asarray(jax.jit(jax.vmap(distribution.sample))(jax.random.split(jax.random.key(5), n)))
    vectors, seen = np.unique(draws, axis=0, return_counts=True)
    found = {tuple(map(int, v)): int(c) for v, c in zip(vectors, seen, strict=True)}
    assert set(found) <= set(exact)
    expected = n * np.array(list(exact.values()))
    counts = np.array([found.get(v, 0) for v in exact])
    rare = expected < 10
    expected, counts = np.append(expected[~rare], expected[rare].sum()), np.append(counts[~rare], counts[rare].sum())
    assert scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-7


@pytest.mark.parametrize("name", SCHEMES)
@given(log_weights=st.lists(st.floats(-30, 30) | st.just(-np.inf), min_size=4, max_size=4), num=st.integers(1, 4))
def test_the_enumerated_law_is_unbiased(name, log_weights, num):
    log_weights = np.array(log_weights)
    vectors, log_probs = scheme(name)(jnp.asarray(log_weights), num).enumerate()
    probabilities = np.exp(log_probs)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
    if np.isfinite(log_weights).any():
        mean = sum(p * np.bincount(v, minlength=4) for v, p in zip(vectors, probabilities, strict=True))
        np.testing.assert_allclose(mean, num * weights_of(log_weights), atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_batch_of_weights_has_the_product_law(name):
    rows = np.stack([CASES[0], CASES[2]])
    together = law_of_batch(scheme(name)(jnp.asarray(rows), 2))
    first, second = (law(scheme(name)(jnp.asarray(row), 2)) for row in rows)
    assert len(together) == len(first) * len(second)
    for (a, b), p in together.items():
        assert p == pytest.approx(first[a] * second[b], rel=1e-12)


def law_of_batch(distribution):
    vectors, log_probs = distribution.enumerate()
    assert vectors.shape[1:] == (2, 2)
    return {tuple(tuple(row) for row in v.tolist()): float(np.exp(p)) for v, p in zip(vectors, log_probs, strict=True)}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_batch_of_weights_equals_the_loop(name, key):
    """Drawn for a batch: row i is the deterministic half of row i's weights and uniforms."""
    rows = jnp.asarray(np.stack([CASES[0], CASES[2], CASES[4]]))
    distribution = scheme(name)(rows, 5)
    uniforms = jax.random.uniform(key, (3, *distribution.num_uniforms()))
    out = jax.jit(distribution.sample)(key)
    assert out.shape == (3, 5)
    half = jax.jit(distribution.from_uniforms)
    for i in range(3):
        np.testing.assert_array_equal(out[i], half(uniforms[i], rows[i]))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("size", [5, 200, 600])
def test_lanes_of_nested_vmaps_equal_the_loop(name, size):
    """Short lanes are laid end to end, long ones take turns: weights mapped over both axes, uniforms over one."""
    rng = np.random.default_rng(size)
    rows = np.where(rng.random((3, 2, size)) < 0.3, -np.inf, rng.normal(0, 2, (3, 2, size)))
    rows[1, 1] = -np.inf
    rows[2, 0, :2] = -np.inf
    law = scheme(name)(jnp.zeros(size), size)
    uniforms = rng.random((2, *law.num_uniforms()))
    lanes = jax.jit(jax.vmap(jax.vmap(law.from_uniforms), in_axes=(None, 0)))(jnp.asarray(uniforms), jnp.asarray(rows))
    one = jax.jit(law.from_uniforms)
    for i, j in itertools.product(range(3), range(2)):
        np.testing.assert_array_equal(lanes[i, j], one(uniforms[j], rows[i, j]))


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_pass_by_the_ancestors(name):
    """Ancestors have no derivative: one that is taken through their weights is zero, also in reverse mode and lanes."""

    def loss(lw, u):
        law = scheme(name)(lw, 4)
        return jnp.sum(jnp.arange(4.0)[law.from_uniforms(u, lw)]) + jnp.sum(lw**2)

    lw = jnp.array([[0.1, -0.5, 0.3, 0.0], [1.0, 0.0, -1.0, 2.0]])
    u = jnp.full((2, *scheme(name)(lw, 4).num_uniforms()), 0.4)
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.grad(loss)))(lw, u), 2 * lw)


def test_lanes_of_shared_weights_draw_for_themselves(key):
    shared = Systematic(jnp.zeros(4), 3).lanes((False,), 50)
    out = np.asarray(jax.jit(shared.sample)(key))
    assert out.shape == (50, 3)
    assert len(np.unique(out, axis=0)) > 1  # all 50 equal has probability below 4^-49


@settings(max_examples=50)
@given(log_weights=LOG_WEIGHTS)
def test_effective_sample_size_is_kishs(log_weights):
    ess = float(COMPILED_ESS(jnp.asarray(log_weights)))
    if not np.isfinite(log_weights).any():
        assert ess == 0
        return
    w = weights_of(log_weights)
    np.testing.assert_allclose(ess, 1 / np.sum(w**2), rtol=1e-12)
    assert 1 - 1e-12 <= ess <= np.isfinite(log_weights).sum() + 1e-12


def test_weights_of_a_dead_population_are_zero_not_nan():
    np.testing.assert_array_equal(weights_from_log(jnp.full(3, -jnp.inf)), np.zeros(3))


def test_residual_without_a_rest_has_one_outcome():
    """2.9999999 expected children are three, not two sure ones and a spare."""
    assert law(Residual(jnp.log(jnp.array([0.1, 0.3, 0.6])), 10)) == {(0, 1, 1, 1, 2, 2, 2, 2, 2, 2): 1.0}


def test_an_unknown_scheme_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'stratified'"):
        scheme("stratifed")


def test_an_unknown_scheme_is_answered_with_the_list():
    with pytest.raises(UnknownNameError, match="'killing', 'multinomial', 'residual', 'ssp', 'stratified'"):
        scheme("antithetic")


def test_a_scheme_of_ones_own_is_reached_by_name_and_says_what_it_lacks(monkeypatch):
    class Last(Systematic):
        """The systematic scheme under another name, without a conditional law."""

    monkeypatch.setitem(SCHEMES, "last", Last)
    assert scheme("last") is Last
    with pytest.raises(ArgumentError, match="Last has no conditional law"):
        Conditional(jnp.zeros(3), 3, "last").sample(jax.random.key(0))


def test_a_killing_scheme_with_other_numbers_of_slots_has_no_conditional_law():
    with pytest.raises(ArgumentError, match="needs 3 slots, found 2"):
        Conditional(jnp.zeros(3), 2, "killing").sample(jax.random.key(0))
