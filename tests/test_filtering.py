"""`smc.particle_filter` on state-space models: exact by enumeration, Kalman's answers, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, UnknownNameError
from probinf.transformations.algorithms import enumerate_program
from smc.filtering import filter_program, particle_filter
from smc.proposals import Bootstrap, Guided, Linearised
from smc.state_space_model import StateSpaceModel
from tests.compile_count import compiled


class Coin(StateSpaceModel):
    """Two states, two symbols."""

    def initial(self):
        return dist.BernoulliProbs(0.4)

    def transition(self, t, x):
        return dist.BernoulliProbs(jnp.where(x == 1, 0.8, 0.3))

    def observation(self, t, x):
        return dist.BernoulliProbs(jnp.where(x == 1, 0.9, 0.2) - 0.05 * jnp.asarray(t, float))


class Walk(StateSpaceModel):
    """Linear and Gaussian, scalar."""

    persistence: float = 0.9
    scale: float = 0.7

    def initial(self):
        return dist.Normal(0.5, 1.0)

    def transition(self, t, x):
        return dist.Normal(self.persistence * x, 1.0)

    def observation(self, t, x):
        return dist.Normal(x, self.scale)


class Plane(StateSpaceModel):
    """Linear and Gaussian, position and speed; the position is seen twice."""

    missing = "nan"

    def initial(self):
        return dist.MultivariateNormal(jnp.array([0.0, 1.0]), jnp.diag(jnp.array([1.0, 0.5])))

    def transition(self, t, x):
        forward = jnp.array([[1.0, 0.5], [0.0, 0.9]])
        return dist.MultivariateNormal(forward @ x, jnp.array([[0.3, 0.1], [0.1, 0.2]]))

    def observation(self, t, x):
        return dist.Normal(jnp.stack([x[0], x[0] + x[1]]), jnp.array([0.4, 0.8])).to_event(1)


COIN_YS = jnp.array([1, 0, 1])
WALK_YS = Walk().simulate(1, 30)[1]
towards = Guided(lambda model, t, x, y: dist.BernoulliProbs(0.2 + 0.6 * y + 0.05 * x))
ahead = Guided(
    lambda model, t, x, y: dist.BernoulliProbs(0.2 + 0.6 * y + 0.05 * x),
    initial=lambda model, y: dist.BernoulliProbs(0.3 + 0.5 * y),
    log_lookahead=lambda model, t, x, y: jnp.log(jnp.where(x == y, 0.7, 0.2)),
)


def coin_measure(ys, until):
    """By brute force: p(y_0..y_t) and the sum over paths of x_t p(x, y_0..y_t), for t = until."""
    total = first = 0.0
    for path in itertools.product((0, 1), repeat=until + 1):
        p = 1.0
        for t, x in enumerate(path):
            move = 0.4 if t == 0 else (0.8 if path[t - 1] else 0.3)
            see = (0.9 if x else 0.2) - 0.05 * t
            p *= (move if x else 1 - move) * (see if ys[t] else 1 - see)
        total += p
        first += p * path[-1]
    return total, first


@pytest.mark.parametrize("proposal", [Bootstrap(), towards, ahead], ids=["bootstrap", "guided", "auxiliary"])
@pytest.mark.parametrize(("scheme", "threshold"), [("systematic", 1.0), ("multinomial", 0.7), ("residual", 0.0)])
def test_evidence_and_moments_are_unbiased_at_every_time(proposal, scheme, threshold):
    program = filter_program(
        Coin(), COIN_YS, num_particles=2, proposal=proposal, resample=scheme, threshold=threshold, moments=True
    )
    law = enumerate_program(program)
    weights = np.exp(law.log_weights)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-12)
    for t in range(3):
        evidence = np.exp(law.values.log_increments[:, : t + 1].sum(axis=1))
        total, first = coin_measure(np.asarray(COIN_YS), t)
        np.testing.assert_allclose(weights @ evidence, total, rtol=1e-12)
        np.testing.assert_allclose(weights @ (evidence * law.values.mean[:, t]), first, rtol=1e-12)
    np.testing.assert_allclose(law.values.log_increments.sum(axis=1), law.values.log_evidence, rtol=1e-12)


@pytest.mark.parametrize("proposal", [None, towards], ids=["prior", "guided"])
def test_a_population_of_the_program_is_the_filter(proposal):
    population = pi.population(Coin().program(COIN_YS, proposal), 2, threshold=1.0)
    law = enumerate_program(population)
    evidence = np.exp([float(e) for e in law.values.collected]) * np.exp(law.values.log_weights).mean(axis=1)
    np.testing.assert_allclose(np.exp(law.log_weights) @ evidence, coin_measure(np.asarray(COIN_YS), 2)[0], rtol=1e-12)


def walk_evidence(ys, persistence=0.9, scale=0.7):
    mean, variance, total, means = 0.5, 1.0, 0.0, []
    for t, y in enumerate(np.asarray(ys)):
        if t:
            mean, variance = persistence * mean, persistence**2 * variance + 1
        spread = variance + scale**2
        total += -0.5 * (np.log(2 * np.pi * spread) + (y - mean) ** 2 / spread)
        mean, variance = mean + variance / spread * (y - mean), variance * scale**2 / spread
        means.append(mean)
    return total, np.array(means)


@pytest.mark.parametrize(
    "proposal",
    [Bootstrap(), Linearised(), Linearised(adapted=True)],
    ids=["bootstrap", "extended", "adapted"],
)
def test_the_kalman_filter_is_found(proposal):
    """60 runs; the mean of the evidence ratio within 5 of its standard errors (false alarm below 1e-5 for near-normal
    means), and so the filtering means."""
    exact, means = walk_evidence(WALK_YS)
    keys = jax.random.split(jax.random.key(3), 60)
    runs = jax.vmap(lambda key: particle_filter(Walk(), WALK_YS, key, num_particles=500, proposal=proposal))(keys)
    ratio = np.exp(np.asarray(runs.log_evidence) - exact)
    assert abs(ratio.mean() - 1) < 5 * ratio.std(ddof=1) / np.sqrt(60)
    error = np.asarray(runs.mean).mean(axis=0) - means
    assert np.all(np.abs(error) < 5 * np.asarray(runs.mean).std(axis=0, ddof=1) / np.sqrt(60) + 0.01)


def test_the_fully_adapted_filter_has_equal_weights_and_the_guided_one_less_variance():
    adapted = particle_filter(Walk(), WALK_YS, 0, num_particles=200, proposal=Linearised(adapted=True), threshold=1.0)
    np.testing.assert_allclose(adapted.ess[1:], 200, rtol=1e-9)

    def spread(proposal):
        keys = jax.random.split(jax.random.key(0), 100)
        run = jax.vmap(lambda key: particle_filter(Walk(), WALK_YS, key, num_particles=100, proposal=proposal))
        return float(np.var(run(keys).log_evidence))

    assert spread(Linearised()) < 0.5 * spread(Bootstrap())


def test_the_extended_and_unscented_proposals_agree_where_the_model_is_linear():
    _, ys = Plane().simulate(2, 8)
    ys = ys.at[3, 0].set(jnp.nan).at[5].set(jnp.nan)
    extended, unscented = (
        particle_filter(Plane(), ys, 0, num_particles=50, proposal=Linearised(rule))
        for rule in ("extended", "unscented")
    )
    np.testing.assert_allclose(extended.mean, unscented.mean, rtol=1e-8)


def test_missing_coordinates_are_left_out_exactly():
    """Everything missing: nothing is learnt, and the increments are zero."""
    _, ys = Plane().simulate(2, 4)
    nothing = particle_filter(Plane(), jnp.full_like(ys, jnp.nan), 0, num_particles=50)
    np.testing.assert_allclose(nothing.log_increments, 0, atol=1e-12)
    np.testing.assert_allclose(nothing.ess, 50)
    some = particle_filter(Plane(), ys.at[2].set(jnp.nan), 0, num_particles=50)
    np.testing.assert_allclose(some.log_increments[2], 0, atol=1e-12)
    whole = particle_filter(Plane(), ys, 0, num_particles=50)
    np.testing.assert_allclose(some.log_increments[:2], whole.log_increments[:2])


def test_history_holds_the_populations_and_who_came_from_whom():
    class Still(Walk):
        def transition(self, t, x):
            return dist.Normal(x, 1e-9)

    run = particle_filter(Still(), WALK_YS, 0, num_particles=40, history=True)
    kept = run.history
    assert kept.particles.shape == kept.log_weights.shape == kept.ancestors.shape == (30, 40)
    before = np.take_along_axis(np.asarray(kept.particles[:-1]), np.asarray(kept.ancestors[1:]), axis=1)
    np.testing.assert_allclose(kept.particles[1:], before, atol=1e-7)
    assert (np.diff(np.asarray(kept.ancestors), axis=1) < 0).sum() == 0  # sorted schemes
    assert len(np.unique(np.asarray(kept.particles[-1]).round(6))) < 40  # it did resample
    np.testing.assert_array_equal(kept.particles[-1], run.particles)
    assert particle_filter(Still(), WALK_YS, 0, num_particles=40).history is None


def test_batches_equal_loops_and_new_parameters_and_data_compile_nothing():
    keys = jax.random.split(jax.random.key(0), 3)
    scales = jnp.array([0.5, 0.7, 1.0])

    def evidence(key, scale):
        return particle_filter(Walk(scale=scale), WALK_YS, key, num_particles=64).log_evidence

    alone = [evidence(k, float(s)) for k, s in zip(keys, scales, strict=True)]
    np.testing.assert_allclose(jax.vmap(evidence)(keys, scales), alone, rtol=1e-10)
    data = WALK_YS + 1.0
    with compiled() as names:
        particle_filter(Walk(scale=0.9), data, 5, num_particles=64)
    assert not names


def test_the_evidence_has_a_gradient_in_the_parameters_of_a_filter_that_never_resamples():
    def log_evidence(scale):
        return particle_filter(Walk(scale=scale), WALK_YS[:3], 0, num_particles=4000, threshold=0.0).log_evidence

    above, below = (walk_evidence(WALK_YS[:3], scale=0.7 + step)[0] for step in (1e-4, -1e-4))
    # The standard deviation over seeds is 0.03.
    assert abs(float(jax.grad(log_evidence)(0.7)) - (above - below) / 2e-4) < 0.15


def test_bad_input_is_refused_with_its_place():
    with pytest.raises(ArgumentError, match=r"ys: row 4 of 30 is nan.*missing = 'nan'"):
        particle_filter(Walk(), WALK_YS.at[4].set(jnp.nan))
    with pytest.raises(ArgumentError, match=r"ys: row 1 of 2 is \[inf +0.\]"):
        particle_filter(Plane(), jnp.array([[0.0, 0.0], [jnp.inf, 0.0]]))
    with pytest.raises(ArgumentError, match=r"expected shape \(T, 2\).*found \(30,\)"):
        particle_filter(Plane(), WALK_YS)
    with pytest.raises(ArgumentError, match="num_particles: expected at least 1"):
        particle_filter(Walk(), WALK_YS, num_particles=0)
    with pytest.raises(UnknownNameError, match="systematic"):
        particle_filter(Walk(), WALK_YS, resample="sistematic")
    with pytest.raises(ArgumentTypeError, match="proposal: expected a Proposal, found str"):
        particle_filter(Walk(), WALK_YS, proposal="guided")
    with pytest.raises(ArgumentTypeError, match="model: expected a StateSpaceModel, found function"):
        particle_filter(lambda: None, WALK_YS)
    with pytest.raises(ModelError, match=r"Guided.law: expected a distribution, found"):
        particle_filter(Walk(), WALK_YS, proposal=Guided(lambda model, t, x, y: x))


def test_laws_of_the_wrong_kind_are_named():
    class Batched(Walk):
        def transition(self, t, x):
            return dist.Normal(jnp.stack([x, x]), 1.0)

    class Wide(Walk):
        def transition(self, t, x):
            return dist.Normal(jnp.stack([x, x]), 1.0).to_event(1)

    class Number(Walk):
        def observation(self, t, x):
            return x

    with pytest.raises(ModelError, match=r"Batched.transition\(t, x\): .*batch shape \(2,\).*to_event\(1\)"):
        particle_filter(Batched(), WALK_YS)
    with pytest.raises(ModelError, match=r"Wide.transition\(t, x\): its draw has shape \(2,\), but a state has"):
        particle_filter(Wide(), WALK_YS)
    with pytest.raises(ModelError, match=r"Number.observation\(t, x\): expected a distribution"):
        particle_filter(Number(), WALK_YS)


def test_dead_and_broken_populations_are_reported_with_their_time():
    class Strict(Walk):
        def observation(self, t, x):
            return dist.Uniform(x - 0.5, x + 0.5)

    with pytest.raises(InferenceError, match=r"weight zero at t = 2: no particle explains ys\[2\]"):
        particle_filter(Strict(), jnp.array([0.5, 0.5, 60.0, 0.5]), num_particles=200)

    class Broken(Walk):
        def observation(self, t, x):
            return dist.Normal(x, jnp.sqrt(1.5 - jnp.asarray(t, float)))

    with pytest.raises(InferenceError, match="weights of Broken are nan at t = 2"):
        particle_filter(Broken(), WALK_YS[:4], num_particles=10)
