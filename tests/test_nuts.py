"""The No-U-Turn sampler against closed forms and quadrature, and what it does with bad input.

Draws come from fixed seeds. A comparison at 4 Monte Carlo standard errors fails by chance once in 16,000; there are
about 150 comparisons in this file: a fresh set of seeds would fail somewhere once in a hundred runs.
"""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from arviz_stats.base import array_stats

from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, ProbinfError, UnknownNameError
from probinf.inference import nuts_run, sampling_loop
from probinf.inference.nuts import NUTS
from probinf.inference.posterior import Posterior
from probinf.kernels.chains import ChainPrograms, compilations
from tests.stub_target import StubTarget


def assert_mean(draws, expected, name):
    """The mean of (chains, draws) scalars is within 4 of its own standard errors of the exact value."""
    error = float(array_stats.mcse(np.asarray(draws, float)))
    assert 0.0 < error < np.inf
    assert abs(np.mean(draws) - expected) < 4.0 * error, (name, np.mean(draws), expected, error)


def assert_moments(draws, mean, sd, name):
    """Mean and variance; the variance through its own draws (x - mean)²."""
    assert_mean(draws, mean, f"mean of {name}")
    assert_mean((draws - mean) ** 2, sd**2, f"variance of {name}")


# Conjugate normal: mu ~ N(1, 2²), y_i ~ N(mu, 0.5²).
Y = np.array([0.3, 1.1, 0.8, 1.9, 0.2])


def normal_terms(y, position):
    mu = position["mu"]
    return {"mu": -0.5 * ((mu - 1.0) / 2.0) ** 2, "y": -0.5 * jnp.sum(((y - mu) / 0.5) ** 2)}


def conjugate(y=Y):
    return StubTarget("conjugate", {"mu": ()}, normal_terms, y)


def conjugate_answer(y):
    precision = 1 / 4 + len(y) / 0.25
    return (1 / 4 + np.sum(y) / 0.25) / precision, precision**-0.5


@pytest.mark.parametrize("dense_metric", [False, True, "laplace"])
@pytest.mark.parametrize("chain_method", ["native", "vectorized"])
def test_conjugate_normal(dense_metric, chain_method):
    posterior = NUTS(dense_metric=dense_metric, chain_method=chain_method).run(conjugate(), 1)
    assert_moments(posterior["mu"], *conjugate_answer(Y), "mu")
    assert posterior["mu"].shape == (4, 1000)
    assert chain_method in posterior.method
    assert posterior.claim == "invariant"


MEAN = np.array([1.0, -2.0, 0.5, 0.0])
FACTOR = np.array([[1.0, 0, 0, 0], [0.9, 0.3, 0, 0], [-3.0, 1.0, 2.0, 0], [0.01, 0.0, 0.0, 0.005]])


def correlated_terms(_, position):
    x = jnp.concatenate([position["a"], position["b"]])
    z = jax.scipy.linalg.solve_triangular(jnp.asarray(FACTOR), x - MEAN, lower=True)
    return {"a": -0.5 * jnp.sum(z**2)}


@pytest.mark.parametrize("dense_metric", [False, True, "laplace"])
def test_correlated_gaussian(dense_metric):
    """Every mean and every entry of the covariance. Its solve cannot be native code: the vectorised way is taken."""
    target = StubTarget("correlated", {"a": (2,), "b": (2,)}, correlated_terms)
    posterior = NUTS(dense_metric=dense_metric).run(target, 2)
    x = np.concatenate([posterior["a"], posterior["b"]], axis=-1) - MEAN
    covariance = FACTOR @ FACTOR.T
    for i in range(4):
        assert_mean(x[..., i], 0.0, f"mean {i}")
        for j in range(i + 1):
            assert_mean(x[..., i] * x[..., j], covariance[i, j], f"cov {i} {j}")
    assert "vectorized" in posterior.method


def constrained_terms(_, position):
    """scale ~ HalfNormal(2) through exp; share ~ Beta(2, 5) through the logistic; log Jacobians included."""
    u, v = position["scale"], position["share"]
    half_normal = -0.5 * (jnp.exp(u) / 2.0) ** 2 + u
    beta = 2.0 * jax.nn.log_sigmoid(v) + 5.0 * jax.nn.log_sigmoid(-v)
    return {"scale": half_normal, "share": beta}


