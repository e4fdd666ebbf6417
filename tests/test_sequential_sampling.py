"""Sequential Bayes by sampling, against the conjugate posterior; densities, symmetry, networks, bad input."""

import dataclasses
import itertools
import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import continual
import probinf as pi
from continual import metrics
from continual import sequential_sampling as sampling
from continual.sequential_sampling.coordinates import AffineCoordinates, GaussianCoordinates, coordinates
from continual.sequential_sampling.densities import _padded
from continual.sequential_sampling.symmetry import aligned
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError, UnknownNameError

_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(30, 3))
_Y = _X @ np.array([1.0, -2.0, 0.5]) + 0.7 * _RNG.normal(size=30)
_TASKS = [(_X[i : i + 10], _Y[i : i + 10]) for i in (0, 10, 20)]
_LINEAR = sampling.LinearGaussian(3, noise=0.7, prior_scale=2.0)
_NUTS = pi.NUTS(num_warmup=200, num_draws=500, init="prior")


def _exact(x, y):
    """Posterior mean and covariance of the weights, and log evidence."""
    cov = np.linalg.inv(np.eye(3) / 4 + x.T @ x / 0.49)
    evidence = multivariate_normal.logpdf(y, np.zeros(len(y)), 4 * x @ x.T + 0.49 * np.eye(len(y)))
    return cov @ x.T @ y / 0.49, cov, evidence


def _through(learner, tasks, seed=0):
    belief = learner.start(seed)
    for t, (x, y) in enumerate(tasks):
        belief, _ = learner.update(belief, t, learner.model.sensor, y, inputs=x)
    return belief


def _assert_exact(belief, ess, num_stages=1):
    """Mean and standard deviations within 4.5 standard errors of the exact posterior of all tasks.

    Errors of fitted priors add up over stages. Six numbers: a false alarm in 2 x 10^4 runs.
    """
    mean, cov, _ = _exact(_X, _Y)
    draws = np.asarray(belief.draws).reshape(-1, 3)
    sd = np.sqrt(np.diag(cov))
    assert np.abs((draws.mean(axis=0) - mean) / sd).max() < 4.5 * np.sqrt(num_stages / ess)
    assert np.abs(draws.std(axis=0) / sd - 1).max() < 4.5 * np.sqrt(num_stages / (2 * ess))


def test_sampled_task_by_task_with_a_gaussian_is_the_exact_posterior():
    learner = sampling.PosteriorAsPrior(_LINEAR, sampling.GaussianEstimator(), _NUTS, powers=(0.3,))
    belief = _through(learner, _TASKS)
    found = learner.convergence(belief)
    assert found.r_hat < 1.01
    assert found.ess > 500
    _assert_exact(belief, found.ess, num_stages=3)
    # What is handed on is the posterior's mean and covariance.
    draws = np.asarray(belief.draws).reshape(-1, 3)
    np.testing.assert_allclose(belief.prior.mean, draws.mean(axis=0), rtol=1e-10)
    predicted = learner.predictor(belief)(_X)
    assert predicted.shape == (30, 1)
    np.testing.assert_allclose(predicted[:, 0], _X @ _exact(_X, _Y)[0], atol=0.2)


def test_smc_over_tasks_has_the_exact_posterior_and_evidence():
    """16 runs: a Student t of 15 degrees of freedom beyond 5 is a false alarm in 6000 runs."""
    learner = sampling.TaskSMC(_LINEAR, num_particles=128, num_runs=16)
    belief = _through(learner, _TASKS)
    assert learner.convergence(belief).r_hat < 1.02
    _assert_exact(belief, learner.convergence(belief).ess)
    exact = _exact(_X, _Y)[2]
    ratios = np.exp(np.asarray(belief.log_evidence) - exact)  # evidence, not its log, is what SMC is right about
    assert abs(ratios.mean() - 1) < 5 * ratios.std(ddof=1) / 4
    assert ratios.std(ddof=1) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [_NUTS, pi.ChEES(num_warmup=300, num_draws=100, init="prior")])
