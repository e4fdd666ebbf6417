"""Random-walk, waste-free and persistent tempering against closed forms, and the verdict on the moves both ways.

Statistical tests over independent runs use Student's t at a two-sided false-alarm rate of 1e-4 a comparison, and the
variance estimate chi-squared at the same rate. The seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import probinf as pi
import smc
from benchmarks.sampler_targets import TARGETS
from probinf.errors import ArgumentError
from smc.mixing import assess
from smc.persistent import PersistentPrograms, PersistentState, persistent_log_evidence, persistent_log_weights
from smc.tempered_moves import WalkingPopulation, covariance_root, walk_population
from smc.tempering import TemperedState, halfway_shift, next_inverse_temperature
from smc.waste_free_tempering import chain_variance
from tests.compile_count import compiled
from tests.test_tempered import FALSE_ALARM, RUNS, agrees, normal, normal_exact, trials_exact

WAYS = {"walk": {"moves": "rwm", "num_moves": 8}, "waste-free": {"waste_free": 16}, "persistent": {"persistent": True}}


@pytest.mark.parametrize("case", [normal_exact, trials_exact])
@pytest.mark.parametrize("way", WAYS)
def test_evidence_and_moments_are_those_of_the_closed_form(case, way):
    program, site, log_z, mean, variance = case()
    found = pi.infer(program, smc.TemperedSMC(1024, num_runs=RUNS, **WAYS[way]), seed=5)
    runs = smc.history(found)["log_evidence"][:, -1]
    assert agrees(np.exp(runs - log_z), 1.0)
    weights = np.exp(found.log_weights - found.log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    assert agrees((weights * found[site]).sum(axis=1), mean)
    assert agrees((weights * (found[site] - mean) ** 2).sum(axis=1), variance)
    assert found.claim == "consistent"
    assert found.summary().is_trustworthy, str(found)
    assert "moves mix" in found.method


def test_a_random_walk_leaves_its_target_unchanged(key):
    """Exact draws of log Gamma(3, 1) stay exact draws: the mean of exp(x) and of exp(2 x) after five moves."""

    def logdensity(x):
        return jnp.sum(3.0 * x - jnp.exp(x))

    key_draw, key_move = jax.random.split(key)
    x = jnp.log(jax.random.gamma(key_draw, 3.0, (8000, 1)))
    population = WalkingPopulation(x, jax.vmap(logdensity)(x))
    for i in range(5):
        population, rate = walk_population(
            jax.random.fold_in(key_move, i), population, logdensity, jnp.array(2.0), jnp.array([[0.6]])
        )
    assert 0.2 < rate.mean() < 0.9
    np.testing.assert_allclose(population.logdensity, jax.vmap(logdensity)(population.position), atol=1e-12)
    batches = np.exp(np.asarray(population.position)).reshape(40, 200)
    assert agrees(batches.mean(axis=1), 3.0)
    assert agrees((batches**2).mean(axis=1), 12.0)


def test_the_walk_has_the_covariance_of_the_particles():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)), rng.dirichlet(np.ones(50))
    root = np.asarray(covariance_root(jnp.array(weights), jnp.array(x)))
    exact = np.cov(x.T, aweights=weights, ddof=0)
    np.testing.assert_allclose(root @ root.T, exact + 1e-4 * np.diag(np.diag(exact)), rtol=1e-10)
    assert np.isfinite(covariance_root(jnp.array(weights), jnp.ones((50, 3)))).all()  # particles all alike


# -- waste-free ----------------------------------------------------------------------------------------------------


def test_variance_of_chains_of_one_state_is_that_of_a_mean():
    w = np.random.default_rng(1).exponential(size=(7, 1))
    assert chain_variance(jnp.array(w)) == pytest.approx(w.var(ddof=1) / 7, rel=1e-12)


def test_one_waste_free_run_estimates_the_variance_of_its_evidence():
    """Over 64 runs (n - 1) s² / v is chi-squared where v is the mean of the runs' own estimates."""
    program, _, log_z, _, _ = normal_exact()
    runs = 64
    found = pi.infer(program, smc.TemperedSMC(1024, num_runs=runs, waste_free=16), seed=2)
    past = smc.history(found)
    ratio = (runs - 1) * past["log_evidence"][:, -1].var(ddof=1) / past["log_evidence_variance"][:, -1].mean()
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], runs - 1)
    assert low < ratio < high
    one = pi.infer(program, smc.TemperedSMC(1024, waste_free=16), seed=2)
    assert one.log_evidence_sd == pytest.approx(np.sqrt(smc.history(one)["log_evidence_variance"][0, -1]), rel=1e-6)
    assert abs(one.log_evidence - log_z) < 5 * one.log_evidence_sd


