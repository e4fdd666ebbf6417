"""Networks as data: building, addressing, other forms, the inputs with a memory, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, ModelError, UnknownNameError
from probinf.predictive_coding import (
    Enhanced,
    Network,
    Standard,
    binary_hgf,
    categorical_hgf,
    continuous_hgf,
    family,
    plot_network,
    rescorla_wagner,
    social_learning,
    two_armed_bandit,
)
from probinf.predictive_coding.lambert import lambert_w_of_exp


def two_levels() -> Network:
    return (
        Network("two levels")
        .continuous_input("u", precision=2.0)
        .constant("offset", 1.5)
        .continuous_state("x1", mean=0.5)
        .continuous_state("x2", autoconnection=0.9)
        .value("x1", "u", 0.7, "tanh")
        .value("offset", "u", 2.0)
        .volatility("x2", "x1", 0.4)
    )


class Graph:
    """As much of a NetworkX graph as is read."""

    def __init__(self, nodes, edges):
        self._nodes, self._edges = nodes, edges

    def nodes(self, data):
        assert data
        return list(self._nodes.items())

    def edges(self, data):
        assert data
        return self._edges


def test_dictionaries_and_graphs_give_the_same_network():
    network, u = two_levels(), [0.3, 1.2, -0.4]
    expected = network.log_likelihood(u)
    again = Network.from_dict(network.to_dict())
    assert again.to_dict() == network.to_dict()
    np.testing.assert_array_equal(again.log_likelihood(u), expected)
    source = network.to_dict()
    edges = [(e["parent"], e["child"], {k: e[k] for k in e if k not in ("parent", "child")}) for e in source["edges"]]
    graph = Network.from_networkx(Graph(source["nodes"], edges), name="two levels")
    np.testing.assert_array_equal(graph.log_likelihood(u), expected)
    composite = Network.from_dict(categorical_hgf(3).to_dict())
    assert composite.fed_inputs()[0].name == "u"
    assert composite.plan() == categorical_hgf(3).plan()


def test_numbers_are_addressed_by_name():
    network = two_levels()
    assert network.parameters()["x1->u.value"] == 0.7
    changed = network.replace({"x1->u.value": 0.1, "x2.tonic_volatility": -1.0})
    assert (changed.parameters()["x1->u.value"], changed.node("x2").tonic_volatility) == (0.1, -1.0)
    assert network.parameters()["x1->u.value"] == 0.7
    with pytest.raises(UnknownNameError, match=r"Did you mean 'x2\.tonic_volatility'"):
        network.replace({"x2.tonic_volatilty": 0.0})
    without = network.remove("x2")
    assert [e.name for e in without.edges] == ["x1->u.value", "offset->u.value"]
    assert len(network.disconnect("x2", "x1", "volatility").edges) == 2


def test_a_network_is_a_pytree_of_its_numbers():
    network = continuous_hgf(2)
    doubled = jax.tree.map(lambda x: 2.0 * x, network)
    assert doubled.node("x1").precision == 2.0 * network.node("x1").precision
    assert doubled.plan() == network.plan()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda n: n.continuous_state("x1"), ModelError, "node of that name already"),
        (lambda n: n.continuous_state("a.b"), ArgumentError, "without '.'"),
        (
            lambda n: n.continuous_state("y", precision=-1.0),
            ArgumentError,
            "node 'y', precision: expected numbers above 0",
        ),
        (lambda n: n.continuous_state("y", mean=np.nan), ArgumentError, "finite"),
        (lambda n: n.continuous_state("y", autoconnection=1.2), ArgumentError, "between 0 and 1"),
        (lambda n: n.continuous_state("y", omega=1.0), UnknownNameError, "'omega' is not a field"),
        (lambda n: n.continuous_state("y", update="standard"), ArgumentTypeError, "update rule"),
        (lambda n: n.value("x1", "nowhere"), UnknownNameError, "'nowhere' is not a node"),
        (lambda n: n.value("u", "x1"), ModelError, "cannot be the value child of a continuous input"),
        (lambda n: n.volatility("offset", "x1"), ModelError, "cannot be the volatility child of a constant"),
        (lambda n: n.value("offset", "x1", 1.0, "exp"), ModelError, "constants couple linearly"),
        (lambda n: n.value("x1", "u", 2.0), ModelError, "has this coupling already"),
        (lambda n: n.value("x1", "x2"), ModelError, "closes a cycle"),
        (lambda n: n.value("x2", "u", 1.0, "tnh"), UnknownNameError, "Did you mean 'tanh'"),
        (lambda n: n.binary_input("b").value("x1", "b").filter([1.0]), ArgumentTypeError, "inputs 'u', 'b'"),
        (lambda n: n.binary_input("b").filter({"u": [1.0], "b": [1.0]}), ModelError, "'b' has no value parent"),
        (lambda n: Network().filter([1.0]), ModelError, "no input"),
        (lambda n: n.filter({"w": [1.0]}), UnknownNameError, "'w' is not a data input"),
        (lambda n: n.filter([1.0, np.nan]), DataError, 'missing="nan"'),
        (lambda n: n.filter([1.0, np.inf]), DataError, "value inf at step 1 is impossible, expected a finite number"),
        (lambda n: n.filter([]), DataError, "length of at least 1"),
        (lambda n: n.filter([1.0, 2.0], time_steps=[1.0, -1.0]), ArgumentError, "time_steps"),
        (lambda n: n.filter([1.0, 2.0], time_steps=[1.0]), DataError, "time_steps"),
        (lambda n: n.filter([1.0, 2.0], observed={"u": [True]}), DataError, "observed"),
        (lambda n: binary_hgf(2).filter([2.0]), DataError, "value 2.0 at step 0 is impossible, expected 0 or 1"),
        (lambda n: Network(mode="exact"), ArgumentError, "mode"),
        (lambda n: Network(compat="hgf"), ArgumentError, "compat"),
        (lambda n: Network().exponential_family_input("u", "cauchy"), UnknownNameError, "family"),
        (lambda n: Network().exponential_family_input("u", family="beta"), ArgumentTypeError, "family: expected"),
        (lambda n: n.filter([1.0])["x9"], UnknownNameError, "'x9' is not a node"),
    ],
)
def test_mistakes_are_named(build, error, words):
    with pytest.raises(error, match=".*".join(map(_escaped, [words]))):
        build(two_levels())


def _escaped(words: str) -> str:
    import re

    return re.escape(words)


def test_any_number_of_parents_and_children_keeps_beliefs_sound():
    rng = np.random.default_rng(0)
    network = Network(update=Enhanced())
    for k in range(3):
        network = network.continuous_input(f"u{k}", missing="nan").continuous_state(f"x{k}", autoconnection=0.95)
        network = network.value(f"x{k}", f"u{k}")
    network = network.value("x0", "u1", -0.5).value("x1", "x0", 0.3, "tanh")
    for top in ("v0", "v1"):
        network = network.continuous_state(top, autoconnection=0.99)
        for k in range(3):
            network = network.volatility(top, f"x{k}", 0.5)
    network = network.volatility("v1", "u2", 0.7)
    data = {f"u{k}": np.where(rng.random(50) < 0.2, np.nan, rng.normal(size=50)) for k in range(3)}
    run = network.filter(data, time_steps=rng.exponential(size=50))
    assert run.first_fault is None
    assert np.isfinite(float(run.log_likelihood))


def test_premade_networks_stay_sound_on_long_series():
    rng = np.random.default_rng(1)
    u = (rng.random(4000) < np.where(np.arange(4000) // 100 % 2, 0.8, 0.2)).astype(float)
    for network, data in (
        (binary_hgf(3), u),
        (continuous_hgf(2), np.cumsum(rng.normal(size=4000)) * 0.1),
        (two_armed_bandit(), {"left": np.where(rng.random(4000) < 0.5, u, np.nan), "right": u}),
    ):
        run = network.filter(data)
        assert run.first_fault is None, network.name
        assert np.abs(np.asarray(run[network.state_names()[-1]].mean)).max() < 25.0, network.name
    assert [node.name for node in social_learning().fed_inputs()] == ["cue", "advice"]


def test_rescorla_wagner_is_the_delta_rule():
    u = np.array([1.0, 1.0, 0.0, 1.0])
    run = rescorla_wagner(0.3).filter(u)
    value, log_likelihood = 0.5, 0.0
    for outcome in u:
        log_likelihood += np.log(value if outcome else 1 - value)
        value += 0.3 * (outcome - value)
    assert float(run.memories["u"]["statistics"][0]) == pytest.approx(value, rel=1e-12)
    assert float(run.log_likelihood) == pytest.approx(log_likelihood, rel=1e-12)


# -- exponential families ---------------------------------------------------------------------------------------------

PREDICTIVE = {
    "normal": (0.7, [0.2, 0.9], 5.0, lambda u: scipy.stats.t(6.0, 0.2, np.sqrt(0.9 - 0.04)).logpdf(u)),
    "poisson": (3.0, [2.5], 4.0, lambda u: scipy.stats.nbinom(10.0, 4.0 / 5.0).logpmf(u)),
    "bernoulli": (1.0, [0.3], 4.0, lambda u: np.log(0.3)),
    "gamma": (
        1.7,
        [3.0 / 2.0, scipy.special.digamma(3.0) - np.log(2.0)],
        4.0,
        lambda u: scipy.stats.gamma(3.0, scale=0.5).logpdf(u),
    ),
    "beta": (
        0.3,
        [
            scipy.special.digamma(0.7) - scipy.special.digamma(5.7),
            scipy.special.digamma(5.0) - scipy.special.digamma(5.7),
        ],
        4.0,
        lambda u: scipy.stats.beta(0.7, 5.0).logpdf(u),
    ),
}


@pytest.mark.parametrize("name", PREDICTIVE)
def test_families_have_their_predictive_densities(name):
    u, xi, count, expected = PREDICTIVE[name]
    found = family(name).log_predictive(jnp.asarray(u), jnp.asarray(xi), jnp.asarray(count))
    assert float(found) == pytest.approx(float(expected(u)), rel=1e-9)


def test_the_multivariate_normal_family_is_a_student_t():
    three = family("multivariate normal", 2)
    mean, cov = np.array([0.3, -1.0]), np.array([[2.0, 0.6], [0.6, 1.0]])
    second = cov + np.outer(mean, mean)
    xi = jnp.asarray([*mean, second[0, 0], second[1, 0], second[1, 1]])
    u = np.array([1.0, 0.5])
    expected = scipy.stats.multivariate_t(mean, cov, df=6.0).logpdf(u)
    assert float(three.log_predictive(jnp.asarray(u), xi, jnp.asarray(5.0))) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(three.statistics(jnp.asarray(u)), [1.0, 0.5, 1.0, 0.5, 0.25])
    one = family("normal").log_predictive(jnp.asarray(1.5), jnp.asarray([0.0, 0.125]), jnp.asarray(5.0))
    assert float(jnp.exp(one)) == pytest.approx(0.00845728, rel=1e-6)  # Mathys & Weber (2020)
    run = Network().exponential_family_input("u", three).filter(np.random.default_rng(0).normal(size=(20, 2)))
    assert np.isfinite(float(run.log_likelihood))


def test_missing_values_leave_families_and_clusters_as_they_were():
    u = np.array([0.5, np.nan, 1.5])
    network = Network().exponential_family_input("u", "gamma", missing="nan")
    np.testing.assert_array_equal(
        network.filter(u[:1]).memories["u"]["statistics"], network.filter(u[:2]).memories["u"]["statistics"]
    )
    assert float(network.filter(u).log_densities[1]) == 0.0


def test_adaptive_families_learn_faster_when_the_mean_jumps():
    u = np.concatenate([np.random.default_rng(0).normal(0, 0.3, 60), np.random.default_rng(1).normal(6, 0.3, 15)])
    run = Network().exponential_family_input("u", "normal", adaptive=True).filter(u)
    count = np.asarray(run.composites["u"]["pseudo_count"])
    assert count[60:64].min() < 0.5 * np.median(count[40:60])


def test_a_dirichlet_process_finds_separate_clusters():
    rng = np.random.default_rng(0)
    centres = rng.permutation(np.repeat([-8.0, 0.0, 8.0], 20))
    run = Network().dirichlet_process_input("u", num_clusters=6).filter(centres + 0.5 * rng.normal(size=60))
    memory = run.memories["u"]
    np.testing.assert_array_equal(np.sort(memory["counts"]), [0, 0, 0, 20, 20, 20])
    clusters = np.asarray(run.composites["u"]["cluster"])
    assert all(len(set(clusters[centres == c])) == 1 for c in (-8.0, 0.0, 8.0))


def test_lambert_w_is_accurate_and_has_its_derivative():
    x = np.concatenate([np.linspace(-700.0, 5.0, 2001), np.linspace(5.0, 650.0, 2001)])
    found = lambert_w_of_exp(jnp.asarray(x))
    np.testing.assert_allclose(found, scipy.special.lambertw(np.exp(x)).real, rtol=1e-13, atol=0)
    slope = jax.grad(lambert_w_of_exp)(jnp.asarray(0.7))
    h = 1e-6
    quotient = (lambert_w_of_exp(jnp.asarray(0.7 + h)) - lambert_w_of_exp(jnp.asarray(0.7 - h))) / (2 * h)
    assert float(slope) == pytest.approx(float(quotient), rel=1e-8)
    x = np.concatenate([np.linspace(-80.0, 80.0, 2001), np.geomspace(80.0, 1e15, 500)]).astype(np.float32)
    exact = scipy.special.wrightomega(x.astype(float))
    with jax.enable_x64(False):
        error = np.abs(np.asarray(lambert_w_of_exp(jnp.asarray(x))) / exact - 1.0)
    assert np.all(error < 2.5 * np.finfo(np.float32).eps * (1.0 + np.abs(x) / (1.0 + exact)))  # that of rounding x


def test_the_graph_is_drawn_with_every_node_and_strength():
    ax = plot_network(two_levels())
    texts = {text.get_text() for text in ax.texts}
    assert {"u", "offset", "x1", "x2", "0.7", "2", "0.4"} <= texts


def test_single_precision_agrees_with_double():
    u = np.random.default_rng(2).integers(0, 2, 50).astype(float)
    network = binary_hgf(3, update=Standard())
    double = network.filter(u)
    with jax.enable_x64(False):
        single = network.filter(u)
        assert single["x2"].mean.dtype == jnp.float32
    np.testing.assert_allclose(single["x2"].mean, double["x2"].mean, rtol=1e-3, atol=1e-4)
