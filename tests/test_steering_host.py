"""The host executor: same ancestors as traced, slow and failing clients, interrupts, files, resume."""

import asyncio
import json
import time

import jax
import numpy as np
import pytest

import smc
from probinf.errors import ArgumentError, DataError, InferenceError, ModelError
from smc.steering.calls import call_batch
from tests.steering_models import STEPS, WEIGHTS, three_letters

ODDS = smc.Potential("odds", "difference")
SIZE = 5


class Words:
    """A generator of words by seed, one letter a step; words end with a full stop. Counts its batches."""

    def __init__(self):
        self.proposed, self.scored, self.broken, self.interrupt_at = [], [], {}, None

    def propose(self, states, keys):
        self.proposed.append(len(states))
        if self.interrupt_at == len(self.proposed):
            raise KeyboardInterrupt
        return [self.one(state, seed) for state, seed in zip(states, smc.seeds_of(keys), strict=True)]

    def one(self, state, seed):
        rng = np.random.default_rng(seed)
        letter = "ab."[rng.choice(3, p=[0.5, 0.3, 0.2])]
        word = {"text": state["text"] + letter, "seeds": [*state["seeds"], seed % 1000]}
        if self.broken.get(word["text"], 0) > 0:
            self.broken[word["text"]] -= 1
            return OSError(f"no answer for {word['text']}")
        return word

    def score(self, states):
        self.scored.append(len(states))
        return [0.2 + 0.6 * s["text"].count("a") / len(s["text"]) for s in states]

    def finished(self, states):
        return [s["text"].endswith(".") for s in states]

    def box(self):
        return smc.BlackBox({"text": "", "seeds": []}, self.propose, self.score, self.finished)


def steer(box, seed=4, **options):
    return smc.steer(box, seed, num_particles=SIZE, max_steps=6, potential=ODDS, executor="host", **options)


PARITY = {
    "default": smc.Resampler(),
    "look-ahead, annealed": smc.Resampler("always", smc.FloorAnnealing(), "ssp", lookahead=True),
    "beam": smc.Beam(2),
}


@pytest.mark.parametrize("name", PARITY)
def test_both_executors_choose_the_same_ancestors(name):
    chain = three_letters()
    settings = {"num_particles": 6, "max_steps": STEPS, "potential": WEIGHTS, "rule": PARITY[name]}
    traced = smc.steer(chain.box(), 3, **settings)
    host = smc.steer(chain.host_box(), 3, executor="host", **settings)
    np.testing.assert_array_equal(traced.ancestors, host.ancestors)
    np.testing.assert_allclose(traced.log_weights, host.log_weights, rtol=1e-12)
    assert [s["letter"] for s in host.states] == np.asarray(traced.states[0]).tolist()
    assert (host.generator_calls, host.judge_calls) == (traced.generator_calls, traced.judge_calls)
    paths = [[s["letter"] for s in path] for path in host.trajectories()]
    np.testing.assert_array_equal(np.asarray(traced.trajectories()[0]).T, paths)


def test_a_step_is_one_batch_and_finished_words_are_left_alone():
    words = Words()
    run = steer(words.box())
    assert len(words.proposed) == len(words.scored) == run.num_steps
    assert words.proposed[0] == SIZE
    assert sum(words.proposed) == run.generator_calls
    still_open = SIZE - np.asarray(run.step_done).sum(axis=1)
    # Selection may copy finished words onto open ones or the reverse, so the count follows the ancestors.
    done_after = np.take_along_axis(np.asarray(run.step_done), np.asarray(run.ancestors), axis=1)
    assert words.proposed[1:] == (SIZE - done_after.sum(axis=1))[: len(words.proposed) - 1].tolist()
    assert still_open[-1] == 0 or run.num_steps == 6
    assert all(text.count(".") <= 1 for text in (s["text"] for s in run.states))


def test_a_failed_slot_is_tried_again_alone_and_gives_the_same_run():
    plain = steer(Words().box())
    words = Words()
    words.broken = {plain.history[0][2]["text"]: 1}
    run = steer(words.box(), retries=2)
    assert words.proposed[:2] == [SIZE, 1]
    assert run.failures == ()
    assert run.states == plain.states
    np.testing.assert_array_equal(run.log_weights, plain.log_weights)


