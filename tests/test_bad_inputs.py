"""Faults that users bring, by kind: each is refused before anything is compiled, and the message names what and where.

Faults that belong to one method are tested beside it: starts and draws (test_nuts.py), keys (test_random.py), collapse
and stalls (test_smc_method.py, test_tempered.py), streams (test_streaming_filter.py), files (test_checkpoints.py).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.kernels.chains import compilations

pytestmark = pytest.mark.bad_input

X = np.arange(4.0)


@pi.model
def line(x):
    slope = pi.sample("slope", dist.Normal(0.0, 2.0))
    with pi.plate("obs", len(x)):
        pi.sample("y", dist.Normal(slope * x, 1.0))


@pi.model
def counts():
    rate = pi.sample("rate", dist.Gamma(1.0, 1.0))
    with pi.plate("obs", 4):
        pi.sample("y", dist.Poisson(rate))


@pi.model
def positive():
    mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.LogNormal(mean, 1.0))


@pi.model
def label():
    p = pi.sample("p", dist.Dirichlet(jnp.ones(5)))
    pi.sample("y", dist.Categorical(p))


@pi.model
def twice():
    pi.sample("a", dist.Normal(0.0, 1.0))
    pi.sample("a", dist.Normal(0.0, 1.0))


@pi.model
def negative_scale():
    mean = pi.sample("mean", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(mean, -1.0))


@pi.model
def not_definite():
    pi.sample("m", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 2.0], [2.0, 1.0]])))


@pi.model
def too_likely():
    pi.sample("k", dist.Categorical(jnp.array([0.5, 0.6])))


def mixture(weights, covariances=None):
    covariances = np.broadcast_to(np.eye(2), (2, 2, 2)) if covariances is None else covariances
    return pi.GaussianMixture(jnp.asarray(weights), jnp.zeros((2, 2)), jnp.asarray(covariances))


FAULTS = {
    "1 NaN in data": (
        lambda: line(X).given(y=[1.0, np.nan, 2.0, np.nan]),
        r"Site 'y'.*2 of 4 observed values are NaN, the first at index \(1,\)",
    ),
    "2 infinite data": (
        lambda: line(X).given(y=[1.0, 2.0, np.inf, 2.0]),
        r"Site 'y'.*1 of 4 observed values are infinite, the first at index \(2,\)",
    ),
    "3 no count": (
        lambda: counts().given(y=[1.0, 2.5, 2.0, 3.0]),
        r"Site 'y'.*2\.5 at index \(1,\) lies outside the support of Poisson",
    ),
    "3 negative": (lambda: positive().given(y=-1.0), r"Site 'y'.*-1\.0.*support of LogNormal \(a positive number\)"),
    "3 label": (lambda: label().given(y=7), r"Site 'y'.*value 7.*Categorical \(integers from 0 to 4\)"),
    "4 no rows": (lambda: line(np.zeros(0)).given(y=np.zeros(0)), r"plate 'obs': size must be at least 1, found 0"),
    "5 shape": (
        lambda: line(X).given(y=np.zeros(3)),
        r"Site 'y'.*model 'line'.*shape \(3,\), expected \(4,\), that is 4 \(obs\)",
    ),
    "6 two sites of one name": (
        lambda: twice().sites,
        r"two sites are named 'a'.*test_bad_inputs\.py:\d+ and .*test_bad_inputs\.py:\d+",
    ),
    "7 strings": (lambda: line(X).given(y=["a", "b", "c", "d"]), r"Site 'y'.*expected numbers, found dtype <U1"),
    "7 objects": (lambda: line(X).given(y=np.array([object()] * 4)), r"Site 'y'.*found dtype object"),
    "7 ragged": (lambda: line(X).given(y=[[1.0], [2.0, 3.0], [1.0], [1.0]]), r"Site 'y'.*found a ragged list"),
    "8 scale": (lambda: negative_scale().given(y=1.0), r"Site 'y'.*Normal got an impossible scale = -1"),
    "8 covariance": (lambda: not_definite().simulate(seed=0), r"Site 'm'.*smallest eigenvalue -1"),
    "8 weights": (lambda: too_likely().sites, r"Site 'k'.*they sum to 1\.1"),
    "11 draws": (lambda: pi.NUTS(num_draws=0), r"num_draws: expected an integer >= 1, found 0"),
    "11 half a draw": (lambda: pi.NUTS(num_draws=2.5), r"num_draws: expected an integer, found 2\.5"),
    "11 thinning": (lambda: pi.ChEES(num_draws=3, thinning=4), r"thinning: 4 keeps none of num_draws=3"),
    "12 keys": (
        lambda: pi.infer(line(X).given(y=X), seed=jax.random.split(jax.random.key(0), 3)),
        r"seed: expected one key of shape \(\), found a batch of shape \(3,\)",
    ),
    "18 no particles": (lambda: smc.SMC(num_particles=0), r"num_particles: expected at least 1, found 0"),
    "18 a float": (lambda: smc.SMC(num_particles=10.0), r"num_particles: expected an integer, found 10\.0"),
    "18 threshold": (lambda: smc.SMC(threshold=1.5), r"threshold: expected a fraction in \[0, 1\], found 1\.5"),
    "22 negative weight": (lambda: mixture([1.5, -0.5]), r"weights: component 1 has the negative weight -0\.5"),
    "22 sum": (lambda: mixture([0.5, 0.6]), r"weights: they sum to 1\.1"),
    "22 covariance": (
        lambda: mixture([0.5, 0.5], [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]]),
        r"covariances: component 1 is not positive definite: smallest eigenvalue -1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_before_a_sampler_is_compiled(fault):
    call, message = FAULTS[fault]
    before = compilations()
    with pytest.raises(pi.ProbinfError, match=f"(?s){message}"):
        call()
    assert compilations() == before


def test_a_fault_leaves_the_program_usable():
    program = line(X)
    with pytest.raises(pi.DataError):
        program.given(y=np.full(4, np.nan))
    posterior = pi.infer(program.given(y=X), pi.NUTS(num_warmup=20, num_draws=10), progress=False)
    assert np.isfinite(posterior["slope"]).all()
