"""Mixtures corrected to exact answers: weights, tempering, chains, the rule, and the corrected filters."""

import itertools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import probinf as pi
import smc
from probinf.claims import Claim
from probinf.errors import ArgumentError, InferenceError, ModelError, ProbinfError
from probinf.kernels.kernel import Density
from probinf.kernels.running import run_chains
from probinf.representations.mixture import GaussianMixture
from probinf.streaming import System
from probinf.streaming.filter import Filter
from probinf.validity.significance import p_of_levels, p_of_mean
from tests.streaming_models import cruise, cruise_log, joint_gaussian
from tests.test_documentation import blocks
from transformers_gmm.components import Components
from transformers_gmm.correction.filter import CorrectedFilter
from transformers_gmm.correction.guided import guide
from transformers_gmm.correction.importance import defensive, importance_sample
from transformers_gmm.correction.independence import mixture_independence
from transformers_gmm.correction.proposals import Proposal, lattice, on_circle, stratified
from transformers_gmm.correction.refit import refit
from transformers_gmm.correction.refitted import RefittedFilter
from transformers_gmm.correction.residual import Residual
from transformers_gmm.correction.result import pareto_k, pareto_k_limit
from transformers_gmm.correction.rule import answer, correct
from transformers_gmm.correction.scoring import Seen, filtering_log_prob
from transformers_gmm.correction.target import Target, program_target
from transformers_gmm.correction.tempering import temper
from transformers_gmm.correction.training_range import OutOfRangeWarning, TrainingRange, problem_features
from transformers_gmm.examples import Problem

PRIOR = GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [1.0, 1.0]], [np.eye(2), 0.5 * np.eye(2)])
LIKELIHOOD = GaussianMixture.gaussian([0.5, 0.2], [[0.6, 0.1], [0.1, 0.4]])
POSTERIOR, LOG_EVIDENCE = PRIOR.product(LIKELIHOOD)
WIDE = GaussianMixture.gaussian(POSTERIOR.mean + 0.3, 2.0 * POSTERIOR.cov)
# One narrow component beside the target, and an empty one.
NARROW = GaussianMixture([1.0, 0.0], jnp.stack(2 * [POSTERIOR.mean + 1.0]), jnp.stack(2 * [0.05 * POSTERIOR.cov]))


def joint(x):
    """Prior times likelihood: integrates to exp(LOG_EVIDENCE)."""
    return PRIOR.log_prob(x) + LIKELIHOOD.log_prob(x)


# -- importance sampling -----------------------------------------------------------------------------------------------


def test_weights_are_constant_and_the_evidence_exact_where_the_mixture_is():
    found = importance_sample(POSTERIOR, joint, 0, 100)
    np.testing.assert_allclose(found.log_weights, float(LOG_EVIDENCE), atol=1e-9)
    assert found.log_evidence == pytest.approx(float(LOG_EVIDENCE), abs=1e-9)
    assert found.pareto_k == -np.inf
    assert found.is_reliable
    assert found.ess == pytest.approx(100.0)
    assert (found.evidence_claim, found.claim) == (Claim.UNBIASED, Claim.CONSISTENT)


def test_the_evidence_is_unbiased_for_a_wrong_mixture():
    """The mean of 4000 weights, by betting; weights of a wide proposal are bounded. False-alarm rate 1e-6."""
    found = importance_sample(defensive(WIDE, PRIOR, 0.2), joint, 1, 4000)
    bound = float(np.exp(LIKELIHOOD.log_prob(LIKELIHOOD.mean)) / 0.2)
    weights = np.exp(found.log_weights)
    assert weights.max() <= bound
    assert p_of_mean(weights, float(np.exp(LOG_EVIDENCE)), bound) > 1e-6
    assert p_of_mean(weights, 1.2 * float(np.exp(LOG_EVIDENCE)), bound) < 1e-6  # the test has the power to see a fifth


@pytest.mark.slow
def test_expectations_and_the_refitted_mixture_are_those_of_the_posterior():
    """Within 4.5 standard errors (delta method): false-alarm rate 4e-5 over the six numbers."""
    found = importance_sample(WIDE, joint, 2, 4000)
    weights = found.weights
    for estimate, exact, values in (
        (found.mean, POSTERIOR.mean, found.draws),
        (found.expectation(np.square), np.diag(POSTERIOR.cov) + np.square(POSTERIOR.mean), found.draws**2),
    ):
        error = np.sqrt(np.sum((weights[:, None] * (values - estimate)) ** 2, axis=0))
        assert np.all(np.abs(estimate - np.asarray(exact)) < 4.5 * error)
    assert abs(found.log_evidence - float(LOG_EVIDENCE)) < 4.5 * found.log_evidence_sd
    refitted = found.mixture(2)
    np.testing.assert_allclose(refitted.mean, found.mean, atol=1e-4)
    # Maximum likelihood of 11 parameters from 1500 effective draws: KL about 11 / 3000.
    estimate, error = POSTERIOR.kl(refitted, 0, 2000)
    assert float(estimate) < 3 * 11 / (2 * found.ess) + 4.5 * float(error)


