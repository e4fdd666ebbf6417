"""Gradients of a filter's evidence: stop-gradient resampling and optimal transport, against the Kalman filter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from probinf.claims import Claim
from probinf.errors import ArgumentError, UnknownNameError
from smc.differentiable import GRADIENT_CLAIMS, differentiable_log_evidence
from smc.optimal_transport import transport

YS = jnp.array([0.8, -0.5, 1.9, 2.6, 0.3, -1.2])
THETA = {"coefficient": jnp.array(0.7), "log_noise": jnp.array(-0.4)}


def exact(theta, ys=YS):
    """Kalman: x' = a x + N(0, 1), y = x + N(0, s^2), x_0 = 0."""
    a, r = theta["coefficient"], jnp.exp(2 * theta["log_noise"])

    def update(carry, y):
        mean, variance = a * carry[0], a**2 * carry[1] + 1
        spread = variance + r
        gain = variance / spread
        log_z = -0.5 * (jnp.log(2 * jnp.pi * spread) + (y - mean) ** 2 / spread)
        return (mean + gain * (y - mean), variance * (1 - gain)), log_z

    return jnp.sum(jax.lax.scan(update, (jnp.zeros(()), jnp.zeros(())), ys)[1])


def step(theta, key, x, y):
    x = theta["coefficient"] * x + jax.random.normal(key, x.shape, x.dtype)
    s = theta["log_noise"]
    return x, -0.5 * ((y - x) / jnp.exp(s)) ** 2 - s - 0.5 * jnp.log(2 * jnp.pi)


def estimate(theta, key, num, ys=YS, **options):
    return differentiable_log_evidence(functools.partial(step, theta), jnp.zeros(num), ys, key, **options)


def estimates(num, runs, seed, **options):
    """Values and gradients (runs, 2) over independent runs."""
    run = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(estimate, num=num, **options)), in_axes=(None, 0)))
    values, slopes = run(THETA, jax.random.split(jax.random.key(seed), runs))
    return np.asarray(values), np.stack([slopes["coefficient"], slopes["log_noise"]], axis=1)


EXACT = jax.value_and_grad(exact)(THETA)
SLOPE = np.array([EXACT[1]["coefficient"], EXACT[1]["log_noise"]])


