"""Networks on mixtures: equivariance, masks, exactness before training, files, training that resumes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from probinf.errors import ArgumentError, CheckpointError, InferenceError, UnknownNameError
from probinf.runs import drive
from transformers_gmm import packed
from transformers_gmm.components import Components, heaviest
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.network import ResidualTransformer
from transformers_gmm.pretrained import KINDS, load, trained
from transformers_gmm.published import DistributionTransformer
from transformers_gmm.tasks.conjugate import Conjugate
from transformers_gmm.tasks.published import published_range_bearing
from transformers_gmm.tasks.registry import TASKS, make_task
from transformers_gmm.training import Training, learning_rate, train
from transformers_gmm.weights import load_network, save_network

SMALL = NetworkConfig(dim=2, num_components=3, context={"a": 2, "b": 1}, width=8, heads=2, layers=1, feedforward=8)


def mixtures(key: jax.Array, batch: int, k: int, dim: int) -> Components:
    keys = jax.random.split(key, 3)
    factors = jnp.tril(0.3 * jax.random.normal(keys[2], (batch, k, dim, dim)), -1) + 0.7 * jnp.eye(dim)[None, None]
    return Components(
        jax.nn.log_softmax(jax.random.normal(keys[0], (batch, k)), axis=-1),
        jax.random.normal(keys[1], (batch, k, dim)),
        factors,
    )


def problem(key: jax.Array, batch: int = 4, k: int = 3) -> Problem:
    keys = jax.random.split(key, 3)
    base = mixtures(keys[0], batch, k, 2)
    context = {"a": jax.random.normal(keys[1], (batch, 2, 2)), "b": jax.random.normal(keys[2], (batch, 1, 1))}
    mask = {name: jnp.ones(tokens.shape[:2], bool) for name, tokens in context.items()}
    return Problem(base, base.mean, jnp.sqrt(base.variance), jnp.zeros((batch, k, 0)), context, mask)


def shaken(network: nnx.Module, key: jax.Array) -> nnx.Module:
    """The network with every weight moved, zeros included: what it does then is no accident of its start."""
    definition, weights = nnx.split(network, nnx.Param)
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(k, leaf.shape, leaf.dtype) for leaf, k in zip(leaves, keys, strict=True)]
    return nnx.merge(definition, jax.tree.unflatten(structure, moved))


def permuted(components: Components, order: np.ndarray) -> Components:
    return Components(components.log_weights[:, order], components.means[:, order], components.scale_tril[:, order])


def close(a: Components, b: Components, tolerance: float = 1e-5) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_an_untrained_network_returns_the_base(key):
    given = problem(key)
    close(ResidualTransformer(SMALL, rngs=nnx.Rngs(0))(given), given.base, 1e-12)


def test_a_component_far_wider_or_narrower_than_the_rest_is_returned_as_it_is(key):
    given = problem(key)
    widths = jnp.array([1e-5, 1.0, 1e5])[None, :, None, None]
    log_weights = jax.nn.log_softmax(given.base.log_weights.at[:, 2].set(-20.0), axis=-1)
    base = Components(log_weights, given.base.means, given.base.scale_tril * widths)
    given = dataclasses.replace(given, base=base)
    close(ResidualTransformer(SMALL, rngs=nnx.Rngs(0))(given), base, 1e-12)


def test_an_empty_component_stays_empty_until_it_is_changed(key):
    given = problem(key)
    base = heaviest(
        Components(*(x[:, :2] for x in (given.base.log_weights, given.base.means, given.base.scale_tril))), 3
    )
    given = dataclasses.replace(given, base=base)
    network = ResidualTransformer(SMALL, rngs=nnx.Rngs(0))
    assert np.all(np.asarray(network(given).log_weights[:, 2]) < -1000)
    called = shaken(network, jax.random.fold_in(key, 1))(given)
    assert np.all(np.asarray(called.log_weights[:, 2]) > -100)
    assert np.all(np.isfinite(called.means))


@pytest.mark.parametrize("by_rank", [True, False])
def test_the_answer_follows_the_components(key, by_rank):
    """By rank the same mixture whatever their order; else each answer goes with its component."""
    given, order = problem(key), np.array([2, 0, 1])
    network = shaken(ResidualTransformer(dataclasses.replace(SMALL, by_rank=by_rank), rngs=nnx.Rngs(0)), key)
    turned = dataclasses.replace(given, base=permuted(given.base, order), tokens=given.tokens[:, order])
    close(network(turned), permuted(network(given), order))


def test_masked_tokens_do_not_count_and_all_may_be_masked(key):
    given = problem(key)
    network = shaken(ResidualTransformer(SMALL, rngs=nnx.Rngs(0)), key)
    mask = given.mask | {"a": jnp.array([[True, False]] * 4)}
    masked = dataclasses.replace(given, mask=mask)
    other = given.context | {"a": given.context["a"].at[:, 1].set(7.0)}
    close(network(masked), network(dataclasses.replace(masked, context=other)), 1e-12)
    assert not np.allclose(network(masked).means, network(given).means)
    nothing = dataclasses.replace(given, mask={name: jnp.zeros_like(m) for name, m in given.mask.items()})
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(network(nothing)))


def test_the_published_network_is_equivariant_and_takes_any_number_of_components(key):
    config = dataclasses.replace(SMALL, context={"a": 2})
    network = shaken(DistributionTransformer(config, rngs=nnx.Rngs(0)), key)
    prior, context = mixtures(key, 4, 5, 2), {"a": jax.random.normal(key, (4, 3, 2))}
    order = np.array([4, 2, 0, 1, 3])
    before, after = network(prior, context)
    before_turned, after_turned = network(permuted(prior, order), context)
    close(before_turned, permuted(before, order))
    close(after_turned, permuted(after, order))
    twins = permuted(prior, np.array([0, 0, 1]))
    answer = network(twins, context)[1]
    np.testing.assert_allclose(answer.means[:, 0], answer.means[:, 1], rtol=1e-6)
    backwards = network(prior, {"a": context["a"][:, ::-1]})[1]
    close(after, backwards)


def test_the_published_sizes():
    """Whittle et al., table 8, and the configuration of their section 4.3.1: 1,797,071 parameters."""
    network = nnx.eval_shape(lambda: published_range_bearing().network(nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) == 1_797_071


@pytest.mark.parametrize("large", [packed._LARGE, 100, 1])
def test_a_packed_network_answers_as_the_network_does_and_is_compiled_once(key, monkeypatch, large):
    monkeypatch.setattr(packed, "_LARGE", large)
    networks = [shaken(ResidualTransformer(SMALL, rngs=nnx.Rngs(i)), jax.random.key(i)) for i in range(2)]
    answer = jax.jit(lambda network, given: network(given))
    given = problem(key)
    for network in networks:
        close(answer(packed.PackedNetwork(network), given), network(given))
    assert answer._cache_size() == 1
    assert len(jax.tree.leaves(packed.PackedNetwork(networks[0]))) < (3 if large > 100 else 50)


def test_moments_and_density_of_components_agree_with_the_mixture(key):
    batch = mixtures(key, 2, 3, 2)
    one = jax.tree.map(lambda x: x[1], batch).as_mixture()
    np.testing.assert_allclose(batch.mean[1], one.mean, rtol=1e-12)
    np.testing.assert_allclose(batch.cov[1], one.cov, rtol=1e-12)
    np.testing.assert_allclose(batch.variance[1], jnp.diagonal(one.cov), rtol=1e-12)
    points = jax.random.normal(key, (2, 5, 2))
    np.testing.assert_allclose(batch.log_prob(points)[1], one.log_prob(points[1]), rtol=1e-10)
    draws = batch.sample(key, 20_000)
    error = np.sqrt(np.asarray(batch.variance) / 20_000)
    assert np.all(np.abs(draws.mean(1) - batch.mean) < 5 * error)  # false alarms: 4 numbers, 2e-6 together


def test_weights_come_back_bit_for_bit_and_damage_is_found(tmp_path, key):
    network = shaken(ResidualTransformer(SMALL, rngs=nnx.Rngs(0)), key)
    path = save_network(tmp_path / "net", network, kind="ResidualTransformer", task="t", record={"seconds": 1})
    again, header = load_network(path, KINDS, task="t")
    assert header["config"] == SMALL
    assert header["record"] == {"seconds": 1}
    for a, b in zip(jax.tree.leaves(nnx.state(network)), jax.tree.leaves(nnx.state(again)), strict=True):
        np.testing.assert_array_equal(a, b)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            load_network(path, KINDS, task="t")
    path.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(CheckpointError, match="readable"):
        load_network(path, KINDS)
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="task 't', expected 'growth'"):
        load_network(path, KINDS, task="growth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_network(tmp_path / "absent.safetensors", KINDS)


@pytest.mark.bad_input
def test_sizes_and_settings_that_cannot_be_are_refused():
    with pytest.raises(ArgumentError, match="heads: expected a divisor of width 8, found 3"):
        dataclasses.replace(SMALL, heads=3)
    with pytest.raises(ArgumentError, match="layers: expected a positive integer, found 0"):
        dataclasses.replace(SMALL, layers=0)
    with pytest.raises(ArgumentError, match="warm_up"):
        TrainingConfig(warm_up=1.0)
    with pytest.raises(UnknownNameError, match=r"'grwth' is not a task.*Did you mean 'growth'\?"):
        make_task("grwth")
    with pytest.raises(ArgumentError, match="single update"):
        load("conjugate_5").filter_method()


def test_the_rate_of_learning_rises_then_falls_to_zero():
    config = TrainingConfig(learning_rate=2.0, warm_up=0.5)
    rates = [float(learning_rate(config, jnp.asarray(share))) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(rates, [0.0, 1.0, 2.0, 1.0, 0.0], atol=1e-12)


@pytest.fixture(scope="module")
def tiny() -> Conjugate:
    task = Conjugate(2)
    object.__setattr__(task, "config", dataclasses.replace(task.config, width=8, heads=2, layers=1, feedforward=8))
    return task


@pytest.mark.relaxed_promotion("optax's Adam")
def test_training_lowers_the_loss_and_a_resumed_run_ends_in_the_same_bits(tiny, tmp_path):
    config = TrainingConfig(steps=60, batch=32, learning_rate=1e-2, seed=3)
    whole = Training(tiny, config, tiny.network(nnx.Rngs(3)), every=20)
    while not whole.is_finished:
        whole.advance()
    assert whole.held_out[-1] < whole.held_out[0]
    half = Training(tiny, config, tiny.network(nnx.Rngs(3)), every=20)
    half.advance()
    saved, rows = {name: np.array(value) for name, value in half.state().items()}, list(half.rows)
    other = Training(tiny, config, tiny.network(nnx.Rngs(4)), every=20)
    other.restore(saved, rows)
    while not other.is_finished:
        other.advance()
    for a, b in zip(jax.tree.leaves(whole.state()), jax.tree.leaves(other.state()), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.losses, other.losses)


@pytest.mark.relaxed_promotion("optax's Adam")
def test_training_in_bfloat16_keeps_weights_and_densities_in_float32(tiny):
    config = TrainingConfig(steps=40, batch=32, learning_rate=1e-2, seed=3, precision="bfloat16")
    run = Training(tiny, config, tiny.network(nnx.Rngs(3)), every=20)
    examples = jax.tree.map(lambda x: x[0], tiny.pieces(None, tiny.simulate(jax.random.key(0), 64)))
    while not run.is_finished:
        run.advance()
    assert run.held_out[-1] < run.held_out[0]
    assert {leaf.dtype for leaf in jax.tree.leaves((run.weights, run.moments[1].mu))} == {jnp.dtype("float32")}
    full, half = nnx.merge(run._definition, run.weights), run._merged(run.weights)
    exact, rounded = full(examples.problem), half(examples.problem)
    assert half.unembed.linears[0](jnp.zeros((1, 8), jnp.bfloat16)).dtype == jnp.bfloat16
    assert rounded.log_weights.dtype == exact.log_weights.dtype
    assert 0 < jnp.max(jnp.abs(rounded.means - exact.means)) < 0.1
    assert abs(tiny.loss(half, examples) - tiny.loss(full, examples)) < 0.02


@pytest.mark.bad_input
def test_an_unknown_precision_is_refused():
    with pytest.raises(UnknownNameError, match="bfloat16"):
        TrainingConfig(precision="bfloat")


@pytest.mark.bad_input
@pytest.mark.relaxed_promotion("optax's Adam")
def test_training_that_runs_away_is_stopped_and_the_best_network_is_kept(tiny):
    def size(network):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))

    class Steep(type(tiny)):
        def loss(self, network, piece):
            return jnp.where(size(network) < limit, super().loss(network, piece), jnp.nan)

    limit = 1.2 * float(size(tiny.network(nnx.Rngs(3))))

    task, config = Steep(2), TrainingConfig(steps=40, batch=16, learning_rate=1.0, warm_up=0.9, seed=3)
    object.__setattr__(task, "config", tiny.config)
    run = Training(task, config, task.network(nnx.Rngs(3)), every=2)
    with pytest.raises(InferenceError, match=r"ran away: .* Lower learning_rate, now 1,") as caught:
        drive(run)
    assert caught.value.partial is run
    assert np.isfinite(run.best_loss)
    assert run.held_out.min() == run.best_loss


@pytest.mark.relaxed_promotion("optax's Adam")
def test_a_run_found_in_its_folder_is_not_run_again(tiny, tmp_path):
    config = TrainingConfig(steps=20, batch=16, seed=3)
    first = train(tiny, config, checkpoint=str(tmp_path / "run"), progress=False)
    again = train(tiny, config, checkpoint=str(tmp_path / "run"), progress=False)
    np.testing.assert_array_equal(first.losses, again.losses)
    with pytest.raises(CheckpointError):
        train(tiny, dataclasses.replace(config, seed=4), checkpoint=str(tmp_path / "run"), progress=False)


def test_every_shipped_network_belongs_to_a_task_and_is_small():
    assert trained()
    for name in trained():
        found = load(name)
        assert name in TASKS
        assert found.header["config"].dim == found.task.config.dim
        assert {"seconds", "device", "training"} <= set(found.header["record"])