CONSTRAINED = StubTarget(
    "constrained",
    {"scale": (), "share": ()},
    constrained_terms,
    forward={"scale": jnp.exp, "share": jax.nn.sigmoid},
    backward={"scale": jnp.log, "share": lambda p: jnp.log(p) - jnp.log1p(-p)},
)


def test_constrained_sites_have_their_exact_moments():
    posterior = NUTS(num_draws=2000).run(CONSTRAINED, 3)
    scale, share = posterior["scale"], posterior["share"]
    half, beta = scipy.stats.halfnorm(scale=2.0), scipy.stats.beta(2, 5)
    assert_moments(scale, half.mean(), half.std(), "scale")
    assert_moments(share, beta.mean(), beta.std(), "share")
    # The third moment and the tails see a wrong Jacobian that the mean forgives.
    assert_mean(share**3, beta.moment(3), "share³")
    for q in (0.1, 0.9):
        assert_mean(1.0 * (scale <= half.ppf(q)), q, f"P(scale <= q{q})")
        assert_mean(1.0 * (share <= beta.ppf(q)), q, f"P(share <= q{q})")


INDEX = np.array([0, 0, 1, 2, 2, 2])


def gather_terms(y, position):
    """A gather, whose gradient is a scatter of several rows: no native code for it."""
    group = position["group"]
    return {"group": -0.5 * jnp.sum(group**2), "y": -0.5 * jnp.sum((y - group[INDEX]) ** 2)}


def test_a_model_that_cannot_be_native_runs_vectorised_with_the_same_law():
    y = np.array([1.0, 2.0, -1.0, 0.5, 0.0, 1.5])
    posterior = NUTS(chain_method="native").run(StubTarget("gather", {"group": (3,)}, gather_terms, y), 4)
    assert "vectorized" in posterior.method
    for k in range(3):
        count = np.sum(k == INDEX)
        assert_moments(posterior["group"][..., k], y[k == INDEX].sum() / (1 + count), (1 + count) ** -0.5, k)


def test_an_unforeseen_refusal_of_the_native_compiler_is_caught(monkeypatch):
    """As if a future JAX could not emit anything: the run goes the ordinary way."""

    def refuse(function):
        def call(*args):
            raise NotImplementedError("no such emitter")

        return call

    monkeypatch.setattr("probinf.kernels.chains.as_native", refuse)
    posterior = NUTS(max_tree_depth=9, chain_method="native").run(conjugate(), 1)  # 9: not yet compiled
    assert "vectorized" in posterior.method
    assert_moments(posterior["mu"], *conjugate_answer(Y), "mu")


@pytest.mark.parametrize("dense_metric", [False, "laplace"])
def test_new_data_seed_and_lengths_compile_nothing(dense_metric):
    NUTS(dense_metric=dense_metric).run(conjugate(), 1)
    before = compilations()
    y = Y + 3.0
    method = NUTS(num_warmup=300, num_draws=777, target_acceptance=0.9, dense_metric=dense_metric)
    posterior = method.run(conjugate(y), jax.random.key(9))
    assert compilations() == before
    assert posterior["mu"].shape == (4, 777)
    assert_moments(posterior["mu"], *conjugate_answer(y), "mu")  # the new data were used


def ill_conditioned():
    """A Gaussian in 300 dimensions, condition number 1e6, axes turned at random."""
    rng = np.random.default_rng(7)
    axes = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    variances = np.logspace(-4, 2, 300)
    return axes, variances


def ill_terms(operands, position):
    precision, mean = operands
    x = position["x"] - mean
    return {"x": -0.5 * x @ precision @ x}


@pytest.mark.slow
def test_laplace_metric_on_an_ill_conditioned_gaussian():
    axes, variances = ill_conditioned()
    mean = np.linspace(-5.0, 5.0, 300)
    precision = (axes / variances) @ axes.T
    target = StubTarget("ill", {"x": (300,)}, ill_terms, (precision, mean))
    posterior = NUTS(dense_metric="laplace").run(target, 5)
    along = (posterior["x"] - mean) @ axes  # independent with the given variances
    for k in (0, 1, 50, 150, 298, 299):
        assert_moments(along[..., k], 0.0, variances[k] ** 0.5, k)
    # All directions at once: the chi-square sum of 300 whitened squares has mean 300.
    assert_mean(np.sum(along**2 / variances, axis=-1), 300.0, "whitened norm")
    assert posterior.sample_stats["n_steps"].max() <= 15  # as for a standard normal
    summary = posterior.summary()
    assert summary.is_trustworthy, str(summary)


