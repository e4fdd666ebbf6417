"""Gaussian mixtures: densities, moments, draws, marginals, reduction, fitting, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from probinf.errors import ArgumentError, DataError, ProbinfError
from probinf.representations.mixture import GaussianMixture


def random_mixture(seed, k, d):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k))
    roots = rng.normal(size=(k, d, d))
    return weights, rng.normal(scale=3.0, size=(k, d)), roots @ np.swapaxes(roots, 1, 2) + 0.1 * np.eye(d)


def moments(weights, means, covs):
    mean = weights @ means
    gaps = means - mean
    return mean, np.einsum("k,kij->ij", weights, covs + gaps[:, :, None] * gaps[:, None, :])


def test_the_log_density_is_the_weighted_sum_of_normal_densities():
    weights, means, covs = random_mixture(0, 3, 2)
    mixture = GaussianMixture(weights, means, covs)
    x = np.random.default_rng(1).normal(size=(4, 5, 2))
    parts = [
        scipy.stats.multivariate_normal(m, c).logpdf(x) + np.log(w)
        for w, m, c in zip(weights, means, covs, strict=True)
    ]
    np.testing.assert_allclose(mixture.log_prob(x), scipy.special.logsumexp(parts, axis=0), rtol=1e-10)
    one = mixture.as_distribution().log_prob(jnp.asarray(x[0, 0]))
    np.testing.assert_allclose(float(one), float(mixture.log_prob(x[0, 0])), rtol=1e-10)


def test_mean_and_covariance_are_those_of_total_probability():
    parameters = random_mixture(2, 4, 3)
    mixture = GaussianMixture(*parameters)
    mean, cov = moments(*parameters)
    np.testing.assert_allclose(mixture.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(mixture.cov, cov, rtol=1e-10)
    assert float(mixture.log_evidence) == 0.0


def test_draws_fall_into_bins_as_often_as_they_should(key):
    """Chi-square on 20 bins of equal probability along one coordinate; false-alarm rate 1e-5."""
    mixture = GaussianMixture(*random_mixture(3, 3, 2))
    n = 20_000
    x = np.asarray(mixture.sample(key, n))[:, 0]
    marginal = mixture.marginal([0])
    sd = np.sqrt(np.asarray(marginal.covariances)[:, 0, 0])

    def cdf(t):
        return float(np.asarray(marginal.weights) @ scipy.stats.norm.cdf((t - np.asarray(marginal.means)[:, 0]) / sd))

    u = np.array([cdf(t) for t in x])
    counts = np.histogram(u, bins=20, range=(0.0, 1.0))[0]
    assert scipy.stats.chisquare(counts).pvalue > 1e-5


def test_a_marginal_is_the_integral_over_the_rest():
    weights, means, covs = random_mixture(4, 3, 3)
    marginal = GaussianMixture(weights, means, covs).marginal([2, 0])
    np.testing.assert_allclose(marginal.means, means[:, [2, 0]], rtol=1e-12)
    np.testing.assert_allclose(marginal.covariances, covs[:, [2, 0]][:, :, [2, 0]], rtol=1e-9)
    with pytest.raises(ArgumentError, match="indices"):
        GaussianMixture(weights, means, covs).marginal([3])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_reduction_keeps_mass_mean_and_covariance(k):
    mixture = GaussianMixture(*random_mixture(5, 7, 3))
    reduced = mixture.reduce(k)
    assert reduced.num_components == k
    np.testing.assert_allclose(float(jnp.sum(reduced.weights)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(reduced.mean, mixture.mean, rtol=1e-9)
    np.testing.assert_allclose(reduced.cov, mixture.cov, rtol=1e-9)


def test_reduction_merges_the_pair_of_least_cost_first():
    """Against the cost of every pair, computed here."""
    weights, means, covs = random_mixture(6, 5, 2)
    reduced = GaussianMixture(weights, means, covs).reduce(4)

    def cost(i, j):
        pair = weights[[i, j]] / weights[[i, j]].sum()
        _, cov = moments(pair, means[[i, j]], covs[[i, j]])
        parts = [w * np.linalg.slogdet(c)[1] for w, c in zip(weights[[i, j]], covs[[i, j]], strict=True)]
        return 0.5 * (weights[[i, j]].sum() * np.linalg.slogdet(cov)[1] - sum(parts))

    pairs = [(i, j) for i in range(5) for j in range(i)]
    i, j = min(pairs, key=lambda p: cost(*p))
    merged = weights[i] + weights[j]
    expected = np.sort(np.append(np.delete(weights, [i, j]), merged))[::-1]
    np.testing.assert_allclose(reduced.weights, expected, rtol=1e-10)


def test_reduction_of_copies_changes_nothing_and_drops_empty_components():
    weights, means, covs = random_mixture(7, 2, 2)
    double = GaussianMixture(
        np.concatenate([weights / 2, weights / 2, [0.0]]),
        np.concatenate([means, means, means[:1] + 50.0]),
        np.concatenate([covs, covs, covs[:1]]),
    )
    x = np.random.default_rng(0).normal(size=(10, 2))
    np.testing.assert_allclose(double.reduce(2).log_prob(x), double.log_prob(x), rtol=1e-9)


def test_one_component_is_fitted_in_closed_form():
    rng = np.random.default_rng(8)
    x, log_weights = rng.normal(size=(50, 3)), rng.normal(size=50)
    weights = scipy.special.softmax(log_weights)
    fitted = GaussianMixture.from_samples(x, log_weights)
    mean, cov = moments(weights, x, np.zeros((50, 3, 3)))
    np.testing.assert_allclose(fitted.means[0], mean, rtol=1e-10)
    np.testing.assert_allclose(fitted.covariances[0], cov, rtol=1e-10)


def test_an_integer_weight_counts_like_copies_of_the_point(key):
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.normal(-4.0, 1.0, size=(60, 2)), rng.normal(4.0, 1.0, size=(40, 2))])
    copies = rng.integers(1, 4, size=100)
    weighted = GaussianMixture.from_samples(x, np.log(copies), 2, key)
    repeated = GaussianMixture.from_samples(np.repeat(x, copies, axis=0), None, 2, key)
    order, other = np.argsort(weighted.means[:, 0]), np.argsort(repeated.means[:, 0])
    np.testing.assert_allclose(weighted.weights[order], repeated.weights[other], atol=1e-5)
    np.testing.assert_allclose(weighted.means[order], repeated.means[other], atol=1e-4)
    # The groups are 8 standard deviations apart: each component has the moments of its group.
    group = copies[:60]
    np.testing.assert_allclose(weighted.means[order[0]], np.average(x[:60], axis=0, weights=group), atol=1e-2)
    np.testing.assert_allclose(float(weighted.weights[order[0]]), group.sum() / copies.sum(), atol=1e-3)


def test_fitting_recovers_the_density_of_its_own_draws(key):
    truth = GaussianMixture([0.3, 0.7], [[-3.0, 0.0], [2.0, 1.0]], [np.eye(2) * 0.5, np.eye(2)])
    key_train, key_test, key_fit = jax.random.split(key, 3)
    fitted = GaussianMixture.from_samples(truth.sample(key_train, 4000), None, 2, key_fit)
    x = truth.sample(key_test, 4000)
    gap = np.asarray(truth.log_prob(x) - fitted.log_prob(x))
    # Maximum likelihood with 11 parameters: E KL is about 11 / (2 n) = 0.0014. The estimate's standard error is added.
    assert gap.mean() < 0.0014 * 3 + 4 * gap.std() / np.sqrt(len(gap))


def test_a_mixture_is_a_pytree_that_jit_and_vmap_accept():
    mixture = GaussianMixture(*random_mixture(10, 3, 2))
    x = jnp.zeros(2)
    np.testing.assert_allclose(float(jax.jit(lambda m: m.log_prob(x))(mixture)), float(mixture.log_prob(x)), rtol=1e-12)
    batch = jax.tree.map(lambda a: jnp.stack([a, a]), mixture)
    assert jax.vmap(lambda m: m.mean)(batch).shape == (2, 2)

    def score(shift):  # the constructor inside traced code
        return GaussianMixture(jnp.array([1.0]), shift[None], jnp.eye(2)[None]).log_prob(x)

    np.testing.assert_allclose(jax.grad(score)(jnp.array([1.0, 2.0])), [-1.0, -2.0], rtol=1e-12)


def test_units_do_not_decide_whether_a_covariance_is_definite():
    covariance = np.diag([1e-9, 1.0]).astype(np.float32)
    mixture = GaussianMixture.gaussian(np.zeros(2, np.float32), covariance)
    np.testing.assert_allclose(mixture.cov, covariance, rtol=1e-6)


EYE = np.eye(2)[None]
BAD = {
    "negative weight": (([1.2, -0.2], np.zeros((2, 2)), np.repeat(EYE, 2, 0)), "component 1 has the negative weight"),
    "weights off one": (([0.5, 0.4], np.zeros((2, 2)), np.repeat(EYE, 2, 0)), "sum to 0.9, expected 1 within 1e-05"),
    "weight not finite": (([np.nan, 1.0], np.zeros((2, 2)), np.repeat(EYE, 2, 0)), "weights: component 0"),
    "mean not finite": (([1.0], [[0.0, np.inf]], EYE), "means: component 0 is not finite"),
    "not symmetric": (([1.0], np.zeros((1, 2)), [[[1.0, 0.5], [0.4, 1.0]]]), "component 0 is not symmetric"),
    "not definite": (
        ([0.5, 0.5], np.zeros((2, 2)), [np.eye(2), [[1.0, 2.0], [2.0, 1.0]]]),
        "component 1 is not positive definite: smallest eigenvalue -1",
    ),
    "singular": (([1.0], np.zeros((1, 2)), [[[1.0, 1.0], [1.0, 1.0]]]), "not positive definite"),
    "dimensions differ": (([0.5, 0.5], [[0.0, 1.0], [0.0]], np.repeat(EYE, 2, 0)), "means: .*different dimensions"),
    "shape of means": (([0.5, 0.5], np.zeros((3, 2)), np.repeat(EYE, 2, 0)), r"means: expected shape \(2, d\)"),
    "shape of covariances": (([1.0], np.zeros((1, 3)), EYE), r"covariances: expected shape \(1, 3, 3\)"),
    "words": ((["a"], np.zeros((1, 2)), EYE), "weights: expected real numbers"),
    "no components": (([], np.zeros((0, 2)), np.zeros((0, 2, 2))), "weights: expected shape"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD)
def test_impossible_parameters_are_refused_by_name(case):
    arguments, message = BAD[case]
    with pytest.raises(ProbinfError, match=message):
        GaussianMixture(*arguments)


@pytest.mark.bad_input
def test_bad_points_and_counts_are_refused_by_name():
    x = np.random.default_rng(0).normal(size=(5, 2))
    with pytest.raises(DataError, match=r"x: 1 values are not finite, the first at index \(1, 0\)"):
        GaussianMixture.from_samples(np.where(np.arange(10).reshape(5, 2) == 2, np.nan, x))
    with pytest.raises(DataError, match="log_weights: all are -inf"):
        GaussianMixture.from_samples(x, np.full(5, -np.inf))
    with pytest.raises(DataError, match="do not span all 2 dimensions"):
        GaussianMixture.from_samples(np.ones((5, 2)))
    with pytest.raises(ArgumentError, match="k: expected a positive integer"):
        GaussianMixture.from_samples(x, k=0)
    with pytest.raises(ArgumentError, match="log_weights: expected shape"):
        GaussianMixture.from_samples(x, np.zeros(4))
    with pytest.raises(ProbinfError, match=r"k: expected a positive integer, found 1\.5"):
        GaussianMixture.from_samples(x).reduce(1.5)
    with pytest.raises(ArgumentError, match="either covariances or scale_tril"):
        GaussianMixture([1.0], [[0.0]])
    with pytest.raises(ArgumentError, match="component 0 is not lower triangular"):
        GaussianMixture([1.0], np.zeros((1, 2)), scale_tril=np.ones((1, 2, 2)))
