"""Random finite programs: a particle filter on each, enumerated, means the program's measure.

Grammar (nested tuples, interpreted by `probinf.validity.random_programs.generated`; `at` picks an earlier value):

    block := statement*
    statement := draw at low high | factor at low high | observe at low high | branch at block block
               | loop length reverse block | while at block | call wrapper block
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probinf.transformations.algorithms import enumerate_program, population, recorded
from probinf.transformations.resampling import SCHEMES
from probinf.validity.measures import assert_same_measure
from probinf.validity.random_programs import LOG_FACTORS, PROBABILITIES, generated

AT = st.integers(0, 4)


class Budget:
    """How many draws and scores a program may still execute, all branches and iterations counted."""

    def __init__(self, draws, scores):
        self.draws, self.scores = draws, scores


@st.composite
def block(draw, budget, depth, times, at_least=0):
    statements = []
    for _ in range(draw(st.integers(at_least, 3))):
        kinds = []
        if budget.draws >= times:
            kinds.append("draw")
        if budget.scores >= times:
            kinds += ["factor", "observe"]
        if depth > 0:
            kinds += ["branch", "call"]
            if 2 * times <= budget.draws:
                kinds += ["loop", "while"]
        if kinds:
            statements.append(draw(statement(draw(st.sampled_from(kinds)), budget, depth, times)))
    return tuple(statements)


@st.composite
def statement(draw, kind, budget, depth, times):
    if kind == "draw":
        budget.draws -= times
        last = len(PROBABILITIES) - 1
        return kind, draw(AT), draw(st.integers(0, last)), draw(st.integers(0, last))
    if kind in ("factor", "observe"):
        budget.scores -= times
        last = len(LOG_FACTORS) - 1
        return kind, draw(AT), draw(st.integers(0, last)), draw(st.integers(0, last))
    if kind == "branch":
        return kind, draw(AT), draw(block(budget, depth - 1, times)), draw(block(budget, depth - 1, times))
    if kind == "loop":
        length = draw(st.integers(1, 2))
        return kind, length, draw(st.booleans()), draw(block(budget, depth - 1, times * length, at_least=1))
    if kind == "while":
        return kind, draw(AT), draw(block(budget, depth - 1, times * 2, at_least=1))
    assert kind == "call"
    return kind, draw(st.sampled_from(["jit", "checkpoint"])), draw(block(budget, depth - 1, times, at_least=1))


@st.composite
def programs(draw):
    first = ("draw", 0, 0, 0)
    return first, *draw(block(Budget(draws=2, scores=4), depth=2, times=1, at_least=2))


def check(tree, num, scheme, threshold):
    program = generated(tree)
    known = enumerate_program(program)
    assert_same_measure(population(program, num, resample=scheme, threshold=threshold), known)
    assert abs(enumerate_program(recorded(program)).log_evidence - known.log_evidence) < 1e-12 or (
        known.log_evidence == -float("inf")
    )


THRESHOLDS = st.sampled_from([1.0, 0.5, 0.0])
SLOW_GENERATION = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=20, suppress_health_check=SLOW_GENERATION)
@given(tree=programs(), scheme=st.sampled_from(sorted(SCHEMES)), threshold=THRESHOLDS)
def test_two_particles_mean_the_measure_of_a_random_program(tree, scheme, threshold):
    check(tree, 2, scheme, threshold)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=SLOW_GENERATION)
@given(tree=programs(), num=st.integers(1, 3), threshold=THRESHOLDS, scheme=st.sampled_from(sorted(SCHEMES)))
def test_one_to_three_particles_mean_the_measure_of_a_random_program(tree, num, scheme, threshold):
    if num == 3 and scheme in ("multinomial", "stratified", "killing"):
        num = 2
    check(tree, num, scheme, threshold)
