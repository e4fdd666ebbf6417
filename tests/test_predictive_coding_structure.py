"""Parts of networks that come and go without compilation, and structures learnt from data.

Seeds are fixed; statistical tests state how often they would fail by chance.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.errors import ArgumentError, ModelError, UnknownNameError
from probinf.predictive_coding import (
    Network,
    Supernetwork,
    binary_hgf,
    categorical_hgf,
    jump_structures,
    learn_structure,
)
from probinf.predictive_coding.filtering import Traces

U = (np.random.default_rng(1).random(24) < 0.7).astype(float)
X = np.cumsum(np.random.default_rng(2).normal(0.0, np.where(np.arange(60) // 20 == 1, 1.2, 0.15)))
OMEGA = "x1.tonic_volatility"


def full(**settings) -> Network:
    """A value parent with two couplings to choose from, and a volatility parent."""
    return (
        Network("full", **settings)
        .continuous_input("u", precision=2.0, missing="nan")
        .continuous_state("x1", tonic_volatility=-2.0)
        .continuous_state("drive", mean=0.3, precision=4.0, tonic_volatility=-3.0)
        .continuous_state("x2", mean=0.5, tonic_volatility=-2.0, autoconnection=0.95)
        .value("x1", "u")
        .value("drive", "x1", 0.4)
        .volatility("x2", "x1", 0.8)
    )


def pool() -> Supernetwork:
    return Supernetwork(full(), ["drive", "x2", "x2->x1.volatility"])


def test_absent_parts_are_absent_exactly():
    """Every structure of the pool, missing values included, against the small network; one trace for all of them."""
    u = U.copy()
    u[5] = np.nan
    found = pool()
    structures = found.structures()
    assert structures == [
        (),
        ("drive",),
        ("x2",),
        ("drive", "x2"),
        ("x2", "x2->x1.volatility"),
        ("drive", "x2", "x2->x1.volatility"),
    ]
    found.filter(u)
    before = Traces.count
    runs = [found.filter(u, {part: part in s for part in found.optional}) for s in structures]
    assert Traces.count == before
    for structure, run in zip(structures, runs, strict=True):
        small = found.structure(structure).filter(u)
        np.testing.assert_allclose(run.log_densities, small.log_densities, rtol=1e-12)
        for name in found.structure(structure).state_names():
            np.testing.assert_allclose(run[name].mean, small[name].mean, rtol=1e-12)
            np.testing.assert_allclose(run[name].precision, small[name].precision, rtol=1e-12)
        assert np.isnan(run["drive"].mean).all() != ("drive" in structure)
        assert np.isfinite(run.total_surprise).all()


def test_a_part_joins_and_leaves_while_the_filter_runs_and_nothing_is_compiled():
    """Changes by schedule against pieces run by the small networks, each from the beliefs that the last one left."""
    found = pool()
    found.filter(U)
    before = Traces.count
    steps = np.arange(24)
    present = {"x2": (steps >= 8) & (steps < 16), "drive": steps < 16}
    run = found.filter(U, present)
    found.filter(U, {"x2": steps >= 3})
    assert Traces.count == before

    def handed(to: tuple[str, ...], after: Network | None) -> Network:
        network = found.structure(to)
        if after is None:
            return network
        common = [n for n in network.state_names() if n in after.state_names()]
        old = after.parameters()
        return network.replace({f"{n}.{f}": old[f"{n}.{f}"] for n in common for f in ("mean", "precision")})

    after, at = None, 0
    edges = ("x2", "x2->x1.volatility")
    for stop, structure in ((8, ("drive",)), (16, ("drive", *edges)), (24, ())):
        piece = handed(structure, after).filter(U[at:stop])
        np.testing.assert_allclose(run.log_densities[at:stop], piece.log_densities, rtol=1e-12)
        for name in piece.network.state_names():
            np.testing.assert_allclose(run[name].mean[at:stop], piece[name].mean, rtol=1e-12)
        after, at = piece.network_after(), stop


def test_pools_refuse_what_they_cannot_switch():
    with pytest.raises(UnknownNameError, match="'x9'"):
        Supernetwork(full(), ["x9"])
    with pytest.raises(ArgumentError, match="at least one"):
        Supernetwork(full(), [])
    with pytest.raises(ModelError, match="no value parent"):
        Supernetwork(full(), ["x1"])
    with pytest.raises(ModelError, match="composite"):
        Supernetwork(categorical_hgf(3), ["volatility"])
    with pytest.raises(UnknownNameError, match="'x1'"):
        pool().filter(U, {"x1": False})
    with pytest.raises(ArgumentError, match=r"present\['x2'\]"):
        pool().filter(U, {"x2": np.ones(3, bool)})
    with pytest.raises(ArgumentError, match="search"):
        learn_structure(pool(), U, search="all")
    with pytest.raises(ArgumentError, match="strengths"):
        learn_structure(pool(), U, {"x2->x1.volatility": dist.Normal(0.0, 1.0)})
    with pytest.raises(ArgumentError, match="cannot be there without"):
        jump_structures(pool(), U, {OMEGA: dist.Normal(-2.0, 1.0)})
    with pytest.raises(ArgumentError, match="inclusion"):
        jump_structures(Supernetwork(full(), ["x2"]), U, {OMEGA: dist.Normal(-2.0, 1.0)}, inclusion=1.0)


def test_the_likelihood_of_every_structure_is_one_batch_and_greedy_search_finds_the_best():
    found = Supernetwork(full(), ["drive", "x2"])
    table = learn_structure(found, X)
    for structure, value in zip(table.structures, table.log_evidence, strict=True):
        assert value == pytest.approx(float(found.structure(structure).log_likelihood(X)), rel=1e-10)
    assert table.probabilities().sum() == pytest.approx(1.0)
    assert set(table.inclusion()) == {"drive", "x2"}
    greedy = learn_structure(found, X, search="greedy")
    assert greedy.structures[greedy.path[0]] == ()
    assert greedy.best == table.best
    assert "probability" in repr(table)


def exact_evidence(network: Network, prior: dist.Distribution, start: dist.Distribution | None = None) -> float:
    """On a grid of the tonic volatility, and of the volatility parent's first mean if it has a prior."""
    omega, first = np.linspace(-8.0, 4.0, 121), np.linspace(-5.0, 5.0, 51 if start is not None else 1)
    omega, first = (x.ravel() for x in np.meshgrid(omega, first, indexing="ij"))
    numbers = {OMEGA: omega} if start is None else {OMEGA: omega, "x2.mean": first}
    log_p = np.asarray(network.replace(numbers).log_likelihood(X)) + np.asarray(prior.log_prob(omega))
    if start is not None:
        log_p = log_p + np.asarray(start.log_prob(first)) + np.log(0.2)
    return float(np.log(np.sum(np.exp(log_p - log_p.max())) * 0.1) + log_p.max())


