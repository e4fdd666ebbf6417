"""Gradient and slice moves through BlackJAX: exact rank tests, known posteriors, and broken variants that are caught.

A rank test fails at p < 2e-9; the few dozen checks of this file raise a false alarm with probability below 1e-7.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.gradient_moves import coordinates
from probinf.kernels.kernel import Kernel, accept, emit
from probinf.kernels.running import take_step, with_key
from probinf.transformations.targets import Prefix, Tempered
from probinf.validity.rank_tests import check_ranks

KERNELS = [pi.hmc(0.3, 4), pi.nuts_kernel(0.4, max_tree_depth=4), pi.mala(0.15), pi.slice_sampling(), pi.mclmc(0.5, 4)]
SLOW = pytest.mark.slow  # some of each kind are enough for every change; the nightly lane runs all


@pytest.mark.parametrize("kernel", [KERNELS[0], *(pytest.param(k, marks=SLOW) for k in KERNELS[1:])], ids=str)
def test_moves_keep_continuous_programs(kernel):
    checks = list(check_ranks(kernel, 0, kernel.name))
    assert all(c.passed for c in checks), checks
    programs = {"mean_and_scale (values)", "walk (values)"}
    if not kernel.name.startswith("mclmc"):  # it cannot turn in one dimension
        programs |= {"normal_mean (values)"}
    assert {c.program for c in checks} == programs
    assert {c.claim for c in checks} == ({"invariant", "reversible"} if "nuts" not in kernel.name else {"invariant"})


# -- known answers ---------------------------------------------------------------------------------------------------

PRECISION = np.array([[2.0, 0.6], [0.6, 1.5]])
SHIFT = np.array([1.0, -0.5])


@pi.model
def gaussian():
    """Standard normal priors and a quadratic factor: a Gaussian posterior in closed form."""
    a = pi.sample("a", dist.Normal(0.0, 1.0))
    b = pi.sample("b", dist.Normal(0.0, 1.0))
    x = jnp.stack([a, b])
    pi.factor("f", x @ jnp.asarray(SHIFT) - 0.5 * x @ jnp.asarray(PRECISION - np.eye(2)) @ x)


COV = np.linalg.inv(PRECISION)
MEAN = COV @ SHIFT


@pytest.mark.parametrize(
    "kernel",
    [
        pi.hmc(0.45, 3, inverse_mass_matrix=np.diag(COV)),
        pi.nuts_kernel(0.6, max_tree_depth=4),
        pi.mala(0.4, inverse_mass_matrix=0.6),
        pi.slice_sampling(2.0),
        pi.mclmc(0.6, 3),
    ],
    ids=str,
)
def test_a_gaussian_posterior(kernel):
    """Means and the covariance of 32 independent chains, 6 standard errors each: false alarms below 1e-7 each."""
    method = pi.MCMC(kernel, num_draws=400, num_warmup=60, num_chains=32, values=("a", "b"))
    posterior = pi.infer(gaussian(), method, seed=3, progress=False)
    a, b = posterior["a"].reshape(32, 400) - MEAN[0], posterior["b"].reshape(32, 400) - MEAN[1]
    for found, known in ((a, 0.0), (b, 0.0), (a * a, COV[0, 0]), (a * b, COV[0, 1]), (b * b, COV[1, 1])):
        chains = found.mean(axis=1)
        assert abs(chains.mean() - known) < 6 * chains.std(ddof=1) / np.sqrt(32)
    assert 0.3 < posterior.sample_stats["acceptance_rate"].mean() <= 1
    assert posterior.claim == str(kernel.claim)


def test_unadjusted_microcanonical_dynamics_say_that_they_are_approximate():
    kernel = pi.mclmc(0.2, 4, adjusted=False)
    assert kernel.claim is Claim.APPROXIMATE
    assert pi.cycle(kernel, pi.hmc(0.3, 4)).claim is Claim.APPROXIMATE
    method = pi.MCMC(kernel, num_draws=300, num_warmup=60, num_chains=16, values=("a", "b"))
    posterior = pi.infer(gaussian(), method, seed=4, progress=False)
    assert any("approximate" in w for w in posterior.warnings)
    # A small step: the bias is far below the posterior's width.
    assert abs(posterior["a"].mean() - MEAN[0]) < 0.15 * np.sqrt(COV[0, 0])


def test_long_steps_bias_unadjusted_dynamics_and_not_adjusted_ones():
    """Variance of the wider of two normals, 5e4 draws of 64 chains: bias beyond 6 standard errors, and none."""

    @pi.model
    def uneven():
        pi.sample("x", dist.Normal(0.0, jnp.array([1.0, 0.3])).to_event(1))

    def error(kernel):
        method = pi.MCMC(kernel, num_draws=800, num_warmup=40, num_chains=64, values=("x",))
        draws = pi.infer(uneven(), method, seed=5, progress=False)["x"].reshape(64, -1, 2)[..., 0]
        chains = (draws**2).mean(axis=1)
        return chains.mean() - 1, chains.std(ddof=1) / 8

    biased, se = error(pi.mclmc(1.5, 3, adjusted=False))
    assert abs(biased) > 6 * se
    right, se = error(pi.mclmc(1.5, 3))
    assert abs(right) < 6 * se


# -- what a move leaves alone ----------------------------------------------------------------------------------------


@pi.model
def mixed(ys):
    """A parameter, states in a loop, a constrained scale and a discrete site: all kinds of slots."""
    scale = pi.sample("scale", dist.LogNormal(0.0, 0.5))
    kind = pi.sample("kind", dist.BernoulliProbs(0.4))

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, scale))
        pi.observe("y", dist.Normal(x, jnp.where(kind == 1, 0.5, 1.0)), y)
        return x, None

    jax.lax.scan(step, jnp.zeros(()), ys)


YS = jnp.array([0.3, 0.9, -0.4])


@pytest.mark.parametrize("kernel", [*KERNELS, pi.mclmc(0.3, 3, adjusted=False)], ids=str)
def test_a_move_keeps_its_weight_right_and_other_slots_as_they_are(kernel, key):
    target = pi.Traced(mixed(YS), values=("scale", "x"))
    start = target.replay(with_key(target.draw, key))
    new, info = take_step(kernel, target, start, key)
    np.testing.assert_array_equal(new.slots["kind"], start.slots["kind"])
    np.testing.assert_allclose(new.log_weight, target.replay(new.slots).log_weight, rtol=1e-12)
    assert info["accepted"].dtype == jnp.float64
    only, _ = take_step(pi.on(kernel, ("x",)), target, start, key)
    np.testing.assert_array_equal(only.slots["scale"], start.slots["scale"])


def test_a_rejected_proposal_leaves_the_state_to_the_last_bit(key):
    target = pi.Traced(mixed(YS), values=("scale", "x"))
    start = target.replay(with_key(target.draw, key))
    for kernel in (pi.hmc(40.0, 3), pi.mala(900.0), pi.mclmc(80.0, 3)):
        new, _ = take_step(kernel, target, start, key)
        jax.tree.map(np.testing.assert_array_equal, new, start)


@pytest.mark.slow
def test_a_move_follows_the_target_at_hand(key):
    """Prefixes with frozen places and tempered targets: weights are theirs, and frozen places stay."""
    whole = pi.Traced(mixed(YS), values=("scale", "x"))
    slots = with_key(whole.draw, key)
    for kernel in KERNELS:
        prefix = Prefix(whole, jnp.int32(2), jnp.int32(1))
        new, _ = take_step(kernel, prefix, prefix.replay(slots), key)
        np.testing.assert_allclose(new.log_weight, prefix.replay(new.slots).log_weight, rtol=1e-12)
        np.testing.assert_array_equal(new.slots["x"][0], slots["x"][0])
        np.testing.assert_array_equal(new.slots["scale"], slots["scale"])
        tempered = Tempered(whole, jnp.asarray(0.25))
        new, _ = take_step(kernel, tempered, tempered.replay(slots), key)
        np.testing.assert_allclose(new.log_weight, tempered.replay(new.slots).log_weight, rtol=1e-12)


def test_resample_move_with_gradients_has_the_right_evidence():
    """400 runs of 16 particles with an HMC move after each score, mean evidence within 6 standard errors (2e-9)."""

    @pi.model
    def line(ys):
        mu = pi.sample("mu", dist.Normal(0.0, 1.0))
        for i in range(2):
            pi.observe(f"y{i}", dist.Normal(mu, 0.5), ys[i])

    ys = jnp.array([0.8, 1.4])
    moved = pi.rejuvenated(line(ys), pi.hmc(0.2, 3), values=("mu",))
    program = pi.population(moved, 16, threshold=1.0)
    z = np.exp(jax.vmap(lambda k: program.run(k)[0].log_evidence)(jax.random.split(jax.random.key(6), 400)))
    cov = 0.25 * np.eye(2) + 1.0
    exact = np.exp(-0.5 * ys @ np.linalg.solve(cov, ys)) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))
    assert abs(z.mean() - exact) < 6 * z.std(ddof=1) / 20


# -- broken on purpose -----------------------------------------------------------------------------------------------


def failed(kernel):
    return {c.claim for c in check_ranks(kernel, 0, kernel.name) if not c.passed}


def langevin_without_its_correction(target, state):
    """MALA accepted by the ratio of the densities alone, as if its proposal were symmetric."""
    seen, size = coordinates(target, state), 0.15
    noise = emit(dist.Normal(jnp.zeros(seen.dim), 1.0).to_event(1))
    u = size * seen.gradient(seen.start) + jnp.sqrt(2 * size) * noise
    new, accepted = accept(state, target.replay(seen.slots(u)))
    return new, {"accepted": accepted}


def hamiltonian(*, with_momentum):
    """One leapfrog trajectory by hand; the energy may leave out the momentum."""

    def step(target, state):
        seen, size = coordinates(target, state), 0.3
        p = start = emit(dist.Normal(jnp.zeros(seen.dim), 1.0).to_event(1))
        u = seen.start
        for _ in range(4):
            p = p + 0.5 * size * seen.gradient(u)
            u = u + size * p
            p = p + 0.5 * size * seen.gradient(u)
        kinetic = 0.5 * (start @ start - p @ p) if with_momentum else 0.0
        new, accepted = accept(state, target.replay(seen.slots(u)), kinetic)
        return new, {"accepted": accepted}

    return step


def slice_half_way(target, state):
    """The middle between the state and a point of its slice, which need not be in the slice."""
    new, info = pi.slice_sampling().step(target, state)
    middle = {n: 0.5 * (new.slots[n] + state.slots[n]) for n in coordinates(target, state).layout.shapes}
    return target.replay({**new.slots, **middle}), info


@pytest.mark.parametrize(
    "step",
    [
        langevin_without_its_correction,
        pytest.param(hamiltonian(with_momentum=False), marks=SLOW),
        pytest.param(slice_half_way, marks=SLOW),
    ],
    ids=["mala", "hmc", "slice"],
)
def test_broken_moves_are_caught(step):
    assert failed(Kernel("broken", step, Claim.REVERSIBLE))


@pytest.mark.slow
def test_the_same_trajectory_with_its_momentum_passes():
    assert not failed(Kernel("by hand", hamiltonian(with_momentum=True), Claim.REVERSIBLE))


def test_unadjusted_dynamics_are_caught_when_they_claim_to_be_exact():
    assert failed(dataclasses.replace(pi.mclmc(2.5, 4, adjusted=False), claim=Claim.INVARIANT)) == {"invariant"}


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pi.hmc(0.0, 4), ArgumentError, "step_size: expected a positive number, found 0.0"),
        (lambda: pi.hmc("0.1", 4), ArgumentTypeError, "step_size: expected a positive number, found '0.1'"),
        (lambda: pi.hmc(0.1, 2.5), ArgumentTypeError, "num_steps: expected an integer, found 2.5"),
        (lambda: pi.hmc(0.1, 0), ArgumentError, "num_steps: expected an integer of at least 1, found 0"),
        (lambda: pi.nuts_kernel(0.1, max_tree_depth=0), ArgumentError, "max_tree_depth"),
        (lambda: pi.mala(float("nan")), ArgumentError, "step_size"),
        (lambda: pi.slice_sampling(-1.0), ArgumentError, "width: expected a positive number"),
        (lambda: pi.mclmc(True, 3), ArgumentTypeError, "step_size"),
        (lambda: pi.hmc(0.1, 4, inverse_mass_matrix=np.eye(2)), ArgumentError, "expected its diagonal"),
        (lambda: pi.hmc(0.1, 4, inverse_mass_matrix=[1.0, -1.0]), ArgumentError, "expected positive entries"),
    ],
)
def test_impossible_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pi.model
def counted():
    """The number of rounds depends on the value."""
    x = pi.sample("x", dist.Normal(0.0, 1.0))
    total = jax.lax.while_loop(lambda s: s < 3.0, lambda s: s + 1.0 + x**2, x)
    pi.factor("f", -total)


@pytest.mark.bad_input
def test_targets_that_a_move_cannot_handle_are_refused(key):
    def step(kernel, program, values):
        target = pi.Traced(program, values=values)
        return take_step(kernel, target, target.replay(with_key(target.draw, key)), key)

    with pytest.raises(ModelError, match="no site of the target holds one"):
        step(pi.hmc(0.1, 2), mixed(YS), ())
    with pytest.raises(ArgumentError, match=r"expected a number or an array of shape \(3,\).*coordinate of x"):
        step(pi.mala(0.1, inverse_mass_matrix=[1.0, 2.0]), mixed(YS), ("x",))
    with pytest.raises(ModelError, match="at least two continuous coordinates, found 1 \\(scale\\)"):
        step(pi.mclmc(0.1, 2), mixed(YS), ("scale",))
    with pytest.raises(ModelError, match="while loop"):
        step(pi.hmc(0.1, 2), counted(), ("x",))
    moved, _ = step(pi.slice_sampling(), counted(), ("x",))
    assert jnp.isfinite(moved.log_weight)