def test_a_mixture_beside_the_target_is_found_out():
    found = importance_sample(NARROW, joint, 3, 500)
    assert found.pareto_k > pareto_k_limit(500)
    assert not found.is_reliable
    assert "Pareto k" in found.warnings[0]
    assert "Pareto k" in repr(found)


def test_pareto_k_finds_the_tail_index():
    """Weights u^-k have a generalised Pareto tail of shape k; the estimate's standard error is (1 + k) / sqrt(tail)."""
    u = np.random.default_rng(0).uniform(size=10_000)
    for k in (0.3, 0.9):
        tail = 3 * np.sqrt(u.size)
        assert abs(pareto_k(-k * np.log(u)) - k) < 4.5 * (1 + k) / np.sqrt(tail)
    with_zeros = np.concatenate([-0.5 * np.log(u), np.full(50, -np.inf)])
    assert pareto_k(with_zeros) == pytest.approx(0.5, abs=0.35)


@pi.model
def scale_and_place(y):
    s = pi.sample("scale", dist.LogNormal(0.3, 0.4))
    m = pi.sample("place", dist.Normal(0.0, 1.0))
    with pi.plate("rows", y.shape[0]):
        pi.observe("y", dist.Normal(m, s), y)


def test_a_program_is_corrected_on_its_unconstrained_space():
    """Against quadrature, 4.5 standard errors; the sites' order is the caller's."""
    y = jnp.array([0.4, 1.9, 1.1])
    program = scale_and_place(y)
    log_s, m = np.meshgrid(np.linspace(-2.5, 3.0, 400), np.linspace(-5.0, 5.0, 400), indexing="ij")
    log_joint = scipy.stats.norm(0.3, 0.4).logpdf(log_s) + scipy.stats.norm.logpdf(m)
    for value in np.asarray(y):
        log_joint = log_joint + scipy.stats.norm(m, np.exp(log_s)).logpdf(value)
    mass = np.exp(log_joint)
    area = (5.5 / 399) * (10.0 / 399)
    exact, mean_log_s = np.log(mass.sum() * area), (mass * log_s).sum() / mass.sum()
    target = program_target(program, ("scale", "place"))
    q = GaussianMixture.gaussian([0.2, 0.8], np.diag([0.2, 0.4]))
    found = importance_sample(q, target, 0, 3000)
    assert abs(found.log_evidence - exact) < 4.5 * found.log_evidence_sd
    assert abs(found.mean[0] - mean_log_s) < 4.5 * np.sqrt(found.cov[0, 0] / found.ess)
    posterior = found.posterior()
    np.testing.assert_allclose(np.log(posterior["scale"][0]), found.draws[:, 0], rtol=1e-9)
    np.testing.assert_allclose(posterior["place"][0], found.draws[:, 1], rtol=1e-9)
    # New data of the same shape are arguments of the same compiled code.
    assert program_target(scale_and_place(y + 1.0), ("scale", "place")).log_density is target.log_density


def test_targets_that_cannot_be_weighed_are_refused_by_name():
    with pytest.raises(InferenceError, match=r"NaN or \+inf at 50 of 50 draws"):
        importance_sample(POSTERIOR, lambda x: jnp.nan * x[0], 0, 50)
    with pytest.raises(InferenceError, match="zero at all 50 draws"):
        importance_sample(POSTERIOR, lambda x: jnp.where(x[0] > 1e6, 0.0, -jnp.inf), 0, 50)
    with pytest.raises(ArgumentError, match="has 2 unconstrained coordinates, the mixture has 1"):
        importance_sample(POSTERIOR.marginal([0]), scale_and_place(jnp.zeros(3)), 0, 50)
    with pytest.raises(ArgumentError, match="sites: expected all latent sites"):
        program_target(scale_and_place(jnp.zeros(3)), ("scale",))
    with pytest.raises(ModelError, match="correct a program to get named draws"):
        importance_sample(POSTERIOR, joint, 0, 50).posterior()
    with pytest.raises(ArgumentError, match="share"):
        defensive(POSTERIOR, share=1.0)


