"""Kernels on traces: exact matrices, the algebra of claims, and what a broken kernel looks like.

The whole suite is `probinf validate`; here each kernel meets the programs on which its faults show.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from probinf.kernels.kernel import Kernel, emit
from probinf.kernels.running import find_starts, run_chains
from probinf.transformations.randomness import Ticks
from probinf.transformations.targets import Prefix
from probinf.transformations.traces import Trace
from probinf.validity.matrices import all_slots, transition_matrix
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov
from probinf.validity.validate import assignments

FEW = ("hidden_markov", "random_branch", "zero_weights", "early_termination", "unequal_factors")
KERNELS = [
    pi.trace_mh(),
    pi.redraw(0.4),
    pi.cycle(pi.trace_mh(), pi.redraw(0.5)),
    pi.mix(pi.trace_mh(), pi.redraw(), probabilities=(0.25, 0.75)),
    pi.repeat(pi.trace_mh(), 2),
    pi.together(pi.trace_mh(), pi.redraw(0.5)),
]


def units(name, count=2):
    return pi.Traced(PROGRAMS[name], randomness=Ticks(count))


def assert_keeps(kernel, target, states=None):
    chain = transition_matrix(kernel, target, states)
    assert chain.row_error <= 1e-13
    assert chain.invariance <= 1e-13
    assert chain.kept <= 1e-12
    if kernel.claim.implies(Claim.REVERSIBLE):
        assert chain.asymmetry <= 1e-13
    return chain


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("name", FEW)
def test_kernels_on_units_keep_the_traces_of_a_program(kernel, name):
    assert_keeps(kernel, units(name))


@pytest.mark.parametrize("kernel", KERNELS[:2], ids=str)
def test_kernels_on_units_reach_every_trace(kernel):
    assert assert_keeps(kernel, units("hidden_markov", 3)).is_irreducible


@pytest.mark.parametrize("kernel", [pi.gibbs(), pi.uniform_proposal(), pi.repeat(pi.gibbs(), 2)], ids=str)
@pytest.mark.parametrize("name", ["hidden_markov", "static_parameter", "timed_factor"])
def test_kernels_on_values_keep_the_values_of_a_program(kernel, name):
    program = PROGRAMS[name]
    target = pi.Traced(program, values=[s.name for s in program.staged.latent()], randomness=Ticks(2))
    assert assert_keeps(kernel, target).is_irreducible


def test_a_cycle_of_different_gibbs_blocks_is_invariant_and_not_reversible():
    target = pi.Traced(PROGRAMS["static_parameter"], values=("theta", "z"), randomness=Ticks(2))
    kernel = pi.cycle(pi.on(pi.gibbs(), "theta"), pi.on(pi.gibbs(), "z"))
    assert kernel.claim is Claim.INVARIANT
    chain = assert_keeps(kernel, target)
    assert chain.asymmetry > 1e-3


def test_a_block_holds_the_other_sites_fixed():
    target = pi.Traced(PROGRAMS["static_parameter"], randomness=Ticks(2))
    states = all_slots(target)
    chain = assert_keeps(pi.on(pi.redraw(), "z"), target)
    moved = chain.transitions > 0
    same = states["theta"][:, None] == states["theta"][None, :]
    assert (moved <= same).all()


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_move_at_a_suspension_keeps_the_scores_so_far_only(stop):
    target = Prefix(units("hidden_markov"), jnp.int32(stop))
    states = all_slots(target.whole)
    for kernel in (pi.trace_mh(), pi.refresh_future(), pi.cycle(pi.refresh_future(), pi.redraw())):
        assert_keeps(kernel, target, states)


def test_refreshing_the_future_leaves_the_past_alone():
    target = Prefix(units("hidden_markov"), jnp.int32(1))
    states = all_slots(target.whole)
    moved = assert_keeps(pi.refresh_future(), target, states).transitions > 0
    same_past = states["z"][:, None, 0] == states["z"][None, :, 0]
    np.testing.assert_array_equal(moved, same_past)


def test_frozen_places_are_not_moved():
    target = Prefix(units("hidden_markov"), jnp.int32(2), jnp.int32(1))
    states = all_slots(target.whole)
    moved = assert_keeps(pi.redraw(), target, states).transitions > 0
    assert (moved <= (states["z"][:, None, 0] == states["z"][None, :, 0])).all()


@pytest.mark.parametrize("scheme", ["multinomial", "systematic", "stratified", "residual", "ssp", "killing"])
@pytest.mark.parametrize("ancestor_sampling", [False, True])
@pytest.mark.parametrize("name", ["hidden_markov", "static_parameter", "branch_in_loop", "random_inputs"])
def test_conditional_smc_keeps_the_assignments(name, scheme, ancestor_sampling):
    """With a parameter or inputs of each particle's own the future is the whole rest of the loop."""
    kernel = pi.conditional_smc(2, resample=scheme, threshold=1.0, ancestor_sampling=ancestor_sampling)
    assert_keeps(kernel, pi.Assigned(PROGRAMS[name]), assignments(PROGRAMS[name]))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_conditional_smc_keeps_the_assignments_when_it_seldom_resamples(threshold):
    kernel = pi.conditional_smc(3, threshold=threshold, ancestor_sampling=True)
    assert_keeps(kernel, pi.Assigned(hidden_markov(DATA)), assignments(hidden_markov(DATA)))