T, Q, R = 120, 0.1, 0.4
PAIRS = np.random.default_rng(3)
WALK = np.cumsum(Q * PAIRS.normal(size=T))
SERIES = WALK + R * PAIRS.normal(size=T)


def walk_terms(y, position):
    """A random walk of known step Q seen through noise of unknown level exp(log_r), log_r ~ N(0, 1)."""
    x, log_r = position["x"], position["log_r"]
    steps = jnp.concatenate([x[:1], x[1:] - x[:-1]])
    return {
        "log_r": -0.5 * log_r**2,
        "x": -0.5 * jnp.sum((steps / Q) ** 2),
        "y": -0.5 * jnp.sum(((y - x) / jnp.exp(log_r)) ** 2) - T * log_r,
    }


def walk_answer():
    """Quadrature over log_r of the exact Gaussian marginal likelihood and of the exact smoother."""
    values, vectors = np.linalg.eigh(Q**2 * np.minimum.outer(np.arange(1, T + 1), np.arange(1, T + 1)))
    rotated = vectors.T @ SERIES  # y ~ N(0, prior + r² I): diagonal in this basis for every r
    grid = np.linspace(-2.0, 0.5, 201)
    variances = values[None, :] + np.exp(2 * grid)[:, None]
    logs = -0.5 * np.sum(np.log(variances) + rotated**2 / variances, axis=1) - 0.5 * grid**2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ grid
    states = vectors @ (weights @ (values * rotated / variances))
    return mean, np.sqrt(weights @ (grid - mean) ** 2), states


