"""Tempered SMC against closed forms, skewed likelihoods among them, and against NUTS; its ladder, verdicts and faults.

Statistical tests use independent runs: the statistic is Student's t over the run means, at a two-sided false-alarm rate
of 1e-4 for each comparison. The seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import betaln, gammaln

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, UnknownNameError
from probinf.kernels import hmc
from probinf.kernels.hmc import move_population, start_population, step_size_share
from smc import tempered_run
from smc.evidence import combine_evidence
from smc.tempering import TemperingPrograms, next_inverse_temperature, powers
from tests.compile_count import compiled

FALSE_ALARM = 1e-4
RUNS = 16


def agrees(samples, exact):
    """Whether the mean of independent estimates is `exact`, by Student's t at the false-alarm rate above."""
    samples = np.asarray(samples, np.float64)
    error = samples.std(ddof=1) / np.sqrt(samples.size)
    bound = stats.t.ppf(1 - FALSE_ALARM / 2, samples.size - 1)
    return abs(samples.mean() - exact) <= bound * error


# -- models with closed forms --------------------------------------------------------------------------------------


@pi.model
def normal(y):
    m = pi.sample("m", dist.Normal(0.0, 3.0))
    with pi.plate("row", y.shape[0]):
        pi.observe("y", dist.Normal(m, 0.5), y)


@pi.model
def counts(y):
    rate = pi.sample("rate", dist.Gamma(2.0, 0.1))
    with pi.plate("row", y.shape[0]):
        pi.observe("y", dist.Poisson(rate), y)


@pi.model
def trials(y):
    p = pi.sample("p", dist.Beta(0.5, 4.0))
    pi.observe("y", dist.Binomial(20, p), y)


def normal_exact():
    y = np.array([1.0, 2.0, 1.5])
    log_z = stats.multivariate_normal(np.zeros(3), 0.25 * np.eye(3) + 9.0).logpdf(y)
    precision = 1 / 9 + 3 / 0.25
    return normal(jnp.array(y)), "m", log_z, y.sum() / 0.25 / precision, 1 / precision


def counts_exact():
    y, a, b = np.array([3, 4]), 2.0, 0.1
    a1, b1 = a + y.sum(), b + y.size
    log_z = a * np.log(b) - gammaln(a) + gammaln(a1) - a1 * np.log(b1) - gammaln(y + 1).sum()
    return counts(jnp.array(y)), "rate", log_z, a1 / b1, a1 / b1**2


def trials_exact():
    k, n, a, b = 18, 20, 0.5, 4.0
    log_z = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + betaln(a + k, b + n - k) - betaln(a, b)
    law = stats.beta(a + k, b + n - k)
    return trials(jnp.array(k)), "p", log_z, law.mean(), law.var()


@pytest.mark.parametrize("case", [normal_exact, counts_exact, trials_exact])
def test_evidence_and_moments_are_those_of_the_closed_form(case):
    program, site, log_z, mean, variance = case()
    found = pi.infer(program, smc.TemperedSMC(1024, num_runs=RUNS), seed=3)
    runs = smc.history(found)["log_evidence"][:, -1]
    assert agrees(np.exp(runs - log_z), 1.0)
    assert agrees(found[site].mean(axis=1), mean)
    assert agrees(((found[site] - mean) ** 2).mean(axis=1), variance)
    assert found.claim == "consistent"
    assert found.log_evidence_sd < 0.05
    assert found.summary().is_trustworthy, str(found)


