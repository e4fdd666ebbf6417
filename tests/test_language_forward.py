"""Forward evaluation: sites under every control flow of JAX, keys, shapes, and what is staged and compiled again."""

import collections
import logging

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinf.errors import ModelError
from probinf.language import staging
from probinf.language import statements as pi
from probinf.language.program import model
from probinf.transformations.algorithms import population
from probinf.validity.programs import PROGRAMS


def uniform(name):
    return pi.sample(name, dist.Uniform(0.0, 1.0))


@model
def inline():
    a = uniform("a")
    b = uniform("b")
    _, path = jax.lax.scan(lambda c, _: (c, uniform("x")), None, length=3)
    return a, b, path, uniform("last")


@model
def wrapped():
    """The same statements in the same order, each inside some call."""
    a = jax.jit(lambda: uniform("a"))()
    b = jax.checkpoint(lambda: jax.jit(lambda: uniform("b"))())()
    _, path = jax.jit(lambda: jax.lax.scan(lambda c, _: (c, jax.jit(lambda: uniform("x"))()), None, length=3))()
    return a, b, path, jax.checkpoint(lambda: uniform("last"))()


@jax.custom_jvp
def _custom(x):
    return x + uniform("a")


@_custom.defjvp
def _(primals, tangents):
    raise AssertionError("not differentiated")


