"""Gradients of expectations and of the evidence: exact laws of the estimators, closed forms, and their labels.

Finite programs: every world of an estimator, its ancestors included, is enumerated and its mean compared with the
derivative of the exact integral. Statistical comparisons allow 6 standard errors (2e-9 each).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.language.primitives import Site
from probinf.transformations.gradients import evidence_gradient, expectation_gradient
from probinf.transformations.resampling import Multinomial
from probinf.transformations.score_terms import evidence_terms, log_probability, score_terms

# -- exact: finite programs ------------------------------------------------------------------------------------------


@pi.model
def hidden(theta, ys):
    """Two hidden states; the chain's stickiness and the emission depend on theta."""
    stay, hit = jax.nn.sigmoid(theta["stay"]), jax.nn.sigmoid(theta["hit"])

    def step(z, y):
        p = jnp.where(z == 1, stay, 1 - stay)
        z = pi.sample("z", dist.BernoulliProbs(p))
        pi.observe("y", dist.BernoulliProbs(jnp.where(z == 1, hit[0], hit[1])), y)
        return z, z

    return jax.lax.scan(step, 1, ys)[1]


def forward(theta, ys):
    """Z of the hidden Markov model by the forward algorithm, written out."""
    stay, hit = jax.nn.sigmoid(theta["stay"]), jax.nn.sigmoid(theta["hit"])
    alpha = jnp.array([0.0, 1.0])
    for y in np.asarray(ys):
        move = jnp.stack([jnp.stack([stay, 1 - stay]), jnp.stack([1 - stay, stay])])
        emit = jnp.stack([hit[1], hit[0]])
        alpha = (alpha @ move) * (emit if y else 1 - emit)
    return jnp.sum(alpha)


THETA = {"stay": jnp.array(0.7), "hit": jnp.array([0.9, -0.4])}
YS = jnp.array([1, 0])


@pi.model
def branching(theta):
    """A random branch with draws of different laws, a score in one of them, a zero weight, and a nested draw."""
    p = jax.nn.sigmoid(theta)
    a = pi.sample("a", dist.BernoulliProbs(p))

    def yes():
        b = pi.sample("b", dist.CategoricalProbs(jnp.stack([p, 0.5 * (1 - p), 0.5 * (1 - p)])))
        pi.factor("some", -theta * b.astype(float))
        return b.astype(float)

    def no():
        c = pi.sample("c", dist.BernoulliProbs(p**2))
        pi.factor("zero", jnp.where(c == 1, -jnp.inf, 0.3 * theta))
        return 2.0 * c.astype(float) - 1.0

    return jax.lax.cond(a == 1, yes, no)


def branching_integral(theta):
    """The integral of x^2 + x written out: three values of b, two of c, one of them without weight."""
    p = jax.nn.sigmoid(theta)
    b = [p, 0.5 * (1 - p), 0.5 * (1 - p)]
    yes = sum(q * jnp.exp(-theta * k) * (k**2 + k) for k, q in enumerate(b))
    return p * yes + (1 - p) * (1 - p**2) * jnp.exp(0.3 * theta) * (1.0 - 1.0)


def mean_of(terms):
    """The exact mean of value * score + direct, of the direct term alone, and of the value."""
    law = pi.enumerate_program(terms)
    p, found = np.exp(law.log_weights), law.values
    np.testing.assert_allclose(p.sum(), 1.0, atol=1e-13)  # an estimator scores nothing

    def mean(x):
        return np.tensordot(p, np.asarray(x), axes=1)

    value = np.asarray(found["value"])

    def both(s, d):
        s = np.asarray(s)
        return mean(value.reshape(-1, *(1,) * (s.ndim - 1)) * s + np.asarray(d))

    return jax.tree.map(both, found["score"], found["direct"]), jax.tree.map(mean, found["direct"]), mean(value)


def close(a, b, tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b)


