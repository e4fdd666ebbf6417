"""ChEES-HMC against closed forms, what its warm-up learns, and the method that `infer` takes by itself.

Draws come from fixed seeds. A comparison at 4 Monte Carlo standard errors fails by chance once in 16,000, and there are
about 40; the goodness-of-fit tests refuse below p = 1e-4, and there are 2: a fresh set of seeds would fail somewhere
once in 350 runs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from arviz_stats.base import array_stats

import probinf as pi
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from probinf.inference import auto
from probinf.inference.ensemble_run import ensemble_segments
from probinf.kernels.adaptation import start_moments, update_moments_by_batch
from probinf.kernels.batch_first import batch_first
from probinf.kernels.chees import (
    Phase,
    advance_ensemble,
    halton,
    harmonic_acceptance,
    length_gradient,
    start_ensemble,
    start_trajectory,
)
from tests.compile_count import compiled
from tests.stub_target import StubTarget

QUICK = pi.ChEES(num_warmup=150, num_draws=150, num_chains=32)


def assert_mean(draws, expected, name):
    """The mean of (chains, draws) scalars is within 4 of its own standard errors of the exact value."""
    error = float(array_stats.mcse(np.asarray(draws, float)))
    assert 0.0 < error < np.inf
    assert abs(np.mean(draws) - expected) < 4.0 * error, (name, np.mean(draws), expected, error)


# -- parts ---------------------------------------------------------------------------------------------------------


def test_halton_sequence():
    found = [float(halton(jnp.int32(n), jnp.float64)) for n in range(1, 8)]
    assert found == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_harmonic_acceptance():
    assert float(harmonic_acceptance(jnp.array([0.5, 1.0]))) == pytest.approx(2 / 3)
    # A chain that is stuck, or whose energy is NaN, counts as 0.01: it lowers the mean and does not end it.
    assert float(harmonic_acceptance(jnp.array([0.0, 1.0]))) == pytest.approx(2 / 101)
    assert float(harmonic_acceptance(jnp.array([jnp.nan, 1.0]))) == pytest.approx(2 / 101)


def test_pooled_moments_are_those_of_all_points(key):
    x = 3.0 + jax.random.normal(key, (7, 5, 2))
    moments = start_moments(2, jnp.dtype(jnp.float64), "diagonal")
    for batch in x:
        moments = update_moments_by_batch(moments, batch, -2.0 * batch)
    points = np.asarray(x).reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, points.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.second, points.var(axis=0) * 35, rtol=1e-12)
    np.testing.assert_allclose(moments.second_gradient, 4.0 * points.var(axis=0) * 35, rtol=1e-12)
    assert moments.num_points == 35


def test_the_length_gradient_is_the_derivative_of_the_criterion(key):
    """On exact trajectories of a standard normal from pairs of opposite points, whose mean does not move."""
    half, momentum = jax.random.normal(key, (2, 50, 3))
    z, p = jnp.concatenate([half, -half]), jnp.concatenate([momentum, -momentum])

    def criterion(log_length):
        t = jnp.exp(log_length)
        new = z * jnp.cos(t) + p * jnp.sin(t)
        return 0.25 * jnp.mean((jnp.sum(new**2, axis=1) - jnp.sum(z**2, axis=1)) ** 2)

    for t in (0.3, 1.2, 2.0):
        new, velocity = z * jnp.cos(t) + p * jnp.sin(t), p * jnp.cos(t) - z * jnp.sin(t)
        found = length_gradient(z, new, velocity, jnp.ones(100), jnp.asarray(t))
        np.testing.assert_allclose(found, jax.grad(criterion)(jnp.log(t)), rtol=1e-10)


def test_a_proposal_that_is_not_finite_has_no_say_in_the_length(key):
    z, new, velocity = jax.random.normal(key, (3, 6, 2))
    weights, length = jnp.array([0.3, 1.0, 0.2, 0.9, 0.5, 0.0]), jnp.asarray(0.7)
    broken = length_gradient(z, new.at[5].set(jnp.nan), velocity.at[5].set(jnp.inf), weights, length)
    assert float(broken) == float(length_gradient(z, new, velocity, weights, length))


@pytest.mark.parametrize(
    ("num_warmup", "lengths"), [(0, []), (1, [1]), (100, [10, 20, 50, 20]), (400, [10, 20, 40, 80, 170, 80])]
)
def test_warmup_segments(num_warmup, lengths):
    segments = ensemble_segments(num_warmup)
    assert sum(s.num_steps for s in segments) == num_warmup
    assert [s.num_steps for s in segments if s.num_steps] == lengths
    assert not segments or not segments[-1].renews


# -- the kernel keeps its target -----------------------------------------------------------------------------------


def skewed(operands, x):
    """x_0 the log of a Gamma(2, 1) variable, x_1 given it normal with sd x-dependent: skewed and correlated."""
    del operands
    return 2.0 * x[0] - jnp.exp(x[0]) - 0.5 * ((x[1] - 0.5 * x[0]) / 0.7) ** 2


def test_exact_draws_stay_exact_draws():
    """4,000 independent exact draws, three steps of large step size: still exact, though a third is refused."""
    rng = np.random.default_rng(0)
    u = np.log(rng.gamma(2.0, size=4000))
    start = np.stack([u, 0.5 * u + 0.7 * rng.normal(size=4000)], axis=1)
    state = start_ensemble(skewed, (), jnp.asarray(start))
    log = jnp.log(jnp.asarray(1.1))
    state = state._replace(
        scale=jnp.array([1.0, 0.9]),
        step_size=state.step_size._replace(log_step_size_average=log),
        trajectory=start_trajectory(jnp.log(jnp.asarray(4.0))),
    )
    off = jnp.asarray(False)
    advance = jax.jit(lambda st, key: advance_ensemble(
        skewed, 10, 4, (), jnp.asarray(0.6), jnp.int32(0), jnp.int32(3), Phase(off, off, off), st, key
    ))  # fmt: skip
    after, rows = advance(state, jax.random.key(1))
    x = np.asarray(after.x)
    rate = np.asarray(rows.acceptance_rate[:3])
    assert 0.4 < rate.mean() < 0.9
    assert np.mean(np.any(np.asarray(rows.x[0]) != start, axis=1)) == pytest.approx(rate[0].mean(), abs=0.03)  # 4 sd
    assert np.all(np.asarray(rows.x[3]) == 0.0)  # beyond the steps asked for
    assert scipy.stats.kstest(np.exp(x[:, 0]), scipy.stats.gamma(2.0).cdf).pvalue > 1e-4
    assert scipy.stats.kstest((x[:, 1] - 0.5 * x[:, 0]) / 0.7, scipy.stats.norm.cdf).pvalue > 1e-4


SDS = np.array([1e-3, 0.1, 1.0, 30.0])
GAUSSIAN = StubTarget(
    "gaussian", {"x": (4,)}, lambda mean, p: {"x": -0.5 * jnp.sum(((p["x"] - mean) / SDS) ** 2)},
    np.array([5.0, -1.0, 0.0, 9.0]),
)  # fmt: skip


def test_gaussian_moments_and_the_scale_that_warm_up_learns():
    posterior = QUICK.run(GAUSSIAN, 1)
    x = posterior["x"]
    assert x.shape == (32, 150, 4)
    for i in range(4):
        assert_mean(x[..., i], GAUSSIAN.operands[i], f"mean {i}")
        assert_mean((x[..., i] - GAUSSIAN.operands[i]) ** 2, SDS[i] ** 2, f"variance {i}")
    assert_mean(x[..., 1] * x[..., 2] / 0.1, 0.0, "covariance")
    leaves, structure = [], jax.tree.structure(start_ensemble(skewed, (), jnp.ones((4, 2)) * jnp.arange(4.0)[:, None]))
    leaves = [posterior.checkpoint[f"ensemble_{i}"] for i in range(structure.num_leaves)]
    state = jax.tree.unflatten(structure, leaves)
    np.testing.assert_allclose(state.scale, SDS, rtol=0.02)  # sqrt(Var x / Var g) is exact for a Gaussian
    step_size, length = np.exp(state.step_size.log_step_size_average), np.exp(state.trajectory.log_length_average)
    assert 0.5 < step_size < 2.0
    assert 1.0 < length < 6.0  # the criterion's maximum for a standard normal and uniform times is at 2.25
    assert posterior.claim == "invariant"
    assert "ChEES" in posterior.method
    assert posterior.summary().is_trustworthy, str(posterior.summary())


def constrained_terms(_, position):
    """scale ~ HalfNormal(2) through exp; share ~ Beta(2, 5) through the logistic; log Jacobians included."""
    u, v = position["scale"], position["share"]
    beta = 2.0 * jax.nn.log_sigmoid(v) + 5.0 * jax.nn.log_sigmoid(-v)
    return {"scale": -0.5 * (jnp.exp(u) / 2.0) ** 2 + u, "share": beta}


CONSTRAINED = StubTarget(
    "constrained",
    {"scale": (), "share": ()},
    constrained_terms,
    forward={"scale": jnp.exp, "share": jax.nn.sigmoid},
    backward={"scale": jnp.log, "share": lambda p: jnp.log(p) - jnp.log1p(-p)},
)


def test_skewed_sites_have_their_exact_moments():
    posterior = pi.ChEES(num_warmup=150, num_draws=400, num_chains=32).run(CONSTRAINED, 3)
    scale, share = posterior["scale"], posterior["share"]
    half, beta = scipy.stats.halfnorm(scale=2.0), scipy.stats.beta(2, 5)
    for draws, law, name in ((scale, half, "scale"), (share, beta, "share")):
        for k in (1, 2, 3):
            assert_mean(draws**k, law.moment(k), f"{name}^{k}")
        for q in (0.1, 0.9):
            assert_mean(1.0 * (draws <= law.ppf(q)), q, f"P({name} <= q{q})")


def test_a_density_of_bounded_support_is_kept():
    """An Exponential(1) known only on x > 0, as NaN beyond: refused, never entered."""
    terms = lambda _, p: {"x": jnp.where(p["x"] > 0.0, -p["x"], jnp.nan)}  # noqa: E731
    posterior = pi.ChEES(150, 400, 32, init={"x": 1.0}).run(StubTarget("half", {"x": ()}, terms), 0)
    assert posterior["x"].min() > 0.0
    assert_mean(posterior["x"], 1.0, "mean")
    assert_mean(posterior["x"] ** 2, 2.0, "second moment")


# -- compiling and continuing --------------------------------------------------------------------------------------


@pi.model
def regression(X, y):
    beta = pi.sample("beta", dist.Normal(jnp.zeros(X.shape[1]), 1.0).to_event(1))
    pi.observe("y", dist.Bernoulli(logits=X @ beta).to_event(1), y)


def data(seed, n=60):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(rng.integers(0, 2, n))


def test_new_data_seed_and_lengths_compile_nothing():
    pi.infer(regression(*data(0)), QUICK, seed=1)
    X, y = data(1)
    with compiled() as names:
        method = pi.ChEES(num_warmup=100, num_draws=120, num_chains=32, target_acceptance=0.8)
        found = pi.infer(regression(X, y), method, seed=2)
    assert names == []
    assert found["beta"].shape == (32, 120, 3)


def test_the_gradient_of_the_ensemble_is_a_matrix_product_and_nothing_is_looped():
    X, y = data(0)
    target = regression(X, y).unconstrained()

    def logdensity(beta):
        return target.logdensity(target.operands, {"beta": beta})

    batch = jnp.asarray(np.random.default_rng(2).normal(size=(16, 3)))
    gradient = jax.vmap(jax.grad(batch_first(logdensity)))
    exact = -batch + (y[None, :].astype(float) - jax.nn.sigmoid(batch @ X.T)) @ X
    np.testing.assert_allclose(gradient(batch), exact, rtol=1e-10, atol=1e-12)
    eqns = jax.make_jaxpr(gradient)(batch).jaxpr.eqns
    products = [eqn.outvars[0].aval.shape for eqn in eqns if eqn.primitive.name == "dot_general"]
    assert products == [(16, 60), (16, 3)]  # chains lead: no transposition around them
    assert not {"scan", "while", "transpose"} & {eqn.primitive.name for eqn in eqns}


@pytest.mark.parametrize("logit", [-800.0, -40.0, -1.0, 0.0, 2.0, 50.0, np.inf, -np.inf])
def test_bernoulli_log_probability_and_its_gradient(logit):
    from probinf.language.distributions import log_density

    for y, sign in ((0, -1.0), (1, 1.0)):
        both = jax.jit(jax.value_and_grad(lambda x, y=y: log_density(dist.Bernoulli(logits=x), y)))
        value, slope = both(jnp.asarray(logit))
        np.testing.assert_allclose(value, -np.logaddexp(0.0, -sign * logit), rtol=1e-14)
        np.testing.assert_allclose(slope, sign * scipy.special.expit(-sign * logit), rtol=1e-13, atol=1e-300)


def test_resuming_gives_the_draws_of_one_long_run(tmp_path):
    whole = QUICK.run(GAUSSIAN, 4)
    method = pi.ChEES(num_warmup=150, num_draws=50, num_chains=32)
    part = method.run(GAUSSIAN, 4)
    part.save(tmp_path / "part.npz")
    again = method.resume(GAUSSIAN, pi.Posterior.load(tmp_path / "part.npz"), 100)
    np.testing.assert_array_equal(again["x"], whole["x"])
    np.testing.assert_array_equal(again.sample_stats["n_steps"], whole.sample_stats["n_steps"])
    with pytest.raises(ArgumentError, match="posterior: it was not made by ChEES with 8 chains in 4 dimensions"):
        pi.ChEES(num_chains=8).resume(GAUSSIAN, part, 100)
    with pytest.raises(ArgumentError, match="posterior"):
        method.resume(GAUSSIAN, pi.Posterior({"x": whole["x"]}), 100)


def test_thinning_keeps_every_kth_draw():
    whole = QUICK.run(GAUSSIAN, 4)
    thin = pi.ChEES(num_warmup=150, num_draws=150, num_chains=32, thinning=7).run(GAUSSIAN, 4)
    np.testing.assert_array_equal(thin["x"], whole["x"][:, 6::7])


# -- bad settings --------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"num_chains": 3}, ArgumentError, "num_chains"),
        ({"num_chains": 64.0}, ArgumentTypeError, "num_chains"),
        ({"num_warmup": -1}, ArgumentError, "num_warmup"),
        ({"num_draws": 0}, ArgumentError, "num_draws"),
        ({"target_acceptance": 1.0}, ArgumentError, "target_acceptance"),
        ({"max_leapfrogs": 0}, ArgumentError, "max_leapfrogs"),
        ({"thinning": 501}, ArgumentError, "thinning"),
        ({"init": "anywhere"}, ArgumentError, "init"),
        ({"init": 3}, ArgumentTypeError, "init"),
    ],
)
def test_bad_settings_are_named(settings, error, named):
    with pytest.raises(error, match=f"^{named}"):
        pi.ChEES(**settings)


def test_bad_programs_are_refused():
    @pi.model
    def discrete():
        k = pi.sample("k", dist.Bernoulli(0.5))
        pi.observe("y", dist.Normal(k.astype(jnp.float64), 1.0), 0.3)

    with pytest.raises(ModelError, match=r"ChEES needs gradients.*'k'"):
        pi.infer(discrete(), pi.ChEES())
    with pytest.raises(ModelError, match=r"default method needs gradients.*'k'"):
        pi.infer(discrete())
    with pytest.raises(UnknownNameError, match="beta"):
        pi.infer(regression(*data(0)), pi.ChEES(keep="betta"))


def funnel_terms(_, p):
    return {"v": -0.5 * (p["v"] / 3.0) ** 2, "x": -0.5 * jnp.sum(p["x"] ** 2 * jnp.exp(-p["v"])) - 2.0 * p["v"]}


FUNNEL = StubTarget("funnel", {"v": (), "x": (4,)}, funnel_terms)


def test_what_a_run_should_warn_of():
    capped = pi.ChEES(num_warmup=0, num_draws=20, num_chains=4, max_leapfrogs=2)
    state = StubTarget("wide", {"x": ()}, lambda _, p: {"x": -0.5 * p["x"] ** 2})
    posterior = capped.run(state, 0)
    share = np.mean(posterior.sample_stats["n_steps"] >= 2)
    expected = [f"{share:.0%} of the trajectories reached max_leapfrogs=2: slow mixing."] if share > 0.01 else []
    assert list(posterior.warnings) == expected
    bent = QUICK.run(FUNNEL, 0)
    count = int(bent.sample_stats["diverging"].sum())
    assert count > 0
    assert bent.warnings[0].startswith(f"{count} divergent transition(s)")


# -- the default ---------------------------------------------------------------------------------------------------


def test_the_default_takes_chees_and_says_why():
    method = pi.Auto(chees=QUICK)
    posterior = pi.infer(regression(*data(0)), method, seed=1)
    assert "ChEES" in posterior.method
    assert "[chosen: 3 dimensions" in posterior.method
    assert posterior.method in str(posterior.summary())
    np.testing.assert_array_equal(posterior["beta"], pi.infer(regression(*data(0)), QUICK, seed=1)["beta"])


def test_infer_without_a_method_runs_the_default(monkeypatch):
    seen = []

    def run(self, program, key, *, progress=False):
        seen.append(self)
        return pi.Posterior({"beta": np.zeros((1, 4))})

    monkeypatch.setattr(auto.Auto, "run", run)
    pi.infer(regression(*data(0)))
    assert seen == [pi.Auto()]


def test_the_default_takes_nuts_for_a_funnel_and_for_many_dimensions(monkeypatch):
    nuts = pi.NUTS(num_warmup=20, num_draws=10, num_chains=2)
    method = pi.Auto(chees=QUICK, nuts=nuts)
    posterior = method.run(FUNNEL, 0)
    assert posterior.method.startswith("NUTS")
    assert "[chosen: in ChEES's warm-up " in posterior.method
    monkeypatch.setattr(auto, "_MOST_DIMENSIONS", 3)
    posterior = method.run(GAUSSIAN, 0)
    assert posterior.method.startswith("NUTS")
    assert "[chosen: 4 dimensions are more than 3]" in posterior.method


def test_every_objection_to_an_ensemble_has_its_words():
    rng = np.random.default_rng(0)
    steps, chains = 40, 16
    rows = {
        "x": rng.normal(size=(steps, chains, 2)), "lp": np.zeros((steps, chains)), "energy": np.zeros((steps, chains)),
        "acceptance_rate": np.ones((steps, chains)), "diverging": np.zeros((steps, chains), bool),
        "n_steps": np.full(steps, 5), "step_size": np.ones(steps),
    }  # fmt: skip
    draws = auto.EnsembleDraws(**rows)
    assert auto.objection(draws) is None
    assert auto.objection(None) is None
    assert "diverged" in auto.objection(draws._replace(diverging=rng.random((steps, chains)) < 0.1))
    assert "200 leapfrog steps" in auto.objection(draws._replace(n_steps=np.full(steps, 200)))
    apart = draws.x + 5.0 * (np.arange(chains) % 2)[None, :, None]
    assert "did not mix" in auto.objection(draws._replace(x=apart))


@pytest.mark.bad_input
@pytest.mark.parametrize("settings", [{"chees": pi.NUTS()}, {"nuts": "NUTS"}])
def test_bad_settings_of_the_default_are_named(settings):
    with pytest.raises(ArgumentTypeError, match=next(iter(settings))):
        pi.Auto(**settings)
