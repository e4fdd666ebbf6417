"""The prior-change suite: simulators, test priors, bases, posterior points and the two-sample metrics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks.distribution_transformer.two_samples import c2st, density, mmtv
from probinf.errors import ArgumentError
from transformers_gmm.tasks.prior_change import (
    FAMILIES,
    OUP,
    SUITE,
    CausalInference,
    FromStored,
    GaussianLinear,
    Turin,
    TwoMoons,
    published_priors,
    turin,
)
from transformers_gmm.tasks.prior_change.splitting import corners, thirds

SETTINGS = {task.name: task.settings for task in SUITE}
NAMES = sorted(SETTINGS)
TASKS: dict[str, Any] = {task.name: task for task in SUITE}


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


# --- priors -----------------------------------------------------------------------------------------------------------


def test_priors_are_those_that_the_suite_was_published_with():
    """Values from experiments/data/priors of github.com/acerbilab/prior-guide."""
    oup = published_priors("oup", SETTINGS, "mixture")
    np.testing.assert_allclose(oup.means[1, 0], [-0.11085351556539536, 0.2939181923866272], atol=2e-7)
    np.testing.assert_allclose(oup.means[1, 1], [-0.08489570021629333, -0.6178566217422485], atol=2e-7)
    np.testing.assert_allclose(np.exp(oup.log_weights[1]), [0.6278876066207886, 0.3721123933792114], atol=2e-7)
    np.testing.assert_allclose(oup.scales[1], 0.11547005921602249, rtol=1e-6)
    moons = published_priors("two_moons", SETTINGS, "mild")
    np.testing.assert_allclose(moons.means[0, 0], [-0.03306454420089722, -0.07312432676553726], atol=2e-7)
    assert np.isneginf(moons.log_weights[:, 1]).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_means_lie_three_standard_deviations_inside(name, family):
    settings, prior = SETTINGS[name], published_priors(name, SETTINGS, family)
    margin = 3 * prior.scales
    assert prior.means.shape == (10, 2, settings.dim)
    assert jnp.all((prior.means - margin >= settings.low - 1e-6) & (prior.means + margin <= settings.high + 1e-6))
    np.testing.assert_allclose(prior.scales, {"mild": 0.5}.get(family, 0.2) * settings.scale)
    np.testing.assert_allclose(jnp.sum(jnp.exp(prior.log_weights), axis=-1), 1, rtol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ArgumentError, match="published_priors"):
        published_priors("lotka", SETTINGS, "mild")


def test_training_priors_cover_the_families_and_stay_in_reach():
    settings = SETTINGS["turin"]
    prior = settings.draw(jax.random.key(0), 4000)
    ratio = prior.scales[:, 0, 0] / settings.scale
    # Families in equal parts, but for 15 % of other widths; false alarms below 1e-6.
    for value, share in ((0.5, 0.85 / 3), (0.2, 2 * 0.85 / 3)):
        assert abs(float(jnp.mean(jnp.abs(ratio - value) < 1e-6)) - share) < 0.04
    assert jnp.all((ratio > 0.14) & (ratio < 0.71))
    assert jnp.all((prior.means >= settings.low) & (prior.means <= settings.high))


def test_density_of_a_truncated_prior_integrates_to_one_and_matches_its_draws():
    settings = SETTINGS["two_moons"]
    kind = jnp.zeros(()).dtype
    means = jnp.asarray([[[0.9, -0.5], [-0.2, 0.3]]], kind)
    prior = settings.build(jnp.log(jnp.asarray([[0.3, 0.7]], kind)), means, jnp.full((1, 2, 2), 0.3, kind))
    edge = (np.arange(200) + 0.5) / 100 - 1
    grid = jnp.asarray(np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(1, -1, 2), kind)
    mass = np.exp(prior.log_prob(grid)[0]) * 1e-4
    assert mass.sum() == pytest.approx(1, abs=1e-4)
    n = 20_000
    many = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (n, *x.shape[1:])), (prior.log_weights, prior.means, prior.scales)
    )
    draws = settings.build(*many).sample(jax.random.key(1))
    assert jnp.all(jnp.abs(draws) <= 1)
    mean = mass @ np.asarray(grid[0])
    sd = np.sqrt(mass @ (np.asarray(grid[0]) - mean) ** 2)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean) / sd * np.sqrt(n), 4.5)  # false alarms 1.4e-5
    assert np.isneginf(prior.log_prob(jnp.asarray([[[1.01, 0.0]]], kind))).all()


def test_splitting_keeps_weights_means_and_variances():
    prior = published_priors("turin", SETTINGS, "mixture")
    whole = prior.components()
    for split in (corners(prior, 8), thirds(published_priors("oup", SETTINGS, "mixture"))):
        reference = whole if split.dim == 4 else published_priors("oup", SETTINGS, "mixture").components()
        np.testing.assert_allclose(jnp.sum(jnp.exp(split.log_weights), axis=-1), 1, rtol=1e-6)
        np.testing.assert_allclose(split.mean, reference.mean, atol=1e-6)
        np.testing.assert_allclose(split.cov, reference.cov, rtol=1e-5, atol=1e-8)


# --- simulators and likelihoods ---------------------------------------------------------------------------------------


def test_two_moons_likelihood_is_the_density_of_the_data():
    task = TwoMoons()
    theta = jnp.asarray([[0.3, -0.6]])
    edge = (np.arange(800) + 0.5) / 800 * 0.4 - 0.2
    centre = np.array([0.25 - 0.3 / np.sqrt(2), -0.9 / np.sqrt(2)])
    grid = jnp.asarray(centre + np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2))
    value = np.exp(jax.vmap(lambda x: task.log_likelihood(theta, x)[0])(grid)) / 2000**2
    assert value.sum() == pytest.approx(1, abs=2e-3)
    n = 20_000
    x = np.asarray(task.observe(jax.random.key(0), jnp.broadcast_to(theta, (n, 2))))
    mean = value @ np.asarray(grid)
    sd = np.sqrt(value @ (np.asarray(grid) - mean) ** 2)
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - mean) / sd * np.sqrt(n), 4.5)


def test_oup_paths_have_the_moments_of_the_process():
    n, theta = 20_000, np.array([0.2, 0.4])
    x = 4.18954 + 3.0685966 * np.asarray(OUP().observe(jax.random.key(0), jnp.broadcast_to(jnp.asarray(theta), (n, 2))))
    keep, level = 1 - 0.2 * (1 + theta[0]), np.exp(2 * theta[1])
    mean = level + (10 - level) * keep ** np.arange(25)
    variance = 0.05 * np.concatenate([[0], np.cumsum(keep ** (2 * np.arange(24)))])
    np.testing.assert_allclose(x[:, 0], 10, rtol=1e-6)
    z = (x.mean(axis=0) - mean)[1:] / np.sqrt(variance[1:] / n)
    assert np.abs(z).max() < 5  # false alarms below 2e-5
    np.testing.assert_allclose(x.var(axis=0)[1:], variance[1:], rtol=0.05)  # five standard errors


def test_causal_inference_has_the_published_spread_of_data():
    """Means and standard deviations by which the published code scales its data, from a million simulations."""
    n = 20_000
    task = CausalInference()
    theta = jax.random.normal(jax.random.key(0), (n, 5))
    x = 10 * np.asarray(jax.jit(lambda key, theta: task.observe(key, theta))(jax.random.key(1), theta))
    which, mean = [0, 7, 24, 49, 52, 97], [-14.7428, -9.9050, -0.0096, -15.7547, -0.1843, 15.7545]
    sd = [4.9028, 4.8914, 3.9648, 5.0556, 4.5955, 5.0597]
    np.testing.assert_array_less(np.abs(x[:, which].mean(axis=0) - mean) / sd * np.sqrt(n), 4.8)
    np.testing.assert_allclose(x[:, which].std(axis=0), sd, rtol=0.1)  # heavy tails: 2 % of responses are uniform


def test_causal_inference_likelihood_agrees_with_brute_force(rng):
    task, theta = CausalInference(), jnp.asarray(rng.normal(size=(2, 5)))
    data = task.observe(jax.random.key(2), theta)
    found = [float(task.log_likelihood(t[None], x)[0]) for t, x in zip(theta, data, strict=True)]
    z = np.linspace(-6, 6, 301)
    mass = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    for t, x, value in zip(np.asarray(theta), 10 * np.asarray(data), found, strict=True):
        raw = np.array([np.log(2), np.log(2), np.log(5), np.log(0.3), 0]) + np.array([0.35, 0.35, 0.5, 0.35, 1]) * t
        v, a, s, m = np.exp(2 * raw[:4])
        p = 1 / (1 + np.exp(-raw[4]))
        total = 0.0
        for i, response in enumerate(x):
            sight, sound = divmod(i % 49, 7)
            x_v = (5 * sight - 15 + np.sqrt(v) * z)[:, None]
            x_a = (4 / 3 * (5 * sound - 15) + np.sqrt(a) * z)[None]
            pair = stats.multivariate_normal(np.zeros(2), np.array([[v + s, s], [s, a + s]]))  # pyright: ignore[reportArgumentType]
            one = p * pair.pdf(np.stack(np.broadcast_arrays(x_v, x_a), axis=-1))
            two = (1 - p) * stats.norm.pdf(x_v, 0, np.sqrt(v + s)) * stats.norm.pdf(x_a, 0, np.sqrt(a + s))
            shared = (x_v / v + x_a / a) / (1 / v + 1 / a + 1 / s)
            alone = x_v / v / (1 / v + 1 / s) if i < 49 else x_a / a / (1 / a + 1 / s)
            estimate = (one * shared + two * alone) / (one + two)
            density_there = stats.norm.pdf(response, estimate, np.sqrt(m))
            total += np.log(0.98 * mass @ density_there @ mass + 0.02 / 90)
        assert value == pytest.approx(total, abs=0.15)


def test_turin_arrivals_between_points_give_the_periodic_sinc():
    fractions, points = np.linspace(-0.5, 0.5, 21), turin.POINTS
    gap = np.arange(points)[:, None] - fractions[None]
    direct = np.mean([np.cos(2 * np.pi * k * gap / points) for k in range(-(points // 2), points // 2 + 1)], axis=0)
    polynomials = np.cos(np.arange(turin._TERMS)[:, None] * np.arccos(2 * fractions))
    blocks = turin._KERNEL.reshape(points, points, turin._TERMS)
    np.testing.assert_allclose(blocks[:, 0] @ polynomials, direct, atol=1e-8)
    np.testing.assert_allclose(blocks[:, 7] @ polynomials, np.roll(direct, 7, axis=0), atol=1e-8)


def test_turin_profiles_have_the_expected_power():
    """E |y_n|^2 = G0 B / N^2 integral of exp(-tau / T) |Dirichlet kernel|^2 + sigma^2 / N."""
    n, theta = 400, np.array([0.5, 0.6, 0.3, 0.5])
    task, many = Turin(), jnp.asarray(np.tile(theta, (n, 1)), jnp.float32)
    x = jax.jit(lambda key, theta: task.observe(key, theta))(jax.random.key(0), many)
    assert jnp.all(jnp.isfinite(x))
    power = 10 ** ((60 * np.asarray(x, float) - 140) / 10)
    gain, decay, _, noise = np.array([1e-9, 1e-9, 1e7, 1e-10]) + np.array([9e-9, 9e-9, 4.99e9, 9e-10]) * theta
    tau = (np.arange(101 * 200) + 0.5) / (101 * 200) * 2e-7
    place = np.arange(101)[:, None] - 101 * tau / 2e-7
    kernel = np.sin(np.pi * place) / (101 * np.sin(np.pi * place / 101))
    expected = kernel**2 @ (gain * 5e8 * np.exp(-tau / decay)) * (tau[1] - tau[0]) + noise / 101
    error = power.std(axis=0) / np.sqrt(n)
    assert np.abs((power.mean(axis=0) - expected) / error).max() < 6  # skewed means of 400; 101 of them


# --- bases and points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [10, 20])
def test_gaussian_linear_base_is_the_posterior(dim, rng):
    """Against prior times likelihood: their ratio is the same at all points."""
    task = GaussianLinear(dim)
    prior = published_priors(task.name, SETTINGS, "mixture")
    data = task.observe(jax.random.key(0), prior.sample(jax.random.key(1)))
    base = task.problem(prior, data).base
    points = jnp.asarray(rng.normal(scale=0.4, size=(10, 5, dim)))
    joint = prior.log_prob(points) - 5 * jnp.sum((data[:, None] - points) ** 2, axis=-1)
    gap = np.asarray(joint - base.log_prob(points))
    np.testing.assert_allclose(gap - gap[:, :1], 0, atol=1e-8 * np.abs(joint).max())


@pytest.fixture(scope="module")
def simulated():
    """64 problems of the tasks with a likelihood in their base."""
    tasks = (TwoMoons(), OUP())
    return {task.name: jax.jit(lambda key, task=task: task.simulate(key, 64))(jax.random.key(0)) for task in tasks}


@pytest.mark.parametrize("name", ["two_moons", "oup"])
def test_bases_from_a_likelihood_are_close_to_the_posterior(name, simulated):
    """The effective share of the weights posterior / base; 0.9 and 0.97 when this was written."""
    log_weights = simulated[name].log_weights
    share = 1 / jnp.sum(jnp.exp(2 * log_weights), axis=1) / log_weights.shape[1]
    assert float(jnp.median(share)) > 0.85
    assert float(jnp.quantile(share, 0.1)) > 0.6


@pytest.mark.parametrize("name", ["two_moons", "oup"])
def test_weighted_points_have_the_moments_of_the_posterior(name, simulated):
    """Means and squares over 64 problems against grids over the box, in posterior standard deviations."""
    task, examples = TASKS[name], simulated[name]
    assert jnp.all(jnp.isfinite(examples.problem.base.log_prob(examples.points)))
    key_prior, key_theta, key_data, _ = jax.random.split(jax.random.key(0), 4)
    prior = task.settings.draw(key_prior, 64)
    data = task.observe(key_data, prior.sample(key_theta))
    edge = (np.arange(400) + 0.5) / 200 - 1
    grid = jnp.asarray(np.stack(np.meshgrid(edge, edge, indexing="ij"), axis=-1).reshape(-1, 2))

    def moments(given):
        parts, x = given
        log_p = task.settings.build(*parts).log_prob(grid) + task.log_likelihood(grid, x)
        mass = jax.nn.softmax(log_p)
        return mass @ grid, mass @ grid**2

    one, two = jax.jit(lambda *given: jax.lax.map(moments, given))((prior.log_weights, prior.means, prior.scales), data)
    variance = two - one**2
    z = (examples.points - one[:, None]) / jnp.sqrt(variance)[:, None]
    weights = jnp.exp(examples.log_weights)[..., None]
    effective = 1 / jnp.sum(weights**2, axis=1)
    first, second = jnp.sum(weights * z, axis=1), jnp.sum(weights * z**2, axis=1)
    # Weighted means over problems; squares of a unimodal or two-sided z have a variance of at most 2.5 here.
    size = float(jnp.sum(effective))
    assert np.abs(jnp.sum(effective * first, axis=0)).max() / np.sqrt(size) < 4.5  # false alarms 3e-5
    assert np.abs(jnp.sum(effective * (second - 1), axis=0)).max() / np.sqrt(2.5 * size) < 4.5


@pytest.mark.parametrize("name", NAMES)
def test_problems_fit_the_network_they_ask_for(name):
    task = TASKS[name]
    shapes = jax.eval_shape(lambda key: task.simulate(key, 3), jax.random.key(0))
    problem, config = shapes.problem, task.config
    assert problem.base.means.shape == (3, config.num_components, config.dim)
    assert {source: tokens.shape[-1] for source, tokens in problem.context.items()} == dict(config.context)
    assert {source: mask.shape for source, mask in problem.mask.items()} == {
        source: tokens.shape[:2] for source, tokens in problem.context.items()
    }
    assert shapes.points.shape[:1] == (3,)
    assert shapes.points.shape[2] == config.dim


def test_stored_simulations_follow_the_prior_they_are_weighted_for():
    """Pairs drawn again have the fresh prior's mean, within what 20,000 stored ones can show."""
    stored = FromStored.draw(OUP(), jax.random.key(0), 20_000)
    examples = jax.jit(lambda key: stored.simulate(key, 400))(jax.random.key(1))
    prior = OUP().settings.draw(jax.random.split(jax.random.key(1), 3)[0], 400)
    centre = jnp.sum(jnp.exp(prior.log_weights)[..., None] * prior.means, axis=1)
    spread = jnp.sqrt(prior.components().variance)
    z = (examples.points[:, 0] - centre) / spread
    assert float(jnp.abs(jnp.mean(z))) < 0.15  # 4 standard errors of 800 draws
    assert 0.8 < float(jnp.std(z)) < 1.2
    both = np.asarray(jnp.concatenate([stored.theta, stored.theta]))
    assert np.isin(np.asarray(examples.points[:, 0, 0]), both[:, 0]).all()


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_marginal_total_variation_of_known_cases(rng):
    x, y = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2))
    assert mmtv(x, x) == pytest.approx(0, abs=1e-12)
    assert mmtv(x, y) < 0.06
    assert mmtv(x, y + 1) == pytest.approx(2 * stats.norm.cdf(0.5) - 1, abs=0.05)
    assert mmtv(x, y + 20) == pytest.approx(1, abs=1e-6)


def test_kernel_density_finds_narrow_modes(rng):
    """Two far modes: a rule of thumb would smooth them to one thirtieth of their height."""
    x = np.concatenate([rng.normal(-5, 0.05, 1000), rng.normal(5, 0.05, 1000)])
    values, mesh = density(x)
    assert np.trapezoid(values, mesh) == pytest.approx(1, abs=1e-6)
    assert values.max() == pytest.approx(0.5 * stats.norm.pdf(0, 0, 0.05), rel=0.2)


@pytest.mark.parametrize("classifier", ["mlp", "forest"])
def test_classifier_tells_only_what_differs(classifier, rng):
    pytest.importorskip("sklearn")
    x, y = rng.normal(size=(400, 2)), rng.normal(size=(400, 2))
    assert c2st(x, y, classifier) == pytest.approx(0.5, abs=0.08)  # four standard errors of 800 labels
    assert c2st(x, y + 10, classifier) > 0.99