def test_a_particle_that_keeps_failing_is_lost_alone_and_reported():
    words = Words()
    calls = []

    def propose(states, keys):
        calls.append(len(states))
        answers = words.propose(states, keys)
        bad = 1 if len(states) == SIZE else 0  # the second particle, and again when it is asked for alone
        return [OSError("gone") if i == bad else a for i, a in enumerate(answers)]

    run = steer(smc.BlackBox({"text": "", "seeds": []}, propose, words.score), retries=1, budget=smc.Budget(SIZE))
    (failure,) = run.failures
    assert (failure.step, failure.particle, failure.call, failure.attempts) == (1, 1, "propose", 2)
    assert failure.reason == "OSError: gone"
    assert run.step_log_weights[0, 1] == -np.inf
    assert np.isfinite(np.delete(np.asarray(run.step_log_weights[0]), 1)).all()
    assert (run.generator_calls, run.judge_calls) == (SIZE, SIZE - 1)


def test_a_step_that_fails_as_a_whole_stops_the_run_and_keeps_what_is_done(tmp_path):
    words, path = Words(), tmp_path / "run.npz"
    whole = steer(Words().box())
    fine = words.propose

    def propose(states, keys):
        if len(words.proposed) == 2:
            raise ConnectionError("server is down")
        return fine(states, keys)

    box = smc.BlackBox({"text": "", "seeds": []}, propose, words.score, words.finished)
    with pytest.raises(
        InferenceError, match=r"all \d calls of step 3 failed .* ConnectionError: server is down"
    ) as caught:
        steer(box, checkpoint=path)
    assert caught.value.partial.num_steps == 2
    resumed = steer(Words().box(), checkpoint=path)
    assert resumed.states == whole.states


def test_awaitables_run_together_with_time_outs_each():
    delays = {0: 0.0, 1: 5.0, 2: 0.02, 3: 0.02}

    async def slow(index):
        await asyncio.sleep(delays[index])
        return index * 10

    began = time.perf_counter()
    outcome = call_batch("propose", lambda rows: [slow(i) for i in rows], 4, timeout=0.25, retries=0)
    assert time.perf_counter() - began < 2.0
    assert outcome.values == [0, None, 20, 30]
    assert outcome.lost == {1: ("TimeoutError: no answer within 0.25 s", 1)}


def test_a_coroutine_for_the_batch_and_functions_of_one_state_are_served():
    async def batch(states):
        await asyncio.sleep(0)
        return [s + 1 for s in states]

    async def one(state):
        await asyncio.sleep(0)
        return 0.5

    potential = smc.Potential("odds", "final")
    run = smc.steer(
        smc.BlackBox(0, batch, smc.each(one)), num_particles=3, max_steps=2, potential=potential, executor="host"
    )
    assert run.states == [2, 2, 2]

    def threaded(state, key):
        if isinstance(key, int):
            raise TypeError("a key is a key")
        return state + 1

    run = smc.steer(
        smc.BlackBox(0, smc.each(threaded, workers=2), lambda states: np.full(len(states), 0.5)),
        num_particles=3,
        max_steps=2,
        potential=potential,
        executor="host",
    )
    assert run.states == [2, 2, 2]


def test_it_runs_inside_a_running_event_loop():
    async def notebook():
        async def batch(states):
            await asyncio.sleep(0)
            return [s + 1 for s in states]

        box = smc.BlackBox(0, batch, lambda states: [0.5] * len(states))
        return smc.steer(box, num_particles=2, max_steps=1, potential=smc.Potential("odds", "final"), executor="host")

    assert asyncio.run(notebook()).states == [1, 1]


def test_children_of_one_parent_share_nothing():
    def propose(states, keys):
        for state, seed in zip(states, smc.seeds_of(keys), strict=True):
            state.append(seed)
        return states

    box = smc.BlackBox([], propose, lambda states: [0.1 + 0.8 * (s[-1] % 2) for s in states])
    rule = smc.Resampler("always", None)
    run = smc.steer(
        box, 1, num_particles=6, max_steps=4, potential=smc.Potential("odds", "step"), rule=rule, executor="host"
    )
    assert [len(s) for s in run.states] == [4] * 6
    assert [[len(s) for s in row] for row in run.history] == [[t] * 6 for t in (1, 2, 3, 4)]
    assert len({tuple(s) for s in run.states}) == 6


def test_an_interrupt_returns_what_is_done_and_a_resume_ends_the_same(tmp_path):
    path, whole = tmp_path / "run.npz", steer(Words().box())
    words = Words()
    words.interrupt_at = 3
    partial = steer(words.box(), checkpoint=path)
    assert partial.is_partial
    assert partial.num_steps == 2
    np.testing.assert_array_equal(partial.ancestors, whole.ancestors[:2])
    resumed = steer(Words().box(), checkpoint=path)
    assert not resumed.is_partial
    assert resumed.states == whole.states
    assert resumed.generator_calls == whole.generator_calls
    np.testing.assert_array_equal(resumed.step_log_weights, whole.step_log_weights)
    again = Words()
    assert steer(again.box(), checkpoint=path).states == whole.states
    assert again.proposed == []  # a complete run is only read


