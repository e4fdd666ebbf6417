"""Distribution against density: what the interpreter draws for each family follows the density that it scores.

Every family is one site of a program. The program is run as a population, whose particles are independent draws; the
same program's log density, integrated numerically, is the law they are held to. So a sampler, a density, or a batching
rule that disagrees with the others is found, whichever of them is wrong. SciPy's law, where it has one, is a second
reference for the density. Resampling laws are held to their own enumeration.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats

from probinf.language import statements as pi
from probinf.language.distributions import flatten
from probinf.language.program import Program, model
from probinf.representations.angular import Angular
from probinf.transformations.algorithms import population, recorded
from probinf.transformations.conditional import Conditional
from probinf.transformations.resampling import SCHEMES
from probinf.validity.report import Check, statistical_check
from probinf.validity.significance import p_of_counts, p_of_levels

DRAWS = 50_000
_NODES = 40_001
_QUADRATURE = 1e-5  # what the trapezoidal rule leaves where a density has a corner, at most
_MOST = 400  # a discrete family's values, from zero
_LEAST_MASS = 1e-3  # cells of less are pooled
_SCALES = (0.8, 1.1)
_LOG_WEIGHTS = np.log([0.15, 0.05, 0.5, 0.3])


@dataclasses.dataclass(frozen=True)
class Family:
    """A law to check.

    Attributes:
        name: as it is called in the table.
        law: makes it from a number near 1 that scales one of its parameters.
        reference: SciPy's frozen law at 1, or None.
    """

    name: str
    law: Callable[[Any], dist.Distribution]
    reference: Any = None


_THREE = np.array([0.2, 0.5, 0.3])


def families() -> Iterator[Family]:
    """The families that are documented to work: scalar ones, continuous and discrete, ours included."""
    s: Any = scipy.stats
    yield Family("Normal", lambda a: dist.Normal(0.4, 1.3 * a), s.norm(0.4, 1.3))
    yield Family("StudentT", lambda a: dist.StudentT(4.0, 0.5, 1.3 * a), s.t(4.0, 0.5, 1.3))
    yield Family("Cauchy", lambda a: dist.Cauchy(0.3, 0.8 * a), s.cauchy(0.3, 0.8))
    yield Family("Laplace", lambda a: dist.Laplace(0.3, 0.8 * a), s.laplace(0.3, 0.8))
    yield Family("Logistic", lambda a: dist.Logistic(0.3, 0.8 * a), s.logistic(0.3, 0.8))
    yield Family("Gumbel", lambda a: dist.Gumbel(0.3, 0.8 * a), s.gumbel_r(0.3, 0.8))
    yield Family("Uniform", lambda a: dist.Uniform(-0.5, 2.0 * a), s.uniform(-0.5, 2.5))
    yield Family("Gamma", lambda a: dist.Gamma(2.5 * a, 1.7), s.gamma(2.5, scale=1 / 1.7))
    yield Family("Gamma, shape below 1", lambda a: dist.Gamma(0.6 * a, 1.7), s.gamma(0.6, scale=1 / 1.7))
    yield Family("InverseGamma", lambda a: dist.InverseGamma(3.5 * a, 1.7), s.invgamma(3.5, scale=1.7))
    yield Family("Chi2", lambda a: dist.Chi2(3.0 * a), s.chi2(3.0))
    yield Family("Exponential", lambda a: dist.Exponential(1.7 * a), s.expon(scale=1 / 1.7))
    yield Family("HalfNormal", lambda a: dist.HalfNormal(1.4 * a), s.halfnorm(scale=1.4))
    yield Family("HalfCauchy", lambda a: dist.HalfCauchy(0.8 * a), s.halfcauchy(scale=0.8))
    yield Family("LogNormal", lambda a: dist.LogNormal(0.2, 0.6 * a), s.lognorm(0.6, scale=np.exp(0.2)))
    yield Family("Weibull", lambda a: dist.Weibull(1.2 * a, 1.8), s.weibull_min(1.8, scale=1.2))
    yield Family("Pareto", lambda a: dist.Pareto(1.2, 3.0 * a), s.pareto(3.0, scale=1.2))
    yield Family("Beta", lambda a: dist.Beta(2.0 * a, 3.5), s.beta(2.0, 3.5))
    yield Family("Kumaraswamy", lambda a: dist.Kumaraswamy(2.0 * a, 3.0))
    yield Family("TruncatedNormal", lambda a: dist.TruncatedNormal(0.3, 1.1 * a, low=-0.2, high=1.5))
    yield Family("VonMises", lambda a: dist.VonMises(0.4, 2.0 * a))
    yield Family("Angular", lambda a: Angular(0.4, 1.2 * a))
    # Its shift differs between lanes and its base does not: NumPyro's own batching would share the base's draw.
    affine = dist.transforms.AffineTransform
    yield Family("Affine of StudentT", lambda a: dist.TransformedDistribution(dist.StudentT(5.0), affine(a, 2.0)))
    yield Family(
        "MixtureSameFamily",
        lambda a: dist.MixtureSameFamily(
            dist.CategoricalProbs(jnp.asarray(_THREE)), dist.Normal(a * jnp.array([-2.0, 0.0, 1.5]), 0.6)
        ),
    )
    yield Family("Bernoulli", lambda a: dist.BernoulliProbs(0.3 * a), s.bernoulli(0.3))
    yield Family("Bernoulli, logits", lambda a: dist.BernoulliLogits(0.4 * a), s.bernoulli(1 / (1 + np.exp(-0.4))))
    yield Family("Binomial", lambda a: dist.BinomialProbs(0.3 * a, 7), s.binom(7, 0.3))
    yield Family("Categorical", lambda a: dist.CategoricalProbs(_tilt(a)), s.rv_discrete(values=([0, 1, 2], _THREE)))
    yield Family("Categorical, logits", lambda a: dist.CategoricalLogits(jnp.log(_tilt(a))))
    yield Family("Geometric", lambda a: dist.GeometricProbs(0.4 * a), s.geom(0.4, loc=-1))
    yield Family("Poisson", lambda a: dist.Poisson(2.7 * a), s.poisson(2.7))
    yield Family("NegativeBinomial2", lambda a: dist.NegativeBinomial2(3.0 * a, 2.0), s.nbinom(2.0, 0.4))
    yield Family("GammaPoisson", lambda a: dist.GammaPoisson(3.0 * a, 1.5), s.nbinom(3.0, 0.6))
    yield Family("BetaBinomial", lambda a: dist.BetaBinomial(2.0 * a, 3.0, 7), s.betabinom(7, 2.0, 3.0))


def _tilt(a: Any) -> jax.Array:
    """Probabilities of three values that are `_THREE` at a = 1."""
    p = jnp.asarray(_THREE) ** a
    return p / jnp.sum(p)


def check_families(seed: int = 0, which: Iterable[Family] | None = None) -> Iterator[Check]:
    """Check families: the total mass of the density, SciPy's law, and the law of the draws.

    The draws are held to the density by the Dvoretzky-Kiefer-Wolfowitz inequality (continuous) or by exact binomial
    tails of the cells (discrete), at the suite's share of the false-alarm budget.
    """
    for family in families() if which is None else which:
        yield from check_family(family, seed)


def check_family(family: Family, seed: int = 0) -> Iterator[Check]:
    """All checks of one family."""
    # Fixed for each family, whatever else is run.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(family.name.encode())), 2)
    program = _one_parameter(family)
    table = _tabulated(family, program, 1.0)
    yield _exact(family, "total mass", abs(table.cumulative[-1] - 1.0))
    if family.reference is not None:
        with np.errstate(over="ignore"):  # SciPy's Gumbel, far below where it has mass
            gap = np.abs(table.cumulative - family.reference.cdf(table.grid)).max()
        yield _exact(family, "density", float(gap))
    (draws,) = _draws(program, keys[0])
    yield statistical_check(family.name, "law", "one parameter", _p_value([table], [draws]), DRAWS)
    # Two parameters at random: every particle draws under its own.
    side, draws = _draws(_two_parameters(family), keys[1])
    tables = [_tabulated(family, program, scale) for scale in _SCALES]
    p = _p_value(tables, [draws[side == i] for i in range(len(_SCALES))])
    yield statistical_check(family.name, "law", "parameters differ", p, DRAWS)


def _exact(family: Family, claim: str, error: float) -> Check:
    passed = bool(error <= _QUADRATURE)
    note = "" if passed else f"Off by {error:.3g}."
    return Check(family.name, claim, "one parameter", float(error), _QUADRATURE, passed=passed, note=note)


def _one_parameter(family: Family) -> Program:
    def one_parameter(scale: Any) -> Any:
        return pi.sample("x", family.law(scale))

    return model(one_parameter)(1.0)


def _two_parameters(family: Family) -> Program:
    def two_parameters() -> Any:
        side = pi.sample("side", dist.BernoulliProbs(0.5))
        return pi.sample("x", family.law(jnp.asarray(_SCALES)[side]))

    return model(two_parameters)()


def _draws(program: Program, key: jax.Array) -> list[np.ndarray]:
    """Draws of all sites in program order: the particles of one population without observations."""
    values = population(recorded(program), DRAWS).run(key)[0].particles
    return [np.asarray(values[s.name]) for s in program.staged.latent()]


# -- the law that the density gives ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Table:
    """Values in increasing order, and the mass up to and including each."""

    grid: np.ndarray
    cumulative: np.ndarray
    is_discrete: bool


def _tabulated(family: Family, program: Program, scale: float) -> _Table:
    law, (info,) = family.law(scale), program.staged.latent()
    (old,), rest = program.operands
    program = program.with_operands(((jnp.full_like(old, scale),), rest))  # compiled once for all scales

    def density(x: jax.Array) -> np.ndarray:
        return np.exp(np.asarray(jax.vmap(lambda v: program.log_density({"x": v}))(x), np.float64))

    if law.is_discrete:  # all that are here live on 0, 1, 2, ...
        values = np.arange(_MOST)
        return _Table(values, np.cumsum(density(jnp.asarray(values, info.dtype))), is_discrete=True)
    support: Any = law.support
    if support is dist.constraints.circular:
        t = x = jnp.linspace(-jnp.pi, jnp.pi, _NODES)
        speed = np.ones(_NODES)
    else:
        # Along x = bijection(sinh(t)) no end of the support is met and every tail is short: the trapezoidal rule is
        # then accurate far beyond need (Takahasi & Mori 1974).
        is_line = support is dist.constraints.real
        t = jnp.linspace(-36.0, 36.0, _NODES) if is_line else jnp.linspace(-4.4, 4.4, _NODES)
        change: Any = dist.biject_to(support)
        x = change(jnp.sinh(t))
        speed = np.exp(np.asarray(change.log_abs_det_jacobian(jnp.sinh(t), x))) * np.cosh(np.asarray(t))
    height = density(x) * speed
    parts = 0.5 * (height[1:] + height[:-1]) * np.diff(np.asarray(t))
    return _Table(np.asarray(x, np.float64), np.concatenate([[0.0], np.cumsum(parts)]), is_discrete=False)


def _p_value(tables: list[_Table], draws: list[np.ndarray]) -> float:
    """Of groups of draws against one law for each group."""
    if not all(np.isfinite(x).all() for x in draws):
        return 0.0
    if not tables[0].is_discrete:
        levels = [np.interp(x, t.grid, t.cumulative, left=0.0, right=1.0) for t, x in zip(tables, draws, strict=True)]
        return p_of_levels(np.clip(np.concatenate(levels), 0.0, 1.0))
    counts, masses = [], []
    for table, x in zip(tables, draws, strict=True):
        mass = np.diff(table.cumulative, prepend=0.0)
        if not np.isin(x, table.grid[mass > 0]).all():
            return 0.0
        found = (x[:, None] == table.grid).sum(axis=0)
        large = mass >= _LEAST_MASS
        counts += [*found[large], found[~large].sum()]
        masses += [*mass[large] / len(tables), max(1.0 - mass[large].sum(), 0.0) / len(tables)]
    return p_of_counts(np.array(counts), np.array(masses))


# -- resampling --------------------------------------------------------------------------------------------------------


def check_resampling(seed: int = 0) -> Iterator[Check]:
    """Every scheme, and its law given a survivor, against its own enumeration: whole vectors of ancestors."""
    for name in SCHEMES:
        for num in (3, 4):
            key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"{name} {num}".encode()))
            yield _against_enumeration(SCHEMES[name](jnp.asarray(_LOG_WEIGHTS), num), f"{name} resampling", num, key)
        law = Conditional(jnp.asarray(_LOG_WEIGHTS), len(_LOG_WEIGHTS), name)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"{name} given a survivor".encode()))
        yield _against_enumeration(law, f"{name} resampling given a survivor", law.num, key)


def _against_enumeration(law: Any, name: str, num: int, key: jax.Array) -> Check:
    leaves, structure = flatten(law)

    def ancestors(*leaves: Any) -> Any:  # arguments: as constants they would be folded at length
        return pi.sample("a", jax.tree.unflatten(structure, leaves))

    (draws,) = _draws(model(ancestors)(*leaves), key)
    vectors, log_p = law.enumerate()
    # One number for each vector, to count by.
    base = len(_LOG_WEIGHTS) ** np.arange(num)
    codes, found = np.asarray(vectors) @ base, draws @ base
    counts = np.array([(found == c).sum() for c in codes])
    p = 0.0 if counts.sum() < len(found) else p_of_counts(counts, np.exp(log_p))
    return statistical_check(name, "law", f"{num} ancestors", p, DRAWS)
