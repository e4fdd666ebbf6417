"""Distribution against density: what holds passes; a wrong sampler, density, law of ancestors or p-value is caught.

What has to pass is held to the suite's p < 2e-9; the thirty or so checks here raise a false alarm below 1e-7.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinf import cli
from probinf.transformations.conditional import Conditional
from probinf.transformations.resampling import SCHEMES, Multinomial, Systematic
from probinf.validity import command, family_tests
from probinf.validity.family_tests import Family, check_family, check_resampling, families
from probinf.validity.significance import p_of_counts, p_of_levels, p_of_mean

NAMES = [f.name for f in families()]
#: One of each kind of support, of sampler and of batching; the others run in the slow lane and in `probinf validate`.
QUICK = ["Pareto", "Angular", "Geometric"]


def check(name):
    (family,) = [f for f in families() if f.name == name]
    checks = list(check_family(family))
    assert len(checks) >= 3
    assert all(c.passed for c in checks), checks


@pytest.mark.parametrize("name", QUICK)
def test_draws_follow_the_density(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in QUICK])
def test_draws_of_every_other_family_follow_the_density(name):
    check(name)


def test_the_documented_families_are_all_there():
    found = {n.split(",")[0] for n in NAMES}
    asked = """
    Normal StudentT Gamma Beta HalfNormal Exponential LogNormal Cauchy Laplace Logistic Uniform Gumbel
    InverseGamma Weibull Pareto Bernoulli Binomial Poisson Categorical Geometric NegativeBinomial2 Angular
    """
    assert set(asked.split()) <= found
    assert len(NAMES) == len(set(NAMES))


class WideNormal(dist.Normal):
    """Draws are 10 % wider than the density says."""

    def sample(self, key, sample_shape=()):
        return self.loc + 1.1 * (super().sample(key, sample_shape) - self.loc)


class Unnormalised(dist.Normal):
    """The density lacks its scale."""

    def log_prob(self, value, intermediates=None):
        return super().log_prob(value) + jnp.log(self.scale)


class OffByOne(dist.GeometricProbs):
    """Counts trials in place of failures."""

    def sample(self, key, sample_shape=()):
        return super().sample(key, sample_shape) + 1


class Shared(dist.Normal):
    """Its batching gives all lanes one draw: alone it is right."""

    def lanes(self, mapped, size):
        return SharedLanes(jnp.broadcast_to(self.loc, (size,)), jnp.broadcast_to(self.scale, (size,)))


class SharedLanes(dist.Normal):
    def sample(self, key, sample_shape=()):
        return self.loc + self.scale * jax.random.normal(key, (), self.loc.dtype)


@pytest.mark.parametrize(
    ("law", "reference", "caught"),
    [
        (lambda a: WideNormal(0.4, 1.3 * a), stats.norm(0.4, 1.3), {"law"}),
        (lambda a: Unnormalised(0.4, 1.3 * a), stats.norm(0.4, 1.3), {"total mass", "density", "law"}),
        (lambda a: dist.Normal(0.4, 1.001 * 1.3 * a), stats.norm(0.4, 1.3), {"density"}),
        (lambda a: OffByOne(0.4 * a), stats.geom(0.4, loc=-1), {"law"}),
        (lambda a: Shared(0.4, 1.3 * a), stats.norm(0.4, 1.3), {"law"}),
    ],
    ids=["wide draws", "unnormalised", "other parameters", "off by one", "shared draws"],
)
def test_what_is_wrong_is_caught(law, reference, caught):
    checks = list(check_family(Family("broken", law, reference)))
    assert {c.claim for c in checks if not c.passed} == caught


LOG_WEIGHTS = jnp.log(jnp.array([0.15, 0.05, 0.5, 0.3]))


@pytest.mark.parametrize(
    "law",
    [Systematic(LOG_WEIGHTS, 3), Conditional(LOG_WEIGHTS, 4, "residual")],
    ids=["systematic", "residual, given one"],
)
def test_ancestors_follow_their_enumeration(law):
    assert family_tests._against_enumeration(law, "", law.num, jax.random.key(0)).passed


@pytest.mark.slow
def test_the_ancestors_of_every_scheme_follow_their_enumeration():
    checks = list(check_resampling())
    assert len(checks) == 3 * len(SCHEMES)
    assert all(c.passed for c in checks), checks


class LowSide(Systematic):
    """The uniform number never reaches its upper tenth."""

    def from_uniforms(self, uniforms, log_weights):
        return super().from_uniforms(0.9 * uniforms, log_weights)


class Together(Multinomial):
    """Every ancestor is right alone, and they are all the same."""

    def from_uniforms(self, uniforms, log_weights):
        return super().from_uniforms(jnp.broadcast_to(uniforms[:1], uniforms.shape), log_weights)


@pytest.mark.parametrize("broken", [LowSide, Together])
def test_wrong_ancestors_are_caught(broken):
    law = broken(LOG_WEIGHTS, 3)
    assert not family_tests._against_enumeration(law, "broken", 3, jax.random.key(0)).passed


def test_the_command_checks_families_and_guards_its_budget(capsys, monkeypatch):
    arguments = ["validate", "--level", "statistical", "--only", "HalfNormal"]
    assert cli.main(arguments) == 0
    assert "HalfNormal" in capsys.readouterr().out
    monkeypatch.setattr(command, "STATISTICAL_CHECKS", 1)
    assert cli.main(arguments) == 1
    assert "2 statistical checks share a budget made for 1" in capsys.readouterr().out


# -- p-values ----------------------------------------------------------------------------------------------------------


def test_p_values_are_those_of_the_inequalities():
    """Closed forms: two points at the middle; 20 of 20 in a cell of one half."""
    assert p_of_levels(np.full(2000, 0.5)) == pytest.approx(2 * math.exp(-2 * 2000 * 0.25))
    assert p_of_levels((np.arange(1000) + 0.5) / 1000) == 1.0
    assert p_of_counts(np.array([20, 0]), np.array([0.5, 0.5])) == pytest.approx(4 * 0.5**20)
    assert p_of_counts(np.array([10, 10]), np.array([0.5, 0.5])) == 1.0
    assert p_of_counts(np.array([19, 1]), np.array([1.0, 0.0])) == 0.0
    assert p_of_levels(np.array([0.1, np.nan])) == p_of_levels(np.array([0.1, 1.2])) == 0.0


def test_betting_is_calibrated_and_finds_a_wrong_mean():
    """2,000 experiments on the worst kind of variable: p <= 0.01 in at most 1 % (binomial tail at 1e-9: 52)."""
    rng = np.random.default_rng(0)
    x = 5.0 * (rng.uniform(size=(2000, 300)) < 0.2)  # mean 1, range [0, 5]
    p = np.array([p_of_mean(row, 1.0, 5.0) for row in x])
    assert (p <= 0.01).sum() <= stats.binom(2000, 0.01).isf(1e-9)
    long = 5.0 * (rng.uniform(size=20_000) < 0.2)
    assert p_of_mean(long, 1.15, 5.0) < 1e-9
    assert p_of_mean(long, 0.85, 5.0) < 1e-9
    assert p_of_mean(long, 0.85, None) < 1e-9  # too large is found without a bound
    assert p_of_mean(long, 1.15, None) > 0.5  # too small is not
    assert p_of_mean(long, 1.0, 4.0) == p_of_mean(-long, 1.0, 5.0) == 0.0  # out of range