def test_joint_sampling_is_the_exact_posterior(sampler):
    learner = sampling.JointSampling(_LINEAR, sampler)
    belief = _through(learner, _TASKS)
    assert belief.stored[0].shape == (30, 3)
    _assert_exact(belief, learner.convergence(belief).ess)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("flowjax and the optimiser inside it")
@pytest.mark.parametrize("estimator", [sampling.MixtureEstimator((1, 2)), sampling.FlowEstimator(2, 16)])
def test_other_densities_come_near_the_exact_posterior(estimator):
    """A tenth of a standard deviation beyond Monte Carlo error is allowed for the density's own error."""
    if isinstance(estimator, sampling.FlowEstimator):
        pytest.importorskip("flowjax")
    belief = _through(sampling.PosteriorAsPrior(_LINEAR, estimator, _NUTS), _TASKS)
    mean, cov, _ = _exact(_X, _Y)
    draws = np.asarray(belief.draws).reshape(-1, 3)
    assert np.abs((draws.mean(axis=0) - mean) / np.sqrt(np.diag(cov))).max() < 0.1 + 4.5 * np.sqrt(3 / 500)


# Networks


def _network_by_hand(weights, x, widths):
    i = 0
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        matrix, bias = weights[i : i + a * b].reshape(a, b), weights[i + a * b : i + (a + 1) * b]
        i += (a + 1) * b
        x = x @ matrix + bias
        x = np.maximum(x, 0) if k < len(widths) - 2 else x
    return x


def test_a_network_is_its_layers_and_its_likelihood_a_sum():
    network = sampling.SoftmaxNetwork(2, 3, (4, 5))
    assert network.num_weights == 3 * 4 + 5 * 5 + 6 * 3
    assert sampling.SoftmaxNetwork(2, 2).num_weights == 162
    rng = np.random.default_rng(1)
    weights, x, y = rng.normal(size=network.num_weights), rng.normal(size=(7, 2)), np.arange(7, dtype=np.int32) % 3
    logits = _network_by_hand(weights, x, (2, 4, 5, 3))
    np.testing.assert_allclose(network.logits(jnp.asarray(weights), jnp.asarray(x)), logits, rtol=1e-10)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = network.log_likelihood(jnp.asarray(weights), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, np.log(p[np.arange(7), y]).sum(), rtol=1e-10)
    np.testing.assert_allclose(network.predictive(jnp.asarray(weights), jnp.asarray(x)), p, rtol=1e-10)
    np.testing.assert_allclose(network.functions(jnp.asarray(weights), jnp.asarray(x)).sum(axis=1), 0, atol=1e-10)


def test_the_prior_of_the_first_task_has_the_stated_scale():
    network = sampling.SoftmaxNetwork(1, 2, (2,), prior_scale=0.3)
    w = np.linspace(-1, 1, network.num_weights)
    expected = multivariate_normal.logpdf(w, np.zeros(len(w)), 0.09 * np.eye(len(w)))
    np.testing.assert_allclose(network.prior(jnp.float64).log_prob(w), expected, rtol=1e-10)


def _renumbered(network, weights, rng):
    layers = [np.array(layer) for layer in network.layers(weights)]
    for i, width in enumerate(network.hidden):
        order = rng.permutation(width)
        layers[i] = layers[i][:, order]
        layers[i + 1] = np.concatenate([layers[i + 1][:-1][order], layers[i + 1][-1:]])
    return np.concatenate([layer.ravel() for layer in layers])


def test_renumbered_networks_are_brought_into_one_order():
    network = sampling.SoftmaxNetwork(2, 2, (6, 5))
    rng = np.random.default_rng(2)
    weights = rng.normal(size=network.num_weights)
    draws = np.stack([_renumbered(network, weights, rng) for _ in range(20)])
    x = jnp.asarray(rng.normal(size=(4, 2)))
    functions = [network.logits(jnp.asarray(row), x) for row in draws]
    np.testing.assert_allclose(functions, np.broadcast_to(functions[0], (20, 4, 2)), rtol=1e-9)
    assert len(np.unique(draws.round(9), axis=0)) > 15
    found = aligned(network, draws)
    assert len(np.unique(found.round(9), axis=0)) == 1
    np.testing.assert_allclose(network.logits(jnp.asarray(found[3]), x), functions[3], rtol=1e-9)


