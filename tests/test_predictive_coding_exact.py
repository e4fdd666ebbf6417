"""Linear networks against the Kalman filter and exact conditioning; moment matching against brute quadrature."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probinf.predictive_coding import (
    Enhanced,
    MomentMatched,
    Network,
    Standard,
    Unbounded,
    UnitSquareSigmoid,
    filtering,
    response_log_likelihood,
)
from tests.kalman import local_level_log_evidence


def test_a_local_level_network_is_the_kalman_filter():
    rng = np.random.default_rng(0)
    y, steps = np.cumsum(rng.normal(size=60)), rng.uniform(0.2, 3.0, 60)
    y[[5, 6, 20]] = np.nan
    network = (
        Network()
        .continuous_input("u", precision=1 / 0.7, missing="nan")
        .continuous_state("x", mean=0.3, precision=0.5, tonic_volatility=np.log(0.4))
        .value("x", "u")
    )
    run = network.filter(y, time_steps=steps)
    mean, variance, log_likelihood = 0.3, 2.0, 0.0
    for k in range(60):
        variance += 0.4 * steps[k]
        if not np.isnan(y[k]):
            total = variance + 0.7
            log_likelihood -= 0.5 * (np.log(2 * np.pi * total) + (y[k] - mean) ** 2 / total)
            mean, variance = mean + variance / total * (y[k] - mean), variance * 0.7 / total
        assert float(run["x"].mean[k]) == pytest.approx(mean, rel=1e-10, abs=1e-12)
        assert float(run["x"].precision[k]) == pytest.approx(1 / variance, rel=1e-10)
    assert float(run.log_likelihood) == pytest.approx(log_likelihood, rel=1e-10)


def linear_gaussian(network: Network, u: dict[str, float], dt: float) -> dict[str, tuple[float, float]]:
    """Exact posterior means and precisions after one step from independent beliefs, by the joint Gaussian."""
    names = network.state_names()
    mean, cov = np.zeros(len(names)), np.zeros((len(names), len(names)))
    shift, mix, noise = np.zeros(len(names)), np.zeros((len(names), len(names))), np.zeros(len(names))
    for i, name in enumerate(names):
        node = network.node(name)
        mean[i] = node.autoconnection * node.mean
        noise[i] = node.autoconnection**2 / node.precision + dt * np.exp(node.tonic_volatility)
        shift[i] = dt * node.drift
        for e in network.edges:
            if e.child == name:
                mix[i, names.index(e.parent)] = dt * e.strength
    inverse = np.linalg.inv(np.eye(len(names)) - mix)
    mean, cov = inverse @ (mean + shift), inverse @ np.diag(noise) @ inverse.T
    for name, value in u.items():
        row = np.zeros(len(names))
        for e in network.edges:
            if e.child == name:
                row[names.index(e.parent)] = e.strength
        total = row @ cov @ row + 1 / network.node(name).precision
        gain = cov @ row / total
        mean, cov = mean + gain * (value - row @ mean), cov - np.outer(gain, row @ cov)
    return {name: (mean[i], 1 / cov[i, i]) for i, name in enumerate(names)}


def chain() -> Network:
    return (
        Network()
        .continuous_input("u", precision=4.0)
        .continuous_state("x1", mean=0.2, precision=2.0, tonic_volatility=-2.0, autoconnection=0.7, drift=0.1)
        .continuous_state("x2", mean=0.5, precision=3.0, tonic_volatility=-2.0)
        .continuous_state("x3", mean=-0.4, precision=1.0, tonic_volatility=-1.0, autoconnection=0.9)
        .value("x1", "u", 1.3)
        .value("x2", "x1", 0.7)
        .value("x3", "x2", -0.5)
    )


def two_parents() -> Network:
    return (
        Network()
        .continuous_input("u", precision=4.0)
        .continuous_state("x1", mean=0.2, precision=2.0, tonic_volatility=-2.0)
        .continuous_state("x2", mean=0.5, precision=3.0, tonic_volatility=-2.0)
        .continuous_state("x3", mean=1.0, precision=0.5)
        .value("x1", "u", 0.7)
        .value("x2", "u", -0.4)
        .value("x3", "x2", 2.0)
    )


@pytest.mark.parametrize("build", [chain, two_parents])
@pytest.mark.parametrize("dt", [1.0, 0.3, 4.0])
def test_one_step_of_a_linear_tree_is_exact_conditioning(build, dt):
    network = build()
    run = network.filter([1.3], time_steps=[dt])
    for name, (mean, precision) in linear_gaussian(network, {"u": 1.3}, dt).items():
        assert float(run[name].mean[0]) == pytest.approx(mean, rel=1e-10)
        assert float(run[name].precision[0]) == pytest.approx(precision, rel=1e-10)


def test_relaxed_weights_are_exact_in_chains_and_overconfident_with_two_parents():
    for build, exact in ((chain, True), (two_parents, False)):
        network = build()
        relaxed = Network(mode="relaxed")
        for node in network.nodes:
            relaxed = relaxed.add(node)
        for e in network.edges:
            relaxed = relaxed.value(e.parent, e.child, e.strength)
        run = relaxed.filter([1.3])
        truth = linear_gaussian(network, {"u": 1.3}, 1.0)
        ratio = np.array([float(run[name].precision[0]) / truth[name][1] for name in truth])
        assert np.allclose(ratio, 1.0, rtol=1e-10) if exact else ratio.max() > 1.05


def test_the_log_likelihood_of_the_local_level_model_is_the_known_one():
    y = np.cumsum(np.random.default_rng(3).normal(size=40))
    sd = 0.8
    network = (
        Network()
        .continuous_input("u")
        .continuous_state("x", mean=0.0, precision=1e9, tonic_volatility=2 * np.log(sd))
        .value("x", "u")
    )
    # The prior of the reference is the first step's own noise about 0.
    assert float(network.log_likelihood(y)) == pytest.approx(local_level_log_evidence(y, sd, 1.0), rel=1e-6)


# -- moment matching against a fine grid -----------------------------------------------------------------------------


def grid_moments(log_density, low: float, high: float) -> tuple[float, float]:
    x = np.linspace(low, high, 400_001)
    log_p = log_density(x)
    p = np.exp(log_p - log_p.max())
    mean = (p * x).sum() / p.sum()
    return mean, (p * (x - mean) ** 2).sum() / p.sum()


def test_moment_matched_binary_parents_have_the_exact_moments():
    prior = {"mean": np.array([-6.0, 0.0, 3.0, -20.0]), "variance": np.array([16.0, 0.2, 4.0, 100.0])}
    network = (
        Network(update=MomentMatched())
        .binary_input("u")
        .continuous_state("x", mean=prior["mean"], precision=1 / (prior["variance"] - np.exp(-4.0)))
        .value("x", "u")
    )
    for outcome in (0.0, 1.0):
        run = network.filter([outcome])
        for k, (m, v) in enumerate(zip(*prior.values(), strict=True)):

            def log_density(x, m=m, v=v, outcome=outcome):
                return -0.5 * (x - m) ** 2 / v + outcome * x - np.logaddexp(0.0, x)

            mean, variance = grid_moments(log_density, m - 160, m + 160)
            # The logistic function has poles at i pi, so that a uniform grid of spacing h is off by some
            # exp(-2 pi^2 / h); the 64 points span what lies within 35 nats of the highest.
            x = np.linspace(m - 160, m + 160, 4001)
            heights = log_density(x)
            spacing = np.ptp(x[heights > heights.max() - 35]) / 61
            off = 1e-8 + 10 * np.exp(-2 * np.pi**2 / spacing)
            assert float(run["x"].mean[0, k]) == pytest.approx(mean, abs=off * np.sqrt(variance))
            assert 1 / float(run["x"].precision[0, k]) == pytest.approx(variance, rel=2 * off)
    assert grid_moments(lambda x: -((x + 6) ** 2) / 32 + x - np.logaddexp(0, x), -60, 60) == pytest.approx(
        (0.637, 5.19), abs=5e-3
    )


def test_moment_matched_volatility_parents_have_the_exact_moments_with_several_children():
    network = (
        Network(mode="mean-field", update=Standard())
        .continuous_input("u")
        .continuous_input("v")
        .continuous_state("a", precision=1.0)
        .continuous_state("b", precision=2.0, tonic_volatility=-1.0)
        .continuous_state("top", precision=1.0, tonic_volatility=-2.0, update=MomentMatched())
        .value("a", "u")
        .value("b", "v")
        .volatility("top", "a", 1.0)
        .volatility("top", "b", -0.6)
    )
    cases = np.array([[0.0, 0.0], [8.0, 0.1], [0.3, 40.0], [90.0, 60.0]])
    run = network.filter({"u": cases[None, :, 0], "v": cases[None, :, 1]})
    variance = 1 / 1.0 + np.exp(-2.0)
    for k in range(len(cases)):
        children = []
        for name, kappa, carried, omega in (("a", 1.0, 1.0, -4.0), ("b", -0.6, 0.5, -1.0)):
            belief = run[name]
            spread = 1 / belief.precision[0, k] + (belief.mean[0, k] - belief.expected_mean[0, k]) ** 2
            children.append((kappa, carried, omega, float(spread)))

        def log_density(x, children=children):
            total = -0.5 * x**2 / variance
            for kappa, carried, omega, spread in children:
                s = carried + np.exp(kappa * x + omega)
                total = total - 0.5 * (np.log(s) + spread / s)
            return total

        mean, var = grid_moments(log_density, -30, 30)
        assert float(run["top"].mean[0, k]) == pytest.approx(mean, rel=1e-5, abs=1e-5)
        assert 1 / float(run["top"].precision[0, k]) == pytest.approx(var, rel=1e-5)


# -- derivatives, batches, missing values -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def binary() -> Network:
    return (
        Network()
        .binary_input("u", missing="nan")
        .continuous_state("x2", tonic_volatility=-2.5)
        .continuous_state("x3", tonic_volatility=-3.0, autoconnection=0.99)
        .value("x2", "u")
        .volatility("x3", "x2")
    )


OUTCOMES = np.random.default_rng(1).integers(0, 2, 30).astype(float)
OMEGA, KAPPA = "x2.tonic_volatility", "x3->x2.volatility"


def test_forward_reverse_and_difference_quotients_agree(binary):
    value, gradient = binary.value_and_gradient([OMEGA, KAPPA], OUTCOMES)

    @jax.jit
    def f(omega, kappa):
        return binary.replace({OMEGA: omega, KAPPA: kappa}).log_likelihood(OUTCOMES)

    at = (jnp.asarray(-2.5), jnp.asarray(1.0))
    reverse = jax.grad(f, (0, 1))(*at)
    h = 1e-5
    quotients = [(f(-2.5 + h, 1.0) - f(-2.5 - h, 1.0)) / (2 * h), (f(-2.5, 1.0 + h) - f(-2.5, 1.0 - h)) / (2 * h)]
    np.testing.assert_allclose(value, f(*at), rtol=1e-12)
    np.testing.assert_allclose([gradient[OMEGA], gradient[KAPPA]], reverse, rtol=1e-9)
    np.testing.assert_allclose(quotients, reverse, rtol=1e-6)


def test_a_batch_equals_its_entries_one_by_one(binary):
    omegas = np.array([-4.0, -2.5, -1.0])
    data = np.stack([OUTCOMES, 1 - OUTCOMES, np.where(np.arange(30) < 20, OUTCOMES, np.nan)], axis=1)
    batch = binary.replace({OMEGA: omegas})
    run = batch.filter(data)
    likelihoods, gradients = batch.value_and_gradient([OMEGA], data)
    assert run["x3"].mean.shape == (30, 3)
    for k, omega in enumerate(omegas):
        one = binary.replace({OMEGA: omega})
        length = 20 if k == 2 else 30  # what is missing at the end changes no likelihood
        np.testing.assert_allclose(one.filter(data[:, k])["x3"].mean, run["x3"].mean[:, k], rtol=1e-12)
        np.testing.assert_allclose(one.log_likelihood(data[:length, k]), likelihoods[k], rtol=1e-12)
        np.testing.assert_allclose(
            one.value_and_gradient([OMEGA], data[:, k])[1][OMEGA], gradients[OMEGA][k], rtol=1e-9
        )


@pytest.mark.parametrize("rule", [Enhanced(), Unbounded(), MomentMatched(num_points=16)])
def test_blocks_of_a_large_batch_are_what_an_ordinary_scan_gives(rule):
    """Three blocks in double precision, the last of which begins early; numbers, data and steps with batch axes."""
    size, rng = 150, np.random.default_rng(2)
    network = (
        Network(update=rule)
        .binary_input("u", missing="nan")
        .continuous_state("x2")
        .continuous_state("x3", autoconnection=0.99)
        .value("x2", "u")
        .volatility("x3", "x2")
    )
    omegas, kappas = rng.uniform(-4.0, -1.0, size), rng.uniform(0.5, 1.5, size)
    data = np.where(rng.random((12, size)) < 0.1, np.nan, rng.integers(0, 2, (12, size)))
    given = network.prepare(data, time_steps=rng.uniform(0.5, 2.0, (12, size)))

    def total(omegas, kappas):  # traced, and so an ordinary scan
        return jnp.sum(network.replace({OMEGA: omegas, KAPPA: kappas}).log_likelihood(given))

    batch = network.replace({OMEGA: omegas, KAPPA: kappas})
    likelihoods, gradients = batch.value_and_gradient([OMEGA, KAPPA], given)
    slopes = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(omegas), jnp.asarray(kappas))
    np.testing.assert_allclose(batch.log_likelihood(given), batch.filter(given).log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(likelihoods, batch.filter(given).log_likelihood, rtol=1e-12)
    np.testing.assert_allclose([gradients[OMEGA], gradients[KAPPA]], slopes, rtol=1e-8, atol=1e-10)


def test_batches_go_through_native_code_only_where_the_emitter_takes_them(binary):
    """Sums over a grid of points are beyond it once they are large: compilation would fail, in single precision too."""
    batch = binary.replace({OMEGA: np.linspace(-4.0, -1.0, 150)})

    def is_native(update) -> bool:
        plan = dataclasses.replace(batch.plan(), nodes=tuple(n._replace(update=update) for n in batch.plan().nodes))
        lowered = filtering._native.lower(
            filtering._accumulate, plan, (), batch.numbers(), batch.prepare(OUTCOMES), None, None
        )
        return "xla_cpu_small_call" in lowered.as_text()

    assert is_native(Enhanced())
    assert not is_native(MomentMatched())


def test_blocks_of_responses_are_what_an_ordinary_scan_gives(binary):
    size, rng = 150, np.random.default_rng(3)
    batch = binary.replace({OMEGA: rng.uniform(-4.0, -1.0, size)})
    given, sigmoid = batch.prepare(OUTCOMES), UnitSquareSigmoid("u", rng.uniform(1.0, 4.0, size))
    rows = jnp.asarray(rng.integers(0, 2, (30, size)).astype(float)), jnp.asarray(rng.random((30, size)) < 0.9)
    ordinary = jax.jit(lambda b, r: response_log_likelihood(b, r, given, rows))(batch, sigmoid)
    np.testing.assert_allclose(response_log_likelihood(batch, sigmoid, given, rows), ordinary, rtol=1e-12)


def test_networks_of_one_shape_share_what_was_compiled(binary):
    from probinf.predictive_coding.filtering import Traces

    binary.filter(OUTCOMES)
    before = Traces.count
    other = (
        Network("other")
        .binary_input("y", missing="nan")
        .continuous_state("low", mean=0.4)
        .continuous_state("high", precision=2.0)
        .value("low", "y", 0.8)
        .volatility("high", "low", 0.5)
    )
    other.filter(1 - OUTCOMES)
    assert Traces.count == before


def test_a_node_without_observed_children_keeps_its_prediction(binary):
    data = OUTCOMES.copy()
    data[10:20] = np.nan
    run = binary.filter(data)
    for name in ("x2", "x3"):
        np.testing.assert_array_equal(run[name].mean[10:20], run[name].expected_mean[10:20])
        np.testing.assert_array_equal(run[name].precision[10:20], run[name].expected_precision[10:20])
    np.testing.assert_array_equal(run.log_densities[10:20], 0.0)
    assert np.all(np.diff(run["x2"].precision[10:20]) < 0)


def test_a_step_of_no_length_changes_nothing(binary):
    network = binary.replace({"x2.autoconnection": 0.5, "x2.drift": 3.0})
    run = network.filter(np.array([1.0, np.nan, 0.0]), time_steps=[1.0, 0.0, 1.0])
    assert float(run["x2"].mean[1]) == float(run["x2"].mean[0])
    assert float(run["x2"].precision[1]) == pytest.approx(float(run["x2"].precision[0]), rel=1e-15)


@pytest.mark.parametrize("function", ["exp", "tanh", "square"])
def test_nonlinear_couplings_move_the_parent_uphill(function):
    network = (
        Network(update=Enhanced())
        .continuous_input("u", precision=4.0)
        .continuous_state("x", mean=0.5, precision=4.0)
        .value("x", "u", function=function)
    )
    g = {"exp": np.exp, "tanh": np.tanh, "square": np.square}[function]
    run = network.filter([float(g(0.8))])
    # One Newton step on the exact log posterior towards 0.8; the prior keeps it short of that.
    variance = 0.25 + np.exp(-4.0)

    def log_posterior(x):
        return -0.5 * (x - 0.5) ** 2 / variance - 2.0 * (g(0.8) - g(x)) ** 2

    h = 1e-4
    up, here, down = log_posterior(0.5 + h), log_posterior(0.5), log_posterior(0.5 - h)
    newton = 0.5 - (up - down) / (2 * h) / ((up - 2 * here + down) / h**2)
    assert float(run["x"].mean[0]) == pytest.approx(newton, rel=1e-5)
