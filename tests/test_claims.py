"""The lattice of claims: a partial order with meets, as the drawing in its module says."""

import itertools

import pytest

from probinf.claims import Claim

BELOW = {
    "exact": {"unbiased", "reversible", "invariant", "consistent", "approximate"},
    "unbiased": {"consistent", "approximate"},
    "reversible": {"invariant", "consistent", "approximate"},
    "invariant": {"consistent", "approximate"},
    "consistent": {"approximate"},
    "approximate": set(),
}


@pytest.mark.parametrize("claim", list(Claim))
def test_a_claim_implies_itself_and_what_stands_below_it(claim):
    assert {str(c) for c in Claim if claim.implies(c)} == BELOW[claim] | {str(claim)}


@pytest.mark.parametrize(("a", "b"), list(itertools.product(Claim, Claim)))
def test_the_meet_is_the_greatest_lower_bound(a, b):
    meet = Claim.meet([a, b])
    assert a.implies(meet)
    assert b.implies(meet)
    lower = [c for c in Claim if a.implies(c) and b.implies(c)]
    assert all(meet.implies(c) for c in lower)


def test_the_meet_of_nothing_is_exact_and_of_the_two_arms_consistent():
    assert Claim.meet([]) is Claim.EXACT
    assert Claim.meet([Claim.UNBIASED, Claim.REVERSIBLE]) is Claim.CONSISTENT
    assert Claim.meet([Claim.REVERSIBLE, Claim.INVARIANT]) is Claim.INVARIANT
