"""What the seeded faults need to be seen, on the healthy library; and the catalogue of faults itself.

The kill matrix is `python -m benchmarks.mutants`. The checks of `FIRST` are those that were added because a fault
survived everything else.
"""

import pytest

from benchmarks import mutant_checks
from benchmarks.automatic_mutants import MODULES, changes, sampled
from benchmarks.equivalent_mutants import EQUIVALENT
from benchmarks.mutant_catalogue import MUTANTS
from benchmarks.mutant_loading import source_of

CHECKS = {check.name: check for checks in mutant_checks.BY_MODULE.values() for check in checks}
FIRST = (
    "enumerated_laws",
    "conditional_tables",
    "exchanges",
    "mobility_of_references",
    "accept_steps",
    "weights_and_history",
    "resampled_before_a_step",
    "targets_of_the_moves",
    "moves_are_kept",
    "stretched_orbit",
    "independent_keys",
    "names_of_a_population",
)
REST = sorted(set(CHECKS) - set(FIRST))


@pytest.mark.relaxed_promotion("the checks also run outside of the suite, under JAX's ordinary rules")
@pytest.mark.parametrize("name", FIRST)
def test_the_library_passes_the_checks_that_faults_made_necessary(name):
    assert CHECKS[name].run() is None


@pytest.mark.slow
@pytest.mark.relaxed_promotion("the checks also run outside of the suite, under JAX's ordinary rules")
@pytest.mark.parametrize("name", REST)
def test_the_library_passes_all_other_checks_of_the_kill_matrix(name):
    assert CHECKS[name].run() is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_seeded_fault_is_still_a_change_of_legal_source(mutant):
    source = mutant.source()
    assert source != source_of(mutant.module)
    compile(source, mutant.module, "exec")
    assert mutant.first in {"", *CHECKS}


def test_the_catalogue_covers_every_part():
    assert len(MUTANTS) >= 45
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert set(MODULES) <= {m.module for m in MUTANTS}
    assert {m.module for m in MUTANTS} <= set(mutant_checks.BY_MODULE)


def test_automatic_mutants_are_legal_and_their_sample_follows_the_seed():
    first, again, other = (list(sampled(40, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for change in first:
        compile(change.source(), change.module, "exec")
        assert change.mutated_line() != source_of(change.module).splitlines()[change.line - 1].strip()


def test_messages_and_door_checks_are_not_mutated():
    for module in MODULES:
        lines = source_of(module).splitlines()
        for change in changes(module):
            assert not lines[change.line - 1].lstrip().startswith(("raise ", "assert "))


def test_equivalent_mutants_are_known_by_a_change_that_exists():
    every = {change.identity for module in MODULES for change in changes(module)}
    assert set(EQUIVALENT) <= every
