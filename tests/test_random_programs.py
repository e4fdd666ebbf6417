"""Populations on 200 random programs: nested branches, loops, calls, zero weights; the nightly lane takes 2,000.

Every rule (size, scheme, threshold) is met in turn, so all pairs of settings are covered several times.
"""

import itertools

import numpy as np
import pytest

from probinf.transformations.algorithms import enumerate_program
from probinf.validity import shipped
from probinf.validity.measures import assert_same_measure
from probinf.validity.random_programs import random_program, random_tree

RULES = list(shipped.populations(full=True))


def check(seed):
    rule, num = shipped.for_program(RULES, seed)
    program = random_program(seed, num_particles=num)
    assert_same_measure(rule(program), enumerate_program(program))


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_populations_mean_the_measure_of_random_programs(first):
    for seed in range(first, first + 20):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(200, 2000, 100))
def test_populations_mean_the_measure_of_many_random_programs(first):
    for seed in range(first, first + 100):
        check(seed)


def test_the_rules_cover_all_pairs_of_settings():
    met = {shipped.for_program(RULES, seed)[0].name[len("population(") : -1] for seed in range(200)}
    settings = [tuple(name.split(", ")) for name in met]
    values = [sorted({s[i] for s in settings}) for i in range(3)]
    assert [len(v) for v in values] == [3, 6, 3]
    for i, j in itertools.combinations(range(3), 2):
        assert {(s[i], s[j]) for s in settings} == set(itertools.product(values[i], values[j]))


def test_random_programs_are_of_many_kinds():
    trees = [repr(random_tree(np.random.default_rng(seed))) for seed in range(200)]
    for kind in ("draw", "factor", "observe", "branch", "loop", "while", "call"):
        assert sum(f"'{kind}'" in tree for tree in trees) >= 20
    evidences = [enumerate_program(random_program(seed)).log_evidence for seed in range(60)]
    assert sum(e == -np.inf for e in evidences) >= 1
    assert len({round(e, 9) for e in evidences}) >= 25
