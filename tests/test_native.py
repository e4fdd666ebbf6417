"""Native functions find what XLA finds operation by operation; what their emitter cannot do is never tried."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.native import as_native, in_one_piece, loops, pruned
from probinf.transformations import running


@pi.model
def with_prior(prior, y):
    mu = pi.sample("mu", prior)
    pi.observe("y", dist.Normal(mu, 1.0), y)


def test_parameters_that_only_dead_code_looks_at_do_not_end_the_process():
    """A distribution as an argument brings numbers its density does not use; the emitter aborted on them."""
    method = pi.NUTS(num_warmup=50, num_draws=200, num_chains=2)
    posterior = pi.infer(with_prior(dist.HalfNormal(1.0), 1.0), method, progress=False)
    assert "native" in posterior.method
    x = np.linspace(0.0, 8.0, 4001)
    weight = np.exp(-0.5 * x**2 - 0.5 * (1.0 - x) ** 2)
    # Six standard errors for at least 100 effective draws of standard deviation 0.45: false alarms below 1e-8.
    assert abs(posterior.mean("mu") - np.sum(x * weight) / np.sum(weight)) < 6 * 0.45 / np.sqrt(100)


def test_a_function_that_captured_an_array_is_refused():
    captured = jnp.arange(3.0)
    with pytest.raises(NotImplementedError, match="arrays of its own"):
        jax.jit(as_native(lambda x: x + captured))(jnp.ones(3))


def test_pruning_keeps_values_and_derivatives():
    def function(tree, x):
        _ = jnp.exp(tree["unused"])
        return jnp.sum(x**2) * tree["scale"], {"twice": 2.0 * x}

    tree, x = {"unused": jnp.ones(()), "scale": jnp.full((), 3.0)}, jnp.arange(3.0)
    jax.tree.map(np.testing.assert_array_equal, pruned(function)(tree, x), function(tree, x))
    gradient = jax.grad(lambda t: pruned(function)(t, x)[0])(tree)
    assert gradient == {"unused": 0.0, "scale": 5.0}
    assert "exp" not in str(jax.make_jaxpr(pruned(function))(tree, x))


class Local(smc.StateSpaceModel):
    """A line that moves with a given velocity, seen with noise."""

    velocity: Any

    def initial(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def transition(self, t, x):
        return dist.Normal(x @ jnp.array([[1.0, 0.0], [0.1, 0.9]]) + self.velocity, 0.3).to_event(1)

    def observation(self, t, x):
        return dist.Normal(x[0], 0.5)


def _plainly(monkeypatch):
    def refuse(closed):
        raise loops.NotOnePiece("asked for")

    monkeypatch.setattr(loops, "form_of", refuse)
    jax.clear_caches()


def _evidence(velocity, ys, key, **settings):
    return smc.particle_filter(Local(velocity), ys, key, **settings).log_evidence


YS = jnp.asarray(np.random.default_rng(3).normal(size=40).cumsum(), jnp.float32)


@pytest.mark.parametrize("resample", ["systematic", "stratified", "multinomial", "residual", "ssp", "killing"])
def test_a_small_filter_in_one_piece_finds_what_it_finds_operation_by_operation(resample, monkeypatch):
    settings = {"num_particles": 50, "resample": resample, "history": True}
    run = smc.particle_filter(Local(0.1), YS, 7, **settings)
    _plainly(monkeypatch)
    plain = smc.particle_filter(Local(0.1), YS, 7, **settings)
    # Sums in another order: a unit in the last place, which no ancestor here depends on.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), run, plain)
    np.testing.assert_array_equal(run.history.ancestors, plain.history.ancestors)


@pytest.mark.parametrize(("num", "is_native"), [(100, True), (2000, False)])
def test_small_filters_become_one_native_function_and_large_ones_do_not(num, is_native):
    text = jax.jit(lambda key: _evidence(0.1, YS, key, num_particles=num)).lower(jax.random.key(0)).as_text()
    assert ("xla_cpu_small_call" in text) == is_native


def test_lanes_and_derivatives_are_those_of_the_plain_program(monkeypatch):
    keys = jax.random.split(jax.random.key(0), 3)
    velocities = jnp.array([0.0, 0.1, 0.2])
    lanes = jax.jit(jax.vmap(lambda v, key: _evidence(v, YS, key, num_particles=50)))
    assert "xla_cpu_small_call" not in lanes.lower(velocities, keys).as_text()
    found = lanes(velocities, keys)
    alone = [_evidence(v, YS, key, num_particles=50) for v, key in zip(velocities, keys, strict=True)]
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    slope = jax.value_and_grad(lambda v: _evidence(v, YS, keys[0], num_particles=50))
    found = jax.jit(slope)(0.1)
    _plainly(monkeypatch)
    np.testing.assert_allclose(found, slope(0.1), rtol=1e-3)


def _scan(body, x, length=20):
    return jax.lax.scan(lambda x, i: (body(x, i), jnp.sum(x)), x, jnp.arange(length, dtype=jnp.float32))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda x, i: x * 0.9 + jnp.max(x) - jnp.min(x[:7]), id="extremes"),
        pytest.param(lambda x, i: x / (1 + jnp.sum(x * x)) + jnp.prod(1 + x[:5] / 9) / 9, id="sums and products"),
        pytest.param(lambda x, i: jnp.where(jnp.any(x > 0.5) & ~jnp.all(x > 9), x * 0.8, x + 0.1), id="any and all"),
        pytest.param(lambda x, i: (x.reshape(3, 5) @ jnp.ones((5, 5), x.dtype) / 7).reshape(-1) + i, id="a product"),
        pytest.param(lambda x, i: jnp.einsum("ab,cb->ac", x.reshape(3, 5), x.reshape(3, 5)).ravel().repeat(2)[:15]
                     / (9 + i) ** 2, id="a product along the second axes"),
        pytest.param(lambda x, i: jnp.einsum("abc,abd->acd", x.reshape(5, 1, 3), x.reshape(5, 1, 3)).ravel()[:15]
                     / (9 + i), id="products side by side"),
        pytest.param(lambda x, i: jax.lax.cond(x[0] > i, jnp.sin, lambda x: x + x[::-1] / 2, x), id="a branch"),
        pytest.param(lambda x, i: jax.lax.while_loop(lambda x: x[0] > 1, lambda x: x / 2, x + i), id="an inner loop"),
        pytest.param(lambda x, i: jnp.max(x.reshape(3, 5), axis=1).repeat(5) + jnp.sum(x.reshape(5, 3), 0)[0] / 9,
                     id="one axis"),
        pytest.param(lambda x, i: x + jnp.argmax(x).astype(x.dtype) / 9 - i, id="a position"),
    ],
)  # fmt: skip
def test_loops_in_one_piece_find_what_they_find_operation_by_operation(body):
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, 15), jnp.float32)
    function = jax.jit(in_one_piece(functools.partial(_scan, body)))
    assert "xla_cpu_small_call" in function.lower(x).as_text()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), function(x), _scan(body, x))


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: jnp.sum(x) + 1, id="no loop"),
        pytest.param(lambda x: _scan(lambda x, i: jnp.sort(x) + i, x), id="a sort"),
        pytest.param(lambda x: _scan(lambda x, i: x + jnp.sum(jnp.ones(5000, x.dtype)), x), id="a long array"),
        pytest.param(
            lambda x: _scan(lambda x, i: jnp.linalg.cholesky(jnp.eye(15, dtype=x.dtype) + i)[0] + x, x), id="a library"
        ),
    ],
)
def test_what_is_not_known_to_compile_or_to_gain_stays_as_it_is(function):
    x = jnp.ones(15, jnp.float32)
    compiled = jax.jit(in_one_piece(function))
    assert "xla_cpu_small_call" not in compiled.lower(x).as_text()
    jax.tree.map(np.testing.assert_allclose, compiled(x), function(x))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_the_parts_of_resampling_by_their_own_forms(share):
    rng = np.random.default_rng(5)
    for n, places in ((1, 1), (7, 7), (100, 100), (33, 60), (129, 50)):
        weights = jnp.asarray(rng.uniform(size=n) * (rng.random(n) >= share), jnp.float32)
        sums = running.prefix_sum(weights)
        np.testing.assert_allclose(running._doubled(weights, shape=(n,)), sums, rtol=1e-6, atol=1e-6)
        starts = jnp.asarray(np.sort(rng.integers(0, places + 1, n)), jnp.int32)
        live, least = weights > 0, jnp.asarray(n // 3, jnp.int32)
        expected = running.latest(starts, live, least, size=places)
        by_hand = [max([n // 3, *np.flatnonzero((np.asarray(starts) <= p) & np.asarray(live))]) for p in range(places)]
        np.testing.assert_array_equal(expected, by_hand)
        found = running._in_order(starts, live, least, shape=(places,))
        np.testing.assert_array_equal(found, by_hand)


def test_operands_that_nothing_uses_do_not_end_the_process():
    def function(x, n):
        return jax.lax.fori_loop(0, 50, lambda _, x: jnp.sin(x) * 0.9, x) + (n[0] * 0).astype(x.dtype)

    x, n = jnp.ones(8, jnp.float32), jnp.zeros(2, jnp.uint32)
    np.testing.assert_allclose(jax.jit(as_native(function))(x, n), function(x, n), rtol=1e-6)


def test_operands_that_turn_out_not_to_matter_do_not_end_the_process():
    """XLA drops what it finds to be zero; a parameter that nothing uses ends the process in the emitter."""

    def function(x, n, unused):
        return _scan(lambda x, i: jnp.sin(x) * 0.9, x + (n[0] * 0).astype(x.dtype))[0]

    x, n = jnp.ones(5, jnp.float32), jnp.arange(3, dtype=jnp.uint32)
    for inner in (lambda x: in_one_piece(function)(x, n, n), lambda x: in_one_piece(function)(x, n + 1, x)):
        np.testing.assert_allclose(jax.jit(inner)(x), function(x, n, n), rtol=1e-6)


def test_captured_arrays_become_operands():
    captured = jnp.arange(4, dtype=jnp.float32)
    x = jnp.ones(4, jnp.float32)
    function = in_one_piece(lambda x: _scan(lambda x, i: x * 0.5 + captured, x)[0])
    assert "xla_cpu_small_call" in jax.jit(function).lower(x).as_text()
    np.testing.assert_allclose(jax.jit(function)(x), _scan(lambda x, i: x * 0.5 + captured, x)[0])


def test_costly_bodies_stay_in_one_piece():
    """XLA would cut them in pieces for its threads, which a native function does not have: it would not compile."""

    def costly(x):
        for _ in range(30):
            x = 0.4 * jnp.sin(x) * jnp.exp(-x * x) + 0.4 * jnp.cos(x)
        return x

    def function(x):
        twice = lambda x: jax.lax.fori_loop(0, 2, lambda _, x: costly(x), x)  # noqa: E731
        return _scan(lambda x, i: jax.lax.while_loop(lambda x: jnp.sum(costly(x)) > 1e9, costly, twice(x)) + i, x)

    x = jnp.linspace(0.0, 1.0, 1000, dtype=jnp.float32)
    compiled = jax.jit(in_one_piece(function))
    assert "xla_cpu_small_call" in compiled.lower(x).as_text()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), compiled(x), function(x))
