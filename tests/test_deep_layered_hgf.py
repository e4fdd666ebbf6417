"""Layered HGF networks against an independent implementation, the graph networks, and backpropagation."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from probinf.predictive_coding import Enhanced, Network, Standard, Unbounded, deep

REFERENCE = json.loads((Path(__file__).parent / "data" / "hgf" / "layered.json").read_text())
RULES = {"unbounded": Unbounded(), "enhanced": Enhanced(), "standard": Standard()}


def with_weights(weights, **settings):
    sizes = (weights[0].shape[1], *(len(w) for w in weights))
    network = deep.layered_hgf(sizes, key=0, **settings)
    return eqx.tree_at(lambda n: n.weights, network, tuple(jnp.asarray(w) for w in weights))


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda c: f"{c['leaf']}-{c['mode']}-{c['update']}")
def test_weights_and_beliefs_are_those_of_the_reference(case):
    network = with_weights(
        [np.array(w) for w in REFERENCE["weights"]],
        coupling=case["coupling"],
        leaf=case["leaf"],
        mode=case["mode"],
        update=RULES[case["update"]],
        bias=False,
    )
    optimiser, rule = optax.sgd(REFERENCE["learning_rate"]), deep.ClosedFormLearning(case["precision_weighted"])
    state = optimiser.init(deep.trainable(network)[0])
    x, y, size = jnp.array(REFERENCE["inputs"]), jnp.array(case["outputs"]), case["batch_size"]
    step = eqx.filter_jit(rule.step)
    for k in range(0, len(x), size):
        network, state, _ = step(network, state, optimiser, deep.Clamp(x[k : k + size], y[k : k + size]))
    for found, wanted in zip(network.weights, case["final_weights"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)
    for i, belief in enumerate(network.beliefs):
        for name in ("precision", "log_volatility", "volatility_precision"):
            np.testing.assert_allclose(getattr(belief, name), case[name][i], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(network(np.asarray(x)), case["predicted"], rtol=1e-11, atol=1e-13)


def test_a_chain_of_single_units_is_a_graph_network():
    """Input 1.2 -> hidden -> output, beside the same nodes as a graph, value level without autoconnection."""
    weights = [np.array([[0.8]]), np.array([[-1.3]])]
    layered = with_weights(weights, coupling=None, bias=False, noise_precision=4.0, update=Enhanced())
    (hidden, _) = layered.infer(np.array([[1.2]]), np.array([[0.4]]))
    graph = (
        Network(mode="relaxed", update=Enhanced(), compat="pyhgf-0.3")
        .continuous_input("u", precision=4.0)
        .volatile_state("h", autoconnection=0.0, tonic_volatility=0.0, log_volatility={"tonic_volatility": -4.0})
        .constant("x", 1.2)
        .value("x", "h", 0.8)
        .value("h", "u", -1.3)
    )
    run = graph.filter(np.array([0.4]))
    np.testing.assert_allclose(hidden.mean[0], run["h"].mean, rtol=1e-12)
    np.testing.assert_allclose(hidden.precision[0], run["h"].precision, rtol=1e-12)
    np.testing.assert_allclose(hidden.belief.log_volatility[0], run["h_volatility"].mean, rtol=1e-12)
    np.testing.assert_allclose(hidden.belief.volatility_precision[0], run["h_volatility"].precision, rtol=1e-12)


@pytest.mark.parametrize("leaf", ["continuous", "binary", "categorical"])
def test_the_first_layer_learns_as_by_backpropagation(leaf):
    """Errors times precisions of one hidden layer: the gradient of the surprise of the sweep down in its weights."""
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=(4, 3)), rng.normal(size=(2, 4))]
    network = with_weights(weights, leaf=leaf, mode="mean-field", bias=False)
    x, y = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(np.eye(2)[rng.integers(0, 2, 5)])
    gradient, _, surprise = eqx.filter_jit(deep.ClosedFormLearning().gradient)(network, deep.Clamp(x, y))

    def loss(first):
        drive = jnp.tanh(x @ first.T) @ network.weights[1].T
        if leaf == "continuous":
            return 0.5 * jnp.mean(jnp.sum((y - drive) ** 2 + jnp.log(2 * jnp.pi), axis=1))
        if leaf == "binary":
            return jnp.mean(jnp.sum(jax.nn.softplus(drive) - y * drive, axis=1))
        return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(drive), axis=1))

    value, wanted = jax.jit(jax.value_and_grad(loss))(network.weights[0])
    np.testing.assert_allclose(gradient.weights[0], wanted, rtol=1e-10, atol=1e-13)
    assert float(surprise) == pytest.approx(float(value), rel=1e-10)


def test_uncertainty_that_is_passed_on_widens_the_layer_below():
    weights = [np.array([[0.5], [1.0]]), np.array([[2.0, -1.0]]), np.array([[1.0]])]
    found = {p: with_weights(weights, coupling=None, pass_uncertainty=p, bias=False) for p in (False, True)}
    x, y = np.array([[1.0]]), np.array([[0.0]])
    alone, passed = (found[p].infer(x, y)[1].expected_precision[0, 0] for p in (False, True))
    above = found[True].infer(x, y)[0].expected_precision[0]
    assert float(1 / passed) == pytest.approx(float(1 / alone + 4 / above[0] + 1 / above[1]), rel=1e-12)


def test_training_drives_the_surprise_down_through_the_one_host_loop():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(256, 3))
    y = np.eye(2)[(x[:, 0] * x[:, 1] > 0).astype(int)]
    network = deep.layered_hgf((3, 16, 2), key=1, leaf="categorical")
    settings = deep.Training(deep.ClosedFormLearning(), optax.sgd(0.5), batch_size=32, num_epochs=60)
    trained = deep.train(network, settings, inputs=x, outputs=y)
    # A sign of a product is no linear function: the constant answer costs log 2 = 0.69 nats.
    assert trained.energies[-8:].mean() < 0.35
    assert (np.argmax(np.asarray(trained.network(x)), axis=1) == y.argmax(axis=1)).mean() > 0.9
    assert all(float(jnp.min(b.precision)) > 0 for b in trained.network.beliefs)
