"""Networks as streams and programs, response models, and parameters from decisions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.errors import ArgumentError, DataError, ModelError, UnknownNameError
from probinf.predictive_coding import (
    ClosedForm,
    FunctionResponse,
    GaussianReport,
    GroupPrior,
    MomentMatched,
    Network,
    Softmax,
    UnitSquareSigmoid,
    binary_hgf,
    divergence_from,
    group_program,
    maximum_a_posteriori,
    plot_beliefs,
    recover,
    response_log_likelihood,
    sample_predictive,
    simulate,
    starting_values,
    subject_program,
    two_armed_bandit,
)
from tests import hgf_reference as reference

OUTCOMES = reference.recorded("s03_binary_2level")["input"][:, 0]
OMEGA, ZETA = "x2.tonic_volatility", "response.inverse_temperature"


def local_level(**fields) -> Network:
    return (
        Network("level")
        .continuous_input("u", precision=2.0, **fields)
        .continuous_state("x", precision=0.5, tonic_volatility=-1.0)
        .value("x", "u")
    )


# -- the streaming protocol -------------------------------------------------------------------------------------------


def test_a_stream_gives_what_the_scan_gives():
    u = OUTCOMES[:12].copy()
    u[4] = np.nan
    steps = np.linspace(0.5, 2.0, 12)
    network = binary_hgf(3, missing="nan").replace({"x3.tonic_volatility": -2.0})
    expected = network.filter(u, time_steps=steps)
    filter = network.system().filter(ClosedForm())
    run = filter.run(pi.Log({"u": (np.cumsum(steps), u)}), t0=0.0)
    for i, name in enumerate(("x2", "x3")):
        np.testing.assert_allclose(run.means[:, i], expected[name].mean, rtol=1e-12)
        np.testing.assert_allclose(1 / run.covs[:, i, i], expected[name].precision, rtol=1e-12)
    assert float(run.log_evidence) == pytest.approx(float(expected.log_likelihood), rel=1e-12)
    assert int(run.info.num_missing[4]) == 1
    assert run.claim == "approximate"


def test_the_belief_of_a_local_level_network_is_the_kalman_filters():
    network = local_level()
    ours, theirs = network.system().filter(ClosedForm()), network.system().filter(smc.EKF())
    assert ours.claim == "exact"
    a, b = ours.start(0, 0.0), theirs.start(0, 0.0)
    a, b = ours.predict(a, 0.7), theirs.predict(b, 0.7)
    np.testing.assert_allclose(a.cov, [[2.0 + 0.7 * np.exp(-1.0)]], rtol=1e-12)
    np.testing.assert_allclose(b.cov, a.cov, rtol=1e-12)
    (a, told), (b, known) = ours.update(a, 1.5, "u", 0.9), theirs.update(b, 1.5, "u", 0.9)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-10)
    np.testing.assert_allclose(a.cov, b.cov, rtol=1e-10)
    assert float(told.predictive_log_density) == pytest.approx(float(known.predictive_log_density), rel=1e-10)
    assert a.as_mixture(3).num_components == 1
    assert a.sample(jax.random.key(0), 5).shape == (5, 1)
    gauss = dist.Normal(a.mean[0], jnp.sqrt(a.cov[0, 0]))
    assert float(a.log_prob(jnp.array([0.3]))) == pytest.approx(float(gauss.log_prob(0.3)), rel=1e-12)


def test_new_numbers_compile_no_new_stream():
    log = pi.Log({"u": (np.arange(1.0, 6.0), OUTCOMES[:5])})
    binary_hgf(2).system().filter(ClosedForm()).run(log, t0=0.0)
    other = binary_hgf(2).replace({OMEGA: -1.0}).system().filter(ClosedForm())
    other.run(log, t0=0.0)
    assert other.num_compiles == 0


# -- the generative model ---------------------------------------------------------------------------------------------


def test_the_program_has_the_generative_density():
    network = binary_hgf(3).replace({"x3->x2.volatility": 0.7, "x3.tonic_volatility": -1.0})
    u = np.array([1.0, 0.0])
    program = network.program(u)
    assert {s.name for s in program.sites if s.kind == "sample"} == {"x2_start", "x3_start", "x2", "x3"}
    values = {"x2_start": 0.1, "x3_start": -0.3, "x2": np.array([0.4, 0.2]), "x3": np.array([0.5, 0.3])}
    target = program.unconstrained()
    found = float(target.logdensity(program.operands, {k: jnp.asarray(v) for k, v in values.items()}))
    total = sum(float(dist.Normal(0.0, 1.0).log_prob(values[k])) for k in ("x2_start", "x3_start"))
    x2, x3 = values["x2_start"], values["x3_start"]
    for k in range(2):
        new3, new2 = values["x3"][k], values["x2"][k]
        total += float(dist.Normal(0.99 * x3, np.exp(-0.5)).log_prob(new3))
        total += float(dist.Normal(x2, np.exp(0.5 * (-3.0 + 0.7 * new3))).log_prob(new2))
        total += float(dist.Bernoulli(logits=new2).log_prob(u[k]))
        x2, x3 = new2, new3
    assert found == pytest.approx(total, rel=1e-12)


def test_moment_matching_is_closer_to_the_filtering_distribution_than_one_newton_step():
    """The reference is a particle filter; its own error in the divergence is about 1 / num_particles."""
    network = binary_hgf(2).replace({OMEGA: 0.5, "x2.autoconnection": 0.95})
    u = OUTCOMES[:40]
    log = pi.Log({"u": (np.arange(1.0, 41.0), u)})
    particles = network.system().filter(smc.ParticleFilter(4000)).run(log, key=0, t0=0.0)
    divergences = {}
    for rule in (None, MomentMatched()):
        copy = Network(update=rule)
        for node in network.nodes:
            copy = copy.add(node)
        run = copy.value("x2", "u").filter(u)
        found = divergence_from(run, particles.means, particles.covs)["x2"]
        assert found.min() > -1e-12
        divergences[rule is not None] = found.mean()
    assert divergences[True] < 0.01
    assert divergences[True] < 0.2 * divergences[False]


def test_simulated_series_have_the_moments_of_the_model():
    network = local_level().replace({"x.autoconnection": 0.8, "x.mean": 1.0, "x->u.value": 2.0})
    keys = jax.random.split(jax.random.key(0), 4000)
    states, inputs = jax.vmap(lambda key: simulate(network, 3, key))(keys)
    # One step: mean 0.8, variance 0.64 * 2 + exp(-1); 4000 draws, each within 5 standard errors (1e-6 false alarms).
    variance = 0.64 * 2 + np.exp(-1.0)
    assert abs(float(states["x"][:, 0].mean()) - 0.8) < 5 * np.sqrt(variance / 4000)
    assert abs(float(states["x"][:, 0].var()) / variance - 1) < 5 * np.sqrt(2 / 4000)
    residual = inputs["u"] - 2.0 * states["x"]
    assert abs(float(residual.var()) / 0.5 - 1) < 5 * np.sqrt(2 / 12000)


def test_predictive_sampling_of_a_linear_network_has_the_exact_forecast():
    network = local_level()
    after = network.filter([0.5, 1.5]).network_after()
    draws = np.asarray(sample_predictive(after, 3, 0, num_samples=4000)["u"])
    belief = after.node("x")
    variance = 1 / float(belief.precision) + 3 * np.exp(-1.0) + 0.5
    assert draws.shape == (3, 4000)
    assert abs(draws[2].mean() - float(belief.mean)) < 5 * np.sqrt(variance / 4000)
    assert abs(draws[2].var() / variance - 1) < 5 * np.sqrt(2 / 4000)


# -- responses --------------------------------------------------------------------------------------------------------


def test_the_published_response_likelihood_is_reproduced():
    """Decisions equal to the outcomes, two levels at their defaults, inverse temperature 4."""
    network = binary_hgf(2, mode="mean-field").replace({OMEGA: -4.0})
    response = UnitSquareSigmoid("u", 4.0)
    run = network.filter(OUTCOMES)
    pointwise = response.log_prob(run.beliefs, jnp.asarray(OUTCOMES))
    total = response_log_likelihood(network, response, OUTCOMES, OUTCOMES)
    assert float(total) == pytest.approx(float(pointwise.sum()), rel=1e-12)
    belief = {"u": run["u"]._replace(expected_mean=jnp.asarray(0.4))}
    surprise = -UnitSquareSigmoid("u", 6.0).log_prob(belief, jnp.asarray(1.0))
    assert float(-jnp.log(1 - jnp.exp(-surprise))) == pytest.approx(-np.log(0.6**6 / (0.4**6 + 0.6**6)), rel=1e-9)
    assert float(jnp.exp(-surprise)) == pytest.approx(0.0807062, rel=1e-5)


def test_a_persons_decisions_have_the_published_surprise():
    """138.8992 in pyhgf's introduction, in single precision: two levels at its defaults, inverse temperature 4."""
    network = binary_hgf(2, mode="mean-field").replace({OMEGA: -4.0})
    total = response_log_likelihood(network, UnitSquareSigmoid("u", 4.0), OUTCOMES, reference.decisions())
    assert -float(total) == pytest.approx(138.8992, abs=1e-4)


