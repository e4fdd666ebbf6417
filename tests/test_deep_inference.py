"""Inference in deep predictive-coding networks: Gaussian conditioning, closed-form energies, backpropagated errors."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probinf as pi
from probinf.predictive_coding import deep
from probinf.predictive_coding.deep.learning import energy_gradient
from tests.compile_count import compiled

SIZES = (3, 4, 5, 2)
LOG_PRECISIONS = (np.array([0.3, -0.5, 0.1, 0.7]), 0.4, np.array([1.1, -0.2]))


def linear_network(*, unit=False, seed=0):
    """Affine layers with diagonal precisions."""
    rng = np.random.default_rng(seed)
    layers = [
        deep.Dense(jnp.asarray(0.6 * rng.normal(size=(n, m))), jnp.asarray(rng.normal(size=n)))
        for m, n in itertools.pairwise(SIZES)
    ]
    energies = None if unit else [deep.Gaussian(log_precision) for log_precision in LOG_PRECISIONS]
    return deep.DeepNetwork(
        layers, 3, energies=energies, prior=deep.Gaussian(0.0 if unit else np.array([0.2, 0.0, -0.3]))
    )


def joint(network):
    """Mean and covariance of all activities, stacked, under the generative model."""
    mean, cov = np.zeros(3), np.diag(np.exp(-np.asarray(network.prior.log_precision)) * np.ones(3))
    means, maps = [mean], [np.eye(3)]
    noises = [cov]
    for layer, energy in zip(network.layers, network.energies, strict=True):
        weight = np.asarray(layer.weight)
        means.append(weight @ means[-1] + np.asarray(layer.bias))
        noises.append(np.diag(np.exp(-np.asarray(energy.log_precision)) * np.ones(len(weight))))
        maps.append(weight)
    total = sum(SIZES)
    edges = np.cumsum((0, *SIZES))
    pull = np.zeros((total, total))
    for i in range(1, len(SIZES)):
        pull[edges[i] : edges[i + 1], edges[i - 1] : edges[i]] = maps[i]
    inverse = np.linalg.inv(np.eye(total) - pull)
    noise = np.zeros((total, total))
    for i in range(len(SIZES)):
        noise[edges[i] : edges[i + 1], edges[i] : edges[i + 1]] = noises[i]
    return np.concatenate(means), inverse @ noise @ inverse.T


def conditioned(mean, cov, held, values):
    """Posterior mean of everything given the held coordinates."""
    gain = cov[:, held] @ np.linalg.inv(cov[np.ix_(held, held)])
    return mean + gain @ (values - mean[held])


DATA = np.random.default_rng(1)
X, Y = DATA.normal(size=(3, 3)), DATA.normal(size=(3, 2))
CLAMPS = {
    "inputs and outputs": ({"inputs": X, "outputs": Y}, [0, 1, 2, 12, 13]),
    "outputs alone": ({"outputs": Y}, [12, 13]),
    "a part of the outputs": ({"outputs": Y, "observed": np.array([False, True])}, [13]),
    "inputs alone": ({"inputs": X}, [0, 1, 2]),
}


@pytest.mark.parametrize("case", CLAMPS)
def test_the_fixed_point_of_a_linear_network_is_the_posterior_mean(case):
    network = linear_network()
    clamp, held = CLAMPS[case]
    exact = deep.relax(network, deep.ExactLinear(), **clamp)
    relaxed = deep.relax(network, deep.ToConvergence(tolerance=1e-9), **clamp)
    assert bool(relaxed.info.is_converged.all())
    assert float(exact.info.gradient_norm.max()) < 1e-12
    mean, cov = joint(network)
    for i in range(3):
        values = np.concatenate([X[i], np.zeros(9), Y[i]])[held]
        wanted = conditioned(mean, cov, held, values)
        for found, tolerance in ((exact, 1e-11), (relaxed, 1e-7)):
            stacked = np.concatenate([np.asarray(z[i]) for z in found.activities])
            np.testing.assert_allclose(stacked, wanted, rtol=0, atol=tolerance)


def closed_form_energy(weights, x, y):
    """Half of e' S^-1 e with e = y - W_L..W_1 x and S = I + sum of (W_L..W_l)(W_L..W_l)'; Innocenti et al. (2024)."""
    product, cov = jnp.eye(len(y)), jnp.eye(len(y))
    for weight in reversed(weights[1:]):
        product = product @ weight
        cov = cov + product @ product.T
    error = y - product @ weights[0] @ x
    return 0.5 * error @ jnp.linalg.solve(cov, error)


def unbiased(network):
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers], network, replace_fn=jnp.zeros_like)


def test_energy_and_weight_gradient_at_equilibrium_have_their_closed_forms():
    network = unbiased(linear_network(unit=True))
    weights = [layer.weight for layer in network.layers]
    found = deep.relax(network, deep.ExactLinear(), inputs=X, outputs=Y)
    wanted = [float(closed_form_energy(weights, jnp.asarray(x), jnp.asarray(y))) for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(found.energies.sum(axis=1), wanted, rtol=1e-12)

    free = (None, *found.activities[1:-1], None)
    _, gradient = eqx.filter_jit(energy_gradient)(network, deep.Clamp(jnp.asarray(X), jnp.asarray(Y)), free)
    total = jax.grad(lambda w: sum(closed_form_energy(w, jnp.asarray(x), jnp.asarray(y)) for x, y in zip(X, Y)) / 3)  # noqa: B905
    for layer, slope in zip(gradient.layers, total(weights), strict=True):
        np.testing.assert_allclose(layer.weight, slope, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def tanh_network():
    rng = np.random.default_rng(5)
    layers = [
        deep.Dense(jnp.asarray(rng.normal(size=(n, m))), jnp.asarray(0.3 * rng.normal(size=n)), jnp.tanh)
        for m, n in itertools.pairwise(SIZES)
    ]
    return deep.DeepNetwork(layers, 3)


def test_the_signal_climbs_one_layer_a_step_and_carries_the_errors_of_backpropagation(tanh_network):
    """From a forward pass with step size 1, layer l first moves at step L - l, by exactly its backpropagated error."""
    x, y = jnp.asarray(X), jnp.asarray(Y)

    def loss(shifts):
        z = x
        for layer, shift in zip(tanh_network.layers, shifts, strict=True):
            z = jax.vmap(layer)(z) + shift
        return 0.5 * jnp.sum((y - z) ** 2)

    errors = jax.grad(loss)([jnp.zeros((3, n)) for n in SIZES[1:]])
    forward = deep.relax(tanh_network, deep.FixedSteps(1, 1e-30), inputs=X, outputs=Y).activities
    for steps in (1, 2):
        found = deep.relax(tanh_network, deep.FixedSteps(steps, 1.0), inputs=X, outputs=Y)
        reached = 3 - steps
        np.testing.assert_allclose(
            found.activities[reached] - found.predictions[reached - 1], -errors[reached - 1], rtol=1e-12, atol=1e-14
        )
        for layer in range(1, reached):
            np.testing.assert_array_equal(found.activities[layer], forward[layer])


@pytest.mark.parametrize(
    "hidden_energy", [deep.Gaussian(0.4), deep.FunctionEnergy(lambda z, u: jnp.sum((z - u + 0.3) ** 4))]
)
def test_layers_that_cannot_move_yet_are_left_out_and_only_those(hidden_energy):
    """A step size leaves out what has no error yet, the same by Optax nothing. The second energy pulls at once."""
    layers = deep.mlp((3, 4, 5, 4, 3, 2), key=1, activation="tanh").layers
    network = deep.DeepNetwork(layers, 3, energies=[*[hidden_energy] * 4, deep.Gaussian()])
    for steps in (1, 2, 6):
        ours, all_layers = (
            deep.relax(network, deep.FixedSteps(steps, step), inputs=X, outputs=Y) for step in (0.1, optax.sgd(0.1))
        )
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(all_layers), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_the_energy_never_rises_on_the_way_to_convergence(tanh_network):
    found = deep.relax(tanh_network, deep.ToConvergence(tolerance=1e-8), inputs=3 * X, outputs=3 * Y)
    assert bool(found.info.is_converged.all())
    trace = np.asarray(found.info.energies)
    assert np.diff(trace, axis=0).max() <= 1e-12
    assert (trace[0] > trace[-1] + 0.01).all()
    free = found.activities[1:-1]

    def energy(free):
        z = (jnp.asarray(3 * X), *free, jnp.asarray(3 * Y))
        return sum(0.5 * jnp.sum((b - jax.vmap(f)(a)) ** 2) for f, a, b in zip(tanh_network.layers, z, z[1:]))  # noqa: B905

    assert max(float(jnp.abs(g).max()) for g in jax.grad(energy)(free)) <= 1e-8
    np.testing.assert_allclose(float(energy(free)), float(found.energies.sum()), rtol=1e-12)
    late = deep.relax(tanh_network, deep.ToConvergence(1e-8, max_steps=2), inputs=3 * X, outputs=3 * Y)
    assert not bool(late.info.is_converged.any())


def test_fixed_steps_descend_and_examples_do_not_touch_each_other(tanh_network):
    relaxation = deep.FixedSteps(6, 0.1)
    found = deep.relax(tanh_network, relaxation, inputs=X, outputs=Y)
    assert (np.diff(np.asarray(found.info.energies), axis=0) < 0).all()
    alone = deep.relax(tanh_network, relaxation, inputs=X[1:2], outputs=Y[1:2])
    np.testing.assert_allclose(alone.energies[0], found.energies[1], rtol=1e-12)


def test_new_data_of_the_same_shape_compile_nothing(tanh_network):
    relaxation = deep.FixedSteps(6, 0.1)
    deep.relax(tanh_network, relaxation, inputs=X, outputs=Y)
    with compiled() as programs:
        deep.relax(tanh_network, deep.FixedSteps(6, 0.1), inputs=Y @ np.ones((2, 3)), outputs=X[:, :2])
    assert programs == []


def test_energies_are_negative_log_densities():
    rng = np.random.default_rng(2)
    z, u, log_precision = rng.normal(size=4), rng.normal(size=4), rng.normal(size=4)
    wanted = 0.5 * np.sum(np.exp(log_precision) * (z - u) ** 2) - 0.5 * log_precision.sum()
    assert float(deep.Gaussian(log_precision)(jnp.asarray(z), jnp.asarray(u))) == pytest.approx(wanted, rel=1e-12)
    one = 0.5 * np.exp(0.7) * np.sum((z - u) ** 2) - 0.5 * 4 * 0.7
    assert float(deep.Gaussian(0.7)(jnp.asarray(z), jnp.asarray(u))) == pytest.approx(one, rel=1e-12)
    p, q = np.exp(u) / np.exp(u).sum(), 1 / (1 + np.exp(-u))
    hot, bits = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])
    assert float(deep.CrossEntropy()(jnp.asarray(hot), jnp.asarray(u))) == pytest.approx(-np.log(p[1]), rel=1e-12)
    wanted = -np.sum(bits * np.log(q) + (1 - bits) * np.log(1 - q))
    assert float(deep.Bernoulli()(jnp.asarray(bits), jnp.asarray(u))) == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(deep.CrossEntropy().mean(jnp.asarray(u)), p, rtol=1e-12)
    assert float(deep.NoEnergy()(jnp.asarray(z), jnp.asarray(u))) == 0.0


def test_mupc_scales_and_what_they_are_for():
    assert deep.mupc_scales((784, 128, 128, 128, 10)) == pytest.approx(
        (784**-0.5, (128 * 4) ** -0.5, (128 * 4) ** -0.5, 1 / 128)
    )
    assert deep.mupc_scales((9, 16, 16, 4), residual=False) == pytest.approx((1 / 3, 1 / 4, 1 / 16))
    network = deep.mupc((20, *[64] * 20, 5), key=0, activation="tanh")
    layer = network.layers[3]
    z = np.random.default_rng(0).normal(size=64)
    wanted = z + np.asarray(layer.weight) @ np.tanh(z) / np.sqrt(64 * 21)
    np.testing.assert_allclose(layer(jnp.asarray(z)), wanted, rtol=1e-12)
    assert network.layers[0](jnp.ones(20)) == pytest.approx(np.asarray(network.layers[0].weight).sum(axis=1) / 20**0.5)
    z, sizes = np.random.default_rng(1).normal(size=(50, 20)), []
    for i, layer in enumerate(network.layers[:-1]):  # in NumPy: nothing to compile
        u = (z if i == 0 else np.tanh(z)) @ np.asarray(layer.weight).T * layer.scale
        z = u if i == 0 else z + u
        sizes.append(np.sqrt(np.mean(z**2)))
    # A skip adds at most 1/21 to the mean square, 19 of them at most 19/21: the root is below 1.39. Without scales the
    # second layer alone would multiply it by 5. The mean of 64 x 50 squares is off by 0.1 at most.
    assert 0.8 < sizes[0] < 1.2
    assert sizes[0] < sizes[-1] < 1.39 * 1.1


def test_any_callable_is_a_layer():
    rng = np.random.default_rng(3)
    weight, bias = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=4))
    linear = eqx.tree_at(lambda m: (m.weight, m.bias), eqx.nn.Linear(3, 4, key=jax.random.key(0)), (weight, bias))
    networks = [
        deep.DeepNetwork([layer], 3) for layer in (deep.Dense(weight, bias), linear, lambda z: weight @ z + bias)
    ]
    for network in networks:
        np.testing.assert_allclose(network(X), X @ np.asarray(weight).T + np.asarray(bias), rtol=1e-12)
    residual = deep.DeepNetwork([deep.Residual(lambda z: jnp.sin(z))], (2, 3))
    np.testing.assert_allclose(residual(X[None, :2]), X[None, :2] + np.sin(X[None, :2]), rtol=1e-12)


def test_single_precision_stays_single():
    with jax.enable_x64(False):
        network = deep.mlp((3, 4, 2), key=0)
        found = deep.relax(network, deep.ToConvergence(1e-4), inputs=X, outputs=Y)
    assert {z.dtype for z in found.activities} == {jnp.float32.dtype}
    assert bool(found.info.is_converged.all())


WIDE = jnp.ones((2, 4))


@pytest.mark.bad_input
def test_bad_input_is_named(tanh_network):
    def relax(relaxation=deep.FixedSteps(), **clamp):  # noqa: B008
        return deep.relax(tanh_network, relaxation, **clamp)

    cases = [
        (lambda: deep.DeepNetwork([], 3), pi.ArgumentError, "layers: expected a sequence of at least one"),
        (lambda: deep.DeepNetwork([jnp.tanh, 3], 3), pi.ArgumentTypeError, r"layers\[1\]: expected a function"),
        (lambda: deep.DeepNetwork([jnp.tanh], 0), pi.ArgumentError, "input_shape: expected an integer of at least 1"),
        (lambda: deep.DeepNetwork([deep.Dense(WIDE)], 3), pi.ArgumentError, r"layers\[0\]: cannot be applied"),
        (
            lambda: deep.DeepNetwork([deep.Dense(jnp.ones((2, 3)))], 3, output_energy=deep.Gaussian([0.0] * 3)),
            pi.ArgumentError,
            r"energies\[0\]: cannot be applied",
        ),
        (lambda: deep.DeepNetwork([jnp.tanh], 3, energies=[]), pi.ArgumentError, "expected one for each of 1 layers"),
        (lambda: deep.mlp((3,), key=0), pi.ArgumentError, "sizes: expected input and output"),
        (lambda: deep.mlp((3, 2), key=0, activation="gelo"), pi.UnknownNameError, "Did you mean 'gelu'"),
        (lambda: deep.FixedSteps(0), pi.ArgumentError, "num_steps"),
        (lambda: deep.FixedSteps(3, -0.1), pi.ArgumentError, "optimiser: expected a finite number above 0"),
        (lambda: deep.FixedSteps(3, "sgd"), pi.ArgumentTypeError, "an Optax transformation"),
        (lambda: deep.ToConvergence(0.0), pi.ArgumentError, "tolerance"),
        (lambda: relax(), pi.ArgumentError, "expected at least one of them"),
        (lambda: relax(inputs=X[:, :2]), pi.DataError, r"\(examples, 3\)"),
        (lambda: relax(inputs=X * np.nan), pi.DataError, "found 9 that are NaN"),
        (lambda: relax(inputs=X, outputs=Y[:2]), pi.DataError, "inputs 3, outputs 2"),
        (lambda: relax(inputs=X, observed=[True] * 2), pi.ArgumentError, "observed"),
        (lambda: relax(inputs=X, relaxation=deep.ExactLinear()), pi.ArgumentError, r"layers\[0\] is not affine"),
        (lambda: tanh_network(X[0]), pi.DataError, "inputs: expected shape"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    network = deep.DeepNetwork([deep.Dense(jnp.ones((2, 3)))], 3, output_energy=deep.CrossEntropy())
    with pytest.raises(pi.ArgumentError, match=r"energies\[0\] CrossEntropy"):
        deep.relax(network, deep.ExactLinear(), inputs=X)
