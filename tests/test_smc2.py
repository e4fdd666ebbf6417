"""SMC² against Kalman filter and quadrature; its moves keep the evidence they were accepted with.

Statistical tests use Student's t over independent runs at a two-sided false-alarm rate of 1e-4 each; seeds are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError
from smc.smc2_engine import Engine
from smc.smc2_run import SMC2Loop
from smc.static_parameters import suspended
from tests.compile_count import compiled
from tests.test_tempered import agrees

T, NOISE = 25, 0.5


@pi.model
def autoregression(ys):
    phi = pi.sample("phi", dist.Uniform(-1.0, 1.0))
    q = pi.sample("q", dist.LogNormal(0.0, 0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(phi * x, q))
        pi.observe("y", dist.Normal(x, NOISE), y)
        return x, None

    jax.lax.scan(step, 0.0, ys)


def _series():
    rng, x, ys = np.random.default_rng(1), 0.0, []
    for _ in range(T):
        x = 0.7 * x + rng.normal()
        ys.append(x + NOISE * rng.normal())
    return np.array(ys)


YS = _series()


def quadrature(ys=YS):
    """Log evidence and posterior means of phi, q and the last state, by Kalman filters on a grid (midpoint rule)."""
    phi = np.linspace(-1, 1, 201)[1::2]
    log_q = np.linspace(-2.5, 2.5, 121)
    a, s = (g.ravel() for g in np.meshgrid(phi, np.exp(log_q), indexing="ij"))
    m, p, log_l = np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)
    for y in ys:
        m, p = a * m, a**2 * p + s**2
        total = p + NOISE**2
        log_l += stats.norm(m, np.sqrt(total)).logpdf(y)
        m, p = m + p / total * (y - m), p * NOISE**2 / total
    joint = log_l + np.log(0.5) + stats.norm(0.0, 0.5).logpdf(np.log(s))
    weights = np.exp(joint - joint.max())
    cell = (phi[1] - phi[0]) * (log_q[1] - log_q[0])
    log_z = joint.max() + np.log(weights.sum() * cell)
    weights /= weights.sum()
    return log_z, {"phi": weights @ a, "q": weights @ s, "x": weights @ m}


@pytest.fixture(scope="module")
def found():
    return pi.infer(autoregression(jnp.array(YS)), smc.SMC2(64, 32, num_runs=16), seed=0)


def test_parameters_states_and_evidence_agree_with_quadrature(found):
    log_z, means = quadrature()
    runs = smc.history(found)["log_evidence"][:, -1]
    # Self-normalised over runs of equal size: each run's mean has a bias of order 1/64, far below its spread.
    assert agrees(np.exp(runs - log_z), 1.0)
    assert agrees(found["phi"].mean(axis=1), means["phi"])
    assert agrees(found["q"].mean(axis=1), means["q"])
    assert agrees(found["x"][:, :, -1].mean(axis=1), means["x"])


def test_the_posterior_describes_itself(found):
    assert found["phi"].shape == (16, 64)
    assert found["x"].shape == (16, 64, T)
    assert found.claim == "consistent"
    assert found.log_evidence_sd > 0
    assert smc.history(found)["ess"].shape == (16, T)


def _started(steps, size=64):
    program = autoregression(jnp.array(YS))
    inner = suspended(program)
    method = smc.SMC2(size, 32, num_moves=1)
    run = SMC2Loop(method, program, inner, jax.random.key(3))
    run.start()
    for _ in range(steps):
        run.step()
    return run


def test_a_rejected_move_keeps_the_evidence_it_came_with():
    """Parameters that stay keep their evidence to the last bit; refreshing it would break the target."""
    run = _started(3)
    before = {float(p): z for p, z in zip(run.theta["phi"], run.log_z, strict=True)}
    assert len(before) == 64
    run.rejuvenate()
    stayed = [(float(p), z) for p, z in zip(run.theta["phi"], run.log_z, strict=True) if float(p) in before]
    assert 1 <= len(stayed) < 64  # some moved, some stayed
    for phi, z in stayed:
        assert z == before[phi]
    # The filters belong to the evidences that are kept.
    np.testing.assert_array_equal(np.asarray(jax.vmap(lambda s: s.log_evidence)(run.filters)), run.log_z)


def test_a_move_is_accepted_with_the_ratio_of_estimates():
    """Exact: with likelihood ratio r the acceptance frequency is min(1, r), over 40 000 particles (5 sd bound)."""
    n, log_r = 40_000, np.log(0.3)
    old = ({"t": jnp.zeros(n)}, jnp.zeros((n, 2)), jnp.full(n, -7.0), jnp.full(n, 1.0))
    new = ({"t": jnp.ones(n)}, jnp.ones((n, 2)), jnp.full(n, -7.0 + log_r + 2.0), jnp.full(n, 0.5))
    engine = Engine.__new__(Engine)
    (theta, state, log_z, prior), rate = engine._accept(old, new, jnp.full(n, -1.5), jax.random.key(0))
    moved = np.asarray(theta["t"]) == 1.0
    assert abs(moved.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    assert float(rate) == pytest.approx(moved.mean(), abs=1e-12)
    np.testing.assert_array_equal(np.asarray(state)[:, 0], moved)
    np.testing.assert_array_equal(np.asarray(log_z), np.where(moved, -7.0 + log_r + 2.0, -7.0))
    np.testing.assert_array_equal(np.asarray(prior), np.where(moved, 0.5, 1.0))


def test_advancing_in_one_call_or_step_by_step_is_the_same():
    run = _started(0)
    keys = jax.random.split(jax.random.key(5), 64)
    at_once, z = run.engine.advance(run.operands, run.theta, run.filters, 0, 4, keys)
    state = run.filters
    for t in range(4):
        state, z_t = run.engine.advance(run.operands, run.theta, state, t, t + 1, keys)
    np.testing.assert_allclose(z, z_t, rtol=1e-12)
    np.testing.assert_allclose(at_once.rows[-1], state.rows[-1], rtol=1e-12)


def test_hyperparameters_are_parameters_too():
    """The loop looks at q only; m acts through the prior of q. Conjugate: q = m + e, x_t independent given q."""

    @pi.model
    def hierarchy(ys):
        m = pi.sample("m", dist.Normal(0.0, 1.0))
        q = pi.sample("q", dist.Normal(m, 0.5))

        def step(_, y):
            x = pi.sample("x", dist.Normal(q, 0.3))
            pi.observe("y", dist.Normal(x, 0.4), y)
            return x, None

        jax.lax.scan(step, 0.0, ys)

    ys = np.array([2.1, 1.7, 2.4])
    program = hierarchy(jnp.array(ys))
    assert suspended(program).static == ("m", "q")
    found = pi.infer(program, smc.SMC2(64, 32, num_runs=16), seed=0)
    cov = (1.0 + 0.25) + (0.09 + 0.16) * np.eye(3)
    log_z = -0.5 * (ys @ np.linalg.solve(cov, ys) + np.linalg.slogdet(2 * np.pi * cov)[1])
    assert agrees(np.exp(smc.history(found)["log_evidence"][:, -1] - log_z), 1.0)
    assert agrees(found["m"].mean(axis=1), np.ones(3) @ np.linalg.solve(cov, ys))
    assert agrees(found["q"].mean(axis=1), 1.25 * np.ones(3) @ np.linalg.solve(cov, ys))


def test_a_second_call_with_new_data_compiles_nothing(found):
    del found  # the first call
    new = jnp.array(YS) + 0.1
    with compiled() as names:
        pi.infer(autoregression(new), smc.SMC2(64, 32, num_runs=2), seed=1)
    assert names == []


def test_an_interrupt_keeps_the_parameters(found, monkeypatch):
    del found
    step = SMC2Loop.step

    def interrupted(self):
        if self.t == 7:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(SMC2Loop, "step", interrupted)
    with pytest.raises(InferenceError, match=r"interrupted after 7 of 25 observations") as caught:
        pi.infer(autoregression(jnp.array(YS)), smc.SMC2(64, 32), seed=0)
    partial = caught.value.partial
    assert partial.is_partial
    assert set(partial.sites) == {"phi", "q"}
    assert partial["phi"].shape == (1, 64)
    assert smc.history(partial)["ess"].shape == (1, 7)


def test_death_names_the_observation(found):
    del found
    ys = jnp.array(YS).at[5].set(1e200)  # squares overflow: the density is zero for every parameter
    with pytest.raises(InferenceError, match=r"observation 5 .*probability zero"):
        pi.infer(autoregression(ys), smc.SMC2(64, 32), seed=0)


def test_models_without_a_loop_or_a_parameter_are_refused():
    @pi.model
    def flat():
        pi.sample("m", dist.Normal(0.0, 1.0))
        pi.factor("f", 0.0)

    @pi.model
    def walk(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, 1.0))
            pi.observe("y", dist.Normal(x, NOISE), y)
            return x, None

        jax.lax.scan(step, 0.0, ys)

    @pi.model
    def switching(ys):
        k = pi.sample("k", dist.Bernoulli(0.5))

        def step(x, y):
            x = pi.sample("x", dist.Normal(x, jnp.where(k == 1, 2.0, 1.0)))
            pi.observe("y", dist.Normal(x, NOISE), y)
            return x, None

        jax.lax.scan(step, 0.0, ys)

    for program, message in (
        (flat(), "TemperedSMC"),
        (walk(jnp.array(YS)), "no static"),
        (switching(jnp.array(YS)), "'k'"),
    ):
        with pytest.raises(ModelError, match=message):
            pi.infer(program, smc.SMC2(16, 16), seed=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "names"),
    [
        ({"num_parameters": 4}, ArgumentError, "num_parameters"),
        ({"num_parameters": 64.0}, ArgumentTypeError, "num_parameters"),
        ({"num_particles": 0}, ArgumentError, "num_particles"),
        ({"num_moves": 0}, ArgumentError, "num_moves"),
        ({"num_runs": 0}, ArgumentError, "num_runs"),
        ({"threshold": -0.1}, ArgumentError, "threshold"),
    ],
)
def test_impossible_settings_are_refused(settings, error, names):
    with pytest.raises(error, match=names):
        smc.SMC2(**settings)
