"""Plots: what is drawn is what was given, axes come back, labels carry units."""

import itertools
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import probinf as pi
import probinf.plots
from probinf.errors import ArgumentError
from probinf.inference.posterior import Posterior
from probinf.plots.accuracy import plot_accuracy_matrix
from probinf.plots.band import plot_band
from probinf.plots.calibration import plot_coverage, plot_rank_ecdf, plot_rank_histogram, tarp_levels
from probinf.plots.cloud import plot_cloud
from probinf.plots.evidence import plot_ess_and_evidence
from probinf.plots.genealogy import plot_genealogy, survivors
from probinf.plots.marginal import plot_marginal
from probinf.plots.mixture import plot_mixture
from probinf.plots.overview import plot_overview
from probinf.plots.pairs import plot_pairs
from probinf.plots.rank import plot_rank
from probinf.plots.runs import plot_ess, plot_log_evidence
from probinf.plots.simultaneous import ecdf_band, histogram_band, probability
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


# -- several runs, family trees, mixtures


def test_every_picture_is_found_in_the_package():
    assert pi.plots is probinf.plots
    assert "plots" in dir(pi)
    functions = {name for file in (Path(probinf.plots.__file__).parent).glob("*.py") for name in _plots_of(file)}
    assert {name for name in probinf.plots.__all__ if name.startswith("plot_")} == functions
    assert all(callable(getattr(probinf.plots, name)) for name in probinf.plots.__all__)
    assert set(probinf.plots.__all__) == set(dir(probinf.plots))
    with pytest.raises(AttributeError, match="plot_tarce"):
        _ = probinf.plots.plot_tarce


def test_the_gallery_shows_every_picture_in_few_bytes():
    docs = Path(probinf.plots.__file__).parent.parent.parent / "docs"
    page = (docs / "pictures.md").read_text()
    assert {name for name in probinf.plots.__all__ if name not in page} == {"plot_overview"}  # posterior.plot()
    made = set(re.findall(r'out, "(\w+)"', " ".join((docs / "make_gallery.py").read_text().split())))
    assert made == set(re.findall(r"images/(\w+)\.png", page))
    assert all((docs / "images" / f"{name}.png").stat().st_size < 60_000 for name in made)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("examples are written for JAX's ordinary settings")
def test_the_gallery_can_be_made(tmp_path):
    from docs import make_gallery

    for part in make_gallery.PARTS:
        part(tmp_path, 1)
    assert len(list(tmp_path.glob("*.png"))) == 19


def _plots_of(file):
    return re.findall(r"^def (plot_\w+)", file.read_text(), re.MULTILINE)


def test_survivors_of_a_genealogy_in_a_small_tree(ax):
    """Four particles, three times. At t = 2 all come from particles 1 and 2, and both of those from particle 3."""
    ancestors = np.array([[0, 1, 2, 3], [0, 3, 3, 1], [1, 1, 2, 2]])
    np.testing.assert_array_equal(
        survivors(ancestors), [[False, False, False, True], [False, True, True, False], [True] * 4]
    )
    positions = np.arange(12.0).reshape(3, 4)
    assert plot_genealogy(ancestors, positions, times=[0.0, 2.0, 3.0], name="x", unit="m", time_unit="s", ax=ax) is ax
    dead, alive = (collection.get_segments() for collection in ax.collections)
    assert len(dead) == 2
    assert len(alive) == 6
    np.testing.assert_array_equal(alive[0], [[0.0, 3.0], [2.0, 5.0]])  # from particle 3 to particle 1
    np.testing.assert_array_equal(alive[-1], [[2.0, 6.0], [3.0, 11.0]])
    assert legend(ax) == ["died out", "ancestors of the last particles"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [s]", "x [m]")


def test_a_history_is_its_ancestors(ax):
    history = type("History", (), {"ancestors": np.zeros((3, 2), int)})()
    plot_genealogy(history, ax=ax)
    assert ax.get_ylabel() == "particle"


def test_runs_share_a_colour_when_they_share_a_name(ax):
    times = np.arange(3.0)
    assert plot_ess(times, {"few": np.ones((2, 3)), "many": np.full(3, 9.0)}, threshold=5.0, ax=ax) is ax
    first, second, third = (line.get_color() for line in ax.lines[:3])
    assert first == second != third
    assert legend(ax) == ["few", "many", "resampled below"]
    assert ax.get_yscale() == "log"


def test_evidence_is_drawn_as_it_is_or_as_the_distance_from_a_reference(ax):
    times, runs = np.arange(3.0), {"run": np.array([-1.0, -2.0, -4.0])}
    plot_log_evidence(times, runs, ax=ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), runs["run"])
    assert ax.get_ylabel() == "log evidence [nats]"
    other = plot_log_evidence(times, runs, reference=np.array([-1.5, -2.0, -3.0]))
    np.testing.assert_array_equal(other.lines[0].get_ydata(), [0.5, 0.0, -1.0])
    assert other.get_ylabel() == "log evidence minus reference [nats]"