def test_the_score_estimator_is_unbiased_over_all_worlds():
    """E[number of ones in state 1, scored by the data]."""

    def paths(theta):
        total = 0.0
        for z1 in (0, 1):
            for z2 in (0, 1):
                stay, hit = jax.nn.sigmoid(theta["stay"]), jax.nn.sigmoid(theta["hit"])
                p = (stay if z1 else 1 - stay) * (stay if z2 == z1 else 1 - stay)
                p = p * (hit[0] if z1 else hit[1]) * (1 - (hit[0] if z2 else hit[1]))
                total = total + p * (z1 + z2) ** 2
        return total

    terms = score_terms(lambda th: hidden(th, YS), THETA, lambda z: jnp.sum(z).astype(float) ** 2)
    gradient, _, value = mean_of(terms)
    close(gradient, jax.grad(paths)(THETA), 1e-13)
    close(value, paths(THETA), 1e-13)


@pytest.mark.parametrize("theta", [-0.6, 0.8])
def test_the_score_estimator_on_random_branches_and_zero_weights(theta):
    terms = score_terms(branching, theta, lambda x: x**2 + x)
    gradient, _, value = mean_of(terms)
    close(gradient, jax.grad(branching_integral)(theta), 1e-13)
    close(value, branching_integral(theta), 1e-13)


def test_leave_one_out_is_unbiased_over_all_pairs_of_worlds():
    theta = jnp.array(0.8)
    law = pi.enumerate_program(score_terms(branching, theta, lambda x: x**2 + x))
    p, v = np.exp(law.log_weights), jax.tree.map(np.asarray, law.values)
    pair = np.outer(p, p)
    first = (v["value"][:, None] - v["value"][None, :]) * v["score"][:, None] + v["direct"][:, None]
    close((pair * 0.5 * (first + first.T)).sum(), jax.grad(branching_integral)(theta), 1e-13)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("num", [1, 2])
def test_the_evidence_gradient_is_unbiased_over_all_worlds_of_the_filter(num, threshold):
    terms = evidence_terms(lambda th: hidden(th, YS), THETA, num, threshold=threshold)
    gradient, _, value = mean_of(terms)
    close(gradient, jax.grad(forward)(THETA, YS), 1e-12)
    close(value, forward(THETA, YS), 1e-12)


def test_a_scale_divides_the_estimates():
    gradient, _, value = mean_of(evidence_terms(lambda th: hidden(th, YS), THETA, 2, log_scale=1.3))
    close(value, forward(THETA, YS) * np.exp(-1.3), 1e-12)
    close(gradient, jax.tree.map(lambda g: g * np.exp(-1.3), jax.grad(forward)(THETA, YS)), 1e-12)


@pi.model
def blind(theta, ys):
    """The states know nothing of theta, only their scores do: the ancestors are all that the score term holds."""

    def step(z, y):
        z = pi.sample("z", dist.BernoulliProbs(jnp.where(z == 1, 0.8, 0.3)))
        pi.factor("f", theta * jnp.where(z == y, 1.0, -0.5))
        return z, None

    return jax.lax.scan(step, 1, ys)[0]


def test_ignoring_the_ancestors_is_biased_in_one_exact_number():
    def exact(theta):
        alpha = jnp.array([0.0, 1.0])
        for y in (1, 0):
            alpha = alpha @ jnp.array([[0.7, 0.3], [0.2, 0.8]])
            alpha = alpha * jnp.exp(theta * jnp.array([1.0, -0.5] if y == 0 else [-0.5, 1.0]))
        return jnp.sum(alpha)

    theta = jnp.array(0.9)
    right, without_ancestors, _ = mean_of(evidence_terms(lambda th: blind(th, YS), theta, 2, threshold=1.0))
    known = jax.grad(exact)(theta)
    close(right, known, 1e-12)
    assert abs(without_ancestors - known) > 0.02 * abs(known)
    # Without resampling there are no ancestors, and nothing is ignored.
    _, direct, _ = mean_of(evidence_terms(lambda th: blind(th, YS), theta, 2, threshold=0.0))
    close(direct, known, 1e-12)


def test_the_probability_of_ancestors_is_that_of_the_scheme():
    for weights in ([0.2, -1.0, 0.4], [-jnp.inf, 0.3, 0.1], [-jnp.inf] * 3):
        law = Multinomial(jnp.array(weights), 3)
        vectors, log_p = law.enumerate()
        found = [log_probability(Site(""), law, jnp.asarray(v, jnp.int32)) for v in vectors]
        np.testing.assert_allclose(np.array(found), log_p, atol=1e-13)


# -- continuous programs ---------------------------------------------------------------------------------------------