# -- tempering ---------------------------------------------------------------------------------------------------------

FEW = smc.TemperedSMC(num_particles=256, num_runs=4)


def test_tempering_takes_a_wrong_mixture_to_the_target():
    """Four runs: means within 5 of the sd of 256 draws, evidence within 5 standard errors (t with 3 degrees: 2 %)
    or 0.05 nats."""
    found = correct(NARROW, joint, 4, num_draws=300, sampler=FEW)
    assert found.method == "tempered SMC"
    assert found.is_reliable
    assert found.pareto_k > pareto_k_limit(300)
    assert found.evidence_claim is Claim.CONSISTENT
    assert abs(found.log_evidence - float(LOG_EVIDENCE)) < max(5 * found.log_evidence_sd, 0.05)
    sd = np.sqrt(np.diag(POSTERIOR.cov))
    assert np.all(np.abs(found.mean - np.asarray(POSTERIOR.mean)) < 5 * sd / np.sqrt(256))
    assert np.all(np.abs(np.sqrt(np.diag(found.cov)) / sd - 1) < 0.15)


@pytest.mark.slow
def test_tempering_an_exact_mixture_is_one_step_with_exact_evidence():
    found = temper(POSTERIOR, joint, 5, sampler=FEW)
    assert found.log_evidence == pytest.approx(float(LOG_EVIDENCE), abs=1e-9)


def test_a_good_mixture_is_not_tempered():
    assert correct(WIDE, joint, 6).method == "importance sampling"


# -- independence Metropolis-Hastings ----------------------------------------------------------------------------------


def test_every_proposal_of_the_exact_mixture_is_accepted():
    kernel = mixture_independence(POSTERIOR)
    target = Density(lambda x: joint(jnp.concatenate([x["a"], x["b"][None]])))
    start = target.replay({"a": jnp.zeros(1), "b": jnp.zeros(())})
    starts = jax.tree.map(lambda leaf: leaf[None], start)
    _, kept, rates = run_chains(kernel, target, starts, jax.random.key(0), 20)
    np.testing.assert_allclose(rates, 1.0, atol=1e-9)
    assert kept["a"].shape == (20, 1, 1)


def test_the_chain_leaves_the_target_invariant(key):
    """4000 exact draws, three steps with a wrong mixture: the marginals and the log density are uniform levels.

    Each by Dvoretzky-Kiefer-Wolfowitz at 1e-6. Without the ratio of weights the chain would end in the mixture.
    """
    kernel = mixture_independence(WIDE)
    assert kernel.claim.implies(Claim.INVARIANT)
    target = Density(lambda x: joint(x["x"]))
    key_start, key_run = jax.random.split(key)
    starts = jax.vmap(lambda x: target.replay({"x": x}))(POSTERIOR.sample(key_start, 4000))
    ends, _, rates = jax.jit(lambda starts, key: run_chains(kernel, target, starts, key, 3))(starts, key_run)
    x = np.asarray(ends.slots["x"])
    assert 0.3 < float(jnp.mean(rates)) < 0.95
    weights, means = np.asarray(POSTERIOR.weights), np.asarray(POSTERIOR.means)
    sds = np.sqrt(np.diagonal(np.asarray(POSTERIOR.covariances), axis1=1, axis2=2))
    for i in range(2):
        levels = scipy.stats.norm.cdf((x[:, i, None] - means[:, i]) / sds[:, i]) @ weights
        assert p_of_levels(np.clip(levels, 0, 1)) > 1e-6
    exact = np.sort(np.asarray(POSTERIOR.log_prob(POSTERIOR.sample(jax.random.key(99), 100_000))))
    levels = np.searchsorted(exact, np.asarray(POSTERIOR.log_prob(x))) / exact.size
    assert p_of_levels(levels) > 1e-6
    # Plain draws of the mixture are far from it.
    plain = scipy.stats.norm.cdf((np.asarray(WIDE.sample(key_run, 4000))[:, :1] - means[:, 0]) / sds[:, 0])
    assert p_of_levels(np.clip(plain @ weights, 0, 1)) < 1e-6


