r"""What an algorithm keeps of the measure it was given: a lattice of claims, and their meet.

                exact
              /       \
       unbiased     reversible
             |          |
             |      invariant
              \       /
              consistent
                  |
             approximate

A composition carries the meet of its parts' claims: the strongest claim that is below all of them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Claim(enum.StrEnum):
    """A claim about a transformation or a kernel.

    Attributes:
        EXACT: the same measure.
        UNBIASED: the same measure in expectation over the algorithm's own randomness (properly weighted).
        REVERSIBLE: a kernel in detailed balance with its target.
        INVARIANT: a kernel that leaves its target unchanged.
        CONSISTENT: right in the limit of many particles or draws.
        APPROXIMATE: a stand-in whose gap is measured.
    """

    EXACT = "exact"
    UNBIASED = "unbiased"
    REVERSIBLE = "reversible"
    INVARIANT = "invariant"
    CONSISTENT = "consistent"
    APPROXIMATE = "approximate"

    def implies(self, other: Claim) -> bool:
        """Whether whatever makes this claim also satisfies the other one."""
        return other in _BELOW[self]

    @staticmethod
    def meet(claims: Iterable[Claim]) -> Claim:
        """The strongest claim that all of the given ones imply; `EXACT` for none."""
        common = set(Claim)
        for claim in claims:
            common &= _BELOW[claim]
        return max(common, key=lambda c: len(_BELOW[c]))


_BELOW: dict[Claim, frozenset[Claim]] = {
    Claim.EXACT: frozenset(Claim),
    Claim.UNBIASED: frozenset({Claim.UNBIASED, Claim.CONSISTENT, Claim.APPROXIMATE}),
    Claim.REVERSIBLE: frozenset({Claim.REVERSIBLE, Claim.INVARIANT, Claim.CONSISTENT, Claim.APPROXIMATE}),
    Claim.INVARIANT: frozenset({Claim.INVARIANT, Claim.CONSISTENT, Claim.APPROXIMATE}),
    Claim.CONSISTENT: frozenset({Claim.CONSISTENT, Claim.APPROXIMATE}),
    Claim.APPROXIMATE: frozenset({Claim.APPROXIMATE}),
}
