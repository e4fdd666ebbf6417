"""Populations on 200 random programs: nested branches, loops, calls, zero weights; the nightly lane takes 2,000.

Every rule (size, scheme, threshold) is met in turn, so all pairs of settings are covered several times. Compositions of
populations meet fewer programs, by every rule in turn: 24 here and 500 at night.
"""

import itertools

import numpy as np
import pytest

from probinf.transformations.algorithms import enumerate_program
from probinf.validity import compositions, shipped
from probinf.validity.measures import assert_same_measure
from probinf.validity.random_programs import random_program, random_tree
from probinf.validity.validate import check_transformation

RULES = list(shipped.populations(full=True))
GRID = shipped.rules(full=True)


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


#: For any program, and without draws of traces besides, which have many worlds.
ANY = [c for c in compositions.compositions() if "guide" not in c.name]
LIGHT = [c for c in ANY if c.programs == shipped.SCANS]


def checks_of_compositions(things, seeds):
    """One composition on one program for each seed; those with many worlds get the small programs."""
    for seed in seeds:
        thing, rule = things[seed % len(things)], GRID[(7 * (seed // len(things))) % len(GRID)]
        (one,) = thing.by([rule])
        program = random_program(seed, num_particles=rule[0] if thing in LIGHT else 3)
        yield from check_transformation(one, program, one.name)


def test_compositions_mean_the_measure_of_random_programs():
    checks = list(checks_of_compositions(LIGHT, range(24)))
    assert all(c.passed for c in checks), [c for c in checks if not c.passed]


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 500, 50))
def test_compositions_mean_the_measure_of_many_random_programs(first):
    checks = list(checks_of_compositions(ANY, range(first, first + 50)))
    assert not any(c.passed is False for c in checks), [c for c in checks if c.passed is False]
    # Moves between scores do not apply to scores in while loops, and a few laws have more than a million worlds.
    assert sum(c.passed is True for c in checks) >= 40


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