def test_response_models_are_normalised_and_skip_missing_responses():
    network = two_armed_bandit()
    data = {"left": OUTCOMES[:30], "right": np.where(np.arange(30) % 2, 1 - OUTCOMES[:30], np.nan)}
    run = network.filter(data)
    for scale in (None, "volatility"):
        softmax = Softmax(("left", "right"), 3.0, scale)
        total = sum(np.exp(np.asarray(softmax.log_prob(run.beliefs, jnp.full(30, float(k))))) for k in range(2))
        np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    report = GaussianReport("x_left", 0.5)
    x = np.linspace(-20, 20, 4001)
    density = [
        np.exp(float(report.log_prob({"x_left": jax.tree.map(lambda a: a[5], run["x_left"])}, y))) for y in x[::40]
    ]
    assert np.sum(density) * 0.4 == pytest.approx(1.0, abs=1e-6)
    choices = np.where(np.arange(30) % 3, 0.0, np.nan)
    found = response_log_likelihood(network, Softmax(("left", "right")), data, choices, missing="nan")
    each = Softmax(("left", "right")).log_prob(run.beliefs, jnp.zeros(30))
    assert float(found) == pytest.approx(float(np.asarray(each)[~np.isnan(choices)].sum()), rel=1e-12)
    with pytest.raises(DataError, match="NaN"):
        response_log_likelihood(network, Softmax(("left", "right")), data, choices)
    with pytest.raises(UnknownNameError, match="'middle'"):
        response_log_likelihood(network, Softmax(("left", "middle")), data, np.zeros(30))