def test_laplace_metric_on_a_state_space_posterior_with_an_unknown_noise_level():
    target = StubTarget("walk", {"x": (T,), "log_r": ()}, walk_terms, SERIES)
    posterior = NUTS(dense_metric="laplace").run(target, 6)
    mean, sd, states = walk_answer()
    assert_moments(posterior["log_r"], mean, sd, "log_r")
    for t in (0, 1, T // 2, T - 1):
        assert_mean(posterior["x"][..., t], states[t], f"x[{t}]")
    assert posterior.summary().is_trustworthy, str(posterior.summary())


def level_terms(y, position):
    """The walk with step and noise levels log-normal: centred, its joint density grows without bound for all we see."""
    x, log_q, log_r = position["x"], position["log_q"], position["log_r"]
    steps = jnp.concatenate([x[:1], x[1:] - x[:-1]]) / jnp.exp(log_q)
    return {
        "log_q": -0.5 * ((log_q + 1.0) / 0.5) ** 2,
        "log_r": -0.5 * ((log_r + 1.0) / 0.5) ** 2,
        "x": -0.5 * jnp.sum(steps**2) - y.size * log_q,
        "y": -0.5 * jnp.sum(((y - x) / jnp.exp(log_r)) ** 2) - y.size * log_r,
    }


def level_answer(y):
    """Quadrature over both levels of the exact marginal likelihood: means and sds of log_q and log_r."""
    grid = np.linspace(-3.5, 1.0, 121)
    n = np.arange(1, len(y) + 1)
    values, vectors = np.linalg.eigh(np.minimum.outer(n, n))  # diagonal for all levels at once
    rotated = vectors.T @ y
    log_q, log_r = np.meshgrid(grid, grid, indexing="ij")
    variances = np.exp(2 * log_q)[..., None] * values + np.exp(2 * log_r)[..., None]
    logs = -0.5 * np.sum(np.log(variances) + rotated**2 / variances, axis=-1)
    logs += -0.5 * ((log_q + 1) / 0.5) ** 2 - 0.5 * ((log_r + 1) / 0.5) ** 2
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    means = [np.sum(weights * level) for level in (log_q, log_r)]
    return [(m, np.sqrt(np.sum(weights * (v - m) ** 2))) for m, v in zip(means, (log_q, log_r), strict=True)]


def test_laplace_metric_without_a_mode():
    target = StubTarget("level", {"x": (T,), "log_q": (), "log_r": ()}, level_terms, SERIES)
    posterior = NUTS(dense_metric="laplace", num_draws=2000).run(target, 7)
    for name, (mean, sd) in zip(("log_q", "log_r"), level_answer(SERIES), strict=True):
        assert_moments(posterior[name], mean, sd, name)


def test_the_structure_of_a_state_space_posterior_is_found():
    """Two states for each time in separate sites, and two levels: a band and an arrow, not a full matrix."""
    from probinf.kernels.banded import (
        apply_banded,
        banded_scale,
        matrix_from_products,
        plan_band,
        seeds,
        unapply_banded,
    )

    rng = np.random.default_rng(1)
    dim, n = 62, 30
    factor = np.zeros((dim, dim))
    for t in range(n):
        rows = [t, n + t] + ([t - 1, n + t - 1] if t else [])
        for _ in range(3):
            factor[np.ix_([t, n + t], rows)] += rng.normal(size=(2, len(rows)))
    precision = factor @ factor.T + np.eye(dim)
    precision[60:, :] = 0.05 * rng.normal(size=(2, dim))
    precision[:, 60:] = precision[60:, :].T
    precision[60:, 60:] = [[9.0, 1.0], [1.0, 7.0]]
    plan = plan_band(precision != 0.0)
    assert plan.num_arrow == 2
    assert plan.bandwidth <= 5
    assert set(plan.order[-2:]) == {60, 61}
    products = seeds(plan) @ precision
    assert len(products) <= 2 * plan.bandwidth + 3
    np.testing.assert_array_equal(matrix_from_products(plan, products), precision)
    scale, is_repaired = banded_scale(precision, plan, np.float64)
    assert not is_repaired
    matrix = np.asarray(jax.jit(jax.vmap(apply_banded, in_axes=(None, 0)))(scale, jnp.eye(dim))).T
    np.testing.assert_allclose(matrix @ matrix.T @ precision, np.eye(dim), atol=1e-10)
    cotangent, z = jnp.asarray(rng.normal(size=dim)), jnp.asarray(rng.normal(size=dim))
    np.testing.assert_allclose(
        jax.jit(jax.grad(lambda z: apply_banded(scale, z) @ cotangent))(z), matrix.T @ cotangent, atol=1e-11
    )
    np.testing.assert_allclose(unapply_banded(scale, np.asarray(apply_banded(scale, z))[None])[0], z, atol=1e-11)
    indefinite = precision - 4.0 * np.eye(dim)
    assert np.linalg.eigvalsh(indefinite)[0] < 0.0
    repaired, is_repaired = banded_scale(indefinite, plan, np.float64)
    assert is_repaired
    assert np.isfinite(apply_banded(repaired, z)).all()


def test_float32():
    with jax.enable_x64(False):
        target = conjugate(Y.astype(np.float32))
        for dense_metric in (False, "laplace"):
            posterior = NUTS(dense_metric=dense_metric).run(target, 1)
            assert posterior["mu"].dtype == np.float32
            assert_moments(posterior["mu"].astype(float), *conjugate_answer(Y), "mu")


def test_sample_stats_carry_arviz_names_and_agree_with_each_other():
    stats = NUTS().run(conjugate(), 1).sample_stats
    assert set(stats) == {
        "lp", "energy", "acceptance_rate", "diverging", "tree_depth", "n_steps", "step_size", "reached_max_treedepth",
    }  # fmt: skip
    assert all(value.shape == (4, 1000) for value in stats.values())
    # A tree of depth k has more than 2^(k-1) - 1 and at most 2^k - 1 steps.
    depth, steps = stats["tree_depth"], stats["n_steps"]
    assert (steps <= 2**depth - 1).all()
    assert (steps > 2 ** (depth - 1) - 1).all()
    assert np.all(np.ptp(stats["step_size"], axis=1) == 0.0)  # adapted no more
    assert abs(stats["acceptance_rate"].mean() - 0.8) < 0.15
    # Energy is -lp plus a kinetic term of one momentum, chi-square with one degree of freedom over two.
    assert_mean(stats["energy"] + stats["lp"], 0.5, "kinetic energy")


def test_lp_is_the_log_density_of_the_draws():
    posterior = NUTS().run(conjugate(), 1)
    expected = [[sum(normal_terms(Y, {"mu": mu}).values()) for mu in row[:5]] for row in posterior["mu"]]
    np.testing.assert_allclose(posterior.sample_stats["lp"][:, :5], expected, rtol=1e-12)


def test_draws_do_not_depend_on_how_the_run_is_cut(monkeypatch):
    whole = NUTS(num_warmup=100, num_draws=60).run(conjugate(), 1)
    monkeypatch.setattr(sampling_loop, "_SECONDS_PER_PIECE", 0.0)  # pieces of one step
    pieces = NUTS(num_warmup=100, num_draws=60).run(conjugate(), 1)
    np.testing.assert_array_equal(whole["mu"], pieces["mu"])


def test_thinning_and_keep():
    full = NUTS(num_draws=100).run(CONSTRAINED, 3)
    thin = NUTS(num_draws=100, thinning=7, keep="share").run(CONSTRAINED, 3)
    assert thin.sites == ("share",)
    np.testing.assert_array_equal(thin["share"], full["share"][:, 6::7])
    np.testing.assert_array_equal(thin.sample_stats["lp"], full.sample_stats["lp"][:, 6::7])


def test_dict_starts_are_constrained_values_and_are_used():
    """Without warm-up the first draws stay near the start."""
    starts = {"scale": np.array([1.0, 2.0]), "share": 0.3}
    method = NUTS(num_warmup=0, num_draws=1, num_chains=2, init=starts, max_tree_depth=1)
    stats = method.run(CONSTRAINED, 0)
    other = NUTS(num_warmup=0, num_draws=1, num_chains=2, init={"scale": 9.0, "share": 0.99}, max_tree_depth=1)
    assert np.abs(np.log(stats["scale"][:, 0] / starts["scale"])).max() < 5.0
    assert (other.run(CONSTRAINED, 0)["scale"] != stats["scale"]).all()


def test_prior_starts():
    assert_moments(NUTS(init="prior").run(conjugate(), 1)["mu"], *conjugate_answer(Y), "mu")


# Rows 9 to 14 of the table of bad inputs.


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("init", "match"),
    [
        ({"scale": np.nan, "share": 0.5}, "'scale'.*not finite"),
        ({"scale": -1.0, "share": 0.5}, "'scale' = -1.*outside the support"),
        ({"scale": 1.0, "share": 1.5}, "'share' = 1.5.*outside the support"),
        ({"scale": 1.0}, "no value for 'share'"),
        ({"scale": 1.0, "share": np.ones(3)}, r"'share' has shape \(3,\)"),
        ({"scale": "big", "share": 0.5}, "'scale' must be numeric"),
        ({"scael": 1.0, "share": 0.5}, "Did you mean 'scale'"),
    ],
)
def test_row_9_a_start_that_is_not_legal_is_named_before_sampling(init, match):
    with pytest.raises(ProbinfError, match=match):
        NUTS(init=init).run(CONSTRAINED, 0)