def test_regions_of_a_mixture_hold_their_share(ax):
    """One Gaussian: the region of mass q is the ellipse at squared Mahalanobis distance -2 log(1 - q)."""
    mean, cov = np.array([1.0, -2.0]), np.array([[4.0, 1.5], [1.5, 1.0]])
    returned = plot_mixture(GaussianMixture.gaussian(mean, cov), masses=(0.5, 0.9), ax=ax)
    assert returned is ax
    contours = ax.collections[1]
    for path, mass in zip(contours.get_paths(), (0.9, 0.5), strict=True):
        away = path.vertices - mean
        distances = np.einsum("ni,ij,nj->n", away, np.linalg.inv(cov), away)
        np.testing.assert_allclose(distances, -2 * np.log(1 - mass), rtol=0.03)  # cells of the grid
    assert len(ax.patches) == 1
    assert legend(ax) == ["mixture: 50%, 90%", "components, one sd"]


def test_two_coordinates_of_many_are_their_marginal(ax):
    means = np.array([[0.0, 9.0, 1.0], [5.0, -9.0, 2.0]])
    mixture = GaussianMixture(np.array([0.25, 0.75]), means, np.stack([np.diag([1.0, 7.0, 4.0])] * 2))
    plot_mixture(mixture, dims=(2, 0), names=("z", "x"), truth=[1.0, 0.0], ax=ax)
    np.testing.assert_allclose([patch.center for patch in ax.patches], means[:, [2, 0]])
    np.testing.assert_allclose([(patch.width, patch.height) for patch in ax.patches], [(2.0, 4.0)] * 2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z", "x")


# -- calibration: simultaneous bands are exact


def test_the_probability_of_counts_equals_enumeration():
    """Three uniforms in four equal cells: 64 equally likely placements."""
    points = np.arange(1, 5) / 4
    low, high = np.array([0, 0, 1, 3]), np.array([1, 2, 2, 3])
    cells_low, cells_high = np.zeros(4, int), np.array([2, 1, 1, 2])
    together = apart = 0
    for placement in itertools.product(range(4), repeat=3):
        counts = np.bincount(placement, minlength=4)
        together += np.all((counts.cumsum() >= low) & (counts.cumsum() <= high))
        apart += np.all((counts >= cells_low) & (counts <= cells_high))
    assert probability(3, points, low, high, increments=False) == pytest.approx(together / 64, abs=1e-12)
    assert probability(3, points, cells_low, cells_high, increments=True) == pytest.approx(apart / 64, abs=1e-12)


@pytest.mark.parametrize("coverage", [0.9, 0.99])
def test_bands_hold_all_at_once_as_often_as_they_say(coverage):
    """4,000 sets of 60 uniforms, 4 standard errors. Counts are whole numbers, so somewhat more than asked is held."""
    uniforms = np.random.default_rng(3).uniform(size=(4000, 60))
    error = 4 * np.sqrt(coverage * (1 - coverage) / 4000)
    low, high = histogram_band(60, 10, coverage)
    counts = np.stack([np.histogram(row, 10, (0.0, 1.0))[0] for row in uniforms])
    held = np.mean(np.all((counts >= low) & (counts <= high), axis=1))
    assert coverage - error < held < coverage + (1 - coverage) * 0.8 + error
    points, below, above = ecdf_band(60, 30, coverage)
    shares = np.mean(uniforms[:, :, None] <= points, axis=1)
    held = np.mean(np.all((shares >= below - 1e-9) & (shares <= above + 1e-9), axis=1))
    assert coverage - error < held < coverage + (1 - coverage) * 0.8 + error


def test_the_rank_histogram_marks_bins_outside_of_the_band(ax):
    levels = np.concatenate([(np.arange(190) % 10 + 0.5) / 10, np.full(60, 0.05)])
    assert plot_rank_histogram(levels, bins=10, name="mu", ax=ax) is ax
    counts = next(patch.get_data().values for patch in ax.patches if hasattr(patch, "get_data"))
    np.testing.assert_array_equal(counts, [79, *[19] * 9])
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), [0.05])
    assert legend(ax) == ["calibrated (99%)", "outside"]
    assert ax.get_xlabel() == "rank of the true mu"