@pytest.mark.parametrize("case", [counts_exact, trials_exact])
@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_the_ladder_meets_the_effective_sample_size_it_aims_at(case, threshold):
    found = pi.infer(case()[0], smc.TemperedSMC(1024, num_runs=RUNS, threshold=threshold), seed=1)
    past = smc.history(found)
    assert (past["inverse_temperature"][:, -1] == 1.0).all()
    for ladder, ess in zip(past["inverse_temperature"], past["ess"], strict=True):
        steps = int(np.argmax(ladder == 1.0)) + 1  # a run that is there waits for the others
        assert steps > 1
        assert (np.diff(ladder[:steps]) > 0).all()
        np.testing.assert_allclose(ess[: steps - 1], threshold * 1024, rtol=1e-9)
        assert ess[steps - 1] >= threshold * 1024


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6, 1e200])
@pytest.mark.parametrize("skew", [-1, 1])
@pytest.mark.parametrize("offset", [0.0, -1e3])
def test_the_next_temperature_is_exact_for_likelihoods_skewed_either_way(spread, skew, offset):
    draws = skew * np.random.default_rng(0).exponential(size=300) ** 3
    log_likelihood = jnp.array(spread * draws + offset)
    beta, ess = next_inverse_temperature(log_likelihood, jnp.array(0.0), jnp.array(0.5))
    weights = np.asarray(jax.nn.softmax(beta * spread * jnp.array(draws)))
    kish = 1 / np.sum(weights**2)
    full = np.asarray(jax.nn.softmax(spread * jnp.array(draws)))
    if 1 / np.sum(full**2) >= 150:
        assert beta == 1.0  # nearly flat: the end is reached at once
    else:
        assert 0 < beta < 1
        assert kish == pytest.approx(150, rel=1e-6)
    assert ess == pytest.approx(kish, rel=1e-6)


def test_impossible_particles_do_not_count_towards_the_goal():
    log_likelihood = jnp.array([-jnp.inf] * 90 + list(np.linspace(-50, 0, 10)))
    beta, ess = next_inverse_temperature(log_likelihood, jnp.array(0.0), jnp.array(0.5))
    assert 0 < beta < 1
    assert ess == pytest.approx(5.0, rel=1e-9)
    assert np.isneginf(np.asarray(powers(log_likelihood, beta))[:90]).all()


def test_a_hard_constraint_is_a_legal_likelihood():
    """x ~ N(0, 1) given x > 1: the evidence is a tail probability, the mean the inverse Mills ratio."""

    @pi.model
    def tail():
        x = pi.sample("x", dist.Normal(0.0, 1.0))
        pi.factor("above", jnp.where(x > 1.0, 0.0, -jnp.inf))

    found = pi.infer(tail(), smc.TemperedSMC(1024, num_runs=RUNS), seed=0)
    runs = smc.history(found)["log_evidence"][:, -1]
    assert agrees(np.exp(runs), stats.norm.sf(1.0))
    assert agrees(found["x"].mean(axis=1), stats.norm.pdf(1.0) / stats.norm.sf(1.0))
    assert (found["x"] > 1.0).all()


def test_moves_leave_their_target_unchanged(key):
    """Exact draws of a skewed target stay exact draws: means of exp(x) and its square after eight moves, by batch."""

    def logdensity(x):  # log of a Gamma(3, 1) variable
        return jnp.sum(3.0 * x - jnp.exp(x))

    key_draw, key_move = jax.random.split(key)
    x = jnp.log(jax.random.gamma(key_draw, 3.0, (40_000, 1)))
    population = start_population(x, logdensity)
    for i in range(8):
        key = jax.random.fold_in(key_move, i)
        share = step_size_share(jnp.array(i))
        population, rate = move_population(key, population, logdensity, 1.8 * share, jnp.full(1, 0.4), 3)
    assert 0.3 < rate.mean() < 0.95  # rejections are part of what is tested
    np.testing.assert_allclose(population.logdensity, jax.vmap(logdensity)(population.position), atol=1e-12)
    batches = np.exp(np.asarray(population.position)).reshape(40, 1000)
    assert agrees(batches.mean(axis=1), 3.0)
    assert agrees((batches**2).mean(axis=1), 12.0)


def test_a_written_out_trajectory_is_the_loop(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (50, 3))
    population = start_population(x, lambda row: -jnp.sum(row**4))
    move = [jax.random.key(1), population, lambda row: -jnp.sum(row**4), jnp.array(0.3), jnp.array([1.0, 0.5, 2.0]), 4]
    written_out, rate = move_population(*move)
    assert 0 < np.mean(np.asarray(written_out.position) == np.asarray(x)) < 1  # some are rejected
    monkeypatch.setattr(hmc, "_WRITTEN_OUT", 0)
    looped, same = move_population(*move)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), (written_out, rate), (looped, same))


@pi.model
def hills():
    x = pi.sample("x", dist.Normal(0.0, 4.0))
    pi.factor("hills", jnp.logaddexp(-0.5 * ((x - 6.0) / 0.2) ** 2, -0.5 * ((x + 6.0) / 0.2) ** 2))


