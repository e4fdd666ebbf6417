"""Conditioning, products, pruning, divergences and constrained mixtures, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
from numpyro.distributions import constraints

from probinf.errors import ArgumentError, ProbinfError
from probinf.representations.mixture import GaussianMixture
from tests.test_mixture import random_mixture


def with_an_empty_component(parameters):
    """The same mixture with one component of weight zero in the middle."""
    weights, means, covs = parameters
    return (
        np.insert(weights, 1, 0.0),
        np.insert(means, 1, 7.0, axis=0),
        np.insert(covs, 1, 3.0 * np.eye(means.shape[1]), axis=0),
    )


CASES = {"full": random_mixture(0, 3, 3), "masked": with_an_empty_component(random_mixture(0, 3, 3))}


@pytest.mark.parametrize("case", CASES)
def test_conditioning_is_joint_over_marginal(case):
    mixture = GaussianMixture(*CASES[case])
    rng = np.random.default_rng(1)
    for indices in ([1], [2, 0], [-1]):
        given = rng.normal(size=len(indices))
        conditional = mixture.condition(indices, given)
        rest = np.setdiff1d(np.arange(3), np.asarray(indices) % 3)
        x = np.empty((5, 3))
        x[:, indices], x[:, rest] = given, rng.normal(size=(5, len(rest)))
        expected = mixture.log_prob(x) - mixture.marginal(indices).log_prob(given)
        np.testing.assert_allclose(conditional.log_prob(x[:, rest]), expected, rtol=1e-9)


def test_conditioning_one_gaussian_is_the_textbook_formula():
    conditional = GaussianMixture.gaussian([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]]).condition([0], [2.0])
    np.testing.assert_allclose(conditional.mean, [1.0], rtol=1e-12)
    np.testing.assert_allclose(conditional.cov, [[0.75]], rtol=1e-12)


def test_conditioning_on_a_coordinate_known_to_rounding_keeps_half_the_digits_in_32_bits():
    """A position known to 1e-4 beside a speed: subtracting covariances would leave noise in single precision."""
    cov = np.array([[1.0, 1.0 - 1e-8], [1.0 - 1e-8, 1.0]])
    exact = 1.0 - (1.0 - 1e-8) ** 2
    tril = jnp.asarray(np.linalg.cholesky(cov), jnp.float32)[None]
    mixture = GaussianMixture(jnp.ones(1, jnp.float32), jnp.zeros((1, 2), jnp.float32), scale_tril=tril)
    found = mixture.condition([0], np.float32([0.3])).cov
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(float(found[0, 0]), exact, rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_product_is_the_pointwise_product_over_its_integral(case):
    first, second = GaussianMixture(*CASES[case]), GaussianMixture(*random_mixture(2, 2, 3))
    both, log_mass = first.product(second)
    assert both.num_components == first.num_components * 2
    x = np.random.default_rng(3).normal(size=(6, 3))
    np.testing.assert_allclose(both.log_prob(x) + log_mass, first.log_prob(x) + second.log_prob(x), rtol=1e-9)


def test_prior_times_likelihood_is_the_kalman_update():
    prior, noise, z = GaussianMixture.gaussian([1.0], [[4.0]]), 0.5, 3.0
    posterior, log_evidence = prior.product(GaussianMixture.gaussian([z], [[noise]]))
    np.testing.assert_allclose(float(posterior.cov[0, 0]), 1 / (1 / 4.0 + 1 / noise), rtol=1e-12)
    np.testing.assert_allclose(float(posterior.mean[0]), (1 / 4.0 + z / noise) / (1 / 4.0 + 1 / noise), rtol=1e-12)
    np.testing.assert_allclose(float(log_evidence), scipy.stats.norm(1.0, np.sqrt(4.5)).logpdf(z), rtol=1e-12)


def test_pruning_keeps_the_heaviest_and_empties_the_light():
    weights, means, covs = [0.05, 0.6, 0.35], np.arange(6.0).reshape(3, 2), np.repeat(np.eye(2)[None], 3, 0)
    mixture = GaussianMixture(weights, means, covs)
    two = mixture.prune(2)
    np.testing.assert_allclose(two.weights, np.array([0.6, 0.35]) / 0.95, rtol=1e-12)
    np.testing.assert_array_equal(two.means, means[[1, 2]])
    masked = jax.jit(lambda m: m.prune(below=0.1))(mixture)
    np.testing.assert_allclose(masked.weights, [*np.array([0.6, 0.35]) / 0.95, 0.0], rtol=1e-12)
    assert float(mixture.prune(below=1.0).weights[0]) == 1.0
    # What is pruned no longer counts anywhere.
    x = np.random.default_rng(0).normal(size=(4, 2))
    np.testing.assert_allclose(masked.log_prob(x), two.log_prob(x), rtol=1e-12)


def test_empty_components_count_nowhere(key):
    mixture, plain = GaussianMixture(*CASES["masked"]), GaussianMixture(*CASES["full"])
    x = np.random.default_rng(4).normal(size=(4, 3))
    for one, other in ((mixture, plain), (mixture.marginal([2]), plain.marginal([2]))):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
        np.testing.assert_allclose(one.cov, other.cov, rtol=1e-12)
    np.testing.assert_allclose(mixture.reduce(3).log_prob(x), plain.log_prob(x), rtol=1e-9)
    np.testing.assert_allclose(mixture.as_distribution().log_prob(jnp.asarray(x)), plain.log_prob(x), rtol=1e-9)
    other = GaussianMixture(*random_mixture(5, 2, 3))
    for first, second in (((mixture, other), (plain, other)), ((other, mixture), (other, plain))):
        np.testing.assert_allclose(first[0].kl_bounds(first[1]), second[0].kl_bounds(second[1]), rtol=1e-9)
    gradient = jax.grad(lambda m: jnp.sum(m.log_prob(x)))(mixture)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    refined = mixture.refine(plain.sample(key, 200))
    assert all(np.isfinite(leaf).all() for leaf in (refined.means, refined.scale_tril))
    assert float(refined.weights[1]) == 0.0


def gaussian_kl(m, p, n, q):
    return 0.5 * (
        np.trace(np.linalg.solve(q, p)) + (n - m) @ np.linalg.solve(q, n - m) - len(m)
        + np.linalg.slogdet(q)[1] - np.linalg.slogdet(p)[1]
    )  # fmt: skip


def test_the_bounds_are_the_closed_form_for_single_gaussians():
    (_, m, p), (_, n, q) = random_mixture(6, 1, 3), random_mixture(7, 1, 3)
    first, second = GaussianMixture.gaussian(m[0], p[0]), GaussianMixture.gaussian(n[0], q[0])
    np.testing.assert_allclose(first.kl_bounds(second), 2 * [gaussian_kl(m[0], p[0], n[0], q[0])], rtol=1e-9)
    assert float(first.kl_bounds(first)[1]) == pytest.approx(0.0, abs=1e-12)


def test_the_divergence_in_one_dimension_is_that_of_quadrature(key):
    """The Monte Carlo estimate lies within 4.5 of its standard errors: false-alarm rate 7e-6."""
    first, second = GaussianMixture(*random_mixture(8, 3, 1)), GaussianMixture(*random_mixture(9, 2, 1))
    grid = np.linspace(-60, 60, 200_001)
    logs = [np.asarray(m.log_prob(grid[:, None])) for m in (first, second)]
    exact = scipy.integrate.trapezoid(np.exp(logs[0]) * (logs[0] - logs[1]), grid)
    low, high = first.kl_bounds(second)
    assert float(low) <= exact <= float(high)
    estimate, error = first.kl(second, key, 20_000)
    assert abs(float(estimate) - exact) < 4.5 * float(error)
    assert float(first.kl(first, key, 100)[0]) == 0.0


def test_refining_by_draws_of_the_mixture_itself_is_weighted_expectation_maximisation():
    """One step without shrinkage against the formulas, in NumPy."""
    weights, means, covs = random_mixture(10, 2, 2)
    rng = np.random.default_rng(11)
    x, log_w = rng.normal(scale=3.0, size=(40, 2)), rng.normal(size=40)
    w = np.exp(log_w) / np.exp(log_w).sum()
    parts = [v * scipy.stats.multivariate_normal(m, c).pdf(x) for v, m, c in zip(weights, means, covs, strict=True)]
    shares = w[:, None] * (np.stack(parts, axis=1) / np.sum(parts, axis=0)[:, None])
    refined = GaussianMixture(weights, means, covs).refine(x, log_w, steps=1, strength=1e-12)
    for k in range(2):
        mass = shares[:, k].sum()
        mean = shares[:, k] @ x / mass
        cov = (shares[:, k, None] * (x - mean)).T @ (x - mean) / mass
        np.testing.assert_allclose(float(refined.weights[k]), mass, rtol=1e-8)
        np.testing.assert_allclose(refined.means[k], mean, rtol=1e-8)
        np.testing.assert_allclose(refined.covariances[k], cov, rtol=1e-7)
    still = GaussianMixture(weights, means, covs).refine(x, log_w, strength=1e15)
    np.testing.assert_allclose(still.means, means, rtol=1e-9)


SUPPORTS = [constraints.real, constraints.positive, constraints.interval(-1.0, 3.0)]


def test_a_constrained_mixture_has_the_density_of_the_change_of_variables():
    mixture = GaussianMixture(*random_mixture(12, 2, 3))
    law = mixture.constrained(SUPPORTS)
    x = jnp.array([[0.3, 1.7, 0.4], [-1.2, 0.2, 2.5]])
    share = (x[:, 2] + 1.0) / 4.0
    free = jnp.stack([x[:, 0], jnp.log(x[:, 1]), jnp.log(share) - jnp.log1p(-share)], axis=1)
    log_slope = -jnp.log(x[:, 1]) - jnp.log(4.0 * share * (1.0 - share))
    np.testing.assert_allclose(law.log_prob(x), mixture.log_prob(free) + log_slope, rtol=1e-9)
    one = GaussianMixture.gaussian([0.4], [[0.49]]).constrained([constraints.positive])
    np.testing.assert_allclose(one.log_prob(jnp.array([[2.0]]))[0], dist.LogNormal(0.4, 0.7).log_prob(2.0), rtol=1e-12)


def test_draws_of_a_constrained_mixture_are_inside_and_come_back(key):
    supports = [(constraints.simplex, (3,)), constraints.positive, (constraints.positive, (2,))]
    mixture = GaussianMixture(*random_mixture(13, 2, 5))
    law = mixture.constrained(supports)
    assert law.event_shape == (6,)
    draws = law.sample(key, (50,))
    np.testing.assert_allclose(jnp.sum(draws[:, :3], axis=1), 1.0, rtol=1e-9)
    assert float(draws.min()) > 0.0
    (bijection,) = law.transforms
    free = bijection.inv(draws)
    np.testing.assert_allclose(bijection(free), draws, rtol=1e-6)
    columns = np.array([0, 1, 3, 4, 5])  # of a simplex the last entry is no coordinate of its own
    slopes = jax.vmap(jax.jacfwd(lambda x: bijection(x)[columns]))(free)
    expected = mixture.log_prob(free) - jnp.linalg.slogdet(slopes)[1]
    np.testing.assert_allclose(law.log_prob(draws), expected, rtol=1e-6)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.condition([0, 1, 2], np.zeros(3)), "indices: expected some but not all of 3"),
        (lambda m: m.condition([0, -3], np.zeros(2)), "each once"),
        (lambda m: m.condition([0], np.zeros(2)), r"values: expected shape \(1,\)"),
        (lambda m: m.product(m.marginal([0])), "other: expected a mixture over 3 coordinates, found 1"),
        (lambda m: m.prune(0), "k: expected a positive integer"),
        (lambda m: m.prune(below=2.0), "below: expected a weight between 0 and 1"),
        (
            lambda m: m.constrained([constraints.positive]),
            "supports of 3 unconstrained coordinates in all, these have 1",
        ),
        (lambda m: m.constrained([constraints.simplex] * 3), r"Write \(constraint, shape\)"),
        (lambda m: m.constrained(["positive"] * 3), "entry 0: expected a NumPyro constraint"),
    ],
)
def test_impossible_requests_are_refused_by_name(call, message):
    with pytest.raises(ProbinfError, match=message) as error:
        call(GaussianMixture(*CASES["full"]))
    assert isinstance(error.value, ArgumentError | TypeError)
