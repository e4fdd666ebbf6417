"""Transformations of programs, enumerated: each keeps the measure, and says so when it cannot be applied."""

import itertools

import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from probinf.transformations.algorithms import enumerate_program
from probinf.validity import compositions, shipped
from probinf.validity.command import by_rules
from probinf.validity.measures import assert_same_measure, discrepancy
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov
from probinf.validity.validate import check_on
from smc import validity_cases

ALL = [*shipped.transformations(), *validity_cases.transformations()]
#: One program per transformation here; `probinf validate` takes all of them.
FIRST = [(t, t.suite()[0]) for t in ALL]


@pytest.mark.parametrize(("thing", "program"), FIRST, ids=[t.name for t in ALL])
def test_a_transformation_means_what_it_was_given(thing, program):
    assert_same_measure(thing(program), enumerate_program(thing.reference(program)))


COMPOSITIONS = {c.name: c for c in (*compositions.compositions(), *validity_cases.compositions())}
GRID = shipped.rules(full=True)
#: Three particles that draw traces or populations besides have many worlds: those are for the slow lane.
LIGHT = [n for n in COMPOSITIONS if len(COMPOSITIONS[n].programs) > 3 or "guide" in n or "theta" in n]


def some_rules(name):
    """A few rules of the full grid, others for each composition; the slow lane takes the grid."""
    first = 2 * list(COMPOSITIONS).index(name)
    some = [GRID[(first + 43 * i) % len(GRID)] for i in range(4)]
    return [rule for rule in some if rule[0] < 3 or name in LIGHT]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_composition_means_what_it_was_given_by_some_rules(name):
    for thing in COMPOSITIONS[name].by(some_rules(name)):
        program = thing.suite()[0]
        assert_same_measure(thing(program), enumerate_program(thing.reference(program)))


def test_the_rules_that_compositions_meet_cover_all_pairs_of_settings():
    met = [rule for name in COMPOSITIONS for rule in some_rules(name)]
    pairs = {(i, j, rule[i], rule[j]) for rule in met for i, j in itertools.combinations(range(3), 2)}
    assert len(pairs) == 3 * 6 + 3 * 3 + 6 * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_composition_means_what_it_was_given_by_every_rule(name):
    report = by_rules(COMPOSITIONS[name], full=True)
    assert report, report
    assert len(report.checks) == len(GRID) * len(COMPOSITIONS[name].programs)


def test_a_composition_that_fails_says_by_which_rule():
    def lossy(p, n, **rule):
        return pi.population(p, n, **rule) if n < 3 else pi.population(PROGRAMS["zero_weights"], n, **rule)

    report = by_rules(compositions.Composition("lossy", lossy, ("hidden_markov",)), full=False)
    assert {c.thing for c in report.failures} == {"lossy, 14 rules"}
    assert report.failures[0].note.startswith("lossy by (3, systematic, 1): The result")


OTHER_CHAINS = [c for c in (*shipped.chains(), *validity_cases.chains()) if not c[0].startswith("pmmh")]


@pytest.mark.parametrize("chain", OTHER_CHAINS, ids=lambda c: c[0])
def test_kernels_keep_targets_of_their_own(chain):
    name, kernel, target, states = chain
    checks = list(check_on(kernel, target, name, states))
    assert {"invariant", "keeps weight"} <= {c.claim for c in checks}
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]


@pytest.mark.parametrize("name", ["zero_weights", "no_mass", "random_branch"])
def test_a_collapsed_population_is_the_program_again(name):
    assert_same_measure(pi.collapse(pi.population(PROGRAMS[name], 2, threshold=1.0)), PROGRAMS[name])


def test_pushing_the_evidence_leaves_normalised_weights():
    law = enumerate_program(pi.push_evidence(pi.population(hidden_markov(DATA), 3, threshold=0.5)))
    alive = law.log_weights > -np.inf
    weights = np.exp(np.asarray(law.values.log_weights)[alive]).mean(axis=1)
    np.testing.assert_allclose(weights, 1.0, rtol=1e-12)


