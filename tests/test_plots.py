"""Plots: what is drawn is what was given, axes come back, labels carry units."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probinf.errors import ArgumentError
from probinf.inference.posterior import Posterior
from probinf.plots.band import plot_band
from probinf.plots.cloud import plot_cloud
from probinf.plots.evidence import plot_ess_and_evidence
from probinf.plots.marginal import plot_marginal
from probinf.plots.overview import plot_overview
from probinf.plots.pairs import plot_pairs
from probinf.plots.rank import plot_rank
from probinf.plots.style import TRUTH, covariance_ellipse
from probinf.plots.trace import plot_trace
from probinf.plots.track import plot_track
from probinf.representations.mixture import GaussianMixture

RNG = np.random.default_rng(0)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture
def ax():
    return plt.subplots()[1]


@pytest.mark.parametrize("log_weights", [None, RNG.normal(size=(2, 300)) * 2])
def test_the_marginal_is_a_density(ax, log_weights):
    draws = RNG.exponential(size=(2, 300))
    assert plot_marginal(draws, log_weights=log_weights, name="range", unit="m", truth=1.0, ax=ax) is ax
    area = sum(patch.get_width() * patch.get_height() for patch in ax.patches)
    assert area == pytest.approx(1.0, abs=1e-9)
    assert ax.get_xlabel() == "range [m]"
    assert ax.get_ylabel() == "density [1/m]"
    assert legend(ax) == ["truth"]


def test_the_marginal_weighs_its_bars_and_its_mean(ax):
    """Two values, weights 1 to 3: bars in that proportion, the line at the weighted mean, 5 % to 95 % spans both."""
    plot_marginal([0.0, 1.0], log_weights=np.log([1.0, 3.0]), bins=10, ax=ax)
    heights = [patch.get_height() for patch in ax.patches]
    assert heights[-1] / heights[0] == pytest.approx(3.0)
    assert ax.lines[0].get_xdata()[0] == pytest.approx(0.75)
    np.testing.assert_allclose(ax.collections[0].get_segments()[0][:, 0], [0.0, 1.0])


def test_intervals_of_several_marginals_do_not_hide_each_other(ax):
    for draws in ([0.0, 1.0], [0.0, 1.0]):
        plot_marginal(draws, unit="m²/s³", ax=ax)
    first, second = (c.get_transform().transform([[0.0, 0.0]])[0] for c in ax.collections)
    np.testing.assert_allclose(second - first, [0.0, 5.0 / 72.0 * ax.figure.dpi])
    assert ax.get_ylabel() == "density [1/(m²/s³)]"


def test_bars_of_a_weighted_marginal_are_as_few_as_its_distinct_draws(ax):
    """64 draws of 8 values: Rice's rule gives 2 * 8^(1/3) = 4 bars, and five are the fewest."""
    plot_marginal(np.repeat(np.arange(8.0), 8), log_weights=np.zeros(64), ax=ax)
    assert len(ax.patches) == 5
    plot_marginal(np.arange(64.0), log_weights=np.zeros(64), ax=plt.subplots()[1])
    assert len(plt.gca().patches) == 8  # 2 * 64^(1/3)


def test_the_trace_has_a_line_for_each_chain_and_ticks_at_divergences(ax):
    draws, diverging = RNG.normal(size=(3, 40)), np.zeros((3, 40), bool)
    diverging[1, 7] = diverging[2, 20] = True
    assert plot_trace(draws, name="tau", diverging=diverging, truth=0.5, ax=ax) is ax
    for line, row in zip(ax.lines[:3], draws, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [7, 20])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("draw", "tau")


def test_ranks_of_all_chains_fill_every_bin_evenly(ax):
    draws = RNG.normal(size=(4, 500))
    assert plot_rank(draws, name="mu", bins=20, ax=ax) is ax
    counts = [patch.get_data().values for patch in ax.patches if hasattr(patch, "get_data")]
    assert len(counts) == 4
    assert all(count.sum() == 500 for count in counts)
    np.testing.assert_array_equal(np.sum(counts, axis=0), 100)
    assert ax.get_xlabel() == "rank of mu"


def test_pairs():
    draws = {"a": RNG.normal(size=(2, 50)), "b": RNG.normal(size=(2, 50)), "c": RNG.normal(size=(2, 50))}
    diverging = np.zeros((2, 50), bool)
    diverging[0, 3] = True
    axes = plot_pairs(draws, diverging=diverging, truth={"a": 0.0, "b": 1.0}, units={"a": "m"})
    assert axes.shape == (3, 3)
    assert not axes[0, 1].axison
    assert axes[1, 0].axison
    assert axes[2, 0].get_xlabel() == "a [m]"
    assert axes[1, 0].get_ylabel() == "b"
    points, marks = axes[1, 0].collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([draws["a"].ravel(), draws["b"].ravel()], axis=1))
    np.testing.assert_allclose(marks.get_offsets(), [[draws["a"][0, 3], draws["b"][0, 3]]])
    assert axes[1, 0].lines[0].get_color() == TRUTH