@pytest.mark.slow
def test_the_kernel_moves_the_values_of_a_program():
    program = scale_and_place(jnp.array([0.4, 1.9, 1.1]))
    q = GaussianMixture.gaussian([0.2, 0.8], np.diag([0.2, 0.4]))
    kernel = mixture_independence(q, ("scale", "place"))
    method = pi.MCMC(kernel, num_draws=400, num_warmup=20, num_chains=4, values=("scale", "place"))
    found = pi.infer(program, method, seed=0, progress=False)
    exact = importance_sample(q, program_target(program, ("scale", "place")), 0, 3000)
    for i, site in enumerate(("scale", "place")):
        values = np.log(found[site]) if site == "scale" else found[site]
        # 1600 draws, at least 300 of them effective, and 3000 weighted ones.
        assert abs(values.mean() - exact.mean[i]) < 4.5 * np.sqrt(exact.cov[i, i] * (1 / 300 + 1 / exact.ess))
    with pytest.raises(ProbinfError, match="sites: expected entries of the position"):
        pi.infer(program, pi.MCMC(mixture_independence(q, ("place",)), values=("scale", "place")), seed=0)


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_fresh_problems_fall_outside_no_more_often_than_stated():
    """Binomial bound at 1e-6 over 20,000 fresh rows, some features absent; shifted rows are named."""
    rng = np.random.default_rng(0)

    def draw(n):
        x = rng.standard_t(3, size=(n, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 2.0]])
        x[rng.uniform(size=n) < 0.3, 2] = np.nan
        return x

    training = TrainingRange.fit(draw(4000), ["a", "b", "c"], level=0.05)
    assert 0.02 < training.false_alarm_rate <= 0.05
    outside = sum(bool(reasons) for reasons in training.outside(draw(20_000)))
    assert scipy.stats.binom(20_000, 1.3 * training.false_alarm_rate).sf(outside - 1) > 1e-6
    far = training.outside([[0.0, 0.0, 1e3], [4.0, -4.0, np.nan], [0.0, 0.0, 0.0]])
    assert "c" in far[0]
    assert "all together" in far[1]  # each alone is ordinary, but a and b move together
    assert far[2] == ()
    stored = TrainingRange.from_dict(json.loads(json.dumps(training.to_dict())))
    assert stored.outside(draw(50)) is not None
    assert stored.false_alarm_rate == training.false_alarm_rate
    np.testing.assert_array_equal(stored.whitener, training.whitener)


def test_the_limits_are_order_statistics_of_the_rows_held_out():
    x = np.arange(40.0)[:, None]
    training = TrainingRange.fit(x, level=0.5)
    rest, rank = x[1::2, 0], int(0.5 * 21 / 3)
    assert (training.low[0], training.high[0]) == (rest[rank - 1], rest[-rank])
    assert training.false_alarm_rate == pytest.approx(3 * rank / 21)


