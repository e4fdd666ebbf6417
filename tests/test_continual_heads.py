"""Exact heads against closed forms and joint training; bad input leaves what was learnt as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

import continual
from probinf.errors import ArgumentError, DataError, InferenceError, UnknownNameError
from tests.compile_count import compiled

_CLASSES, _WIDTH = 4, 5


@pytest.fixture(scope="module")
def tasks() -> list[tuple[np.ndarray, np.ndarray]]:
    """Four unequal tasks; the classes of the first two come again in the last."""
    rng = np.random.default_rng(3)
    found = []
    for labels, size in (((0, 1), 40), ((2,), 23), ((3, 1), 31), ((0, 2), 17)):
        y = rng.choice(labels, size)
        centres = np.stack([np.sin(np.arange(_WIDTH) * (c + 1.0)) for c in range(_CLASSES)])
        found.append(
            (np.concatenate([centres[y][:, :-1], np.ones((size, 1))], 1) + 0.4 * rng.normal(size=(size, _WIDTH)), y)
        )
    return found


HEADS = {
    "linear": continual.BayesianLinearHead(_CLASSES, ridge=0.7),
    "shared covariance": continual.SharedCovarianceGaussian(_CLASSES, ridge=0.5),
    "normal-inverse-Wishart": continual.NormalInverseWishart(_CLASSES, ridge=0.5),
}


def learnt(head, tasks):
    belief = head.start(0)
    for t, (z, y) in enumerate(tasks):
        belief, info = head.update(belief, t, "label", y, inputs=z)
        assert info.num_examples == len(z)
    return belief


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_tasks_in_any_order_give_joint_training(name, order, tasks):
    head, z, y = HEADS[name], *(np.concatenate(part) for part in zip(*tasks, strict=True))
    shuffled = np.random.default_rng(0).permutation(len(z))
    joint = head.probabilities(learnt(head, [(z[shuffled], y[shuffled])]), z)
    found = head.probabilities(learnt(head, [tasks[i] for i in order]), z)
    np.testing.assert_allclose(found, joint, atol=1e-11)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_tasks_in_any_order_give_joint_training_in_float32(tasks):
    head, single = HEADS["linear"], [(z.astype(np.float32), y) for z, y in tasks]
    z, y = (np.concatenate(part) for part in zip(*single, strict=True))
    found, joint = (head.probabilities(learnt(head, data), z) for data in (single[::-1], [(z, y)]))
    assert found.dtype == np.float32
    # log densities are of size (dof + 4)/2 = 57 times a distance, and float32 rounds each part to 6e-8
    np.testing.assert_allclose(found, joint, atol=1e-5)


def student_t_class(z, members, everyone_else, ridge, kappa, shared):
    """log p(z | members) by the textbook update of a normal-inverse-Wishart prior, with centred scatter matrices."""
    dim = z.shape[1]

    def scatter(points):
        n, mean = len(points), points.mean(axis=0)
        return (points - mean).T @ (points - mean) + kappa * n / (kappa + n) * np.outer(mean, mean)

    groups = [members, *everyone_else] if shared else [members]
    scale = ridge * np.eye(dim) + sum(scatter(points) for points in groups)
    dof = dim + 2 + sum(map(len, groups))
    n = len(members)
    centre = members.sum(axis=0) / (kappa + n)
    shape = scale * (kappa + n + 1) / ((kappa + n) * (dof - dim + 1))
    return stats.multivariate_t(centre, shape, df=dof - dim + 1).logpdf(z)


@pytest.mark.parametrize("name", ["shared covariance", "normal-inverse-Wishart"])
def test_gaussian_classes_are_the_textbook_posterior_predictive(name, tasks):
    head, z, y = HEADS[name], *(np.concatenate(part) for part in zip(*tasks, strict=True))
    by_class = [z[y == c] for c in range(_CLASSES)]
    logs = np.stack(
        [
            np.log(len(by_class[c]) + 1)
            + student_t_class(
                z, by_class[c], by_class[:c] + by_class[c + 1 :], head.ridge, head.kappa, "shared" in name
            )
            for c in range(_CLASSES)
        ],
        axis=1,
    )
    expected = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    np.testing.assert_allclose(head.probabilities(learnt(head, tasks), z), expected, atol=1e-10)


def test_linear_head_is_ridge_regression_with_a_student_t(tasks):
    head, z, y = HEADS["linear"], *(np.concatenate(part) for part in zip(*tasks, strict=True))
    one_hot = np.eye(_CLASSES)[y]
    precision = z.T @ z + head.ridge * np.eye(_WIDTH)
    mean = np.linalg.solve(precision, z.T @ one_hot)
    belief = learnt(head, tasks)
    np.testing.assert_allclose(head.posterior(belief).mean, mean, atol=1e-12)
    residuals = one_hot - z @ mean  # scale by residuals and prior, not by the difference of squares
    scale = head.noise * np.eye(_CLASSES) + residuals.T @ residuals + head.ridge * mean.T @ mean
    dof = len(z) + _CLASSES + 2 - _CLASSES + 1
    logs = np.empty((len(z), _CLASSES))
    for i, row in enumerate(z):
        spread = 1 + row @ np.linalg.solve(precision, row)
        for c in range(_CLASSES):
            logs[i, c] = stats.multivariate_t(row @ mean, scale * spread / dof, df=dof).logpdf(np.eye(_CLASSES)[c])
    expected = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    np.testing.assert_allclose(head.probabilities(belief, z), expected, atol=1e-10)


def test_a_temperature_softens_and_changes_no_decision(tasks):
    z = tasks[0][0]
    plain, soft = (continual.BayesianLinearHead(_CLASSES, temperature=t) for t in (1.0, 3.0))
    belief = learnt(plain, tasks)
    p, q = plain.probabilities(belief, z), soft.probabilities(belief, z)
    power = p ** (1 / 3)
    np.testing.assert_allclose(q, power / power.sum(axis=1, keepdims=True), atol=1e-12)
    assert (p.argmax(axis=1) == q.argmax(axis=1)).all()


def test_regression_evidence_is_a_chain_of_predictive_densities():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 3))
    y = z @ rng.normal(size=(3, 2)) + 0.3 * rng.normal(size=(30, 2))
    model = continual.BayesianLinearRegression(num_outputs=2, ridge=0.5, noise=0.2)
    belief, total = model.start(0), 0.0
    belief, _ = model.update(belief, 0, "target", y[:10], inputs=z[:10])
    total = model.posterior(belief).log_evidence
    for t in range(10, 30):
        found = model.forecast(belief, z[t : t + 1])
        total += stats.multivariate_t(found.mean[0], found.scale[0], df=found.dof).logpdf(y[t])
        belief, _ = model.update(belief, t, "target", y[t : t + 1], inputs=z[t : t + 1])
    np.testing.assert_allclose(model.posterior(belief).log_evidence, total, rtol=1e-10)


def test_regression_evidence_of_one_row_is_its_prior_predictive():
    z, y = np.array([[1.0, -2.0]]), np.array([[0.3, 0.9]])
    model = continual.BayesianLinearRegression(num_outputs=2, ridge=0.5, noise=0.2)
    belief, _ = model.update(model.start(0), 0, "target", y, inputs=z)
    # ν0 - k + 1 = 3 degrees of freedom, scale Ψ0 (1 + z'z/λ) / 3
    expected = stats.multivariate_t([0, 0], 0.2 * np.eye(2) * (1 + 5 / 0.5) / 3, df=3).logpdf(y[0])
    np.testing.assert_allclose(model.posterior(belief).log_evidence, expected, rtol=1e-12)


def test_float32_sums_of_many_batches_keep_their_precision():
    rng = np.random.default_rng(0)
    z = (1 + rng.random((20_000, 3))).astype(np.float32)
    y = rng.integers(0, 2, len(z))
    head = continual.BayesianLinearHead(2)
    belief = head.start(0)
    for i in range(0, len(z), 16):
        belief, _ = head.update(belief, i, "label", y[i : i + 16], inputs=z[i : i + 16])
    assert belief.moments.dtype == jnp.float32
    exact = z.astype(float).T @ z.astype(float)
    assert np.abs(belief.moments.gram.exact() / exact - 1).max() < 3e-8  # plain float32 sums: about 1e-6


def test_new_data_of_the_same_shape_compile_nothing_and_memory_is_constant(tasks):
    head, (z, y) = HEADS["linear"], tasks[0]
    belief, _ = head.update(head.start(0), 0, "label", y, inputs=z)
    belief, _ = head.update(belief, 1, "label", y, inputs=z)
    with compiled() as names:
        later, _ = head.update(belief, 2, "label", y[::-1].copy(), inputs=z + 1)
    assert names == []
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(b)) for b in (belief, later)]
    assert sizes[0] == sizes[1]


def test_classes_without_data_have_probability_zero(tasks):
    for head in HEADS.values():
        p = head.probabilities(learnt(head, tasks[:1]), tasks[0][0])
        assert (p[:, 2:] == 0).all()
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", HEADS)
def test_bad_tasks_are_refused_and_leave_the_belief_untouched(name, tasks):
    head, (z, y) = HEADS[name], tasks[0]
    belief = learnt(head, tasks[:2])
    before = [np.array(leaf) for leaf in jax.tree.leaves(belief)]
    broken = z.copy()
    broken[7, 1] = np.nan
    bad = {
        r"task 2: label 9 is unknown, this learner has the classes 0 to 3": (z, np.where(y == 1, 9, y)),
        r"task 2: there is no example": (z[:0], y[:0]),
        r"task 2: inputs of shape \(40, 4\), but the examples before had 5 features": (z[:, :4], y),
        r"task 2: 1 of 40 inputs are not finite, the first in row 7": (broken, y),
        r"task 2: 40 inputs, but labels of shape \(39,\)": (z, y[:-1]),
    }
    for message, (inputs, labels) in bad.items():
        with pytest.raises(DataError, match=message):
            head.update(belief, 2, "label", labels, inputs=inputs)
    with pytest.raises(UnknownNameError, match="'labels' is not a sensor"):
        head.update(belief, 2, "labels", y, inputs=z)
    for old, leaf in zip(before, jax.tree.leaves(belief), strict=True):
        np.testing.assert_array_equal(old, leaf)


@pytest.mark.bad_input
def test_settings_and_empty_beliefs_are_refused():
    with pytest.raises(ArgumentError, match="ridge: expected a positive number, found 0"):
        continual.BayesianLinearHead(3, ridge=0)
    with pytest.raises(ArgumentError, match="num_classes"):
        continual.NormalInverseWishart(0)
    head = continual.SharedCovarianceGaussian(3)
    with pytest.raises(InferenceError, match="nothing has been learnt yet"):
        head.predictor(head.start(0))


def test_weights_are_a_matrix_student_t(key):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(8, 1)), rng.normal(size=(8, 2))
    model = continual.BayesianLinearRegression(num_outputs=2, ridge=0.5, noise=0.2)
    belief, _ = model.update(model.start(0), 0, "target", y, inputs=z)
    found, weights = model.posterior(belief), model.weights(belief)
    # one feature: an ordinary Student t with ν - k + 1 degrees of freedom
    shape = found.scale / (found.factor[0, 0] ** 2 * (found.dof - 1))
    points = rng.normal(size=(4, 2))
    expected = stats.multivariate_t(found.mean[0], shape, df=found.dof - 1).logpdf(points)
    np.testing.assert_allclose(weights.log_prob(jnp.asarray(points)), expected, rtol=1e-10)
    assert float(weights.log_evidence) == found.log_evidence

    # one output, three features: a Student t with ν degrees of freedom
    z, y = rng.normal(size=(9, 3)), rng.normal(size=(9, 1))
    single = continual.BayesianLinearRegression()
    found = single.posterior(single.update(single.start(0), 0, "target", y, inputs=z)[0])
    inverse = np.linalg.inv(found.factor @ found.factor.T)
    points = rng.normal(size=(4, 3))
    expected = stats.multivariate_t(found.mean[:, 0], found.scale[0, 0] * inverse / found.dof, df=found.dof)
    belief = continual.heads.weights.WeightBelief.of(found)
    np.testing.assert_allclose(belief.log_prob(jnp.asarray(points)), expected.logpdf(points), rtol=1e-10)
    np.testing.assert_allclose(belief.cov, expected.shape * found.dof / (found.dof - 2), rtol=1e-10)

    # draws: mean and covariance within 5 standard errors, four and ten numbers, false alarm below 1e-5
    z, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 2))
    weights = model.weights(model.update(model.start(0), 0, "target", y, inputs=z)[0])
    draws = np.asarray(weights.sample(key, 20_000))
    deviations = (draws - np.asarray(weights.mean)) / np.sqrt(np.diag(weights.cov))
    assert np.abs(deviations.mean(axis=0)).max() < 5 / np.sqrt(20_000)
    products = deviations[:, :, None] * deviations[:, None]
    scale = np.sqrt(np.outer(np.diag(weights.cov), np.diag(weights.cov)))
    errors = (products.mean(axis=0) - np.asarray(weights.cov) / scale) / (products.std(axis=0) / np.sqrt(20_000))
    assert np.abs(errors).max() < 5
    mixture = weights.as_mixture(1)
    np.testing.assert_allclose(mixture.cov, weights.cov, rtol=1e-10)