@pytest.mark.parametrize(
    ("resample", "threshold"), [("systematic", 1.0), ("multinomial", 0.7), ("ssp", 0.7), ("killing", 1.0)]
)
def test_stop_gradients_are_unbiased_for_the_gradient_of_the_evidence(resample, threshold):
    """Z-hat and Z-hat grad log Z-hat over 100,000 runs, within 5.5 standard errors: 12 tests, false alarms 5e-7."""
    values, slopes = estimates(10, 100_000, 3, resample=resample, threshold=threshold)
    relative = np.exp(values - float(EXACT[0]))[:, None]
    found = np.concatenate([relative, relative * slopes], axis=1)
    error = (found.mean(0) - np.append(1.0, SLOPE)) / (found.std(0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(error).max() < 5.5, error
    # The test sees a gradient that is off by a tenth.
    assert (found.std(0)[1:] / np.sqrt(len(found)) < 0.1 * np.abs(SLOPE) / 5.5).all()


def test_stop_gradients_leave_the_values_alone():
    """Resampling without gradients gives the same estimate, and a gradient that is wrong."""
    values, slopes = estimates(10, 50, 5, threshold=1.0)
    plain = jax.vmap(lambda k: estimate(jax.lax.stop_gradient(THETA), k, 10, threshold=1.0))
    np.testing.assert_allclose(values, plain(jax.random.split(jax.random.key(5), 50)), rtol=1e-12)
    assert np.ptp(slopes[:, 0]) > 0


def test_transport_gradients_are_near_the_kalman_gradient():
    """Stated bias: with 50 particles and epsilon 0.1 the slopes are off by less than a quarter of the largest one.

    2,000 runs show 0.04 and 0.14 of it; standard errors of 400 runs are below 0.04, so that a false alarm has to be
    2.7 of them in the bias' own direction where it is smallest: below 0.4 %, and none for the seed that is fixed.
    """
    values, slopes = estimates(50, 400, 7, gradient="transport", threshold=1.0, num_iterations=30)
    assert (slopes.std(0) / 20 < 0.04 * np.abs(SLOPE).max()).all()
    assert np.abs(slopes.mean(0) - SLOPE).max() < 0.25 * np.abs(SLOPE).max(), (slopes.mean(0), SLOPE)
    assert abs(values.mean() - float(EXACT[0])) < 0.2


@pytest.mark.slow
def test_transport_gradients_vary_less():
    _, by_weights = estimates(50, 200, 9, threshold=1.0)
    _, by_transport = estimates(50, 200, 9, gradient="transport", threshold=1.0, num_iterations=30)
    assert (by_transport.std(0) < by_weights.std(0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("gradient", GRADIENT_CLAIMS)
def test_optax_climbs_to_the_maximum_of_the_likelihood(gradient):
    """Adam from far off ends where the exact likelihood is within half a nat of its maximum."""
    rng = np.random.default_rng(1)
    states = [0.0]
    for noise in rng.normal(size=40):
        states.append(0.8 * states[-1] + noise)
    ys = jnp.asarray(states[1:] + rng.normal(size=40))
    loss = jax.jit(jax.value_and_grad(lambda t, k: -estimate(t, k, 64, ys, gradient=gradient, num_iterations=20)))
    theta, optimiser = {"coefficient": jnp.array(0.0), "log_noise": jnp.array(1.0)}, optax.adam(0.05)
    state, keys = optimiser.init(theta), jax.random.split(jax.random.key(0), 150)
    for key in keys:
        _, slope = loss(theta, key)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes integers and floats
            updates, state = optimiser.update(slope, state)
        theta = optax.apply_updates(theta, updates)
    best, up = {"coefficient": jnp.array(0.0), "log_noise": jnp.array(1.0)}, jax.jit(jax.grad(lambda t: exact(t, ys)))
    for _ in range(3000):
        best = jax.tree.map(lambda v, g: v + 0.01 * g, best, up(best))
    assert float(exact(theta, ys)) > float(exact(best, ys)) - 0.5


def test_claims():
    assert GRADIENT_CLAIMS == {"stop_gradient": Claim.CONSISTENT, "transport": Claim.APPROXIMATE}


@pytest.mark.parametrize("gradient", GRADIENT_CLAIMS)
def test_dead_particles_have_finite_gradients(gradient):
    def hard(theta, key, x, y):
        x, lw = step(theta, key, x, y)
        return x, jnp.where(x > y - 1, lw, -jnp.inf)

    run = jax.value_and_grad(
        lambda t: differentiable_log_evidence(
            functools.partial(hard, t), jnp.zeros(20), YS[:3], 0, gradient=gradient, threshold=1.0
        )
    )
    value, slope = jax.jit(run)(THETA)
    assert np.isfinite(value)
    assert all(np.isfinite(g) for g in jax.tree.leaves(slope))


def test_a_dead_population_has_no_evidence_and_no_nan():
    def hopeless(theta, key, x, y):
        x, lw = step(theta, key, x, y)
        return x, jnp.full_like(lw, -jnp.inf)

    for gradient in GRADIENT_CLAIMS:
        run = functools.partial(hopeless, THETA)
        assert differentiable_log_evidence(run, jnp.zeros(5), YS, 0, gradient=gradient) == -jnp.inf


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gradient": "none"}, ArgumentError, "'stop_gradient', 'transport'"),
        ({"threshold": 1.5}, ArgumentError, "threshold"),
        ({"resample": "sps"}, UnknownNameError, "ssp"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        estimate(THETA, 0, 5, **options)


# -- transport -------------------------------------------------------------------------------------------------------


def weighted_cloud(n=30, dim=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(0, 1.5, n)), jnp.asarray(rng.normal(size=(n, dim)))


def test_transport_keeps_the_weighted_mean():
    log_w, x = weighted_cloud()
    new = transport(log_w, x, epsilon=0.2, num_iterations=400)
    np.testing.assert_allclose(new.mean(0), jax.nn.softmax(log_w) @ x, atol=1e-6)


def test_transport_of_even_weights_moves_nothing_in_the_limit():
    """Neighbours at distance d mix by exp(-d^2 / (2 s^2 epsilon)): below 2e-3 of d = 0.07 for the last epsilon."""
    x = jnp.linspace(-1, 1, 30)
    near = [np.abs(transport(jnp.zeros(30), x, epsilon=e, num_iterations=400) - x).max() for e in (0.1, 0.01, 0.001)]
    assert near[0] > near[1] > near[2]
    assert near[2] < 2e-3 * 0.07


def test_transport_solves_the_problem_on_a_line():
    """In one dimension the least cost is by sorting: the quantiles of the weighted particles."""
    x = jnp.array([-1.0, 0.5, 2.0, 3.0])
    new = transport(jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0])), x, epsilon=1e-3, num_iterations=2000)
    np.testing.assert_allclose(np.sort(new), [-1.0, -1.0, 0.5, 2.0], atol=2e-3)


def test_transport_ignores_the_dead_and_survives_the_loss_of_all():
    log_w, x = weighted_cloud()
    log_w = log_w.at[:10].set(-jnp.inf)
    other = x.at[:10].set(1.0)
    moved = transport(log_w, x)
    # The dead still are places to go to, but nothing comes from them: every new particle is a mean of live ones.
    assert moved.min() >= x[10:].min()
    assert moved.max() <= x[10:].max()
    assert np.isfinite(transport(log_w, other)).all()
    np.testing.assert_array_equal(transport(jnp.full(30, -jnp.inf), x), x)


def test_transport_gradients_are_those_of_finite_differences():
    log_w, x = weighted_cloud(12)

    def loss(log_w, x):
        log_w, x = jnp.asarray(log_w), jnp.asarray(x)
        return jnp.sum(jnp.sin(transport(log_w, x, epsilon=0.3, num_iterations=40)) * jnp.array([[1.0, 0.3]]))

    check_grads(loss, (log_w, x), order=1, modes=["rev"], eps=1e-6, atol=1e-6, rtol=1e-6)


def test_transport_takes_trees_and_lanes_and_float32():
    log_w, x = weighted_cloud()
    tree = transport(log_w, {"a": x[:, 0], "b": x[:, 1:]})
    np.testing.assert_allclose(np.stack([tree["a"], tree["b"][:, 0]], axis=1), transport(log_w, x), rtol=1e-12)
    lanes = jax.vmap(transport)(jnp.stack([log_w, -log_w]), jnp.stack([x, x]))
    np.testing.assert_allclose(lanes[1], transport(-log_w, x), rtol=1e-9)
    assert transport(log_w.astype(jnp.float32) * 1000, x.astype(jnp.float32)).dtype == jnp.float32
    assert np.isfinite(transport(log_w.astype(jnp.float32) * 1000, x.astype(jnp.float32))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transport(jnp.zeros(3), jnp.zeros(3), epsilon=0.0), "epsilon"),
        (lambda: transport(jnp.zeros(3), jnp.zeros(4)), "3 rows"),
        (lambda: transport(jnp.zeros(3), jnp.zeros(3, jnp.int32)), "float arrays"),
        (lambda: transport(jnp.zeros(3), jnp.zeros(3), num_iterations=0), "num_iterations"),
    ],
)
def test_bad_arguments_of_transport_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