def test_moves_that_bring_nothing_are_given_up_after_one_round():
    """Between hills sixty standard deviations apart nothing crosses, however many moves are allowed."""
    past = smc.history(pi.infer(hills(), smc.TemperedSMC(512, max_moves=64), seed=0))
    assert past["autocorrelation"][0, -1] > 0.99
    assert past["num_moves"][0, -1] == 8
    assert past["num_moves"].max() > 8  # at lower temperatures some cross, and moves go on


# -- NumPyro -------------------------------------------------------------------------------------------------------


def eight_schools(se, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * raw)
        numpyro.sample("y", dist.Normal(theta, se), obs=y)


def test_eight_schools_of_numpyro_agrees_with_nuts():
    """Means within 4 joint MCSE and sd ratios in 0.85 to 1.15, for 18 scalars (false alarm below 2e-3 in all)."""
    data = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18]), jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    nuts = pi.infer(eight_schools, pi.NUTS(num_draws=2000), *data, seed=0)
    found = pi.infer(eight_schools, smc.SMC(1000, num_runs=8), *data, seed=0)
    assert "tempered" in found.method
    for site in ("mu", "tau", "raw", "theta"):
        ours, theirs = found.summary([site]), nuts.summary([site])
        runs = found[site].mean(axis=1)
        spread = np.atleast_1d(runs.std(axis=0, ddof=1) / np.sqrt(8))
        joint = np.hypot(theirs["MCSE"], np.maximum(spread, ours["MCSE"]))
        assert (np.abs(ours["mean"] - theirs["mean"]) <= 4 * joint).all()
        ratio = ours["sd"] / theirs["sd"]
        assert ((ratio > 0.85) & (ratio < 1.15)).all()
    assert found.dims["theta"] == ("school",)


# -- verdicts ------------------------------------------------------------------------------------------------------


@pi.model
def ridge():
    """A Gaussian of correlation 0.9999: a diagonal metric sees none of it."""
    with pi.plate("axis", 2):
        x = pi.sample("x", dist.Normal(0.0, 10.0))
    pi.factor("ridge", -0.5 * ((x[0] - x[1]) / 0.02) ** 2)


def test_moves_that_do_not_mix_are_reported():
    few = pi.infer(ridge(), smc.TemperedSMC(256, num_moves=1, max_moves=1, num_leapfrog=1), seed=0)
    assert any("do not mix" in note and "x[" in note for note in few.warnings)
    assert not few.summary().is_trustworthy


def test_moves_are_doubled_until_they_mix():
    past = smc.history(pi.infer(ridge(), smc.TemperedSMC(256, num_moves=2, max_moves=16, num_leapfrog=2), seed=0))
    assert past["num_moves"].max() > 2
    assert set(past["num_moves"].ravel()) <= {2, 4, 8, 16}
    easy = past["num_moves"] < 16
    assert (past["autocorrelation"][easy] <= 0.3).all()


# -- caching, faults -----------------------------------------------------------------------------------------------


def test_a_second_call_with_new_data_compiles_nothing():
    method = smc.TemperedSMC(64, num_runs=2)
    pi.infer(normal(jnp.array([1.0, 2.0])), method, seed=0)
    new = jnp.array([7.0, 8.0])
    with compiled() as names:
        second = pi.infer(normal(new), method, seed=1)
    assert names == []
    assert abs(second["m"].mean() - 7.5) < 1.0  # and the data are those of the second call


def test_the_same_seed_gives_the_same_draws():
    one, two = (pi.infer(normal(jnp.array([1.0, 2.0])), smc.TemperedSMC(64, num_runs=2), seed=5) for _ in range(2))
    np.testing.assert_array_equal(one["m"], two["m"])


@pi.model
def impossible(y):
    x = pi.sample("x", dist.Normal(0.0, 1.0))
    pi.observe("near", dist.Normal(x, 1.0), y)
    pi.factor("wall", jnp.where(x > 100.0, 0.0, -jnp.inf))


@pi.model
def undefined(y):
    x = pi.sample("x", dist.Normal(0.0, 1.0))
    pi.observe("y", dist.Normal(x, 1.0), y)
    pi.factor("root", jnp.sqrt(x))


def test_a_likelihood_of_zero_everywhere_names_the_site():
    with pytest.raises(InferenceError, match=r"(?s)64 draws.*likelihood zero.*'wall'") as caught:
        pi.infer(impossible(0.3), smc.TemperedSMC(64), seed=0)
    assert caught.value.partial["position"].shape == (1, 64, 1)