def test_the_rule_corrects_what_is_out_of_range_or_badly_weighed_and_says_so():
    training = TrainingRange.fit(np.random.default_rng(0).normal(size=(400, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stands = answer(POSTERIOR, joint, 0, features=[0.0, 0.1], training=training)
    assert stands.mixture is POSTERIOR
    assert stands.correction is None
    assert stands.reasons == ()
    with pytest.warns(OutOfRangeWarning, match="feature 1 outside of the training range"):
        found = answer(WIDE, joint, 0, features=[0.0, 9.0], training=training)
    assert found.correction is not None
    assert found.correction.method == "importance sampling"
    assert found.mixture.num_components == WIDE.num_components
    with pytest.warns(OutOfRangeWarning, match="Pareto k .* of 200 importance weights"):
        found = answer(NARROW, joint, 1, features=[0.0, 0.0], training=training, sampler=FEW)
    assert found.correction is not None
    assert found.correction.method == "tempered SMC"
    with pytest.raises(ArgumentError, match="features: expected 2 of them, found 3"):
        training.outside(np.zeros((1, 3)))


def test_features_of_a_problem_leave_absent_tokens_out():
    base = Components(jnp.zeros((2, 1)), jnp.ones((2, 1, 1)), 2.0 * jnp.ones((2, 1, 1, 1)))
    rows = jnp.array([[[1.0], [3.0], [100.0]], [[1.0], [3.0], [100.0]]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    problem = Problem(base, jnp.zeros((2, 1)), 2.0 * jnp.ones((2, 1)), jnp.zeros((2, 1, 0)), {"y": rows}, {"y": mask})
    features, names = problem_features(problem)
    assert names == ("base mean 0", "base log sd 0", "y 0 mean", "y 0 least", "y 0 most", "y present")
    np.testing.assert_allclose(features[0], [0.5, 0.0, 2.0, 1.0, 3.0, 2 / 3], atol=1e-7)
    np.testing.assert_array_equal(features[1, 2:5], [np.nan] * 3)


# -- corrected filters -------------------------------------------------------------------------------------------------


def test_stratified_draws_have_the_components_in_their_shares(key):
    """Systematic: counts differ from n times the weight by less than one; an empty component has none."""
    mixture = GaussianMixture([0.24, 0.0, 0.76], [[-100.0], [0.0], [100.0]], np.ones((3, 1, 1)))
    x = np.asarray(stratified(mixture, key, 50))[:, 0]
    assert abs((x < 0).sum() - 12) <= 1
    assert np.all(np.abs(x) > 50)


def test_a_law_on_the_circle_integrates_to_one():
    mixture = GaussianMixture.gaussian([3.0], [[1.5]])
    grid = np.linspace(-np.pi, np.pi, 2001)[:-1, None]
    total = np.exp(on_circle(mixture.log_prob, jnp.asarray(grid), (0,))).mean() * 2 * np.pi
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_mean_weight_of_a_proposal_is_unbiased(key):
    """2000 replicates of 8 draws each, by betting, for z ~ N(x, 1): false-alarm rate 1e-6."""
    prediction = GaussianMixture([0.5, 0.5], [[-1.0], [2.0]], [[[1.0]], [[0.25]]])
    proposal = Proposal((GaussianMixture.gaussian([0.4], [[0.3]]), prediction), (0.75, 0.25), ())
    z = 0.7

    def one(key):
        x, log_ratio = proposal.draw(key, 8)
        return jnp.mean(jnp.exp(log_ratio + dist.Normal(x[:, 0], 1.0).log_prob(z)))

    means = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, 2000)))
    exact = float(0.5 * scipy.stats.norm(-1, np.sqrt(2)).pdf(z) + 0.5 * scipy.stats.norm(2, np.sqrt(1.25)).pdf(z))
    bound = scipy.stats.norm.pdf(0) / 0.25
    assert p_of_mean(means, exact, bound) > 1e-6
    assert p_of_mean(means, 1.2 * exact, bound) < 1e-6


def test_lattice_points_are_normal_and_their_means_hardly_vary(key):
    """Some points over 2000 shifts, by Dvoretzky-Kiefer-Wolfowitz at 1e-6; means of 48 free ones have sd 0.144."""
    which = jnp.asarray(np.repeat([0, 3, 4], [48, 15, 1]))
    x = np.asarray(jax.jit(jax.vmap(lambda key: lattice(which, key, 2, jnp.float64)))(jax.random.split(key, 2000)))
    for point, axis in ((0, 0), (13, 0), (50, 1), (63, 0)):
        assert p_of_levels(scipy.stats.norm.cdf(x[:, point, axis])) > 1e-6
    assert np.all(x[:, :48].mean(axis=1).std(axis=0) < 0.06)


@pytest.fixture(scope="module")
def refitting():
    """Of a mixture to points of a defensive proposal of it, weighted by the posterior."""

    def run(key, q):
        missing = 3 - q.num_components  # of one shape, so compiled once
        pad = lambda leaf, value: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1), **value)  # noqa: E731
        empty, edge = {"constant_values": -jnp.inf}, {"mode": "edge"}
        parts = pad(q.log_weights, empty), pad(q.means, edge), pad(q.scale_tril, edge)
        return compiled(key, Components(*parts).as_mixture())

    @jax.jit
    def compiled(key, q):
        proposal = Proposal((q, WIDE), (0.9, 0.1), ())
        x, log_ratio = proposal.draw(key, 256)
        log_r = WIDE.log_prob(x) - log_ratio
        log_weights = POSTERIOR.log_prob(x) - log_r
        log_weights = log_weights - jax.nn.logsumexp(log_weights) + jnp.log(256)
        return refit(Components.from_mixture(q), x, log_weights, log_r), x, log_r

    return run


def test_refitting_leaves_an_exact_mixture_where_it_is(refitting, key):
    """Up to the estimate of the normaliser, which weighs all points alike: no noise of 256 draws (0.03 nats)."""
    found, *_ = refitting(key, POSTERIOR)
    assert float(POSTERIOR.kl(found.as_mixture(), 0, 2000)[0]) < 1e-4


def test_refitting_moves_a_wrong_mixture_to_the_target(refitting, key):
    """Two components beside the target: most of the divergence goes (fixed seed), and empty ones stay empty."""
    wrong = GaussianMixture([0.5, 0.5], POSTERIOR.means + 0.4, 1.7 * POSTERIOR.covariances)
    found, *_ = refitting(key, wrong)
    before, after = (float(POSTERIOR.kl(q, 0, 4000)[0]) for q in (wrong, found.as_mixture()))
    assert after < 0.2 * before
    assert found.log_weights[2] == -jnp.inf