def test_row_10_no_legal_start_lists_the_sites_that_are_not_finite():
    def terms(_, position):
        return {
            "a": -0.5 * position["a"] ** 2,
            "b": jnp.sqrt(-1.0 - position["b"] ** 2),
            "c": -jnp.inf * position["c"] ** 2,
        }

    with pytest.raises(InferenceError) as caught:
        NUTS().run(StubTarget("hopeless", {"a": (), "b": (), "c": ()}, terms), 0)
    message = str(caught.value)
    lines = message.splitlines()
    assert len(lines) <= 12
    assert [line.split()[0] for line in lines if "<- not finite" in line] == ["b", "c"]
    assert "nan" in message
    assert "-inf" in message
    assert "100 tries" in message
    assert "'hopeless'" in message


def test_row_10_a_gradient_that_is_not_finite_is_no_start_either():
    def terms(_, position):
        return {"a": -jnp.sqrt(jnp.abs(position["a"] * 0.0)) - 0.5 * position["a"] ** 2}

    with pytest.raises(InferenceError, match="gradient is not"):
        NUTS().run(StubTarget("kink", {"a": ()}, terms), 0)


def test_row_10_rare_legal_starts_are_found():
    """Legal on one side only: half of the tries fail."""

    def terms(_, position):
        return {"a": jnp.where(position["a"] > 1.5, -position["a"], -jnp.inf)}

    posterior = NUTS(num_warmup=20, num_draws=20).run(StubTarget("rare", {"a": ()}, terms), 0)
    assert (posterior["a"] > 1.5).all()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "kind", "match"),
    [
        ({"num_draws": 0}, ArgumentError, "num_draws: expected an integer >= 1, found 0"),
        ({"num_draws": -5}, ArgumentError, "num_draws"),
        ({"num_draws": 10.0}, ArgumentTypeError, "num_draws: expected an integer, found 10.0 of type float"),
        ({"num_draws": True}, ArgumentTypeError, "num_draws"),
        ({"num_draws": 10, "thinning": 11}, ArgumentError, "thinning: 11 keeps none of num_draws=10"),
        ({"thinning": 0}, ArgumentError, "thinning"),
        ({"num_warmup": -1}, ArgumentError, "num_warmup"),
        ({"num_chains": 0}, ArgumentError, "num_chains"),
        ({"num_chains": "four"}, ArgumentTypeError, "num_chains"),
        ({"target_acceptance": 1.0}, ArgumentError, "target_acceptance"),
        ({"target_acceptance": float("nan")}, ArgumentError, "target_acceptance"),
        ({"max_tree_depth": 0}, ArgumentError, "max_tree_depth"),
        ({"max_tree_depth": 40}, ArgumentError, "max_tree_depth"),
        ({"dense_metric": "full"}, ArgumentError, "dense_metric: expected one of False, True, 'laplace', found 'full'"),
        ({"init": "zero"}, ArgumentError, "init: expected one of 'uniform', 'prior'"),
        ({"init": 3}, ArgumentTypeError, "init"),
        ({"chain_method": "parallel"}, ArgumentError, "chain_method"),
    ],
)
def test_row_11_numbers_are_checked_when_the_method_is_built(settings, kind, match):
    before = compilations()
    with pytest.raises(kind, match=match):
        NUTS(**settings)
    assert compilations() == before


