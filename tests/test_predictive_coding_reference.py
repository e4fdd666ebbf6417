"""Trajectories of pyhgf 0.3.2 and published check values, reproduced."""

import jax
import numpy as np
import pytest

from probinf.errors import InferenceError
from probinf.predictive_coding import Enhanced, MomentMatched, Network, Standard, Unbounded
from tests import hgf_reference as reference


@pytest.mark.parametrize("name", reference.NETWORKS)
def test_recorded_trajectories_are_reproduced(name):
    run, file = reference.run(name), reference.recorded(name)
    roots = {n.name for n in run.network.nodes} - {e.child for e in run.network.edges}
    compared = 0
    for key, expected in file.items():
        node, _, field = key.partition("_")
        if name.startswith("s08") and node in ("n1", "n2", "n3"):
            node = f"n0[{int(node[1:]) - 1}]"
        if field not in reference.FIELDS or node not in run.beliefs:
            continue
        found = getattr(run[node], reference.FIELDS[field])
        if found is None or (node in roots and field.endswith("error")):
            continue  # gamma of an input without volatility parents; errors of roots, which are recorded as 0
        found, expected = np.broadcast_to(np.asarray(found), expected.shape), expected
        if node in ("n0", "n1") and not file["observed"].all():  # what a masked input was fed is not passed on
            seen = file["observed"][:, int(node[1])] == 1
            found, expected = found[seen], expected[seen]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-13, err_msg=key)
        compared += 1
    assert compared >= 8
    if file["observed"].all():
        np.testing.assert_allclose(run.total_surprise, file["total_surprise"], rtol=1e-8, atol=1e-12)


def test_the_categorical_node_reports_the_recorded_dirichlet_distributions():
    run, file = reference.run("s08_categorical3_ehgf"), reference.recorded("s08_categorical3_ehgf")
    np.testing.assert_allclose(run.composites["n0"]["divergence"], file["n0_kl_divergence"], rtol=1e-8)
    np.testing.assert_allclose(-run.log_densities, file["n0_surprise"], rtol=1e-8)
    np.testing.assert_allclose(run.memories["n0"]["alpha"], file["n0_alpha"][-1], rtol=1e-8)


def test_the_exponential_family_node_follows_the_recorded_statistics():
    file = reference.recorded("s09_exponential_family_normal_fixed")
    network = Network().exponential_family_input("u", "normal", pseudo_count=5.0)
    for length in (1, 7, 300):
        run = network.filter(file["input"][:length, 0])
        np.testing.assert_allclose(run.memories["u"]["statistics"], file["n0_xis"][length - 1], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "rule", "mode"),
    [
        ("ehgf", Enhanced(), "relaxed"),
        ("standard", Standard(), "mean-field"),
        ("unbounded", Unbounded(), "relaxed"),
    ],
)
def test_two_volatility_parents_drift_and_missing_values_follow_the_recorded_run(name, rule, mode):
    network = (
        Network(mode=mode, compat="pyhgf-0.3", update=rule)
        .continuous_input("n0", precision=8.0)
        .continuous_state("n1", tonic_volatility=-2.0, autoconnection=0.9, drift=0.05)
        .continuous_state("n2", tonic_volatility=-3.0)
        .continuous_state("n3", mean=0.2, precision=2.0, tonic_volatility=-2.5)
        .continuous_state("n4", tonic_volatility=-4.0)
        .value("n1", "n0")
        .volatility("n2", "n1", 0.7)
        .volatility("n3", "n1", 0.4)
        .value("n4", "n2", 0.5)
    )
    file = reference.recorded("m01_two_volatility_parents")
    run = network.filter(file["input"], observed={"n0": file["observed"].astype(bool)})
    for node in ("n1", "n2", "n3", "n4"):
        for field in ("mean", "precision", "expected_mean", "expected_precision"):
            found, expected = getattr(run[node], field), file[f"{name}_{node}_{field}"]
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-15, err_msg=f"{node} {field}")


# -- one step of input(precision 4) <- x1 <- x2 (volatility), value 1.7 or, binary, 1 ----------------------------------

CONTINUOUS = {
    ("standard", "mean-field"): (1.4536271073, 5.0334139659, 0.3212365273, 1.3208730168),
    ("standard", "relaxed"): (1.4785154875, 4.9053899107, 0.3083871853, 1.3435863832),
    ("enhanced", "mean-field"): (1.4536271073, 5.0334139659, 0.3224967609, 1.3225046429),
    ("enhanced", "relaxed"): (1.4785154875, 4.9053899107, 0.3090376861, 1.3212758425),
    ("unbounded", "mean-field"): (1.4536271073, 5.0334139659, 0.3220530440, 1.3336064740),
    ("unbounded", "relaxed"): (1.4785154875, 4.9053899107, 0.3193737079, 1.3343343983),
}
BINARY = {
    "standard": (0.7976469623, 1.2684176781, 0.2862964784, 1.3221071490),
    "enhanced": (0.7976469623, 1.2684176781, 0.2854697106, 1.3212621939),
    "unbounded": (0.7976469623, 1.2684176781, 0.2867639032, 1.3298463338),
}
RULES = {"standard": Standard(), "enhanced": Enhanced(), "unbounded": Unbounded()}


