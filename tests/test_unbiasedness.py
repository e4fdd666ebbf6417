"""E[Zhat f] = Z E[f]: populations pass, biased ones are caught; every check fails at p < 2e-9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import probinf as pi
from probinf.transformations.derived import derived
from probinf.transformations.resampling import SCHEMES, Multinomial
from probinf.validity import unbiasedness
from probinf.validity.unbiasedness import check_unbiased, known_programs


def test_the_truth_is_that_of_the_programs():
    """Evidence and moments from the programs' own densities, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    line, plane = known_programs()
    grids = np.meshgrid(*[nodes] * 2, indexing="ij")
    b = np.stack(grids, -1).reshape(-1, 2)
    base = np.log(np.outer(weights, weights).ravel()) + (b**2).sum(1) / 2
    log_joint = np.asarray(jax.vmap(lambda v: plane.program.log_density({"b": v}))(jnp.asarray(b)))
    mass = np.exp(log_joint + base)
    assert np.log(mass.sum()) == pytest.approx(plane.log_evidence, abs=1e-9)
    np.testing.assert_allclose(mass @ b / mass.sum(), plane.mean, atol=1e-8)
    np.testing.assert_allclose(mass @ (b - plane.mean) ** 2 / mass.sum(), plane.variance, atol=1e-8)
    level = mass @ stats.norm.cdf(b) / mass.sum()
    truth = unbiasedness._truth(plane)
    np.testing.assert_allclose([truth["first"], truth["last"]], level, atol=1e-6)
    # The path: one step at a time, the filter as an integral.
    grid = np.linspace(-7, 7, 1401)
    step = stats.norm.pdf(grid[:, None], 0.9 * grid[None, :], 0.7) * (grid[1] - grid[0])
    density = stats.norm.pdf(grid, 0.0, 0.5)
    for y in unbiasedness._PATH:
        density = stats.norm.pdf(y, grid, 0.8) * (step @ density)
    z = integrate.trapezoid(density, grid)
    assert np.log(z) == pytest.approx(line.log_evidence, abs=1e-6)
    assert integrate.trapezoid(density * grid, grid) / z == pytest.approx(line.mean[-1], abs=1e-6)


def test_populations_are_unbiased():
    """One scheme that resamples always and one that does at times; `probinf validate` runs all."""
    line, plane = known_programs()
    cases = {"multinomial": (1.0, line), "residual": (0.5, plane)}
    for scheme, (threshold, known) in cases.items():

        def apply(program, scheme=scheme, threshold=threshold):
            return pi.population(program, 16, resample=scheme, threshold=threshold)

        checks = list(check_unbiased(apply, "", 1, [known]))
        assert [c.passed for c in checks] == [True] * 3, checks
    assert len(list(unbiasedness.populations())) == 2 * len(SCHEMES)


class Even(Multinomial):
    """Ancestors whatever the weights are."""

    def from_uniforms(self, uniforms, log_weights):
        return super().from_uniforms(uniforms, jnp.zeros_like(log_weights))


def test_a_biased_resampler_is_caught(monkeypatch):
    monkeypatch.setitem(SCHEMES, "even", Even)
    checks = list(
        check_unbiased(lambda p: pi.population(p, 16, resample="even", threshold=1.0), "", 0, known_programs()[:1])
    )
    assert [c.passed for c in checks] == [False] * 3, checks


def scaled(by):
    def transform(program):
        def function(value):
            return jax.tree.map(
                lambda x: x,
                value.__class__(value.particles, value.log_weights, value.collected + jnp.log(by), value.history),
            )

        return derived("scaled", pi.population(program, 16, threshold=1.0), function)

    return transform


@pytest.mark.parametrize("by", [0.93, 1.05])
def test_a_wrong_constant_is_caught(by):
    checks = list(check_unbiased(scaled(by), "", 0, known_programs()[:1]))
    assert not checks[0].passed
    assert "expected 1" in checks[0].note


def test_without_a_bound_only_too_large_is_judged():
    checks = list(check_unbiased(scaled(5.0), "", 0, known_programs()[:1]))
    assert not checks[0].passed

    def by_priority(program):
        return pi.population(program, 4, threshold=1.0, priority=lambda lw: 3.0 * lw)

    checks = list(check_unbiased(by_priority, "", 0, known_programs()[:1]))
    assert [c.passed for c in checks] == [None] * 3
    assert "no bound is known" in checks[0].note


def test_nested_populations_are_held_to_the_same():
    line = known_programs()[0]

    def nested(program):
        return pi.population(pi.collapse(pi.population(program, 4, threshold=1.0)), 3, threshold=1.0)

    checks = list(check_unbiased(nested, "nested", 0, [line], 1500))
    assert all(c.passed for c in checks), checks


def test_validate_runs_them_at_the_statistical_level(monkeypatch):
    monkeypatch.setattr(unbiasedness, "known_programs", lambda: known_programs()[:1])
    report = pi.validate(lambda p: pi.population(p, 8), level="statistical", name="eight")
    assert report.passed
    assert {(c.thing, c.claim, c.level) for c in report.checks} == {("eight", "unbiased", "statistical")}
