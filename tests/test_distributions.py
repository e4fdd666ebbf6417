"""Distributions as data: batching by lanes (shape, density and law of every family), and log densities.

`lanes` widens a distribution by an axis along which some parameters differ. For every family in the table below: the
draw's shape for four patterns of mapped parameters, the log density lane by lane against the family itself, and the law
of the draws. The trap: a lane count equal to the length of a parameter's own axis.

False alarms: draws are compared with the family's own draws by two-sample Kolmogorov-Smirnov tests (700 against 700
per lane) and lanes with each other by a rank correlation, each at p = 1e-6 / number of tests, so 1e-6 for the file.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from probinf.language.distributions import draw, flatten, lanes, log_density, supported

V3 = jnp.array([0.3, -0.5, 1.0])
POSITIVE3 = jnp.array([0.7, 1.5, 2.2])
SIMPLEX3 = jnp.array([0.2, 0.5, 0.3])
COV3 = jnp.array([[1.0, 0.3, 0.1], [0.3, 1.2, -0.2], [0.1, -0.2, 0.8]])
CHOL3 = jnp.linalg.cholesky(COV3)

#: name -> distribution; parameters of length 3 meet 3 lanes, the trap.
FAMILIES = {
    "normal": lambda: dist.Normal(0.4, 1.3),
    "normal-batch": lambda: dist.Normal(V3, 1.3),
    "lognormal": lambda: dist.LogNormal(0.2, 0.6),
    "half-normal": lambda: dist.HalfNormal(1.4),
    "half-cauchy": lambda: dist.HalfCauchy(0.8),
    "cauchy": lambda: dist.Cauchy(0.3, 0.8),
    "student-t": lambda: dist.StudentT(4.0, 0.5, 1.3),
    "laplace": lambda: dist.Laplace(0.3, 0.8),
    "logistic": lambda: dist.Logistic(0.3, 0.8),
    "gumbel": lambda: dist.Gumbel(0.3, 0.8),
    "asymmetric-laplace": lambda: dist.AsymmetricLaplace(0.3, 0.8, 1.4),
    "soft-laplace": lambda: dist.SoftLaplace(0.3, 0.8),
    "exponential": lambda: dist.Exponential(1.7),
    "gamma": lambda: dist.Gamma(2.5, 1.7),
    "inverse-gamma": lambda: dist.InverseGamma(3.5, 1.7),
    "chi2": lambda: dist.Chi2(3.0),
    "beta": lambda: dist.Beta(2.0, 3.5),
    "beta-proportion": lambda: dist.BetaProportion(0.4, 6.0),
    "kumaraswamy": lambda: dist.Kumaraswamy(2.0, 3.0),
    "pareto": lambda: dist.Pareto(1.2, 3.0),
    "weibull": lambda: dist.Weibull(1.2, 1.8),
    "uniform": lambda: dist.Uniform(-0.5, 2.0),
    "log-uniform": lambda: dist.LogUniform(0.5, 2.0),
    "truncated-normal-low": lambda: dist.TruncatedNormal(0.3, 1.1, low=-0.2),
    "truncated-normal-two-sided": lambda: dist.TruncatedNormal(0.3, 1.1, low=-0.2, high=1.5),
    "truncated-cauchy": lambda: dist.TruncatedCauchy(0.3, 1.1, low=-0.2),
    "von-mises": lambda: dist.VonMises(0.4, 2.0),
    "bernoulli": lambda: dist.Bernoulli(0.3),
    "bernoulli-logits": lambda: dist.Bernoulli(logits=0.3),
    "binomial": lambda: dist.Binomial(7, 0.3),
    "beta-binomial": lambda: dist.BetaBinomial(2.0, 3.0, 7),
    "poisson": lambda: dist.Poisson(2.7),
    "geometric": lambda: dist.Geometric(0.4),
    "negative-binomial": lambda: dist.NegativeBinomial2(3.0, 2.0),
    "gamma-poisson": lambda: dist.GammaPoisson(3.0, 1.5),
    "zero-inflated-poisson": lambda: dist.ZeroInflatedPoisson(0.3, 2.5),
    "categorical": lambda: dist.Categorical(SIMPLEX3),
    "categorical-logits": lambda: dist.Categorical(logits=V3),
    "ordered-logistic": lambda: dist.OrderedLogistic(0.4, jnp.array([-1.0, 0.2, 1.1])),
    "multinomial": lambda: dist.Multinomial(5, SIMPLEX3, total_count_max=5),
    "dirichlet": lambda: dist.Dirichlet(POSITIVE3),
    "dirichlet-multinomial": lambda: dist.DirichletMultinomial(POSITIVE3, 5, total_count_max=5),
    "multivariate-normal": lambda: dist.MultivariateNormal(V3, covariance_matrix=COV3),
    "multivariate-normal-tril": lambda: dist.MultivariateNormal(V3, scale_tril=CHOL3),
    "multivariate-student-t": lambda: dist.MultivariateStudentT(5.0, V3, CHOL3),
    "low-rank-normal": lambda: dist.LowRankMultivariateNormal(V3, jnp.ones((3, 1)), POSITIVE3),
    "gaussian-random-walk": lambda: dist.GaussianRandomWalk(0.7, 3),
    "lkj-cholesky": lambda: dist.LKJCholesky(3, 1.5),
    "wishart": lambda: dist.WishartCholesky(4.0, scale_tril=CHOL3),
    "delta": lambda: dist.Delta(0.7),
    "to-event": lambda: dist.Normal(V3, POSITIVE3).to_event(1),
    "expanded": lambda: dist.Normal(0.4, 1.3).expand([3]),
    "expanded-ones": lambda: dist.Normal(jnp.array([0.4]), 1.3).expand([3]),
    "expanded-to-event": lambda: dist.Normal(0.4, 1.3).expand([3]).to_event(1),
    "masked": lambda: dist.Normal(V3, 1.3).mask(jnp.array([True, False, True])),
    "affine": lambda: dist.TransformedDistribution(dist.Normal(0.2, 1.1), dist.transforms.AffineTransform(0.5, 2.0)),
    "exp-of-batch": lambda: dist.TransformedDistribution(dist.Normal(V3, 0.5), dist.transforms.ExpTransform()),
    "mixture-same-family": lambda: dist.MixtureSameFamily(dist.Categorical(SIMPLEX3), dist.Normal(V3, POSITIVE3)),
    "mixture-general": lambda: dist.MixtureGeneral(
        dist.Categorical(jnp.array([0.4, 0.6])), [dist.Normal(0.2, 1.0), dist.Normal(1.2, 0.5)]
    ),
    "zero-sum-normal": lambda: dist.ZeroSumNormal(0.8, (3,)),
    "levy": lambda: dist.Levy(0.2, 0.8),
    "gompertz": lambda: dist.Gompertz(1.2, 0.7),
}

#: One of each kind of parameters and of sampler; the laws of the others are compared in the slow lane.
COMMON = [
    "normal-batch", "gamma", "truncated-normal-low", "bernoulli", "binomial", "poisson", "categorical", "dirichlet",
    "multivariate-normal", "gaussian-random-walk", "to-event", "expanded", "affine", "mixture-same-family",
]  # fmt: skip
LANES = 3
MANY = 700
_TESTS = 2 * len(FAMILIES) * (LANES + 1)
ALPHA = 1e-6 / _TESTS


def patterns(leaves):
    """All parameters mapped, the first only, all but the first: at most three patterns."""
    n = len(leaves)
    first, rest = [True] + [False] * (n - 1), [False] + [True] * (n - 1)
    return [list(p) for p in dict.fromkeys(map(tuple, ([True] * n, first, rest))) if any(p)]


def spread(leaf, mapped):
    """Lane-specific parameters that stay legal: the family's own, scaled a little (integers stay as they are)."""
    if not mapped:
        return leaf
    scales = jnp.array([1.0, 0.98, 0.95]) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.ones(LANES, leaf.dtype)
    return leaf[None] * scales.reshape(LANES, *(1,) * leaf.ndim).astype(leaf.dtype)


