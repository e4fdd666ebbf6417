"""PMMH against quadrature; a kept state keeps its estimate; the number of particles follows the variance.

Statistical tests use Student's t over independent chains at a two-sided false-alarm rate of 1e-4 each; seeds are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError
from smc.pmmh_run import PMMHLoop
from smc.static_parameters import with_parameters
from tests.compile_count import compiled
from tests.test_smc2 import YS, autoregression, quadrature
from tests.test_tempered import agrees

SHORT = YS[:4]
METHOD = smc.PMMH(64, num_draws=200, num_warmup=100, num_chains=8)


@pytest.fixture(scope="module")
def found():
    return pi.infer(autoregression(jnp.array(YS)), METHOD, seed=0)


def _moved(posterior):
    return np.any([posterior[n][:, 1:] != posterior[n][:, :-1] for n in ("phi", "q")], axis=0)


def test_the_posterior_agrees_with_quadrature(found):
    _, means = quadrature()
    assert agrees(found["phi"].mean(axis=1), means["phi"])
    assert agrees(found["q"].mean(axis=1), means["q"])


@pytest.fixture(scope="module")
def noisy():
    """Two particles: the estimates are noisy, and the posterior is exact all the same."""
    method = smc.PMMH(2, num_draws=4000, num_warmup=300, num_chains=12, paths=True)
    return pi.infer(autoregression(jnp.array(SHORT)), method, seed=1)


def test_noise_in_the_estimates_costs_no_accuracy(noisy):
    """What re-estimates the evidence of a kept state, or draws its path anew, is off by more than this sees."""
    _, means = quadrature(SHORT)
    assert np.std(noisy.sample_stats["log_evidence"]) > 0.3
    assert agrees(noisy["phi"].mean(axis=1), means["phi"])
    assert agrees(noisy["q"].mean(axis=1), means["q"])
    assert agrees(noisy["x"][:, :, -1].mean(axis=1), means["x"])


def test_a_kept_state_keeps_its_estimate_and_its_path(noisy):
    moved = _moved(noisy)
    log_z, x = noisy.sample_stats["log_evidence"], noisy["x"]
    assert 0.05 < moved.mean() < 0.9
    np.testing.assert_array_equal(log_z[:, 1:][~moved], log_z[:, :-1][~moved])
    np.testing.assert_array_equal(x[:, 1:][~moved], x[:, :-1][~moved])
    assert np.all(log_z[:, 1:][moved] != log_z[:, :-1][moved])


def test_the_posterior_describes_itself(found, noisy):
    assert found["phi"].shape == (8, 200)
    assert set(found.sites) == {"phi", "q"}
    assert noisy["x"].shape == (12, 4000, len(SHORT))
    assert found.claim == "invariant"
    assert {n: v.shape for n, v in found.sample_stats.items()} == dict.fromkeys(
        ("lp", "log_evidence", "acceptance_rate"), (8, 200)
    )
    assert 0.05 < found.sample_stats["acceptance_rate"].mean() < 0.35
    assert "64 state particles" in found.method
    # The log evidence varies by 4.6 nats^2 with 64 particles: too much, and it says so.
    assert any("raise num_particles to about" in note for note in found.warnings)


def test_the_number_of_particles_follows_the_variance_of_the_log_evidence():
    program = autoregression(jnp.array(YS))
    method = smc.PMMH(num_warmup=60, num_chains=2)
    run = PMMHLoop(method, program, with_parameters(program, "PMMH"), jax.random.key(2))
    run.start()
    before = run.chains
    run.variance = 0.15  # a tenth of what is aimed at, with 128 particles: 13 are enough
    run._choose_particles()
    assert run.engine.num == 16
    for old, new in zip(before, run.chains, strict=True):
        np.testing.assert_array_equal(old.x, new.x)
        assert old.log_evidence != new.log_evidence  # of the new filters
    assert run._variance(np.asarray(before[0].x), 0) > 1.5  # sixteen were not enough, really
    while run.done < method.num_warmup:
        run.advance()
    assert run.engine.num > 16
    assert run.engine.num == 2 ** round(np.log2(run.engine.num))


def test_a_second_call_with_new_data_compiles_nothing_and_a_seed_gives_the_same_draws(found):
    new = jnp.array(YS) + 0.1
    with compiled() as names:
        pi.infer(autoregression(new), METHOD, seed=1)
        again = pi.infer(autoregression(jnp.array(YS)), METHOD, seed=0)
    assert names == []
    np.testing.assert_array_equal(again["phi"], found["phi"])


def test_an_interrupt_keeps_the_draws_and_a_checkpoint_continues(found, monkeypatch, tmp_path):
    piece = PMMHLoop._piece

    def interrupted(self, c, count):
        if self.done >= 180:
            raise KeyboardInterrupt
        return piece(self, c, count)

    program = autoregression(jnp.array(YS))
    monkeypatch.setattr(PMMHLoop, "_piece", interrupted)
    with pytest.raises(InferenceError, match="after 190 of 300 steps") as caught:
        pi.infer(program, METHOD, seed=0, checkpoint=tmp_path)
    monkeypatch.undo()
    assert caught.value.partial.is_partial
    assert caught.value.partial["q"].shape == (8, 90)
    whole = pi.infer(program, METHOD, seed=0, checkpoint=tmp_path)
    assert not whole.is_partial
    np.testing.assert_array_equal(whole["phi"], found["phi"])


def test_data_that_nothing_explains_are_refused_before_the_run(found):
    del found
    ys = jnp.array(YS).at[5].set(1e200)  # squares overflow: the density is zero for every parameter
    with pytest.raises(InferenceError, match="none of 64 prior draws"):
        pi.infer(autoregression(ys), smc.PMMH(64), seed=0)


def test_an_evidence_that_is_nan_is_refused_and_counted():
    @pi.model
    def broken(ys):
        level = pi.sample("level", dist.Normal(0.0, 1.0))

        def step(x, y):
            pi.factor("y", jnp.where(level > 0.5, jnp.nan, -0.5 * (y - level) ** 2))
            return x, None

        jax.lax.scan(step, 0.0, ys)

    found = pi.infer(broken(jnp.zeros(3)), smc.PMMH(4, num_draws=100, num_warmup=50, num_chains=2), seed=0)
    assert found["level"].max() <= 0.5
    assert any("NaN at" in note for note in found.warnings)


def test_models_without_a_loop_or_a_parameter_are_refused():
    @pi.model
    def flat():
        pi.sample("m", dist.Normal(0.0, 1.0))
        pi.factor("f", 0.0)

    @pi.model
    def walk(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, 1.0))
            pi.observe("y", dist.Normal(x, 1.0), y)
            return x, None

        jax.lax.scan(step, 0.0, ys)

    for program, message in ((flat(), "PMMH needs observations"), (walk(jnp.array(YS)), "nothing for PMMH to move")):
        with pytest.raises(ModelError, match=message):
            pi.infer(program, smc.PMMH(16), seed=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "names"),
    [
        ({"num_particles": 0}, ArgumentError, "num_particles"),
        ({"num_particles": 64.0}, ArgumentTypeError, "num_particles"),
        ({"num_draws": 0}, ArgumentError, "num_draws"),
        ({"num_warmup": 5}, ArgumentError, "num_warmup"),
        ({"num_chains": 65}, ArgumentError, "num_chains"),
        ({"threshold": 1.5}, ArgumentError, "threshold"),
    ],
)
def test_impossible_settings_are_refused(settings, error, names):
    with pytest.raises(error, match=names):
        smc.PMMH(**settings)