# -- persistent ----------------------------------------------------------------------------------------------------


def _pool(log_likelihood, betas, log_zs, room):
    """A pool filled one temperature after the other."""
    steps, num = log_likelihood.shape
    empty, flat = jnp.zeros((1, steps + room, num)), jnp.zeros((1, steps + room))
    state = PersistentState(None, empty[..., None], empty, empty, flat, flat, jnp.int32(0))
    for ll, beta, log_z in zip(log_likelihood, betas, log_zs, strict=True):
        row, one = jnp.array(ll)[None], jnp.zeros(1)
        latest = TemperedState(row[..., None], row, row, one + beta, one + log_z, one, row, one)
        state = PersistentPrograms._insert(None, state, latest)
    return state


@pytest.mark.parametrize("room", [0, 3])
def test_persistent_weights_are_those_of_the_formula_on_a_finite_ladder(room):
    """w = L^β / (1/t Σ_s L^β_s / Z_s), its mean the evidence; neither the dead nor spare room in the pool count."""
    log_likelihood = np.random.default_rng(0).normal(-3.0, 2.0, (3, 5))
    log_likelihood[0, 2] = -np.inf
    betas, log_zs, beta = np.array([0.0, 0.2, 0.7]), np.array([0.0, -0.9, -2.5]), 1.0
    state = _pool(log_likelihood, betas, log_zs, room)
    assert int(state.count) == 3
    log_weights = persistent_log_weights(state.log_likelihood[0], state.log_mixture[0], jnp.array(beta), state.count)
    likelihood = np.exp(log_likelihood)
    mixture = sum(likelihood**b / np.exp(z) for b, z in zip(betas, log_zs, strict=True)) / 3
    weights = likelihood**beta / mixture
    np.testing.assert_allclose(np.exp(log_weights[:3]), weights, rtol=1e-12)
    assert np.isneginf(np.asarray(log_weights[3:])).all()
    assert persistent_log_evidence(log_weights, state.count) == pytest.approx(np.log(weights.mean()), rel=1e-12)


def test_persistent_weights_are_exact_with_exact_constants():
    """With the true Z_s, grids for particles and quadrature weights for draws, the mean weight is Z(1) exactly.

    The average over s of E_{p_s}[w] is the integral of L^1 over the prior: an identity, for any ladder.
    """
    x = np.linspace(-8, 8, 4001)
    prior = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    log_likelihood = -0.5 * ((x - 1.5) / 0.5) ** 2 + 0.3 * x
    betas = np.array([0.0, 0.1, 0.5])
    zs = np.array([np.sum(prior * np.exp(b * log_likelihood)) for b in betas])
    state = _pool(np.broadcast_to(log_likelihood, (3, x.size)), betas, np.log(zs), 0)
    weights = np.exp(persistent_log_weights(state.log_likelihood[0], state.log_mixture[0], jnp.array(1.0), state.count))
    tempered = np.stack([prior * np.exp(b * log_likelihood) / z for b, z in zip(betas, zs, strict=True)])
    exact = np.sum(prior * np.exp(log_likelihood))
    assert np.mean(np.sum(tempered * weights, axis=1)) == pytest.approx(exact, rel=1e-12)


def test_pools_that_have_to_grow_give_the_same_run(monkeypatch):
    program, method = normal(jnp.full(80, 2.0)), smc.TemperedSMC(64, persistent=True)
    roomy = pi.infer(program, method, seed=0)
    monkeypatch.setattr("smc.persistent._FIRST_CAPACITY", 1)
    grown = pi.infer(program, method, seed=0)
    steps = smc.history(grown)["log_evidence"].shape[1]
    assert steps + 1 > 4  # with the prior, more than 1, 2 and 4: the pool was doubled three times
    assert grown["m"].shape == (1, 64 * (steps + 1))  # the prior's draws too
    np.testing.assert_allclose(grown["m"], roomy["m"], rtol=1e-9)
    np.testing.assert_allclose(grown.log_weights, roomy.log_weights, rtol=1e-9, atol=1e-9)


def test_a_second_persistent_run_compiles_nothing():
    method = smc.TemperedSMC(32, persistent=True)
    pi.infer(normal(jnp.array([1.0, 2.0])), method, seed=0)
    with compiled() as names:
        second = pi.infer(normal(jnp.array([2.0, 3.0])), method, seed=1)
    assert names == []
    assert abs(second.mean("m") - 2.5) < 1.0


