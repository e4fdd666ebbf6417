"""Calibration: exact samplers have uniform ranks, wrong ones do not.

Ranks fail at p < 1e-6 / (number of quantities) for each call of `pi.sbc`; the runs that must pass here raise a false
alarm with probability below 1e-5.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.kernel import Kernel
from probinf.transformations.resampling import SCHEMES, Multinomial
from probinf.validity.calibration import JOINT, Calibration
from probinf.validity.calibration_cases import cases
from probinf.validity.samplers import Chains, Draws, Particles, joint, with_data


@pi.model
def normal_mean():
    """A conjugate model: the posterior of mu is N(4 y / 5, 1 / 5)."""
    mu = pi.sample("mu", dist.Normal(0.0, 1.0))
    pi.sample("y", dist.Normal(mu, 0.5))


PROGRAM = normal_mean().given(y=0.0)


def conjugate(*, shift=0.0, scale=1.0, num=50):
    """Independent draws from the posterior, shifted and scaled by parts of its standard deviation."""

    def sampler(program, key):
        k_joint, k_draw = jax.random.split(key)
        truth, data = joint(program, k_joint)
        sd = jnp.sqrt(0.2)
        draws = 0.8 * data["y"] + sd * (shift + scale * jax.random.normal(k_draw, (num,)))
        return Draws(with_data(program, data), truth, {"mu": draws}, jnp.zeros(num), jnp.zeros(()))

    return sampler


def test_exact_draws_are_calibrated():
    found = pi.sbc(PROGRAM, conjugate(), num_replicates=20_000)
    assert found
    assert set(found.ranks) == {"mu", JOINT}
    assert found.num_draws == 50
    assert found.ranks["mu"].shape == (20_000,)
    assert "uniform" in repr(found)
    assert "20000 replicates of 50 draws" in repr(found)


@pytest.mark.parametrize(
    ("fault", "says"),
    [({"scale": 1.1}, "too wide"), ({"scale": 0.9}, "too narrow"), ({"shift": 0.1}, "too high")],
    ids=["sd 10 % too large", "sd 10 % too small", "mean off by a tenth of the sd"],
)
def test_a_posterior_that_is_off_by_a_tenth_is_caught(fault, says):
    found = pi.sbc(PROGRAM, conjugate(**fault), num_replicates=20_000)
    assert not found
    assert says in repr(found)
    assert [c.passed for c in found.checks()].count(False) >= 1


def weighted(*, power=1.0, counts_truth=True):
    """Importance sampling from the prior: the truth is one of five, by its weight."""

    def sampler(program, key):
        k_joint, k_draw = jax.random.split(key)
        truth, data = joint(program, k_joint)
        draws = jax.random.normal(k_draw, (4,))
        weigh = lambda mu: power * jax.scipy.stats.norm.logpdf(data["y"], mu, 0.5)  # noqa: E731
        own = weigh(truth["mu"]) if counts_truth else jnp.array(-jnp.inf)
        return Draws(with_data(program, data), truth, {"mu": draws}, weigh(draws), own)

    return sampler


def test_weighted_ranks_are_uniform_for_any_number_of_particles():
    assert pi.sbc(PROGRAM, weighted(), num_replicates=20_000)


@pytest.mark.parametrize("fault", [{"power": 0.8}, {"counts_truth": False}], ids=["flat weights", "self-normalised"])
def test_wrong_weights_are_caught(fault):
    """Weights to the power 0.8; and four particles weighed among themselves, which is only right for many."""
    assert not pi.sbc(PROGRAM, weighted(**fault), num_replicates=20_000)


def test_ties_are_broken_evenly():
    """A discrete parameter with two values: ranks are mostly ties."""

    @pi.model
    def coin():
        z = pi.sample("z", dist.BernoulliProbs(0.3))
        pi.sample("y", dist.Normal(z.astype(float), 1.0))

    def sampler(program, key):
        k_joint, k_draw = jax.random.split(key)
        truth, data = joint(program, k_joint)
        logit = jnp.log(0.3 / 0.7) + data["y"] - 0.5
        draws = jax.random.bernoulli(k_draw, jax.nn.sigmoid(logit), (9,)).astype(truth["z"].dtype)
        return Draws(with_data(program, data), truth, {"z": draws}, jnp.zeros(9), jnp.zeros(()))

    program = coin().given(y=0.0)
    assert pi.sbc(program, sampler, num_replicates=10_000)


def test_reversible_kernels_are_calibrated_after_one_step():
    """Exchangeable with the truth at any number of steps, also where chains hardly move."""
    assert pi.sbc(PROGRAM, Chains(pi.trace_mh(), num_chains=7, num_steps=1, start="truth"), num_replicates=2000)


def lazy(kernel):
    """Accepts every proposal."""

    def step(target, state):
        return target.replay(kernel.propose(target, state.slots)), {"accepted": jnp.ones(())}

    return dataclasses.replace(kernel, step=step, name="accepts everything")


def test_a_broken_kernel_is_caught():
    kernel = lazy(pi.random_walk(0.5))
    assert isinstance(kernel, Kernel)
    found = pi.sbc(
        PROGRAM, Chains(kernel, num_chains=7, num_steps=4, values=("mu",), start="truth"), num_replicates=2000
    )
    assert not found


@pytest.mark.slow
def test_chains_that_have_not_converged_are_caught():
    assert not pi.sbc(PROGRAM, Chains(pi.trace_mh(), num_steps=1), num_replicates=4000)


class Flattened(Multinomial):
    """Ancestors by weights to the power 0.3."""

    def from_uniforms(self, uniforms, log_weights):
        return super().from_uniforms(uniforms, 0.3 * log_weights)


def test_populations_are_calibrated_and_a_biased_one_is_caught(monkeypatch):
    assert pi.sbc(PROGRAM, Particles(3, "multinomial"), num_replicates=4000)
    monkeypatch.setitem(SCHEMES, "flattened", Flattened)
    assert not pi.sbc(PROGRAM, Particles(64, "flattened", conditional=False), num_replicates=4000)


def test_methods_are_run_for_every_replicate():
    """Sixteen short chains by MCMC: their last draws; then all of them."""
    method = pi.MCMC(pi.random_walk(1.0), num_draws=4, num_warmup=30, num_chains=16, values=("mu",))
    found = pi.sbc(PROGRAM, method, num_replicates=40)
    assert found
    assert found.num_draws == 16
    assert found.method == "MCMC"
    assert pi.sbc(PROGRAM, method, num_replicates=20, thin=2).num_draws == 32


class Narrow:
    """A method whose posterior is half as wide as it should be, with weights that say nothing."""

    def run(self, program, key, *, progress=False):
        (y,) = program.operands[1][0].values()
        draws = 0.8 * y + 0.5 * jnp.sqrt(0.2) * jax.random.normal(key, (1, 200))
        from probinf.inference.posterior import Posterior

        return Posterior({"mu": np.asarray(draws)}, log_weights=np.zeros((1, 200)))


@pytest.mark.slow
def test_a_wrong_method_is_caught():
    found = pi.sbc(PROGRAM, Narrow(), num_replicates=300)
    assert not found
    assert "too narrow" in repr(found)


def test_the_suite_calibrates_kernels_and_every_scheme():
    names = [sampler.name for _, sampler in cases()]
    assert len(set(names)) == len(names)
    assert all(any(scheme in n for n in names) for scheme in SCHEMES)


def test_a_calibration_is_its_ranks():
    found = Calibration("m", "p", {"a": np.linspace(0, 1, 500), "b": np.full(500, 0.5)}, 10)
    assert found.p_values["a"] == 1.0
    assert not found.passed
    assert [c.program for c in found.checks("thing")] == ["p, a", "p, b"]


@pytest.mark.bad_input
def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ArgumentTypeError, match="expected a program with data given"):
        pi.sbc(normal_mean, conjugate())
    with pytest.raises(ArgumentError, match="no site of 'normal_mean' has data"):
        pi.sbc(normal_mean(), conjugate())
    with pytest.raises(ArgumentTypeError, match="method: expected an inference method"):
        pi.sbc(PROGRAM, 3)
    with pytest.raises(ArgumentError, match="num_replicates: expected an integer of at least 20, found 5"):
        pi.sbc(PROGRAM, conjugate(), num_replicates=5)
    with pytest.raises(ArgumentError, match="uniform for reversible kernels only"):
        Chains(pi.nuts_kernel(0.3), start="truth")
    with pytest.raises(ArgumentError, match="num_particles: expected at least 2"):
        Particles(1)

    @pi.model
    def scored(y):
        mu = pi.sample("mu", dist.Normal(0.0, 1.0))
        pi.sample("x", dist.Normal(mu, 1.0))
        pi.observe("y", dist.Normal(mu, 1.0), y)

    with pytest.raises(ModelError, match="is not data given by name"):
        pi.sbc(scored(jnp.zeros(())).given(x=0.0), conjugate())
