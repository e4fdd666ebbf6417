"""Small programs with finitely many executions, each returning its whole trace, and one language of random ones.

Each has the shape of a known difficulty of particle interpreters (see its docstring). `PROGRAMS` names them all; a new
program is one more entry. They are small enough for the exact law of a particle filter on them to be enumerated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.language import statements as pi
from probinf.language.program import Program, model

# NumPy's, in double precision whatever JAX is set to when this module is imported.
TRANSITION = np.array([[0.7, 0.3], [0.2, 0.8]])
EMISSION = np.array([0.2, 0.9])
DATA = np.array([1, 0])


def number(x: Any) -> jax.Array:
    """An integer as a float."""
    return jnp.asarray(x, float)


@model
def hidden_markov(ys):
    """A two-state hidden Markov model; the path is a stacked loop output."""

    def step(z, y):
        z = pi.sample("z", dist.CategoricalProbs(jnp.asarray(TRANSITION)[z]))
        pi.sample("y", dist.Bernoulli(jnp.asarray(EMISSION)[z]), obs=y)
        return z, z

    return jax.lax.scan(step, 0, ys)[1]


@model
def static_parameter(ys):
    """A parameter drawn before the loop and used inside it: a random constant of the body."""
    theta = pi.sample("theta", dist.Bernoulli(0.4))

    def step(z, y):
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == theta, 0.7, 0.25)))
        pi.factor("f", jnp.where(z == y, 0.0, -1.2) + 0.3 * number(theta))
        return z, z + theta

    return theta, jax.lax.scan(step, 0, ys)[1]


@model
def random_branch():
    """Factors in the branches of a random condition inside jit, one of them zero; scores and draws after the join."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    @jax.jit
    def inner(a):
        def yes(a):
            b = pi.sample("b", dist.Bernoulli(0.6))
            pi.factor("fb", jnp.where(b == 1, -0.5, -jnp.inf))
            return b

        def no(a):
            pi.factor("g", -0.2)
            return a

        return jax.lax.cond(a == 1, yes, no, a)

    b = inner(a)
    pi.sample("o", dist.Bernoulli(jnp.where(b == 1, 0.9, 0.3)), obs=1)
    return a, b


@model
def timed_factor(ys):
    """A factor in a branch that depends on time, not on draws: all particles take it together."""

    def step(z, at):
        t, y = at
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25)))
        jax.lax.cond(t == 1, lambda: pi.factor("f", jnp.where(z == y, 0.0, -1.2)), lambda: None)
        return z, z

    return jax.lax.scan(step, 0, (jnp.arange(2), ys))[1]


@model
def early_termination():
    """A while loop that particles leave at different times; what came before it is used after it."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    def body(c):
        n, _ = c
        go = pi.sample("go", dist.Bernoulli(jnp.where(a == 1, 0.8, 0.4)))
        pi.factor("w", -0.3 * number(go) + 0.5 * number(a))
        return n + 1, (go == 1) & (n < 1)

    n, _ = jax.lax.while_loop(lambda c: c[1], body, (0, jnp.array(True)))
    pi.factor("z", -0.4 * number(n) * number(a))
    return a, n


@model
def score_in_condition():
    """A score in the condition of a while loop: it counts once per evaluation of the condition."""

    def test(n):
        pi.factor("c", -0.25)
        return n < 2

    def body(n):
        pi.factor("b", -0.5 * number(n))
        return n + 1

    n = jax.lax.while_loop(test, body, 0)
    z = pi.sample("z", dist.Bernoulli(0.3))
    pi.factor("f", jnp.where(z == 1, 0.2, -0.1) * number(n))
    return z, n


@model
def draw_in_condition():
    """A draw and a score in the condition of a while loop."""

    def test(n):
        go = pi.sample("go", dist.Bernoulli(0.4))
        pi.factor("c", -0.7 * number(go) + 0.2 * number(n))
        return (go == 1) & (n < 1)

    n = jax.lax.while_loop(test, lambda n: n + 1, 0)
    pi.factor("f", -0.3 * number(n))
    return n


@model
def counted_while():
    """A while loop with a shared condition, a random constant and a random carry."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    def body(c):
        n, z, path = c
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == a, 0.6, 0.3)))
        pi.factor("f", jnp.where(z == 1, -0.9, 0.3) - 0.2 * number(a))
        return n + 1, z, path.at[n].set(z)

    n, _, path = jax.lax.while_loop(lambda c: c[0] < 2, body, (0, 0, jnp.zeros(2, int)))
    return a, path, n