@model
def custom_rule():
    return _custom(0.0), uniform("b")


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def test_draws_do_not_depend_on_how_calls_are_nested(key):
    for one, other in zip(leaves(inline().run(key)), leaves(wrapped().run(key)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(custom_rule().run(key)[0][0], inline().run(key)[0][0])


def test_draws_do_not_depend_on_the_unrolling_of_loops(key):
    @model
    def walk(unroll):
        return jax.lax.scan(lambda x, _: (pi.sample("x", dist.Normal(x, 1.0)),) * 2, 0.0, length=6, unroll=unroll)[1]

    np.testing.assert_allclose(walk(1).run(key)[0], walk(3).run(key)[0], rtol=1e-15)


def test_every_statement_and_iteration_has_a_key_of_its_own(key):
    """All uniform numbers of a program differ: two equal ones out of 40 by chance have probability below 1e-12."""

    @model
    def everything():
        def in_while(c):
            n, out = c
            return n + 1, out.at[n].set(uniform("w"))

        def outer(c, _):
            return c, jax.lax.scan(lambda c, _: (c, uniform("inner")), None, length=3)[1]

        singles = jnp.stack([uniform("a"), uniform("b")])
        _, whiles = jax.lax.while_loop(lambda c: c[0] < 5, in_while, (0, jnp.zeros(5)))
        _, nested = jax.lax.scan(outer, None, length=4)
        branch = jax.lax.cond(singles[0] < 2.0, lambda: uniform("yes"), lambda: uniform("no"))
        case = jax.lax.switch(1, [lambda: uniform("s0"), lambda: uniform("s1"), lambda: uniform("s2")])
        lanes = pi.vmap(lambda _: uniform("v"))(jnp.zeros(6))
        with pi.plate("p", 4):
            plate = uniform("plate")
        counted = jax.lax.fori_loop(0, 3, lambda i, c: c.at[i].set(uniform("f")), jnp.zeros(3))
        return jnp.concatenate(
            [singles, whiles, nested.reshape(-1), jnp.stack([branch, case]), lanes, plate, counted, uniform("z")[None]]
        )

    draws = np.asarray(everything().run(key)[0])
    assert len(draws) == 2 + 5 + 12 + 2 + 6 + 4 + 3 + 1
    assert len(np.unique(draws)) == len(draws)
    assert np.all((draws >= 0) & (draws < 1))


def test_another_key_gives_other_draws_and_the_same_key_the_same():
    first, again, other = (np.concatenate([np.ravel(x) for x in leaves(inline().run(s)[0])]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)


@pytest.mark.parametrize("name", ["random_branch", "early_termination", "draw_in_condition", "unequal_factors"])
def test_weighted_forward_runs_mean_the_programs_measure(name):
    """2000 runs: each result's mean weight within 5.5 standard errors of its exact mass (false alarm below 1e-6)."""
    from probinf.transformations.algorithms import enumerate_program

    program, runs = PROGRAMS[name], 2000
    values, log_weights = jax.jit(jax.vmap(lambda k: program.run(k)))(jax.random.split(jax.random.key(7), runs))
    weights = np.exp(np.asarray(log_weights))
    rows = list(zip(*(x.tolist() for x in leaves(values)), strict=True))
    for result, mass in enumerate_program(program).table().items():
        hits = weights * np.array([row == result for row in rows])
        assert abs(hits.mean() - mass) <= 5.5 * hits.std() / np.sqrt(runs) + 5.5 / runs


def test_early_termination_stops_early():
    @model
    def geometric():
        return jax.lax.while_loop(lambda n: pi.sample("go", dist.Bernoulli(0.5)) == 1, lambda n: n + 1, 0)

    program = geometric()
    counts = np.asarray(jax.jit(jax.vmap(lambda k: program.run(k)[0]))(jax.random.split(jax.random.key(2), 4000)))
    observed = np.bincount(np.minimum(counts, 6), minlength=7)
    expected = 4000 * np.append(0.5 ** np.arange(1, 7), 0.5**6)
    assert stats.chisquare(observed, expected).pvalue > 1e-6


@model
def shapes():
    a = pi.sample("a", dist.Normal(0.0, 1.0))
    with pi.plate("outer", 3):
        with pi.plate("inner", 2):
            pi.sample("grid", dist.Normal(a, 1.0))
        pi.sample("vector", dist.Dirichlet(jnp.ones(4)))

    def step(x, _):
        x = pi.sample("x", dist.Normal(x, 1.0))
        pi.sample("y", dist.Normal(jnp.stack([x, x]), 1.0).to_event(1), obs=jnp.zeros(2))
        pi.deterministic("square", x * x)
        return x, None

    jax.lax.scan(step, a, length=5)
    pi.vmap(lambda loc: pi.sample("lane", dist.Normal(loc, 1.0)))(jnp.zeros(7))


SHAPES = {"a": (), "grid": (2, 3), "vector": (3, 4), "x": (5,), "y": (5, 2), "square": (5,), "lane": (7,)}


def test_simulated_values_have_the_shapes_of_the_table_of_sites():
    program = shapes()
    one, many = program.simulate(0), program.simulate(0, 11)
    assert {k: v.shape for k, v in one.items()} == SHAPES
    assert {k: v.shape for k, v in many.items()} == {k: (11, *s) for k, s in SHAPES.items()}
    assert {s.name: s.shape for s in program.sites} == SHAPES
    np.testing.assert_allclose(one["square"], one["x"] ** 2, rtol=1e-15)
    assert len(np.unique(many["a"])) == 11


def test_simulation_replicates_observed_sites():
    @model
    def observed():
        pi.sample("y", dist.Normal(100.0, 1.0), obs=0.0)

    assert abs(float(observed().simulate(0)["y"]) - 100) < 8  # eight standard deviations: 1e-15


def test_plain_vmap_around_a_shared_draw_is_refused():
    @model
    def shared():
        return jax.vmap(lambda y: pi.sample("x", dist.Normal(0.0, 1.0)) + y)(jnp.zeros(3))

    with pytest.raises(ModelError, match="share one draw"):
        shared().run(0)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_program_may_first_be_used_inside_the_users_own_vmap(compiled):
    """The vmap maps the whole program, whose unmapped draws are its own in every lane."""
    jit = jax.jit if compiled else lambda function: function

    @model
    def pair(y):
        x = pi.sample("x", dist.Normal(0.0, 1.0))
        pi.observe("y", dist.Normal(x, 1.0), y)
        return x

    y, x = np.array([-1.0, 0.5, 2.0]), 0.3
    found = jit(jax.vmap(lambda v: pair(v).log_density({"x": x})))(jnp.asarray(y))
    np.testing.assert_allclose(found, stats.norm.logpdf(x) + stats.norm.logpdf(y, x), rtol=1e-12)

    @model
    def alone():
        return pi.sample("x", dist.Normal(0.0, 1.0))

    keys = jax.random.split(jax.random.key(5), 4)
    lanes = jit(jax.vmap(lambda key: alone().run(key)[0]))(keys)
    np.testing.assert_array_equal(lanes, [alone().run(key)[0] for key in keys])
    assert len(np.unique(lanes)) == 4


def test_plain_vmap_in_the_body_is_refused_inside_the_users_own_vmap():
    @model
    def shared():
        return jax.vmap(lambda y: pi.sample("x", dist.Normal(0.0, 1.0)) + y)(jnp.zeros(3))

    with pytest.raises(ModelError, match="share one draw"):
        jax.vmap(lambda key: shared().run(key)[0])(jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("outer", [jax.vmap, pi.vmap])
def test_a_draw_that_only_an_outer_vmap_maps_is_refused(outer):
    @model
    def shared():
        def row(loc):
            return jax.vmap(lambda y: pi.sample("x", dist.Normal(loc, 1.0)) + y)(jnp.zeros(3))

        return outer(row)(jnp.zeros(2))

    with pytest.raises(ModelError, match="share one draw"):
        shared().run(0)


def test_plain_vmap_with_a_mapped_parameter_draws_per_lane():
    @model
    def mapped():
        return jax.vmap(lambda loc: pi.sample("x", dist.Normal(loc, 1.0)))(jnp.zeros(5))

    assert len(np.unique(mapped().run(0)[0])) == 5


def test_a_site_in_a_primitive_that_cannot_hold_one_is_refused():
    @model
    def reduced():
        return jax.lax.reduce(jnp.ones(3), 0.0, lambda a, b: a + b * uniform("u"), (0,))

    with pytest.raises(ModelError, match=r"'u' .*stands inside the JAX primitive 'reduce'"):
        reduced().run(0)


# -- staging and compiling --------------------------------------------------------------------------------------------


class Compilations(logging.Handler):
    """Counts what JAX compiles, by its own log."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.names = collections.Counter()

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Compiling "):
            self.names[text.split()[1]] += 1


@pytest.fixture
def compilations():
    handler, logger = Compilations(), logging.getLogger("jax")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    with jax.log_compiles(True):
        yield handler
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.propagate = before[1]


def test_new_data_of_the_same_shape_stages_and_compiles_nothing(compilations):
    staged = []

    @model
    def regression(x, degree, ys):
        staged.append(degree)
        a = pi.sample("a", dist.Normal(0.0, 1.0))
        with pi.plate("n", ys.shape[0]):
            pi.sample("y", dist.Normal(a * x**degree, 1.0), obs=ys)

    def use(scale, length=4, degree=2):
        program = regression(scale * jnp.ones(length), degree, scale * jnp.ones(length))
        filtered = population(program, 3)
        return program.simulate(0), program.log_density({"a": 0.3}), filtered.run(0), program.given(a=0.2).run(0)

    first = use(1.0)
    once, built = len(staged), set(compilations.names)
    assert once == 2  # the program, and the program given a
    assert built >= {"jit(_run)", "jit(_simulate)", "jit(_log_density)"}
    scaled = jax.block_until_ready(2.0 * jnp.ones(4))
    compilations.names.clear()
    second = use(2.0)
    assert len(staged) == once
    assert not {"jit(_run)", "jit(_simulate)", "jit(_log_density)"} & set(compilations.names), compilations.names
    assert float(first[1]) != float(second[1])
    assert scaled.shape == (4,)
    use(1.0, length=5)
    use(1.0, degree=3)
    assert len(staged) == 3 * once


def test_the_cache_of_staged_programs_is_bounded():
    @model
    def sized(n):
        with pi.plate("n", n):
            pi.sample("x", dist.Normal(0.0, 1.0))

    sized(2).staged  # noqa: B018
    assert len(staging._cache) <= staging._CACHE_SIZE