def test_row_11_keep_names_a_site():
    with pytest.raises(UnknownNameError, match="Did you mean 'share'"):
        NUTS(keep=["shares"]).run(CONSTRAINED, 0)


@pytest.mark.bad_input
def test_row_12_seeds_and_keys():
    method = NUTS(num_warmup=20, num_draws=5)
    typed = method.run(conjugate(), jax.random.key(3))["mu"]
    np.testing.assert_array_equal(method.run(conjugate(), 3)["mu"], typed)
    np.testing.assert_array_equal(method.run(conjugate(), np.array([0, 3], np.uint32))["mu"], typed)
    assert not np.array_equal(method.run(conjugate(), 4)["mu"], typed)
    with pytest.raises(ArgumentError, match=r"key: expected one key of shape \(\), found a batch of shape \(2,\)"):
        method.run(conjugate(), jax.random.split(jax.random.key(0)))
    for wrong in (1.5, None, "seed"):
        with pytest.raises(ArgumentTypeError, match="key: expected an integer or a key"):
            method.run(conjugate(), wrong)


def interrupt_after(monkeypatch, steps):
    """Let Ctrl-C arrive as soon as the chains have taken `steps` steps."""
    advance = ChainPrograms.advance

    def advance_or_interrupt(self, *args, first_step, num_steps, **flags):
        if first_step >= steps:
            raise KeyboardInterrupt
        return advance(self, *args, first_step=first_step, num_steps=num_steps, **flags)

    monkeypatch.setattr(ChainPrograms, "advance", advance_or_interrupt)


@pytest.mark.parametrize(("dense_metric", "thinning"), [(False, 1), (True, 1), ("laplace", 3)])
@pytest.mark.parametrize("chain_method", ["native", "vectorized"])
def test_row_13_an_interrupted_run_keeps_its_draws_and_continues_to_the_same_end(
    dense_metric, thinning, chain_method, tmp_path
):
    method = NUTS(num_warmup=60, num_draws=90, dense_metric=dense_metric, thinning=thinning, chain_method=chain_method)
    whole = method.run(CONSTRAINED, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nuts_run, "CAPACITY", 15)
        interrupt_after(patch, 60 + 45)
        partial = method.run(CONSTRAINED, 8)
    done = partial.num_draws
    assert partial.is_partial
    assert 0 < done < whole.num_draws
    assert any("Interrupted after" in note for note in partial.warnings)
    assert not partial.summary().is_trustworthy
    np.testing.assert_array_equal(partial["scale"], whole["scale"][:, :done])
    partial.save(tmp_path / "partial.npz")
    finished = method.resume(CONSTRAINED, Posterior.load(tmp_path / "partial.npz"))
    np.testing.assert_array_equal(finished["scale"], whole["scale"])
    np.testing.assert_array_equal(finished.sample_stats["lp"], whole.sample_stats["lp"])
    assert not finished.is_partial
    assert not any("Interrupted" in note for note in finished.warnings)