@pi.model
def wrong_guide():
    """Never proposes theta = 0, which the program allows."""
    pi.sample("theta", dist.DiscreteUniform(1, 1))


def test_a_guide_that_misses_part_of_the_program_is_seen():
    program = PROGRAMS["static_parameter"]
    law = enumerate_program(pi.importance(program, wrong_guide()))
    assert discrepancy(law, enumerate_program(program))[0] > 1e-3


def test_shared_sites_are_drawn_once():
    law = enumerate_program(pi.population(pi.recorded(PROGRAMS["static_parameter"]), 2, shared=("theta",)))
    theta = np.asarray(law.values.particles["theta"])
    assert (theta[:, 0] == theta[:, 1]).all()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pi.collapse(hidden_markov(DATA)), ModelError, "expected a Population"),
        (lambda: pi.resize(pi.population(hidden_markov(DATA), 2), 0), ArgumentError, "at least 1, found 0"),
        (lambda: pi.population(hidden_markov(DATA), 2, shared=("y",)), UnknownNameError, "latent site"),
        (lambda: pi.tempered(hidden_markov(DATA), (0.5, 0.4, 1.0), pi.trace_mh()), ArgumentError, "rise from above 0"),
        (lambda: pi.tempered(hidden_markov(DATA), (0.5,), pi.trace_mh()), ArgumentError, "end at 1"),
        (lambda: pi.importance(hidden_markov(DATA), hidden_markov(DATA)), ModelError, "A guide is a distribution"),
        (lambda: pi.importance(hidden_markov(DATA), wrong_guide()), UnknownNameError, "theta"),
        (lambda: pi.rejuvenated(PROGRAMS["early_termination"], pi.trace_mh()), ModelError, "inside a while loop"),
        (lambda: pi.rejuvenated(hidden_markov(DATA), pi.trace_mh), ArgumentTypeError, "kernel: expected a kernel"),
        (lambda: pi.resize(pi.population(hidden_markov(DATA), 2), 2.5), ArgumentTypeError, "expected an integer"),
        (lambda: pi.population(hidden_markov, 2), ArgumentTypeError, r"hidden_markov\(...\)"),
        (lambda: pi.marginalise(hidden_markov(DATA)), ArgumentTypeError, "part: expected a model"),
    ],
)
def test_what_cannot_be_transformed_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
def test_a_shared_site_must_not_depend_on_particles():
    with pytest.raises(ModelError, match="cannot be shared by all particles"):
        pi.population(PROGRAMS["static_parameter"], 2, shared=("z",)).staged  # noqa: B018


def test_pmmh_keeps_its_extended_space_and_the_estimate_of_the_state():
    for name, kernel, target, _ in validity_cases.chains():
        if name.startswith("pmmh"):
            checks = list(check_on(kernel, target, name))
            assert {c.claim for c in checks} == {"invariant", "keeps weight", "reversible"}
            assert all(c.passed for c in checks), [c for c in checks if not c.passed]


def test_recomputing_the_estimate_of_the_current_state_is_seen():
    """Pseudo-marginal MH with the current estimate redrawn (the 'Monte Carlo within Metropolis' fault)."""
    import dataclasses

    from probinf.validity.matrices import transition_matrix

    (_, kernel, target, _), *_ = [c for c in validity_cases.chains() if "2 particles, share 1" in c[0]]

    def step(target, state):
        return kernel.step(target, target.replay(pi.redraw().propose(target, state.slots)))

    broken = dataclasses.replace(kernel, step=step)
    assert transition_matrix(broken, target).invariance > 1e-3


def test_the_compositions_are_exported():
    assert {"pmmh", "pimh", "particle_gibbs", "smc_squared", "ibis", "marginal"} <= set(smc.__all__)
