"""The strict settings hold in our code and stop where the third-party code begins."""

import zlib

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

from probinf.errors import ArgumentTypeError
from probinf.random import as_key
from tests.strictness import relaxed_promotion


def test_an_integer_is_not_silently_added_to_a_float():
    with pytest.raises(ValueError, match="dtype_promotion=strict"):
        jnp.ones(2) + jnp.ones(2, dtype=int)


def test_a_vector_is_not_silently_broadcast_over_a_matrix():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((3, 2)) + jnp.ones(2)


def test_an_old_style_key_is_refused(key):
    with pytest.raises(ValueError, match="Legacy uint32 key"):
        jax.random.normal(jax.random.key_data(key))


def test_floats_are_double():
    assert jnp.asarray(1.0).dtype == jnp.float64


BATCHED = {
    "bernoulli": lambda: dist.Bernoulli(0.3),
    "beta": lambda: dist.Beta(1.0, 2.0),
    "binomial": lambda: dist.Binomial(5, 0.3),
    "categorical": lambda: dist.Categorical(jnp.array([0.2, 0.8])),
    "dirichlet": lambda: dist.Dirichlet(jnp.ones(3)),
    "lkj": lambda: dist.LKJCholesky(3, 1.0),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.2, 0.8])), dist.Normal(jnp.zeros(2), jnp.ones(2))
    ),
    "multivariate normal": lambda: dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
    "random walk": lambda: dist.GaussianRandomWalk(1.0, 4),
}


@pytest.mark.parametrize("name", BATCHED)
def test_numpyro_distributions_work_on_batches(name, key):
    distribution = BATCHED[name]()
    draws = distribution.sample(key, (3,))
    assert draws.shape == (3, *distribution.event_shape)
    singly = jnp.stack([distribution.log_prob(draw) for draw in draws])
    np.testing.assert_allclose(jax.jit(distribution.log_prob)(draws), singly, rtol=1e-12)


def test_the_rules_are_back_after_a_numpyro_call(key):
    dist.Bernoulli(0.3).sample(key, (2,))
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((4, 2)) * jnp.ones(2)


@pytest.mark.relaxed_promotion("optax's Adam adds int32 step counts to floats")
def test_the_marker_lifts_the_rules_for_one_test():
    optimiser = optax.adam(0.1)
    params = jnp.ones(2)
    updates, _ = optimiser.update(params, optimiser.init(params), params)
    np.testing.assert_allclose(updates, -0.1, rtol=1e-6)  # Adam's first step is the learning rate against the sign


def test_the_rules_cannot_be_lifted_without_a_reason():
    with pytest.raises(ValueError, match="reason"), relaxed_promotion(""):
        pass


def test_types_are_enforced_in_the_packages():
    with pytest.raises(jaxtyping.TypeCheckError):
        as_key("7")


@pytest.mark.bad_input
def test_the_library_answers_where_bad_input_is_the_subject():
    with pytest.raises(ArgumentTypeError):
        as_key("7")


def test_a_key_fixture_follows_from_the_name_of_the_test(key, request):
    expected = jax.random.key(zlib.crc32(request.node.name.encode()))
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(expected))