@pi.model
def located(theta):
    """Independent draws of several reparameterised families."""
    x = pi.sample("x", dist.Normal(theta["loc"], jnp.exp(theta["log_scale"])).expand([2]).to_event(1))
    s = pi.sample("s", dist.LogNormal(0.3 * theta["loc"], 0.4))
    return jnp.sum(x) ** 2 + s


def located_mean(theta):
    loc, var = theta["loc"], jnp.exp(2 * theta["log_scale"])
    return 4 * loc**2 + 2 * var + jnp.exp(0.3 * loc + 0.08)


LOCATED = {"loc": jnp.array(0.6), "log_scale": jnp.array(-0.3)}


def within(estimate, known):
    jax.tree.map(
        lambda g, se, k: np.testing.assert_array_less(abs(np.asarray(g) - k), 6 * np.asarray(se)),
        estimate.gradient,
        estimate.standard_error,
        known,
    )


@pytest.mark.parametrize("estimator", ["pathwise", "score"])
def test_expectations_with_a_closed_form(estimator, key):
    estimate = expectation_gradient(located, LOCATED, lambda x: x, key, 4000, estimator=estimator)
    within(estimate, jax.grad(located_mean)(LOCATED))
    assert estimate.claim is Claim.UNBIASED
    assert abs(estimate.value - located_mean(LOCATED)) < 0.3


def test_a_baseline_and_pathwise_draws_lower_the_variance(key):
    def error(**settings):
        return expectation_gradient(located, LOCATED, lambda x: x + 30.0, key, 4000, **settings).standard_error["loc"]

    pathwise, based = error(estimator="pathwise"), error(estimator="score")
    plain = error(estimator="score", baseline=False)
    assert 2 * pathwise < based
    assert 3 * based < plain


@pi.model
def level(theta, ys):
    """A local level: a random walk seen with noise."""
    q, r = jnp.exp(theta["q"]), jnp.exp(theta["r"])

    def step(x, y):
        x = pi.sample("x", dist.Normal(x, q))
        pi.observe("y", dist.Normal(x, r), y)
        return x, None

    return jax.lax.scan(step, jnp.zeros(()), ys)[0]


def level_log_evidence(theta, ys):
    """All observations are jointly normal."""
    t = np.arange(1.0, len(ys) + 1)
    cov = jnp.exp(2 * theta["q"]) * np.minimum(t[:, None], t[None]) + jnp.exp(2 * theta["r"]) * np.eye(len(ys))
    return jax.scipy.stats.multivariate_normal.logpdf(ys, jnp.zeros(len(ys)), cov)


LEVEL = {"q": jnp.array(-0.2), "r": jnp.array(-0.5)}
SERIES = jnp.array([0.6, 1.4, 0.2, -0.9])


def series(theta):
    return level(theta, SERIES)


@pytest.mark.parametrize("estimator", ["pathwise", "score"])
def test_scores_weigh_the_draws(estimator, key):
    """f = 1: the gradient of the evidence by importance sampling."""
    estimate = expectation_gradient(series, LEVEL, lambda _: 1.0, key, 20000, estimator=estimator)
    z = jnp.exp(level_log_evidence(LEVEL, SERIES))
    within(estimate, jax.tree.map(lambda g: z * g, jax.grad(level_log_evidence)(LEVEL, SERIES)))


def test_the_unbiased_evidence_gradient_of_a_continuous_program(key):
    scale = float(level_log_evidence(LEVEL, SERIES))
    estimate = evidence_gradient(series, LEVEL, key, 8, num_runs=4000, log_scale=scale)
    within(estimate, jax.grad(level_log_evidence)(LEVEL, SERIES))
    assert abs(estimate.value - 1.0) < 0.1
    assert estimate.claim is Claim.UNBIASED


def test_fisher_converges_and_ignoring_the_ancestors_does_not(key):
    """The bias of Fisher's identity at 1000 particles is below its error; the other's is many standard errors."""
    known = jax.grad(level_log_evidence)(LEVEL, SERIES)
    fisher = evidence_gradient(series, LEVEL, key, 1000, estimator="fisher", num_runs=40, threshold=1.0)
    within(fisher, known)
    assert fisher.claim is Claim.CONSISTENT
    assert abs(fisher.value - level_log_evidence(LEVEL, SERIES)) < 0.05
    ignoring = evidence_gradient(series, LEVEL, key, 1000, estimator="ignore_ancestors", num_runs=40, threshold=1.0)
    assert ignoring.claim is Claim.APPROXIMATE
    gap = {n: abs(float(ignoring.gradient[n] - known[n])) / float(ignoring.standard_error[n]) for n in known}
    assert max(gap.values()) > 12


