"""Equations that are computed in another form for all particles at once: the same numbers, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.language.arctangent import arctan2
from probinf.language.distributions import draw
from probinf.language.primitives import Site, bind_factor
from probinf.transformations.stepping import advance_population

NUM = 100


@pytest.fixture(scope="module")
def angle():
    return jax.jit(arctan2)


def test_the_angle_is_right_to_three_units_in_the_last_place(angle):
    rng = np.random.default_rng(0)
    size = 100_000
    near = rng.normal(size=(2, size))
    wide = 10 ** rng.uniform(-25, 38, (2, size)) * rng.choice([-1, 1], (2, size))
    y, x = np.concatenate([near, wide], axis=1).astype(np.float32)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    told = np.abs(exact) > 1e-36  # smaller ones are flushed to zero
    gap = np.abs(np.asarray(angle(y, x)) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert told.sum() > 1.4 * size
    assert np.max(gap[told]) <= 3


def test_the_angle_of_zeros_infinities_and_nan_is_that_of_c(angle):
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 3e38], np.float32)
    y, x = (a.ravel() for a in np.meshgrid(special, special))
    found, known = np.asarray(angle(y, x)), np.arctan2(y, x)
    told = np.isnan(known) | (np.abs(known) > 1e-36) | (known == 0)
    np.testing.assert_allclose(found[told], known[told], rtol=3e-7)
    number = ~np.isnan(known)
    np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(known[number]))


def test_the_derivative_of_the_angle(angle):
    y, x = jnp.float32(0.3), jnp.float32(-1.2)
    found, known = (jax.grad(f, (0, 1))(y, x) for f in (arctan2, jnp.arctan2))
    np.testing.assert_allclose(found, known, rtol=1e-6)


@pytest.mark.parametrize(("shape", "dim"), [((), 3), ((NUM,), 3), ((), 9)], ids=["shared", "own", "large"])
def test_a_draw_from_a_normal_law_is_numpyros(shape, dim):
    rng = np.random.default_rng(1)
    factor = jnp.asarray(np.tril(rng.normal(size=(*shape, dim, dim))) + 6 * np.eye(dim))
    law = dist.MultivariateNormal(jnp.asarray(rng.normal(size=(NUM, dim))), scale_tril=factor)
    key = jax.random.key(2)
    np.testing.assert_allclose(draw(law, key), law.sample(key), rtol=1e-12, atol=1e-12)


def test_linear_maps_sums_and_angles_of_all_particles(matrices):
    square, wide, left = matrices
    rng = np.random.default_rng(3)
    particles = jnp.asarray(rng.normal(size=(NUM, 3)), jnp.float32)

    def step(x):
        first, second = square @ x, x @ left  # shared matrices from either side
        bind_factor(Site("f"), jnp.sum(wide @ x) + jnp.sum(x * x) + first @ second)
        return first, second, wide @ x, jnp.arctan2(x[0], x[1]), jnp.arctan2(x[0], jnp.float32(0.5)), jnp.sum(x)

    def plain(x):
        first, second = square @ x, x @ left
        results = first, second, wide @ x, jnp.arctan2(x[0], x[1]), jnp.arctan2(x[0], jnp.float32(0.5)), jnp.sum(x)
        return results, jnp.sum(wide @ x) + jnp.sum(x * x) + first @ second

    found, log_weights, _ = advance_population(step, particles, jnp.zeros(NUM, jnp.float32), jax.random.key(0))
    known, known_log_weights = jax.vmap(plain)(particles)
    for a, b in zip((*found, log_weights), (*known, known_log_weights), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def matrices():
    rng = np.random.default_rng(4)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 3), (5, 3), (3, 3)))