def test_a_density_of_renumbered_draws_is_that_of_one_order(key):
    network = sampling.SoftmaxNetwork(1, 2, (3,))
    rng = np.random.default_rng(7)
    noisy = rng.normal(size=network.num_weights) + 0.05 * rng.normal(size=(60, network.num_weights))
    draws = np.stack([_renumbered(network, row, rng) for row in noisy])
    wide = sampling.GaussianEstimator().fit(key, draws)
    narrow = sampling.Aligned(sampling.GaussianEstimator(), network).fit(key, draws)
    assert np.trace(narrow.cov) < 0.1 < np.trace(wide.cov)
    np.testing.assert_allclose(np.trace(narrow.cov), noisy.var(axis=0).sum(), rtol=1e-9)


# Densities


def test_a_gaussian_is_mean_and_covariance(key):
    x = np.random.default_rng(3).normal(size=(50, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    found = sampling.GaussianEstimator().fit(key, x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(x, rowvar=False, bias=True), rtol=1e-10)


def test_a_mixture_with_a_component_that_spans_too_little_is_not_taken(key):
    rng = np.random.default_rng(5)
    lump = 5 + 1e-4 * rng.normal(size=(8, 12))  # too few, and too close together, for a covariance
    x = np.concatenate([rng.normal(size=(200, 12)), lump]).astype(np.float32)
    with pytest.raises(DataError, match="span"):
        pi.GaussianMixture.from_samples(x, k=2, key=key)
    found = sampling.MixtureEstimator((1, 2)).fit(key, x)
    np.testing.assert_array_equal(found.weights, [1, 0])
    flat = np.concatenate([x[:, :11], x[:, :1]], axis=1)
    with pytest.raises(DataError, match="no mixture of"):
        sampling.MixtureEstimator((1, 2)).fit(key, flat)


def test_a_mixture_finds_two_lumps_and_keeps_its_size(key):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(400, 2)) * 0.3 + np.where(rng.random(400) < 0.5, -2.0, 2.0)[:, None]
    found = sampling.MixtureEstimator((1, 2, 3)).fit(key, x)
    assert found.num_components == 3
    heavy = np.sort(np.asarray(found.means)[np.asarray(found.weights) > 0.2], axis=0)
    np.testing.assert_allclose(heavy, [[-2, -2], [2, 2]], atol=0.15)
    one = sampling.MixtureEstimator((1, 4)).fit(key, rng.normal(size=(300, 2)))
    assert np.sum(np.asarray(one.weights) > 0) == 1  # a Gaussian needs one, and three empty ones change nothing
    gradient = jax.grad(lambda p: one.log_prob(p))(jnp.ones(2))
    assert np.isfinite(gradient).all()
    plain = pi.GaussianMixture(one.weights[:1], one.means[:1], scale_tril=one.scale_tril[:1])
    np.testing.assert_allclose(one.log_prob(jnp.ones(2)), plain.log_prob(jnp.ones(2)), rtol=1e-12)


def test_a_mixture_whose_weights_are_rounded_can_be_padded():
    """Expectation maximisation in float32 leaves weights of 162 dimensions that add up to 1 within 3e-5 only."""
    exact = pi.GaussianMixture(np.array([0.4, 0.6]), np.zeros((2, 1)), np.ones((2, 1, 1)))
    rounded = eqx.tree_at(lambda mixture: mixture.log_weights, exact, exact.log_weights - 3e-5)
    np.testing.assert_allclose(_padded(rounded, 4).weights, [0.4, 0.6, 0, 0], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("flowjax and the optimiser inside it")
def test_a_flow_is_normalised_and_learns_a_bend(key):
    pytest.importorskip("flowjax")
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2000, 2))
    x[:, 1] += x[:, 0] ** 2
    flow = sampling.FlowEstimator(layers=4, width=30, learning_rate=3e-3).fit(key, x)
    gaussian = sampling.GaussianEstimator().fit(key, x)
    fresh = rng.normal(size=(4000, 2))
    fresh[:, 1] += fresh[:, 0] ** 2
    assert jnp.mean(flow.log_prob(jnp.asarray(fresh))) > jnp.mean(gaussian.log_prob(jnp.asarray(fresh))) + 0.2
    axis = np.linspace(-12, 12, 300)
    cells = np.stack([a.ravel() for a in np.meshgrid(axis, axis + 6)], axis=1)
    total = np.exp(flow.log_prob(jnp.asarray(cells))).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=0.01)


