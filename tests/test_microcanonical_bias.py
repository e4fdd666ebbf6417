"""The claim of unadjusted microcanonical dynamics: approximate, with a bias that falls as the square of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.kernels.running import find_starts, run_chains

CHAINS = 4000


@pi.model
def round_normal():
    pi.sample("x", dist.Normal(0.0, jnp.ones(2)).to_event(1))


def bias(step_size, num_steps, num_draws=400):
    """Of the mean square of a coordinate, which is 1, and its standard error over independent chains."""
    target = pi.Traced(round_normal(), values=("x",))
    kernel = pi.mclmc(step_size, num_steps, adjusted=False)

    @jax.jit
    def run(key):
        warm, _, _ = run_chains(kernel, target, find_starts(target, key, CHAINS), jax.random.fold_in(key, 0), 10)
        keep = lambda slots: jnp.mean(slots["x"] ** 2)  # noqa: E731
        return run_chains(kernel, target, warm, jax.random.fold_in(key, 1), num_draws, keep=keep)[1]

    chains = np.asarray(run(jax.random.key(0))).mean(axis=0)
    return chains.mean() - 1.0, chains.std(ddof=1) / np.sqrt(CHAINS)


@pytest.mark.slow
def test_the_bias_of_unadjusted_dynamics_falls_as_the_square_of_the_step():
    """Half the step: the bias shrinks by more than 2^1.4 and less than 2^3.

    An order of 1 or of 3 and more is ruled out. At an order of exactly 2 the two bounds are 6 standard errors of their
    difference away, so that a false alarm has a probability below 1e-8; that of the first line is below 1e-20.
    """
    (long, se_long), (short, se_short) = bias(2.0, 2), bias(1.0, 4)
    assert long < -10 * se_long
    assert abs(short) < abs(long) * 2**-1.4
    assert abs(short) > abs(long) * 2**-3
    # The bounds are as far off as the docstring says.
    for order in (1.4, 3.0):
        distance = abs(long) * abs(2**-2 - 2**-order)
        assert distance > 6 * np.hypot(se_short, se_long * 2**-order)
