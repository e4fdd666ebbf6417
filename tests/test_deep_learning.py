"""Learning in deep predictive-coding networks: gradients in their limits, runs that are interrupted and continued."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import probinf as pi
from probinf.predictive_coding import deep
from probinf.predictive_coding.deep import training as training_module
from probinf.predictive_coding.deep.learning import energy_gradient
from probinf.runs import checkpoint

RNG = np.random.default_rng(7)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))


def dense(sizes, activation, seed=0):
    rng = np.random.default_rng(seed)
    return [
        deep.Dense(jnp.asarray(rng.normal(size=(n, m)) / np.sqrt(m)), jnp.asarray(0.1 * rng.normal(size=n)), activation)
        for m, n in itertools.pairwise(sizes)
    ]


def flat(gradient):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def backprop(network, x, y):
    """Gradient of the mean of half the squared error after a forward pass."""
    parameters, rest = deep.trainable(network)

    def loss(parameters):
        z = jnp.asarray(x)
        for layer in eqx.combine(parameters, rest).layers:
            z = jax.vmap(layer)(z)
        return 0.5 * jnp.mean(jnp.sum((jnp.asarray(y) - z) ** 2, axis=1))

    return flat(eqx.filter_jit(jax.grad(loss))(parameters))


def test_weakly_clamped_outputs_give_the_gradient_of_backpropagation():
    """With output precision p the gradient over p differs from backpropagation's by O(p)."""
    layers, gaps, deltas = dense((3, 4, 4, 2), jnp.tanh), [], (1e-3, 1e-4)
    for precision in deltas:
        log_precision = np.log(precision)
        network = deep.DeepNetwork(layers, 3, output_energy=deep.Gaussian(log_precision))
        found = deep.relax(network, deep.ToConvergence(tolerance=1e-13), inputs=X, outputs=Y)
        free = (None, *found.activities[1:-1], None)
        _, gradient = eqx.filter_jit(energy_gradient)(network, deep.Clamp(jnp.asarray(X), jnp.asarray(Y)), free)
        wanted = backprop(network, X, Y)
        gaps.append(np.abs(flat(gradient) / precision - wanted).max() / np.abs(wanted).max())
    assert gaps[1] < 3e-4
    assert gaps[0] / gaps[1] == pytest.approx(10.0, rel=0.02)


def test_without_inference_only_the_last_layer_learns():
    network = deep.DeepNetwork(dense((3, 4, 4, 2), jnp.tanh), 3)
    optimiser = optax.sgd(1.0)
    state = optimiser.init(deep.trainable(network)[0])
    moved, _, energy = eqx.filter_jit(deep.Incremental(1, 0.1).step)(
        network, state, optimiser, deep.Clamp(jnp.asarray(X), jnp.asarray(Y))
    )
    for before, after in zip(network.layers[:-1], moved.layers[:-1], strict=True):
        np.testing.assert_array_equal(before.weight, after.weight)
    step = network.layers[-1].weight - moved.layers[-1].weight
    wanted = backprop(network, X, Y)[-len(step.ravel()) - 2 : -2].reshape(step.shape)
    np.testing.assert_allclose(step, wanted, rtol=1e-12, atol=1e-15)
    assert float(energy) == pytest.approx(0.5 * np.mean(np.sum((np.asarray(network(X)) - Y) ** 2, axis=1)), rel=1e-12)


def test_incremental_learning_is_infer_and_learn_in_turns():
    """Three steps by hand, from separate gradients."""
    network = deep.DeepNetwork(dense((3, 4, 2), jnp.tanh), 3)
    optimiser, rate = optax.sgd(0.05, momentum=0.9), 0.2
    state = optimiser.init(deep.trainable(network)[0])
    x, y = jnp.asarray(X), jnp.asarray(Y)
    moved, _, _ = eqx.filter_jit(deep.Incremental(3, rate).step)(network, state, optimiser, deep.Clamp(x, y))

    def energy(weights, hidden):
        (w1, b1), (w2, b2) = weights
        first, second = hidden - jnp.tanh(x @ w1.T + b1[None]), y - jnp.tanh(hidden @ w2.T + b2[None])
        return 0.5 * (jnp.sum(first**2) + jnp.sum(second**2))

    weights = [(layer.weight, layer.bias) for layer in network.layers]
    hidden = jnp.tanh(x @ weights[0][0].T + weights[0][1][None])
    velocity = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(3):
        for_weights, for_hidden = jax.grad(energy, argnums=(0, 1))(weights, hidden)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g / 6, velocity, for_weights)
        weights = jax.tree.map(lambda w, v: w - 0.05 * v, weights, velocity)
        hidden = hidden - rate * for_hidden
    for layer, (weight, bias) in zip(moved.layers, weights, strict=True):
        np.testing.assert_allclose(layer.weight, weight, rtol=1e-12)
        np.testing.assert_allclose(layer.bias, bias, rtol=1e-12)


