"""Any program amortised: answers against closed forms, other priors, bad input, what lies outside of the training."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.errors import ArgumentError, CheckpointError, DataError, UnknownNameError
from transformers_gmm import MixturePosterior, OutOfRangeWarning, TrainingConfig

Y = np.array([0.5, 1.0, 1.5, 2.0, 0.0])
pytestmark = pytest.mark.relaxed_promotion("optax's Adam")


@pi.model
def readings(n):
    place = pi.sample("place", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(jnp.full(n, place), 1.0).to_event(1))


@pytest.fixture(scope="module")
def posterior() -> MixturePosterior:
    settings = TrainingConfig(steps=300, batch=64, learning_rate=3e-3)
    from tests.strictness import relaxed_promotion

    with relaxed_promotion("optax's Adam"):
        return MixturePosterior.train(readings(5), data="y", training=settings, progress=False)


def exact(mean: float, variance: float) -> tuple[float, float]:
    """The conjugate posterior of the place, unit noise."""
    precision = 1 / variance + len(Y)
    return (mean / variance + Y.sum()) / precision, 1 / precision


def test_the_answer_is_near_the_conjugate_posterior_under_its_own_and_other_priors(posterior):
    """Near: within a third of a standard deviation, after a training of seconds."""
    for prior, (mean, variance) in (
        (None, exact(0.0, 1.0)),
        (pi.GaussianMixture.gaussian([-0.5], [[0.5]]), exact(-0.5, 0.5)),
    ):
        q = posterior(Y, prior)
        assert abs(float(q.mean[0]) - mean) < np.sqrt(variance) / 3
        assert 0.6 < float(q.cov[0, 0]) / variance < 1.6


def test_the_corrected_answer_has_the_exact_evidence_and_moments(posterior):
    """Log evidence and mean within 4.5 of their standard errors, for a prior that is not the program's."""
    prior = pi.GaussianMixture.gaussian([-0.5], [[0.5]])
    found = posterior.corrected(Y, prior, key=0, num_draws=4000)
    cov = np.eye(5) + 0.5
    evidence = dist.MultivariateNormal(jnp.full(5, -0.5), jnp.asarray(cov)).log_prob(jnp.asarray(Y))
    assert found.is_reliable
    assert abs(float(found.log_evidence) - float(evidence)) < 4.5 * float(found.log_evidence_sd) + 1e-6
    mean, variance = exact(-0.5, 0.5)
    assert abs(float(found.mixture(1).mean[0]) - mean) < 4.5 * np.sqrt(variance / float(found.ess))


def test_data_outside_of_the_training_range_are_corrected_and_said_so(posterior):
    far = Y + 30.0
    with pytest.warns(OutOfRangeWarning, match="data"):
        q = posterior(far, key=1)
    mean = far.sum() / 6
    assert abs(float(q.mean[0]) - mean) < 0.2


@pytest.mark.bad_input
def test_what_the_network_has_no_room_for_is_refused(posterior):
    with pytest.raises(ArgumentError, match=r"6 components, the network has room for 5; call prior.reduce\(5\)"):
        posterior(Y, pi.GaussianMixture(np.full(6, 1 / 6), np.zeros((6, 1)), np.ones((6, 1, 1))))
    with pytest.raises(ArgumentError, match="expected 1 dimensions, found 2"):
        posterior(Y, pi.GaussianMixture.gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(DataError, match=r"'y' has shape \(5,\), found \(7,\)"):
        posterior(np.zeros(7))
    with pytest.raises(DataError, match="1 values are not finite, the first at index"):
        posterior(np.array([0.0, np.nan, 0.0, 0.0, 0.0]))
    with pytest.raises(UnknownNameError, match="'x'"):
        MixturePosterior.train(readings(5), data="x")


def test_a_saved_posterior_answers_the_same_and_belongs_to_its_program(posterior, tmp_path):
    path = posterior.save(tmp_path / "net")
    again = MixturePosterior.load(path, readings(5), data="y")
    np.testing.assert_array_equal(again(Y).means, posterior(Y).means)

    @pi.model
    def others(n):
        pi.sample("y", dist.Normal(jnp.full(n, pi.sample("place", dist.Normal(0.0, 1.0))), 1.0).to_event(1))

    with pytest.raises(CheckpointError, match="expected 'others'"):
        MixturePosterior.load(path, others(5), data="y")


def test_draws_come_back_in_the_sites_own_space(posterior):
    values = posterior.constrain(posterior(Y).sample(jax.random.key(0), 7))
    assert {name: value.shape for name, value in values.items()} == {"place": (7,)}