def test_row_13_a_real_interrupt_is_heard_within_seconds():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have been started without one
    method = NUTS(num_draws=10_000_000)
    method_short = NUTS(num_draws=10)
    method_short.run(conjugate(), 1)  # compiled before the clock starts
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    started = time.perf_counter()
    timer.start()
    try:
        posterior = method.run(conjugate(), 1)
    finally:
        timer.cancel()
    assert posterior.is_partial
    assert 1.0 < time.perf_counter() - started < 10.0  # of them 1.5 before the signal
    assert_moments(posterior["mu"][:, :2000], *conjugate_answer(Y), "mu")


def test_row_13_interrupted_in_warm_up_there_is_nothing_to_return(monkeypatch):
    interrupt_after(monkeypatch, 10)
    with pytest.raises(KeyboardInterrupt):
        NUTS(num_warmup=60, num_draws=90).run(CONSTRAINED, 8)


def test_row_13_a_posterior_of_another_run_is_refused():
    posterior = NUTS(num_warmup=20, num_draws=10).run(conjugate(), 0)
    with pytest.raises(ArgumentError, match="4 chains in 1 dimensions"):
        NUTS(num_warmup=20, num_draws=20).resume(CONSTRAINED, posterior)
    with pytest.raises(ArgumentError, match="4 chains in 1 dimensions"):
        NUTS(num_draws=20, dense_metric="laplace").resume(conjugate(), posterior)
    with pytest.raises(ArgumentError, match="no checkpoint"):
        NUTS().resume(conjugate(), Posterior({"mu": np.ones((4, 5))}))


def test_row_14_one_chain_never_passes():
    summary = NUTS(num_chains=1).run(conjugate(), 0).summary()
    assert np.isnan(summary["R-hat"]).all()
    assert "One chain: R-hat is not computable" in str(summary)
    assert not summary.is_trustworthy


def test_row_14_chains_that_cannot_move_are_called_constant():
    """Two steps of a hopeless length without adaptation: every proposal is refused."""

    def terms(_, position):
        return {"x": -0.5e16 * position["x"] ** 2}

    target = StubTarget("needle", {"x": ()}, terms)
    summary = NUTS(num_warmup=0, num_draws=50, init={"x": 1e-8}).run(target, 0).summary()
    assert "constant" in str(summary)
    assert not summary.is_trustworthy


def test_discrete_sites_are_refused_with_the_methods_that_take_them():
    target = StubTarget("mixture", {"mu": ()}, normal_terms, Y, discrete_sites=("kind",))
    with pytest.raises(ModelError, match=r"'mixture' has discrete latent sites: 'kind'.*enumerate.*SMC"):
        NUTS().run(target, 0)


def test_a_model_without_latent_sites_is_refused():
    with pytest.raises(ModelError, match="no latent site"):
        NUTS().run(StubTarget("observed", {}, normal_terms), 0)


def test_a_funnel_is_not_called_trustworthy():
    """Four runs in ten end without a divergence (60 of 160), so that twenty such are a false alarm of 1e-8."""

    def terms(_, position):
        v, x = position["v"], position["x"]
        return {"v": -0.5 * (v / 3.0) ** 2, "x": -0.5 * jnp.sum(x**2) * jnp.exp(-v) - 4.5 * v}

    target, counts = StubTarget("funnel", {"v": (), "x": (9,)}, terms), []
    for seed in range(20):
        posterior = NUTS(num_warmup=300, num_draws=300).run(target, seed)
        counts.append(int(posterior.sample_stats["diverging"].sum()))
        assert any("divergent" in note for note in posterior.warnings) == (counts[-1] > 0)
        assert not posterior.summary().is_trustworthy  # R-hat and ESS say so where nothing diverged
    assert any(counts)


def test_the_unit_metric_is_blackjax_s_with_unit_masses(key):
    from blackjax.mcmc.metrics import gaussian_euclidean

    from probinf.kernels.nuts import unit_metric

    ours, theirs = unit_metric(), gaussian_euclidean(jnp.ones(3))
    turned = []
    for left, right, total in jax.random.normal(key, (200, 3, 3)):
        assert ours.kinetic_energy(left) == pytest.approx(float(theirs.kinetic_energy(left)), rel=1e-14)
        turned.append(bool(ours.check_turning(left, right, total)))
        assert turned[-1] == bool(theirs.check_turning(left, right, total))
    assert 50 < sum(turned) < 199  # both answers were seen