def test_the_rank_curve_is_the_distribution_function_minus_the_diagonal(ax):
    levels = np.array([0.2, 0.4, 0.4, 0.9])
    plot_rank_ecdf(levels, label="a", ax=ax)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(np.asarray(y), np.mean(levels[None] <= np.asarray(x)[:, None], axis=1) - x, atol=1e-12)
    plot_rank_ecdf(levels, label="b", ax=ax)
    assert legend(ax) == ["calibrated (99%)", "a", "b"]


def test_coverage_of_a_right_and_of_a_narrow_posterior(ax):
    """Standard normal truths; draws with the right sd give uniform levels, with half of it too many near 0 and 1."""
    rng = np.random.default_rng(5)
    truths, references = rng.normal(size=(400, 2)), rng.normal(size=(400, 2))
    levels = {sd: tarp_levels(sd * rng.normal(size=(400, 100, 2)), truths, references) for sd in (1.0, 0.4)}
    points, low, high = ecdf_band(400, 100, 0.999)
    inside = {}
    for sd, found in levels.items():
        shares = np.mean(found[:, None] <= points, axis=0)
        inside[sd] = np.all((shares >= low) & (shares <= high))
    assert inside == {1.0: True, 0.4: False}
    assert plot_coverage(levels[1.0], label="right", ax=ax) is ax
    assert legend(ax) == ["calibrated (99%)", "right"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("credibility", "expected coverage")


def test_tarp_counts_the_draws_that_are_nearer():
    draws = np.array([[[0.0], [1.0], [3.0], [-4.0]], [[0.0], [0.0], [0.0], [0.0]]])
    np.testing.assert_array_equal(tarp_levels(draws, [[2.0], [-2.0]], [[0.0], [1.0]]), [0.5, 1.0])


# -- continual learning


def test_the_accuracy_matrix_writes_what_was_measured(ax):
    accuracy = np.array([[1.0, np.nan], [0.25, 0.9]])
    assert plot_accuracy_matrix(accuracy, tasks=["cats", "dogs"], ax=ax) is ax
    assert {text.get_text(): text.get_position() for text in ax.texts} == {"100": (0, 0), "25": (0, 1), "90": (1, 1)}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cats", "dogs"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tested on task", "after learning task")
    assert len(plot_accuracy_matrix(np.full((20, 20), 0.5)).texts) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plot_genealogy(np.zeros((3, 2))), "ancestors: expected integers"),
        (lambda: plot_genealogy(np.full((3, 2), 2)), "ancestors: expected numbers from 0 to 1"),
        (lambda: plot_genealogy(np.zeros((3, 2), int), np.zeros((2, 2))), "positions: expected shape"),
        (lambda: plot_genealogy(np.zeros((3, 2), int), times=[1.0]), "times: 1 times for 3"),
        (lambda: plot_ess([0.0], {}), "ess: expected a dictionary"),
        (lambda: plot_ess([0.0], {"a": [0.0]}), "ess: expected positive"),
        (lambda: plot_log_evidence([0.0], {"a": [1.0, 2.0]}), "log_evidence: 'a' has shape"),
        (lambda: plot_log_evidence([0.0], {"a": [1.0]}, reference=[1.0, 2.0]), "reference: 2 values for 1"),
        (lambda: plot_mixture(GaussianMixture.gaussian(np.zeros(2), np.eye(2)), dims=(0, 2)), "dims: expected two"),
        (lambda: plot_mixture(GaussianMixture.gaussian(np.zeros(2), np.eye(2)), masses=(1.0,)), "masses"),
        (lambda: plot_rank_histogram([0.5, 1.5]), "levels: expected numbers between 0 and 1, found 0.5 to 1.5"),
        (lambda: plot_rank_histogram([0.5, 0.6], bins=1), "bins"),
        (lambda: plot_rank_ecdf([0.5]), "levels: expected at least two"),
        (lambda: plot_coverage([0.5, 0.6], coverage=1.0), "coverage"),
        (lambda: tarp_levels(np.zeros((3, 4, 2)), np.zeros((3, 1)), np.zeros((3, 2))), "truths: expected shape"),
        (lambda: plot_accuracy_matrix(np.zeros((2, 3))), r"accuracy: expected shape \(T, T\)"),
        (lambda: plot_accuracy_matrix([[50.0]]), "accuracy: expected fractions"),
        (lambda: plot_accuracy_matrix([[0.5]], tasks=["a", "b"]), "tasks: 2 names for 1"),
        (lambda: plot_accuracy_matrix([[0.5]], limits=(1.0, 0.0)), "limits"),
    ],
)
def test_bad_arguments_of_further_pictures_are_named(call, match):
    with pytest.raises(ArgumentError, match=match):
        call()
