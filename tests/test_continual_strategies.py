"""Strategies against forgetting: each against a closed form, and all through the one protocol."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import continual
from continual.strategies import curvature, function_space, si, vcl
from continual.strategies.architecture import AbstractNetwork, Dense, joined, unit_directions
from continual.strategies.ewc import Springs
from continual.strategies.network import Trained, trained
from continual.strategies.protocl import balanced
from continual.strategies.prototypes import Prototypes, one_hot
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError

pytestmark = pytest.mark.relaxed_promotion("Optax corrects the bias of Adam with a weak float and an int32")
NOISE = 0.3


def gaussian_loss(outputs, y):
    return 0.5 * jnp.mean((outputs[:, 0] - y) ** 2) / NOISE**2


def gaussian_root(outputs):
    return unit_directions(len(outputs), jnp.zeros(outputs.shape[1], outputs.dtype)) / NOISE


def with_one(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def as_vector(layers):
    return np.asarray(joined(layers[0]))[:, 0]


def regression_tasks(orthogonal):
    rng, tasks = np.random.default_rng(3), []
    for truth in ([1.0, -2.0, 0.5], [0.0, 1.0, -1.0], [2.0, 0.0, 0.0]):
        x = rng.normal(size=(32, 2))
        if orthogonal:  # to each other and to the constant: the Fisher information is its diagonal
            x = np.linalg.qr(x - x.mean(axis=0))[0] * np.array([4.0, 7.0])
        tasks.append((x, with_one(x) @ np.array(truth) + NOISE * rng.normal(size=32)))
    return tasks


def minimised(parameters, penalty, x, y):
    """By the training loop of every strategy, full batches, at steps that shrink."""
    for rate, steps in ((0.05, 300), (0.003, 500), (1e-4, 300)):
        training = continual.Training((), rate, 1, len(x))
        state = Trained(parameters, training.optimiser.init(parameters), x.shape[1])
        parameters = trained(training, state, iter([(x, y)] * steps), penalty, gaussian_loss)[0].parameters
    return parameters


@pytest.mark.parametrize("online", [True, False])
def test_ewc_on_a_linear_gaussian_model_is_what_its_springs_say_and_online_is_bayes(online):
    learner, network = continual.EWC(1, continual.Training(()), online=online), Dense(())
    parameters = network.initial(jax.random.key(0), 2, 1, jnp.float64)
    springs = Springs(curvature.Diagonal.prior(parameters, 0.0), jax.tree.map(jnp.zeros_like, parameters))
    stiffness, force, precision, information = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3)), np.zeros(3)
    for x, y in regression_tasks(orthogonal=True):
        penalty = curvature.penalty_of(springs.stiffness, springs.rest, 1 / len(x))
        parameters = minimised(parameters, penalty, x, y)
        new = curvature.with_task(curvature.Diagonal.prior(parameters, 0.0), network, parameters, x, gaussian_root)
        springs = learner.consolidated(springs, new, parameters)
        z = with_one(x)
        fisher = z.T @ z / NOISE**2
        theta = np.linalg.solve(stiffness + fisher, force + z.T @ y / NOISE**2)  # the objective of Kirkpatrick et al.
        precision, information = precision + fisher, information + z.T @ y / NOISE**2
        if online:  # exact Bayes with a flat prior: the tasks in one heap
            np.testing.assert_allclose(theta, np.linalg.solve(precision, information), rtol=1e-9)
        np.testing.assert_allclose(as_vector(parameters), theta, atol=1e-5)
        stiffness, force = stiffness + fisher, (stiffness + fisher) @ theta if online else force + fisher @ theta
    np.testing.assert_allclose(as_vector(springs.stiffness.values), np.diag(precision), rtol=1e-9)


def test_decay_makes_the_springs_of_the_past_weaker():
    layers = [(jnp.ones((1, 1)), jnp.ones(1))]
    past = Springs(curvature.Diagonal(jax.tree.map(lambda p: 4 * p, layers)), layers)
    found = continual.EWC(1, online=True, decay=0.5).consolidated(past, curvature.Diagonal(layers), layers)
    np.testing.assert_array_equal(joined(found.stiffness.values[0]), [[3.0], [3.0]])


def test_the_path_integral_of_si_is_the_fall_of_a_quadratic():
    centre, stiff = jnp.array([0.7, -0.4]), jnp.array([2.0, 0.5])

    class Itself(AbstractNetwork):
        def initial(self, key, width, outputs, dtype):
            return jnp.zeros(2, dtype)

        def __call__(self, parameters, x):
            return parameters[None]

    def quadratic(outputs, y):
        return 0.5 * jnp.sum(stiff * (outputs[0] - centre) ** 2)

    learner = continual.SynapticIntelligence(2, continual.Training(network=Itself(), learning_rate=0.02), damping=0.1)
    zero = jnp.zeros(2)
    state, work = learner.with_optimiser(zero, 1), zero
    penalty = curvature.penalty_of(curvature.Diagonal(jnp.array([0.3, 0.1])), jnp.array([0.1, 0.1]), 2.0)
    path = [np.zeros(2)]
    for _ in range(60):
        state, work, _ = si.step(learner.training, state, work, zero[None], zero, penalty, quadratic)
        path.append(np.asarray(state.parameters))
    fall = 0.5 * stiff * ((path[0] - centre) ** 2 - (path[-1] - centre) ** 2)
    corners = 0.5 * stiff * np.sum(np.diff(path, axis=0) ** 2, axis=0)  # a sum of steps is no integral yet
    np.testing.assert_allclose(work, fall + corners, rtol=1e-10)
    assert (np.asarray(corners) < 0.05 * np.abs(np.asarray(work))).all()
    past = si.Importance(curvature.Diagonal(jnp.array([1.0, 1.0])), zero)
    found = learner.consolidated(past, jnp.array([0.6, -0.2]), jnp.array([0.5, 0.1]))
    np.testing.assert_allclose(
        found.values.values, [1 + 0.6 / 0.35, 1.0], rtol=1e-12
    )  # a negative share counts as none


def test_vcl_on_linear_regression_finds_the_best_mean_field_posterior():
    x, y = regression_tasks(orthogonal=False)[0]
    z = with_one(x)
    prior = vcl.MeanField(
        [(jnp.array([[0.5], [-1.0]]), jnp.array([0.2]))],
        [(jnp.log(jnp.array([[0.2], [0.1]])), jnp.log(jnp.array([0.3])))],
    )
    prior_precision, prior_mean = as_vector(prior.std) ** -2.0, as_vector(prior.mean)
    precision = np.diag(prior_precision) + z.T @ z / NOISE**2
    mean = np.linalg.solve(precision, prior_precision * prior_mean + z.T @ y / NOISE**2)
    copies = 16  # of each row, each with noise of its own and a sixteenth of the weight: gradients with less noise
    x, y = np.tile(x, (copies, 1)), np.tile(y, copies)
    q, key = prior, jax.random.key(1)
    for rate, epochs in ((0.02, 300), (0.003, 600), (3e-4, 600)):
        training = continual.Training((), rate, epochs, len(x))
        state = Trained(q, training.optimiser.init(q), 2)
        loss = lambda outputs, y: gaussian_loss(outputs, y) / copies  # noqa: E731
        q = vcl.fitted(training, state, prior, key, x, y, loss)[0].parameters
    # stochastic gradients leave the last iterate about 1 % off; fixed key
    std = np.diag(precision) ** -0.5
    np.testing.assert_allclose((as_vector(q.mean) - mean) / std, 0, atol=0.05)
    np.testing.assert_allclose(as_vector(q.std), std, rtol=0.03)


def test_the_divergence_of_mean_fields_is_that_of_numpyro():
    from numpyro.distributions import Normal
    from numpyro.distributions.kl import kl_divergence

    q, p = (vcl.MeanField(jnp.array([0.3, -1.0]) * s, jnp.array([0.1, -0.5]) * s) for s in (1.0, -2.0))
    expected = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std)).sum()
    np.testing.assert_allclose(vcl.divergence(q, p), expected, rtol=1e-12)
    rows = [jnp.array([[0.3, -1.0]]), jnp.array([[2.0, 0.5]]), jnp.array([[1.0, 1.0]]), jnp.array([[0.5, 0.7]])]
    expected = kl_divergence(Normal(rows[0], rows[1] ** 0.5), Normal(rows[2], rows[3] ** 0.5)).sum()
    np.testing.assert_allclose(function_space.divergence(*rows), expected, rtol=1e-12)


def exact_fisher(network, layers, x, prior):
    """The whole matrix by automatic differentiation, in the order of `ravel_pytree`, and the Jacobian."""
    flat, unravel = ravel_pytree(layers)
    jacobian = np.asarray(jax.jacobian(lambda p: network(unravel(p), x))(flat))
    p = np.asarray(jax.nn.softmax(network(layers, x), axis=1))
    middle = np.einsum("nc,cd->ncd", p, np.eye(p.shape[1])) - p[:, :, None] * p[:, None]
    return np.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian) + prior * np.eye(len(flat)), jacobian


@pytest.fixture(scope="module")
def small():
    network = Dense((4,))
    layers = network.initial(jax.random.key(2), 3, 5, jnp.float64)
    layers = [(w, b + 0.1) for w, b in layers]
    return network, layers, jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))


def test_diagonal_curvature_is_the_diagonal_of_the_exact_fisher_information(small):
    network, layers, x = small
    fisher, jacobian = exact_fisher(network, layers, x, 0.7)
    found = curvature.with_task(curvature.Diagonal.prior(layers, 0.7), network, layers, np.asarray(x))
    values, _ = ravel_pytree(found.values)
    np.testing.assert_allclose(values, np.diag(fisher), rtol=1e-10)
    expected = np.einsum("ncp,p->nc", jacobian**2, 1 / np.diag(fisher))
    np.testing.assert_allclose(found.inverse().output_variance(network, layers, x), expected, rtol=1e-10)
    # what holds for any network agrees with what dense layers do by hand
    cotangents = curvature.softmax_root(network(layers, x))
    general = AbstractNetwork.squared_gradients(network, layers, x, cotangents)
    np.testing.assert_allclose(values - 0.7, ravel_pytree(general)[0], rtol=1e-10)
    general = AbstractNetwork.output_variance(network, layers, found.inverse().variances, x)
    np.testing.assert_allclose(general, expected, rtol=1e-10)


def test_kronecker_factors_of_one_layer_and_one_example_are_the_exact_fisher_information():
    network = Dense(())
    layers = network.initial(jax.random.key(2), 3, 4, jnp.float64)
    x = np.random.default_rng(0).normal(size=(1, 3))
    fisher, jacobian = exact_fisher(network, layers, jnp.asarray(x), 0.7)
    found = curvature.with_task(curvature.Kronecker.empty(layers, 0.7), network, layers, x)
    others = network.initial(jax.random.key(3), 3, 4, jnp.float64)
    flat = np.asarray(ravel_pytree(others)[0])
    np.testing.assert_allclose(found.quadratic(others), flat @ fisher @ flat, rtol=1e-10)
    expected = np.einsum("ncp,pq,ncq->nc", jacobian, np.linalg.inv(fisher), jacobian)
    variance = found.inverse().output_variance(network, layers, jnp.asarray(x))
    np.testing.assert_allclose(variance, expected, rtol=1e-8)


def test_padding_adds_nothing_to_kronecker_factors(small):
    network, layers, x = small
    empty = curvature.Kronecker.empty(layers, 0.7)
    whole = curvature.with_task(empty, network, layers, np.asarray(x))  # six examples in a batch of eight
    parts = curvature.with_task(
        curvature.with_task(empty, network, layers, np.asarray(x[:4])), network, layers, np.asarray(x[4:])
    )
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert whole.count == 6


def test_function_space_variance_of_a_linear_network_is_exact():
    layers, std = [(jnp.array([[2.0], [1.0]]), jnp.array([0.5]))], [(jnp.array([[0.1], [0.2]]), jnp.array([0.3]))]
    q = vcl.MeanField(layers, jax.tree.map(jnp.log, std))
    mean, variance = function_space.outputs_of(Dense(()), q, jnp.array([[1.0, 2.0], [0.0, 0.0]]))
    np.testing.assert_allclose(mean, [[4.5], [0.5]])
    np.testing.assert_allclose(variance, [[0.01 + 4 * 0.04 + 0.09], [0.09]])


@pytest.fixture(scope="module")
def embedded():
    rng = np.random.default_rng(5)
    return rng.normal(size=(20, 3)), rng.integers(0, 4, 20)


def prototypes(precision=1.5, noise=0.4, concentration=(1.0, 2.0, 0.5, 1.0)):
    mean = jnp.asarray(np.random.default_rng(6).normal(size=(4, 3)))
    return Prototypes(jnp.asarray(concentration), jnp.full(4, precision), precision * mean, jnp.asarray(noise))


def test_prototypes_have_the_posterior_of_a_brute_force_gaussian(embedded):
    z, y = embedded
    prior = prototypes()
    found = prior.updated(jnp.asarray(z), one_hot(jnp.asarray(y), 4, jnp.float64))
    design = np.kron(np.eye(4)[y], np.eye(3))  # all embeddings as one linear map of all prototypes
    precision = 1.5 * np.eye(12) + design.T @ design / 0.4
    mean = np.linalg.solve(precision, 1.5 * np.asarray(prior.mean).ravel() + design.T @ z.ravel() / 0.4)
    np.testing.assert_allclose(np.asarray(found.mean).ravel(), mean, rtol=1e-9)
    np.testing.assert_allclose(np.repeat(found.precision, 3), np.diag(precision), rtol=1e-9)
    np.testing.assert_allclose(found.concentration, np.array([1, 2, 0.5, 1]) + np.bincount(y, minlength=4))
    new, covariance = np.array([0.3, -0.2, 0.9]), np.linalg.inv(precision)
    expected = [
        np.log(found.concentration[j])
        - 0.5 * (new - mean[s]) @ np.linalg.solve(covariance[s, s] + 0.4 * np.eye(3), new - mean[s])
        - 0.5 * np.linalg.slogdet(covariance[s, s] + 0.4 * np.eye(3))[1]
        for j, s in enumerate(slice(3 * j, 3 * j + 3) for j in range(4))
    ]
    np.testing.assert_allclose(found.log_joint(jnp.asarray(new[None]))[0], expected, rtol=1e-9)


def test_prototypes_do_not_depend_on_order_and_count_by_weight(embedded):
    z, labels = jnp.asarray(embedded[0]), one_hot(jnp.asarray(embedded[1]), 4, jnp.float64)
    whole = prototypes().updated(z, labels)
    parts = prototypes().updated(z[12:], labels[12:]).updated(z[:12], labels[:12])
    copies = prototypes().updated(jnp.repeat(z, 5, axis=0), jnp.repeat(labels, 5, axis=0) / 5)
    for other in (parts, copies):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_limits_of_the_prototypes_predictive(embedded):
    z = jnp.asarray(embedded[0])
    blind = jax.nn.softmax(prototypes(noise=1e12).log_joint(z), axis=1)
    np.testing.assert_allclose(blind, np.broadcast_to(np.array([1, 2, 0.5, 1]) / 4.5, (20, 4)), rtol=1e-6)
    sure = prototypes(precision=1e12, concentration=(1.0,) * 4)
    nearest = np.sum((embedded[0][:, None] - np.asarray(sure.mean)[None]) ** 2, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(sure.log_joint(z).argmax(axis=1), nearest)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2)])
def test_shifted_images_are_all_the_moves_of_the_image_and_as_often(shape):
    """At most 80 degrees of freedom of chi-square at p = 1e-6: 155.1."""
    image = 1.0 + np.arange(np.prod(shape)).reshape(shape)
    shifts, n = continual.Shifts(shape, pixels=4 if len(shape) == 2 else 1), 40_500
    moved = np.asarray(shifts(jax.random.key(3), jnp.tile(jnp.asarray(image).reshape(1, -1), (n, 1))))
    reach = range(2 * shifts.pixels + 1)
    padded = np.pad(image, [(shifts.pixels,) * 2] * 2 + [(0, 0)] * (len(shape) - 2))
    expected = [padded[a : a + 3, b : b + 4].reshape(-1) for a in reach for b in reach]
    distinct, found = np.unique(moved, axis=0, return_counts=True)
    known, times = np.unique(np.stack(expected), axis=0, return_counts=True)
    np.testing.assert_array_equal(distinct, known)
    wanted = n * times / len(expected)
    assert ((found - wanted) ** 2 / wanted).sum() < 155.1
    with pytest.raises(ArgumentError, match=r"shape: images of shape .* have \d+ numbers, the inputs have 7"):
        shifts(jax.random.key(0), jnp.zeros((2, 7)))


def test_protocl_batches_are_balanced_in_both_halves():
    y = np.repeat([0, 3, 7], [50, 2, 200])
    for x, labels in balanced(np.arange(252.0)[:, None], y, 20, 6, np.random.default_rng(0)):
        np.testing.assert_array_equal(y[x[:, 0].astype(int)], labels)
        for half in (labels[:10], labels[10:]):
            assert set(np.bincount(half, minlength=8)[[0, 3, 7]]) <= {3, 4}


@pytest.fixture(scope="module")
def tiny() -> continual.TaskStream:
    stream = continual.split(continual.load("digits")).in_order([0, 1, 2])
    tasks = (t._replace(test=continual.Examples(t.test.inputs[:32], t.test.targets[:32])) for t in stream.tasks)
    return continual.imbalanced(dataclasses.replace(stream, tasks=tuple(tasks)), [64, 64, 64])


SMALL = continual.Training(hidden=(8,), epochs=1, learning_rate=3e-3, batch=16)
MEMORY = continual.BalancedMemory(12)
LEARNERS = {
    "ewc": continual.EWC(10, SMALL),
    "online ewc": continual.EWC(10, SMALL, online=True, decay=0.9),
    "si": continual.SynapticIntelligence(10, SMALL),
    "laplace, diagonal": continual.Laplace(10, SMALL, "diagonal"),
    "laplace, kronecker": continual.Laplace(10, SMALL, "kronecker"),
    "vcl, coreset": continual.VCL(10, SMALL, coreset=4, samples=2),
    "function space": continual.FunctionSpaceVI(10, SMALL, MEMORY, context=6, samples=2),
    "protocl": continual.ProtoCL(10, SMALL, MEMORY, dimension=5),
    "protocl, shifts": continual.ProtoCL(10, SMALL, MEMORY, dimension=5, augmentation=continual.Shifts((8, 8))),
    "protocl, released": continual.ReleasedProtoCL(10, SMALL, capacity=12, dimension=5),
    "predictive coding": continual.PredictiveCoding(10, SMALL),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_strategies_are_deterministic_pure_and_go_on_from_a_checkpoint(name, tiny):
    learner = LEARNERS[name]
    loop = continual.running.StreamLoop(learner, tiny, 0)
    loop.start()
    loop.advance()
    loop.advance()
    belief, images = loop.belief, tiny.tasks[0].test.inputs
    before = [np.array(leaf) for leaf in map(_plain, jax.tree.leaves(belief))]
    first, second = learner.probabilities(belief, images), learner.probabilities(belief, images)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-5)
    later = continual.running.StreamLoop(learner, tiny, 0)
    later.restore(loop.state(), loop.rows)
    for one in (loop, later):
        one.advance()
    for a, b in zip(jax.tree.leaves(loop.belief), jax.tree.leaves(later.belief), strict=True):
        np.testing.assert_array_equal(_plain(a), _plain(b))
    np.testing.assert_array_equal(loop.collected().nll, later.collected().nll)
    for old, leaf in zip(before, map(_plain, jax.tree.leaves(belief)), strict=True):
        np.testing.assert_array_equal(old, leaf)


def _plain(leaf):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def test_a_strong_spring_holds_the_first_task(tiny):
    training = dataclasses.replace(SMALL, epochs=40)
    kept = {}
    for strength in (1e-6, 1e3):
        learner, belief = continual.EWC(10, training, strength=strength), None
        for t, task in enumerate(tiny.tasks[:2]):
            belief = learner.start(0) if belief is None else belief
            belief, info = learner.update(belief, t, "label", task.train.targets, inputs=task.train.inputs)
        assert info.num_steps == 160
        p = learner.probabilities(belief, tiny.tasks[0].test.inputs)
        kept[strength] = -np.mean(np.log(p[np.arange(len(p)), tiny.tasks[0].test.targets]))
    assert kept[1e3] < 0.8 * kept[1e-6]


def test_flax_networks_are_accepted_where_dense_ones_are(tiny):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(64, 8, rngs=rngs)
            self.last = nnx.Linear(8, 10, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    network = continual.FlaxNetwork(Net)
    parameters = network.initial(jax.random.key(0), 64, 10, jnp.float32)
    x = jnp.asarray(tiny.tasks[0].train.inputs[:5].reshape(5, -1), jnp.float32)
    layers = [(parameters[n]["kernel"], parameters[n]["bias"]) for n in ("first", "last")]
    np.testing.assert_allclose(network(parameters, x), Dense((8,))(layers, x), rtol=1e-5, atol=1e-5)
    training = dataclasses.replace(SMALL, network=network)
    task = tiny.tasks[0]
    for learner in (continual.Laplace(10, training), continual.VCL(10, training, samples=2)):
        belief, _ = learner.update(learner.start(0), 0, "label", task.train.targets, inputs=task.train.inputs)
        np.testing.assert_allclose(learner.probabilities(belief, task.test.inputs).sum(axis=1), 1, rtol=1e-5)

    def with_state(rngs):
        return nnx.Sequential(nnx.Linear(64, 10, rngs=rngs), nnx.BatchNorm(10, rngs=rngs))

    for make, message in (
        (lambda rngs: 3, "expected a flax.nnx.Module, found int"),
        (with_state, "found state of kind"),
        (lambda rngs: nnx.Linear(64, 3, rngs=rngs), r"outputs of shape \(1, 3\), expected \(1, 10\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            continual.FlaxNetwork(make).initial(jax.random.key(0), 64, 10, jnp.float32)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: continual.EWC(10, strength=0.0), ArgumentError, "strength: expected a positive number"),
        (lambda: continual.EWC(10, online=True, decay=1.5), ArgumentError, "decay: expected a number from 0 to 1"),
        (lambda: continual.EWC(10, decay=0.5), ArgumentError, "pass online=True"),
        (lambda: continual.EWC(0), ArgumentError, "num_classes: expected an integer of at least 1"),
        (lambda: continual.SynapticIntelligence(10, damping="x"), ArgumentTypeError, "damping: expected a number"),
        (lambda: continual.Laplace(10, structure="full"), ArgumentError, "structure: expected one of .*found 'full'"),
        (
            lambda: continual.Laplace(10, continual.Training(network=continual.FlaxNetwork(int)), "kronecker"),
            ArgumentError,
            "'kronecker' needs dense layers",
        ),
        (lambda: continual.VCL(10, coreset=-1), ArgumentError, "coreset: expected a number of examples"),
        (lambda: continual.FunctionSpaceVI(10, context=0), ArgumentError, "context: expected an integer"),
        (lambda: continual.ProtoCL(10, noise=-1.0), ArgumentError, "noise: expected a positive number"),
        (lambda: continual.ProtoCL(10, augmentation=1), ArgumentTypeError, "augmentation: expected a function of key"),
        (lambda: continual.Shifts((8,)), ArgumentError, r"shape: expected \(height, width\)"),
        (lambda: continual.Shifts((8, 8), pixels=0), ArgumentError, "pixels: expected an integer"),
        (lambda: continual.ReleasedProtoCL(10, dropout=1.0), ArgumentError, "dropout: expected a share"),
        (lambda: continual.ReleasedProtoCL(10, l2=-1.0), ArgumentError, "l2: expected a number"),
    ],
)
def test_bad_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
@pytest.mark.parametrize("name", LEARNERS)
def test_bad_tasks_are_refused_and_nothing_learnt_is_said(name, tiny):
    learner, task = LEARNERS[name], tiny.tasks[0]
    belief = learner.start(0)
    with pytest.raises(InferenceError, match="nothing has been learnt yet"):
        learner.predictor(belief)
    with pytest.raises(DataError, match="label 12 is unknown"):
        learner.update(belief, 0, "label", np.full(64, 12), inputs=task.train.inputs)
    inputs = task.train.inputs.astype(float)
    inputs[3, 0, 0] = np.inf
    with pytest.raises(DataError, match="1 of 64 inputs are not finite"):
        learner.update(belief, 0, "label", task.train.targets, inputs=inputs)
    if name == "vcl, coreset":
        with pytest.raises(DataError, match="coreset: 4 examples of a task that has 4"):
            learner.update(belief, 0, "label", task.train.targets[:4], inputs=task.train.inputs[:4])
    if name == "protocl, released":
        _, info = learner.update(belief, 0, "label", task.train.targets[:4], inputs=task.train.inputs[:4])
        assert info.num_steps == 1


@pytest.mark.bad_input
@pytest.mark.parametrize("name", LEARNERS)
def test_a_loss_that_is_not_finite_is_told_with_its_step(name, tiny):
    learner, task = LEARNERS[name], tiny.tasks[0]
    inputs = np.full(task.train.inputs.shape, 1.7e308)  # finite; what a layer makes of it is not

    def learn():
        belief, _ = learner.update(learner.start(0), 0, "label", task.train.targets, inputs=inputs)
        learner.predictor(belief)  # what learns from a memory alone does so here

    with pytest.raises(InferenceError, match=r"at training step 0 of|the energy of batch 0 is"):
        learn()


@pytest.mark.slow
def test_prototypes_beat_springs_on_the_digits():
    stream = continual.split(continual.load("digits"))
    training = continual.Training(hidden=(64,), epochs=10, learning_rate=3e-3, batch=32)
    learners = (
        continual.ProtoCL(10, training, continual.BalancedMemory(100), dimension=16),
        continual.ReleasedProtoCL(10, training, capacity=100, dimension=32),
        continual.EWC(10, training),
    )
    found = [continual.summarise(continual.run(one, stream, seed=0)).average_accuracy for one in learners]
    assert min(found[:2]) > 0.8 > 0.4 > found[2]


def test_optimisers_differ_only_by_the_penalty_of_the_released_recipe():
    learner = continual.ReleasedProtoCL(10, SMALL, l2=0.5)
    p = jnp.array([2.0])
    change, _ = learner.optimiser.update(jnp.array([-1.0]), learner.optimiser.init(p), p)
    np.testing.assert_allclose(optax.apply_updates(p, change), p)  # gradient and penalty cancel: Adam has none to scale


@pytest.mark.slow
def test_the_strategies_example_ranks_memory_above_springs(capsys, tmp_path):
    from examples import continual_strategies

    runs = continual_strategies.main(["--seeds", "1", "--out", str(tmp_path)])
    accuracy = {name: continual.summarise(results[0]).average_accuracy for name, results in runs.items()}
    assert accuracy["EWC"] < 0.4 < accuracy["VCL with coreset"]
    assert accuracy["ProtoCL"] > 0.8
    assert "| ProtoCL |" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.png"))) == 1 + len(runs)