@pytest.mark.parametrize("skew", [-1, 1])
def test_the_next_temperature_of_a_weighted_pool_meets_its_goal(skew):
    rng = np.random.default_rng(0)
    log_likelihood = skew * rng.exponential(size=300) ** 3 * 1e3
    base = rng.normal(0.0, 0.3, 300)
    beta, ess = next_inverse_temperature(
        jnp.array(log_likelihood), jnp.array(0.2), jnp.array(0.5), jnp.array(base), jnp.array(90.0)
    )
    weights = np.exp(base + (float(beta) - 0.2) * (log_likelihood - log_likelihood.max()))
    assert 0.2 < beta < 1
    assert np.sum(weights) ** 2 / np.sum(weights**2) == pytest.approx(90.0, rel=1e-6)
    assert ess == pytest.approx(90.0, rel=1e-6)


# -- the verdict ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verdict_on_sonar_like_data_fires_for_the_walk_and_is_silent_for_trajectories_that_mix():
    """The walk's evidence is nats above that of the trajectories, and it says that it does not mix."""
    program = TARGETS["sonar"](1).program
    walk = pi.infer(program, smc.TemperedSMC(256, moves="rwm", num_moves=16), seed=0)
    mixed = pi.infer(program, smc.TemperedSMC(256, num_leapfrog=20), seed=0)
    assert any(note.startswith("The moves do not mix: evidence may be off;") for note in walk.warnings)
    assert not walk.summary().is_trustworthy
    assert "do not mix" in str(walk.summary())
    assert mixed.warnings == ()
    assert "moves mix" in mixed.method
    assert walk.log_evidence > mixed.log_evidence + 2.0  # so the verdict is about something


def test_moves_that_cannot_cross_are_given_up_and_named():
    found = pi.infer(TARGETS["bimodal"](0).program, smc.TemperedSMC(512), seed=0)
    assert any("regions that they do not cross" in note for note in found.warnings)
    assert smc.history(found)["num_moves"][0, -1] < 64


def _history(steps=8, runs=2, **changes):
    one = np.ones((steps, runs))
    found = {
        "autocorrelation": 0.1 * one,
        "num_moves": 4 * one,
        "acceptance": 0.8 * one,
        "inverse_temperature": np.linspace(0.1, 1.0, steps)[:, None] * one,
        "still": 0.0 * one,
        "shift": 0.0 * one,
        "shift_variance": 0.001 * one,
    }
    return {**found, **changes}


def _assess(history):
    slowest = np.zeros(history["shift"].shape, int)
    return assess(history, slowest, lambda i: f"x[{i}]", num_watched=1000, max_moves=64, advice="Help.")


def test_a_record_of_moves_that_mix_gives_no_reason():
    verdict = _assess(_history())
    assert verdict.reasons == ()
    assert verdict.warning == []
    assert str(verdict).startswith("moves mix")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"still": np.full((8, 2), 0.2)}, "20% of the particles never moved"),
        ({"shift": np.full((8, 2), 0.2)}, "1.60 nats above that of half the moves"),
        ({"shift": np.full((8, 2), -0.2)}, "1.60 nats below that of half the moves"),
        ({"autocorrelation": np.full((8, 2), 0.5), "num_moves": np.full((8, 2), 64)}, r"x\[0\] still has correlation"),
    ],
)
def test_each_check_fires_by_itself(changes, words):
    (note,) = _assess(_history(**changes)).warning
    assert note.startswith("The moves do not mix: evidence may be off;")
    assert re.search(words, note)


def test_a_shift_within_its_error_or_too_small_to_matter_is_none():
    noisy = _history(shift=np.full((8, 2), 0.2), shift_variance=np.full((8, 2), 1.0))
    small = _history(shift=np.full((8, 2), 0.03), shift_variance=np.full((8, 2), 1e-8))
    assert _assess(noisy).reasons == _assess(small).reasons == ()


def test_half_the_moves_of_independent_particles_shift_evidence_by_noise_of_the_stated_variance(key):
    """Both halves are draws of one law: the standardised shift has mean 0 and second moment 1 over 2,000 pairs."""
    pairs = jax.random.normal(key, (2, 2000, 400))
    shift, variance = jax.vmap(halfway_shift, in_axes=(0, 0, None))(*pairs, jnp.array(0.3))
    z = np.asarray(shift / jnp.sqrt(variance))
    assert abs(z.mean()) < stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(2000)
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 2000) / 2000
    assert low < np.mean(z**2) < high


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"moves": "mala"}, "moves"),
        ({"waste_free": 1}, "waste_free"),
        ({"waste_free": 7}, "waste_free"),
        ({"waste_free": 64}, "waste_free"),
        ({"waste_free": -2}, "waste_free"),
        ({"persistent": 3}, "persistent"),
        ({"persistent": True, "waste_free": 8}, "persistent"),
    ],
)
def test_impossible_settings_are_refused(settings, names):
    with pytest.raises(ArgumentError, match=names):
        smc.TemperedSMC(64, **settings)