def test_centred_nudging_of_a_linear_network_has_its_closed_form_for_any_strength():
    r"""$-d^\top S^{-1} \partial\hat y/\partial\theta$ with d the output error: even orders cancel exactly."""
    network = deep.DeepNetwork([deep.Dense(layer.weight) for layer in dense((3, 4, 4, 2), jnp.tanh)], 3)
    weights = [layer.weight for layer in network.layers]
    x, y = jnp.asarray(X), jnp.asarray(Y)
    product, cov = jnp.eye(2), jnp.eye(2)
    for weight in reversed(weights[1:]):
        product = product @ weight
        cov = cov + product @ product.T
    errors = y - x @ (product @ weights[0]).T
    pulled = jnp.linalg.solve(cov, errors.T).T

    def weighted(weights):
        return -jnp.mean(jnp.sum(pulled * (x @ (weights[2] @ weights[1] @ weights[0]).T), axis=1))

    wanted = flat(jax.grad(weighted)(weights))
    energy, gradient = eqx.filter_jit(deep.CentredNudging(0.8, deep.ExactLinear()).gradient)(network, deep.Clamp(x, y))
    np.testing.assert_allclose(flat(gradient), wanted, rtol=0, atol=1e-12)
    assert float(energy) == pytest.approx(0.5 * float(jnp.mean(jnp.sum(errors * pulled, axis=1))), rel=1e-12)


def test_centred_nudging_errs_by_the_square_of_its_strength():
    network = deep.DeepNetwork(dense((3, 4, 4, 2), jnp.tanh), 3)
    clamp, relaxation = deep.Clamp(jnp.asarray(X), jnp.asarray(Y)), deep.ToConvergence(1e-13, 2000)
    rules = {b: eqx.filter_jit(deep.CentredNudging(b, relaxation).gradient) for b in (0.2, 0.1, 0.005)}
    at = {b: flat(gradient(network, clamp)[1]) for b, gradient in rules.items()}
    gaps = [np.abs(at[b] - at[0.005]).max() for b in (0.2, 0.1)]
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.1)


def test_a_learnt_log_precision_finds_the_variance():
    """One layer without weights: the energy is least where the precision is one over the mean square."""
    network = deep.DeepNetwork([lambda z: 2.0 * z], 2, output_energy=deep.Gaussian(np.zeros(2), learn=True))
    y = 2.0 * X[:, :2] + np.array([0.5, 2.0]) * RNG.normal(size=(6, 2))
    settings = deep.Training(deep.AfterInference(deep.FixedSteps(1)), optax.sgd(0.3), batch_size=6, num_epochs=300)
    trained = deep.train(network, settings, inputs=X[:, :2], outputs=y)
    precision = np.exp(np.asarray(trained.network.energies[0].log_precision))
    np.testing.assert_allclose(precision, 1 / np.mean((y - 2 * X[:, :2]) ** 2, axis=0), rtol=1e-8)
    fixed = deep.DeepNetwork([deep.Dense(jnp.ones((2, 2)))], 2, output_energy=deep.Gaussian(0.3))
    assert len(jax.tree.leaves(deep.trainable(fixed)[0])) == 1


def quick(**settings):
    rule = deep.AfterInference(deep.FixedSteps(4, 0.2))
    return deep.Training(rule, OPTIMISER, **{"batch_size": 8, "num_epochs": 4, **settings})


OPTIMISER = optax.sgd(0.05, momentum=0.9)
DATA_X = RNG.normal(size=(100, 3))
DATA_Y = np.stack([np.sin(DATA_X[:, 0]), DATA_X[:, 1] * 0.5], axis=1)