def test_without_flowjax_the_message_says_what_to_install(key, monkeypatch):
    monkeypatch.setitem(sys.modules, "flowjax", None)
    monkeypatch.setitem(sys.modules, "flowjax.distributions", None)
    with pytest.raises(InferenceError, match=r"pip install 'probinf\[flows\]'"):
        sampling.FlowEstimator().fit(key, np.random.default_rng(0).normal(size=(9, 2)))


def _assert_same_density(belief, space, z):
    """The density of z is that of the weights times the Jacobian, and draws of z are draws of the weights."""
    jacobian = np.linalg.slogdet(jax.jacfwd(space.weights)(z))[1]
    np.testing.assert_allclose(space.log_prob(z), belief.log_prob(space.weights(z)) + jacobian, rtol=1e-9)


def test_coordinates_of_a_mixture_make_it_round_and_keep_its_density():
    rng = np.random.default_rng(8)
    roots = np.tril(rng.normal(size=(2, 3, 3)), -1) + np.array([1.0, 0.5, 2.0]) * np.eye(3)
    one = pi.GaussianMixture(np.array([1.0, 0.0]), rng.normal(size=(2, 3)), scale_tril=roots)
    two = pi.GaussianMixture(np.array([0.3, 0.7]), 3 * rng.normal(size=(2, 3)), scale_tril=roots)
    for belief, kind in ((one, GaussianCoordinates), (two, AffineCoordinates)):
        space = coordinates(belief)
        assert type(space) is kind
        _assert_same_density(belief, space, jnp.asarray(rng.normal(size=3)))
        z = jax.vmap(space.sample)(jax.random.split(jax.random.key(1), 4000))
        # Ten standard errors of a variance whose kurtosis is at most a Gaussian's.
        np.testing.assert_allclose(np.cov(z, rowvar=False), np.eye(3), atol=10 * (2 / 4000) ** 0.5)
        np.testing.assert_allclose(np.mean(z, axis=0), 0, atol=5 / 4000**0.5)


@pytest.mark.slow
@pytest.mark.relaxed_promotion("flowjax and the optimiser inside it")
def test_coordinates_of_a_flow_are_its_standard_normal(key):
    pytest.importorskip("flowjax")
    x = np.random.default_rng(9).normal(size=(300, 3))
    flow = sampling.FlowEstimator(layers=2, width=8, epochs=3).fit(key, x)
    _assert_same_density(flow, coordinates(flow), jnp.asarray([0.3, -1.0, 0.5]))


# The learner's protocol


@pytest.mark.slow
def test_a_network_learns_the_blobs_and_runs_resume(tmp_path):
    stream = continual.toy_gaussians(20, seed=1).in_order([0, 1])
    network = sampling.SoftmaxNetwork(2, 2, (4,), prior_scale=1.0)
    nuts = dataclasses.replace(_NUTS, num_warmup=150, num_draws=100)
    learner = sampling.PosteriorAsPrior(network, sampling.MixtureEstimator((1, 2)), nuts)
    whole = continual.run(learner, stream, checkpoint=tmp_path)
    assert whole.accuracy[0, 0] > 0.9
    again = continual.run(learner, stream, checkpoint=tmp_path)
    np.testing.assert_array_equal(whole.accuracy, again.accuracy)