PRIOR = dist.Normal(-2.0, 1.0)


@pytest.fixture(scope="module")
def volatile() -> Supernetwork:
    """A volatility parent of known numbers: what is unknown is whether it is there, and the tonic volatility."""
    network = (
        Network("volatile")
        .continuous_input("u", precision=20.0)
        .continuous_state("x1", tonic_volatility=-2.0)
        .continuous_state("x2", tonic_volatility=-2.5, autoconnection=0.95)
        .value("x1", "u")
        .volatility("x2", "x1", 0.5)
    )
    return Supernetwork(network, ["x2"])


def test_evidence_of_structures_agrees_with_the_grid(volatile):
    """Eight runs: Student's t with 7 degrees of freedom exceeds 7.1 by chance once in 5,000."""
    table = learn_structure(volatile, X, {OMEGA: PRIOR}, num_particles=128, num_moves=8, num_runs=8)
    for structure, value, error in zip(table.structures, table.log_evidence, table.standard_error, strict=True):
        assert error < 0.15
        assert abs(value - exact_evidence(volatile.structure(structure), PRIOR)) < 7.1 * error


def test_reversible_jump_has_the_exact_probability_of_the_volatility_parent(volatile):
    """Against the grid; Student's t with 15 degrees of freedom exceeds 4.9 by chance once in 5,000."""
    start = dist.Normal(0.0, 1.0)
    evidence = [
        exact_evidence(volatile.structure(()), PRIOR),
        exact_evidence(volatile.structure(("x2",)), PRIOR, start),
    ]
    # A prior under which the exact probability is 0.4: the chains have something to do.
    odds = np.exp(evidence[0] - evidence[1]) * 0.4 / 0.6
    draws = jump_structures(
        volatile, X, {OMEGA: PRIOR, "x2.mean": start}, inclusion=float(odds / (1 + odds)), num_draws=150, num_warmup=30
    )
    share, error = draws.inclusion()["x2"]
    assert error < 0.08
    assert abs(share - 0.4) < 4.9 * error
    assert 0.1 < draws.acceptance < 0.95
    assert draws.present["x2"].shape == (16, 150)
    np.testing.assert_array_equal(np.isnan(draws.values["x2.mean"]), ~draws.present["x2"])
    assert np.isfinite(draws.values[OMEGA]).all()


def test_strengths_of_batches_are_masked_entry_by_entry():
    found = pool().strengths(jnp.array([[True, False], [True, True], [False, True]]))
    np.testing.assert_allclose(found["drive->x1.value"], [0.4, 0.0])
    np.testing.assert_allclose(found["x2->x1.volatility"], [0.0, 0.8])
    assert "x1->u.value" not in found
    assert binary_hgf(2).edges[0].strength == 1.0