@model
def zero_weights():
    """Executions of weight zero: whole populations may die on the way."""
    a = pi.sample("a", dist.Bernoulli(0.5))
    pi.factor("f", jnp.where(a == 1, 0.0, -jnp.inf))
    b = pi.sample("b", dist.Bernoulli(0.25))
    pi.factor("g", jnp.where(b == a, -jnp.inf, 0.3))
    return a, b


@model
def no_mass():
    """Z = 0: a legal program without a posterior."""
    a = pi.sample("a", dist.Bernoulli(0.5))
    pi.factor("f", -jnp.inf)
    b = pi.sample("b", dist.Bernoulli(0.5))
    pi.factor("g", -1.0 * number(b))
    return a, b


@model
def nested_plates():
    """Plates inside plates, with parameters of several shapes."""
    with pi.plate("outer", 2):
        z = pi.sample("z", dist.Bernoulli(jnp.array([0.3, 0.6])))
        with pi.plate("inner", 2):
            pi.sample("y", dist.Bernoulli(jnp.where(z == 1, 0.8, 0.1)), obs=jnp.array([[1, 0], [1, 1]]))
    return z


@model
def unequal_factors():
    """Executions that meet zero, one or two factors."""
    a = pi.sample("a", dist.CategoricalProbs(jnp.array([0.5, 0.2, 0.3])))

    def two():
        pi.factor("f0", -0.3)
        pi.factor("f1", 0.4)

    jax.lax.cond(a == 2, two, lambda: None)
    b = pi.sample("b", dist.Bernoulli(jnp.where(a == 2, 0.2, 0.6)))
    jax.lax.cond(b == 1, lambda: pi.factor("g", -0.8 * number(a)), lambda: None)
    return a, b


@model
def random_inputs():
    """A loop over drawn values: inputs that are re-indexed at every resampling before they are read."""
    with pi.plate("n", 2):
        x = pi.sample("x", dist.Bernoulli(jnp.array([0.3, 0.6])))

    def step(s, x):
        z = pi.sample("z", dist.Bernoulli(jnp.where(x == 1, 0.8, 0.3)))
        pi.factor("f", jnp.where(z == s, -0.7, 0.4) + 0.5 * number(x))
        return z, z

    return x, jax.lax.scan(step, 0, x)[1]


@model
def reversed_loop(ys):
    """A loop that runs backwards over drawn inputs, with stacked outputs."""
    a = pi.sample("a", dist.Bernoulli(0.4))

    def step(z, y):
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == a, 0.7, 0.2)))
        pi.factor("f", jnp.where(z == y, 0.0, -1.0))
        return z, z

    last, path = jax.lax.scan(step, 0, ys, reverse=True)
    return a, path, last


@model
def three_way_switch():
    """A switch with three branches, with different draws and scores."""
    k = pi.sample("k", dist.CategoricalProbs(jnp.array([0.5, 0.2, 0.3])))

    def draw():
        u = pi.sample("u", dist.Bernoulli(0.3))
        pi.factor("fu", 0.6 * number(u))
        return u

    def twice():
        pi.factor("f1", -0.3)
        pi.factor("f2", -0.4)
        return jnp.asarray(2)

    u = jax.lax.switch(k, [draw, twice, lambda: jnp.asarray(3)])
    pi.sample("o", dist.Bernoulli(jnp.array([0.2, 0.9, 0.5, 0.7])[u]), obs=1)
    return k, u


@model
def nested_loops():
    """A loop in a loop; the inner one stacks outputs that only the outer loop's outputs keep."""

    def outer(z, t):
        def inner(z, s):
            z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25)))
            pi.factor("f", jnp.where(z == s, 0.0, -0.9) - 0.1 * number(t))
            return z, z

        z, path = jax.lax.scan(inner, z, jnp.arange(2))
        return z, path

    return jax.lax.scan(outer, 0, jnp.arange(2))[1]


@model
def mapped_lanes():
    """Independent lanes under pi.vmap, one of their sites without a mapped parameter."""

    def lane(y):
        z = pi.sample("z", dist.Bernoulli(0.3))
        pi.factor("f", jnp.where(z == y, 0.0, -1.1))
        return z

    zs = pi.vmap(lane)(jnp.asarray(DATA))
    pi.factor("g", 0.3 * number(zs[0] * zs[1]))
    return zs


@jax.custom_jvp
def _opaque(x):
    z = pi.sample("z", dist.Bernoulli(x))
    pi.factor("f", -0.8 * number(z))
    return z


@_opaque.defjvp
def _(primals, tangents):
    raise AssertionError("not differentiated")


