"""Conditional resampling: the sampler against the exact law, which is the scheme's own law rotated and conditioned.

Chi-square tests of 40,000 draws each, at 1e-7: 24 tests raise a false alarm with probability below 3e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from probinf.transformations.conditional import Conditional, systematic_given_first
from probinf.transformations.resampling import SCHEMES, Systematic

WEIGHTS = {
    "light": np.log([0.1, 0.2, 0.3, 0.4]),
    "heavy": np.log([0.5, 0.2, 0.2, 0.1]),
    "with a dead particle": np.array([0.0, -1.0, -np.inf, 0.5]),
    "even": np.zeros(3),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", WEIGHTS)
def test_draws_follow_the_conditional_law(scheme, case):
    log_weights = WEIGHTS[case]
    law = Conditional(jnp.asarray(log_weights), len(log_weights), scheme)
    vectors, log_p = law.enumerate()
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-12)
    assert (vectors[:, 0] == 0).all()
    n = 40_000
    draws = np.asarray(jax.vmap(law.sample)(jax.random.split(jax.random.key(1), n)))
    index = {tuple(v): i for i, v in enumerate(vectors)}
    counts = np.bincount([index[tuple(d)] for d in draws], minlength=len(vectors))  # a KeyError: an impossible vector
    expected = np.exp(log_p) * n
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    if keep.sum() > 1:
        assert scipy.stats.chisquare(observed[keep], wanted[keep] * n / wanted[keep].sum()).pvalue > 1e-7


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_slots_get_their_share_given_the_first(scheme):
    """Rotations make slots exchangeable up to the condition: E[#{i: a_i = j}] from the law itself, by hand for N = 2.

    With N = 2 and weights (w, 1 - w), slot 1 given a_0 = 0: multinomial has particle 0 again with probability w;
    systematic gives max(2w - 1, 0) / w, as every scheme that has one or two copies of particle 0.
    """
    w = 0.7
    vectors, log_p = Conditional(jnp.log(jnp.array([w, 1 - w])), 2, scheme).enumerate()
    q = (1 - 0.3 / 0.7) * w
    again = float(np.exp(log_p)[(vectors == 0).all(1)].sum())
    expected = {
        "multinomial": w,
        "systematic": (2 * w - 1) / w,
        "stratified": (2 * w - 1) / w,
        "residual": (2 * w - 1) / w,
        "ssp": (2 * w - 1) / w,
        # Slot 0 keeps particle 0 for sure; slot 1 has it where it is killed: 1 of 1 + q turns, then again in q or all.
        "killing": 2 * q / (1 + q),
    }
    np.testing.assert_allclose(again, expected[scheme], rtol=1e-12)


@pytest.mark.parametrize("uniforms", [(0.0, 0.0, 0.0), (1 - 2**-53, 1 - 2**-53, 1 - 2**-53), (0.0, 1 - 2**-53, 0.0)])
@pytest.mark.parametrize("case", WEIGHTS)
def test_the_deterministic_half_stays_legal_at_the_edges(uniforms, case):
    log_weights = jnp.asarray(WEIGHTS[case])
    law = Systematic(log_weights, len(log_weights))
    found = np.asarray(systematic_given_first(jnp.array(uniforms), law, log_weights))
    assert found[0] == 0
    assert np.isfinite(WEIGHTS[case][found]).all()
