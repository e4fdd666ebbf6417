"""How scores become potentials: every mode's product, absorbing states, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smc
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from smc.steering.potential import AGGREGATES, LINKS, MODES
from tests.steering_models import WEIGHTS, three_letters

SCORES = np.array([[0.3, 0.9], [0.8, 0.6], [0.5, 0.7], [0.9, 0.95]])  # (steps, particles)
AGGREGATED = {
    "model": SCORES,
    "last": SCORES,
    "prod": np.cumprod(SCORES, axis=0),
    "min": np.minimum.accumulate(SCORES, axis=0),
    "sum": np.cumsum(SCORES, axis=0),
}
LINK = {"bernoulli": np.log, "odds": lambda r: np.log(r / (1 - r)), "exp": lambda r: r}


def collected(potential, scores, ends):
    """Sum of log potentials where particle i finishes at step ends[i] (0-based)."""
    memory = potential.start(scores.shape[1])
    done = jnp.zeros(scores.shape[1], bool)
    steps = []
    for t, row in enumerate(scores):
        last = done | (jnp.asarray(ends) == t) | (t == len(scores) - 1)
        log_g, memory = potential.update(memory, jnp.asarray(row), done, last)
        done = done | (jnp.asarray(ends) == t)
        steps.append(np.asarray(log_g))
    return np.array(steps)


def legal(link, mode, aggregate):
    sums = link != "exp" and "sum" in (mode, aggregate)
    return not sums and not (mode == "step" and aggregate == "min")


COMBINATIONS = [c for c in itertools.product(LINKS, MODES, AGGREGATES) if legal(*c)]


@pytest.mark.parametrize(("link", "mode", "aggregate"), COMBINATIONS)
def test_the_product_of_potentials_is_what_the_table_says(link, mode, aggregate):
    potential = smc.Potential(link, mode, aggregate)
    ends = np.array([1, 3])
    found = collected(potential, SCORES, ends)
    g, r = LINK[link], AGGREGATED[aggregate]
    for i, end in enumerate(ends):
        if mode == "step":
            expected = g(SCORES[: end + 1, i]).sum()
        elif mode == "running":
            expected = g(r[: end + 1, i]).sum()
        else:
            expected = g(r[end, i])
        np.testing.assert_allclose(found[:, i].sum(), expected, rtol=1e-12)
        assert (found[end + 1 :, i] == 0).all()


def test_running_products_count_early_steps_again():
    """Step u of 4 counts 4, 3, 2, 1 times: not the product of step scores, which "step" and "difference" give."""
    logs = np.log(SCORES)
    running = collected(smc.Potential("bernoulli", "running", "prod"), SCORES, [3, 3]).sum(axis=0)
    np.testing.assert_allclose(running, np.array([4, 3, 2, 1]) @ logs)
    for mode in ("step", "difference"):
        once = collected(smc.Potential("bernoulli", mode, "prod"), SCORES, [3, 3]).sum(axis=0)
        np.testing.assert_allclose(once, logs.sum(axis=0))


def test_a_particle_without_weight_stays_without_and_gives_no_nan():
    scores = np.array([[0.5, 0.0], [0.5, 0.0], [0.5, 0.4]])
    for mode in ("step", "running", "difference", "max"):
        found = collected(smc.Potential("bernoulli", mode), scores, [2, 2])
        assert not np.isnan(found).any()
    assert collected(smc.Potential("bernoulli", "difference"), scores, [2, 2])[0, 1] == -np.inf


def test_odds_are_clipped_and_rates_scale():
    edge = smc.Potential("odds", "step").log_link(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(edge, [np.log(1e-7), 0, -np.log(1e-7)], atol=1e-6)
    np.testing.assert_allclose(smc.Potential("exp", "step", rate=10.0).log_link(jnp.array([0.25])), [2.5])


def test_what_means_nothing_is_refused():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'odds'"):
        smc.Potential("odd", "step")
    with pytest.raises(ArgumentError, match="a sum of chances is no chance"):
        smc.Potential("odds", "sum")
    with pytest.raises(ArgumentError, match="only the link 'exp' has one"):
        smc.Potential("odds", "step", rate=2.0)
    with pytest.raises(ArgumentError, match="is no minimum"):
        smc.Potential("odds", "step", "min")


class Words:
    """A judge of strings, with weights of next letters and of ending."""

    def score(self, states):
        return [sum({"a": 0.3, "b": -0.4}[c] for c in s) for s in states]

    def successors(self, state):
        return [state + c for c in "ab"]

    def next_scores(self, state):
        return [0.3, -0.4]


def test_a_sound_potential_passes():
    words = Words()
    smc.check_potential(
        words.score,
        ["", "a", "ab"],
        potential=WEIGHTS,
        successors=words.successors,
        next_scores=words.next_scores,
        complete=lambda states: [s + 1 for s in words.score(states)],
        end_score=lambda state: 1.0,
    )


def test_unsound_potentials_are_named():
    words, rng = Words(), np.random.default_rng(0)
    with pytest.raises(ModelError, match="asked twice"):
        smc.check_potential(lambda states: rng.random(len(states)), ["a", "b"])
    with pytest.raises(ModelError, match="alone instead of in a batch"):
        smc.check_potential(lambda states: np.full(len(states), float(len(states))), ["a", "b"])
    with pytest.raises(ModelError, match="reverse order"):
        smc.check_potential(
            lambda states: [0.5] if len(states) == 1 else [0.5, 0.5 + 0.1 * (states[0] == "b")], ["a", "b"]
        )
    with pytest.raises(ModelError, match="next_scores"):
        smc.check_potential(words.score, ["a"], successors=words.successors, next_scores=lambda state: [0.3, 0.4])
    with pytest.raises(ModelError, match="end_score"):
        smc.check_potential(words.score, ["a"], complete=words.score, end_score=lambda state: 0.2)
    with pytest.raises(ModelError, match="outside of what link 'odds' takes"):
        smc.check_potential(lambda states: [1.5] * len(states), ["a"], potential=smc.Potential("odds", "step"))
    with pytest.raises(ModelError, match="expected one number for each of 2 states"):
        smc.check_potential(lambda states: [0.5], ["a", "b"])


def test_seeds_are_integers_and_differ():
    seeds = smc.seeds_of(jax.random.split(jax.random.key(0), 50))
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.bad_input
def test_the_box_refuses_what_cannot_be_called():
    with pytest.raises(ArgumentTypeError, match="expected a BlackBox, found Chain"):
        smc.steer(three_letters(), num_particles=2, max_steps=2, potential=WEIGHTS)
    with pytest.raises(ArgumentTypeError, match="score: expected a function of the states"):
        smc.BlackBox(0.0, lambda states: states, 0.5)
