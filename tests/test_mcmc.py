"""`infer(program, MCMC(kernel))`: posteriors with known answers.

Statistical comparisons allow 6 standard errors estimated from independent chains: false alarms below 1e-8 each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError
from probinf.kernels.chains import compilations
from tests.kalman import local_level_log_evidence


@pi.model
def conjugate(y):
    mu = pi.sample("mu", dist.Normal(0.0, 2.0))
    pi.observe("y", dist.Normal(mu, 1.0).expand([y.size]), y)


Y = jnp.array([1.2, 0.4, 2.0])
EXACT_MEAN, EXACT_SD = float(Y.sum() / (3 + 0.25)), float(np.sqrt(1 / (3 + 0.25)))


def close(posterior, site, mean, sd):
    per_chain = posterior[site].reshape(posterior.num_chains, -1).mean(axis=1)
    assert abs(per_chain.mean() - mean) < 6 * per_chain.std(ddof=1) / np.sqrt(len(per_chain))
    assert abs(float(posterior.sd(site)) / sd - 1) < 0.1


@pytest.mark.parametrize(
    ("kernel", "values"),
    [(pi.random_walk(1.5), ("mu",)), (pi.cycle(pi.trace_mh(), pi.trace_mh()), ())],
    ids=["random walk", "trace"],
)
def test_a_conjugate_posterior(kernel, values):
    method = pi.MCMC(kernel, num_draws=800, num_warmup=100, num_chains=32, values=values)
    posterior = pi.infer(conjugate(Y), method, seed=1, progress=False)
    close(posterior, "mu", EXACT_MEAN, EXACT_SD)
    assert posterior.claim == str(kernel.claim)
    assert posterior.sample_stats["acceptance_rate"].shape == (32, 800)
    assert "MCMC" in posterior.method


@pi.model
def noisy_walk(ys):
    scale = pi.sample("scale", dist.LogNormal(-0.5, 0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, scale))
        pi.observe("y", dist.Normal(x, 0.5), y)
        return x, None

    jax.lax.scan(step, jnp.zeros(()), ys)


YS = jnp.array([0.3, 0.9, 0.5, 1.4, 1.8, 1.0])


def scale_moments():
    """Posterior mean and sd of the step size by quadrature over Kalman likelihoods."""
    log_scale = np.linspace(-4.0, 2.5, 1500)
    logp = np.array([local_level_log_evidence(YS, np.exp(s), 0.5) for s in log_scale])
    logp += -0.5 * ((log_scale + 0.5) / 0.5) ** 2
    w = np.exp(logp - logp.max())
    w /= w.sum()
    mean = (w * np.exp(log_scale)).sum()
    return mean, np.sqrt((w * (np.exp(log_scale) - mean) ** 2).sum())


@pytest.mark.parametrize("route", ["pmmh", "correlated pmmh", "particle gibbs"])
def test_particle_mcmc_of_the_step_size_of_a_walk(route):
    mean, sd = scale_moments()
    names = ("scale",)
    if route == "particle gibbs":
        kernel = smc.particle_gibbs(8, names, pi.repeat(pi.random_walk(0.6), 3))
        method = pi.MCMC(kernel, num_draws=700, num_warmup=150, num_chains=24, values=("scale", "x"))
    else:
        kernel = smc.pmmh(pi.random_walk(0.7), 1.0 if route == "pmmh" else 0.2)
        method = pi.MCMC(
            kernel,
            num_draws=700,
            num_warmup=150,
            num_chains=24,
            target=lambda p: smc.particle_marginal(p, names, 20),
            report="result",
        )
    close(pi.infer(noisy_walk(YS), method, seed=2, progress=False), "scale", mean, sd)


def test_the_same_seed_gives_the_same_draws():
    method = pi.MCMC(pi.trace_mh(), num_draws=20, num_warmup=0, num_chains=2)
    a = pi.infer(conjugate(Y), method, seed=5, progress=False)
    b = pi.infer(conjugate(Y), method, seed=5, progress=False)
    np.testing.assert_array_equal(a["mu"], b["mu"])


def test_new_data_of_the_same_shape_compile_nothing():
    method = pi.MCMC(pi.trace_mh(), num_draws=20, num_warmup=0, num_chains=2)
    first = pi.infer(conjugate(Y), method, seed=5, progress=False)
    before = compilations()
    second = pi.infer(conjugate(Y + 3.0), method, seed=6, progress=False)
    assert compilations() == before
    assert abs(float(first.mean("mu")) - float(second.mean("mu"))) > 0.1


@pi.model
def impossible():
    a = pi.sample("a", dist.BernoulliProbs(0.5))
    pi.factor("never", jnp.where(a < 2, -jnp.inf, 0.0))


@pytest.mark.bad_input
def test_a_program_without_mass_is_refused_with_a_reason():
    with pytest.raises(InferenceError, match="No execution with positive weight"):
        pi.infer(impossible(), pi.MCMC(pi.trace_mh()), progress=False)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kernel": "nuts"}, ArgumentTypeError, "kernel: expected a kernel"),
        ({"kernel": pi.trace_mh(), "num_draws": 0}, ArgumentError, "num_draws"),
        ({"kernel": pi.trace_mh(), "report": "all"}, ArgumentError, "report: expected 'sites'"),
    ],
)
def test_impossible_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        pi.MCMC(**settings)
