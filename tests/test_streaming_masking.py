"""Log densities of partly observed values, against marginals in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from probinf.representations.angular import Angular, wrap
from probinf.streaming.masking import masked_log_prob, separable

ROOT = np.array([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.5, 1.2]])
COV = ROOT @ ROOT.T
LOC = np.array([0.5, -1.0, 2.0])
VALUE = np.array([1.0, 0.3, -0.2])
MASKS = list(np.ndindex(2, 2, 2))


def normal(seen):
    return scipy.stats.multivariate_normal(LOC[seen], COV[np.ix_(seen, seen)]).logpdf(VALUE[seen])


def student(seen):
    return scipy.stats.multivariate_t(LOC[seen], COV[np.ix_(seen, seen)], df=4.0).logpdf(VALUE[seen])


def independent(seen):
    return scipy.stats.t(4.0, LOC[seen], 0.7).logpdf(VALUE[seen]).sum()


def mixture(seen):
    other = scipy.stats.multivariate_normal(LOC[seen] + 1.0, 4.0 * COV[np.ix_(seen, seen)]).logpdf(VALUE[seen])
    return np.logaddexp(np.log(0.8) + normal(seen), np.log(0.2) + other)


def general(seen):
    return np.logaddexp(np.log(0.8) + normal(seen), np.log(0.2) + independent(seen))


WEIGHTS = dist.Categorical(probs=jnp.array([0.8, 0.2]))
FAMILIES = {
    "normal": (dist.MultivariateNormal(LOC, COV), normal),
    "student": (dist.MultivariateStudentT(4.0, LOC, ROOT), student),
    "independent": (dist.StudentT(4.0, LOC, 0.7).to_event(1), independent),
    "mixture of one family": (
        dist.MixtureSameFamily(
            WEIGHTS, dist.MultivariateNormal(np.stack([LOC, LOC + 1.0]), scale_tril=np.stack([ROOT, 2.0 * ROOT]))
        ),
        mixture,
    ),
    "mixture of several": (
        dist.MixtureGeneral(
            WEIGHTS,
            [dist.MultivariateNormal(LOC, COV), dist.StudentT(4.0, LOC, 0.7).to_event(1)],
            support=dist.constraints.real_vector,
        ),
        general,
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_missing_coordinates_are_integrated_out(family, mask):
    distribution, marginal = FAMILIES[family]
    observed = np.array(mask, bool)
    value = jnp.asarray(np.where(observed, VALUE, np.nan))
    got = float(masked_log_prob(distribution, value, jnp.asarray(observed)))
    expected = marginal(np.flatnonzero(observed)) if observed.any() else 0.0
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)
    assert separable(distribution)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_at_a_missing_coordinate_is_finite(family):
    distribution, _ = FAMILIES[family]
    observed = jnp.array([True, False, True])

    def score(value):
        return masked_log_prob(distribution, value, observed)

    gradient = jax.grad(score)(jnp.asarray(np.where(observed, VALUE, 0.0)))
    assert np.isfinite(np.asarray(gradient)).all()
    assert float(gradient[1]) == 0.0


def test_scalars_are_there_or_not():
    for distribution in (dist.Normal(0.0, 1.0), dist.VonMises(0.0, 2.0), dist.LogNormal(0.0, 1.0)):
        whole = float(masked_log_prob(distribution, jnp.asarray(0.5), jnp.asarray(True)))
        np.testing.assert_allclose(whole, float(distribution.log_prob(0.5)), rtol=1e-12)
        assert float(masked_log_prob(distribution, jnp.asarray(jnp.nan), jnp.asarray(False))) == 0.0


def test_values_outside_the_support_have_no_density():
    assert float(masked_log_prob(dist.LogNormal(0.0, 1.0), jnp.asarray(-1.0), jnp.asarray(True))) == -np.inf
    assert float(masked_log_prob(dist.Poisson(2.0), jnp.asarray(2.5))) == -np.inf


def test_declared_angles_deviate_on_the_circle():
    distribution = dist.MultivariateNormal(jnp.array([1.0, 3.1]), jnp.array([[0.5, 0.1], [0.1, 0.2]]))
    observed = jnp.ones(2, bool)
    over = masked_log_prob(distribution, jnp.array([0.8, -3.1]), observed, angles=(1,))
    flat = distribution.log_prob(jnp.array([0.8, 2 * np.pi - 3.1]))
    np.testing.assert_allclose(float(over), float(flat), rtol=1e-10)


def test_families_without_marginals_are_all_or_nothing():
    distribution = dist.Dirichlet(jnp.array([1.0, 2.0, 3.0]))
    value = jnp.array([0.2, 0.3, 0.5])
    assert not separable(distribution)
    whole = masked_log_prob(distribution, value, jnp.ones(3, bool))
    np.testing.assert_allclose(float(whole), float(distribution.log_prob(value)), rtol=1e-12)
    assert float(masked_log_prob(distribution, value, jnp.zeros(3, bool))) == 0.0
    assert np.isnan(float(masked_log_prob(distribution, value, jnp.array([True, False, True]))))


@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, 3.1, 3.2, 20.0])
def test_the_wrapped_normal_is_a_density_with_the_right_resultant_length(scale):
    """Its integral over the circle is 1 and E exp(i x) = exp(i loc - scale^2 / 2); the trapezium rule is exact here."""
    n = 4096
    grid = -np.pi + 2 * np.pi * np.arange(n) / n
    density = np.exp(np.asarray(jax.vmap(Angular(0.7, scale).log_prob)(jnp.asarray(grid))))
    step = 2 * np.pi / n
    np.testing.assert_allclose(density.sum() * step, 1.0, rtol=1e-12)
    moment = (density * np.exp(1j * grid)).sum() * step
    np.testing.assert_allclose(moment, np.exp(0.7j - scale**2 / 2), atol=1e-12)


def test_wrapping_ends_at_plus_half_a_turn():
    np.testing.assert_allclose(
        wrap(jnp.array([0.0, np.pi, 1.5 * np.pi, -3 * np.pi])), [0.0, np.pi, -0.5 * np.pi, np.pi]
    )