def test_a_mixture_and_its_residual_make_up_the_moved_posterior(refitting, key):
    """Points that a wide motion smooths: nearer to the exact prediction than the mixture alone; else left aside."""
    wrong = GaussianMixture.gaussian(POSTERIOR.mean + 0.3, 1.5 * POSTERIOR.cov)
    _, x, log_r = refitting(key, wrong)
    excess = (jnp.exp(POSTERIOR.log_prob(x) - log_r) - jnp.exp(wrong.log_prob(x) - log_r)) / 256

    def moved(mixture, variance):
        return GaussianMixture(mixture.weights, mixture.means, mixture.covariances + variance * jnp.eye(2)[None])

    def walk(variance):
        return System(
            dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=jnp.eye(2)),
            lambda x, dt: dist.Normal(x, variance**0.5).to_event(1),
            {"y": lambda x: dist.Normal(x[0], 1.0)},
        )

    for variance, is_smooth in ((0.3, True), (1e-6, False)):
        prediction, exact = moved(wrong, variance), moved(POSTERIOR, variance)
        residual = Residual.of_points(x, excess).moved(walk(variance), jnp.ones(()), None, prediction)
        assert bool(residual.is_smooth) is is_smooth
        points = exact.sample(jax.random.key(3), 400)
        together = residual.added(points, prediction.log_prob(points))
        if is_smooth:
            alone = float(jnp.mean(exact.log_prob(points) - prediction.log_prob(points)))
            assert abs(float(jnp.mean(exact.log_prob(points) - together))) < 0.2 * alone
        else:
            np.testing.assert_allclose(together, prediction.log_prob(points), rtol=1e-9)


SYSTEM, LOG = cruise(), cruise_log(n=8)
T0 = 0.0


AUTOREGRESSION = System(
    dist.MultivariateNormal(jnp.zeros(1), covariance_matrix=jnp.eye(1)),
    move=lambda x, dt: dist.MultivariateNormal(0.9 * x, covariance_matrix=0.5 * jnp.eye(1)),
    see={"y": lambda x: dist.Normal(x[0], 0.8)},
)


def test_the_first_event_under_an_exact_base_is_weighed_exactly():
    """Kalman's posterior is the proposal, and prior times likelihood over it is the same constant at every point."""
    method = CorrectedFilter(smc.EKF(), 16)
    filtering = Filter(SYSTEM, method)
    belief, info = filtering.update(filtering.start(0, T0), T0, "gps", np.array([0.7, -1.5]))
    kalman = Filter(SYSTEM, smc.EKF())
    _, exact = kalman.update(kalman.start(0, T0), T0, "gps", np.array([0.7, -1.5]))
    # Nine tenths of the points come from the posterior; those from the prior have weights of their own.
    few = max(1, round(method.share * 16))
    weights = np.exp(np.asarray(belief.state.log_weights))[: 16 - few]
    prior, x = belief.state.prediction, belief.state.particles[: 16 - few]
    log_q, log_p = belief.state.posterior.log_prob(x), prior.log_prob(x)
    ratio = np.exp(np.asarray(log_p - np.logaddexp(np.log(1 - few / 16) + log_q, np.log(few / 16) + log_p)))
    likelihood = np.exp(
        np.asarray(
            dist.MultivariateNormal(x[:, :2], jnp.asarray([[0.5, 0.2], [0.2, 0.4]])).log_prob(jnp.array([0.7, -1.5]))
        )
    )
    np.testing.assert_allclose(weights * np.exp(float(info.predictive_log_density)), ratio * likelihood, rtol=1e-9)
    np.testing.assert_allclose(likelihood * np.exp(np.asarray(log_p - log_q)),
                               np.exp(float(exact.predictive_log_density)), rtol=1e-9)  # fmt: skip


@pytest.mark.slow
def test_the_errors_of_corrected_kalman_filters_average_out():
    """Four dimensions and motions far narrower than the belief: the guided points carry half of the weight or more.

    Over 12 runs the mean of all errors is as small as independent errors allow: the ratio of its root mean square to
    that of one run's over sqrt(12) is near one. Above 2 it would be chi-square of about 8 degrees beyond 32: 1e-4. The
    mean evidence is within 4.5 standard errors of the exact one.
    """
    filtering = Filter(SYSTEM, CorrectedFilter(smc.EKF(), 256))
    runs = [filtering.run(LOG, key=seed, t0=T0) for seed in range(12)]
    *_, evidence = joint_gaussian(LOG, T0, last=None)
    exact = Filter(SYSTEM, smc.EKF()).run(LOG, key=0, t0=T0)
    sd = np.sqrt(np.diagonal(np.asarray(exact.covs), axis1=1, axis2=2))
    gaps = np.stack([np.asarray(run.means) - np.asarray(exact.means) for run in runs]) / sd
    one = np.sqrt(np.mean(gaps**2))
    assert one < 0.4
    assert np.sqrt(np.mean(gaps.mean(axis=0) ** 2)) < 2 * one / np.sqrt(12)
    assert min(np.asarray(run.info.ess).min() for run in runs) > 80
    ratios = np.exp([float(run.log_evidence) - evidence for run in runs])
    assert abs(ratios.mean() - 1) < 4.5 * ratios.std(ddof=1) / np.sqrt(12)
    assert runs[0].claim == "unbiased"


