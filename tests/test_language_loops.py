"""Loops whose iterations run side by side: the same log density and gradient as one iteration after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.language import statements as pi
from probinf.language.handlers import Score, ScoreUnconstrained
from probinf.language.independence import independent_iterations
from probinf.language.program import model

T = 5
YS = jnp.array([0.3, -0.2, 0.9, 1.4, 0.1])


class Sequential(Score):
    vectorise_loops = False


class SequentialUnconstrained(ScoreUnconstrained):
    vectorise_loops = False


@model
def markov():
    scale = pi.sample("scale", dist.HalfNormal(1.0))

    def step(x, y):
        x = pi.sample("x", dist.Normal(0.9 * x, scale))
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, jnp.sin(x)

    last, path = jax.lax.scan(step, 0.2, YS)
    pi.factor("end", -jnp.square(last) + jnp.sum(path))


@model
def second_order():
    def step(carry, y):
        a, b = carry
        x = pi.sample("x", dist.Normal(1.2 * a - 0.3 * b, 0.7))
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        return (x, a), None

    (a, b), _ = jax.lax.scan(step, (0.1, -0.4), YS)
    pi.factor("end", a * b)


@model
def counter():
    def step(carry, y):
        n, x = carry
        x = pi.sample("x", dist.Normal(x + 0.1 * jnp.asarray(n, float), 1.0 + 0.2 * jnp.asarray(n, float)))
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        return (n + 1, x), n

    (n, x), ns = jax.lax.scan(step, (0, 0.0), YS)
    pi.factor("end", x * jnp.asarray(n + jnp.sum(ns), float))


@model
def non_centred():
    scale = pi.sample("scale", dist.Gamma(2.0, 2.0))

    def step(x, y):
        e = pi.sample("e", dist.Normal(0.0, 1.0))
        x = 0.8 * x + scale * e
        pi.sample("y", dist.StudentT(4.0, x, 0.5), obs=y)
        return x, x

    last, path = jax.lax.scan(step, 0.5, YS)
    pi.deterministic("path", path)
    pi.factor("end", 0.3 * last)


@model
def backwards():
    def step(x, y):
        x = pi.sample("x", dist.Normal(0.9 * x, 0.8))
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    first, path = jax.lax.scan(step, 1.5, YS, reverse=True)
    pi.factor("end", first * path[-1] - path[1])


@model
def nested():
    def outer(x, y):
        def inner(x, _):
            x = pi.sample("x", dist.Normal(0.7 * x, 0.8))
            return x, jnp.exp(-x)

        x, path = jax.lax.scan(inner, x, length=3)
        pi.sample("y", dist.Normal(x + jnp.sum(path), 0.5), obs=y)
        return x, None

    jax.lax.scan(outer, 0.3, YS)


@model
def branching():
    def step(x, y):
        def up(x):
            return pi.sample("x", dist.Normal(x, 0.8))

        x = pi.sample("base", dist.Normal(0.5 * x, 1.0))
        pi.factor("f", jax.lax.cond(x > 0.0, lambda x: -x, lambda x: 2.0 * x, x))
        z = jax.lax.cond(y > 0.2, up, lambda x: pi.sample("x", dist.Normal(-x, 1.3)), x)
        return x, z

    last, zs = jax.lax.scan(step, 0.4, YS)
    pi.factor("end", last + jnp.sum(zs))


@model
def guarded():
    """A branch that is legal on its own side only: its gradient must not leak into the other."""

    def step(x, y):
        x = pi.sample("x", dist.Normal(0.5 * x, 1.0))
        pi.factor("f", jax.lax.cond(x > 0.0, lambda x: jnp.log(jnp.abs(x)), lambda x: x, x))
        return x, None

    jax.lax.scan(step, 0.4, YS)


@model
def long_memory():
    """More lags than are resolved side by side: the loop stays a loop."""

    def step(lags, y):
        x = pi.sample("x", dist.Normal(0.3 * sum(lags), 0.7))
        return (x, *lags[:-1]), None

    lags, _ = jax.lax.scan(step, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), YS)
    pi.factor("end", lags[-1])


@model
def random_bounds():
    """The bijection depends on the previous draw: on unconstrained space the loop is sequential."""

    def step(x, _):
        x = pi.sample("x", dist.Uniform(x, x + 2.0))
        return x, x

    last, _ = jax.lax.scan(step, 0.0, length=T)
    pi.factor("end", -last)


@model
def called():
    def step(x, y):
        @jax.jit
        def draw(x):
            return pi.sample("x", dist.Laplace(0.6 * x, 0.8))

        x = jax.checkpoint(draw)(x)
        pi.sample("y", dist.Normal(x, 0.5), obs=y)
        return x, x

    jax.lax.scan(step, 0.3, YS)


@model
def constant_carry():
    def step(carry, y):
        rate, x = carry
        x = pi.sample("x", dist.Normal(rate * x, 1.0))
        return (rate, x), None

    rate = pi.sample("rate", dist.Beta(2.0, 2.0))
    (rate, x), _ = jax.lax.scan(step, (rate, 1.0), YS)
    pi.factor("end", rate * x)


MODELS = [
    markov, second_order, counter, non_centred, backwards, nested, branching, guarded, long_memory, random_bounds,
    called, constant_carry,
]  # fmt: skip


def values_of(program):
    """A legal assignment: a draw from the prior."""
    drawn = program.simulate(3)
    return {s.name: drawn[s.name] for s in program.sites if s.kind == "sample"}


def evaluate(program, handler, values):
    def density(values):
        return program.staged.run(program.operands, handler, handler.start(), values)[1]

    return jax.jit(jax.value_and_grad(density))(values)


def assert_equal(one, other):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-12, atol=1e-12)
    for name in one[1]:
        assert np.isfinite(np.asarray(one[1][name])).all(), name
        np.testing.assert_allclose(one[1][name], other[1][name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("build", MODELS, ids=lambda m: m.__name__)
def test_side_by_side_equals_one_after_the_other(build):
    program = build()
    values = values_of(program)
    assert_equal(evaluate(program, Score(), values), evaluate(program, Sequential(), values))


@pytest.mark.parametrize("build", [markov, counter, non_centred, random_bounds], ids=lambda m: m.__name__)
def test_side_by_side_equals_one_after_the_other_on_unconstrained_space(build):
    program = build()
    position = program.unconstrained().prior_position(program.operands, jax.random.key(1))
    assert_equal(
        evaluate(program, ScoreUnconstrained(), position), evaluate(program, SequentialUnconstrained(), position)
    )


@pytest.mark.parametrize(
    ("build", "loops"),
    [
        (markov, 0),
        (second_order, 0),
        (backwards, 0),
        (constant_carry, 0),
        (called, 0),
        (non_centred, 1),
        (long_memory, 1),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_loops_that_should_vanish_do(build, loops):
    """Counted in the staged density: a Markov model costs no loop, a deterministic recursion keeps its own."""
    program = build()
    values = values_of(program)
    jaxpr = jax.make_jaxpr(lambda v: program.staged.run(program.operands, Score(), Score().start(), v)[1])(values)
    assert sum(e.primitive.name == "scan" for e in jaxpr.jaxpr.eqns) == loops


def test_records_come_back_in_the_order_of_the_loop():
    program = non_centred()
    values = values_of(program)
    _, _, records = program.staged.run(program.operands, Score(), Score().start(), values)
    x, path = 0.5, []
    for e in np.asarray(values["e"]):
        x = 0.8 * x + float(values["scale"]) * e
        path.append(x)
    np.testing.assert_allclose(records["path"], path, rtol=1e-13)
    np.testing.assert_array_equal(records["e"], values["e"])


def test_a_loop_of_factors_only():
    """No carry, no inputs, no sites with values: only a length."""

    @model
    def repeated():
        jax.lax.scan(lambda c, _: (pi.factor("f", -0.25), (c, None))[1], None, length=4)
        pi.sample("x", dist.Normal(0.0, 1.0))

    density = repeated().log_density({"x": 0.0})
    np.testing.assert_allclose(density, -1.0 - 0.5 * np.log(2 * np.pi), rtol=1e-14)


def test_loops_of_length_zero_and_one():
    @model
    def short(ys):
        last, _ = jax.lax.scan(lambda x, y: (pi.sample("x", dist.Normal(x, 1.0)),) * 2, 0.5, ys)
        pi.factor("end", last)

    np.testing.assert_allclose(short(jnp.zeros(0)).log_density({"x": jnp.zeros(0)}), 0.5)
    np.testing.assert_allclose(
        short(jnp.zeros(1)).log_density({"x": jnp.array([0.5])}), 0.5 - 0.5 * np.log(2 * np.pi), rtol=1e-14
    )


def test_the_plan_orders_carries_by_dependence():
    def scan_of(program):
        return next(e for e in program.staged.closed.jaxpr.eqns if e.primitive.name == "scan")

    plan = independent_iterations(scan_of(second_order()), lambda params: True)
    assert plan.sequential == ()
    assert sum(map(len, plan.rounds)) == 2
    assert len(plan.rounds) == 2
    assert independent_iterations(scan_of(long_memory()), lambda params: True) is None
    assert len(independent_iterations(scan_of(counter()), lambda params: True).sequential) == 1
