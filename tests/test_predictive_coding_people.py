"""Evidence of models of behaviour, their comparison, and studies that recover parameters and models.

Seeds are fixed; statistical tests state how often they would fail by chance.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinf as pi
import smc
from probinf.errors import ArgumentError, InferenceError, UnknownNameError
from probinf.predictive_coding import (
    GroupPrior,
    ModelComparison,
    SubjectModel,
    UnitSquareSigmoid,
    binary_hgf,
    compare_models,
    group_program,
    recover,
    recover_models,
    response_log_likelihood,
    simulate_responses,
    starting_values,
    subject_evidence,
    subject_program,
)
from probinf.predictive_coding.fitting import subject_log_likelihood

OMEGA, ZETA = "x2.tonic_volatility", "response.inverse_temperature"
OUTCOMES = (np.random.default_rng(0).random(60) < np.where(np.arange(60) // 20 % 2, 0.85, 0.15)).astype(float)
RESPONSE = UnitSquareSigmoid("u")
PRIORS = {OMEGA: dist.Normal(-2.0, 1.0), ZETA: dist.LogNormal(0.5, 0.5)}
LEARNER = SubjectModel(binary_hgf(2), RESPONSE, PRIORS)


def decisions(omega, zeta, seed: int) -> np.ndarray:
    truth = {OMEGA: jnp.asarray(omega), ZETA: jnp.asarray(zeta)}
    return np.asarray(simulate_responses(LEARNER.network, RESPONSE, truth, OUTCOMES, seed))


def exact(responses: np.ndarray) -> tuple[float, float]:
    """Log evidence of one subject and its posterior mean of the tonic volatility, on a grid wide and fine enough."""
    omega, log_zeta = np.meshgrid(np.linspace(-8.0, 4.0, 121), np.linspace(-2.5, 3.5, 121), indexing="ij")
    network = LEARNER.network.replace({OMEGA: omega.ravel()})
    told = response_log_likelihood(network, UnitSquareSigmoid("u", np.exp(log_zeta.ravel())), OUTCOMES, responses)
    log_p = np.asarray(told) + stats.norm.logpdf(omega.ravel(), -2, 1) + stats.norm.logpdf(log_zeta.ravel(), 0.5, 0.5)
    weights = np.exp(log_p - log_p.max())
    return float(np.log(weights.sum() * 0.1 * 0.05) + log_p.max()), float(weights @ omega.ravel() / weights.sum())


def test_evidence_and_posterior_of_every_subject_agree_with_the_grid():
    """Eight runs: Student's t with 7 degrees of freedom exceeds 7.1 by chance once in 5,000."""
    responses = decisions([-3.0, -1.0], [2.0, 4.0], 1)
    found = subject_evidence(LEARNER, OUTCOMES, responses, num_particles=128, num_runs=8)
    for s in range(2):
        log_evidence, mean = exact(responses[:, s])
        assert found.standard_error[s] < 0.1
        assert abs(found.log_evidence[s] - log_evidence) < 7.1 * found.standard_error[s]
        of_runs = found.draws[OMEGA][:, :, s].mean(axis=1)
        assert abs(of_runs.mean() - mean) < 7.1 * of_runs.std(ddof=1) / np.sqrt(8)
    assert found.draws[ZETA].shape == (8, 128, 2)
    assert found.autocorrelation.max() < 0.6
    assert 2 <= found.num_temperatures.min() <= found.num_temperatures.max() < 12


@pytest.mark.slow
@pytest.mark.relaxed_promotion("samplers run under JAX's ordinary settings")
def test_evidence_agrees_with_the_tempered_sampler_of_the_library():
    responses = decisions([-3.0], [2.0], 2)[:, 0]
    program = subject_program(LEARNER.network, RESPONSE, PRIORS, OUTCOMES, responses)
    theirs = pi.infer(program, smc.TemperedSMC(1024, moves="rwm", num_runs=4), seed=0, progress=False)
    ours = subject_evidence(LEARNER, OUTCOMES, responses, num_particles=1024, num_runs=4)
    # Both have standard errors near 0.02: 0.2 is beyond five of them together.
    assert abs(ours.log_evidence[0] - theirs.log_evidence) < 0.2
    assert abs(ours.log_evidence[0] - exact(responses)[0]) < 0.2


def test_derivatives_by_forward_mode_are_those_of_the_ordinary_way():
    """Values, gradients, second derivatives and derivatives with respect to the data, against plain autodiff."""
    network, response = binary_hgf(2), UnitSquareSigmoid("u", jnp.asarray(2.0))
    responses = (jnp.asarray(1.0 - OUTCOMES[:8]), None)
    data = network.prepare(OUTCOMES[:8])
    network = jax.tree.map(jnp.asarray, network)

    def ours(omega, zeta, u):
        given = data._replace(values=(u,))
        return subject_log_likelihood(network, response, {OMEGA: omega, ZETA: zeta}, given, responses)

    def plain(omega, zeta, u):
        given = data._replace(values=(u,))
        model = UnitSquareSigmoid("u", zeta)
        return response_log_likelihood(network.replace({OMEGA: omega}), model, given, responses)

    at = jnp.asarray(-1.0), jnp.asarray(1.7), data.values[0]
    np.testing.assert_allclose(ours(*at), plain(*at), rtol=1e-12)
    for f in (jax.grad, lambda g, n: jax.hessian(g, n)):
        found, expected = (f(g, (0, 1))(*at) for g in (ours, plain))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(ours, 2)(*at), jax.grad(plain, 2)(*at), rtol=1e-9)


# -- comparison -------------------------------------------------------------------------------------------------------