def test_guided_motions_of_an_exact_base_are_exact():
    """Weighted points moved by N(f_j, Q_j), seen through two Gaussians: tilted, they are the posterior.

    With narrow motions in 32 bits too, where the squares of whitened motions would drown the rest.
    """
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((jnp.float64, 1e-8), (jnp.float32, 2e-3)):
        f, w = rng.normal(size=(5, 2)), rng.dirichlet(np.ones(5))
        root = np.linalg.cholesky(1e-4 * np.array([[1.0, 0.3], [0.3, 2.0]]))
        roots = np.linspace(1.0, 3.0, 5)[:, None, None] * root
        before = GaussianMixture.gaussian(np.zeros(2), 3.0 * np.eye(2))
        seen = GaussianMixture([0.4, 0.6], [[0.5, -0.2], [-1.0, 0.0]], [np.eye(2), 0.3 * np.eye(2)])
        after, _ = before.product(seen)
        prediction = GaussianMixture(w, f, scale_tril=roots)
        exact, _ = prediction.product(seen)
        cast = [jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), m) for m in (prediction, before, after)]
        x = exact.sample(jax.random.key(1), 20)
        found = guide(*cast).log_prob(x.astype(dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact.log_prob(x), rtol=tolerance, atol=tolerance)


def test_a_base_that_knew_more_before_than_the_motion_allows_is_left_aside():
    sure = GaussianMixture.gaussian([0.0], [[0.01]])
    prediction = GaussianMixture([0.3, 0.7], [[0.0], [1.0]], np.ones((2, 1, 1)))
    x = jnp.linspace(-2.0, 2.0, 5)[:, None]
    found = guide(prediction, sure, GaussianMixture.gaussian([0.0], [[1.0]]))
    np.testing.assert_allclose(found.log_prob(x), prediction.log_prob(x), rtol=1e-9)


def test_the_evidence_of_a_corrected_filter_is_unbiased():
    """3000 runs of 8 points with a base that is wrong: by betting at 1e-6, and by 4.5 standard errors."""
    y = [0.8, -0.4, 0.3]
    system = AUTOREGRESSION
    crooked = System(system.prior, system.move, {"y": lambda x: dist.Normal(x[0] + 0.5, 1.4)})

    class Crooked(smc.EKF):
        """A Kalman filter for another sensor."""

        def update(self, state, system, sensor, value, observed, inputs):
            return super().update(state, crooked, sensor, value, observed, inputs)

    method = CorrectedFilter(Crooked(), 8, share=0.25)
    seen = jnp.ones((), bool)

    def run(key):
        state, total = method.init(key, system), 0.0
        for k, value in enumerate(y):
            state = method.predict(state, system, jnp.ones(()), None) if k else state
            state, info = method.update(state, system, "y", jnp.asarray(value), seen, None)
            total += info.predictive_log_density
        return total

    found = np.exp(np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(3), 3000))))
    cov = np.array([[0.9 ** abs(i - j) for j in range(3)] for i in range(3)])
    variance = [1.0, 0.81 + 0.5, 0.81 * 1.31 + 0.5]
    for i, j in itertools.product(range(3), repeat=2):
        cov[i, j] = variance[min(i, j)] * 0.9 ** abs(i - j)
    exact = float(scipy.stats.multivariate_normal(np.zeros(3), cov + 0.64 * np.eye(3)).pdf(y))
    bound = float((scipy.stats.norm(0, 0.8).pdf(0) / 0.25) ** 3)
    assert p_of_mean(found, exact, bound) > 1e-6
    assert abs(found.mean() - exact) < 4.5 * found.std() / np.sqrt(len(found))
    assert found.std() > 0.05 * exact  # the base is wrong enough to matter