def test_a_response_of_ones_own():
    def lapse(beliefs, response, parameters):
        p = parameters["lapse"] * 0.5 + (1 - parameters["lapse"]) * beliefs["u"].expected_mean
        return jnp.where(response > 0.5, jnp.log(p), jnp.log1p(-p))

    network, response = binary_hgf(2), FunctionResponse(lapse, ("u",), {"lapse": 0.2})
    found = response_log_likelihood(network, response, OUTCOMES, 1 - OUTCOMES)
    p = 0.1 + 0.8 * np.asarray(network.filter(OUTCOMES)["u"].expected_mean)
    assert float(found) == pytest.approx(np.log(np.where(OUTCOMES == 1, 1 - p, p)).sum(), rel=1e-12)
    program = subject_program(network, response, {"response.lapse": dist.Beta(1.0, 9.0)}, OUTCOMES, 1 - OUTCOMES)
    assert program.sites[0].name == "response.lapse"


# -- parameters -------------------------------------------------------------------------------------------------------


def grid_posterior(network: Network, prior: dist.Distribution, u: np.ndarray) -> tuple[float, float, float]:
    """Mean, standard deviation and log evidence of the tonic volatility on a grid, one batch."""
    grid = np.linspace(-12.0, 4.0, 801)
    log_p = np.asarray(network.replace({OMEGA: grid}).log_likelihood(u)) + np.asarray(prior.log_prob(grid))
    weights = np.exp(log_p - log_p.max())
    evidence = np.log(weights.sum() * 0.02) + log_p.max()
    mean = (grid * weights).sum() / weights.sum()
    return mean, np.sqrt(((grid - mean) ** 2 * weights).sum() / weights.sum()), evidence


def test_the_mode_and_its_evidence_agree_with_the_grid():
    network, prior = binary_hgf(2, mode="mean-field"), dist.Normal(-3.0, 2.0)
    mean, sd, evidence = grid_posterior(network, prior, OUTCOMES)
    assert (mean, sd) == pytest.approx((-2.63, 0.435), abs=0.02)  # as published for this series
    mode = maximum_a_posteriori(subject_program(network, None, {OMEGA: prior}, OUTCOMES), num_starts=1)
    assert mode.log_evidence == pytest.approx(evidence, abs=0.05)
    assert abs(float(mode.values[OMEGA]) - mean) < 0.3 * sd