def test_random_effects_have_the_closed_form_of_decisive_evidence():
    """With decisive evidence the counts are those of the subjects, and two models have a beta distribution."""
    log_evidence = np.array([[0.0, -1e3]] * 7 + [[-1e3, 0.0]] * 3)
    found = ModelComparison(("a", "b"), log_evidence, np.full((10, 2), np.nan)).random_effects()
    np.testing.assert_allclose(found.frequencies, [8 / 12, 4 / 12], rtol=1e-9)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)
    # 100,000 draws: five standard errors are 0.005.
    assert abs(found.exceedance[0] - stats.beta.sf(0.5, 8, 4)) < 0.005
    level = ModelComparison(("a", "b", "c"), np.zeros((6, 3)), np.full((6, 3), np.nan))
    np.testing.assert_allclose(level.random_effects().frequencies, 1 / 3, rtol=1e-9)
    np.testing.assert_allclose(level.probabilities(), 1 / 3)
    np.testing.assert_allclose(level.log_bayes_factors("a", "c"), 0.0)
    with pytest.raises(UnknownNameError, match="'d'"):
        level.log_bayes_factors("a", "d")


def test_models_are_recovered_and_their_probabilities_are_honest():
    still = binary_hgf(2).replace({OMEGA: -12.0})
    models = {
        "static": SubjectModel(still, RESPONSE, {"x2.precision": dist.LogNormal(0.0, 0.5), ZETA: PRIORS[ZETA]}),
        "learner": SubjectModel(binary_hgf(2), RESPONSE, {OMEGA: dist.Normal(-1.0, 0.5), ZETA: PRIORS[ZETA]}),
    }
    study = recover_models(models, OUTCOMES, 8, seed=3, num_particles=128, num_runs=1)
    confusion = study.confusion()
    np.testing.assert_allclose(confusion.sum(axis=1), 1.0)
    assert confusion[0, 0] >= 0.75
    assert confusion[1, 1] >= 0.75
    # Subjects drawn from the models themselves: the true one cannot be improbable on average.
    assert -np.log(2) < study.calibration() <= 0.0
    assert "chosen" in repr(study)
    assert "share" in repr(study.comparison)
    assert study.comparison.log_bayes_factors("static", "learner").shape == (16,)


def test_studies_refuse_what_they_cannot_do():
    responses = decisions([-2.0], [2.0], 0)
    with pytest.raises(ArgumentError, match="two models"):
        compare_models({"one": LEARNER}, OUTCOMES, responses)
    with pytest.raises(ArgumentError, match="one continuous number"):
        subject_evidence(SubjectModel(binary_hgf(2), RESPONSE, {OMEGA: dist.Poisson(1.0)}), OUTCOMES, responses)
    with pytest.raises(UnknownNameError, match=r"x2\.omega"):
        subject_evidence(SubjectModel(binary_hgf(2), RESPONSE, {"x2.omega": PRIORS[OMEGA]}), OUTCOMES, responses)
    silent = SubjectModel(binary_hgf(2), None, {OMEGA: PRIORS[OMEGA]})
    with pytest.raises(ArgumentError, match="response model"):
        recover_models({"a": LEARNER, "b": silent}, OUTCOMES, 2)
    mixed = {OMEGA: GroupPrior(dist.Normal(-3.0, 1.0), dist.HalfNormal(1.0)), ZETA: PRIORS[ZETA]}
    with pytest.raises(ArgumentError, match="GroupPrior"):
        recover(binary_hgf(2), RESPONSE, mixed, OUTCOMES, 2, pi.NUTS())
    with pytest.raises(ArgumentError, match="num_subjects"):
        starting_values({OMEGA: mixed[OMEGA]})


def test_a_subject_whose_beliefs_break_down_is_not_simulated():
    wild = {"x3.tonic_volatility": jnp.array([-6.0, 5.0]), "x3->x2.volatility": jnp.array([1.0, 8.0])}
    with pytest.raises(InferenceError, match="1 of 2 subjects break down"):
        simulate_responses(binary_hgf(3), RESPONSE, wild, OUTCOMES, 0)


# -- groups -----------------------------------------------------------------------------------------------------------

GROUP = {
    OMEGA: GroupPrior(dist.Normal(-2.0, 0.5), dist.HalfNormal(0.7)),
    ZETA: GroupPrior(dist.Normal(1.0, 0.3), dist.HalfNormal(0.3), "exp"),
}


def test_starting_values_of_a_group_are_those_of_its_program():
    responses = decisions([-3.0, -1.0], [2.0, 4.0], 1)
    start = starting_values(GROUP, 2)
    program = group_program(binary_hgf(2), RESPONSE, GROUP, OUTCOMES, responses)
    assert set(start) == {s.name for s in program.sites if s.kind == "sample"}
    target = program.unconstrained()
    position = target.unconstrain(program.operands, {k: jnp.asarray(v) for k, v in start.items()})
    assert np.isfinite(float(target.logdensity(program.operands, position)))
    assert abs(float(start[f"{OMEGA}.mean"]) + 2.0) < 0.1


@pytest.mark.slow
@pytest.mark.relaxed_promotion("samplers run under JAX's ordinary settings")
def test_a_group_of_simulated_subjects_is_recovered():
    method = pi.NUTS(num_warmup=250, num_draws=250, num_chains=2, init=starting_values(GROUP, 30))
    study = recover(binary_hgf(2), RESPONSE, GROUP, OUTCOMES, 30, method, seed=2)
    # Each of 30 is covered with probability 0.9: fewer than 22 have probability 1e-3.
    assert all(share >= 22 / 30 for share in study.coverage().values())
    assert study.group is not None
    for name, truth in study.group.truth.items():
        assert abs(study.group.mean[name] - truth) < 4.0 * study.group.sd[name]
    assert f"{OMEGA}.mean" in repr(study)