@pytest.mark.parametrize("dim", [5, 1000])
def test_momenta_are_standard_normal(dim, key):
    """Kolmogorov-Smirnov over 20,000 numbers or more; the level 1e-4 is the false-alarm rate. No block repeats."""
    from probinf.kernels.nuts import unit_metric

    draw = jax.vmap(unit_metric().sample_momentum, in_axes=(0, None))
    momenta = draw(jax.random.split(key, 20_000 // dim + 100), jnp.zeros(dim))
    assert scipy.stats.kstest(np.asarray(momenta).ravel(), "norm").pvalue > 1e-4
    assert np.unique(momenta).size == momenta.size


@pytest.mark.parametrize("metric", ["diagonal", "dense"])
def test_a_new_scale_leaves_the_chain_where_it_is(metric, key):
    """Same x, same log density, gradient by the chain rule; the scale is that of the draws."""
    from probinf.kernels.adaptation import update_moments
    from probinf.kernels.nuts import Geometry, renew_scale, start_chain

    precision = jnp.linalg.inv(jnp.asarray(FACTOR @ FACTOR.T))

    def logdensity(_, x):
        return -0.5 * x @ precision @ x

    shift = jnp.arange(4.0)
    geometry, z = Geometry(shift, jnp.zeros(0)), jnp.array([0.3, -0.2, 0.1, 0.5])
    state = start_chain(logdensity, metric, (), geometry, z)
    draws = jax.random.normal(key, (1000, 4)) @ jnp.asarray(FACTOR).T

    def add(moments, x):
        return update_moments(moments, x, jax.grad(logdensity, argnums=1)((), x)), None

    state = state._replace(moments=jax.lax.scan(add, state.moments, draws)[0])
    new = renew_scale(logdensity, metric, (), geometry, state)
    scale = np.diag(new.scale) if metric == "diagonal" else np.asarray(new.scale)
    x = np.asarray(shift + z)
    np.testing.assert_allclose(shift + scale @ new.z, x, rtol=1e-12)
    assert float(new.logdensity) == pytest.approx(float(logdensity((), x)), rel=1e-12)
    np.testing.assert_allclose(new.gradient, -scale.T @ precision @ x, rtol=1e-9)
    covariance = np.cov(np.asarray(draws).T)
    if metric == "dense":
        np.testing.assert_allclose(scale @ scale.T, covariance, rtol=1e-5, atol=1e-5)
    else:
        gradients = np.asarray(draws) @ np.asarray(precision)
        np.testing.assert_allclose(np.diag(scale) ** 4, np.diag(covariance) / gradients.var(axis=0, ddof=1), rtol=1e-9)


def test_warm_up_is_stans_schedule():
    from probinf.kernels.adaptation import warmup_segments

    assert [s.num_steps for s in warmup_segments(1000, "diagonal")] == [75, 25, 50, 100, 200, 500, 50]
    assert [s.renews for s in warmup_segments(1000, "dense")] == [False, *[True] * 5, False]
    assert [s.num_steps for s in warmup_segments(100, "diagonal")] == [15, 75, 10]
    assert [s.num_steps for s in warmup_segments(19, "diagonal")] == [19]
    for num_warmup in range(0, 400, 7):
        for metric in ("diagonal", "fixed"):
            assert sum(s.num_steps for s in warmup_segments(num_warmup, metric)) == num_warmup


def test_one_step_spends_no_key_twice():
    from probinf.kernels.nuts import Geometry, advance_chain, start_chain

    def logdensity(_, x):
        return -0.5 * jnp.sum(x**2)

    geometry = Geometry(jnp.zeros(2), jnp.zeros(0))
    state = start_chain(logdensity, "diagonal", (), geometry, jnp.ones(2))
    step, no = jnp.asarray(1, jnp.int32), jnp.asarray(False)
    with jax.debug_key_reuse(True):
        _, draws = advance_chain(
            logdensity,
            "diagonal",
            3,
            2,
            (),
            geometry,
            jnp.asarray(0.8),
            0 * step,
            step,
            no,
            no,
            state,
            jax.random.key(0),
        )
    assert np.isfinite(draws.x).all()