@pytest.mark.slow
@pytest.mark.relaxed_promotion("samplers run under JAX's ordinary settings")
def test_nuts_agrees_with_the_grid():
    network, prior = binary_hgf(2, mode="mean-field"), dist.Normal(-3.0, 2.0)
    mean, sd, _ = grid_posterior(network, prior, OUTCOMES)
    program = subject_program(network, None, {OMEGA: prior}, OUTCOMES)
    posterior = pi.infer(program, pi.NUTS(num_warmup=200, num_draws=500, num_chains=2), seed=0, progress=False)
    # 1000 draws, effective size above 300: 4.5 standard errors of the mean are 0.11.
    assert abs(float(posterior.mean(OMEGA)) - mean) < 0.11
    assert 0.8 < float(posterior.sd(OMEGA)) / sd < 1.2


def test_group_programs_hold_every_subject():
    network, response = binary_hgf(2), UnitSquareSigmoid("u")
    responses = np.stack([OUTCOMES[:20], 1 - OUTCOMES[:20]], axis=1)
    priors = {
        OMEGA: GroupPrior(dist.Normal(-3.0, 1.0), dist.HalfNormal(1.0)),
        ZETA: GroupPrior(dist.Normal(0.0, 1.0), dist.HalfNormal(0.5), "exp"),
    }
    program = group_program(network, response, priors, OUTCOMES[:20], responses)
    values = {f"{OMEGA}.mean": -3.0, f"{OMEGA}.sd": 0.5, f"{ZETA}.mean": 0.2, f"{ZETA}.sd": 0.3}
    z = {f"{OMEGA}.z": np.array([0.4, -1.0]), f"{ZETA}.z": np.array([0.0, 1.0])}
    target = program.unconstrained()
    position = target.unconstrain(program.operands, {k: jnp.asarray(v) for k, v in {**values, **z}.items()})
    found = target.site_logdensities(program.operands, position)["data"]
    expected = sum(
        float(
            response_log_likelihood(
                network.replace({OMEGA: -3.0 + 0.5 * z[f"{OMEGA}.z"][s]}),
                UnitSquareSigmoid("u", np.exp(0.2 + 0.3 * z[f"{ZETA}.z"][s])),
                OUTCOMES[:20],
                responses[:, s],
            )
        )
        for s in range(2)
    )
    assert float(jnp.sum(found)) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ArgumentError, match="one column for each subject"):
        group_program(network, response, priors, OUTCOMES[:20], OUTCOMES[:20])
    with pytest.raises(UnknownNameError, match=r"x2\.omega"):
        subject_program(network, response, {"x2.omega": dist.Normal(0.0, 1.0)}, OUTCOMES, OUTCOMES)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("samplers run under JAX's ordinary settings")
def test_parameters_of_simulated_subjects_are_recovered():
    priors = {OMEGA: dist.Normal(-3.0, 1.0), ZETA: dist.LogNormal(1.0, 0.4)}
    method = pi.NUTS(num_warmup=300, num_draws=300, num_chains=2, init=starting_values(priors, 40))
    study = recover(binary_hgf(2), UnitSquareSigmoid("u"), priors, OUTCOMES, 40, method, seed=1)
    # Draws from the prior are covered with probability 0.9: of 40, fewer than 30 have probability 1e-3.
    assert all(share >= 0.75 for share in study.coverage().values())
    assert study.correlation()[OMEGA] > 0.5
    assert study.correlation()[ZETA] > 0.5


def test_networks_with_composite_inputs_say_that_they_are_no_stream():
    network = Network().exponential_family_input("u")
    with pytest.raises(ModelError, match="'u'"):
        network.system()
    with pytest.raises(ModelError, match="'u'"):
        network.program(np.zeros(3))
    with pytest.raises(ModelError, match="'u'"):
        simulate(network, 3, 0)


def test_beliefs_are_drawn_with_a_panel_for_each_state():
    network = binary_hgf(3, missing="nan")
    run = network.filter(np.where(np.arange(60) % 7, OUTCOMES[:60], np.nan))
    axes = plot_beliefs(run, truth={"x2": np.zeros(60)})
    assert [ax.get_ylabel() for ax in axes] == ["x3", "x2", "inputs"]
    assert len(axes[1].get_lines()) == 2  # mean and truth
    assert plot_beliefs(run, axes=axes) is axes