def test_conditional_smc_moves_discrete_values_of_a_traced_program():
    target = pi.Traced(PROGRAMS["static_parameter"], values=("theta", "z"), randomness=Ticks(2))
    assert_keeps(pi.conditional_smc(2, threshold=1.0), target)


def test_conditional_smc_with_fixed_parameters_keeps_them():
    program = PROGRAMS["static_parameter"]
    states = assignments(program)
    chain = assert_keeps(pi.conditional_smc(2, threshold=1.0, fixed=("theta",)), pi.Assigned(program), states)
    assert ((chain.transitions > 0) <= (states["theta"][:, None] == states["theta"][None, :])).all()


# -- broken on purpose -----------------------------------------------------------------------------------------------


def test_an_accept_step_with_the_ratio_upside_down_is_seen():
    def step(target, state):
        slots = pi.redraw().propose(target, state.slots)
        new = target.replay(slots)
        ratio = jnp.exp(jnp.minimum(state.log_weight - new.log_weight, 0.0))
        ok = (emit(dist.BernoulliProbs(ratio)) == 1) & (new.log_weight > -jnp.inf)
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state), {"accepted": ok}

    chain = transition_matrix(Kernel("upside down", step, Claim.REVERSIBLE), units("hidden_markov"))
    assert chain.invariance > 1e-2


def test_a_weight_that_is_not_renewed_is_seen():
    def step(target, state):
        new, info = pi.trace_mh().step(target, state)
        return Trace(new.slots, state.log_weight), info

    assert transition_matrix(Kernel("stale", step, Claim.REVERSIBLE), units("hidden_markov")).kept > 1e-2


def test_stopping_by_the_outcome_is_seen():
    """`while accepting` looks harmless: move again until a move is rejected (at most twice)."""

    def step(target, state):
        first, info = pi.trace_mh().step(target, state)
        second, _ = pi.trace_mh().step(target, first)
        return jax.tree.map(lambda a, b: jnp.where(info["accepted"], a, b), second, first), info

    assert transition_matrix(Kernel("while accepting", step, Claim.INVARIANT), units("hidden_markov")).invariance > 1e-3


# -- the algebra -----------------------------------------------------------------------------------------------------


def test_claims_of_compositions():
    mh, cycle = pi.trace_mh(), pi.cycle(pi.trace_mh(), pi.redraw())
    approximate = dataclasses.replace(mh, claim=Claim.APPROXIMATE)
    assert mh.claim is Claim.REVERSIBLE
    assert cycle.claim is Claim.INVARIANT
    assert pi.mix(mh, pi.redraw()).claim is Claim.REVERSIBLE
    assert pi.mix(mh, cycle).claim is Claim.INVARIANT
    assert pi.repeat(mh, 3).claim is Claim.REVERSIBLE
    assert pi.cycle(mh).claim is Claim.REVERSIBLE
    assert pi.on(cycle, "z").claim is Claim.INVARIANT
    assert pi.cycle(mh, approximate).claim is Claim.APPROXIMATE
    assert repr(cycle) == "cycle(trace_mh(), redraw(1)) [invariant]"


def test_chains_find_the_posterior_of_a_program_with_branches():
    """64 chains of 500 kept steps against enumeration; means of 64 independent chains, 6 standard errors (4e-9)."""
    program = PROGRAMS["random_branch"]
    target = pi.Traced(program)
    starts = find_starts(target, jax.random.key(0), 64)

    def first(slots):
        return jnp.asarray(jax.tree.leaves(target.result_of(slots))[0], float)

    _, kept, _ = jax.jit(lambda s, k: run_chains(pi.trace_mh(), target, s, k, 600, keep=first))(
        starts, jax.random.key(1)
    )
    means = np.asarray(kept)[100:].mean(axis=0)
    law = pi.enumerate_program(program)
    mass = np.exp(law.log_weights)
    exact = (mass * np.asarray(jax.tree.leaves(law.values)[0], float)).sum() / mass.sum()
    assert abs(means.mean() - exact) < 6 * means.std(ddof=1) / 8


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (pi.cycle, ArgumentError, "at least one kernel"),
        (lambda: pi.cycle(3), ArgumentTypeError, "expected kernels, found 3"),
        (lambda: pi.mix(pi.trace_mh(), pi.redraw(), probabilities=(0.5, 0.6)), ArgumentError, "sum to 1"),
        (lambda: pi.repeat(pi.trace_mh(), 0), ArgumentError, "times: expected an integer of at least 1, found 0"),
        (lambda: pi.together(pi.trace_mh(), pi.gibbs()), ArgumentTypeError, "gibbs\\(\\) has no symmetric proposal"),
        (lambda: pi.redraw(0.0), ArgumentError, "share: expected a number in"),
        (lambda: pi.conditional_smc(1), ArgumentError, "needs at least 2, found 1"),
    ],
)
def test_impossible_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
def test_a_move_that_has_nothing_to_move_says_what_it_needs():
    target = units("hidden_markov")
    with pytest.raises(ModelError, match="values="):
        transition_matrix(pi.gibbs(), target)
    with pytest.raises(ModelError, match="no site of the target holds one"):
        transition_matrix(pi.random_walk(), target)
    with pytest.raises(UnknownNameError, match="Did you mean 'z'"):
        transition_matrix(pi.on(pi.trace_mh(), "zz"), target)