@pytest.fixture(scope="module")
def start():
    return deep.DeepNetwork(dense((3, 8, 2), jnp.tanh), 3)


@pytest.fixture(scope="module")
def whole(start):
    return deep.train(start, quick(), inputs=DATA_X, outputs=DATA_Y, seed=3)


def weights_of(trained):
    return [np.asarray(layer.weight) for layer in trained.network.layers]


def test_training_lowers_the_energy_and_depends_on_the_seed_alone(start, whole):
    assert whole.energies.shape == (48,)
    assert not whole.is_partial
    assert whole.energies[-12:].mean() < 0.6 * whole.energies[:12].mean()
    again = deep.train(start, quick(), inputs=DATA_X, outputs=DATA_Y, seed=3)
    other = deep.train(start, quick(), inputs=DATA_X, outputs=DATA_Y, seed=4)
    np.testing.assert_array_equal(weights_of(again)[0], weights_of(whole)[0])
    assert not np.array_equal(weights_of(other)[0], weights_of(whole)[0])


@pytest.fixture
def pieces(monkeypatch):
    """Pieces of ten batches, saved after each."""
    monkeypatch.setattr(checkpoint, "_MOST_OF_THE_TIME", np.inf)
    monkeypatch.setattr(training_module, "_PIECE", 10)