@model
def wrapped_calls():
    """Sites inside checkpoint, jit and a function with its own derivative rule, between values that live on."""
    a = pi.sample("a", dist.Bernoulli(0.3))
    z = _opaque(jnp.where(a == 1, 0.7, 0.2))

    @jax.checkpoint
    def remembered(a, z):
        b = pi.sample("b", dist.Bernoulli(jnp.where(a == z, 0.8, 0.4)))
        pi.factor("g", 0.5 * number(b) - 0.4 * number(a))
        return b

    return a, z, jax.jit(remembered)(a, z)


@model
def two_scores_in_a_call():
    """Two resamplings inside one call: what lives outside is re-indexed by their composition, in the right order."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    @jax.jit
    def inner(a):
        pi.factor("f", jnp.where(a == 1, -0.2, -1.3))
        b = pi.sample("b", dist.Bernoulli(jnp.where(a == 1, 0.8, 0.4)))
        pi.factor("g", jnp.where(a == b, 0.5, -0.7))
        return b

    return a, inner(a)


@model
def counted_loop():
    """fori_loop with fixed bounds that writes into an array it carries."""

    def body(i, c):
        z, path = c
        z = pi.sample("z", dist.CategoricalProbs(jnp.asarray(TRANSITION)[z]))
        pi.factor("f", jnp.where(z == 1, -0.6, 0.2) * (1.0 + number(i)))
        return z, path.at[i].set(z)

    return jax.lax.fori_loop(0, 2, body, (0, jnp.zeros(2, int)))[1]


@model
def loop_in_branch():
    """A loop with scores inside one branch of a random condition."""
    a = pi.sample("a", dist.Bernoulli(0.4))

    def yes():
        def step(z, y):
            z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25)))
            pi.factor("f", jnp.where(z == y, 0.0, -1.2))
            return z, z

        return jax.lax.scan(step, 0, DATA)[1]

    path = jax.lax.cond(a == 1, yes, lambda: jnp.zeros(2, int))
    pi.factor("g", 0.3 * number(a))
    return a, path


@model
def branch_in_loop(ys):
    """A random branch with scores inside a loop, with a draw made before the loop and stacked outputs."""
    a = pi.sample("a", dist.Bernoulli(0.4))

    def step(z, y):
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == a, 0.7, 0.25)))
        jax.lax.cond(z == 1, lambda: pi.factor("f", jnp.where(a == y, 0.3, -1.2)), lambda: pi.factor("g", -0.4))
        return z, z

    return a, jax.lax.scan(step, 0, ys)[1]


@model
def score_before_draws():
    """A score before the first draw, and a draw that nothing scores afterwards."""
    pi.factor("f", -0.7)
    a = pi.sample("a", dist.Bernoulli(0.3))
    pi.factor("g", -0.5 * number(a))
    b = pi.sample("b", dist.Bernoulli(jnp.where(a == 1, 0.9, 0.4)))
    return a, b


@model
def empty_loop():
    """A loop of no iterations between draws and scores."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    def step(z, y):
        z = pi.sample("z", dist.Bernoulli(0.5))
        pi.factor("f", -1.0)
        return z, z

    z, path = jax.lax.scan(step, a, jnp.zeros(0))
    pi.factor("g", -0.5 * number(z))
    return a, path.shape[0] + z


@model
def counter_around_a_call():
    """A while loop that carries a counter only; a loop inside it resamples. `a` outside must follow the ancestors.

    Seen only if the weights of `a` are still uneven when `g` is met: with a threshold between 1/2 and 1.
    """
    a = pi.sample("a", dist.Bernoulli(0.4))
    pi.factor("f", 0.3 * number(a))

    def score(carry, _):
        z = pi.sample("z", dist.Bernoulli(0.5))
        pi.factor("g", -3.0 * number(z))
        return carry, None

    def body(n):
        jax.lax.scan(score, 0, None, length=1)
        return n + 1

    n = jax.lax.while_loop(lambda n: n < 1, body, 0)
    pi.factor("h", -0.5 * number(a))
    return a, n


PROGRAMS: dict[str, Program] = {
    p.name: p
    for p in (
        hidden_markov(DATA),
        static_parameter(DATA),
        random_branch(),
        timed_factor(DATA),
        early_termination(),
        score_in_condition(),
        draw_in_condition(),
        counted_while(),
        zero_weights(),
        no_mass(),
        nested_plates(),
        unequal_factors(),
        random_inputs(),
        reversed_loop(DATA),
        three_way_switch(),
        nested_loops(),
        mapped_lanes(),
        wrapped_calls(),
        two_scores_in_a_call(),
        counted_loop(),
        loop_in_branch(),
        branch_in_loop(DATA),
        score_before_draws(),
        empty_loop(),
    )
}