def test_the_band_holds_its_share(ax):
    times, draws = np.arange(5.0), RNG.normal(size=(2000, 5))
    returned = plot_band(times, draws, truth=np.zeros(5), name="height", unit="m", time_unit="s", ax=ax)
    assert returned is ax
    wide, narrow = (band.get_paths()[0].vertices[:, 1] for band in ax.collections)
    assert wide.max() == pytest.approx(np.quantile(draws, 0.95, axis=0).max())
    assert narrow.max() == pytest.approx(np.quantile(draws, 0.75, axis=0).max())
    assert legend(ax) == ["90 %", "50 %", "mean", "truth"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [s]", "height [m]")


def test_the_band_from_moments_is_gaussian(ax):
    plot_band([0.0, 1.0], mean=[0.0, 0.0], sd=[1.0, 2.0], observations=[0.1, np.nan], ax=ax)
    wide = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert wide.max() == pytest.approx(2 * 1.6448536, abs=1e-6)


def test_the_ellipse_holds_its_mass():
    """A point of the boundary lies at squared Mahalanobis distance -2 log(1 - mass)."""
    mean, cov = np.array([1.0, -2.0]), np.array([[4.0, 1.5], [1.5, 1.0]])
    ellipse = covariance_ellipse(mean, cov, 0.9)
    boundary = ellipse.get_transform().transform(ellipse.get_path().vertices[[0, 3, 6, 9]]) - mean
    distances = np.einsum("ni,ij,nj->n", boundary, np.linalg.inv(cov), boundary)
    np.testing.assert_allclose(distances, -2 * np.log(0.1), rtol=1e-3)


def test_track(ax):
    means = RNG.normal(size=(50, 2)).cumsum(axis=0)
    covs = np.broadcast_to(np.eye(2), (50, 2, 2))
    returned = plot_track(means, covs, truth=means + 0.1, landmarks=np.zeros((4, 2)), num_ellipses=10, ax=ax)
    assert returned is ax
    assert len(ax.patches) == 10
    np.testing.assert_allclose(ax.patches[-1].center, means[-1])
    assert legend(ax) == ["truth", "estimate", "90% of the belief", "landmarks"]
    assert ax.get_xlabel() == "x [m]"
    assert ax.get_aspect() == 1.0


def test_ess_and_evidence(ax):
    times, ess, log_evidence = np.arange(4.0), np.array([100, 50, 80, 20.0]), -np.arange(4.0)
    left, right = plot_ess_and_evidence(
        times, ess, log_evidence, num_particles=100, threshold=50.0, time_unit="s", ax=ax
    )
    assert left is ax
    np.testing.assert_array_equal(left.lines[0].get_ydata(), ess)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), log_evidence)
    assert "of 100" in left.get_ylabel()
    assert right.get_ylabel() == "log evidence [nats]"


def test_cloud_shows_living_particles_and_the_mixture(ax):
    points = RNG.normal(size=(100, 2))
    log_weights = np.where(np.arange(100) < 60, 0.0, -np.inf)
    mixture = GaussianMixture(np.array([1.0]), np.zeros((1, 2)), np.eye(2)[None])
    returned = plot_cloud(points, log_weights=log_weights, mixture=mixture, truth=[0.0, 0.0], unit="m", ax=ax)
    assert returned is ax
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), points[:60])
    assert legend(ax) == ["particles", "mixture", "truth"]
    # The outermost contour is num_levels nats below the peak: a circle of radius sqrt(2 * 5), cut off by the picture.
    outer = ax.collections[1].get_paths()[0].vertices
    assert np.abs(np.hypot(*outer[(np.abs(outer) < 1.0).any(axis=1)].T) - np.sqrt(10)).max() < 0.15


@pytest.mark.parametrize("log_weights", [None, np.zeros((2, 50))])
def test_overview(log_weights):
    draws = {"a": RNG.normal(size=(2, 50)), "b": RNG.normal(size=(2, 50, 5))}
    posterior = Posterior(draws, log_weights=log_weights, method="NUTS", model="toy")
    figure = posterior.plot(max_rows=3)
    assert len(figure.axes) == (6 if log_weights is None else 3)
    assert figure.get_suptitle() == "toy: NUTS (3 scalars not shown)"
    assert plot_overview(posterior, ["a"]).axes[0].get_xlabel() == "a"


def test_without_axes_a_figure_is_made():
    assert plot_trace(np.zeros((1, 5))).figure is not None
    assert plot_marginal([1.0, 2.0]).figure is not None


def test_the_style_does_not_leak():
    before = dict(plt.rcParams)
    plot_trace(np.zeros((1, 5)))
    assert dict(plt.rcParams) == before


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plot_marginal([1.0, np.nan]), "draws: expected finite"),
        (lambda: plot_marginal([1.0, 2.0], log_weights=[0.0]), "log_weights: expected one for each of 2"),
        (lambda: plot_marginal([1.0, 2.0], log_weights=[-np.inf, -np.inf]), "log_weights"),
        (lambda: plot_trace([1.0, 2.0]), r"draws: expected shape \(chains, draws\)"),
        (lambda: plot_band([0.0, 1.0], np.zeros((5, 3))), "times: 2 times for 3 values"),
        (lambda: plot_band([0.0, 1.0]), "draws: expected either"),
        (lambda: plot_track(np.zeros((3, 3))), "means"),
        (lambda: plot_track(np.zeros((3, 2)), np.zeros((2, 2, 2))), "covs"),
        (lambda: plot_track(np.zeros((3, 2)), mass=1.0), "mass"),
        (lambda: plot_cloud(np.zeros((3, 3))), "points"),
        (lambda: plot_pairs({}), "one to ten"),
        (lambda: plot_pairs({"a": [1.0], "b": [1.0, 2.0]}), "'b' has 2 draws"),
        (lambda: plot_ess_and_evidence([0.0], [1.0, 2.0], [0.0], num_particles=2), "ess: 2 values for 1 times"),
    ],
)
def test_bad_arguments_are_named(call, match):
    with pytest.raises(ArgumentError, match=match):
        call()