def test_a_killed_training_ends_in_the_same_bits(start, whole, pieces, tmp_path, monkeypatch):
    original, calls = training_module.TrainingLoop.advance, []

    def failing(loop):
        calls.append(loop.done)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return original(loop)

    settings = {"inputs": DATA_X, "outputs": DATA_Y, "seed": 3, "checkpoint": pi.Checkpoint(tmp_path, every=0)}
    with monkeypatch.context() as patch:
        patch.setattr(training_module.TrainingLoop, "advance", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            deep.train(start, quick(), **settings)
    assert calls == [0, 10, 20]
    continued = deep.train(start, quick(), **settings)
    for found, wanted in zip(weights_of(continued), weights_of(whole), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(continued.energies, whole.energies)

    longer = deep.train(start, quick(num_epochs=5), **settings)
    np.testing.assert_array_equal(longer.energies[:48], whole.energies)
    assert longer.energies.shape == (60,)
    with pytest.raises(pi.CheckpointError, match="data"):
        deep.train(start, quick(), **{**settings, "outputs": DATA_Y + 1})
    slower = deep.Training(quick().rule, optax.sgd(0.04, momentum=0.9), 8, 4)
    with pytest.raises(pi.CheckpointError, match="first 3 batches"):
        deep.train(start, slower, **settings)


def test_a_run_that_blows_up_says_where_and_hands_over_what_it_has():
    network = deep.DeepNetwork([deep.Dense(layer.weight) for layer in dense((3, 8, 2), jnp.tanh)], 3)
    with pytest.raises(pi.InferenceError, match=r"energy of batch \d+ is") as caught:
        deep.train(network, deep.Training(quick().rule, optax.sgd(1e9), 8, 4), inputs=DATA_X, outputs=DATA_Y)
    assert isinstance(caught.value.partial, deep.Trained)


@pytest.mark.relaxed_promotion("Flax NNX")
def test_flax_and_equinox_layers_learn_alike():
    nnx = pytest.importorskip("flax.nnx")
    ours = dense((3, 4, 2), jnp.tanh)
    equinox_layers, flax_layers = [], []
    for layer in ours:
        m, n = layer.weight.shape[1], layer.weight.shape[0]
        linear = eqx.nn.Linear(m, n, key=jax.random.key(0))
        equinox_layers.append(eqx.tree_at(lambda k: (k.weight, k.bias), linear, (layer.weight, layer.bias)))
        module = nnx.Linear(m, n, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        module.kernel[...], module.bias[...] = layer.weight.T, layer.bias
        flax_layers.append(module)
    x, y = jnp.asarray(X), jnp.asarray(Y)
    found = []
    for layers in ([deep.Dense(k.weight, k.bias) for k in ours], equinox_layers, flax_layers):
        network = deep.DeepNetwork(layers, 3)
        free = (None, jnp.ones((6, 4)), None)
        energy, gradient = eqx.filter_jit(energy_gradient)(network, deep.Clamp(x, y), free)
        found.append((float(energy), np.sort(flat(gradient))))
    for energy, gradient in found[1:]:
        assert energy == pytest.approx(found[0][0], rel=1e-12)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-10)
    assert isinstance(network.layers[0].module, nnx.Linear)


def test_a_network_learns_causes_and_completes_patterns():
    """Patterns of one linear factor: the missing half follows from the seen one as Gaussian conditioning says."""
    network = deep.DeepNetwork([deep.Dense(jnp.asarray([[0.3], [-0.2], [0.1], [0.4]]))], 1)
    factor = np.array([1.0, -2.0, 0.5, 1.5])
    patterns = RNG.normal(size=(64, 1)) * factor + 0.1 * RNG.normal(size=(64, 4))
    rule = deep.AfterInference(deep.ExactLinear())
    trained = deep.train(network, deep.Training(rule, optax.sgd(0.02, momentum=0.9), 64, 400), outputs=patterns)
    weight = np.asarray(trained.network.layers[0].weight)[:, 0]
    assert abs(weight @ factor) / np.linalg.norm(weight) / np.linalg.norm(factor) > 0.999
    fully = deep.ToConvergence(1e-7)
    recalled = deep.recall(trained.network, patterns, np.array([True, True, False, False]), relaxation=fully)
    seen = weight[:2]
    wanted = patterns[:, :2] @ seen / (1 + seen @ seen)
    np.testing.assert_array_equal(recalled[:, :2], patterns[:, :2])
    np.testing.assert_allclose(recalled[:, 2:], wanted[:, None] * weight[2:], atol=1e-6)
    shown = deep.reconstruct(trained.network, patterns, relaxation=fully)
    np.testing.assert_allclose(shown, (patterns @ weight / (1 + weight @ weight))[:, None] * weight, atol=1e-6)


def test_one_hot_rows():
    np.testing.assert_array_equal(deep.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])


@pytest.mark.bad_input
def test_bad_input_is_named(start):
    data = {"inputs": DATA_X, "outputs": DATA_Y}
    hgf, bare = deep.layered_hgf((3, 4, 2), key=0), deep.DeepNetwork([jnp.tanh], 2)
    cases = [
        (lambda: deep.Training(rule=3), pi.ArgumentTypeError, "rule: expected one such as"),
        (lambda: deep.Training(optimiser=-1.0), pi.ArgumentError, "optimiser: expected a finite number above 0"),
        (lambda: deep.Training(batch_size=0), pi.ArgumentError, "batch_size"),
        (lambda: deep.AfterInference(3), pi.ArgumentTypeError, "relaxation: expected one such as"),
        (lambda: deep.CentredNudging(0.0), pi.ArgumentError, "strength"),
        (lambda: deep.train(start, quick(batch_size=500), **data), pi.ArgumentError, "at most the 100 examples"),
        (lambda: deep.train(start, quick(), inputs=DATA_X, outputs=None), pi.ArgumentError, "outputs: expected data"),
        (lambda: deep.train(bare, quick(), outputs=DATA_Y), pi.ArgumentError, "nothing to train"),
        (
            lambda: deep.train(start, deep.Training(deep.CentredNudging(), batch_size=8), outputs=DATA_Y),
            pi.ArgumentError,
            "CentredNudging: it needs inputs",
        ),
        (lambda: deep.train(hgf, quick(), **data), pi.ArgumentError, "trains a DeepNetwork, found LayeredHGF"),
        (
            lambda: deep.train(start, deep.Training(deep.ClosedFormLearning(), batch_size=8), **data),
            pi.ArgumentError,
            "trains a LayeredHGF, found DeepNetwork",
        ),
        (lambda: deep.one_hot([0, 3], 3), pi.ArgumentError, "labels: expected 0 to 2, found 0 to 3"),
        (lambda: deep.one_hot([0.5], 3), pi.ArgumentError, "labels: expected integers"),
        (lambda: deep.plot_energies(np.zeros((2, 2, 2))), pi.ArgumentError, "energies: expected shape"),
        (lambda: deep.plot_images({"a": np.zeros((2, 8))}), pi.ArgumentError, "rows: expected images"),
        (lambda: deep.layered_hgf((3, 2), key=0, leaf="discrete"), pi.UnknownNameError, "leaf"),
        (lambda: deep.layered_hgf((3, 2), key=0, noise_precision=0.0), pi.ArgumentError, "noise_precision"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