def test_a_traced_run_resumes_too(tmp_path):
    chain, path = three_letters(), tmp_path / "run.npz"
    settings = {"num_particles": 6, "max_steps": STEPS, "potential": WEIGHTS}
    whole = smc.steer(chain.box(), 3, **settings)
    calls = []

    from smc.steering import stepwise

    original = stepwise.save

    def save(*args):
        original(*args)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepwise, "save", save)
        partial = smc.steer(chain.box(), 3, checkpoint=path, **settings)
    assert partial.is_partial
    assert partial.num_steps == 2
    resumed = smc.steer(chain.box(), 3, checkpoint=path, **settings)
    np.testing.assert_array_equal(resumed.ancestors, whole.ancestors)
    np.testing.assert_allclose(resumed.log_weights, whole.log_weights, rtol=1e-12)
    np.testing.assert_array_equal(resumed.trajectories()[0], whole.trajectories()[0])


def test_foreign_and_corrupt_files_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    steer(Words().box(), checkpoint=path)
    with pytest.raises(DataError, match="belongs to another run: key"):
        steer(Words().box(), seed=5, checkpoint=path)
    with pytest.raises(DataError, match="num_particles 5 there, 3 here"):
        smc.steer(Words().box(), 4, num_particles=3, max_steps=6, potential=ODDS, executor="host", checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        steer(Words().box(), checkpoint=path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(bytes(flipped))
    with pytest.raises(DataError, match="not a run saved by"):
        steer(Words().box(), checkpoint=path)
    np.savez(path, header=np.frombuffer(json.dumps({"a": 1}).encode(), np.uint8))
    with pytest.raises(DataError, match="not a run saved by"):
        steer(Words().box(), checkpoint=path)


def test_states_that_json_would_change_are_refused(tmp_path):
    for start in ((1, 2), {1, 2}, {1: "a"}):
        box = smc.BlackBox(start, lambda states: states, lambda states: [0.5] * len(states))
        with pytest.raises(ArgumentError, match="checkpoint: the states"):
            smc.steer(box, num_particles=2, max_steps=2, potential=ODDS, executor="host", checkpoint=tmp_path / "x.npz")
        assert not (tmp_path / "x.npz").exists()


def test_wrong_counts_and_values_name_the_function():
    def short(states):
        return states[1:]

    with pytest.raises(ModelError, match="propose: expected 5 answers, one for each state in order, found 4"):
        steer(smc.BlackBox(0, short, lambda states: [0.5] * len(states)))
    with pytest.raises(ModelError, match="score: expected 5 answers"):
        steer(smc.BlackBox(0, lambda states: states, lambda states: [0.5]))
    with pytest.raises(DataError, match="score: expected a number for particle 0 at step 1, found 'good'"):
        steer(smc.BlackBox(0, lambda states: states, lambda states: ["good"] * len(states)))
    with pytest.raises(DataError, match="NaN for particle 2 at step 1"):
        steer(smc.BlackBox(0, lambda states: states, lambda states: [0.5, 0.5, np.nan, 0.5, 0.5]))
    with pytest.raises(ArgumentError, match="the traced executor has neither"):
        smc.steer(three_letters().box(), num_particles=2, max_steps=2, potential=WEIGHTS, retries=1)


def test_host_sweeps_agree_with_traced_ones_on_the_first_population():
    chain = three_letters()
    settings = {"num_particles": 4, "num_sweeps": 3, "max_steps": STEPS, "potential": WEIGHTS}
    run = smc.gibbs_sweeps(chain.host_box(), jax.random.key(2), executor="host", **settings)
    table = np.asarray(chain.log_g)
    for path, total in zip(run.paths, np.asarray(run.log_potential), strict=True):
        assert len(path) == STEPS
        np.testing.assert_allclose(table[np.arange(STEPS), [s["letter"] for s in path]].sum(), total)
    assert run.generator_calls == 3 * 4 * STEPS


def test_a_run_prints_as_a_summary():
    box = smc.BlackBox([], lambda states: [[*state, 1] for state in states], lambda states: [0.5] * len(states))
    run = smc.steer(box, 0, num_particles=4, max_steps=3, potential=smc.Potential("bernoulli", "step"), executor="host")
    text = repr(run)
    assert text.startswith("SteeringRun(4 particles, 3 steps, resampled after 0)")
    assert "log evidence -2.079 nats" in text  # three times log 0.5
    assert "12 calls of the generator, 12 of the judge" in text
