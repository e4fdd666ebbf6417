"""Log densities of programs against scipy, and programs with other data or other priors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinf.errors import DataError, UnknownNameError
from probinf.language import statements as pi
from probinf.language.program import model

YS = np.array([0.3, -0.2, 0.9, 1.4])


@model
def regression(x):
    a = pi.sample("a", dist.Normal(0.0, 2.0))
    b = pi.sample("b", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    scale = pi.sample("scale", dist.HalfCauchy(1.0))
    with pi.plate("n", x.shape[0]):
        pi.sample("y", dist.Normal(a + x @ b, scale))


@model
def hierarchy():
    mean = pi.sample("mean", dist.Normal(0.0, 5.0))
    scale = pi.sample("scale", dist.LogNormal(0.0, 1.0))
    with pi.plate("school", 3):
        theta = pi.sample("theta", dist.Normal(mean, scale))
        with pi.plate("pupil", 2):
            pi.sample("y", dist.StudentT(3.0, theta, 1.5))


@model
def counts():
    rate = pi.sample("rate", dist.Gamma(2.0, 1.0))
    p = pi.sample("p", dist.Beta(2.0, 3.0))
    with pi.plate("n", 3):
        k = pi.sample("k", dist.Poisson(rate))
        pi.sample("y", dist.Binomial(k, p), obs=jnp.array([1, 0, 2]))


@model
def local_level(n):
    drift = pi.sample("drift", dist.HalfNormal(1.0))

    def step(level, _):
        level = pi.sample("level", dist.Normal(level, drift))
        pi.sample("y", dist.StudentT(4.0, level, 1.0))
        return level, level

    return jax.lax.scan(step, 0.0, length=n)[1]


@model
def weighted_mixture():
    w = pi.sample("w", dist.Dirichlet(jnp.ones(2)))
    mix = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(jnp.array([-1.0, 1.0]), 0.5))
    with pi.plate("n", 4):
        pi.sample("y", mix, obs=YS)


@model
def branch(flag):
    a = pi.sample("a", dist.Normal(0.0, 1.0))
    b = jax.lax.cond(
        flag > 0.0, lambda a: pi.sample("b", dist.Normal(a, 1.0)), lambda a: pi.sample("b", dist.Normal(-a, 2.0)), a
    )
    pi.factor("f", 0.5 * b)


@model
def switched(k):
    def case(loc):
        return lambda: pi.sample("x", dist.Normal(loc, 1.0))

    return jax.lax.switch(k, [case(0.0), case(5.0), case(-5.0)])


@model
def grid():
    def outer(c, _):
        def inner(c, _):
            c = pi.sample("x", dist.Normal(c, 1.0))
            pi.sample("y", dist.Normal(c, 0.5))
            return c, None

        return jax.lax.scan(inner, c, length=3)

    jax.lax.scan(outer, 0.0, length=2)


@model
def lanes(ys):
    def lane(y):
        x = pi.sample("x", dist.Normal(0.0, 1.0))
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        pi.factor("f", 0.1 * x)
        return x

    return pi.vmap(lane)(ys)


def close(program, values, expected):
    np.testing.assert_allclose(program.log_density(values), expected, rtol=1e-12)


def test_regression():
    x, b = np.arange(8.0).reshape(4, 2) / 8, np.array([0.4, -0.3])
    expected = (
        stats.norm.logpdf(0.2, 0, 2)
        + stats.norm.logpdf(b).sum()
        + stats.halfcauchy.logpdf(0.8)
        + stats.norm.logpdf(YS, 0.2 + x @ b, 0.8).sum()
    )
    close(regression(x).given(y=YS), {"a": 0.2, "b": b, "scale": 0.8}, expected)
    close(regression(x), {"a": 0.2, "b": b, "scale": 0.8, "y": YS}, expected)


def test_hierarchy_of_plates():
    theta, y = np.array([0.1, -1.0, 2.0]), np.arange(6.0).reshape(2, 3)
    expected = (
        stats.norm.logpdf(0.3, 0, 5)
        + stats.lognorm.logpdf(0.9, 1)
        + stats.norm.logpdf(theta, 0.3, 0.9).sum()
        + stats.t.logpdf(y, 3, theta, 1.5).sum()
    )
    close(hierarchy().given(y=y), {"mean": 0.3, "scale": 0.9, "theta": theta}, expected)


def test_counts_inside_and_outside_of_the_support():
    k = np.array([3, 0, 2])
    expected = (
        stats.gamma.logpdf(1.4, 2)
        + stats.beta.logpdf(0.3, 2, 3)
        + stats.poisson.logpmf(k, 1.4).sum()
        + stats.binom.logpmf([1, 0, 2], k, 0.3).sum()
    )
    close(counts(), {"rate": 1.4, "p": 0.3, "k": k}, expected)
    assert float(counts().log_density({"rate": 1.4, "p": 0.3, "k": np.array([0, 0, 2])})) == -np.inf
    assert float(counts().log_density({"rate": -1.0, "p": 0.3, "k": k})) == -np.inf


def test_state_space_model():
    levels, y = np.array([0.2, 0.5, -0.1]), YS[:3]
    expected = (
        stats.halfnorm.logpdf(0.4)
        + stats.norm.logpdf(levels, np.r_[0, levels[:-1]], 0.4).sum()
        + stats.t.logpdf(y, 4, levels).sum()
    )
    close(local_level(3).given(y=y), {"drift": 0.4, "level": levels}, expected)


def test_mixture():
    w = np.array([0.3, 0.7])
    parts = stats.norm.logpdf(YS[:, None], [-1, 1], 0.5) + np.log(w)
    close(weighted_mixture(), {"w": w}, np.logaddexp(*parts.T).sum() + stats.dirichlet.logpdf(w, [1, 1]))


@pytest.mark.parametrize(("flag", "loc", "scale"), [(1.0, 0.3, 1.0), (-1.0, -0.3, 2.0)])
def test_a_site_in_both_branches(flag, loc, scale):
    expected = stats.norm.logpdf(0.3) + stats.norm.logpdf(0.8, loc, scale) + 0.4
    close(branch(flag), {"a": 0.3, "b": 0.8}, expected)


@pytest.mark.parametrize(("k", "loc"), [(0, 0.0), (1, 5.0), (2, -5.0), (7, -5.0), (-1, 0.0)])
def test_a_switch_clamps_its_index_as_jax_does(k, loc):
    close(switched(jnp.asarray(k)), {"x": 0.7}, stats.norm.logpdf(0.7, loc))


def test_nested_loops_take_values_loop_axes_first():
    x, y = np.arange(6.0).reshape(2, 3) / 3, np.ones((2, 3))
    flat = x.reshape(-1)
    expected = stats.norm.logpdf(flat, np.r_[0, flat[:-1]]).sum() + stats.norm.logpdf(y, x, 0.5).sum()
    close(grid().given(y=y), {"x": x}, expected)
    close(grid(), {"x": x, "y": y}, expected)


def test_independent_lanes_add_up():
    x = np.array([0.1, 0.7, -0.4, 1.0])
    expected = stats.norm.logpdf(x).sum() + stats.norm.logpdf(YS, x, 0.5).sum() + 0.1 * x.sum()
    close(lanes(YS), {"x": x}, expected)


def test_gradients_agree_with_the_closed_form():
    x = np.array([0.1, 0.7, -0.4, 1.0])
    program = lanes(YS)
    gradient = jax.grad(lambda v: program.log_density({"x": v}))(jnp.asarray(x))
    np.testing.assert_allclose(gradient, -x + (YS - x) / 0.25 + 0.1, rtol=1e-12)


def test_the_log_weight_of_a_run_is_the_density_of_its_observations_and_factors():
    xs, log_weight = lanes(YS).run(5)
    expected = stats.norm.logpdf(YS, np.asarray(xs), 0.5).sum() + 0.1 * float(np.sum(xs))
    np.testing.assert_allclose(log_weight, expected, rtol=1e-12)


def test_given_values_factor_the_joint():
    """log p(x, y) is the same number whether y is assigned or observed, in every order of conditioning."""
    program = local_level(3)
    values = {"drift": 0.4, "level": YS[:3], "y": YS[1:]}
    joint = float(program.log_density(values))
    assert float(program.given(y=YS[1:]).log_density({"drift": 0.4, "level": YS[:3]})) == pytest.approx(
        joint, rel=1e-14
    )
    both = program.given(y=YS[1:]).given(drift=0.4)
    assert float(both.log_density({"level": YS[:3]})) == pytest.approx(joint, rel=1e-14)
    at_once = program.given(y=YS[1:], drift=0.4)
    assert float(at_once.log_density({"level": YS[:3]})) == pytest.approx(joint, rel=1e-14)


def test_another_prior_replaces_the_sites_own():
    program = hierarchy().with_prior(mean=dist.Cauchy(1.0, 0.5), theta=dist.Normal(jnp.array([1.0, 2.0, 3.0]), 0.1))
    theta, y = np.array([1.1, 1.9, 3.0]), np.zeros((2, 3))
    expected = (
        stats.cauchy.logpdf(0.3, 1, 0.5)
        + stats.lognorm.logpdf(0.9, 1)
        + stats.norm.logpdf(theta, [1, 2, 3], 0.1).sum()
        + stats.t.logpdf(y, 3, theta, 1.5).sum()
    )
    close(program.given(y=y), {"mean": 0.3, "scale": 0.9, "theta": theta}, expected)
    assert program.simulate(0)["theta"].shape == (3,)


def test_another_prior_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"'theta' has shape \(3,\), the new prior \(2,\)"):
        hierarchy().with_prior(theta=dist.Normal(jnp.zeros(2), 1.0))
    with pytest.raises(UnknownNameError, match="'tau' is not a site"):
        hierarchy().with_prior(tau=dist.Normal(0.0, 1.0))


def test_another_prior_for_a_site_in_a_loop_is_refused():
    """A prior of the stacked shape cannot be read inside the loop, where the site has the shape of one iteration."""
    with pytest.raises(DataError, match=r"'level' .*stands inside a loop"):
        local_level(3).with_prior(level=dist.Normal(jnp.zeros(3), 1.0)).simulate(0)


@pytest.mark.parametrize("value", [np.zeros(2), np.zeros((3, 1)), 0.0])
def test_log_density_refuses_values_of_another_shape(value):
    """A value that broadcasts would be counted several times."""
    with pytest.raises(DataError, match=r"'theta'.*expected \(3,\)"):
        hierarchy().given(y=np.zeros((2, 3))).log_density({"mean": 0.0, "scale": 1.0, "theta": value})


def test_log_density_refuses_series_of_another_length():
    with pytest.raises(DataError, match=r"'level' .*loop of 3 iterations.*shape \(2,\)"):
        local_level(3).given(y=np.zeros(3)).log_density({"drift": 1.0, "level": np.zeros(2)})


def test_an_execution_of_weight_zero_stays_at_zero():
    """What follows may be meaningless there (a negative scale): its score is not looked at."""

    @model
    def guarded():
        scale = pi.sample("scale", dist.Normal(0.0, 1.0))
        pi.factor("positive", jnp.where(scale > 0.0, 0.0, -jnp.inf))
        pi.sample("y", dist.Normal(0.0, scale), obs=jnp.array(0.4))

    close(guarded(), {"scale": 0.8}, stats.norm.logpdf(0.8) + stats.norm.logpdf(0.4, 0, 0.8))
    assert float(guarded().log_density({"scale": -0.8})) == -np.inf


def test_log_density_names_what_is_missing_or_unknown():
    with pytest.raises(DataError, match="no value for 'scale', 'theta'"):
        hierarchy().given(y=np.zeros((2, 3))).log_density({"mean": 0.0})
    with pytest.raises(UnknownNameError, match="'sigma' is not a site"):
        hierarchy().log_density({"sigma": 0.0})