@pytest.mark.slow
def test_the_same_task_twice_is_not_forgotten():
    """160 test examples: one per cent is less than two of them."""
    task = continual.toy_gaussians(80, seed=2).tasks[0]
    network = sampling.SoftmaxNetwork(2, 2, (4,))
    learner = sampling.PosteriorAsPrior(network, sampling.Aligned(sampling.GaussianEstimator(), network), _NUTS)
    found = continual.run(learner, continual.TaskStream("twice", "domain", (task, task), 2))
    assert found.accuracy[1, 0] >= found.accuracy[0, 0] - 0.01


def test_classes_without_data_have_probability_zero():
    network = sampling.SoftmaxNetwork(2, 3, ())
    learner = sampling.JointSampling(network)
    belief = learner.start(0)
    draws = jnp.asarray(np.random.default_rng(6).normal(size=(2, 5, network.num_weights)))
    belief = dataclasses.replace(belief, draws=draws, seen=jnp.asarray([True, False, True]))
    found = learner.probabilities(belief, np.ones((4, 2)))
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-10)


def test_before_any_data_there_is_nothing_to_predict_by():
    learner = sampling.JointSampling(_LINEAR)
    with pytest.raises(InferenceError, match="nothing has been learnt"):
        learner.predictor(learner.start(3))
    with pytest.raises(InferenceError, match="nothing has been learnt"):
        learner.convergence(learner.start(3))


@pytest.mark.bad_input
def test_bad_settings_and_data_are_refused_before_sampling(key):
    network = sampling.SoftmaxNetwork(2, 2, (3,))
    learner = sampling.PosteriorAsPrior(network)
    belief = learner.start(0)
    x = np.ones((2, 2))
    for message, sensor, labels, inputs, kind in (
        ("label 5 is unknown", "label", [0, 5], x, DataError),
        ("not finite", "label", [0, 1], np.full((2, 2), np.nan), DataError),
        ("had 2 features", "label", [0, 1], np.ones((2, 3)), DataError),
        ("no example", "label", [], np.ones((0, 2)), DataError),
        ("'target' is not a sensor", "target", [0, 1], x, UnknownNameError),
    ):
        with pytest.raises(kind, match=message):
            learner.update(belief, 0, sensor, np.asarray(labels, int), inputs=inputs)
    for message, kind, make in (
        ("num_inputs", ArgumentError, lambda: sampling.SoftmaxNetwork(0, 2)),
        ("hidden", ArgumentTypeError, lambda: sampling.SoftmaxNetwork(2, 2, (1.5,))),
        ("prior_scale", ArgumentError, lambda: sampling.SoftmaxNetwork(2, 2, prior_scale=0.0)),
        ("noise", ArgumentError, lambda: sampling.LinearGaussian(2, noise=-1.0)),
        ("grid: expected finite inputs", ArgumentError, lambda: sampling.JointSampling(network, grid=np.ones((3, 5)))),
        ("powers: expected rising", ArgumentError, lambda: sampling.JointSampling(network, powers=(0.6, 0.3))),
        ("powers: expected rising", ArgumentError, lambda: sampling.PosteriorAsPrior(network, powers=(1.0,))),
        ("num_kept", ArgumentError, lambda: sampling.JointSampling(network, num_kept=0)),
        ("threshold", ArgumentError, lambda: sampling.TaskSMC(network, threshold=1.0)),
        ("num_particles", ArgumentError, lambda: sampling.TaskSMC(network, num_particles=1)),
        ("max_moves", ArgumentError, lambda: sampling.TaskSMC(network, num_moves=9, max_moves=8)),
        ("components", ArgumentError, lambda: sampling.MixtureEstimator(())),
        ("held_out", ArgumentError, lambda: sampling.MixtureEstimator((1,), held_out=1.0)),
        ("epochs", ArgumentError, lambda: sampling.FlowEstimator(epochs=0)),
        ("sampler: 16 draws", ArgumentError, lambda: sampling.PosteriorAsPrior(network, sampler=pi.NUTS(num_draws=4))),
        ("sampler: expected pi.NUTS", ArgumentTypeError, lambda: sampling.JointSampling(network, "nuts")),
        ("4 draws of 6 weights", DataError, lambda: sampling.GaussianEstimator().fit(key, np.zeros((4, 6)))),
    ):
        with pytest.raises(kind, match=message):
            make()