def test_what_is_missing_changes_nothing_and_events_of_one_instant_add_up():
    filtering = Filter(SYSTEM, CorrectedFilter(smc.EKF(), 32))
    belief = filtering.predict(filtering.start(0, T0), 1.0)
    same, info = filtering.update(belief, 1.0, "gps", np.array([np.nan, np.nan]))
    np.testing.assert_array_equal(same.mean, belief.mean)
    assert float(info.predictive_log_density) == 0.0
    first, _ = filtering.update(same, 1.0, "gps", np.array([0.7, -1.5]))
    second, _ = filtering.update(first, 1.0, "speed", np.asarray(0.2))
    np.testing.assert_array_equal(second.state.particles, first.state.particles)
    assert float(second.state.ess) < float(first.state.ess)


@pytest.mark.slow
def test_the_density_of_the_belief_is_kalmans():
    """One dimension: exact but for log Z before any motion, and after one within 0.15 nats (256 points; fixed seed)."""
    filtering, kalman = Filter(AUTOREGRESSION, CorrectedFilter(smc.EKF(), 256)), Filter(AUTOREGRESSION, smc.EKF())
    first, _ = filtering.update(filtering.start(0, T0), T0, "y", np.asarray(0.8))
    exact_first, _ = kalman.update(kalman.start(0, T0), T0, "y", np.asarray(0.8))
    second, _ = filtering.update(first, 1.0, "y", np.asarray(-0.4))
    exact_second, _ = kalman.update(exact_first, 1.0, "y", np.asarray(-0.4))
    x = exact_second.sample(jax.random.key(1), 5)

    def density(belief, value):
        events = [Seen("y", np.asarray(value))]
        return filtering_log_prob(AUTOREGRESSION, belief.state, events, x, jax.random.key(1), num_draws=2000)

    log_p, error = density(first, 0.8)
    np.testing.assert_allclose(log_p, exact_first.log_prob(x), atol=5 * float(error) + 1e-9)
    log_p, error = density(second, -0.4)
    assert float(error) < 0.03
    np.testing.assert_allclose(log_p, exact_second.log_prob(x), atol=0.15)
    np.testing.assert_allclose(second.log_prob(x), exact_second.log_prob(x), atol=0.25)


@pytest.mark.slow
def test_a_refitted_kalman_filter_stays_near_the_kalman_filter():
    """Nothing to correct: the points only add the noise of 256 draws, shrunk towards the exact answer."""
    run = Filter(SYSTEM, RefittedFilter(smc.UKF(), 256)).run(LOG, key=0, t0=T0)
    exact = Filter(SYSTEM, smc.EKF()).run(LOG, key=0, t0=T0)
    sd = np.sqrt(np.diagonal(np.asarray(exact.covs), axis1=1, axis2=2))
    assert np.abs((np.asarray(run.means) - np.asarray(exact.means)) / sd).max() < 0.5
    assert abs(float(run.log_evidence) - float(exact.log_evidence)) < 0.5
    assert run.claim == "approximate"


def singular(x, dt):
    return dist.MultivariateNormal(x, scale_tril=jnp.array([[1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.bad_input
def test_motions_and_settings_that_cannot_be_used_are_refused_by_name():
    prior = dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=jnp.eye(2))
    see = {"y": lambda x: dist.Normal(x[0], 1.0)}
    heavy = System(prior, lambda x, dt: dist.StudentT(3.0, x, 1.0).to_event(1), see)
    with pytest.raises(ModelError, match=r"Normal or MultivariateNormal motions given the state, found StudentT"):
        Filter(heavy, CorrectedFilter(smc.EKF(), 4)).start(0, 0.0)
    with pytest.raises(ModelError, match=r"singular.*RefittedFilter"):
        Filter(System(prior, singular, see), CorrectedFilter(smc.EKF(), 4)).start(0, 0.0)
    for build, message in (
        (lambda: CorrectedFilter("EKF"), "base: expected a filtering method"),
        (lambda: CorrectedFilter(smc.EKF(), 3), "num_particles: expected at least 4"),
        (lambda: CorrectedFilter(smc.EKF(), share=0.0), "share"),
        (lambda: RefittedFilter(smc.EKF(), 0), "num_points"),
    ):
        with pytest.raises(ProbinfError, match=message):
            build()


def test_a_target_may_carry_its_data():
    found = importance_sample(POSTERIOR, Target(lambda x, shift: joint(x - shift), (jnp.zeros(2),)), 0, 20)
    np.testing.assert_allclose(found.log_weights, float(LOG_EVIDENCE), atol=1e-9)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("documentation is written for JAX's ordinary settings")
def test_the_page_runs(capsys):
    scope = {}
    for code in blocks("docs/mixture-correction.md"):
        exec(code, scope)
    assert "importance sampling" in capsys.readouterr().out
    assert np.isfinite(float(scope["run"].log_evidence))
