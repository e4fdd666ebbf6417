"""What XLA's native emitter cannot do, and how it is kept from being tried: its failures end the process."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.kernels.native import as_native, pruned


@pi.model
def with_prior(prior, y):
    mu = pi.sample("mu", prior)
    pi.observe("y", dist.Normal(mu, 1.0), y)


def test_parameters_that_only_dead_code_looks_at_do_not_end_the_process():
    """A distribution as an argument brings numbers its density does not use; the emitter aborted on them."""
    method = pi.NUTS(num_warmup=50, num_draws=200, num_chains=2)
    posterior = pi.infer(with_prior(dist.HalfNormal(1.0), 1.0), method, progress=False)
    assert "native" in posterior.method
    x = np.linspace(0.0, 8.0, 4001)
    weight = np.exp(-0.5 * x**2 - 0.5 * (1.0 - x) ** 2)
    # Six standard errors for at least 100 effective draws of standard deviation 0.45: false alarms below 1e-8.
    assert abs(posterior.mean("mu") - np.sum(x * weight) / np.sum(weight)) < 6 * 0.45 / np.sqrt(100)


def test_a_function_that_captured_an_array_is_refused():
    captured = jnp.arange(3.0)
    with pytest.raises(NotImplementedError, match="arrays of its own"):
        jax.jit(as_native(lambda x: x + captured))(jnp.ones(3))


def test_pruning_keeps_values_and_derivatives():
    def function(tree, x):
        _ = jnp.exp(tree["unused"])
        return jnp.sum(x**2) * tree["scale"], {"twice": 2.0 * x}

    tree, x = {"unused": jnp.ones(()), "scale": jnp.full((), 3.0)}, jnp.arange(3.0)
    jax.tree.map(np.testing.assert_array_equal, pruned(function)(tree, x), function(tree, x))
    gradient = jax.grad(lambda t: pruned(function)(t, x)[0])(tree)
    assert gradient == {"unused": 0.0, "scale": 5.0}
    assert "exp" not in str(jax.make_jaxpr(pruned(function))(tree, x))