@pytest.mark.parametrize("estimator", ["unbiased", "fisher", "ignore_ancestors"])
def test_a_whole_estimate_can_be_compiled_once_for_all_parameters(estimator, key):
    def estimate(theta, key):
        return evidence_gradient(series, theta, key, 6, estimator=estimator, num_runs=3)

    compiled = jax.jit(estimate)
    for shift in (0.0, 0.3):
        theta = jax.tree.map(lambda x, shift=shift: x + shift, LEVEL)
        a, b = compiled(theta, key), estimate(theta, key)
        close(a.gradient, b.gradient, 1e-10)
        assert a.claim is b.claim
    assert compiled._cache_size() == 1


def test_one_run_has_no_standard_error(key):
    estimate = expectation_gradient(located, LOCATED, lambda x: x, key, 1, estimator="score")
    assert np.isnan(estimate.standard_error["loc"])
    assert np.isfinite(estimate.gradient["loc"])


# -- bad input -------------------------------------------------------------------------------------------------------


@pi.model
def mixture(theta):
    return pi.sample(
        "m",
        dist.MixtureSameFamily(
            dist.CategoricalProbs(jnp.array([0.4, 0.6])), dist.Normal(jnp.stack([theta, -theta]), 1.0)
        ),
    )


@pi.model
def waiting(theta):
    def again(x):
        return x + pi.sample("step", dist.Normal(theta, 1.0)) ** 2

    return jax.lax.while_loop(lambda x: x < 2.0, again, jnp.zeros(()))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: expectation_gradient(branching, 0.3, lambda x: x, 0, 5),
            ModelError,
            "Site 'a' .*Bernoulli.* discrete",
        ),
        (lambda: expectation_gradient(mixture, 0.3, lambda x: x, 0, 5), ModelError, "Site 'm' .* not reparameterised"),
        (
            lambda: expectation_gradient(waiting, 0.3, lambda x: x, 0, 5, estimator="score"),
            ModelError,
            "Site 'step' .* inside a while loop",
        ),
        (lambda: expectation_gradient(waiting, 0.3, lambda x: x, 0, 5), ModelError, "while loop"),
        (lambda: expectation_gradient(branching, 0.3, lambda x: x, 0, 0), ArgumentError, "num_draws: .*at least 1"),
        (
            lambda: expectation_gradient(branching, 0.3, lambda x: x, 0, 5, estimator="reinforce"),
            ArgumentError,
            "estimator: expected 'pathwise' or 'score', found 'reinforce'",
        ),
        (lambda: score_terms(branching, 3, lambda x: x), ArgumentTypeError, "parameters: expected floats, found 3"),
        (lambda: score_terms(branching, {}, lambda x: x), ArgumentError, "at least one float"),
        (lambda: score_terms(lambda t: t, 0.1, lambda x: x), ArgumentTypeError, "program_of: expected a function"),
        (
            lambda: score_terms(lambda t: branching(t["a"]), {"a": 0.1, "b": 0.2}, lambda x: x),
            ArgumentError,
            "parameters\\['b'\\]: .* does not depend",
        ),
        (
            lambda: expectation_gradient(located, LOCATED, lambda x: jnp.stack([x, x]), 0, 5),
            ArgumentError,
            "function: expected a scalar",
        ),
        (
            lambda: evidence_gradient(lambda t: hidden(t, YS), THETA, 0, 4, estimator="ignore_ancestors"),
            ModelError,
            "Site 'z' .*discrete",
        ),
        (lambda: evidence_gradient(series, LEVEL, 0, 4, estimator="fishers"), ArgumentError, "expected one of"),
        (lambda: evidence_gradient(series, LEVEL, 0, 0), ArgumentError, "num_particles: expected at least 1"),
        (
            lambda: score_terms(lambda t: pi.population(hidden(t, YS), 2), THETA, lambda c: c.log_evidence).run(0),
            ModelError,
            "Systematic ancestors .*multinomial",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