def renormalised(name, leaves, mapped):
    """Parameters on the simplex go back to it after scaling."""
    simplex = {"categorical", "multinomial", "mixture-same-family", "mixture-general"}
    if name not in simplex:
        return leaves
    return [
        x / x.sum(-1, keepdims=True) if m and x.shape[-1:] in ((3,), (2,)) and bool((x > 0).all()) else x
        for x, m in zip(leaves, mapped, strict=True)
    ]


@functools.cache
def family(name):
    distribution = FAMILIES[name]()
    leaves, structure = flatten(distribution)
    return leaves, structure


def lane(leaves, structure, mapped, i):
    return jax.tree.unflatten(structure, [x[i] if m else x for x, m in zip(leaves, mapped, strict=True)])


@pytest.mark.parametrize("name", FAMILIES)
def test_lanes_have_the_shape_of_the_family(name):
    """For every pattern of mapped parameters, without computing anything."""
    leaves, structure = family(name)
    one = jax.tree.unflatten(structure, leaves)
    for mapped in (*patterns(leaves), [False] * len(leaves)):
        wide = [
            jax.ShapeDtypeStruct((LANES, *x.shape) if m else x.shape, x.dtype)
            for x, m in zip(leaves, mapped, strict=True)
        ]

        def run(wide, key, mapped=mapped):
            return draw(lanes(wide, structure, mapped, LANES), key)

        out = jax.eval_shape(run, wide, jax.eval_shape(jax.random.key, 0))
        assert out.shape == (LANES, *one.batch_shape, *one.event_shape), mapped