def test_a_likelihood_of_nan_names_the_site_and_counts():
    with pytest.raises(InferenceError, match=r"(?s)NaN.* of 64 draws.*step 0.*'root'"):
        pi.infer(undefined(0.3), smc.TemperedSMC(64), seed=0)


def test_too_many_temperatures_end_with_the_particles_so_far():
    with pytest.raises(
        InferenceError, match=r"(?s)2 temperatures were not enough.*inverse temperature.*effective"
    ) as caught:
        pi.infer(trials(jnp.array(18)), smc.TemperedSMC(1024, num_runs=RUNS, threshold=0.9, max_temperatures=2), seed=0)
    assert caught.value.partial.is_partial
    assert caught.value.partial["p"].shape == (RUNS, 1024)


def test_a_temperature_that_stalls_ends_the_run(monkeypatch):
    step = TemperingPrograms._step

    def stuck(self, *given):
        new, info = step(self, *given)
        half = jnp.minimum(new.inverse_temperature, 0.01)
        return new._replace(inverse_temperature=half), info

    monkeypatch.setattr(TemperingPrograms, "_step", stuck)
    with pytest.raises(
        InferenceError, match=r"no longer moves: inverse temperature 0.01, effective sample size .* step 2"
    ):
        pi.infer(normal(jnp.array([1.0, 2.0])), smc.TemperedSMC(33), seed=0)


def test_an_interrupt_keeps_the_particles(monkeypatch):
    append = tempered_run.TemperedLoop._append

    def interrupted(self, new, info):
        append(self, new, info)
        if self.num_steps == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(tempered_run.TemperedLoop, "_append", interrupted)
    with pytest.raises(InferenceError, match=r"interrupted at inverse temperature .* after 2 step") as caught:
        pi.infer(trials(jnp.array(18)), smc.TemperedSMC(1024, num_runs=RUNS), seed=0)
    partial = caught.value.partial
    assert partial.is_partial
    assert "tempered posterior" in partial.warnings[0]
    assert smc.history(partial)["ess"].shape == (RUNS, 2)


@pi.model
def discrete(y):
    k = pi.sample("k", dist.Bernoulli(0.5))
    pi.observe("y", dist.Normal(jnp.where(k == 1, 1.0, 0.0), 1.0), y)


def test_discrete_sites_are_refused_by_name():
    with pytest.raises(ModelError, match=r"'k'.*discrete.*smc.SMC\(\)"):
        pi.infer(discrete(0.1), smc.TemperedSMC(16), seed=0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "names"),
    [
        ({"num_particles": 0}, ArgumentError, "num_particles"),
        ({"num_particles": 1}, ArgumentError, "num_particles"),
        ({"num_particles": 10.0}, ArgumentTypeError, "num_particles"),
        ({"num_moves": 0}, ArgumentError, "num_moves"),
        ({"num_moves": 8, "max_moves": 4}, ArgumentError, "max_moves"),
        ({"num_leapfrog": 0}, ArgumentError, "num_leapfrog"),
        ({"threshold": 0.0}, ArgumentError, "threshold"),
        ({"threshold": 1.0}, ArgumentError, "threshold"),
        ({"threshold": float("nan")}, ArgumentError, "threshold"),
        ({"num_runs": 0}, ArgumentError, "num_runs"),
        ({"max_temperatures": 0}, ArgumentError, "max_temperatures"),
        ({"resample": "systematik"}, UnknownNameError, "systematic"),
    ],
)
def test_impossible_settings_are_refused(settings, error, names):
    with pytest.raises(error, match=names):
        smc.TemperedSMC(**settings)


def test_evidence_of_runs_is_the_log_of_their_mean():
    log_z = np.log([1.0, 2.0, 3.0]) - 1000.0
    log_evidence, sd = combine_evidence(log_z)
    assert log_evidence == pytest.approx(np.log(2.0) - 1000.0, rel=1e-14)
    assert sd == pytest.approx(1.0 / (2.0 * np.sqrt(3.0)), rel=1e-12)
    assert combine_evidence(np.array([-np.inf, 0.0]))[0] == pytest.approx(np.log(0.5))
    assert combine_evidence(np.array([-3.0])) == (-3.0, None)