def two_levels(network: Network) -> Network:
    return (
        network.continuous_state("x1", mean=0.5, precision=2.0, tonic_volatility=-1.0)
        .continuous_state("x2", mean=0.3, precision=1.5, tonic_volatility=-2.0)
        .value("x1", "u")
        .volatility("x2", "x1", 0.8)
    )


def posterior(run, *names: str) -> list[float]:
    return [float(number[-1]) for name in names for number in (run[name].mean, run[name].precision)]


@pytest.mark.parametrize(("rule", "mode"), CONTINUOUS)
def test_one_step_of_two_continuous_levels(rule, mode):
    network = two_levels(Network(mode=mode, update=RULES[rule]).continuous_input("u", precision=4.0))
    np.testing.assert_allclose(posterior(network.filter([1.7]), "x1", "x2"), CONTINUOUS[rule, mode], rtol=1e-9)


@pytest.mark.parametrize("rule", BINARY)
def test_one_step_of_a_binary_network(rule):
    network = two_levels(Network(mode="mean-field", update=RULES[rule]).binary_input("u"))
    np.testing.assert_allclose(posterior(network.filter([1.0]), "x1", "x2"), BINARY[rule], rtol=1e-9)


def test_the_default_network_of_one_level():
    run = Network().continuous_input("u").continuous_state("x").value("x", "u").filter([0.2])
    np.testing.assert_allclose(posterior(run, "x"), (0.10090748, 1.9820137), rtol=1e-7)
    assert float(run["x"].expected_precision[0]) == pytest.approx(0.98201376, rel=1e-7)


# Exact posteriors of the parent by quadrature, and the published rules, as (mean, precision).
ACCURACY = {
    "standard": {0: (-0.0101, 0.890), 1: (-0.0002, 0.881), 3: (0.087, 0.813), 10: (22.74, 0.038)},
    "enhanced": {0: (-0.0102, 0.890), 1: (-0.0002, 0.881), 3: (0.080, 0.881), 10: (0.992, 0.881), 50: (25.05, 0.881)},
    "unbounded": {0: (-0.0096, 0.888), 1: (0.0215, 0.896), 3: (0.531, 0.665), 10: (5.894, 4.653), 50: (8.987, 9.087)},
    "moments": {0: (-0.0165, 0.894), 1: (-0.0012, 0.883), 3: (0.147, 0.771), 10: (5.940, 4.843), 50: (9.036, 8.837)},
}


def precise(update) -> Network:
    return (
        Network(mode="mean-field", update=update)
        .continuous_input("u", precision=1e4)
        .continuous_state("x1")
        .continuous_state("x2", tonic_volatility=-2.0)
        .value("x1", "u")
        .volatility("x2", "x1")
    )


@pytest.mark.parametrize("rule", ACCURACY)
def test_volatility_updates_have_their_published_accuracy(rule):
    network = precise({**RULES, "moments": MomentMatched()}[rule])
    expected = ACCURACY[rule]
    run = network.filter(np.array([list(expected)], float))
    found = np.stack([run["x2"].mean[0], run["x2"].precision[0]], axis=1)
    assert np.all(np.abs(found - np.array(list(expected.values()))) < 6e-4 * np.maximum(1.0, np.abs(found)))


def test_gradients_of_the_unbounded_update_stay_finite_after_any_surprise():
    """The variance at the first of its expansions overflows here; that expansion has no share in the posterior."""
    names, series = ["x1.tonic_volatility", "x2.tonic_volatility"], np.array([[50.0, 1e3, 2e3], [45.0, 900.0, 1.8e3]])
    network = precise(Unbounded())
    slopes = network.value_and_gradient(names, series)[1]
    with jax.enable_x64(False):
        single = network.value_and_gradient(names, series)[1]
    for name in names:
        at, h = network.parameters()[name], 1e-4
        up, down = (network.replace({name: at + shift}).log_likelihood(series) for shift in (h, -h))
        np.testing.assert_allclose(slopes[name], (up - down) / (2 * h), rtol=1e-4)
        np.testing.assert_allclose(single[name], slopes[name], rtol=1e-4)


def test_the_standard_rule_breaks_down_where_it_is_known_to_and_says_so():
    network = precise(Standard())
    series = np.array([np.nan, 50.0, 0.0])
    observed = {"u": np.isfinite(series)}
    run = network.filter(series, observed=observed)
    assert run.first_fault is not None
    assert (run.first_fault.step, run.first_fault.node) == (1, "x2")
    assert run.log_likelihood == -np.inf
    assert network.log_likelihood(series, observed=observed) == -np.inf
    assert "broke down at step 1, node 'x2': posterior precision -" in repr(run)
    assert np.isfinite(run["x2"].precision[0])
    assert np.isnan(run["x2"].precision[1:]).all()  # never a number after a broken step
    assert np.isnan(np.asarray(run.carry.precisions)).all()
    assert len(network.filter(series, observed=observed, on_fault="stop")) == 1
    with pytest.raises(InferenceError, match="step 1, node 'x2'") as caught:
        network.filter(series, observed=observed, on_fault="raise")
    np.testing.assert_array_equal(caught.value.partial["x2"].precision, run["x2"].precision[:1])
    both = np.stack([series, np.full(3, np.nan)], axis=1)
    batch = network.filter(both, observed={"u": np.isfinite(both)})
    assert (batch.first_fault.step, batch.first_fault.entry) == (1, 0)
    assert np.isnan(batch["x2"].mean[1:, 0]).all()
    assert np.isfinite(batch["x2"].mean[:, 1]).all()