@pytest.mark.parametrize("name", [n if n in COMMON else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_lanes_have_the_density_and_the_law_of_the_family_and_are_independent(name, key):
    """Some parameters differ between lanes; each lane against the family itself with that lane's parameters."""
    leaves, structure = family(name)
    # A Pareto holds its scale twice, so its parameters differ between lanes together.
    mapped = patterns(leaves)[0 if name == "pareto" else -1]
    wide = renormalised(name, [spread(x, m) for x, m in zip(leaves, mapped, strict=True)], mapped)
    axes = [0 if m else None for m in mapped]

    def of(ls):
        return jax.tree.unflatten(structure, list(ls))

    @jax.jit
    def run(wide, key):
        key_lanes, key_separate = jax.random.split(key)
        widened = lanes(wide, structure, mapped, LANES)
        together = jax.vmap(lambda k: draw(widened, k))(jax.random.split(key_lanes, MANY))
        each = jax.vmap(lambda k, ls: draw(of(ls), k), in_axes=(0, axes))
        separate = jax.vmap(lambda k: each(jax.random.split(k, LANES), wide))(jax.random.split(key_separate, MANY))
        densities = jax.vmap(lambda v, ls: log_density(of(ls), v), in_axes=(0, axes))(together[0], wide)
        return together, separate, densities, log_density(widened, together[0])

    together, separate, densities, total = run(wide, key)
    assert np.isfinite(np.asarray(densities)).all()
    np.testing.assert_allclose(total, densities.sum(), rtol=1e-10, atol=1e-10)
    if name == "delta":
        return
    together, separate = statistic(together), statistic(separate)
    for i in range(LANES):
        assert stats.ks_2samp(together[:, i], separate[:, i], method="asymp").pvalue > ALPHA, f"lane {i}"
    assert stats.spearmanr(together[:, 0], together[:, 1]).pvalue > ALPHA, "lanes share their draws"


def statistic(draws):
    """One skewed number per draw and lane, (MANY, LANES): a fixed combination of its entries, all weights different."""
    x = np.asarray(draws, float).reshape(MANY, LANES, -1)
    return x @ (1.0 + np.sqrt(np.arange(1, x.shape[-1] + 1)))


@pytest.mark.parametrize("name", ["normal", "normal-batch", "multivariate-normal", "categorical", "lkj-cholesky"])
def test_lanes_without_a_mapped_parameter_draw_for_themselves(name, key):
    leaves, structure = family(name)
    one = jax.tree.unflatten(structure, leaves)
    together = lanes(leaves, structure, [False] * len(leaves), 40)
    values = draw(together, key)
    assert values.shape == (40, *one.batch_shape, *one.event_shape)
    distinct = len(np.unique(np.asarray(values).reshape(40, -1), axis=0))
    # Continuous lanes never agree; all 40 categorical ones agree with probability below 3 * 0.5^40 < 1e-11.
    assert distinct == 40 if jnp.issubdtype(values.dtype, jnp.floating) else distinct > 1


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_lane_counts_equal_to_a_parameters_axis_do_not_confuse_axes(count, key):
    """A location of length 3 shared by 3 lanes stays a batch of the lane, it does not become the lane axis."""
    leaves, structure = flatten(dist.Normal(jnp.array([0.0, 100.0, 200.0]), 1e-3))
    is_loc = [x.shape == (3,) for x in leaves]
    loc = leaves[is_loc.index(True)]
    wide = [x if fixed else jnp.stack([x] * count) for x, fixed in zip(leaves, is_loc, strict=True)]
    values = np.asarray(draw(lanes(wide, structure, [not fixed for fixed in is_loc], count), key))
    np.testing.assert_allclose(values, np.broadcast_to(loc, (count, 3)), atol=0.02)  # 20 sd: below 1e-80
    shifts = 7.0 * jnp.arange(count, dtype=float)
    wide = [jnp.stack([x + s for s in shifts]) if moves else x for x, moves in zip(leaves, is_loc, strict=True)]
    values = np.asarray(draw(lanes(wide, structure, is_loc, count), key))
    np.testing.assert_allclose(values, np.asarray(loc) + np.asarray(shifts)[:, None], atol=0.02)


def test_a_shared_base_is_drawn_once_per_lane(key):
    """The shift of a transformed distribution is mapped, its base is not: NumPyro's own batching shifts one draw."""
    law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(0.5, 2.0))
    leaves, structure = flatten(law)
    mapped = [leaf == 0.5 for leaf in map(float, leaves)]
    assert sum(mapped) == 1
    wide = [jnp.full(50, leaf) if m else leaf for leaf, m in zip(leaves, mapped, strict=True)]
    values = np.asarray(draw(lanes(wide, structure, mapped, 50), key))
    assert len(np.unique(values)) == 50


def test_lanes_of_lanes():
    """Two levels, as for populations of populations, for a family that needs the general form."""
    leaves, structure = flatten(dist.LKJCholesky(3, 1.5))
    first = [jnp.stack([x, x + 0.5]) for x in leaves]
    inner = lanes(first, structure, [True] * len(leaves), 2)
    inner_leaves, inner_structure = flatten(inner)
    outer = lanes(inner_leaves, inner_structure, [False] * len(inner_leaves), 3)
    values = draw(outer, jax.random.key(0))
    assert values.shape == (3, 2, 3, 3)
    densities = [[of_lane(first, structure, j, values[i, j]) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(log_density(outer, values), np.sum(densities), rtol=1e-12)
    assert len(np.unique(np.asarray(values).reshape(6, -1), axis=0)) == 6


def test_bounds_that_differ_between_lanes_bound_their_own_lane(key):
    """A Pareto's support starts at its scale: each lane has the support, and the bijection, of its own."""
    leaves, structure = flatten(dist.Pareto(jnp.array([1.0, 1.0]), 3.0))
    scales = jnp.array([0.5, 1.0, 2.0])
    wide = [x[None] * scales.reshape(3, *(1,) * x.ndim) if np.allclose(x, 1.0) else x for x in leaves]
    mapped = [w is not x for w, x in zip(wide, leaves, strict=True)]
    law = lanes(wide, structure, mapped, 3)
    values = draw(law, key)
    expected = stats.pareto.logpdf(np.asarray(values), 3.0, scale=np.asarray(scales)[:, None]).sum()
    np.testing.assert_allclose(log_density(law, values), expected, rtol=1e-12)
    assert float(log_density(law, values.at[2, 1].set(1.5))) == -np.inf
    lower = dist.biject_to(law.support)(jnp.full((3, 2), -200.0))
    np.testing.assert_allclose(lower, np.repeat(np.asarray(scales)[:, None], 2, axis=1), rtol=1e-12)


def of_lane(leaves, structure, j, value):
    return float(log_density(jax.tree.unflatten(structure, [x[j] for x in leaves]), value))


# -- log densities ----------------------------------------------------------------------------------------------------

SCIPY = [
    (lambda: dist.Normal(0.4, 1.3), lambda x: stats.norm.logpdf(x, 0.4, 1.3), 0.7),
    (lambda: dist.StudentT(4.0, 0.5, 1.3), lambda x: stats.t.logpdf(x, 4, 0.5, 1.3), -2.0),
    (lambda: dist.Gamma(2.5, 1.7), lambda x: stats.gamma.logpdf(x, 2.5, scale=1 / 1.7), 0.9),
    (lambda: dist.Beta(2.0, 3.5), lambda x: stats.beta.logpdf(x, 2, 3.5), 0.2),
    (lambda: dist.LogNormal(0.2, 0.6), lambda x: stats.lognorm.logpdf(x, 0.6, scale=math.exp(0.2)), 1.9),
    (lambda: dist.HalfCauchy(0.8), lambda x: stats.halfcauchy.logpdf(x, scale=0.8), 3.0),
    (lambda: dist.InverseGamma(3.5, 1.7), lambda x: stats.invgamma.logpdf(x, 3.5, scale=1.7), 0.4),
    (lambda: dist.Weibull(1.2, 1.8), lambda x: stats.weibull_min.logpdf(x, 1.8, scale=1.2), 0.5),
    (lambda: dist.Laplace(0.3, 0.8), lambda x: stats.laplace.logpdf(x, 0.3, 0.8), -1.0),
    (lambda: dist.Poisson(2.7), lambda x: stats.poisson.logpmf(x, 2.7), 4),
    (lambda: dist.Binomial(7, 0.3), lambda x: stats.binom.logpmf(x, 7, 0.3), 2),
    (lambda: dist.Bernoulli(0.3), lambda x: stats.bernoulli.logpmf(x, 0.3), 1),
    (lambda: dist.Uniform(-0.5, 2.0), lambda x: stats.uniform.logpdf(x, -0.5, 2.5), 0.1),
    (
        lambda: dist.TruncatedNormal(0.3, 1.1, low=-0.2),
        lambda x: stats.truncnorm.logpdf(x, -0.5 / 1.1, np.inf, 0.3, 1.1),
        0.6,
    ),
]


@pytest.mark.parametrize("case", range(len(SCIPY)))
def test_log_densities_agree_with_scipy(case):
    make, expected, x = SCIPY[case]
    np.testing.assert_allclose(log_density(make(), jnp.asarray(x)), expected(x), rtol=1e-10)


def test_log_densities_of_vectors_agree_with_scipy():
    x = np.array([0.1, 0.2, 0.7])
    np.testing.assert_allclose(
        log_density(dist.MultivariateNormal(V3, covariance_matrix=COV3), x),
        stats.multivariate_normal.logpdf(x, np.asarray(V3), np.asarray(COV3)),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        log_density(dist.Dirichlet(POSITIVE3), x), stats.dirichlet.logpdf(x, np.asarray(POSITIVE3)), rtol=1e-12
    )


OUTSIDE = [
    (lambda: dist.LogNormal(0.0, 1.0), -1.0),
    (lambda: dist.Gamma(2.0, 1.0), -0.5),
    (lambda: dist.Beta(2.0, 2.0), 1.2),
    (lambda: dist.Poisson(2.0), 2.5),
    (lambda: dist.Poisson(2.0), -1),
    (lambda: dist.Binomial(3, 0.5), 4),
    (lambda: dist.Uniform(0.0, 1.0), 1.5),
    (lambda: dist.HalfNormal(1.0), -0.1),
    (lambda: dist.Categorical(SIMPLEX3), 3),
    (lambda: dist.Dirichlet(POSITIVE3), np.array([0.5, 0.6, 0.2])),
    (lambda: dist.TruncatedNormal(0.0, 1.0, low=0.0), -0.5),
]


@pytest.mark.parametrize("case", range(len(OUTSIDE)))
def test_outside_of_the_support_the_density_is_zero_and_its_gradient_finite(case):
    make, x = OUTSIDE[case]
    assert float(log_density(make(), jnp.asarray(x))) == -np.inf
    leaves, structure = flatten(make())
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def of(parameters):
        everything = list(leaves)
        for i, p in zip(moving, parameters, strict=True):
            everything[i] = p
        return log_density(jax.tree.unflatten(structure, everything), jnp.asarray(x))

    for g in jax.grad(of)([leaves[i] for i in moving]):
        assert np.isfinite(np.asarray(g)).all()


def test_one_element_outside_makes_the_whole_batch_impossible():
    law = dist.Gamma(jnp.array([1.0, 2.0]), 1.0)
    assert float(log_density(law, jnp.array([0.5, -0.5]))) == -np.inf
    np.testing.assert_array_equal(supported(law, jnp.array([0.5, -0.5])), [True, False])
    assert supported(dist.Normal(0.0, 1.0), jnp.asarray(0.0)) is None


def test_the_bound_of_a_whole_vector_is_not_aligned_with_its_entries(key):
    """The total of a multinomial bounds each lane's vector as one: right totals have a density, others none."""
    leaves, structure = family("multinomial")
    widened = lanes([spread(x, True) for x in leaves], structure, [True] * len(leaves), LANES)
    value = draw(widened, key)
    assert np.isfinite(float(log_density(widened, value)))
    assert float(log_density(widened, value.at[0, 0].add(1))) == -np.inf