def test_the_gap_to_joint_is_total_variation():
    joint = np.array([[0.9, 0.1], [0.5, 0.5]])
    assert metrics.posterior_gap(joint, joint) == 0
    assert metrics.posterior_gap(np.array([[0.7, 0.3], [0.5, 0.5]]), joint) == pytest.approx(0.1)
    assert metrics.posterior_gap(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])) == 1


@pytest.mark.bad_input
def test_the_gap_refuses_what_are_no_distributions():
    joint = np.array([[0.9, 0.1]])
    for wrong in (np.array([[0.9, 0.2]]), np.array([[1.1, -0.1]]), np.array([[np.nan, 1.0]]), np.ones((2, 1))):
        with pytest.raises(ArgumentError, match="found: expected"):
            metrics.posterior_gap(wrong, joint)


def _recorded(folder, label, seed, last, r_hat, chance):
    """A finished run of two tasks whose predictions are `chance` everywhere."""
    run = {"accuracy": [[1.0, 0.5], [last, 1.0]], "nll": [[0.1, 0.7], [0.2, 0.1]], "r_hat": [1.001, r_hat]}
    grid = [[[chance, 1 - chance]] * 3] * 2
    run |= {"ess": [900, 800], "grid": grid, "seconds": [1, 1], "log_evidence": [[], []]}
    (folder / f"toys, {label}, {seed}.json").write_text(json.dumps(run))


def test_the_benchmark_says_of_recorded_runs_what_they_hold(tmp_path, capsys):
    from benchmarks import sequential_sampling as benchmark

    _recorded(tmp_path, benchmark.JOINT, 0, 0.98, 1.004, 0.8)
    _recorded(tmp_path, benchmark.JOINT, 1, 0.96, 1.005, 0.8)
    _recorded(tmp_path, benchmark.SMC, 1, 0.91, 1.02, 0.7)  # beside the same seed only
    given = ["--recorded", "--only", "toys", "--cells", str(tmp_path), "--figure", str(tmp_path / "a.png")]
    assert benchmark.main([*given, "--json", str(tmp_path / "a.json")]) == 0
    content = json.loads((tmp_path / "a.json").read_text())
    rows = {row["claim"].removeprefix("toys, "): row for row in content["rows"]}
    assert rows["joint HMC: accuracy on task 1 after the last task"]["value"] == pytest.approx(97)
    assert rows["joint HMC: R-hat of functions on the grid, worst over tasks and seeds"]["met"]
    missed = rows["SMC over tasks: R-hat of functions on the grid, worst over tasks and seeds"]
    assert not missed["met"]
    gap = rows["SMC over tasks: posterior gap to joint HMC after the last task, total variation"]
    assert gap["value"] == pytest.approx(0.1)
    (difference,) = [row for claim, row in rows.items() if "largest difference" in claim]
    assert difference["value"] == pytest.approx(5)
    assert rows["Gaussian: accuracy on task 1 after the last task"]["value"] is None
    assert not rows["toys: seeds with every learner"]["met"]
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.relaxed_promotion("benchmarks are written for JAX's ordinary settings")
def test_the_benchmark_runs_at_smoke_size_and_goes_on_from_its_cells(tmp_path, capsys):
    from benchmarks import sequential_sampling as benchmark

    given = ["--quick", "--only", "toys", "--cells", str(tmp_path), "--figure", str(tmp_path / "a.png")]
    assert benchmark.main([*given, "--json", str(tmp_path / "a.json")]) == 0
    assert (tmp_path / "a.png").stat().st_size > 5000
    capsys.readouterr()
    assert benchmark.main([*given, "--recorded", "--json", str(tmp_path / "b.json")]) == 0
    assert "task 0:" not in capsys.readouterr().out
