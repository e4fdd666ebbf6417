"""Calibration of mixtures: ranks against exact levels, wrong answers that are found, gaps with clustered errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from probinf.errors import ArgumentError, DataError
from transformers_gmm.calibration.gap import posterior_gap
from transformers_gmm.calibration.ranks import DENSITY, TARP, calibrate, calibrate_draws, calibrate_mixtures
from transformers_gmm.components import Components
from transformers_gmm.examples import Examples, Problem

NUM = 1500
CORRELATION = 0.95
ROOT = np.linalg.cholesky([[1.0, CORRELATION], [CORRELATION, 1.0]])


def simulate(key, n):
    """x ~ N(0, C), seen with unit noise in its first coordinate; the base of the problem is the exact posterior."""
    key_x, key_z = jax.random.split(key)
    root = jnp.asarray(ROOT)
    x = jax.random.normal(key_x, (n, 2)) @ root.T
    z = x[:, 0] + jax.random.normal(key_z, (n,))
    mean = z[:, None] * jnp.array([1.0, CORRELATION])[None] / 2.0
    cov = root @ root.T - jnp.outer(jnp.array([1.0, CORRELATION]), jnp.array([1.0, CORRELATION])) / 2.0
    factor = jnp.broadcast_to(jnp.linalg.cholesky(cov), (n, 1, 2, 2))
    # A second, empty component: masks must not disturb.
    base = Components(
        jnp.tile(jnp.array([0.0, -jnp.inf]), (n, 1)),
        jnp.stack([mean, mean + 9.0], axis=1),
        jnp.concatenate([factor, factor], axis=1),
    )
    nothing = jnp.zeros((n, 2, 0))
    problem = Problem(
        base, jnp.zeros((n, 2)), jnp.ones((n, 2)), nothing, {"z": z[:, None, None]}, {"z": jnp.ones((n, 1), bool)}
    )
    # The second posterior point has no weight and is nonsense.
    points = jnp.stack([x, x + 99.0], axis=1)
    return Examples(problem, points, jnp.tile(jnp.array([0.0, -jnp.inf]), (n, 1)))


def changed(problem, scale=1.0, correlation=True):
    base = problem.base
    factor = scale * base.scale_tril
    if not correlation:
        sds = jnp.sqrt(jnp.sum(factor**2, axis=-1))
        factor = sds[..., None] * jnp.eye(2)[None, None]
    return Components(base.log_weights, base.means, factor)


def test_the_exact_posterior_passes_and_its_regions_hold_what_they_claim():
    report = calibrate(lambda problem: problem.base, simulate, 0, num_problems=NUM, num_draws=100)
    assert report.passed
    assert set(report.ranks) == {"x[0]", "x[1]", DENSITY, TARP}
    for credibility, (share, error) in report.coverage().items():
        assert abs(share - credibility) < 4.5 * error + 1 / 101
    assert "90% regions hold the truth in" in repr(report)


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ({"scale": 0.6}, {"x[0]", "x[1]", DENSITY, TARP}),
        ({"correlation": False}, {DENSITY}),
        ({"scale": 1.6}, {DENSITY}),
    ],
)
def test_wrong_answers_are_found(wrong, seen):
    """Too narrow, too wide, and right in every margin but without the correlation, which no coordinate shows."""
    report = calibrate(lambda problem: changed(problem, **wrong), simulate, 1, num_problems=NUM, num_draws=100)
    assert not report.passed
    failed = {name for name, p in report.calibration.p_values.items() if p < report.calibration.bound}
    assert seen <= failed
    if wrong == {"correlation": False}:
        assert not {"x[0]", "x[1]"} & failed
    if wrong == {"scale": 0.6}:
        assert report.coverage([0.9])[0.9][0] < 0.75


def test_an_answer_that_ignores_the_data_is_found_by_references_that_depend_on_it():
    """The prior as answer is calibrated in every margin; distances to a point that the data suggest are not."""
    examples = simulate(jax.random.key(2), NUM)
    truths = examples.points[:, 0]
    prior = Components(jnp.zeros((NUM, 1)), jnp.zeros((NUM, 1, 2)), jnp.broadcast_to(jnp.asarray(ROOT), (NUM, 1, 2, 2)))
    blind = calibrate_mixtures(prior, truths, 3, num_draws=100)
    assert blind.passed
    sighted = calibrate_mixtures(prior, truths, 3, num_draws=100, references=2.0 * examples.problem.base.means[:, 0])
    assert sighted.calibration.p_values[TARP] < sighted.calibration.bound


def test_ranks_are_the_share_of_draws_below():
    rng = np.random.default_rng(0)
    draws, truths = rng.normal(size=(20, 7, 1)), rng.normal(size=(20, 1))
    densities = jnp.asarray(-(draws[..., 0] ** 2)), jnp.asarray(-(truths[:, 0] ** 2))
    report = calibrate_draws(jnp.asarray(draws), jnp.asarray(truths), 0, densities=densities)
    below = np.sum(draws[..., 0] < truths, axis=1)
    # The truth counts as one of eight, at a random place among its equals.
    assert np.all((report.ranks["x[0]"] * 8 >= below) & (report.ranks["x[0]"] * 8 <= below + 1))
    reach = np.abs(truths[:, 0] - np.roll(truths[:, 0], 1))
    nearer = np.sum(np.abs(draws[..., 0] - np.roll(truths, 1, axis=0)) < reach[:, None], axis=1)
    assert np.all((report.ranks[TARP] * 8 >= nearer) & (report.ranks[TARP] * 8 <= nearer + 1))


def test_corrected_draws_are_calibrated_where_the_mixture_is_not():
    """A mixture of twice the spread, and the same draws weighted by prior times likelihood over it."""
    examples = simulate(jax.random.key(4), NUM)
    truths, base = examples.points[:, 0], examples.problem.base
    wide = changed(examples.problem, scale=2.0)
    draws = wide.sample(jax.random.key(5), 400)
    densities = wide.log_prob(draws), wide.log_prob(truths[:, None])[:, 0]
    raw = calibrate_draws(draws, truths, 6, densities=densities)
    weighted = calibrate_draws(draws, truths, 6, densities=densities, log_weights=base.log_prob(draws) - densities[0])
    assert not raw.passed
    assert weighted.passed


def test_the_pictures_have_a_curve_for_every_quantity():
    report = calibrate(lambda problem: problem.base, simulate, 7, num_problems=50, num_draws=20)
    left, right = report.plot().axes
    assert len([line for line in left.get_lines() if not line.get_label().startswith("_")]) == 2
    labels = right.get_legend_handles_labels()[1]
    assert {"highest density", "around references (TARP)"} <= set(labels)


# -- gaps --------------------------------------------------------------------------------------------------------------


def test_gaps_are_paired_and_their_errors_clustered():
    """Steps of one series share an offset: the error is that of the offsets, not of steps times series."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(60, 10))
    offset = rng.normal(0.3, 0.1, size=(60, 1))
    report = posterior_gap(
        {"exact": exact, "other": exact - offset, "same": exact}, "exact", {"early": slice(5), "all": slice(None)}
    )
    gap, error = report.gaps["other"]["all"]
    assert gap == pytest.approx(offset.mean())
    assert error == pytest.approx(offset.std(ddof=1) / np.sqrt(60))
    assert report.gaps["same"]["early"] == (0.0, 0.0)
    assert report.to_dict()["gaps"]["other"]["early"]["gap"] == pytest.approx(offset.mean())
    assert "60 series" in repr(report)
    ax = report.plot()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["early", "all"]
    assert "gap to exact" in ax.get_ylabel()


