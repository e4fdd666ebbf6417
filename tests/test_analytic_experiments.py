"""The closed forms of the wrong-model and imbalance examples, each against a route of its own."""

import numpy as np
import pytest

from examples import continual_imbalance, continual_wrong_model
from examples.continual_wrong_model import NOISE, PRIOR_MEAN, PRIOR_SD, WALK_SD

pytestmark = pytest.mark.relaxed_promotion("examples are written for JAX's ordinary settings")


@pytest.fixture(scope="module")
def wrong():
    return continual_wrong_model.run(100)


def _joint_gaussian(prior_cov, observed_by, y):
    """Posterior mean and covariance of states with a Gaussian prior, seen through rows of a matrix."""
    innovation = observed_by @ prior_cov @ observed_by.T + NOISE**2 * np.eye(len(y))
    gain = np.linalg.solve(innovation, observed_by @ prior_cov).T
    mean = PRIOR_MEAN + gain @ (y - PRIOR_MEAN)
    return mean, prior_cov - gain @ observed_by @ prior_cov


def test_the_static_recursion_is_the_pooled_posterior_in_any_order(wrong):
    mean, sd = continual_wrong_model.pooled(wrong.y)
    for order in (np.arange(200), np.arange(200)[::-1], np.random.default_rng(1).permutation(200)):
        found = continual_wrong_model.filtered(wrong.y[order])
        np.testing.assert_allclose([found.mean[-1], found.sd[-1]], [mean, sd], rtol=1e-10)


def test_the_static_posterior_is_certain_of_a_value_without_data(wrong):
    assert abs(wrong.static.mean[-1]) < 0.02
    assert wrong.static.sd[-1] == pytest.approx(NOISE / 200**0.5, rel=1e-3)
    assert np.abs(wrong.y - wrong.static.mean[-1]).min() > 0.5


def test_filter_and_smoother_of_the_walk_are_the_dense_gaussian(wrong):
    y = wrong.y[80:120]
    steps = np.minimum.outer(np.arange(len(y)), np.arange(len(y)))
    prior = PRIOR_SD**2 + WALK_SD**2 * steps
    filtered = continual_wrong_model.filtered(y, WALK_SD)
    smoothed = continual_wrong_model.smoothed(filtered, WALK_SD)
    mean, cov = _joint_gaussian(prior, np.eye(len(y)), y)
    np.testing.assert_allclose(smoothed.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(smoothed.sd, np.sqrt(np.diag(cov)), rtol=1e-9)
    n = 25  # filtering is smoothing of the data so far
    mean, cov = _joint_gaussian(prior[:n, :n], np.eye(n), y[:n])
    np.testing.assert_allclose([filtered.mean[n - 1], filtered.sd[n - 1]], [mean[-1], cov[-1, -1] ** 0.5], rtol=1e-9)


def test_the_walk_forgets_when_filtered_and_remembers_when_smoothed(wrong):
    first = wrong.y[:100].mean()
    assert (wrong.walk.mean[-1] - first) ** 2 == pytest.approx(4, rel=0.1)
    assert abs(wrong.smoothed.mean[:90].mean() - first) < 0.02


def test_a_mean_for_each_task_is_the_dense_gaussian_and_keeps_both(wrong):
    tasks = [wrong.y[:100], wrong.y[100:]]
    member = np.repeat(np.eye(2), 100, axis=0)
    mean, cov = _joint_gaussian(np.eye(2) + PRIOR_SD**2, member, wrong.y)
    np.testing.assert_allclose(wrong.tasks, mean, rtol=1e-9)
    np.testing.assert_allclose(wrong.tasks_sd, np.sqrt(np.diag(cov)), rtol=1e-9)
    assert all(abs(m - y.mean()) < 3 * NOISE / 10 for m, y in zip(wrong.tasks, tasks, strict=True))


def test_the_mixture_finds_the_task_of_every_observation(wrong):
    truth = np.arange(200) >= 100  # separation of 20 standard deviations
    assert np.where(truth, wrong.responsibilities, 1 - wrong.responsibilities).min() > 0.99
    np.testing.assert_allclose(wrong.centres, [wrong.y[:100].mean(), wrong.y[100:].mean()], atol=1e-6)


def test_the_static_mean_is_drawn_to_the_larger_task_as_the_closed_form_says():
    """Means over 4000 draws within 5 standard errors: a false alarm in 10^5 runs of the 10 numbers."""
    draws = 4000
    rng = np.random.default_rng(3)
    for n1, n2 in continual_imbalance.COUNTS:
        counts = np.array([n1, n2])
        sums = counts * np.array(continual_imbalance.MEANS) + NOISE * np.sqrt(counts) * rng.normal(size=(draws, 2))
        errors = np.array([continual_imbalance.score(continual_imbalance.static(row, counts))[0] for row in sums])
        spread = errors.std(axis=0) / draws**0.5
        assert (np.abs(errors.mean(axis=0) - continual_imbalance.expected_error(n1, n2)) < 5 * spread).all()


def test_without_noise_the_distance_from_task_1_is_the_share_of_task_2():
    for n1, n2 in continual_imbalance.COUNTS:
        counts = np.array([n1, n2])
        sums = counts * np.array(continual_imbalance.MEANS)
        found = continual_imbalance.static(sums, counts).mean
        np.testing.assert_allclose(found - continual_imbalance.MEANS[0], 2 * n2 / (n1 + n2), rtol=1e-12)
        equal = continual_imbalance.balanced(sums, counts)
        np.testing.assert_allclose(equal.mean, 0, atol=1e-12)
        np.testing.assert_allclose(equal.sd, NOISE / (n1 + n2) ** 0.5, rtol=1e-12)


def test_separate_means_with_a_flat_prior_of_their_centre_are_the_limit_of_a_wide_one():
    counts, sums = np.array([3, 50]), np.array([-2.4, 47.0])
    found = continual_imbalance.separate(sums, counts)
    prior = np.eye(2) + 1e6
    precision = np.linalg.inv(prior) + np.diag(counts) / NOISE**2
    cov = np.linalg.inv(precision)
    np.testing.assert_allclose(found.mean, cov @ (sums / NOISE**2), rtol=1e-5)
    np.testing.assert_allclose(found.sd, np.sqrt(np.diag(cov)), rtol=1e-5)


def test_intervals_of_separate_means_cover_and_those_of_the_static_mean_do_not():
    """2000 draws of a 95 % interval: five standard deviations are 0.0244; a false alarm in 10^5 runs."""
    found = continual_imbalance.run(2000, seed=1)
    assert np.abs(found["a mean for each task"].coverage - 0.95).max() < 0.0244
    assert found["static mean (exact)"].coverage[2:, 0].max() == 0


def test_regression_forgets_only_through_shared_features():
    narrow = [continual_imbalance.regression_error(*pair, 0.2)[0] for pair in continual_imbalance.COUNTS]
    wide = [continual_imbalance.regression_error(*pair, 4.0)[0] for pair in continual_imbalance.COUNTS]
    np.testing.assert_allclose(narrow, narrow[0], rtol=1e-6)
    assert wide[-1] > 20 * wide[0]


@pytest.mark.parametrize(
    ("example", "arguments", "picture"),
    [
        (continual_wrong_model, ["--num", "20"], "continual_wrong_model.png"),
        (continual_imbalance, ["--draws", "20"], "continual_imbalance.png"),
    ],
)
def test_examples_run_and_draw(example, arguments, picture, tmp_path, capsys):
    example.main([*arguments, "--out", str(tmp_path)])
    assert picture in capsys.readouterr().out
    assert (tmp_path / picture).stat().st_size > 5000
