"""NumPyro models mean the same as programs as they do in NumPyro, whichever handlers surround them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density, potential_energy
from scipy import stats

from probinf.errors import ArgumentTypeError, DataError, ModelError
from probinf.language import statements as pi
from probinf.language.numpyro_models import as_program, from_numpyro
from probinf.language.numpyro_unsupported import UNSUPPORTED
from probinf.language.program import model as pi_model
from probinf.transformations.algorithms import enumerate_program, population, recorded
from tests.strictness import relaxed_promotion

Y8 = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SE8 = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
RNG = np.random.default_rng(7)
X = RNG.normal(size=(12, 3))
Y = X @ np.array([1.0, -0.5, 0.2]) + 0.3 * RNG.normal(size=12)
SERIES = np.cumsum(RNG.normal(size=15))
GRID = RNG.normal(size=(4, 5))
HIDDEN = RNG.random((4, 5)) < 0.4


# -- models, as users of NumPyro write them ----------------------------------------------------------------------------


def eight_schools(se, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, se), obs=y)


def regression(x, y):
    with numpyro.plate("feature", x.shape[1]):
        beta = numpyro.sample("beta", dist.StudentT(4.0, 0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    mu = numpyro.deterministic("mu", x @ beta)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def without_plates(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.Exponential(1.0))
    numpyro.sample("a", dist.Normal(jnp.sum(w), s), obs=y)  # a scalar location for a vector of data
    numpyro.sample("y", dist.MultivariateNormal(x @ w, jnp.diag(jnp.full(12, 0.5))), obs=y)


def autoregression(y):
    phi = numpyro.sample("phi", dist.Uniform(-1.0, 1.0))
    q = numpyro.sample("q", dist.Gamma(2.0, 3.0))

    def step(previous, y_now):
        level = numpyro.sample("level", dist.Normal(phi * previous, q))
        numpyro.sample("y", dist.StudentT(4.0, level, 0.3), obs=y_now)
        numpyro.deterministic("double", 2.0 * level)
        return level, level

    scan(step, 0.0, y)


def factors(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.factor("scalar", -0.5 * a**2)
    with numpyro.plate("n", y.shape[0]):
        b = numpyro.sample("b", dist.Laplace(a, 1.0))
        numpyro.factor("vector", jnp.cos(b))
        numpyro.factor("repeated", 0.1 * a)  # NumPyro counts it once for every member of the plate
        with handlers.scale(scale=2.5):
            numpyro.sample("y", dist.Normal(b, 1.0), obs=y)
    with handlers.scale(scale=np.array([1.0, 2.0, 3.0])):
        numpyro.sample("z", dist.Normal(a, 1.0).expand([3]), obs=y[:3])


def masked(grid, hidden):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    with numpyro.plate("column", 5, dim=-1):
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", 4, dim=-2):
            r = numpyro.sample("r", dist.Gumbel(c, 1.0))
            with handlers.mask(mask=~hidden):
                numpyro.sample("grid", dist.LogNormal(loc + r, 1.0), obs=grid)
                numpyro.factor("masked_factor", 0.3 * r)


def branches(flag):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = cond(
        flag > 0,
        lambda v: numpyro.sample("b", dist.Normal(v, 1.0)),
        lambda v: numpyro.sample("b", dist.Normal(-v, 2.0)),
        a,
    )
    numpyro.sample("y", dist.Normal(b, 0.5), obs=0.7)


def known_values():
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 3):
        d = numpyro.sample("d", dist.Delta(2.0 * a, log_density=0.25))
    e = numpyro.sample("e", dist.Delta(jnp.arange(3.0), event_dim=1))
    numpyro.sample("y", dist.Normal(jnp.sum(d) + jnp.sum(e), 1.0), obs=jnp.asarray(1.0))


def independent_draws():
    x = numpyro.sample("x", dist.Normal(0.0, jnp.ones(2)), sample_shape=(3,))
    numpyro.sample("y", dist.Normal(jnp.sum(x), 1.0), obs=0.3)


GRID_DATA = np.where(HIDDEN, np.nan, np.exp(GRID))
MODELS = {
    "eight schools": (eight_schools, (SE8, Y8)),
    "plates": (regression, (X, Y)),
    "no plates": (without_plates, (X, Y)),
    "autoregression by scan": (autoregression, (SERIES,)),
    "factors and scales": (factors, (Y,)),
    "masks in nested plates": (masked, (GRID_DATA, HIDDEN)),
    "cond": (branches, (jnp.asarray(1.0),)),
    "cond, other branch": (branches, (jnp.asarray(-1.0),)),
    "sample_shape": (independent_draws, ()),
    "condition": (handlers.condition(eight_schools, {"tau": 1.7}), (SE8, Y8)),
    "condition a scan": (handlers.condition(autoregression, {"level": jnp.asarray(0.9 * SERIES)}), (SERIES,)),
    "substitute": (handlers.substitute(eight_schools, {"tau": 1.7}), (SE8, Y8)),
    "reparam": (handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0.0)}), (SE8, Y8)),
    "reparam, partly": (handlers.reparam(eight_schools, config={"theta": LocScaleReparam(0.3)}), (SE8, Y8)),
    "scope": (handlers.scope(eight_schools, prefix="inner"), (SE8, Y8)),
    "seed": (handlers.seed(eight_schools, 3), (SE8, Y8)),
    "partial": (functools.partial(eight_schools, SE8), (Y8,)),
    "scale": (handlers.condition(handlers.scale(regression, 1.0), {"sigma": 0.4}), (X, Y)),
}


def _assignments(program, num=3):
    """Values of every latent site: draws from the prior."""
    latent = [s.name for s in program.staged.latent()]
    draws = program.simulate(5, num_draws=num)
    return [{name: draws[name][i] for name in latent} for i in range(num)]


@pytest.mark.relaxed_promotion("numpyro.infer.util.log_density")
@pytest.mark.parametrize("name", list(MODELS))
def test_the_log_density_is_numpyros(name):
    function, args = MODELS[name]
    program = from_numpyro(function, *args)
    for values in _assignments(program):
        expected = log_density(function, args, {}, values)[0]
        assert np.isfinite(expected)
        np.testing.assert_allclose(program.log_density(values), expected, rtol=1e-10)


@pytest.mark.relaxed_promotion("numpyro.infer.util.potential_energy")
@pytest.mark.parametrize("name", [n for n in MODELS if "cond," not in n and n not in ("cond", "seed", "substitute")])
def test_the_unconstrained_density_is_numpyros_potential_energy(name):
    function, args = MODELS[name]
    program = from_numpyro(function, *args)
    target = program.unconstrained()
    for seed in range(3):
        position = target.prior_position(target.operands, jax.random.key(seed))
        expected = -potential_energy(function, args, {}, position)
        np.testing.assert_allclose(target.logdensity(target.operands, position), expected, rtol=1e-10)


@pytest.mark.relaxed_promotion("numpyro.infer.util.log_density")
@pytest.mark.parametrize("name", list(MODELS))
def test_there_and_back_again(name):
    function, args = MODELS[name]
    program = from_numpyro(function, *args)
    back = program.to_numpyro()
    for values in _assignments(program):
        np.testing.assert_allclose(log_density(back, (), {}, values)[0], program.log_density(values), rtol=1e-10)
    again = from_numpyro(back)
    for values in _assignments(program):
        np.testing.assert_allclose(again.log_density(values), program.log_density(values), rtol=1e-10)
    assert [(s.name, s.dims) for s in again.staged.latent()] == [(s.name, s.dims) for s in program.staged.latent()]


def test_plates_name_the_axes_and_sites_keep_their_kinds():
    sites = {s.name: s for s in from_numpyro(masked, GRID_DATA, HIDDEN).sites}
    assert sites["r"].dims == ("row", "column")
    assert sites["grid"].dims == ("row", "column")
    assert sites["c"].dims == ("column",)
    assert sites["loc"].dims == ()
    assert {n: s.kind for n, s in sites.items()} == {
        "loc": "sample",
        "c": "sample",
        "r": "sample",
        "grid": "observe",
        "masked_factor": "factor",
    }


def test_a_deterministic_value_is_found_among_the_results():
    program = from_numpyro(regression, X, Y)
    draw = program.simulate(0)
    np.testing.assert_allclose(draw["mu"], X @ np.asarray(draw["beta"]), rtol=1e-12)


def test_a_delta_is_a_named_value_with_its_log_density():
    program = from_numpyro(known_values)
    assert [s.name for s in program.staged.latent()] == ["a"]
    expected = stats.norm.logpdf(0.4) + 3 * 0.25 + stats.norm.logpdf(1.0, 3 * 0.8 + 3.0, 1.0)
    np.testing.assert_allclose(program.log_density({"a": 0.4}), expected, rtol=1e-12)
    np.testing.assert_allclose(program.simulate(1)["e"], [0.0, 1.0, 2.0])


# -- exact evidence ----------------------------------------------------------------------------------------------------


def hidden_markov(observations):
    transition = jnp.array([[0.9, 0.1], [0.3, 0.7]])
    emission = jnp.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])

    def step(state, seen):
        state = numpyro.sample("state", dist.Categorical(transition[state]))
        numpyro.sample("seen", dist.Categorical(emission[state]), obs=seen)
        return state, None

    scan(step, jnp.asarray(0), observations)


def test_the_exact_measure_of_a_hidden_markov_model_has_the_evidence_of_the_forward_algorithm():
    observations = np.array([0, 2, 2, 1])
    program = from_numpyro(hidden_markov, observations)
    transition = np.array([[0.9, 0.1], [0.3, 0.7]])
    emission = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    alpha = np.array([1.0, 0.0])
    for o in observations:
        alpha = (alpha @ transition) * emission[:, o]
    np.testing.assert_allclose(enumerate_program(program).log_evidence, np.log(alpha.sum()), rtol=1e-12)


def random_walk(y):
    def step(level, y_now):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        numpyro.sample("y", dist.Normal(level, 0.8), obs=y_now)
        return level, None

    scan(step, 0.0, y)


def test_a_population_estimates_the_evidence_of_a_scanned_model_without_bias():
    """Mean of Z over 400 runs within 4 standard errors: false alarm 8e-5 (Student t, 399 degrees)."""
    y = SERIES[:6]
    steps = np.arange(1, 7)
    cov = np.minimum.outer(steps, steps) + 0.8**2 * np.eye(6)
    exact = stats.multivariate_normal.logpdf(y, np.zeros(6), cov)
    runner = population(from_numpyro(random_walk, y), 64)
    run = jax.jit(jax.vmap(lambda key: runner.run(key)[0].log_evidence))
    ratios = np.exp(np.asarray(run(jax.random.split(jax.random.key(11), 400))) - exact)
    standard_error = ratios.std(ddof=1) / 20.0
    assert standard_error < 0.05
    assert abs(ratios.mean() - 1.0) < 4.0 * standard_error


def test_a_population_weighs_a_static_model_by_its_closed_form_evidence():
    """Importance sampling with 20000 particles of a conjugate model, within 4 standard errors: false alarm 6e-5."""

    def conjugate(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 3):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = np.array([0.3, -0.4, 0.9])
    exact = stats.multivariate_normal.logpdf(y, np.zeros(3), np.ones((3, 3)) + np.eye(3))
    result, _ = population(from_numpyro(conjugate, y), 20_000, threshold=0.0).run(2)
    ratios = np.exp(np.asarray(result.log_weights) - exact)
    assert abs(ratios.mean() - 1.0) < 4.0 * ratios.std(ddof=1) / np.sqrt(20_000)


# -- handlers ----------------------------------------------------------------------------------------------------------


def test_do_cuts_the_intervened_site_from_its_effects():
    def chain():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(a, 1.0))
        numpyro.sample("c", dist.Normal(3.0 * b, 1.0), obs=2.0)

    program = from_numpyro(handlers.do(chain, {"b": 0.5}))
    values = {"a": 0.3, "b": -1.0}
    expected = stats.norm.logpdf(0.3) + stats.norm.logpdf(-1.0, 0.3) + stats.norm.logpdf(2.0, 1.5)
    np.testing.assert_allclose(program.log_density(values), expected, rtol=1e-12)


def test_a_mask_around_a_scan_reaches_every_iteration():
    program = from_numpyro(handlers.mask(handlers.condition(random_walk, {"level": SERIES[:6]}), False), SERIES[:6])
    np.testing.assert_allclose(program.log_density({}), 0.0)


def test_uncondition_makes_the_data_latent_again():
    program = from_numpyro(handlers.uncondition(eight_schools), SE8, Y8)
    assert [s.name for s in program.staged.latent()] == ["mu", "tau", "theta", "y"]


def test_obs_mask_imputes_the_hidden_entries():
    """Entries that were seen keep a proper prior in the unobserved twin, where NumPyro has none."""

    def model(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 4):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=seen)

    seen = np.array([True, True, False, True])
    y = np.array([0.1, 0.2, np.nan, -0.3])
    program = from_numpyro(model, y, seen)
    draw = program.simulate(0)
    assert [s.name for s in program.staged.latent()] == ["mu", "y_unobserved"]
    filled = program.run(0)
    assert np.isfinite(filled[1])
    values = {"mu": 0.4, "y_unobserved": jnp.asarray(draw["y_unobserved"])}
    expected = stats.norm.logpdf(0.4) + stats.norm.logpdf(y[seen], 0.4).sum()
    expected += stats.norm.logpdf(np.asarray(values["y_unobserved"]), 0.4).sum()
    np.testing.assert_allclose(program.log_density(values), expected, rtol=1e-12)


def test_lift_gives_a_parameter_a_prior():
    def model():
        s = numpyro.param("s", 0.5)
        numpyro.sample("y", dist.Normal(0.0, s), obs=1.2)

    program = from_numpyro(handlers.lift(model, prior={"s": dist.Exponential(0.3)}))
    expected = stats.expon.logpdf(2.0, scale=1 / 0.3) + stats.norm.logpdf(1.2, 0.0, 2.0)
    np.testing.assert_allclose(program.log_density({"s": 2.0}), expected, rtol=1e-12)


def test_handlers_outside_of_the_program_do_not_see_inside():
    with handlers.trace() as trace, handlers.condition(data={"mu": 1.0}):
        program = from_numpyro(eight_schools, SE8, Y8)
        assert "mu" in {s.name for s in program.staged.latent()}
    assert not trace


def test_the_stack_of_handlers_is_whole_after_an_error():
    def wrong():
        with numpyro.plate("n", 2):
            numpyro.param("p", 1.0)

    with pytest.raises(ModelError, match="'p'"):
        from_numpyro(handlers.condition(wrong, {"a": 1.0})).sites  # noqa: B018
    assert numpyro.primitives._PYRO_STACK == []


def test_a_model_may_use_numpy_on_its_arguments():
    def model(x, y):
        groups = int(np.max(x)) + 1
        centred = np.asarray(y) - np.mean(y)
        a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([groups]))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.Normal(a[x], 1.0), obs=centred)

    x, y = np.array([0, 1, 2, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    program = from_numpyro(model, x, y)
    a = np.array([0.1, 0.2, 0.3])
    expected = stats.norm.logpdf(a).sum() + stats.norm.logpdf(y - y.mean(), a[x]).sum()
    np.testing.assert_allclose(program.log_density({"a": a}), expected, rtol=1e-12)


def test_new_data_of_the_same_shape_stage_nothing():
    first = from_numpyro(eight_schools, SE8, Y8)
    second = from_numpyro(eight_schools, SE8, Y8 + 1.0)
    assert first.staged is second.staged
    assert first.log_density(_assignments(first, 1)[0]) != second.log_density(_assignments(first, 1)[0])


def test_numpyro_sites_may_stand_in_jax_loops_and_jitted_functions():
    @jax.jit
    def step(level, y_now):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        numpyro.sample("y", dist.Normal(level, 0.8), obs=y_now)
        return level, level

    def model(y):
        return jax.lax.scan(step, 0.0, y)[1]

    level = np.linspace(0.0, 1.0, 6)
    values = {"level": level}
    expected = from_numpyro(random_walk, SERIES[:6]).log_density(values)
    np.testing.assert_allclose(from_numpyro(model, SERIES[:6]).log_density(values), expected, rtol=1e-12)


def test_numpyro_and_probinf_statements_mix():
    @pi_model
    def outer(y):
        scale = pi.sample("scale", dist.HalfNormal(1.0))
        with pi.scope("inner"):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with pi.plate("row", 4):
            numpyro.sample("y", dist.Normal(mu, scale), obs=y)

    program = outer(Y[:4])
    sites = {s.name: s for s in program.sites}
    assert set(sites) == {"scale", "inner/mu", "y"}
    assert sites["y"].dims == ("row",)


def test_given_observes_a_site_of_a_numpyro_model():
    program = from_numpyro(eight_schools, SE8).given(y=Y8)
    same = from_numpyro(eight_schools, SE8, Y8)
    values = _assignments(same, 1)[0]
    np.testing.assert_allclose(program.log_density(values), same.log_density(values), rtol=1e-12)


def test_recorded_values_carry_the_sites_of_a_scan():
    values, _ = recorded(from_numpyro(autoregression, SERIES)).run(0)
    assert values["level"].shape == (15,)
    np.testing.assert_allclose(values["double"], 2.0 * values["level"])


# -- what is not supported ---------------------------------------------------------------------------------------------


def _param():
    numpyro.param("p", 1.0)


def _module():
    numpyro.module("net", (lambda key, shape: None, lambda params, x: x), (2,))


def _mutable():
    numpyro.primitives.mutable("p", jnp.zeros(()))


def _key():
    jax.random.normal(numpyro.prng_key())


def _subsample():
    with numpyro.plate("p", 10, subsample_size=5):
        numpyro.sample("x", dist.Normal())


def _scaled():
    with handlers.scale(scale=2.0):
        numpyro.sample("p", dist.Normal())


def _masked():
    with handlers.mask(mask=False):
        numpyro.sample("p", dist.Normal())


def _blocked():
    with handlers.block():
        numpyro.sample("p", dist.Normal())


def _replayed():
    trace = {"level": {"type": "sample", "is_observed": False, "value": SERIES, "infer": {}, "name": "level"}}
    handlers.replay(random_walk, trace)(SERIES)


def _part_of_scan():
    handlers.condition(
        lambda: scan(lambda c, _: (numpyro.sample("p", dist.Normal(c)), None), 0.0, None, length=9), {"p": np.zeros(4)}
    )()


def _scan_in_plate():
    with numpyro.plate("p", 3):
        scan(lambda c, _: (c, None), 0.0, None, length=2)


def _funsor():
    numpyro.primitives.apply_stack({"type": "to_funsor", "fn": lambda: None, "args": (), "kwargs": {}, "value": None})


REFUSED = {
    "numpyro.param": (_param, "'p'"),
    "numpyro.module": (_module, "'net$params'"),
    "numpyro.primitives.mutable": (_mutable, "'p'"),
    "numpyro.prng_key": (_key, "test_numpyro_models.py:"),
    "plate(subsample_size=...)": (_subsample, "plate 'p'"),
    "handlers.scale on a latent site": (_scaled, "'p'"),
    "handlers.mask on a latent site": (_masked, "'p'"),
    "handlers.block on a latent site": (_blocked, "'p'"),
    "handlers.replay around scan": (_replayed, "scan (test_numpyro_models.py:"),
    "data for a part of a scan": (_part_of_scan, "'p'"),
    "scan or cond inside a plate": (_scan_in_plate, "plate 'p'"),
    "funsor (handlers.collapse, enum)": (_funsor, "'to_funsor'"),
}


def test_every_unsupported_feature_has_a_case():
    assert set(REFUSED) == set(UNSUPPORTED)


@pytest.mark.parametrize("feature", list(UNSUPPORTED))
def test_an_unsupported_feature_is_refused_with_the_reason(feature):
    function, place = REFUSED[feature]
    with pytest.raises(ModelError) as caught:
        from_numpyro(function).sites  # noqa: B018
    message = str(caught.value)
    assert place in message
    assert feature in message
    assert UNSUPPORTED[feature] in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_data_that_numpyro_would_repeat_silently_are_refused():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu * jnp.ones((20, 1)), 1.0), obs=y)

    with pytest.raises(DataError, match=r"'y'.*\(20,\).*\(20, 1\).*\(20, 20\)"):
        from_numpyro(model, np.zeros(20)).sites  # noqa: B018


# -- at the door -------------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_as_program_takes_programs_models_and_numpyro_models():
    @pi_model
    def own(n):
        pi.sample("x", dist.Normal(0.0, 1.0).expand([n]))

    program = own(3)
    assert as_program(program) is program
    assert as_program(own, 3).sites == program.sites
    assert as_program(eight_schools, SE8, y=Y8).name == "eight_schools"
    with pytest.raises(ArgumentTypeError, match="'own'"):
        as_program(program, 3)
    with pytest.raises(ArgumentTypeError, match="dict"):
        as_program({"x": 1})
    with pytest.raises(ModelError, match="neither draws nor observes"):
        as_program(np.linspace, 0.0, 1.0)
    with pytest.raises(ArgumentTypeError, match="int"):
        from_numpyro(3)


def test_a_program_with_a_while_loop_has_no_numpyro_counterpart():
    @pi_model
    def geometric():
        def body(carry):
            n, _ = carry
            return n + 1, pi.sample("stop", dist.Bernoulli(0.5))

        return jax.lax.while_loop(lambda c: c[1] == 0, body, (jnp.asarray(0), jnp.asarray(0)))[0]

    with pytest.raises(ModelError, match=r"'stop'.*while.*lax\.scan"):
        geometric().to_numpyro()


def test_the_exported_model_runs_under_numpyros_seed():
    with relaxed_promotion("NumPyro's seed handler"):
        trace = handlers.trace(handlers.seed(from_numpyro(autoregression, SERIES).to_numpyro(), 0)).get_trace()
    assert trace["level"]["value"].shape == (15,)
    assert trace["y"]["is_observed"]