def test_the_gap_of_a_wider_gaussian_is_its_divergence():
    """KL(N(0, 1) || N(0, 4)) = log 2 - 3/8, within 4.5 clustered errors of 2000 single scores."""
    x = np.random.default_rng(1).normal(size=2000)
    report = posterior_gap({"p": scipy.stats.norm.logpdf(x), "q": scipy.stats.norm(0, 2).logpdf(x)}, "p")
    gap, error = report.gaps["q"]["all"]
    assert abs(gap - (np.log(2) - 3 / 8)) < 4.5 * error


@pytest.mark.bad_input
def test_scores_that_cannot_be_compared_are_refused_by_name():
    ok = np.zeros((3, 4))
    with pytest.raises(ArgumentError, match="reference: expected one of two methods or more"):
        posterior_gap({"a": ok, "b": ok}, "c")
    with pytest.raises(ArgumentError, match=r"found \(3, 5\) for 'b'"):
        posterior_gap({"a": ok, "b": np.zeros((3, 5))}, "a")
    with pytest.raises(DataError, match="'b' is NaN"):
        posterior_gap({"a": ok, "b": ok * np.nan}, "a")
    with pytest.raises(ArgumentError, match="truths: expected one of shape"):
        calibrate_draws(jnp.zeros((5, 3, 1)), jnp.zeros((5, 1)), 0, densities=(jnp.zeros((5, 3)), jnp.zeros(5)))
